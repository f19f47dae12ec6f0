"""Doubles: a publisher that keeps what it was given, a log in memory, and a store that fails when it is told to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from consumer.decode import Decoder, Message
from consumer.kafka.logreader import Extent
from consumer.kafka.publisher import Outgoing
from features.errors import KafkaUnavailable, StateBehind, StoreUnavailable
from features.store import Append, Applied, MemoryStore, Position, Source, Span, StateStore
from tests.poison import Record

PAYMENTS = "payments"
LABELS = "labels"


def decoder(max_payment_bytes: int = 65_536) -> Decoder:
    """A decoder of both topics."""
    return Decoder(max_payment_bytes=max_payment_bytes, max_future_ms=300_000, labels_topic=LABELS)


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
    times_ms: dict[int, int] = field(default_factory=dict)  # Kafka timestamps; none where there is none

    def add(self, *values: bytes | None, at_ms: Sequence[int] = ()) -> None:
        """Append records; None leaves a hole."""
        for place, value in enumerate(values):
            if value is not None:
                self.values[self.high] = value
                if at_ms:
                    self.times_ms[self.high] = at_ms[place]
            self.high += 1

    def record(self, source: Source, offset: int) -> Record:
        """The record at an offset, as the Kafka client gives it."""
        topic, partition = source
        stamp = (1, self.times_ms[offset]) if offset in self.times_ms else (0, -1)
        return Record(self.values[offset], partition, offset, record_timestamp=stamp, of_topic=topic)


@dataclass(slots=True)
class MemoryLog:
    """A `consumer.state.Log`. Time passes only when it is read: `tick` is called once a read."""

    partitions: dict[Source, Partition]
    most: int = 1_000_000  # records a read gives at most, whatever was asked for
    available: bool = True
    tick: Callable[[], None] = lambda: None
    reads: list[tuple[Source, int, int, int]] = field(default_factory=list)
    surveys: int = 0

    def extents(self) -> Mapping[Source, Extent]:
        self._ask()
        self.surveys += 1
        return {source: Extent(each.low, each.high, each.committed) for source, each in self.partitions.items()}

    def read(self, source: Source, start: int, end: int, limit: int, deadline_s: float) -> tuple[list[Message], int]:
        self._ask()
        self.reads.append((source, start, end, limit))
        held = self.partitions[source]
        reached = min(end, start + min(limit, self.most))
        records: list[Message] = [
            held.record(source, offset) for offset in range(start, reached) if offset in held.values
        ]
        return records, reached

    def _ask(self) -> None:
        self.tick()
        if not self.available:
            raise KafkaUnavailable("the log in memory is away")


@dataclass(slots=True)
class Flaky:
    """A store that does not answer the next `failures` calls, and counts those of `apply` that arrived.

    With `forgets`, the next call of `apply` arrives and its answer is lost. Whoever got no answer is trusted again when
    the positions were read, as with Redis.
    """

    inner: StateStore = field(default_factory=MemoryStore)
    failures: int = 0
    forgets: int = 0
    applied: int = 0
    trusted: bool = True

    @property
    def shards(self) -> int:
        return self.inner.shards

    def check(self) -> None:
        self._answer()

    def positions(self) -> list[Position]:
        self._answer()
        self.trusted = True
        return self.inner.positions()

    def adopt(self, starts: Mapping[Source, int], *, force: bool = False) -> None:
        self._answer()
        self.inner.adopt(starts, force=force)

    def renew(self, epochs: Sequence[int]) -> None:
        self._answer()
        self.inner.renew(epochs)

    def reset(self, starts: Mapping[Source, int]) -> None:
        self._answer()
        self.inner.reset(starts)

    def apply(self, appends: Sequence[Append]) -> list[Applied]:
        self._answer()
        self._require_trust()
        self.applied += 1
        applied = self.inner.apply(appends)
        if self.forgets:
            self.forgets -= 1
            self.failures = 1
            self._answer()
        return applied

    def send(self, appends: Sequence[Append]) -> Callable[[], list[Applied]]:
        """It arrives when the answer is asked for."""
        self._answer()
        self._require_trust()
        return partial(self.apply, appends)

    def close(self) -> None:
        self.inner.close()

    def _answer(self) -> None:
        if self.failures:
            self.failures -= 1
            self.trusted = False
            raise StoreUnavailable("the store does not answer")

    def _require_trust(self) -> None:
        if not self.trusted:
            raise StateBehind("the store was reconnected")
