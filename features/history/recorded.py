"""The features of payments in the order in which state stores recorded them, in memory that does not grow with them.

As `features.history.local` folds a history by event time and `labelled_at`, this folds logs in whatever order is given:
every record comes with a number, and each entity's log is in the order of its numbers. It is told of a record what to
do with it: a payment has a *place* in the result, and a *layer*, where the same payment may have several numbers; or
none, where it only counts for others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np
import numpy.typing as npt

from features.catalog import Catalog, Entity
from features.event import Words
from features.history.entities import PartitionReader
from features.history.local import cuts
from features.history.spill import Scratch, Spill
from features.history.tables import KEY, MOMENT, PLACE_BITS, RECORD, ROW_WORDS, by_partition, by_range, put

LAYER_BITS: Final = 4
MAX_PLACES: Final = 1 << (PLACE_BITS - LAYER_BITS)
UNASKED: Final = (1 << PLACE_BITS) - 1  # the place of a record that only counts for others
LAYER_SHIFT: Final = 1  # of a cell's second word: whether it is repeated, its layer, whether something may be missing
DOUBTFUL: Final = 1 << (LAYER_SHIFT + LAYER_BITS)

Cells = npt.NDArray[np.int32]
Doubts = Mapping[int, int]  # by key of an entity: from which number on a record of it may be missing


def place_words(places: Words, layers: Words, asked: npt.NDArray[np.bool_]) -> Words:
    """(n,) what stands for the source in the records of payments: their places, and in which layer they are."""
    return np.where(asked, places | (layers << (PLACE_BITS - LAYER_BITS)), UNASKED)


class RecordedLogs:
    """Takes the records of all logs in any order, then folds every log in the order of its numbers."""

    def __init__(self, catalog: Catalog, scratch: Scratch, *, rows: int, memory_mb: int, jobs: int) -> None:
        """About `rows` payments are expected; what is held waits in `scratch`."""
        self._catalog, self._scratch, self._jobs = catalog, scratch, jobs
        self._segment_rows, self._partitions = cuts(rows, memory_mb, jobs)
        self._payments = self._spills("payments")
        self._labels = self._spills("labels")
        self._values: dict[Entity, Spill] = {}

    def _spills(self, what: str) -> dict[Entity, Spill]:
        return {
            entity: self._scratch.spill(f"recorded-{what}-{entity}", self._partitions, ROW_WORDS, np.int64)
            for entity in self._catalog.entities
        }

    def add(self, entity: Entity, keys: Words, numbers: Words, records: Words, *, labels: bool = False) -> None:
        """Add (n, 6) records of an entity's logs; a key of 0 is none. Payments have a word of `place_words`."""
        spill = self._labels[entity] if labels else self._payments[entity]
        self._scratch.add(spill, *by_partition(keys, numbers, records, self._partitions))

    def fold(
        self, firsts: Sequence[int], doubts: Mapping[Entity, Doubts], progress: Callable[[str, float], None]
    ) -> None:
        """Compute. `firsts` are the first places of the ranges in which the values are read."""
        entities, starts = self._catalog.entities, np.array(firsts or [0], np.int64)
        with ThreadPoolExecutor(self._jobs) as pool:
            for number, entity in enumerate(entities):
                reader = PartitionReader(self._catalog, entity, self._segment_rows)
                width = 2 + len(reader.reader.columns)
                values = self._scratch.spill(f"recorded-values-{entity}", len(starts), width, np.int32)
                payments, labels = self._payments[entity], self._labels[entity]
                doubted = doubts.get(entity, {})

                def fold_part(  # type: ignore[no-untyped-def]
                    part: int, reader=reader, payments=payments, labels=labels, values=values, doubted=doubted
                ) -> None:
                    rows = _in_order(payments.part(part))
                    doubtful = _doubtful(rows, doubted)
                    for words, block, repeated in reader.read([rows], labels.part(part)):
                        asked = words != UNASKED
                        place = words[asked] & (MAX_PLACES - 1)
                        told = repeated[asked].astype(np.int32)
                        told |= (words[asked] >> (PLACE_BITS - LAYER_BITS) << LAYER_SHIFT).astype(np.int32)
                        if doubtful.size:
                            told[np.isin(words[asked], doubtful)] |= DOUBTFUL
                        self._scratch.add(values, *by_range(place, starts, block[asked], told))

                for done, _ in enumerate(pool.map(fold_part, range(self._partitions)), start=1):
                    progress(f"computing {entity} features", (number + done / self._partitions) / len(entities))
                payments.drop()
                labels.drop()
                self._values[entity] = values

    def cells(self, entity: Entity, part: int) -> Cells:
        """The rows of a range: place in it, flags, and the entity's values as bits."""
        return self._values[entity].part(part)

    def fill(
        self, table: npt.NDArray[np.float32], entity: Entity, cells: Cells, repeated: npt.NDArray[np.bool_]
    ) -> None:
        """Put the values of such rows into a table (features, payments of the range)."""
        plain = cells.copy()
        plain[:, 1] &= 1
        put(
            plain,
            np.array(self._catalog.columns_of(entity), np.int64),
            table.view(np.int32),
            repeated,
            entity == "card",
        )


def _in_order(rows: Words) -> Words:
    moments = rows[:, MOMENT]
    return rows if (moments[1:] >= moments[:-1]).all() else rows[np.argsort(moments, kind="stable")]


def _doubtful(rows: Words, doubted: Doubts) -> Words:
    """The place words of payments in whose logs something before them may be missing."""
    if not doubted or not len(rows):
        return np.zeros(0, np.int64)
    keys = np.array(sorted(doubted), np.int64)
    since = np.array([doubted[key] for key in keys.tolist()], np.int64)
    at = np.minimum(np.searchsorted(keys, rows[:, KEY]), len(keys) - 1)
    found: Words = rows[(keys[at] == rows[:, KEY]) & (rows[:, MOMENT] >= since[at]), RECORD + 2]
    return found
