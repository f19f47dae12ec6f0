"""A replay's ends in Kafka: a range of topics to read in the order of its timestamps, and a topic to write to."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from confluent_kafka import Consumer, KafkaException, Message, Producer, TopicPartition
from confluent_kafka import KafkaError as Code

from consumer.kafka.client import common_config, group_config, require_topics, unavailable
from consumer.replay import BLOCK, Record
from consumer.settings import KafkaSettings
from features.errors import KafkaUnavailable
from features.store import Source

AHEAD: Final = 4 * BLOCK  # records of a partition that wait for others of it
SILENCE_S: Final = 30.0  # without a record of a range that should have more

Ranges = dict[Source, tuple[int, int]]


def ranges(kafka: KafkaSettings, topics: Iterable[str], from_ms: int | None, to_ms: int | None) -> Ranges:
    """Of each partition of these topics the offsets of Kafka timestamps in [from_ms, to_ms), as far as they are there.

    Raises KafkaUnavailable.
    """
    found: Ranges = {}
    wait_s = kafka.request_timeout_ms / 1_000
    consumer = Consumer(group_config(kafka))
    try:
        for topic, partitions in require_topics(consumer, kafka, topics).items():
            for source in ((topic, number) for number in range(partitions)):
                low, high = consumer.get_watermark_offsets(TopicPartition(*source), wait_s)
                start = low if from_ms is None else _offset_at(consumer, source, from_ms, high, wait_s)
                end = high if to_ms is None else _offset_at(consumer, source, to_ms, high, wait_s)
                found[source] = (start, max(start, end))
    except KafkaException as exception:
        raise unavailable(kafka, exception) from exception
    finally:
        consumer.close()
    return found


def _offset_at(consumer: Consumer, source: Source, time_ms: int, high: int, wait_s: float) -> int:
    """Where the first record of this timestamp or a later one lies."""
    [known] = consumer.offsets_for_times([TopicPartition(*source, time_ms)], wait_s)
    if known.error:
        raise KafkaException(known.error)
    return known.offset if known.offset >= 0 else high


class TopicFeed:
    """Records of ranges, each partition in its own order, all together by their timestamps as far as that allows."""

    def __init__(self, kafka: KafkaSettings, ranges: Ranges, labels_topic: str | None) -> None:
        """Records of `labels_topic` are labels."""
        self.refused: Counter[str] = Counter()
        self._kafka, self._ranges, self._labels_topic = kafka, ranges, labels_topic
        self._next = {source: start for source, (start, _) in ranges.items()}
        self._last: list[tuple[Source, int]] = []
        self._before = dict(self._next)

    def identity(self) -> dict[str, Any]:
        """The ranges, as they were asked for."""
        return {"ranges": {f"{topic}/{number}": list(span) for (topic, number), span in self._ranges.items()}}

    def seek(self, position: Any) -> None:
        """Go on from these offsets."""
        for source in self._next:
            self._next[source] = int(position[f"{source[0]}/{source[1]}"])

    def position(self, taken: int | None = None) -> Any:
        """The next offset of each partition."""
        reached = dict(self._next)
        if taken is not None:
            reached = dict(self._before)
            for source, offset in self._last[:taken]:
                reached[source] = offset + 1
        return {f"{topic}/{number}": offset for (topic, number), offset in reached.items()}

    def blocks(self) -> Iterator[tuple[list[Record], float]]:
        """See `consumer.replay.Feed`. Raises KafkaUnavailable."""
        total = sum(end - start for start, end in self._ranges.values()) or 1
        block: list[Record] = []
        self._last, self._before = [], dict(self._next)
        for source, message in self._merged():
            block.append(self._record(message))
            self._last.append((source, message.offset()))
            self._next[source] = message.offset() + 1
            if len(block) == BLOCK:
                left = sum(max(end - self._next[source], 0) for source, (_, end) in self._ranges.items())
                yield block, 1 - left / total
                block, self._last, self._before = [], [], dict(self._next)
        if block:
            yield block, 1.0

    def _record(self, message: Message) -> Record:
        kind, at_ms = message.timestamp()
        return Record(
            at_ms if kind else 0, message.topic() == self._labels_topic, message.key(), message.value(),
            message.headers(),
        )  # fmt: skip

    def _merged(self) -> Iterator[tuple[Source, Message]]:
        waiting: dict[Source, deque[Message]] = {
            source: deque() for source, (_, end) in self._ranges.items() if self._next[source] < end
        }
        if not waiting:
            return
        consumer = Consumer(group_config(self._kafka) | {"enable.partition.eof": True, "fetch.min.bytes": 1})
        try:
            consumer.assign([TopicPartition(*source, self._next[source]) for source in waiting])
            open_, paused = set(waiting), set[Source]()
            heard_s = time.monotonic()
            while waiting:
                empty = [source for source in open_ if not waiting[source]]
                if empty:
                    heard_s = self._read(consumer, waiting, open_, heard_s)
                    crowded = {source for source in open_ - paused if len(waiting[source]) > AHEAD}
                    if crowded:
                        consumer.pause([TopicPartition(*source) for source in crowded])
                        paused |= crowded
                    continue
                for source in [source for source in waiting if source not in open_ and not waiting[source]]:
                    del waiting[source]
                if not waiting:
                    return
                first = min(waiting, key=lambda source: (waiting[source][0].timestamp()[1], source))
                yield first, waiting[first].popleft()
                if first in paused and len(waiting[first]) < BLOCK:
                    consumer.resume([TopicPartition(*first)])
                    paused.discard(first)
        except KafkaException as exception:
            raise unavailable(self._kafka, exception) from exception
        finally:
            consumer.close()

    def _read(
        self, consumer: Consumer, waiting: dict[Source, deque[Message]], open_: set[Source], heard_s: float
    ) -> float:
        """Take what has come; a partition that has nothing more of its range is no longer open."""
        messages = consumer.consume(BLOCK, 0.2)
        for message in messages:
            error, source = message.error(), (message.topic(), message.partition())
            end = self._ranges[source][1]
            if error is not None:
                if error.code() != Code._PARTITION_EOF:
                    raise KafkaException(error)
                open_.discard(source)
            elif message.offset() < end:
                waiting[source].append(message)
                if message.offset() == end - 1:
                    open_.discard(source)
            else:
                open_.discard(source)
        now_s = time.monotonic()
        if not messages and now_s - heard_s > SILENCE_S:
            raise KafkaUnavailable(f"Kafka at {self._kafka.brokers} gave nothing more of the range for {SILENCE_S:g} s")
        return now_s if messages else heard_s


class TopicSink:
    """Writes records to a topic, and labels to another one."""

    def __init__(
        self, kafka: KafkaSettings, topic: str, labels_topic: str | None, *, keep_timestamps: bool, is_paced: bool
    ) -> None:
        """Connect. Raises KafkaUnavailable, also where a topic is missing."""
        self._kafka, self._topic, self._labels_topic = kafka, topic, labels_topic
        self._keep = keep_timestamps
        checker = Consumer(group_config(kafka))
        try:
            require_topics(checker, kafka, [topic] if labels_topic is None else [topic, labels_topic])
        finally:
            checker.close()
        self._failed: list[Code] = []
        self._producer = Producer(
            common_config(kafka)
            | {
                "enable.idempotence": True,
                "linger.ms": 0.5 if is_paced else 5,
                "delivery.report.only.error": True,
                "on_delivery": self._delivered,
                "compression.type": "none" if is_paced else "lz4",
                "queue.buffering.max.messages": 200_000,
            }
        )

    def send(self, records: Sequence[Record]) -> None:
        """Hand records over, waiting for room. Labels without a topic of their own are left out."""
        produce, keep = self._producer.produce, self._keep
        for record in records:
            topic = self._labels_topic if record.is_label else self._topic
            if topic is None:
                continue
            more: dict[str, Any] = {} if record.headers is None else {"headers": record.headers}
            if keep:
                more["timestamp"] = record.at_ms
            while True:
                try:
                    produce(topic, record.value, record.key, **more)
                    break
                except BufferError:
                    self._producer.poll(0.1)
                    self._check()

    def poll(self) -> None:
        """Let failures in. Raises KafkaUnavailable."""
        self._producer.poll(0)
        self._check()

    def flush(self) -> None:
        """Wait until all is acknowledged. Raises KafkaUnavailable."""
        left = self._producer.flush(self._kafka.request_timeout_ms / 1_000)
        self._check()
        if left:
            raise KafkaUnavailable(f"Kafka at {self._kafka.brokers} did not acknowledge {left} records in time")

    def _delivered(self, error: Code | None, _message: object) -> None:
        if error is not None:
            self._failed.append(error)

    def _check(self) -> None:
        if self._failed:
            raise KafkaUnavailable(
                f"Kafka at {self._kafka.brokers} did not take every record of {self._topic}: {self._failed[0].str()}"
            )
