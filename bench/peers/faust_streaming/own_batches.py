"""Faust in batches: an agent over `take_events`; one call to Redis and one predict a batch. See `batches.py`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

from bench.peers.arguments import arguments
from bench.peers.counters import Counters
from bench.peers.faust_streaming.batches import run_batches
from bench.peers.payloads import Publication, by_counters


def main() -> None:
    args = arguments("Faust, in batches.")
    with closing(Counters(args.redis, args.model)) as counters:

        def decide(messages: Sequence[Any]) -> Iterator[Publication]:
            return by_counters(counters, (message.value for message in messages))

        run_batches(args, decide)


if __name__ == "__main__":
    main()
