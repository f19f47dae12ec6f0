"""What a payment sees of a folded log, in cells of age: the sums from which values are made.

`edges` (rising ages in ms) cut the past into cells: cell e holds ages from edges[e - 1] (0 for the first) to edges[e],
exclusive. A window is a run of cells. A row of the table of cells is a *channel*.
"""

from __future__ import annotations

from typing import Final

from features.event import AMOUNT_MASK, Words
from features.fold import State
from features.kernels import Table, inlined
from features.units import (
    B_COUNT,
    B_HIGH,
    B_LOW,
    B_PEAK,
    B_SMALL,
    B_TOTAL,
    BUCKETS,
    CATEGORY,
    CLOCK,
    COUNTRY,
    DAY,
    DAYS,
    FIRST,
    HORIZON,
    LEVEL,
    LISTED,
    NEAR,
    NEVER,
    PAYMENTS,
    SIZES,
    SMALL_AMOUNT,
    START,
    TAGS,
    forgotten,
    square,
    tag_of,
)

# channels; those from SMALL on are gathered only where a feature needs them
COUNT, TOTAL, EARLIER, SMALL, KNOWN_FRAUDS = 0, 1, 2, 3, 4  # EARLIER counts without the own record, the others with it
SQUARE_HIGH, SQUARE_LOW, PEAK = 5, 6, 7  # of earlier amounts; PEAK is -1 where there is none
RAW, TROUGH, OLDEST, CLOSE = 8, 9, 10, 11  # of earlier raw records; TROUGH is NEVER and OLDEST -1 where there is none
SAME, DISTINCT = 12, 17  # five each: by first, second and third counterpart, country, merchant category
FRAUD_NEWEST, FRAUD_OLDEST = 22, 23  # ages of known frauds; NEVER and -1 where there is none
CHANNELS: Final = 24

# what is known of the payment itself, besides
STATUS, REPEATED, SINCE_LAST, LAST_COUNTRY, AMOUNT, OWN_COUNTRY, HAS = 0, 1, 2, 3, 4, 5, 6
EXTRAS: Final = 7
FOUND, MISSING, FOLDED_IN = 0, 1, 2  # of STATUS: whether the own record is there, and still by itself


@inlined
def gather(
    words: Words,
    state: State,
    edges: Table,
    needed: Table,
    limits: Table,
    tags: Table,
    cell_of: Table,
    cells: Table,
    sums: Table,
    extra: Table,
) -> None:
    """Fill `cells`, their running `sums` and `extra` for the payment that was folded last.

    Their shapes are (CHANNELS, cells), (CHANNELS, cells + 1) and (EXTRAS,).

    `needed` has shape (CHANNELS,): 1 for channels to be gathered. `tags` is a table for distinct counterparts, whose
    last row's generation counts up; `cell_of` has room for the raw part.
    """
    cells[:, :] = 0
    cells[PEAK, :], cells[TROUGH, :], cells[OLDEST, :] = -1, NEVER, -1
    cells[FRAUD_NEWEST, :], cells[FRAUD_OLDEST, :] = NEVER, -1
    own = state.scalars[PAYMENTS] - 1
    unit = state.raw[own]
    extra[STATUS], extra[REPEATED], extra[AMOUNT] = FOUND, state.repeated[own], words[unit, 1] & AMOUNT_MASK
    extra[OWN_COUNTRY], extra[HAS] = tag_of(words, unit, COUNTRY), 0
    for which in range(TAGS):
        if tag_of(words, unit, which):
            extra[HAS] |= 1 << which
    _gather_raw(words, state, edges, needed, cell_of, cells, extra)
    _gather_buckets(words[unit, 0], state, edges, cells)
    if needed[SAME : SAME + TAGS].any():
        _gather_same(words, state, cell_of, cells)
    for which in range(TAGS):
        if needed[DISTINCT + which]:
            _gather_distinct(words, state, cell_of, which, tags, cells)
    if needed[KNOWN_FRAUDS]:
        _gather_frauds(words[unit, 0], state, edges, limits, cells)
    for channel in range(CHANNELS):
        for cell in range(edges.size):
            sums[channel, cell + 1] = sums[channel, cell] + cells[channel, cell]


