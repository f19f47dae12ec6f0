"""A compacted topic as a table: the last record of a key counts, and one without value takes the key away."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka import KafkaError as Code

from consumer.kafka.client import common_config, denied, flush, group_config, require_topics, unavailable
from consumer.settings import KafkaSettings
from features.errors import KafkaUnavailable

AT_ONCE: Final = 1_000


class CompactedReader:
    """Reads a whole topic, and then what is added to it; it joins no group and commits nothing."""

    def __init__(self, kafka: KafkaSettings, topic: str) -> None:
        """Connect lazily."""
        self._kafka, self._topic = kafka, topic
        self._consumer = Consumer(
            group_config(kafka) | {"enable.partition.eof": True, "auto.offset.reset": "earliest", "fetch.min.bytes": 1}
        )
        self._table: dict[bytes, bytes] = {}
        self._positions: dict[int, int] = {}
        self._behind: set[int] = set()

    @property
    def table(self) -> Mapping[bytes, bytes]:
        """Values by key, as far as was read."""
        return self._table

    @property
    def version(self) -> int:
        """Up to where the topic was read: the sum of the positions in its partitions. It only rises."""
        return sum(self._positions.values())

    def load(self, limit_s: float) -> None:
        """Read the topic to its present end. Raises KafkaUnavailable: it is missing, or that takes too long."""
        partitions = range(require_topics(self._consumer, self._kafka, [self._topic])[self._topic])
        self._behind = set(partitions)
        try:
            self._consumer.assign([TopicPartition(self._topic, number, OFFSET_BEGINNING) for number in partitions])
        except KafkaException as exception:
            raise unavailable(self._kafka, exception) from exception
        deadline_s = time.monotonic() + limit_s
        while self._behind:
            if time.monotonic() > deadline_s:
                raise KafkaUnavailable(f"Kafka at {self._kafka.brokers} did not give all of {self._topic} in time")
            self.poll(0.1)

    def poll(self, wait_s: float) -> set[bytes]:
        """Take what has come, waiting for it a while. Which keys may have changed. Raises KafkaUnavailable."""
        changed: set[bytes] = set()
        try:
            messages = self._consumer.consume(AT_ONCE, wait_s)
        except KafkaException as exception:
            raise unavailable(self._kafka, exception) from exception
        for message in messages:
            error, number = message.error(), message.partition()
            if error is not None:
                if error.code() == Code._PARTITION_EOF:
                    self._behind.discard(number)
                    self._positions[number] = max(self._positions.get(number, 0), message.offset())
                    continue
                raise unavailable(self._kafka, KafkaException(error), self._topic)
            key, value = message.key() or b"", message.value()
            changed.add(key)
            if value is None:
                self._table.pop(key, None)
            else:
                self._table[key] = value
            self._positions[number] = message.offset() + 1
        return changed

    def close(self) -> None:
        """Release the connection."""
        self._consumer.close()


def put(kafka: KafkaSettings, topic: str, records: Mapping[bytes, bytes | None]) -> None:
    """Write records, and wait until all are acknowledged; None takes a key away. Raises KafkaUnavailable."""
    checker = Consumer(group_config(kafka))
    try:
        require_topics(checker, kafka, [topic])
    finally:
        checker.close()
    failed: list[Code] = []

    def delivered(error: Code | None, _message: object) -> None:
        if error is not None:
            failed.append(error)

    producer = Producer(common_config(kafka) | {"enable.idempotence": True})
    for key, value in records.items():
        producer.produce(topic, value, key, on_delivery=delivered)
    left = flush(producer, kafka.request_timeout_ms / 1000)
    if failed and (denial := denied(kafka, failed[0], topic)) is not None:
        raise denial
    if left or failed:
        why = failed[0].str() if failed else "it was not acknowledged in time"
        raise KafkaUnavailable(f"Kafka at {kafka.brokers} did not take the change of {topic}: {why}")
