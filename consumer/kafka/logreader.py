"""Reads any part of the payments log without being a member: for catching state up."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka import KafkaError as Code

from consumer.decode import Message
from consumer.kafka.client import group_config, unavailable
from consumer.settings import KafkaSettings


@dataclass(frozen=True, slots=True)
class Extent:
    """One partition: its oldest offset, its end (exclusive), and the group's committed offset (None: none yet)."""

    low: int
    high: int
    committed: int | None


class LogReader:
    """Reads ranges of one topic by explicit assignment; commits nothing and joins nothing."""

    def __init__(self, kafka: KafkaSettings, topic: str) -> None:
        """Connect lazily."""
        self._kafka = kafka
        self._topic = topic
        self._timeout_s = kafka.request_timeout_ms / 1000
        self._consumer = Consumer(group_config(kafka) | {"enable.partition.eof": True})
        self._reading: tuple[int, int] | None = None

    def extents(self) -> Mapping[int, Extent]:
        """Every partition of the topic. Raises KafkaUnavailable."""
        try:
            topic = self._consumer.list_topics(self._topic, timeout=self._timeout_s).topics[self._topic]
            partitions = [TopicPartition(self._topic, number) for number in sorted(topic.partitions)]
            committed = {known.partition: known for known in self._consumer.committed(partitions, self._timeout_s)}
            extents = {}
            for partition in partitions:
                known = committed[partition.partition]
                if known.error:
                    raise KafkaException(known.error)
                low, high = self._consumer.get_watermark_offsets(partition, self._timeout_s)
                extents[partition.partition] = Extent(low, high, known.offset if known.offset >= 0 else None)
        except KafkaException as exception:
            raise unavailable(self._kafka, exception) from exception
        return extents

    def read(self, partition: int, start: int, end: int, limit: int, deadline_s: float) -> tuple[list[Message], int]:
        """Up to `limit` records of [start, end), in order, and the offset below which all of them were given.

        That offset is `start` when nothing came before `deadline_s` (monotonic). It passes holes, such as the marks
        that a producer's transactions leave, so it may rise without a record. Raises KafkaUnavailable.
        """
        try:
            if self._reading != (partition, start):
                self._consumer.assign([TopicPartition(self._topic, partition, start)])
            wait_s = max(0.0, deadline_s - time.monotonic())
            messages = self._consumer.consume(min(limit, end - start), wait_s)
            self._reading = None
            taken: list[Message] = []
            reached = start
            for message in messages:
                error = message.error()
                if error is None:
                    reached = max(reached, message.offset() + 1)
                    if start <= message.offset() < end:
                        taken.append(message)
                elif error.code() == Code._PARTITION_EOF:
                    reached = max(reached, message.offset())
                else:
                    raise KafkaException(error)
            self._reading = (partition, reached)  # also after nothing came: the fetch is still on its way
        except KafkaException as exception:
            raise unavailable(self._kafka, exception) from exception
        return taken, min(reached, end)

    def close(self) -> None:
        """Release the connection."""
        self._consumer.close()
