"""A sink that batches: how Quix Streams' own sinks write to databases, a checkpoint at a time."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from quixstreams import Application
from quixstreams.kafka import Producer
from quixstreams.models import HeadersTuples
from quixstreams.sinks import BaseSink

from bench.peers.payloads import Publication
from bench.peers.quix.application import application

BATCH: Final = 500
"""Payments a checkpoint, and so a batch, at most; the `max.poll.records` of the Java client."""

WITHIN_S: Final = 0.02
"""A batch that does not fill is decided after so long."""


def batching(args: argparse.Namespace) -> Application:
    """An application whose checkpoints are the batches of its sink: that is how Quix' own sinks write to databases.

    `commit_every` ends a batch that is full. One that is not is ended by `commit_interval`, which is looked at between
    polls, so a poll must not wait for longer.
    """
    return application(args, commit_every=BATCH, commit_interval=WITHIN_S, consumer_poll_timeout=WITHIN_S / 2)


Kept = Callable[[Any, Any, int, str, int, int], Any]
"""What a sink keeps of a record: by its value, key, timestamp (ms), topic, partition and offset."""

Decide = Callable[[Sequence[Any]], Iterable[Publication]]
"""From what was kept of a checkpoint's records to what is published."""


class DecidingSink(BaseSink):
    """Gathers the payments of a checkpoint and decides them at once when it is flushed, before offsets are committed.

    `BaseSink`, since a `BatchingSink` would make a batch of each partition.
    """

    def __init__(self, producer: Producer, kept: Kept, decide: Decide, *, decisions: str, alerts: str) -> None:
        super().__init__(on_client_connect_success=lambda: None)
        self._producer = producer
        self._kept = kept
        self._decide = decide
        self._decisions = decisions
        self._alerts = alerts
        self._gathered: list[Any] = []

    def add(
        self,
        value: Any,
        key: Any,
        timestamp: int,
        headers: HeadersTuples,  # noqa: ARG002  the signature is the framework's
        topic: str,
        partition: int,
        offset: int,
    ) -> None:
        """Keep a payment for the checkpoint."""
        self._gathered.append(self._kept(value, key, timestamp, topic, partition, offset))

    def flush(self) -> None:
        """Decide and publish all; return when Kafka has it."""
        gathered, self._gathered = self._gathered, []
        for key, decision, alert in self._decide(gathered):
            self._producer.produce(self._decisions, decision, key)
            if alert is not None:
                self._producer.produce(self._alerts, alert, key)
        if self._producer.flush(30.0):
            message = "Kafka did not take the decisions in 30 seconds."
            raise RuntimeError(message)


def run_batches(args: argparse.Namespace, kept: Kept, decide: Decide) -> None:
    """Decide batches until SIGTERM; values are handed over as they came."""
    app = batching(args)
    with app.get_producer() as producer:
        sink = DecidingSink(producer, kept, decide, decisions=args.decisions_topic, alerts=args.alerts_topic)
        app.dataframe(app.topic(args.payments_topic, value_deserializer="bytes")).sink(sink)
        app.run()
