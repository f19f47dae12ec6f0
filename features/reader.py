"""Reads the features of one entity from its logs: the one place where online, replay and offline computation meet."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from features.catalog import Catalog, Entity, Limits
from features.cells import EXTRAS, REPEATED
from features.event import Words
from features.folding import read_logs
from features.kernels import readable
from features.operations import Plan

Values = npt.NDArray[np.float32]

NO_SOURCES: Final = np.zeros(0, np.int64)


def limits_array(limits: Limits) -> Words:
    """Limits as the fold takes them. Raises ValueError for limits that a summary can't hold."""
    if not (1 <= limits.keep <= 16_384 and 1 <= limits.frauds <= 1_024 and limits.duplicate_ms <= limits.horizon_ms):
        raise ValueError("limits: keep is 1 to 16,384, frauds 1 to 1,024, duplicate_ms at most horizon_ms")
    return np.array([limits.keep, limits.horizon_ms, limits.duplicate_ms, limits.frauds], np.int64)


class EntityReader:
    """The features of one entity of a catalog, compiled once: which cells to gather, and what to make of them."""

    def __init__(self, catalog: Catalog, entity: Entity) -> None:
        """Settle what `entity`'s features in `catalog` need."""
        self.entity = entity
        self.columns = np.array(catalog.columns_of(entity), np.int64)
        self._plan = Plan.of(entity, [catalog.features[column] for column in self.columns.tolist()])
        self._limits = limits_array(catalog.limits)

    def read(
        self, words: Words, starts: Words, ends: Words, bounds: Words, sources: Words | None = None
    ) -> tuple[Values, Words]:
        """Fold m logs and compute this entity's features for n payments.

        Args:
            words: (units, 6) the logs.
            starts: (m,) the first unit of each.
            ends: (m,) the unit behind the last of each.
            bounds: (m + 1,) payments of log k are rows `bounds[k]` to `bounds[k + 1]` of the result.
            sources: (n,) their source words; without it every payment of every log is read, in log order.

        Returns:
            (n, columns) float32 and (n, `cells.EXTRAS`). Where the status is not FOUND the rest means nothing.
        """
        n, size = int(bounds[-1]), self.columns.size
        values, extra = np.empty((n, size), np.float32), np.empty((n, EXTRAS), np.int64)
        rows, columns = np.arange(n), np.arange(size)
        self._fill(words, starts, ends, bounds, sources, values, rows, columns, extra)
        return values, extra

    def fill(
        self,
        words: Words,
        starts: Words,
        ends: Words,
        bounds: Words,
        sources: Words,
        values: Values,
        rows: Words,
        extra: Words,
    ) -> None:
        """The same for payments that are a part of others, into rows `rows` (n,) of a matrix of all features.

        `bounds` are places in `sources`, `rows` and `extra`. What is not FOUND stays as it is in `values`.
        """
        self._fill(words, starts, ends, bounds, sources, values, rows, self.columns, extra)

    def _fill(
        self,
        words: Words,
        starts: Words,
        ends: Words,
        bounds: Words,
        sources: Words | None,
        values: Values,
        rows: Words,
        columns: Words,
        extra: Words,
    ) -> None:
        plan = self._plan
        read_logs(
            readable(words),
            starts,
            ends,
            bounds,
            NO_SOURCES if sources is None else sources,
            sources is None,
            plan.edges,
            plan.needed,
            plan.program,
            self._limits,
            values,
            rows,
            columns,
            extra,
        )

    def read_all(
        self, words: Words, starts: Words, ends: Words, payments: Words
    ) -> tuple[Values, npt.NDArray[np.bool_]]:
        """The features of every payment of m logs, in log order.

        `payments` has shape (m,): how many payments each log holds. Returns (n, columns) and (n,) whether each payment
        is repeated in its log.
        """
        values, extra = self.read(words, starts, ends, np.concatenate(([0], np.cumsum(payments))))
        return values, extra[:, REPEATED] == 1
