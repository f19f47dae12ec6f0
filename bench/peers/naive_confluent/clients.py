"""What the three variants have in common: the clients, and the end of a batch."""

from __future__ import annotations

import argparse
import signal
import threading
from typing import Any

from confluent_kafka import Consumer, KafkaException, Producer

from bench.peers.arguments import SESSION_TIMEOUT_MS

BATCH = 500
"""Payments a batch at most, as `max.poll.records` of the Java client."""

COMMIT_EVERY_MS = 100
"""How often what was stored is committed. A commit for each small batch comes faster than the broker takes them, and
heartbeats wait behind: at 1,000 payments a second the member was thrown out of its group."""


def stop_on_sigterm() -> threading.Event:
    """An event that SIGTERM sets."""
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    return stopping


def open_consumer(args: argparse.Namespace, **more: Any) -> Consumer:
    """A member of the group that commits in the background what is stored by hand; `more` are settings of a variant."""
    consumer = Consumer(
        {
            "bootstrap.servers": args.brokers,
            "group.id": args.group,
            "auto.offset.reset": "earliest",
            "session.timeout.ms": SESSION_TIMEOUT_MS,
            "enable.auto.offset.store": False,
            "auto.commit.interval.ms": COMMIT_EVERY_MS,
            **more,
        }
    )
    consumer.subscribe([args.payments_topic])
    return consumer


def open_producer(args: argparse.Namespace) -> Producer:
    """Librdkafka's defaults but for what its introduction advises for throughput: a linger, and room in the queue."""
    return Producer(
        {
            "bootstrap.servers": args.brokers,
            "linger.ms": 5,
            "queue.buffering.max.messages": 500_000,
        }
    )


def next_batch(consumer: Consumer) -> list[Any]:
    """What there is, up to a batch, without waiting for it to fill: `consume` alone would wait. Empty after 0.1 s."""
    first = consumer.poll(0.1)
    if first is None:
        return []
    messages = [first, *consumer.consume(BATCH - 1, timeout=0)]
    for message in messages:
        if message.error():
            raise KafkaException(message.error())
    return messages


def store(consumer: Consumer, messages: list[Any]) -> None:
    """Have a batch committed with the next commit; of each partition the last message stands for all."""
    for last in {message.partition(): message for message in messages}.values():
        consumer.store_offsets(last)


def flush(producer: Producer) -> None:
    """Wait until all is delivered: only then may offsets be stored."""
    if producer.flush(30.0):
        message = "Kafka did not take the decisions in 30 seconds."
        raise SystemExit(message)
