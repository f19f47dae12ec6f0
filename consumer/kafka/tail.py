"""Follows topics from some way before their ends: for pages and people, who want the newest records first."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

import structlog
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka import KafkaError as Code

from consumer.decode import Message
from consumer.kafka.causes import listener
from consumer.kafka.client import denied, group_config, require_topics, unavailable, within
from consumer.settings import KafkaSettings
from features.store import Source

AT_ONCE: Final = 1_000
ASK_S: Final = 5.0
CLOSE_LIMIT_S: Final = 2.0
_LOG: Final = structlog.get_logger("kafka")


class TailReader:
    """Reads the newest records of topics, then what is added; committed ones only. It joins no group, commits nothing.

    It goes on by itself after an outage, when a topic gets more partitions, and when a topic was made anew. Not
    thread-safe.
    """

    def __init__(self, kafka: KafkaSettings, back: Mapping[str, int], *, refresh_s: float = 5.0) -> None:
        """Connect lazily. `back` has, by topic, about how many records before its end to begin with.

        Every `refresh_s` seconds the brokers are asked for the topics' extents: that tells whether they are there.
        """
        patience_ms = min(kafka.request_timeout_ms, int(ASK_S * 1_000))
        # the client requires a group, which it never joins; a right to look at it is asked for all the same
        group = f"{kafka.group_id}-dashboard"
        self._kafka = kafka.model_copy(update={"request_timeout_ms": patience_ms, "group_id": group})
        self._back, self._refresh_s = dict(back), refresh_s
        self._heard_s = time.monotonic()
        self._positions: dict[Source, int] = {}
        self._awaited: dict[Source, int] = {}
        self._broken = False
        self._due_s = 0.0
        self._consumer = Consumer(
            group_config(self._kafka)
            | {
                "client.id": group,
                "enable.partition.eof": True,
                "fetch.min.bytes": 1,
                "fetch.wait.max.ms": 100,
                "error_cb": self._complained,
            }
        )

    @property
    def caught_up(self) -> bool:
        """Whether everything was read that lay in the topics when they were first seen."""
        return bool(self._positions) and not self._awaited

    def silent_s(self) -> float:
        """Seconds since the brokers were last heard of."""
        return time.monotonic() - self._heard_s

    def poll(self, wait_s: float) -> list[Message]:
        """What has come, in order within a partition, waiting for it a while.

        Raises KafkaUnavailable: the brokers don't answer, or a topic is missing. Call it again after a while.
        """
        if self._broken or time.monotonic() >= self._due_s:
            self._refresh()
        try:
            messages = self._consumer.consume(AT_ONCE, wait_s)
        except KafkaException as exception:
            raise unavailable(self._kafka, exception) from exception
        records = [message for message in messages if self._is_record(message)]
        if records:
            self._heard_s = time.monotonic()
        return records

    def close(self) -> None:
        """Release the connection; a broker that does not answer is not waited for."""
        within(self._consumer.close, CLOSE_LIMIT_S)

    def _is_record(self, message: Any) -> bool:
        error = message.error()
        source = (message.topic(), message.partition())
        if error is None:
            self._move(source, message.offset() + 1)
            return True
        if error.code() == Code._PARTITION_EOF:
            self._move(source, message.offset())
            self._awaited.pop(source, None)
        elif (denial := denied(self._kafka, error, source[0])) is not None:
            self._broken = True  # so that it is asked for anew once it is allowed again
            raise denial
        else:  # out of range, or no such topic: the next poll looks what there is
            _LOG.warning("tail_interrupted", topic=source[0], partition=source[1], error=error.str())
            self._broken = True
        return False

    def _move(self, source: Source, position: int) -> None:
        self._positions[source] = position
        if position >= self._awaited.get(source, position + 1):
            del self._awaited[source]

    def _complained(self, error: Code) -> None:
        listener(self._kafka)(error)
        if error.code() == Code._ALL_BROKERS_DOWN:
            self._due_s = 0.0

    def _refresh(self) -> None:
        """See where the partitions begin and end, and read each from where that makes sense."""
        self._due_s = time.monotonic() + self._refresh_s
        partitions = require_topics(self._consumer, self._kafka, self._back)
        first = not self._positions
        starts: dict[Source, int] = {}
        try:
            for topic, count in partitions.items():
                for number in range(count):
                    source = (topic, number)
                    low, high = self._consumer.get_watermark_offsets(TopicPartition(*source), timeout=ASK_S)
                    starts[source] = self._start(source, low, high, count)
                    if first and starts[source] < high:
                        self._awaited[source] = high
            if self._broken or starts != self._positions:
                self._consumer.assign([TopicPartition(*source, start) for source, start in starts.items()])
        except KafkaException as exception:
            self._awaited = {} if first else self._awaited
            raise unavailable(self._kafka, exception) from exception
        self._broken = False
        self._positions = starts
        self._heard_s = time.monotonic()

    def _start(self, source: Source, low: int, high: int, partitions: int) -> int:
        position = self._positions.get(source)
        if position is not None and position <= high:
            return max(position, low)
        if position is None and self._positions:
            return low  # a partition that was added
        return max(low, high - max(self._back[source[0]] // partitions, 1))
