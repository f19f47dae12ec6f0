"""A replay's ends in Kafka: a range of topics to read in the order of its timestamps, and a topic to write to."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Final

from confluent_kafka import Consumer, KafkaException, Message, Producer, TopicPartition
from confluent_kafka import KafkaError as Code

from consumer.kafka.client import common_config, denied, flush, group_config, require_topics, unavailable
from consumer.replay import BLOCK, Record
from consumer.settings import KafkaSettings
from features.errors import KafkaUnavailable
from features.store import Source

AHEAD: Final = 4 * BLOCK  # records of a partition that wait for others of it
FLUSH_S: Final = 0.5
READ_S: Final = 0.2
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

    def __init__(
        self, kafka: KafkaSettings, ranges: Ranges, labels_topic: str | None, asked: dict[str, Any] | None = None
    ) -> None:
        """Records of `labels_topic` are labels. `asked` says what was asked for, in words that stay the same."""
        self.refused: Counter[str] = Counter()
        self._kafka, self._ranges, self._labels_topic = kafka, ranges, labels_topic
        self._asked = asked or {}
        self._next = {source: start for source, (start, _) in ranges.items()}
        self._last: list[tuple[Source, int]] = []
        self._before = dict(self._next)
        self._silent_s = 0.0

    def identity(self) -> dict[str, Any]:
        """What was asked for; which offsets that is, a position tells."""
        return {"asked": self._asked}

    def seek(self, position: Any) -> None:
        """Go on from these offsets, to where the replay was to go when it began."""
        self._ranges, self._next = {}, {}
        for text, (start, reached, end) in position.items():
            topic, _, number = text.rpartition("/")
            self._ranges[topic, int(number)] = (int(start), int(end))
            self._next[topic, int(number)] = int(reached)

    def position(self, taken: int | None = None) -> Any:
        """Of each partition the first offset, the next one, and the end."""
        reached = dict(self._next)
        if taken is not None:
            reached = dict(self._before)
            for source, offset in self._last[:taken]:
                reached[source] = offset + 1
        return {f"{topic}/{n}": [start, reached[topic, n], end] for (topic, n), (start, end) in self._ranges.items()}

    def blocks(self) -> Iterator[tuple[list[Record], float]]:
        """See `consumer.replay.Feed`. Raises KafkaUnavailable."""
        total = sum(end - start for start, end in self._ranges.values()) or 1
        block: list[Record] = []
        self._last, self._before = [], dict(self._next)
        for source, message in self._merged():
            if message is None:
                yield block, self._share(total)
                block, self._last, self._before = [], [], dict(self._next)
                continue
            block.append(self._record(message))
            self._last.append((source, message.offset()))
            self._next[source] = message.offset() + 1
            if len(block) == BLOCK:
                yield block, self._share(total)
                block, self._last, self._before = [], [], dict(self._next)
        if block:
            yield block, 1.0

    def _share(self, total: int) -> float:
        left = sum(max(end - self._next[source], 0) for source, (_, end) in self._ranges.items())
        return 1 - left / total

    def _record(self, message: Message) -> Record:
        kind, at_ms = message.timestamp()
        return Record(
            at_ms if kind else 0, message.topic() == self._labels_topic, message.key(), message.value(),
            message.headers(),
        )  # fmt: skip

    def _merged(self) -> Iterator[tuple[Source, Message | None]]:
        """Each record with its partition; None in place of one where there is nothing for a while."""
        waiting: dict[Source, deque[Message]] = {
            source: deque() for source, (_, end) in self._ranges.items() if self._next[source] < end
        }
        if not waiting:
            return
        consumer = Consumer(group_config(self._kafka) | {"enable.partition.eof": True, "fetch.min.bytes": 1})
        try:
            consumer.assign([TopicPartition(*source, self._next[source]) for source in waiting])
            open_, paused = set(waiting), set[Source]()
            while waiting:
                empty = [source for source in open_ if not waiting[source]]
                if empty:
                    _balance(consumer, waiting, open_, paused)
                    if not self._read(consumer, waiting, open_):
                        yield empty[0], None
                    continue
                for source in [source for source in waiting if not waiting[source]]:
                    del waiting[source]
                if waiting:
                    first = min(waiting, key=lambda source: (waiting[source][0].timestamp()[1], source))
                    yield first, waiting[first].popleft()
        except KafkaException as exception:
            raise unavailable(self._kafka, exception) from exception
        finally:
            consumer.close()

    def _read(self, consumer: Consumer, waiting: dict[Source, deque[Message]], open_: set[Source]) -> bool:
        """Take what has come, if anything; a partition that has nothing more of its range is no longer open."""
        messages = consumer.consume(BLOCK, READ_S)
        self._silent_s = 0.0 if messages else self._silent_s + READ_S
        if self._silent_s > SILENCE_S:
            raise KafkaUnavailable(f"Kafka at {self._kafka.brokers} gave nothing more of the range for {SILENCE_S:g} s")
        for message in messages:
            error, source = message.error(), (message.topic(), message.partition())
            if error is not None and error.code() != Code._PARTITION_EOF:
                raise KafkaException(error)
            end = self._ranges[source][1]
            if error is None and message.offset() < end:
                waiting[source].append(message)
            if error is not None or message.offset() >= end - 1:
                open_.discard(source)
        return bool(messages)


def _balance(
    consumer: Consumer, waiting: dict[Source, deque[Message]], open_: set[Source], paused: set[Source]
) -> None:
    """Read no more of partitions of which many records wait, until few do."""
    crowded = {source for source in open_ - paused if len(waiting[source]) > AHEAD}
    drained = {source for source in open_ & paused if len(waiting[source]) < BLOCK}
    if crowded:
        consumer.pause([TopicPartition(*source) for source in crowded])
    if drained:
        consumer.resume([TopicPartition(*source) for source in drained])
    paused |= crowded
    paused -= drained


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
        self._failed: list[tuple[Code, str]] = []
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
                except KafkaException as exception:  # a record that is too large, or an error for good
                    raise unavailable(self._kafka, exception) from exception

    def poll(self) -> None:
        """Let failures in. Raises KafkaUnavailable."""
        with suppress(KafkaException, SystemError):  # see `consumer.kafka.client.flush`
            self._producer.poll(0)
        self._check()

    def flush(self) -> None:
        """Wait until all is acknowledged. Raises KafkaUnavailable."""
        left, moved_s = len(self._producer), time.monotonic()
        while now_left := flush(self._producer, FLUSH_S):
            self._check()
            if now_left < left:
                left, moved_s = now_left, time.monotonic()
            elif time.monotonic() - moved_s > self._kafka.request_timeout_ms / 1_000:
                raise KafkaUnavailable(f"Kafka at {self._kafka.brokers} did not acknowledge {left} records in time")
        self._check()

    def _delivered(self, error: Code | None, message: Message) -> None:
        if error is not None:
            self._failed.append((error, message.topic() or self._topic))

    def _check(self) -> None:
        if not self._failed:
            return
        error, topic = self._failed[0]
        raise denied(self._kafka, error, topic) or KafkaUnavailable(
            f"Kafka at {self._kafka.brokers} did not take every record of {topic}: {error.str()}"
        )
