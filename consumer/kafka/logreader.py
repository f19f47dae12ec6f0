"""Reads any part of the logs of payments and labels without being a member: for catching state up."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka import KafkaError as Code

from consumer.decode import Message
from consumer.kafka.client import group_config, heard, require_topics, unavailable
from consumer.settings import KafkaSettings
from features.store import Source


@dataclass(frozen=True, slots=True)
class Extent:
    """One partition: its oldest offset, its end (exclusive), and the group's committed offset (None: none yet)."""

    low: int
    high: int
    committed: int | None


class LogReader:
    """Reads ranges of both topics by explicit assignment; commits nothing and joins nothing."""

    def __init__(self, kafka: KafkaSettings, payments_topic: str, labels_topic: str | None = None) -> None:
        """Connect lazily."""
        self._kafka = kafka
        self._topics = [payments_topic] if labels_topic is None else [payments_topic, labels_topic]
        self._timeout_s = kafka.request_timeout_ms / 1000
        self._consumer = Consumer(group_config(kafka) | {"enable.partition.eof": True})
        self._reading: tuple[Source, int] | None = None
        self._there = False

    def extents(self) -> Mapping[Source, Extent]:
        """Every partition of the topics. Raises KafkaUnavailable, also where a topic is missing."""
        if not self._there:  # the whole cluster's topics are asked for, so once
            require_topics(self._consumer, self._kafka, self._topics)
            self._there = True
        try:
            extents = {}
            for name in self._topics:
                topic = self._consumer.list_topics(name, timeout=self._timeout_s).topics[name]
                partitions = [TopicPartition(name, number) for number in sorted(topic.partitions)]
                for known in self._consumer.committed(partitions, self._timeout_s):
                    if known.error:
                        raise KafkaException(known.error)
                    low, high = self._consumer.get_watermark_offsets(known, self._timeout_s)
                    committed = known.offset if known.offset >= 0 else None
                    extents[known.topic, known.partition] = Extent(low, high, committed)
        except KafkaException as exception:
            self._reading = None
            raise heard(self._consumer, self._kafka) or unavailable(self._kafka, exception) from exception
        return extents

    def written_ends(self) -> Mapping[Source, int]:
        """Where each partition ends (exclusive), with what readers are not shown while a transaction is still open.

        Raises KafkaUnavailable.
        """
        everything = Consumer(group_config(self._kafka) | {"isolation.level": "read_uncommitted"})
        try:
            return {
                source: everything.get_watermark_offsets(TopicPartition(*source), self._timeout_s)[1]
                for source in self.extents()
            }
        except KafkaException as exception:
            raise unavailable(self._kafka, exception) from exception
        finally:
            everything.close()

    def offsets_at(self, time_ms: int) -> Mapping[Source, int]:
        """Where each partition's first record of this Kafka timestamp or a later one lies. Raises KafkaUnavailable."""
        found = {}
        try:
            for source, extent in self.extents().items():
                asked = [TopicPartition(*source, time_ms)]
                [known] = self._consumer.offsets_for_times(asked, self._timeout_s)
                if known.error:
                    raise KafkaException(known.error)
                found[source] = known.offset if known.offset >= 0 else extent.high
        except KafkaException as exception:
            raise unavailable(self._kafka, exception) from exception
        return found

    def read(self, source: Source, start: int, end: int, limit: int, deadline_s: float) -> tuple[list[Message], int]:
        """Up to `limit` records of [start, end), in order, and the offset below which all of them were given.

        That offset is `start` when nothing came before `deadline_s` (monotonic). It passes holes, such as the marks
        that a producer's transactions leave, so it may rise without a record. Raises KafkaUnavailable.
        """
        try:
            if self._reading != (source, start):
                self._consumer.assign([TopicPartition(*source, start)])
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
            self._reading = (source, reached)  # also after nothing came: the fetch is still on its way
        except KafkaException as exception:
            raise unavailable(self._kafka, exception, source[0]) from exception
        return taken, min(reached, end)

    def close(self) -> None:
        """Release the connection."""
        self._consumer.close()
