"""The state store's contract, and the store that lives in this process.

A store holds, for one namespace, a *log* of 64-byte records per entity key, and for every source partition a *marker*
(the next offset that it has not applied, exclusive) and a *floor* (the offset below which everything is known to be
committed). It also holds an *epoch*, drawn at random when its state was created, and a *sequence* that counts every
payment applied in that epoch.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

import msgspec

from features.errors import StateBehind
from features.event import FLAG_DUPLICATE, HEAD_BYTES, KIND_PAYMENT, RECORD_BYTES, stamp_bytes

Source = tuple[str, int]  # topic, partition

_EVENT_HASH: Final = slice(24, 32)
_KIND_AT: Final = 52


@dataclass(frozen=True, slots=True)
class Span:
    """What a batch covers of one source partition: offsets `start` (inclusive) to `end` (exclusive).

    `start` is where the previous batch ended, not the first record's offset: dead letters and holes are covered too.
    `floor` is the newest committed offset that the caller knows.
    """

    topic: str
    partition: int
    start: int
    end: int
    floor: int


@dataclass(frozen=True, slots=True)
class Append:
    """One guarded call: `counts[i]` record heads for `keys[i]`, concatenated in key order in `heads`.

    The first `cards` keys are card logs; only they decide whether an event id is repeated. `size` is the number of
    payments in the batch, and so of sequence numbers drawn.
    """

    epoch: int
    spans: tuple[Span, ...]
    keys: list[bytes]
    counts: list[int]
    heads: bytes
    cards: int
    size: int


@dataclass(frozen=True, slots=True)
class Applied:
    """The logs after the call, in the order of `Append.keys`, and each span's marker before and floor after it.

    A log is cut to the last `keep` records before the batch plus the batch's own, or whole when a part of the batch
    had been applied before.
    """

    logs: list[bytes]
    markers: list[int]
    floors: list[int]


@dataclass(frozen=True, slots=True)
class Position:
    """Where a namespace stands: its epoch, and the marker and floor of every source partition that it knows."""

    epoch: int
    markers: Mapping[Source, int] = field(default_factory=dict)
    floors: Mapping[Source, int] = field(default_factory=dict)


class StateStore(Protocol):
    """Five verbs. Any of them may raise `StoreUnavailable`; then the call may or may not have been applied."""

    def check(self) -> None:
        """Refuse a store that could lose or hide state. Raises StoreUnsuitable."""

    def position(self) -> Position:
        """Read the epoch (created if there is none) and all markers; from here on the connection is trusted."""

    def adopt(self, starts: Mapping[Source, int], *, force: bool = False) -> None:
        """Set the markers of partitions that have none; with `force`, also raise those that lie lower."""

    def apply(self, append: Append) -> Applied:
        """Append each record once, move markers and floors up, and return the logs.

        Atomic: everything is read and checked before the first write. Idempotent: records below a marker are not
        appended again. Safe to repeat after StoreUnavailable. Raises StateBehind, having written nothing, when the
        epoch is another, a marker is missing or below its span's start, or the connection was re-established since
        `position`.
        """

    def close(self) -> None:
        """Release the connection. Never raises."""


def is_repeated(log: bytes | bytearray, event_hash: bytes, keep: int) -> bool:
    """Whether a payment with this 8-byte event hash is among the last `keep` records of a card's log."""
    at = log.find(event_hash, max(0, len(log) - keep * RECORD_BYTES))
    while at >= 0:
        start = at - _EVENT_HASH.start
        if start % RECORD_BYTES == 0 and log[start + _KIND_AT] & 0x0F == KIND_PAYMENT:
            return True
        at = log.find(event_hash, at + 1)
    return False


def heads_of(append: Append) -> Iterator[tuple[int, bytes, list[bytes]]]:
    """Yield (position of the key, key, its record heads)."""
    at = 0
    for place, (key, count) in enumerate(zip(append.keys, append.counts, strict=True)):
        yield place, key, [append.heads[at + i * HEAD_BYTES : at + (i + 1) * HEAD_BYTES] for i in range(count)]
        at += count * HEAD_BYTES


