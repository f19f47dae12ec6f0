"""Exact contributions of features to a score, by tables: what a leaf gives them, for every way to reach it or not.

The values are those of TreeSHAP with each tree's cover (Lundberg et al., Nature Machine Intelligence 2, 2020), which
XGBoost computes anew for every row. But what a leaf contributes depends on the row only by which of the conditions on
its path the row meets: of a path over k features there are 2^k cases, and they can be worked out beforehand. Source of
that idea: Yang, "Fast TreeSHAP" (2021). A row then costs a few comparisons and additions a leaf.
"""

from __future__ import annotations

from math import factorial
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from features.kernels import compiled
from models.trees import Forest, Ints, Tree

MOST_CELLS: Final = 1 << 24  # of the tables: 64 MiB
DEEPEST: Final = 12

Values = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]


class TooLarge(Exception):
    """The tables of this model would take too much memory."""


class TreeShap:
    """Contributions by tables. Any thread.

    Raises:
        TooLarge: for trees that are too many and too deep.
    """

    def __init__(self, forest: Forest) -> None:
        """Work out the tables."""
        self.columns = forest.columns
        trees = forest.trees
        parent, is_left = _parents(trees)
        feature = np.concatenate([np.zeros(0, np.int64), *(tree.feature for tree in trees)])
        threshold, value, cover = (
            np.concatenate([np.zeros(0, np.float32), *(getattr(tree, name) for tree in trees)])
            for name in ("threshold", "value", "cover")
        )
        missing_left = np.concatenate([np.zeros(0, np.bool_), *(tree.missing_left for tree in trees)])
        is_leaf = np.concatenate([np.zeros(0, np.bool_), *(tree.leaf for tree in trees)])
        leaves = int(np.count_nonzero(is_leaf))
        size = leaves * DEEPEST
        found: tuple[Any, ...] = (
            np.zeros(leaves + 1, np.int64),  # where each leaf's conditions begin
            np.zeros(size, np.int64),  # the feature of each
            np.zeros((size, 2), np.float32),  # from here on, and below
            np.zeros(size, np.bool_),  # whether a missing value meets it
            np.zeros(size, np.float64),  # the share of what was learned from that met it
            np.zeros(leaves, np.float64),
        )
        if not _paths(is_leaf, parent, is_left, feature, threshold, missing_left, value, cover, *found):
            raise TooLarge(f"a tree is deeper than {DEEPEST}")
        begin, self._feature, self._bounds, self._missing, share, leaf = found
        lengths = np.diff(begin)
        cells = np.concatenate([[0], np.cumsum(lengths << lengths)]).astype(np.int64)
        if cells[-1] > MOST_CELLS:
            raise TooLarge(f"the tables would have {cells[-1]:,} cells, more than {MOST_CELLS:,}")
        self._begin, self._cells = begin, cells
        self._table = np.zeros(cells[-1], np.float32)
        factorials = np.array([factorial(k) for k in range(DEEPEST + 1)], np.float64)
        reach = np.zeros(leaves, np.float64)
        _tables(begin, share, leaf, cells, factorials, self._table, reach)
        self._constant = forest.base + float(reach @ leaf)
        self(np.full((1, forest.columns), np.nan, np.float32))

    def __call__(self, values: Values) -> Values:
        """(n, columns + 1) float32 log-odds that each feature of (n, columns) added, and last the constant."""
        sums = np.zeros((self.columns, len(values)), np.float64)
        _explain(
            np.ascontiguousarray(values.T),
            self._begin,
            self._feature,
            self._bounds,
            self._missing,
            self._cells,
            self._table,
            sums,
        )
        constant = np.full((len(values), 1), self._constant)
        return np.concatenate([sums.T, constant], axis=1).astype(np.float32)


def _parents(trees: list[Tree]) -> tuple[Ints, npt.NDArray[np.bool_]]:
    """The parent of each node of all trees one after the other, -1 for a root; and which are left children."""
    total = sum(len(tree.left) for tree in trees)
    parent, is_left, start = np.full(total, -1), np.zeros(total, np.bool_), 0
    for tree in trees:
        own = tree.parents
        parent[start : start + len(own)] = np.where(own < 0, own, start + own)
        is_left[start + tree.left[~tree.leaf]] = True
        start += len(own)
    return parent, is_left


