"""The small tools with which tests of a `StateStore` are written: records, calls of all shards, and their replies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from features.enrich import shard_of
from features.event import UNIT_BYTES, UNIT_WORDS, Label, Payment, Words, batch_of, labels_of
from features.store import Append, Applied, Replacement, Source, Span, StateStore

TOPIC = "payments"
LABELS = "labels"
T0 = (TOPIC, 0)
T1 = (TOPIC, 1)
L0 = (LABELS, 0)
TIME_MS = 1_750_000_000_000
OFFSETS = (1 << 48) - 1

T = TypeVar("T")


@dataclass(frozen=True)
class Record:
    """One payment or label, as far as a store sees it: it has a card's log and a merchant's."""

    offset: int
    card: str = "a"
    merchant: str = "shop"
    partition: int = 0
    labels: bool = False

    @property
    def keys(self) -> tuple[bytes, bytes]:
        return b"c:" + self.card.encode(), b"m:" + self.merchant.encode()


def records(offsets: Iterable[int]) -> list[Record]:
    """Payments of one card at one merchant, at these offsets of partition 0."""
    return [Record(offset) for offset in offsets]


def span(start: int, end: int, floor: int = 0, partition: int = 0, *, labels: bool = False) -> Span:
    return Span(LABELS if labels else TOPIC, partition, start, end, floor, labels)


def unit(row: Record) -> Words:
    """(6,) the record in a log."""
    place = {"partition": [row.partition], "offset": [row.offset]}
    name = f"{row.partition}/{row.offset}"
    if row.labels:
        label = Label(name, row.card, row.merchant, TIME_MS, "fraud", TIME_MS, "issuer")
        return labels_of([label], topic=LABELS, **place).base.reshape(UNIT_WORDS)
    payment = Payment(name, TIME_MS + row.offset, row.card, row.merchant, 100 + row.offset, "EUR")
    return batch_of([payment], topic=TOPIC, **place).base.reshape(UNIT_WORDS)


def appends(
    epochs: Sequence[int],
    rows: Sequence[Record],
    *spans: Span,
    replacements: Sequence[Replacement] = (),
    refresh: Sequence[bytes] = (),
    all_floors: bool = False,
) -> list[Append]:
    """A call a shard for these records; without spans it covers partition 0 as the rows do."""
    logs: dict[bytes, list[Words]] = {}
    for row in rows:
        for key in row.keys:
            logs.setdefault(key, []).append(unit(row))
    spans = spans or (span(rows[0].offset, rows[-1].offset + 1),)
    calls = []
    for shard, epoch in enumerate(epochs):
        here = {key: units for key, units in logs.items() if shard_of(key, len(epochs)) == shard}
        words = [word for units in here.values() for word in units]
        calls.append(
            Append(
                epoch,
                spans,
                list(here),
                [len(units) for units in here.values()],
                np.array(words, np.int64).reshape(-1, UNIT_WORDS),
                [each for each in replacements if shard_of(each.key, len(epochs)) == shard],
                [key for key in refresh if shard_of(key, len(epochs)) == shard],
                all_floors,
            )
        )
    return calls


@dataclass(frozen=True)
class Reply:
    """What the shards answered."""

    calls: Sequence[Append]
    applied: Sequence[Applied]

    @property
    def logs(self) -> Mapping[bytes, Words]:
        """All logs after the call."""
        found: dict[bytes, Words] = {}
        for call, applied in zip(self.calls, self.applied, strict=True):
            words, starts, ends = applied.logs()
            found |= {key: words[a:b] for key, a, b in zip(call.keys, starts.tolist(), ends.tolist(), strict=True)}
        return found

    @property
    def markers(self) -> list[int]:
        """The spans' markers before the call: the same in all shards."""
        return _alike([applied.markers for applied in self.applied])

    @property
    def floors(self) -> list[int]:
        """The spans' floors after the call: the same in all shards."""
        return _alike([applied.floors for applied in self.applied])

    @property
    def runs(self) -> list[list[tuple[int, int, int]]]:
        """The spans' runs as (start, end, sequence): the same in all shards."""
        return _alike([[[run[:3] for run in runs] for runs in applied.runs] for applied in self.applied])

    def offsets(self, key: bytes = b"c:a") -> list[int]:
        """Offsets of the records in a log, in its order."""
        found: list[int] = (self.logs[key][:, 2] & OFFSETS).tolist()
        return found

    def sources(self, key: bytes = b"c:a") -> list[tuple[int, int]]:
        """Source id and offset of the records in a log, in its order."""
        return [(word >> 48 & 0xFFFF, word & OFFSETS) for word in self.logs[key][:, 2].tolist()]


def _alike(answers: Sequence[T]) -> T:
    assert all(answer == answers[0] for answer in answers)
    return answers[0]


def apply(store: StateStore, epochs: Sequence[int], rows: Sequence[Record], *spans: Span, **more: object) -> Reply:
    """Call every shard; `more` as for `appends`."""
    calls = appends(epochs, rows, *spans, **more)  # type: ignore[arg-type]  # handed on
    return Reply(calls, store.apply(calls))


def epochs_of(store: StateStore) -> list[int]:
    return [position.epoch for position in store.positions()]


def opened(store: StateStore, *sources: Source) -> list[int]:
    """Set the markers of these sources (partition 0 by default) to 0 and give the epochs."""
    epochs = epochs_of(store)
    store.adopt(dict.fromkeys(sources or [T0], 0))
    return epochs


def markers(store: StateStore) -> Mapping[Source, int]:
    """The markers, which are the same in all shards."""
    return _alike([position.markers for position in store.positions()])


def held(store: StateStore, epochs: Sequence[int], marker: int, row: Record | None = None) -> Reply:
    """Logs as they are: a call that lies below the marker of partition 0 appends nothing."""
    return apply(store, epochs, [row or Record(0)], span(0, marker))


def summary_of(*offsets: int) -> bytes:
    """Units that stand for others; a store does not look into them."""
    return b"".join(unit(Record(offset, partition=7)).tobytes() for offset in offsets)


def replacing(key: bytes, first: int, units: int, summary: bytes) -> Replacement:
    """Replace so many units of a log that begins with the record of offset `first` of a card `a` at `shop`."""
    return Replacement(key, unit(Record(first)).tobytes(), units * UNIT_BYTES, summary)
