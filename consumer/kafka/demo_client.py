"""The two ends of a demo: a producer that keeps a schedule, and a reader of everything that comes out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from confluent_kafka import Consumer, Producer, TopicPartition

from consumer.kafka.client import common_config, within
from consumer.score_card import Kind
from consumer.settings import Settings

TICK_S: Final = 0.001
REST_LIMIT_S: Final = 10.0
EVENT_ID: Final = b'"event_id":"'


def produce_at_rate(
    settings: Settings,
    records: Iterable[tuple[bytes, bytes, int]],
    rate: float,
    sent: Callable[[bytes, int], None],
) -> None:
    """Produce (key, value, event time) records on a schedule fixed in advance, and tell when each was due.

    Times are of `time.perf_counter_ns`. A late producer catches up; it never moves the schedule.
    """
    producer = Producer(common_config(settings.kafka) | {"linger.ms": 1, "acks": "all"})
    begun_ns = time.perf_counter_ns()
    for number, (key, value, _) in enumerate(records):
        due_ns = begun_ns + int(number / rate * 1e9)
        while (early_s := (due_ns - time.perf_counter_ns()) / 1e9) > 0:
            producer.poll(0)
            time.sleep(min(early_s, TICK_S))
        sent(_event_id(value), due_ns)
        producer.produce(settings.topics.payments, value, key)
    producer.flush(30)
    within(producer.close, 2.0)


class DemoReader:
    """Reads the three output topics from their beginning."""

    def __init__(self, settings: Settings) -> None:
        """Assign every partition; nothing is committed."""
        topics = settings.topics
        self._kinds: dict[str, Kind] = {
            topics.decisions: "decision",
            topics.alerts: "alert",
            topics.dead_letters: "dead_letter",
        }
        self._consumer = Consumer(
            common_config(settings.kafka)
            | {
                "group.id": "fraudline-demo-reader",
                "enable.auto.commit": False,
                "fetch.queue.backoff.ms": 5,
                "fetch.wait.max.ms": settings.kafka.fetch_wait_ms,
            }
        )
        self._read = {
            (topic, partition): 0
            for topic in self._kinds
            for partition in self._consumer.list_topics(topic, timeout=10).topics[topic].partitions
        }
        self._consumer.assign([TopicPartition(topic, partition, 0) for topic, partition in self._read])

    def poll(self) -> Iterator[tuple[Kind, bytes, int]]:
        """What has come, as (kind, value, time of receipt); waits for a moment when nothing has."""
        first = self._consumer.poll(0.05)
        messages = ([first] if first else []) + self._consumer.consume(1_000, 0)
        received_ns = time.perf_counter_ns()
        for message in messages:
            if message.error() is None:
                self._read[message.topic(), message.partition()] = message.offset() + 1
                yield self._kinds[message.topic()], message.value() or b"", received_ns

    def rest(self) -> Iterator[tuple[Kind, bytes, int]]:
        """As `poll`, until everything that lies in the topics now was read: for at most `REST_LIMIT_S`."""
        ends = {at: self._consumer.get_watermark_offsets(TopicPartition(*at), timeout=10)[1] for at in self._read}
        deadline = time.monotonic() + REST_LIMIT_S
        while time.monotonic() < deadline and any(self._read[at] < end for at, end in ends.items()):
            yield from self.poll()

    def close(self) -> None:
        """Stop reading."""
        within(self._consumer.close, 2.0)


def _event_id(value: bytes) -> bytes:
    start = value.find(EVENT_ID) + len(EVENT_ID)
    return value[start : value.find(b'"', start)]
