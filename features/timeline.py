"""The same windows as `features.windows.View`, for long logs: rows sorted by time once, instead of pairs.

A batch at a hot merchant pairs every payment with hundreds of records, most of them the same ones. Here each log's
rows are sorted by event time once; a window is then a range between two binary searches, and its sums are differences
of running sums. Rows of the range that are not in a payment's prefix (they arrived later, or before its newest `keep`
records) are few; they are paired with the payment and subtracted.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final, TypeVar

import numpy as np

from features.windows import Floats, Ints, View

LONG_PAIRS: Final = 4_000  # below this many pairs, pairs are as fast
SPARE_SHARE: Final = 4  # rows to subtract must be fewer than one in so many pairs

_V = TypeVar("_V", bound=View)


def view_of(view: View) -> View:
    """The faster of the two ways to compute a view; the values are the same."""
    pairs = int(view.lengths.sum())
    outside = int(view.logs.lengths[view.slot].sum()) - pairs
    return _as(Timeline, view) if pairs > LONG_PAIRS and outside * SPARE_SHARE < pairs else view


def _as(kind: type[_V], view: View) -> _V:
    return kind(view.logs, view.own, view.slot, view.subject, view.windows_ms, view.keep)


@dataclass(frozen=True)
class Timeline(View):
    """A `View` whose sums, maxima and newest records come from sorted rows."""

    @cached_property
    def _span_ms(self) -> tuple[int, int]:
        times = self.logs.records["event_time"]
        first = int(times.min())
        return first, int(times.max()) - first + 1

    @cached_property
    def _sorted(self) -> tuple[Ints, Ints]:
        """Rows in order of (log, time, arrival), and their keys: log * span + time since the first."""
        first_ms, span_ms = self._span_ms
        log = np.repeat(np.arange(self.logs.lengths.size), self.logs.lengths)
        key = log * span_ms + (self.logs.records["event_time"] - first_ms)
        order = np.argsort(key, kind="stable")
        return order, key[order]

    @cached_property
    def _bounds(self) -> Ints:
        """(n, windows + 1) where each window begins among the sorted rows; the last column is where all end."""
        first_ms, span_ms = self._span_ms
        _, keys = self._sorted
        since = (self.subject.event_time - first_ms)[:, None] - np.array([*self.windows_ms, 0])
        edges = self.slot[:, None] * span_ms + np.maximum(since, -1)
        bounds: Ints = np.searchsorted(keys, edges, side="right")
        return bounds

    @cached_property
    def _outside(self) -> View:
        """The pairs that are in the payments' logs but not in their prefixes, as a view to subtract."""
        return _as(_Outside, self)

    def sums(self, weights: Ints | None) -> Floats:
        """See `View.sums`. Running sums are of integers, and so exact."""
        order, _ = self._sorted
        plain = self.logs.plain
        counted: Ints = plain.astype(np.int64) if weights is None else np.where(plain, weights, 0)
        running = np.concatenate(([0], np.cumsum(counted[order])))
        at = running[self._bounds]
        return (at[:, -1:] - at[:, :-1]).astype(np.float64) - self._outside.sums(weights)

    def maximum(self, window: int, *, earlier: bool) -> Floats:
        """See `View.maximum`. A prefix that lies wholly inside the window is a range of rows."""
        whole = self.count[:, window] == self.lengths
        if earlier:
            whole &= self.lengths > 1
        peak = np.empty(self.own.size)
        inside = np.flatnonzero(whole)
        if inside.size:
            inside = inside[np.argsort(self.own[inside])]  # reduceat also reduces the gaps: keep them short
            ends = self.own[inside] + (0 if earlier else 1)
            edges = np.column_stack((self.first[inside], ends)).ravel()
            amounts = np.append(self.logs.records["amount"], 0)  # reduceat wants every edge to be an index
            peak[inside] = np.maximum.reduceat(amounts, edges)[::2]
        rest = np.flatnonzero(~whole)
        if rest.size:
            peak[rest] = self._pairs(rest).maximum(window, earlier=earlier)
        return peak

    @cached_property
    def since_last_ms(self) -> Ints:
        """See `View.since_last_ms`. Mostly the row before the own one in time."""
        order, _ = self._sorted
        place = np.empty_like(order)
        place[order] = np.arange(order.size)
        before = order[np.maximum(place[self.own] - 1, 0)]
        # rows outside the prefix can't be told from the end of the log here: both go the long way
        usable = (before >= self.first) & (before < self.own) & self.logs.plain[before]
        age: Ints = self.subject.event_time - self.logs.records["event_time"][before]
        rest = np.flatnonzero(~usable)
        if rest.size:
            age[rest] = self._pairs(rest).since_last_ms
        return age

    def _pairs(self, rows: Ints) -> View:
        return View(self.logs, self.own[rows], self.slot[rows], self.subject.take(rows), self.windows_ms, self.keep)


@dataclass(frozen=True)
class _Outside(View):
    """Pairs of each payment with the rows of its log that are *not* in its prefix."""

    @cached_property
    def row(self) -> Ints:
        """(pairs,) which payment each pair belongs to."""
        return np.repeat(np.arange(self.own.size), self.logs.lengths[self.slot] - self.lengths)

    @cached_property
    def position(self) -> Ints:
        """(pairs,) the row of each pair: first those before the prefix, then those behind it."""
        ends = self.logs.ends[self.slot]
        starts = ends - self.logs.lengths[self.slot]
        before, behind = self.first - starts, ends - self.own - 1
        count = before + behind
        rank = np.arange(self.row.size) - np.repeat(np.cumsum(count) - count, count)
        skipped = np.where(rank < np.repeat(before, count), 0, np.repeat(self.lengths, count))
        position: Ints = np.repeat(starts, count) + rank + skipped
        return position