@inlined
def _cell(age: int, edges: Table) -> int:
    cell = 0
    while age >= edges[cell]:
        cell += 1
    return cell


@inlined
def _cell_near(age: int, cell: int, edges: Table) -> int:
    """The same, searched for from a cell that may be near it."""
    while age >= edges[cell]:
        cell += 1
    while cell > 0 and age < edges[cell - 1]:
        cell -= 1
    return cell


@inlined
def _gather_raw(
    words: Words, state: State, edges: Table, needed: Table, cell_of: Table, cells: Table, extra: Table
) -> None:
    """Sums over the raw part; `cell_of` gets each raw record's cell, -1 for one that counts nowhere.

    From the newest record back: ages mostly rise, so a cell is added up in registers and stored when it is left.
    """
    raw, own, first = state.raw, state.scalars[PAYMENTS] - 1, state.scalars[FIRST]
    time, last_edge, with_squares, with_raw = words[raw[own], 0], edges[-1], needed[SQUARE_HIGH], needed[RAW]
    newest, last = NEVER, -1
    cell, upper = 0, edges[0]
    lower = upper  # none is in hand: the first record finds its cell
    count, total, small, high, low, peak = 0, 0, 0, 0, 0, -1
    cell_of[own - first] = -1
    if not state.repeated[own]:
        cell_of[own - first] = 0
        cells[COUNT, 0], cells[TOTAL, 0], cells[SMALL, 0] = 1, extra[AMOUNT], 1 if extra[AMOUNT] < SMALL_AMOUNT else 0
    for i in range(own - 1, first - 1, -1):
        record = raw[i]
        age = time - words[record, 0]
        if state.repeated[i] or age < 0 or age >= last_edge:
            cell_of[i - first] = -1
            continue
        if age < lower or age >= upper:
            _store(cells, cell, count, total, small, high, low, peak)
            count, total, small, high, low, peak = 0, 0, 0, 0, 0, -1
            cell = _cell_near(age, cell, edges)
            lower, upper = edges[cell - 1] if cell else 0, edges[cell]
        cell_of[i - first] = cell
        amount = words[record, 1] & AMOUNT_MASK
        count += 1
        total += amount
        small += 1 if amount < SMALL_AMOUNT else 0
        peak = max(peak, amount)
        if age < newest:
            newest, last = age, record
        if with_squares:
            upper_part, lower_part = square(amount)
            high += upper_part
            low += lower_part
        if with_raw:
            _add_raw(age, amount, cell, cells)
    _store(cells, cell, count, total, small, high, low, peak)
    extra[SINCE_LAST], extra[LAST_COUNTRY] = newest, 0
    if last >= 0:
        extra[LAST_COUNTRY] = tag_of(words, last, COUNTRY)


@inlined
def _add_raw(age: int, amount: int, cell: int, cells: Table) -> None:
    """What only raw records tell."""
    cells[RAW, cell] += 1
    cells[TROUGH, cell] = min(cells[TROUGH, cell], amount)
    cells[OLDEST, cell] = max(cells[OLDEST, cell], age)
    apart = age % DAY
    if min(apart, DAY - apart) <= NEAR:
        cells[CLOSE, cell] += 1


@inlined
def _store(cells: Table, cell: int, count: int, total: int, small: int, high: int, low: int, peak: int) -> None:
    """Add earlier records to a cell."""
    cells[COUNT, cell] += count
    cells[EARLIER, cell] += count
    cells[TOTAL, cell] += total
    cells[SMALL, cell] += small
    cells[SQUARE_HIGH, cell] += high
    cells[SQUARE_LOW, cell] += low
    cells[PEAK, cell] = max(cells[PEAK, cell], peak)


