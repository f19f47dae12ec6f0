"""Sees what any `read_committed` reader of some topics sees, from their beginning, and when it saw it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

from confluent_kafka import OFFSET_BEGINNING, Consumer, IsolationLevel, KafkaException, TopicPartition
from confluent_kafka import KafkaError as Code
from confluent_kafka.admin import AdminClient, OffsetSpec

from consumer.decode import Message
from consumer.kafka.client import common_config, require_topics, unavailable, within
from consumer.settings import KafkaSettings
from features.errors import KafkaUnavailable
from features.store import Source

AT_ONCE: Final = 500
CLOSE_S: Final = 2.0


class Witness:
    """Reads by assignment, joins no group and commits nothing. Not thread-safe."""

    def __init__(self, kafka: KafkaSettings, topics: Sequence[str]) -> None:
        """Connect, and begin with the oldest record of every partition. Raises KafkaUnavailable."""
        self._kafka, self._timeout_s = kafka, kafka.request_timeout_ms / 1_000
        self._reached: dict[Source, int] = {}
        self._consumer = Consumer(
            common_config(kafka)
            | {
                "group.id": kafka.group_id,  # required by the client, which never joins it
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "error",
                "fetch.wait.max.ms": 500,
                "fetch.queue.backoff.ms": 5,
            }
        )
        counts = require_topics(self._consumer, kafka, topics)
        self._sources = [(topic, number) for topic, count in counts.items() for number in range(count)]
        self._consumer.assign([TopicPartition(*source, OFFSET_BEGINNING) for source in self._sources])

    def poll(self, wait_s: float) -> tuple[list[Message], int]:
        """What has come, waiting a while for the first record, and when that was (`time.time_ns`).

        One record is waited for, then what else is there is taken: waiting for a full batch would add to the latency.
        Raises KafkaUnavailable: reading can't go on.
        """
        first = self._consumer.poll(wait_s)
        if first is None:
            return [], time.time_ns()
        try:
            messages = [first, *self._consumer.consume(AT_ONCE - 1, timeout=0)]
        except KafkaException as exception:
            raise unavailable(self._kafka, exception) from exception
        now_ns = time.time_ns()
        return [message for message in messages if self._is_record(message)], now_ns

    def committed_ends(self) -> dict[Source, int]:
        """Where the partitions end for a reader of committed records now (exclusive). Raises KafkaUnavailable.

        A client of its own asks, once: behind the reader's own fetches each partition would wait for half a second.
        """
        admin = AdminClient(common_config(self._kafka))  # has to live until it was answered
        asked = admin.list_offsets(
            {TopicPartition(*source): OffsetSpec.latest() for source in self._sources},
            isolation_level=IsolationLevel.READ_COMMITTED,
            request_timeout=self._timeout_s,
        )
        try:
            return {(at.topic, at.partition): future.result(2 * self._timeout_s).offset for at, future in asked.items()}
        except KafkaException as exception:
            raise unavailable(self._kafka, exception) from exception
        except TimeoutError:
            raise KafkaUnavailable(f"Kafka at {self._kafka.brokers} did not tell where topics end in time") from None

    def has_reached(self, ends: dict[Source, int]) -> bool:
        """Whether everything below these ends was read."""
        return all(self._reached.get(source, 0) >= end for source, end in ends.items())

    def close(self) -> None:
        """Release the connection; a broker that does not answer is not waited for."""
        within(self._consumer.close, CLOSE_S)

    def _is_record(self, message: Any) -> bool:
        error, source = message.error(), (message.topic(), message.partition())
        if error is None:
            self._reached[source] = message.offset() + 1
            return True
        if error.code() == Code._PARTITION_EOF:
            self._reached[source] = message.offset()
            return False
        if error.fatal() or error.code() == Code._AUTO_OFFSET_RESET:
            raise KafkaUnavailable(f"{source[0]}/{source[1]} can't be read on: {error.str()}")
        return False  # the client goes on by itself
