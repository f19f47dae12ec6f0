"""Windows over entity logs, vectorised over a micro-batch. Pure numpy: no clock, no I/O.

For each payment the *prefix* is the last `keep` records of a log up to and including the payment's own record, in log
order. A record of the prefix counts in a window of w ms when 0 <= t - u < w, t being the payment's event time and u
the record's; a repeated event id (flagged in the record) never counts. Where the text says *earlier*, the payment's
own record is left out.

Amounts are integers, so that sums in float64 are exact below 2**53 and do not depend on order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from features.event import FLAG_DUPLICATE, KIND_PAYMENT, RECORD, RECORD_BYTES, Records

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

NEVER: Final = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Logs:
    """The logs of one entity kind, laid end to end: log k is `records[ends[k] - lengths[k] : ends[k]]`."""

    records: Records
    lengths: Ints
    ends: Ints

    @cached_property
    def plain(self) -> npt.NDArray[np.bool_]:
        """(records,) whether a record is a payment whose event id is not repeated."""
        kind, flags = self.records["kind"], self.records["flags"]
        return np.asarray((kind & 0x0F == KIND_PAYMENT) & (flags & FLAG_DUPLICATE == 0))

    @classmethod
    def of(cls, logs: Sequence[bytes]) -> Logs:
        """Join raw logs, in key order."""
        lengths = np.fromiter([len(log) for log in logs], np.int64, len(logs)) // RECORD_BYTES
        return cls(np.frombuffer(b"".join(logs), RECORD), lengths, np.cumsum(lengths))


def own_positions(logs: Logs, slot: Ints, rank_from_end: Ints, partition: Ints, offset: Ints) -> Ints:
    """Find each payment's own record by its source; -1 where the log has none.

    Args:
        logs: m logs of one entity kind.
        slot: (n,) which log each payment's entity has.
        rank_from_end: (n,) where the own record lies if the batch was just appended, counted from the log's end (1 is
            the last record). Only a guess: it is checked, and a log that says otherwise is searched.
        partition: (n,) the payment's source partition.
        offset: (n,) the payment's source offset.

    Returns:
        (n,) positions in `logs.records`.
    """
    records = logs.records
    if not records.size:
        return np.full(slot.size, -1)
    starts = logs.ends - logs.lengths
    guess = logs.ends[slot] - rank_from_end
    safe = np.maximum(guess, 0)
    found = (guess >= starts[slot]) & (records["offset"][safe] == offset) & (records["partition"][safe] == partition)
    position = np.where(found, safe, -1)
    for i in np.flatnonzero(~found):
        start, end = starts[slot[i]], logs.ends[slot[i]]
        log = records[start:end]
        hits = np.flatnonzero(
            (log["offset"] == offset[i]) & (log["partition"] == partition[i]) & (log["kind"] & 0x0F == KIND_PAYMENT)
        )
        if hits.size:
            position[i] = start + hits[-1]
    return position


@dataclass(frozen=True)
class Subject:
    """What the features of one entity kind need to know of each of the n payments themselves. All shapes (n,)."""

    event_time: Ints
    amount: Ints
    card: npt.NDArray[np.uint32]
    merchant: npt.NDArray[np.uint32]
    device: npt.NDArray[np.uint32]
    country: npt.NDArray[np.uint16]

    def take(self, rows: Ints) -> Subject:
        """Some of the payments."""
        return Subject(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class View:
    """The (payment, record) pairs of n payments with one entity's logs, and what is computed once from them.

    `windows_ms` must rise; the last one is the longest that any feature asks for.
    """

    logs: Logs
    own: Ints
    slot: Ints
    subject: Subject
    windows_ms: tuple[int, ...]
    keep: int
    _columns: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    _distinct: dict[str, Floats] = field(default_factory=dict)
    _below: dict[int, Floats] = field(default_factory=dict)

    @cached_property
    def first(self) -> Ints:
        """(n,) row of the first record of each prefix."""
        starts = self.logs.ends - self.logs.lengths
        first: Ints = np.maximum(starts[self.slot], self.own - self.keep + 1)
        return first

    @cached_property
    def lengths(self) -> Ints:
        """(n,) records in each prefix."""
        return self.own - self.first + 1

    @cached_property
    def _pair_starts(self) -> Ints:
        return np.cumsum(self.lengths) - self.lengths

    @cached_property
    def row(self) -> Ints:
        """(pairs,) which payment each pair belongs to; payments in order, records in log order."""
        return np.repeat(np.arange(self.own.size), self.lengths)

    @cached_property
    def position(self) -> Ints:
        """(pairs,) the row of each pair's record."""
        return np.arange(self.row.size) + np.repeat(self.first - self._pair_starts, self.lengths)

    def column(self, name: str) -> npt.NDArray[Any]:
        """(pairs,) one field of each pair's record."""
        if name not in self._columns:
            # a field at a time: numpy copies whole records one by one
            self._columns[name] = self.logs.records[name][self.position]
        return self._columns[name]

    @cached_property
    def age_ms(self) -> Ints:
        """(pairs,) the payment's event time less the record's; negative for a record of the payment's future."""
        age: Ints = self.subject.event_time[self.row] - self.column("event_time")
        return age

    @cached_property
    def amount(self) -> Floats:
        """(pairs,) amounts in minor units."""
        return self.column("amount").astype(np.float64)

    @cached_property
    def counts_at_all(self) -> npt.NDArray[np.bool_]:
        """(pairs,) whether the record is a payment that is not repeated and not in the payment's future."""
        timely = self.age_ms >= 0
        plain = self.logs.plain
        return timely if plain.all() else timely & plain[self.position]

    @cached_property
    def is_own(self) -> npt.NDArray[np.bool_]:
        """(pairs,) whether the record is the payment's own."""
        own = np.zeros(self.row.size, np.bool_)
        own[self._pair_starts + self.lengths - 1] = True
        return own

    @cached_property
    def earlier(self) -> npt.NDArray[np.bool_]:
        """(pairs,) what counts at all, without the payment's own record."""
        return self.counts_at_all & ~self.is_own

    @cached_property
    def bucket(self) -> Ints:
        """(pairs,) index of the shortest window that holds the record; `len(windows_ms)` when none does."""
        bucket = np.zeros(self.row.size, np.int64)
        for window_ms in self.windows_ms:  # few windows: comparing with each beats a binary search
            bucket += self.age_ms >= window_ms
        if not self.counts_at_all.all():
            bucket[~self.counts_at_all] = len(self.windows_ms)
        return bucket

    @cached_property
    def _cell(self) -> Ints:
        return self.row * (len(self.windows_ms) + 1) + self.bucket

    def _by_window(self, cell: Ints, weights: npt.NDArray[Any] | None) -> Floats:
        """(n, windows) sums over each window: one weighted count and a running sum. A cell is row * width + bucket."""
        width = len(self.windows_ms) + 1
        cells = np.bincount(cell, weights, minlength=self.own.size * width)
        return np.cumsum(cells.reshape(self.own.size, width)[:, :-1], axis=1, dtype=np.float64)

    def sums(self, weights: Ints | None) -> Floats:
        """(n, windows) sums of the rows' weights, shape (records,), over each window; of ones if None."""
        return self._by_window(self._cell, None if weights is None else weights[self.position])

    @cached_property
    def count(self) -> Floats:
        """(n, windows) number of payments, the own one included."""
        return self.sums(None)

    @cached_property
    def total(self) -> Floats:
        """(n, windows) sum of amounts, the own one included."""
        return self.sums(self.logs.records["amount"])

    def distinct(self, tag: str) -> Floats:
        """(n, windows) number of distinct non-zero tags of one kind (`merchant`, `card`, `device`, `country`)."""
        if tag not in self._distinct:
            tags = self.column(tag).astype(np.int64)
            used = np.flatnonzero(self.counts_at_all & (tags != 0))
            key = (self.row[used] << 32) | tags[used]
            order = np.argsort(key, kind="stable")
            ordered = key[order]
            first = np.flatnonzero(np.diff(ordered, prepend=-1))
            # a tag is in a window when its newest record is
            newest = np.minimum.reduceat(self.bucket[used][order], first) if first.size else np.zeros(0, np.int64)
            self._distinct[tag] = self._by_window((ordered[first] >> 32) * (len(self.windows_ms) + 1) + newest, None)
        return self._distinct[tag]

    def maximum(self, window: int, *, earlier: bool) -> Floats:
        """(n,) largest amount in a window; NaN where nothing counts."""
        mask = self.bucket <= window
        if earlier:
            mask &= ~self.is_own
        peak = np.maximum.reduceat(np.where(mask, self.amount, -1.0), self._pair_starts)
        return np.where(peak < 0, np.nan, peak)

    @cached_property
    def since_last_ms(self) -> Ints:
        """(n,) age of the newest earlier record by event time; `NEVER` where there is none."""
        return np.minimum.reduceat(np.where(self.earlier, self.age_ms, NEVER), self._pair_starts)

    @cached_property
    def last(self) -> Ints:
        """(n,) pair index of that record (the last in log order among equals); -1 where there is none."""
        candidate = self.earlier & (self.age_ms == self.since_last_ms[self.row])
        return np.maximum.reduceat(np.where(candidate, np.arange(self.row.size), -1), self._pair_starts)

    def earlier_with_same(self, tag: str, window: int) -> Floats:
        """(n,) earlier payments in a window whose tag is the payment's own; NaN where the payment has none."""
        own = getattr(self.subject, tag)
        same = self.earlier & (self.bucket <= window) & (self.column(tag) == own[self.row])
        return np.where(own == 0, np.nan, np.bincount(self.row, same, minlength=self.own.size))

    def below(self, amount_minor: int) -> Floats:
        """(n, windows) number of payments under an amount."""
        if amount_minor not in self._below:
            self._below[amount_minor] = self.sums((self.logs.records["amount"] < amount_minor).astype(np.int64))
        return self._below[amount_minor]

    def deviation(self, window: int) -> tuple[Floats, Floats]:
        """(n,), (n,) mean and population standard deviation of earlier amounts in a window, in two passes."""
        mask = self.earlier & (self.bucket <= window)
        n = self.own.size
        with np.errstate(invalid="ignore", divide="ignore"):
            count = np.bincount(self.row, mask, minlength=n)
            mean = np.bincount(self.row, np.where(mask, self.amount, 0.0), minlength=n) / count
            off = np.where(mask, self.amount - mean[self.row], 0.0)
            spread = np.sqrt(np.bincount(self.row, off * off, minlength=n) / count)
        return mean, spread
