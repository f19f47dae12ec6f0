"""Faust, one payment at a time, exactly once: `processing_guarantee`, with decisions and offsets in transactions.

Others report repeats in spite of it (github.com/faust-streaming/faust, issues 177 and 517), and one run here that was
broken off showed some; the kills of `bench.peers.run` say what it does. Redis takes no part in it: payments that are
read again are counted again. See `application.py` for the settings.
"""

from __future__ import annotations

from bench.peers.arguments import arguments
from bench.peers.faust_streaming.per_event import run

if __name__ == "__main__":
    run(arguments("Faust, one payment at a time, exactly once."), processing_guarantee="exactly_once")