@compiled
def _paths(
    is_leaf: npt.NDArray[np.bool_],
    parent: Ints,
    is_left: npt.NDArray[np.bool_],
    feature: Ints,
    threshold: Values,
    missing_left: npt.NDArray[np.bool_],
    value: Values,
    cover: Values,
    begin: Ints,
    path_feature: Ints,
    path_bounds: Values,
    path_missing: npt.NDArray[np.bool_],
    path_share: Floats,
    leaf_value: Floats,
) -> bool:
    """For each leaf the conditions on its path, one a feature; false where there are more than fit."""
    most = len(path_feature) // max(1, len(leaf_value))
    leaf, at = 0, 0
    for node in np.flatnonzero(is_leaf):
        begin[leaf], leaf_value[leaf] = at, value[node]
        child, steps = node, 0
        while parent[child] >= 0:
            above = parent[child]
            steps += 1
            if steps > most:
                return False
            place = begin[leaf]
            while place < at and path_feature[place] != feature[above]:
                place += 1
            if place == at:
                at += 1
                path_feature[place] = feature[above]
                path_bounds[place, 0], path_bounds[place, 1] = -np.inf, np.inf
                path_missing[place], path_share[place] = True, 1.0
            if is_left[child]:
                path_bounds[place, 1] = min(path_bounds[place, 1], threshold[above])
            else:
                path_bounds[place, 0] = max(path_bounds[place, 0], threshold[above])
            path_missing[place] &= missing_left[above] == is_left[child]
            path_share[place] *= cover[child] / max(cover[above], np.float32(1e-30))
            child = above
        leaf += 1
    begin[leaf] = at
    return True


@compiled
def _tables(
    begin: Ints, share: Floats, leaf: Floats, cells: Ints, factorials: Floats, table: Values, reach: Floats
) -> None:
    """For each leaf and each set of met conditions, what it gives to each feature of its path."""
    for number in range(len(leaf)):
        first = begin[number]
        k = begin[number + 1] - first
        reach[number] = 1.0
        for i in range(k):
            reach[number] *= share[first + i]
        for met in range(1 << k):
            for i in range(k):
                # coefficients of the product over the other features of (share + met x t): t counts who is in the set
                poly = np.zeros(k + 1, np.float64)
                poly[0] = 1.0
                size = 0
                for j in range(k):
                    if j == i:
                        continue
                    one = 1.0 if (met >> j) & 1 else 0.0
                    size += 1
                    for degree in range(size, 0, -1):
                        poly[degree] = poly[degree] * share[first + j] + poly[degree - 1] * one
                    poly[0] *= share[first + j]
                total = 0.0
                for degree in range(k):
                    total += poly[degree] * factorials[degree] * factorials[k - degree - 1] / factorials[k]
                own = 1.0 if (met >> i) & 1 else 0.0
                table[cells[number] + met * k + i] = leaf[number] * (own - share[first + i]) * total


@compiled
def _explain(
    values: Values,
    begin: Ints,
    feature: Ints,
    bounds: Values,
    missing: npt.NDArray[np.bool_],
    cells: Ints,
    table: Values,
    sums: Floats,
) -> None:
    """Add to (columns, rows) what each leaf gives; a condition is asked of all rows at once."""
    rows = values.shape[1]
    cell = np.empty(rows, np.int64)
    for leaf in range(len(begin) - 1):
        first = begin[leaf]
        k = begin[leaf + 1] - first
        cell[:] = 0
        for i in range(k):
            low, high, lost, some = bounds[first + i, 0], bounds[first + i, 1], missing[first + i], feature[first + i]
            for row in range(rows):
                value = values[some, row]
                met = ((low <= value) & (value < high)) | ((value != value) & lost)  # noqa: PLR0124  NaN is not itself
                cell[row] |= np.int64(met) << i
        for row in range(rows):
            cell[row] = cells[leaf] + cell[row] * k
        for i in range(k):
            some = feature[first + i]
            for row in range(rows):
                sums[some, row] += table[cell[row] + i]
