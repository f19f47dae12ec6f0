"""Faust given Fraudline's batch function: the agent of `batches.py`, with another way to decide in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

from bench.peers.arguments import arguments
from bench.peers.faust_streaming.batches import run_batches
from bench.peers.ours import Ours, Record
from bench.peers.payloads import Publication


def main() -> None:
    args = arguments("Faust, in batches of Fraudline's.")
    with closing(Ours(args)) as ours:

        def decide(messages: Sequence[Any]) -> Iterator[Publication]:
            return ((each.key, each.decision, each.alert) for each in ours.decide(list(map(_record, messages))))

        run_batches(args, decide)


def _record(message: Any) -> Record:
    timestamp_ms = int((message.timestamp or 0.0) * 1_000)
    return Record(message.topic, message.partition, message.offset, message.key, message.value, timestamp_ms)


if __name__ == "__main__":
    main()
