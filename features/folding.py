"""The loop over logs and payments: fold each log, and stop at each payment whose values are wanted."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from features.cells import CHANNELS, FOLDED_IN, MISSING, STATUS, gather
from features.event import Words
from features.fold import State, fold_record, load, new_state
from features.kernels import Table, borrowing, compiled
from features.units import KEEP, power_of_two
from features.values import value


class Room(NamedTuple):
    """Arrays that a reading of logs works in; `targets` and `order` tell where the wanted records are, see `_find`."""

    state: State
    tags: Table
    cell_of: Table
    cells: Table
    sums: Table
    targets: Table
    order: Table


@compiled
def read_logs(
    words: Words,
    starts: Table,
    ends: Table,
    bounds: Table,
    sources: Words,
    every: bool,
    edges: Table,
    needed: Table,
    program: Table,
    limits: Table,
    values: npt.NDArray[np.float32],
    rows: Table,
    columns: Table,
    extra: Table,
) -> None:
    """Fold m logs and compute the values of n payments.

    Args:
        words: (units, 6), the logs; log k is `words[starts[k]:ends[k]]`.
        starts: (m,)
        ends: (m,)
        bounds: (m + 1,) the payments of log k are `bounds[k]` to `bounds[k + 1]`.
        sources: (n,) source words of the payments to be read, in any order within a log.
        every: read all payments of every log instead, in log order; `sources` is not looked at.
        edges: (cells,) rising ages in ms, at least one.
        needed: (CHANNELS,) 1 for each channel to be gathered.
        program: (features, PROGRAM_COLUMNS), see `features.values`.
        limits: (4,) as in `catalog.Limits`.
        values: (any, any) of which row `rows[i]` gets the features of payment i, unless its STATUS is not FOUND.
        rows: (n,)
        columns: (features,) in which column of `values` each feature is put.
        extra: (n, EXTRAS) filled. Where STATUS is not FOUND the rest means nothing.
    """
    longest = 1
    for k in range(starts.size):
        longest = max(longest, ends[k] - starts[k])
    n, kept = bounds[-1], min(longest, limits[KEEP])
    room = Room(
        new_state(longest, limits),
        np.zeros((power_of_two(2 * min(longest, limits[KEEP] + 1)) + 1, 3), np.int64),
        np.empty(kept, np.int64),
        np.empty((CHANNELS, edges.size), np.int64),
        np.zeros((CHANNELS, edges.size + 1), np.int64),
        np.empty(n, np.int64),
        np.arange(n),
    )
    _read(
        words, starts, ends, bounds, sources, every, edges, needed, program, limits, values, rows, columns, extra, room
    )


@borrowing
def _read(
    words: Words,
    starts: Table,
    ends: Table,
    bounds: Table,
    sources: Words,
    every: bool,
    edges: Table,
    needed: Table,
    program: Table,
    limits: Table,
    values: npt.NDArray[np.float32],
    rows: Table,
    columns: Table,
    extra: Table,
    room: Room,
) -> None:
    """`read_logs` once its arrays are made."""
    state, cells, sums, targets, order = room.state, room.cells, room.sums, room.targets, room.order
    for k in range(starts.size):
        wanted, last = bounds[k], bounds[k + 1]
        if wanted == last:
            continue
        unit = load(words, starts[k], ends[k], k + 1, state)
        if not every:
            _find(words, starts[k], ends[k], sources[wanted:last], targets[wanted:last], order[wanted:last])
            wanted = _skip_folded(targets, order, wanted, last, unit, extra)
        while unit < ends[k] and wanted < last:
            if fold_record(words, unit, k + 1, state, limits):
                while wanted < last and (every or targets[order[wanted]] == unit):
                    row = order[wanted]
                    known = extra[row]
                    gather(words, state, edges, needed, limits, room.tags, room.cell_of, cells, sums, known)
                    for feature in range(program.shape[0]):
                        values[rows[row], columns[feature]] = value(program, feature, sums, cells, known)
                    wanted += 1
                    if every:
                        break
            unit += 1


@borrowing
def _skip_folded(targets: Table, order: Table, wanted: int, last: int, unit: int, extra: Table) -> int:
    """Note what became of each wanted record; gives the first that lies at `unit`, behind the summary, or later."""
    first = wanted
    for i in range(wanted, last):
        if targets[order[i]] < unit:
            extra[order[i], STATUS] = MISSING if targets[order[i]] < 0 else FOLDED_IN
            first = i + 1
    return first


@compiled
def _find(words: Words, start: int, end: int, sources: Words, targets: Table, order: Table) -> None:
    """Find records by their source words (-1 where there is none), and the order in which they come in the log.

    Records of a batch that was just appended are the log's last ones; anything else is searched from the end.
    """
    count, rising, first = sources.shape[0], True, order[0]
    for i in range(count):
        unit = end - count + i
        if unit < start or words[unit, 2] != sources[i]:
            unit = end - 1
            while unit >= start and words[unit, 2] != sources[i]:
                unit -= 1
        targets[i] = unit if unit >= start else -1
        rising = rising and (i == 0 or targets[i] > targets[i - 1])
    if not rising:
        for i in range(count):
            place = i
            while place > 0 and targets[order[place - 1] - first] > targets[i]:
                order[place] = order[place - 1]
                place -= 1
            order[place] = first + i
