"""The fold of an entity log, compiled: steps 1 to 4 of `docs/features.md` for a payment, and what a label does.

Everything is an integer, so sums don't depend on order: a value is the same bit for bit wherever a log was cut, merged
or read. A compacted log begins with a summary: a header unit, buckets, fraud labels three to a unit, days of frozen
labels three to a unit, then the raw payments as they were; records that were appended since follow.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from features.event import AMOUNT_MASK, FLAG_FRAUD, FLAG_REPEATED, FLAG_SHIFT, Words
from features.kernels import Table, borrowing, compiled, inlined
from features.units import (
    B_COUNT,
    B_HIGH,
    B_LOW,
    B_PEAK,
    B_SMALL,
    B_TOTAL,
    BUCKET_COLUMNS,
    BUCKETS,
    CLOCK,
    COARSEST,
    DAY,
    DAYS,
    DUPLICATE,
    FINE_FOR,
    FIRST,
    FOLDED,
    FRAUDS,
    HORIZON,
    KEEP,
    LEVEL,
    LIST_WIDTH,
    LISTED,
    MAX_BUCKETS,
    MAX_DAYS,
    NEVER,
    NEXT,
    PAYMENTS,
    SCALARS,
    SIZES,
    SMALL_AMOUNT,
    START,
    first_record,
    forgotten,
    has_summary,
    is_payment,
    place_of,
    power_of_two,
    raw_of_summary,
    square,
)


class State(NamedTuple):
    """A fold's state, as arrays that are used again for the next log.

    `raw` has the units of the payments in log order; those from scalars[FIRST] on are the raw part. For each of them,
    `repeated` tells whether it is, and `previous` the payment before it with the same event id, which `seen` finds.
    """

    scalars: Table
    buckets: Table  # (MAX_BUCKETS, BUCKET_COLUMNS)
    row: Table  # a bucket in hand
    listed: Table  # (frauds + 1, 2): event hash and event time of the fraud labels, oldest first
    days: Table  # (MAX_DAYS, 2): start and number of frozen ones
    raw: Table
    repeated: Table
    previous: Table
    seen: Table  # (power of two, 3): event hash, payment, generation


@compiled
def new_state(longest: int, limits: Table) -> State:
    """Room for the state of logs of up to `longest` units."""
    return State(
        np.zeros(SCALARS, np.int64),
        np.empty((MAX_BUCKETS, BUCKET_COLUMNS), np.int64),
        np.empty(BUCKET_COLUMNS, np.int64),
        np.empty((limits[FRAUDS] + 1, 2), np.int64),
        np.empty((MAX_DAYS, 2), np.int64),
        np.empty(longest, np.int64),
        np.empty(longest, np.int64),
        np.empty(longest, np.int64),
        np.zeros((power_of_two(2 * longest), 3), np.int64),
    )


@borrowing
def load(words: Words, start: int, end: int, generation: int, state: State) -> int:
    """Begin a log: take the state from its summary, if it has one. Returns the unit behind the summary."""
    scalars, buckets = state.scalars, state.buckets
    scalars[:] = 0
    if not has_summary(words, start, end):
        scalars[NEXT] = NEVER
        return start
    counts = words[start, 2]
    scalars[CLOCK], scalars[FOLDED] = words[start, 0], words[start, 3]
    scalars[BUCKETS], scalars[LISTED], scalars[DAYS] = counts & 0xFFFF, (counts >> 16) & 0xFFFF, (counts >> 32) & 0xFFFF
    unit = start + 1
    for i in range(scalars[BUCKETS]):
        buckets[i, START], buckets[i, LEVEL] = words[unit, 0], (words[unit, 1] >> FLAG_SHIFT) & 0xFF
        buckets[i, B_PEAK], buckets[i, B_TOTAL] = words[unit, 1] & AMOUNT_MASK, words[unit, 2]
        buckets[i, B_HIGH], buckets[i, B_LOW] = words[unit, 3], words[unit, 4]
        buckets[i, B_COUNT], buckets[i, B_SMALL] = words[unit, 5] & 0xFFFFFFFF, (words[unit, 5] >> 32) & 0xFFFFFFFF
        unit += 1
    unit = _load_list(words, unit, scalars[LISTED], state.listed)
    _load_list(words, unit, scalars[DAYS], state.days)
    unit = first_record(words, start, end)
    kept = raw_of_summary(words, start)
    for i in range(kept):
        state.raw[i] = unit + i
        state.repeated[i] = (words[unit + i, 1] >> FLAG_SHIFT) & FLAG_REPEATED
        _remember(words[unit + i, 3], i, generation, state)
    scalars[PAYMENTS] = kept
    return unit + kept  # NEXT is 0: the first payment looks at all buckets


@borrowing
def _load_list(words: Words, unit: int, count: int, pairs: Table) -> int:
    for i in range(count):
        at = 2 * (i % LIST_WIDTH)
        pairs[i, 0], pairs[i, 1] = words[unit + i // LIST_WIDTH, at], words[unit + i // LIST_WIDTH, at + 1]
    return unit + (count + LIST_WIDTH - 1) // LIST_WIDTH


@inlined
def _remember(event: int, payment: int, generation: int, state: State) -> int:
    """Note the newest payment with an event id; gives the one before it, or -1."""
    seen = state.seen
    place = place_of(seen, event, generation)
    before = seen[place, 1] if seen[place, 2] == generation else -1
    state.previous[payment] = before
    seen[place, 0], seen[place, 1], seen[place, 2] = event, payment, generation
    return before


@inlined
def fold_record(words: Words, unit: int, generation: int, state: State, limits: Table) -> bool:
    """Fold the record at `unit`, the next one of the log. Whether it is a payment."""
    state.scalars[FOLDED] += 1
    if is_payment(words, unit):
        _fold_payment(words, unit, generation, state, limits)
        return True
    _fold_label(words, unit, state, limits)
    return False


@inlined
def _fold_payment(words: Words, unit: int, generation: int, state: State, limits: Table) -> None:
    scalars, horizon, time = state.scalars, limits[HORIZON], words[unit, 0]
    if time > scalars[CLOCK]:
        scalars[CLOCK] = time
        if time >= scalars[NEXT]:
            coarsen(state, horizon)
    clock, own, first = scalars[CLOCK], scalars[PAYMENTS], scalars[FIRST]
    while first < own and forgotten(words[state.raw[first], 0], clock, horizon):
        first += 1
    state.raw[own] = unit
    if own - first + 1 > limits[KEEP]:
        if not state.repeated[first]:
            _retire(words, state.raw[first], state, horizon)
        first += 1
    scalars[FIRST], scalars[PAYMENTS] = first, own + 1
    state.repeated[own] = 0
    before = _remember(words[unit, 3], own, generation, state)
    while before >= first:
        if words[state.raw[before], 0] > clock - limits[DUPLICATE]:
            state.repeated[own] = 1
            break
        before = state.previous[before]


@borrowing
def _retire(words: Words, unit: int, state: State, horizon: int) -> None:
    """A record leaves the raw part: it counts in a bucket from now on."""
    time, row = words[unit, 0], state.row
    level = _level_of(time, 0, state.scalars[CLOCK])
    amount = words[unit, 1] & AMOUNT_MASK
    row[B_COUNT], row[B_SMALL] = 1, 1 if amount < SMALL_AMOUNT else 0
    row[B_TOTAL], row[B_PEAK] = amount, amount
    row[B_HIGH], row[B_LOW] = square(amount)
    _merge(time - time % SIZES[level], level, state, horizon)


@borrowing
def _level_of(time: int, level: int, clock: int) -> int:
    """The level at which a record of this time lies, from `level` up."""
    while level < COARSEST:
        coarser = SIZES[level + 1]
        if time - time % coarser + coarser > clock - FINE_FOR[level]:
            break
        level += 1
    return level


@borrowing
def _changes_at(start: int, level: int, horizon: int) -> int:
    """The clock at which a bucket is to lie at the next level, or to be dropped."""
    if level == COARSEST:
        return start + DAY + horizon
    coarser = SIZES[level + 1]
    return start - start % coarser + coarser + FINE_FOR[level]


@inlined
def _copy(buckets: Table, source: int, target: int) -> None:
    for column in range(BUCKET_COLUMNS):
        buckets[target, column] = buckets[source, column]


@borrowing
def _merge(start: int, level: int, state: State, horizon: int) -> None:
    """Add the bucket in hand to the one at (start, level), which is made if there is none.

    Buckets lie by rising start, so the one that is looked for is nearly always the last.
    """
    buckets, row, scalars = state.buckets, state.row, state.scalars
    place = scalars[BUCKETS]
    while place > 0 and (
        buckets[place - 1, START] > start or (buckets[place - 1, START] == start and buckets[place - 1, LEVEL] < level)
    ):
        place -= 1
    last = place - 1
    if place > 0 and buckets[last, START] == start and buckets[last, LEVEL] == level:
        for column in range(B_COUNT, B_PEAK):
            buckets[last, column] += row[column]
        buckets[last, B_PEAK] = max(buckets[last, B_PEAK], row[B_PEAK])
        return
    for later in range(scalars[BUCKETS], place, -1):
        _copy(buckets, later - 1, later)
    scalars[BUCKETS] += 1
    for column in range(BUCKET_COLUMNS):
        buckets[place, column] = row[column]
    buckets[place, START], buckets[place, LEVEL] = start, level
    scalars[NEXT] = min(scalars[NEXT], _changes_at(start, level, horizon))


@borrowing
def coarsen(state: State, horizon: int) -> None:
    """Bring all buckets to the levels that the clock asks for, and drop what is forgotten.

    The older a bucket, the sooner it changes: of those of a level the first tells whether any does.
    """
    scalars, row = state.scalars, state.row
    clock, alive, settled = scalars[CLOCK], scalars[BUCKETS], -1
    scalars[BUCKETS] = 0
    scalars[NEXT] = NEVER
    for i in range(alive):  # a bucket moves to a place at or before its own: nothing unread is overwritten
        start, level = state.buckets[i, START], state.buckets[i, LEVEL]
        if level != settled:
            change = _changes_at(start, level, horizon)
            if change <= clock:
                if not forgotten(start, clock, horizon):
                    for column in range(BUCKET_COLUMNS):
                        row[column] = state.buckets[i, column]
                    level = _level_of(start, level, clock)
                    _merge(start - start % SIZES[level], level, state, horizon)
                continue
            settled = level
            scalars[NEXT] = min(scalars[NEXT], change)
        if scalars[BUCKETS] < i:
            _copy(state.buckets, i, scalars[BUCKETS])
        scalars[BUCKETS] += 1


@borrowing
def _fold_label(words: Words, unit: int, state: State, limits: Table) -> None:
    """Fraud is listed, genuine is taken out; what falls off the list is frozen."""
    listed, scalars, time, event = state.listed, state.scalars, words[unit, 0], words[unit, 3]
    is_fraud = (words[unit, 1] >> FLAG_SHIFT) & FLAG_FRAUD != 0
    count, known = drop_forgotten(listed, 1, scalars[LISTED], scalars[CLOCK], limits[HORIZON]), False
    kept = 0
    for i in range(count):
        if listed[i, 0] == event:
            known = True
            if not is_fraud:
                continue
        listed[kept, 0], listed[kept, 1] = listed[i, 0], listed[i, 1]
        kept += 1
    if is_fraud and not known and not forgotten(time, scalars[CLOCK], limits[HORIZON]):
        listed[kept, 0], listed[kept, 1] = event, time
        kept += 1
    if kept > limits[FRAUDS]:
        _freeze(listed[0, 1], state, limits)
        for i in range(1, kept):
            listed[i - 1, 0], listed[i - 1, 1] = listed[i, 0], listed[i, 1]
        kept -= 1
    scalars[LISTED] = kept


@borrowing
def _freeze(time: int, state: State, limits: Table) -> None:
    """Count a fraud in its day for good."""
    days, scalars, start = state.days, state.scalars, time - time % DAY
    count, oldest = drop_forgotten(days, 0, scalars[DAYS], scalars[CLOCK], limits[HORIZON]), 0
    scalars[DAYS] = count
    for i in range(count):
        if days[i, 0] == start:
            days[i, 1] += 1
            return
        if days[i, 0] < days[oldest, 0]:
            oldest = i
    if count < MAX_DAYS:
        oldest = count
        scalars[DAYS] += 1
    days[oldest, 0], days[oldest, 1] = start, 1  # only labels of days to come can fill it


@borrowing
def drop_forgotten(pairs: Table, time_column: int, count: int, clock: int, horizon: int) -> int:
    """Close the gaps that forgotten entries leave in a list; how many are left."""
    kept = 0
    for i in range(count):
        if not forgotten(pairs[i, time_column], clock, horizon):
            pairs[kept, 0], pairs[kept, 1] = pairs[i, 0], pairs[i, 1]
            kept += 1
    return kept
