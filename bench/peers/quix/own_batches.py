"""Quix Streams in batches: a custom sink that gathers until the checkpoint, as its sinks for databases do.

Quix Streams hands over one message at a time; its batches are those of sinks ("Creating a Custom Sink"): records are
added to a sink, and written at the checkpoint before offsets are committed. The sink here decides what it gathered by
one call to Redis and one predict, and publishes with a producer of the application (`get_producer`).
Windows can `collect` too, but of one key each. See `batches.py` and `application.py` for the settings.
"""

from __future__ import annotations

from contextlib import closing
from functools import partial
from typing import Any

from bench.peers.arguments import arguments
from bench.peers.counters import Counters
from bench.peers.payloads import by_counters
from bench.peers.quix.batches import run_batches


def main() -> None:
    args = arguments("Quix Streams, in batches.")
    with closing(Counters(args.redis, args.model)) as counters:
        run_batches(args, _value, partial(by_counters, counters))


def _value(value: Any, *_: object) -> Any:
    return value


if __name__ == "__main__":
    main()
