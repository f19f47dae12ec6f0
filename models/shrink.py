"""Smaller models: pruned by what validation says, in coarse steps, or a student of the whole.

Each takes a model as UBJ and returns one. All are models like any other: XGBoost scores and explains them.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from models.dataset import Mask, Values
from models.trees import Forest, Tree, changed

MOST_THRESHOLDS: Final = 254  # of a column: a byte tells on which side of each of them a value lies, and missing
LEAF_STEPS: Final = 32_767
EXACT: Final = 1 << 24  # steps that float32 adds without rounding
_MARGINS = npt.NDArray[np.float64]


def pruned(model: bytes, values: Values, fraud: Mask, *, worth: float = 0.0) -> bytes:
    """Cut every branch that does not lower the log loss of payments that the model did not learn from.

    Reduced-error pruning (Quinlan, "Simplifying decision trees", Int. J. Man-Machine Studies 27, 1987), from the last
    tree to the first and in each from the bottom up: a branch becomes a leaf of its leaves' mean, weighted by their
    cover. Trees of which one leaf is left go into the base score.

    Args:
        model: a binary classifier as UBJ.
        values: (n, columns) of payments that it did not learn from.
        fraud: (n,) what they were.
        worth: the log loss that a branch has to save, summed over the payments.
    """

    def change(forest: Forest) -> None:
        sign = np.where(fraud, -1.0, 1.0)
        paths = [tree.paths(values) for tree in forest.trees]
        margins = forest.base + sum(
            (tree.value[path[-1]].astype(np.float64) for tree, path in zip(forest.trees, paths, strict=True)),
            np.zeros(len(values)),
        )
        kept = []
        for tree, path in zip(reversed(forest.trees), reversed(paths), strict=True):
            _prune(tree, path, margins, sign, worth)
            small = tree.packed()
            if len(small.left) > 1:
                kept.append(small)
            else:
                forest.base += float(small.value[0])
        forest.trees = kept[::-1]

    return changed(model, change)


def _prune(tree: Tree, path: list[npt.NDArray[np.int64]], margins: _MARGINS, sign: _MARGINS, worth: float) -> None:
    """Prune one tree; `margins` follow."""
    mean, levels = _means(tree), tree.levels()
    given = tree.value[path[-1]].astype(np.float64)
    for depth in range(len(levels) - 2, -1, -1):
        order = np.argsort(path[depth], kind="stable")
        starts = np.searchsorted(path[depth][order], np.arange(len(tree.left) + 1))
        for node in levels[depth][~tree.leaf[levels[depth]]].tolist():
            rows = order[starts[node] : starts[node + 1]]
            before = margins[rows]
            after = before + (mean[node] - given[rows])
            saved = np.logaddexp(0, sign[rows] * after).sum() - np.logaddexp(0, sign[rows] * before).sum()
            if saved <= worth:
                tree.without(node, float(mean[node]))
                margins[rows], given[rows] = after, mean[node]


def _means(tree: Tree) -> _MARGINS:
    """(m,) the mean of the leaves below each node, weighted by cover."""
    mean = tree.value.astype(np.float64)
    cover = np.maximum(tree.cover.astype(np.float64), 1e-12)
    for level in reversed(tree.levels()):
        inner = level[~tree.leaf[level]]
        left, right = tree.left[inner], tree.right[inner]
        mean[inner] = (mean[left] * cover[left] + mean[right] * cover[right]) / (cover[left] + cover[right])
    return mean


def quantized(model: bytes, values: Values) -> bytes:
    """Few thresholds a column, and leaves that are multiples of one power of two, of which 16 bits tell the number.

    Sums of such leaves are exact in float32, so that every scorer gets the same bits in whatever order it adds. The
    base score goes into the first tree.

    Args:
        model: a binary classifier as UBJ.
        values: (n, columns) that tell which thresholds lie close together: few payments lie between them.
    """

    def change(forest: Forest) -> None:
        if not forest.trees:
            return
        for column in range(forest.columns):
            _fewer_thresholds(forest, column, values[:, column])
        first = forest.trees[0]
        first.value = np.where(first.leaf, first.value + np.float32(forest.base), first.value).astype(np.float32)
        forest.base = 0.0
        tops = np.array([float(np.abs(tree.value[tree.leaf]).max()) for tree in forest.trees])
        step = 2.0 ** np.ceil(np.log2(max(tops.max() / LEAF_STEPS, tops.sum() / EXACT, 1e-30)))
        for tree in forest.trees:
            tree.value = (np.round(tree.value / step) * step).astype(np.float32)

    return changed(model, change)


def _fewer_thresholds(forest: Forest, column: int, values: Values) -> None:
    """Merge thresholds of a column until a byte can number them: always the two with the fewest payments between."""
    used = [~tree.leaf & (tree.feature == column) for tree in forest.trees]
    everywhere = np.concatenate([tree.threshold[here] for tree, here in zip(forest.trees, used, strict=True)])
    if not everywhere.size:
        return
    own, weight = np.unique(everywhere, return_counts=True)
    known = np.sort(values[~np.isnan(values)])
    rank = np.searchsorted(known, own).astype(np.float64)
    into = np.arange(len(own))  # the threshold that each has become
    alive = list(range(len(own)))
    while len(alive) > MOST_THRESHOLDS:
        gap = int(np.diff(rank[alive]).argmin())
        one, other = alive[gap], alive[gap + 1]
        keep, drop = (one, other) if weight[one] >= weight[other] else (other, one)
        weight[keep] += weight[drop]
        into[into == drop] = keep
        alive.remove(drop)
    for tree, here in zip(forest.trees, used, strict=True):
        tree.threshold[here] = own[into[np.searchsorted(own, tree.threshold[here])]]