@inlined
def _gather_buckets(time: int, state: State, edges: Table, cells: Table) -> None:
    """Buckets lie by rising start: from the last one back their ages rise, but for the halves of coarser ones."""
    buckets, cell, last_edge = state.buckets, 0, edges[-1]
    for i in range(state.scalars[BUCKETS] - 1, -1, -1):
        start = buckets[i, START]
        age = max(0, time - start - SIZES[buckets[i, LEVEL]] // 2)
        if start > time or age >= last_edge:
            continue
        cell = _cell_near(age, cell, edges)
        count, total, small = buckets[i, B_COUNT], buckets[i, B_TOTAL], buckets[i, B_SMALL]
        _store(cells, cell, count, total, small, buckets[i, B_HIGH], buckets[i, B_LOW], buckets[i, B_PEAK])


@inlined
def _gather_same(words: Words, state: State, cell_of: Table, cells: Table) -> None:
    """Earlier raw records with the payment's own tags."""
    own, first = state.scalars[PAYMENTS] - 1, state.scalars[FIRST]
    own_pair, own_rest = words[state.raw[own], 4], words[state.raw[own], 5]
    for i in range(first, own):
        cell = cell_of[i - first]
        if cell < 0:
            continue
        pair, rest = words[state.raw[i], 4] ^ own_pair, words[state.raw[i], 5] ^ own_rest
        if pair & 0xFFFFFFFF == 0:
            cells[SAME, cell] += 1
        if (pair >> 32) & 0xFFFFFFFF == 0:
            cells[SAME + 1, cell] += 1
        if rest & 0xFFFFFFFF == 0:
            cells[SAME + 2, cell] += 1
        if (rest >> 32) & 0xFFFF == 0:
            cells[SAME + COUNTRY, cell] += 1
        if (rest >> 48) & 0xFFFF == 0:
            cells[SAME + CATEGORY, cell] += 1


@inlined
def _gather_distinct(words: Words, state: State, cell_of: Table, which: int, tags: Table, cells: Table) -> None:
    """Raw records with different tags: a tag counts in the cell of its newest record."""
    first, spare, channel = state.scalars[FIRST], tags.shape[0] - 1, DISTINCT + which
    tags[spare, 2] += 1
    generation = tags[spare, 2]
    for i in range(state.scalars[PAYMENTS] - 1, first - 1, -1):
        cell, tag = cell_of[i - first], tag_of(words, state.raw[i], which)
        if cell < 0 or tag == 0:
            continue
        place = tag & (spare - 1)
        while tags[place, 2] == generation and tags[place, 0] != tag:
            place = (place + 1) & (spare - 1)
        if tags[place, 2] != generation:
            tags[place, 0], tags[place, 1], tags[place, 2] = tag, cell, generation
            cells[channel, cell] += 1
        elif cell < tags[place, 1]:
            cells[channel, tags[place, 1]] -= 1
            cells[channel, cell] += 1
            tags[place, 1] = cell


@inlined
def _gather_frauds(time: int, state: State, edges: Table, limits: Table, cells: Table) -> None:
    clock, horizon, last_edge = state.scalars[CLOCK], limits[HORIZON], edges[-1]
    for i in range(state.scalars[LISTED]):
        age = time - state.listed[i, 1]
        if 0 <= age < last_edge and not forgotten(state.listed[i, 1], clock, horizon):
            _add_frauds(age, 1, _cell(age, edges), cells)
    for i in range(state.scalars[DAYS]):
        start = state.days[i, 0]
        age = max(0, time - start - DAY // 2)
        if start <= time and age < last_edge and not forgotten(start, clock, horizon):
            _add_frauds(age, state.days[i, 1], _cell(age, edges), cells)


@inlined
def _add_frauds(age: int, count: int, cell: int, cells: Table) -> None:
    cells[KNOWN_FRAUDS, cell] += count
    cells[FRAUD_NEWEST, cell] = min(cells[FRAUD_NEWEST, cell], age)
    cells[FRAUD_OLDEST, cell] = max(cells[FRAUD_OLDEST, cell], age)
