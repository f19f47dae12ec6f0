"""Bytewax given Fraudline's batch function: the flow of `own_batches.py`, with another way to decide in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

from bench.peers.arguments import arguments
from bench.peers.bytewax_flow.flow import Message, run_batches
from bench.peers.ours import Ours, Record
from bench.peers.payloads import Publication


def main() -> None:
    args = arguments("Bytewax, in batches of Fraudline's.")
    with closing(Ours(args)) as ours:

        def decide(messages: list[Message]) -> Iterator[Publication]:
            return ((each.key, each.decision, each.alert) for each in ours.decide(list(map(_record, messages))))

        run_batches(args, decide)


def _record(message: Message) -> Record:
    timestamp_ms = message.timestamp[1] if message.timestamp else 0
    return Record(message.topic, message.partition, message.offset, message.key, message.value, timestamp_ms)


if __name__ == "__main__":
    main()
