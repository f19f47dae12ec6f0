"""Compiled movements of rows: by partition, by entity and time, and back by place in the log.

A *row* of records is eight words: the key of its entity (a hash, never 0), the moment that orders it, and its record.
The moment of a payment is the latest event time of the log up to it, that of a label is `labelled_at`: so a label comes
before the first payment whose moment is not earlier. `CARRIED` is the moment of a unit of a log that was summarised.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from features.event import UNIT_WORDS, Words
from features.kernels import Table, compiled
from features.units import power_of_two

KEY, MOMENT, RECORD = 0, 1, 2
ROW_WORDS = RECORD + UNIT_WORDS
CARRIED = -1
PLACE_BITS = 40  # of a source's offset: a place in the log

Cells = npt.NDArray[np.int32]


@compiled
def _partition(key: int, partitions: int) -> int:
    return ((key >> 24) & 0xFFFFFFFF) % partitions


@compiled
def by_partition(keys: Words, moments: Words, records: Words, partitions: int) -> tuple[Words, Table]:
    """Rows of those records that have a key, by partition, in their order; and (partitions + 1,) where each begins."""
    bounds = np.zeros(partitions + 1, np.int64)
    for i in range(keys.size):
        if keys[i] != 0:
            bounds[_partition(keys[i], partitions) + 1] += 1
    for p in range(partitions):
        bounds[p + 1] += bounds[p]
    rows, at = np.empty((bounds[partitions], ROW_WORDS), np.int64), bounds[:partitions].copy()
    for i in range(keys.size):
        if keys[i] != 0:
            p = _partition(keys[i], partitions)
            rows[at[p], KEY], rows[at[p], MOMENT] = keys[i], moments[i]
            rows[at[p], RECORD:] = records[i]
            at[p] += 1
    return rows, bounds


@compiled
def running_latest(times: Words, before: int) -> Words:
    """(n,) the latest of `before` and the times up to each."""
    moments = np.empty(times.size, np.int64)
    for i in range(times.size):
        before = max(before, times[i])
        moments[i] = before
    return moments


@compiled
def _merged(payments: Words, labels: Words) -> Table:
    """The order of payments' rows (from 0) and labels' rows (from `len(payments)`), both by rising moment."""
    n, m = payments.shape[0], labels.shape[0]
    order, label = np.empty(n + m, np.int64), 0
    for i in range(n):
        while label < m and labels[label, MOMENT] <= payments[i, MOMENT]:
            order[i + label] = n + label
            label += 1
        order[i + label] = i
    while label < m:
        order[n + label] = n + label
        label += 1
    return order


@compiled
def by_entity(payments: Words, labels: Words) -> tuple[Words, Table, Table, Words, Table]:
    """The logs of all entities, from rows by rising moment; labels first where moments are equal.

    Returns (units, 6) the logs' units; (entities + 1,) where each log begins; (entities + 1,) where its payments begin
    in what follows; (payments,) the places of the payments, carried ones left out; (entities,) keys.
    """
    n = payments.shape[0]
    order = _merged(payments, labels)
    slots, entities, keys = _slots(payments, labels, order)
    starts, firsts = np.zeros(entities + 1, np.int64), np.zeros(entities + 1, np.int64)
    for i in range(order.size):
        starts[slots[i] + 1] += 1
        firsts[slots[i] + 1] += order[i] < n and payments[order[i], MOMENT] != CARRIED
    for k in range(entities):
        starts[k + 1] += starts[k]
        firsts[k + 1] += firsts[k]
    units, places = np.empty((order.size, UNIT_WORDS), np.int64), np.empty(firsts[entities], np.int64)
    at, row = starts[:entities].copy(), firsts[:entities].copy()
    for i in range(order.size):
        k = slots[i]
        source = payments[order[i]] if order[i] < n else labels[order[i] - n]
        units[at[k]] = source[RECORD:]
        at[k] += 1
        if order[i] < n and source[MOMENT] != CARRIED:
            places[row[k]] = source[RECORD + 2] & ((1 << PLACE_BITS) - 1)
            row[k] += 1
    return units, starts, firsts, places, keys[:entities]


@compiled
def _slots(payments: Words, labels: Words, order: Table) -> tuple[Table, int, Words]:
    """(rows,) the number of each row's entity in order of appearance; how many there are; and their keys."""
    n, mask = payments.shape[0], power_of_two(2 * order.size) - 1
    table = np.full(mask + 1, -1, np.int64)
    slots, keys, entities = np.empty(order.size, np.int64), np.empty(order.size, np.int64), 0
    for i in range(order.size):
        key = payments[order[i], KEY] if order[i] < n else labels[order[i] - n, KEY]
        place = (key ^ (key >> 32)) & mask
        while table[place] >= 0 and keys[table[place]] != key:
            place = (place + 1) & mask
        if table[place] < 0:
            table[place] = entities
            keys[entities] = key
            entities += 1
        slots[i] = table[place]
    return slots, entities, keys


@compiled
def by_range(
    places: Words, firsts: Table, values: npt.NDArray[np.float32], repeated: npt.NDArray[np.bool_]
) -> tuple[Cells, Table]:
    """Values by range of places, ranges beginning at `firsts`: (n, 2 + columns) and (ranges + 1,) where each begins.

    The first cell of a row is its place in the range, the second whether it is repeated; the others hold float32.
    """
    n, ranges = places.size, firsts.size
    bounds, which = np.zeros(ranges + 1, np.int64), np.searchsorted(firsts, places, side="right") - 1
    for i in range(n):
        bounds[which[i] + 1] += 1
    for r in range(ranges):
        bounds[r + 1] += bounds[r]
    cells, at = np.empty((n, 2 + values.shape[1]), np.int32), bounds[:ranges].copy()
    bits = values.view(np.int32)
    for i in range(n):
        row = cells[at[which[i]]]
        row[0], row[1] = places[i] - firsts[which[i]], repeated[i]
        row[2:] = bits[i]
        at[which[i]] += 1
    return cells, bounds


@compiled
def put(cells: Cells, columns: Table, table: Cells, repeated: npt.NDArray[np.bool_], is_card: bool) -> None:
    """Put rows of values where they belong in a range's table, shape (features, rows)."""
    for i in range(cells.shape[0]):
        place = cells[i, 0]
        for column in range(columns.size):
            table[columns[column], place] = cells[i, 2 + column]
        if is_card:
            repeated[place] = cells[i, 1] == 1
