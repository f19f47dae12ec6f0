"""The features of one entity's payments in one partition: sorted into logs, folded, and given back by place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

import numpy as np

from features.catalog import Catalog, Entity
from features.compaction import summary
from features.event import UNIT_WORDS, Words
from features.history.fields import Mask
from features.history.tables import CARRIED, KEY, MOMENT, RECORD, ROW_WORDS, by_entity
from features.kernels import Table, readable
from features.reader import EntityReader, Values, limits_array

NO_ROWS = np.empty((0, ROW_WORDS), np.int64)


class PartitionReader:
    """Reads partitions of one entity. A partition that is too long is folded in segments.

    Between two segments each log is replaced by its summary, as the online path does it with a long log: no value
    depends on where that happens.
    """

    def __init__(self, catalog: Catalog, entity: Entity, segment_rows: int) -> None:
        """Fold about `segment_rows` rows at a time, whatever the length of a log."""
        self.reader = EntityReader(catalog, entity)
        self._limits = limits_array(catalog.limits)
        self._segment_rows = segment_rows

    def read(self, payments: Iterable[Words], labels: Words) -> Iterator[tuple[Words, Values, Mask]]:
        """Fold a partition, given as rows of `tables` by rising moment; labels in any order.

        Yields the places of payments in the log, their features (n, columns), and whether each is repeated.
        """
        labels = labels[np.argsort(labels[:, MOMENT], kind="stable")]
        segments = _segments(payments, self._segment_rows)
        carried, segment = NO_ROWS, next(segments, None)
        while segment is not None:
            following = next(segments, None)
            here = int(np.searchsorted(labels[:, MOMENT], segment[-1, MOMENT], side="right"))
            rows = np.concatenate((carried, segment)) if len(carried) else segment
            units, starts, firsts, places, keys = by_entity(rows, labels[:here])
            labels = labels[here:]
            values, repeated = self.reader.read_all(units, starts[:-1], starts[1:], np.diff(firsts))
            yield places, values, repeated
            if following is not None:
                carried = self._carry(units, starts, keys)
            segment = following

    def _carry(self, units: Words, starts: Table, keys: Words) -> Words:
        """Every log's summary, as rows that come before all others."""
        heads = [summary(readable(units[start:end]), self._limits) for start, end in pairwise(starts)]
        rows = np.empty((sum(map(len, heads)), RECORD + UNIT_WORDS), np.int64)
        rows[:, KEY] = np.repeat(keys, [len(head) for head in heads])
        rows[:, MOMENT] = CARRIED
        rows[:, RECORD:] = np.concatenate(heads)
        return rows


def _segments(pieces: Iterable[Words], most: int) -> Iterator[Words]:
    """The same rows in runs of `most`; the last one may be shorter."""
    held: list[Words] = []
    count = 0
    for piece in pieces:
        rest = piece
        while count + len(rest) >= most:
            cut = most - count
            held.append(rest[:cut])
            yield held[0] if len(held) == 1 else np.concatenate(held)
            held, count, rest = [], 0, rest[cut:]
        if len(rest):
            held.append(rest)
            count += len(rest)
    if held:
        yield held[0] if len(held) == 1 else np.concatenate(held)
