"""Doubles of Kafka's side: a publisher that keeps what it was given, and a payments log in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from consumer.decode import Message
from consumer.kafka.logreader import Extent
from consumer.kafka.publisher import Outgoing
from features.errors import KafkaUnavailable
from features.store import Span
from tests.poison import Record


@dataclass(slots=True)
class ListPublisher:
    """A `Publisher` that keeps records and offsets apart until `commit`, as a transaction does."""

    pending: list[Outgoing] = field(default_factory=list)
    visible: list[Outgoing] = field(default_factory=list)
    commits: list[tuple[Span, ...]] = field(default_factory=list)

    def publish(self, records: Iterable[Outgoing]) -> None:
        self.pending += records

    def commit(self, spans: Sequence[Span]) -> None:
        self.visible += self.pending
        self.pending = []
        self.commits.append(tuple(spans))

    def renew(self) -> None:
        self.pending = []

    def close(self) -> None:
        self.pending = []

    def values(self, topic: str) -> list[bytes]:
        return [record.value or b"" for record in self.visible if record.topic == topic]


@dataclass(slots=True)
class Partition:
    """Records by offset (a hole where there is none), its oldest offset and end, and the committed offset."""

    values: dict[int, bytes] = field(default_factory=dict)
    low: int = 0
    high: int = 0
    committed: int | None = None

    def add(self, *values: bytes | None) -> None:
        """Append records; None leaves a hole."""
        for value in values:
            if value is not None:
                self.values[self.high] = value
            self.high += 1


@dataclass(slots=True)
class MemoryLog:
    """A `consumer.state.Log`. Time passes only when it is read: `tick` is called once a read."""

    topic: str
    partitions: dict[int, Partition]
    most: int = 1_000_000  # records a read gives at most, whatever was asked for
    available: bool = True
    tick: Callable[[], None] = lambda: None
    reads: list[tuple[int, int, int, int]] = field(default_factory=list)
    surveys: int = 0

    def extents(self) -> Mapping[int, Extent]:
        self._ask()
        self.surveys += 1
        return {number: Extent(each.low, each.high, each.committed) for number, each in self.partitions.items()}

    def read(self, partition: int, start: int, end: int, limit: int, deadline_s: float) -> tuple[list[Message], int]:
        self._ask()
        self.reads.append((partition, start, end, limit))
        held = self.partitions[partition].values
        reached = min(end, start + min(limit, self.most))
        records: list[Message] = [
            Record(held[offset], partition, offset, of_topic=self.topic)
            for offset in range(start, reached)
            if offset in held
        ]
        return records, reached

    def _ask(self) -> None:
        self.tick()
        if not self.available:
            raise KafkaUnavailable("the log in memory is away")
