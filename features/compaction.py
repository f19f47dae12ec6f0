"""When a log is worth compacting, and the summary that then stands for its committed records."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from features.event import FLAG_SHIFT, KIND_SHIFT, LAYOUT_VERSION, OFFSET_MASK, UNIT_WORDS, Words
from features.fold import coarsen, drop_forgotten, fold_record, load, new_state
from features.kernels import Table, borrowing, compiled
from features.units import (
    B_COUNT,
    B_HIGH,
    B_LOW,
    B_PEAK,
    B_SMALL,
    B_TOTAL,
    BUCKETS,
    CLOCK,
    DAY,
    DAYS,
    FIRST,
    FOLDED,
    HORIZON,
    KEEP,
    KIND_BUCKET,
    KIND_SUMMARY,
    LEVEL,
    LIST_WIDTH,
    LISTED,
    PAYMENTS,
    START,
    first_record,
    forgotten,
    has_summary,
    is_payment,
    raw_of_summary,
)

PERIOD: Final = 30 * DAY


@compiled
def due(words: Words, starts: Table, ends: Table, floors: Table, limits: Table) -> Table:
    """(m,) where to cut each log that is worth compacting: the end of its committed records. 0: leave it alone.

    `floors` has the offset that ends what is committed, by source id. A log is worth it when a quarter of `keep`
    records would leave its raw part, or a sixteenth that are forgotten or labels. When it is done changes no value.
    """
    cuts = np.zeros(starts.size, np.int64)
    worth = max(2, limits[KEEP] // 4)
    for k in range(starts.size):
        first = first_record(words, starts[k], ends[k])
        if 4 * (ends[k] - first) < worth:
            continue
        clock, single = 0, first
        if has_summary(words, starts[k], ends[k]):
            clock, single = words[starts[k], 0], first + raw_of_summary(words, starts[k])
        payments, labels, unit = 0, 0, first
        while unit < ends[k]:
            if unit >= single and words[unit, 2] & OFFSET_MASK >= floors[(words[unit, 2] >> 48) & 0xFFFF]:
                break
            if is_payment(words, unit):
                payments += 1
                clock = max(clock, words[unit, 0])
            else:
                labels += 1
            unit += 1
        old = 0
        while first + old < unit and forgotten(words[first + old, 0], clock, limits[HORIZON]):
            old += 1
        if max(payments - limits[KEEP], 4 * old) + 4 * labels >= worth:
            cuts[k] = unit
    return cuts


@compiled
def newly_of_period(words: Words, starts: Table, ends: Table, new: Table) -> npt.NDArray[np.bool_]:
    """(m,) whether a log's last record lies in another period of 30 days than the last one before its `new` records."""
    newly = np.zeros(starts.size, np.bool_)
    for k in range(starts.size):
        before = ends[k] - new[k] - 1
        if new[k] > 0 and before >= starts[k]:
            newly[k] = words[before, 0] // PERIOD != words[ends[k] - 1, 0] // PERIOD
    return newly


@compiled
def summary(words: Words, limits: Table) -> Words:
    """A whole log, shape (units, 6), as a summary: what stands for it in every fold that goes on from here."""
    state = new_state(max(1, words.shape[0]), limits)
    scalars = state.scalars
    unit = load(words, 0, words.shape[0], 1, state)
    while unit < words.shape[0]:
        fold_record(words, unit, 1, state, limits)
        unit += 1
    clock, horizon = scalars[CLOCK], limits[HORIZON]
    coarsen(state, horizon)
    frauds = drop_forgotten(state.listed, 1, scalars[LISTED], clock, horizon)
    frozen = drop_forgotten(state.days, 0, scalars[DAYS], clock, horizon)
    alive, first, kept = scalars[BUCKETS], scalars[FIRST], scalars[PAYMENTS] - scalars[FIRST]
    lists = (frauds + LIST_WIDTH - 1) // LIST_WIDTH + (frozen + LIST_WIDTH - 1) // LIST_WIDTH
    result = np.zeros((1 + alive + lists + kept, UNIT_WORDS), np.int64)
    result[0, 0], result[0, 1] = clock, (KIND_SUMMARY << KIND_SHIFT) | (LAYOUT_VERSION << FLAG_SHIFT)
    result[0, 2] = alive | (frauds << 16) | (frozen << 32) | (kept << 48)
    result[0, 3] = scalars[FOLDED]
    at = 1
    for i in range(alive):
        bucket = state.buckets[i]
        result[at, 0] = bucket[START]
        result[at, 1] = bucket[B_PEAK] | (KIND_BUCKET << KIND_SHIFT) | (bucket[LEVEL] << FLAG_SHIFT)
        result[at, 2], result[at, 3], result[at, 4] = bucket[B_TOTAL], bucket[B_HIGH], bucket[B_LOW]
        result[at, 5] = bucket[B_COUNT] | (bucket[B_SMALL] << 32)
        at += 1
    at = _store_list(state.listed, frauds, result, at)
    at = _store_list(state.days, frozen, result, at)
    for i in range(kept):
        result[at + i] = words[state.raw[first + i]]
        result[at + i, 1] &= (1 << FLAG_SHIFT) - 1
        result[at + i, 1] |= state.repeated[first + i] << FLAG_SHIFT
    return result


@borrowing
def _store_list(pairs: Table, count: int, result: Words, at: int) -> int:
    for i in range(count):
        column = 2 * (i % LIST_WIDTH)
        result[at + i // LIST_WIDTH, column], result[at + i // LIST_WIDTH, column + 1] = pairs[i, 0], pairs[i, 1]
    return at + (count + LIST_WIDTH - 1) // LIST_WIDTH
