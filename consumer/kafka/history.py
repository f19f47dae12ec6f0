"""Produce a whole history to a topic, as fast as it goes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress

from confluent_kafka import Consumer, KafkaException, Producer
from confluent_kafka import KafkaError as Code

from consumer.kafka.client import common_config, flush, group_config, require_topics
from consumer.kafka.rights import require_rights
from consumer.settings import Settings
from features.errors import KafkaUnavailable


def produce_history(
    settings: Settings, topic: str, records: Iterable[tuple[bytes, bytes, int]], progress: Callable[[int], None]
) -> int:
    """Send (key, value, event time) records in order; returns how many were acknowledged.

    The Kafka timestamp is the time of sending: the budget of a payment runs from there. Raises KafkaUnavailable.
    """
    checker = Consumer(group_config(settings.kafka))
    try:
        require_topics(checker, settings.kafka, [topic])
    finally:
        checker.close()
    failed: list[Code] = []

    def delivered(error: Code | None, _message: object) -> None:
        if error is not None:
            failed.append(error)

    producer = Producer(
        common_config(settings.kafka)
        | {"enable.idempotence": True, "linger.ms": 5, "delivery.report.only.error": True, "compression.type": "lz4"}
    )
    sent = 0
    with suppress(KafkaException, SystemError):  # a fatal error, as in `flush`: that tells of it
        for key, value, _ in records:
            while True:
                try:
                    producer.produce(topic, value, key, on_delivery=delivered)
                    break
                except BufferError:
                    producer.poll(0.1)
            sent += 1
            if sent % 1_000 == 0:
                producer.poll(0)
                progress(1_000)
            if failed:
                break
    left = flush(producer, settings.kafka.request_timeout_ms / 1000)
    if left or failed:
        require_rights(
            settings.kafka, read=(), write=[topic]
        )  # a fatal error drops all that waits, and not by its name
        why = failed[0].str() if failed else "records were not acknowledged in time"
        raise KafkaUnavailable(f"Kafka at {settings.kafka.brokers} did not take every record of {topic}: {why}")
    progress(sent % 1_000)
    return sent
