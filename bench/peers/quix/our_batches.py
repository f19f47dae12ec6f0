"""Quix Streams given Fraudline's batch function: the sink of `own_batches.py`, with another way to decide in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

from bench.peers.arguments import arguments
from bench.peers.ours import Ours, Record
from bench.peers.payloads import Publication
from bench.peers.quix.batches import run_batches


def main() -> None:
    args = arguments("Quix Streams, in batches of Fraudline's.")
    with closing(Ours(args)) as ours:

        def decide(records: Sequence[Record]) -> Iterator[Publication]:
            return ((each.key, each.decision, each.alert) for each in ours.decide(records))

        run_batches(args, _record, decide)


def _record(value: Any, key: Any, timestamp_ms: int, topic: str, partition: int, offset: int) -> Record:
    return Record(topic, partition, offset, key, value, timestamp_ms)


if __name__ == "__main__":
    main()