class MemoryStore:
    """A store in this process: for the demo, for files and for tests. The same guards, nothing kept at exit."""

    def __init__(self, keep: int) -> None:
        """Keep at least the last `keep` records of every log, and all that are not committed."""
        self._keep = keep
        self._logs: dict[bytes, bytearray] = {}
        self._markers: dict[Source, int] = {}
        self._floors: dict[Source, int] = {}
        self._epoch = 0
        self._sequence = 0

    def check(self) -> None:
        """Nothing to check: the state lives and dies with the process."""

    def position(self) -> Position:
        """See `StateStore`."""
        if not self._epoch:
            self._epoch = secrets.randbits(32) or 1
        return Position(self._epoch, dict(self._markers), dict(self._floors))

    def adopt(self, starts: Mapping[Source, int], *, force: bool = False) -> None:
        """See `StateStore`."""
        for source, start in starts.items():
            known = self._markers.setdefault(source, start)
            if force and known < start:
                self._markers[source] = start

    def flush(self) -> None:
        """Lose everything, as FLUSHALL does."""
        self._logs.clear()
        self._markers.clear()
        self._floors.clear()
        self._epoch = self._sequence = 0

    def apply(self, append: Append) -> Applied:
        """See `StateStore`."""
        markers = self._guard(append)
        fresh = {span.partition: marker for span, marker in zip(append.spans, markers, strict=True)}
        partial = any(marker > span.start for span, marker in zip(append.spans, markers, strict=True))
        for span, marker in zip(append.spans, markers, strict=True):
            source = (span.topic, span.partition)
            self._markers[source] = max(marker, span.end)
            self._floors[source] = max(self._floors.get(source, 0), span.floor)
        logs = self._append(append, fresh, partial=partial)
        return Applied(logs, markers, [self._floors[span.topic, span.partition] for span in append.spans])

    def close(self) -> None:
        """Nothing to release."""

    def _guard(self, append: Append) -> list[int]:
        if append.epoch != self._epoch:
            raise StateBehind("the state store has another epoch: its state was lost or replaced")
        markers = []
        for span in append.spans:
            marker = self._markers.get((span.topic, span.partition), -1)
            if marker < span.start:
                raise StateBehind(f"the marker of {span.topic}/{span.partition} is {marker}, below {span.start}")
            markers.append(marker)
        return markers

    def _append(self, append: Append, fresh: dict[int, int], *, partial: bool) -> list[bytes]:
        stamps = [stamp_bytes(duplicate=flag, epoch=self._epoch, base=self._sequence) for flag in (False, True)]
        repeated: set[bytes] = set()
        logs, appended = [], 0
        for place, key, heads in heads_of(append):
            log = self._logs.setdefault(key, bytearray())
            held = len(log)
            first = 0 if partial else max(0, held - self._keep * RECORD_BYTES)
            for head in heads:
                if partial and int.from_bytes(head[16:24], "little") < fresh[int.from_bytes(head[44:46], "little")]:
                    continue
                index = head[46:48]
                if place < append.cards and is_repeated(log, head[_EVENT_HASH], self._keep):
                    repeated.add(index)
                log += head + stamps[index in repeated]
                appended += 1
            logs.append(bytes(log[first:]))
            if len(log) >= max(2 * self._keep * RECORD_BYTES, held + 1):  # only a log that grew, as in Redis
                self._trim(key, log)
        if appended:
            self._sequence += append.size
        return logs

    def _trim(self, key: bytes, log: bytearray) -> None:
        floors = {partition: floor for (_, partition), floor in self._floors.items()}
        total = len(log) // RECORD_BYTES
        committed = 0
        while committed < total:
            head = log[committed * RECORD_BYTES : committed * RECORD_BYTES + HEAD_BYTES]
            if int.from_bytes(head[16:24], "little") >= floors.get(int.from_bytes(head[44:46], "little"), 0):
                break
            committed += 1
        cut = committed - self._keep
        if cut > 0:
            self._logs[key] = log[cut * RECORD_BYTES :]


def packed_spans(spans: tuple[Span, ...]) -> bytes:
    """Spans as MessagePack: [[name, partition, start, end, floor], ...]."""
    return msgspec.msgpack.encode([[f"{s.topic}:{s.partition}", s.partition, s.start, s.end, s.floor] for s in spans])


__all__ = [
    "FLAG_DUPLICATE",
    "Append",
    "Applied",
    "MemoryStore",
    "Position",
    "Source",
    "Span",
    "StateStore",
    "heads_of",
    "is_repeated",
    "packed_spans",
]
