"""The state store's contract, and the store that lives in this process.

A store is a fixed number of *shards*. A shard holds, for one namespace, a *log* of 48-byte units per entity key (see
`features.event`), and for every source partition a *marker* (the next offset that it has not applied, exclusive) and a
*floor* (the offset below which everything is known to be committed). It also has an *epoch*, drawn at random when its
state was created, and a *sequence* that numbers every offset applied in that epoch: a *run* says which offsets of a
partition were given which numbers.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from features.errors import StateBehind
from features.event import OFFSET_BITS, OFFSET_MASK, UNIT_BYTES, UNIT_WORDS, Words, source_id

Source = tuple[str, int]  # topic, partition


@dataclass(frozen=True, slots=True)
class Span:
    """What a batch covers of one source partition: offsets `start` (inclusive) to `end` (exclusive).

    `start` is where the previous batch ended, not the first record's offset: dead letters and holes are covered too.
    `floor` is the newest committed offset that the caller knows. `labels` tells the labels topic from the payments.
    """

    topic: str
    partition: int
    start: int
    end: int
    floor: int
    labels: bool = False

    @property
    def source_id(self) -> int:
        """The number that the records of this partition carry."""
        return source_id(self.partition, labels=self.labels)


@dataclass(frozen=True, slots=True)
class Replacement:
    """A compaction: the first `cut` bytes of a log become `summary`, if the log still begins with `first` (a unit)."""

    key: bytes
    first: bytes
    cut: int
    summary: bytes


@dataclass(frozen=True, slots=True)
class Append:
    """One guarded call to one shard: `counts[i]` records for `keys[i]`, in key order in `records`, shape (sum, 6).

    `replacements` are carried out first. `refresh` are keys that have to live on. With `all_floors` the reply tells the
    floor of every partition.
    """

    epoch: int
    spans: tuple[Span, ...]
    keys: list[bytes]
    counts: list[int]
    records: Words
    replacements: Sequence[Replacement] = ()
    refresh: Sequence[bytes] = ()
    all_floors: bool = False


class Run(NamedTuple):
    """Offsets `start` to `end` (exclusive) of a partition were numbered from `sequence` on, in `epoch`."""

    start: int
    end: int
    sequence: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Applied:
    """The logs, and each span's marker before, floor after, and runs that may still be asked for, in order.

    Those are the ones that end behind the floor or behind the span's start: so a call whose reply was lost tells its
    run again when it is repeated, also if it lies below the floor.

    `lengths[i]` units of `units` (bytes of all logs, end to end) are the log of `Append.keys[i]`, after the call.
    `partial` tells that some of the call's records had been there before. `all_floors` has every partition's floor by
    source id when the call asked for them.
    """

    units: bytes
    lengths: npt.NDArray[np.int64]
    partial: bool
    markers: list[int]
    floors: list[int]
    runs: list[list[Run]]
    all_floors: Mapping[int, int] = field(default_factory=dict)

    def logs(self) -> tuple[Words, Words, Words]:
        """All logs as one array of units, shape (units, 6), and where each starts and ends in it."""
        words = np.frombuffer(self.units, np.int64).reshape(-1, UNIT_WORDS)
        ends = np.cumsum(self.lengths)
        return words, ends - self.lengths, ends


@dataclass(frozen=True, slots=True)
class Position:
    """Where a shard stands: its epoch, and the marker and floor of every source partition that it knows.

    `begun` tells at which offset the state of each source begins: what came before it is not in the logs.

    `parent` is the (epoch, sequence) that the state was inherited from, when the epoch was renewed: what the parent had
    numbered below that sequence is in it, and the epoch's own numbers go on from there.

    `runs` are those of each source that may still be asked for, see `Applied`: the newest call's are among them.
    """

    epoch: int
    markers: Mapping[Source, int] = field(default_factory=dict)
    floors: Mapping[Source, int] = field(default_factory=dict)
    begun: Mapping[Source, int] = field(default_factory=dict)
    parent: tuple[int, int] | None = None
    runs: Mapping[Source, Sequence[Run]] = field(default_factory=dict)


class StateStore(Protocol):
    """Eight verbs. Any of them may raise `StoreUnavailable`; then the call may or may not have been applied."""

    @property
    def shards(self) -> int:
        """How many shards there are; fixed for the life of a namespace."""

    def check(self) -> None:
        """Refuse a store that could lose or hide state. Raises StoreUnsuitable."""

    def positions(self) -> list[Position]:
        """Read every shard's epoch (created if there is none) and markers; from here on the connections are trusted.

        A state that another server held when it was last asked gets a new epoch, as `renew` gives it: it was loaded
        from a file or came from another primary, so it may have gone back in time without any marker telling so.
        """

    def adopt(self, starts: Mapping[Source, int], *, force: bool = False) -> None:
        """Set the markers of partitions that have none, in every shard; with `force`, also raise lower ones.

        A state begins, or begins again, where its marker was set.
        """

    def renew(self, epochs: Sequence[int]) -> None:
        """Draw a new epoch for every shard that still has the one given: its state is not what it once was.

        The epoch that is given up becomes the `Position.parent`, unless nothing was recorded in it.
        """

    def reset(self, starts: Mapping[Source, int]) -> None:
        """Forget every log and marker, in every shard, and begin anew at `starts`, with new epochs and no parent.

        While it works others get StoreUnavailable; once it was interrupted they get StoreUnsuitable, until it is
        repeated. A namespace of another owner is refused; one of another shape takes this store's.
        """

    def apply(self, appends: Sequence[Append]) -> list[Applied]:
        """One call for every shard, in order: append each record once, move markers and floors up, return the logs.

        Each shard's call is atomic: everything is read and checked before the first write. Idempotent: records below a
        marker are not appended again. Safe to repeat after StoreUnavailable. Raises StateBehind when a shard's epoch is
        another, a marker is missing or below its span's start, or a connection was re-established since `positions`;
        that shard has then written nothing.
        """

    def send(self, appends: Sequence[Append]) -> Callable[[], list[Applied]]:
        """Begin `apply`, and do something else meanwhile: what is returned waits for its end.

        It has to be called, once, before anything else is asked of this store; either may raise what `apply` raises.
        """

    def close(self) -> None:
        """Release the connections. Never raises."""


class _Shard:
    """One shard of a `MemoryStore`."""

    def __init__(self) -> None:
        self.logs: dict[bytes, bytearray] = {}
        self.markers: dict[Source, int] = {}
        self.floors: dict[Source, int] = {}
        self.begun: dict[Source, int] = {}
        self.runs: dict[Source, list[Run]] = {}
        self.ids: dict[Source, int] = {}
        self.epoch = secrets.randbits(32) or 1
        self.sequence = 0
        self.parent: tuple[int, int] | None = None


class MemoryStore:
    """A store in this process: for the demo, for files and for tests. The same guards, nothing kept at exit."""

    def __init__(self, shards: int = 1) -> None:
        """Begin empty, with this many shards."""
        self._shards = [_Shard() for _ in range(shards)]

    @property
    def shards(self) -> int:
        """See `StateStore`."""
        return len(self._shards)

    def check(self) -> None:
        """Nothing to check: the state lives and dies with the process."""

    def positions(self) -> list[Position]:
        """See `StateStore`."""
        return [
            Position(s.epoch, dict(s.markers), dict(s.floors), dict(s.begun), s.parent, dict(s.runs))
            for s in self._shards
        ]

    def adopt(self, starts: Mapping[Source, int], *, force: bool = False) -> None:
        """See `StateStore`."""
        for shard in self._shards:
            for source, start in starts.items():
                known = shard.markers.get(source, -1)
                if known < 0 or (force and known < start):
                    shard.markers[source] = shard.begun[source] = start

    def renew(self, epochs: Sequence[int]) -> None:
        """See `StateStore`."""
        for shard, epoch in zip(self._shards, epochs, strict=True):
            if shard.epoch == epoch:
                if shard.parent is None or shard.parent[1] != shard.sequence:
                    shard.parent = (epoch, shard.sequence)
                shard.epoch = secrets.randbits(32) or 1

    def reset(self, starts: Mapping[Source, int]) -> None:
        """See `StateStore`."""
        self.flush()
        self.adopt(starts)

    def flush(self) -> None:
        """Lose everything, as FLUSHALL does."""
        self._shards = [_Shard() for _ in self._shards]

    def size_bytes(self) -> int:
        """Bytes of all logs."""
        return sum(len(log) for shard in self._shards for log in shard.logs.values())

    def apply(self, appends: Sequence[Append]) -> list[Applied]:
        """See `StateStore`."""
        return [self._apply(shard, append) for shard, append in zip(self._shards, appends, strict=True)]

    def send(self, appends: Sequence[Append]) -> Callable[[], list[Applied]]:
        """See `StateStore`."""
        applied = self.apply(appends)
        return lambda: applied

    def close(self) -> None:
        """Nothing to release."""

    def _apply(self, shard: _Shard, append: Append) -> Applied:
        markers = self._guard(shard, append)
        partial = any(marker > span.start for span, marker in zip(append.spans, markers, strict=True))
        fresh = {span.source_id: marker for span, marker in zip(append.spans, markers, strict=True)}
        for replacement in append.replacements:
            self._replace(shard, replacement)
        for key, records in records_of_keys(append):
            new = self._new(records, fresh) if partial else records
            if len(new):
                shard.logs.setdefault(key, bytearray()).extend(new.tobytes())
        runs = [self._advance(shard, span, marker) for span, marker in zip(append.spans, markers, strict=True)]
        after = [bytes(shard.logs.get(key, b"")) for key in append.keys]
        return Applied(
            units=b"".join(after),
            lengths=np.array([len(log) // UNIT_BYTES for log in after], np.int64),
            partial=partial,
            markers=markers,
            floors=[shard.floors[span.topic, span.partition] for span in append.spans],
            runs=runs,
            all_floors={shard.ids[source]: floor for source, floor in shard.floors.items()}
            if append.all_floors
            else {},
        )

    def _guard(self, shard: _Shard, append: Append) -> list[int]:
        if append.epoch != shard.epoch:
            raise StateBehind("the state store has another epoch: its state was lost or replaced")
        markers = []
        for span in append.spans:
            marker = shard.markers.get((span.topic, span.partition), -1)
            if marker < span.start:
                raise StateBehind(f"the marker of {span.topic}/{span.partition} is {marker}, below {span.start}")
            markers.append(marker)
        return markers

    def _new(self, records: Words, fresh: Mapping[int, int]) -> Words:
        """Those records that are not below the marker of their source."""
        words = records[:, 2].tolist()
        return records[[word & OFFSET_MASK >= fresh[word >> OFFSET_BITS & 0xFFFF] for word in words]]

    def _advance(self, shard: _Shard, span: Span, marker: int) -> list[Run]:
        source = (span.topic, span.partition)
        shard.ids[source] = span.source_id
        shard.markers[source] = max(marker, span.end)
        floor = shard.floors[source] = max(shard.floors.get(source, 0), span.floor)
        runs = [run for run in shard.runs.get(source, []) if run.end > min(floor, span.start)]
        if span.end > marker:
            runs.append(Run(marker, span.end, shard.sequence, shard.epoch))
            shard.sequence += span.end - marker
        shard.runs[source] = runs
        return list(runs)

    def _replace(self, shard: _Shard, replacement: Replacement) -> None:
        log = shard.logs.get(replacement.key, bytearray())
        if len(log) >= replacement.cut and log.startswith(replacement.first):
            log[: replacement.cut] = replacement.summary


def records_of_keys(append: Append) -> Iterator[tuple[bytes, Words]]:
    """Yield each key with its records, shape (count, 6)."""
    at = 0
    for key, count in zip(append.keys, append.counts, strict=True):
        yield key, append.records[at : at + count]
        at += count


def packed_spans(spans: tuple[Span, ...]) -> bytes:
    """Spans as MessagePack: [[name, source id, start, end, floor], ...]."""
    return msgspec.msgpack.encode([[f"{s.topic}:{s.partition}", s.source_id, s.start, s.end, s.floor] for s in spans])
