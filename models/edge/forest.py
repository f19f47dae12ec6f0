"""Trees in a form made for walking: every tree full, so that its nodes need no pointers and no step guesses a branch.

A value is first told apart by all the thresholds that the model has for its column: a number of one byte (two where a
column has more than 254 thresholds) that compares with a node's as the value does with the node's threshold. Leaves
that are multiples of one power of two, as those of a quantised model, take two bytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from .ubj import UbjError, parse

DEEPEST: Final = 12
MOST_BINS: Final = 254  # that a byte holds, beside none passed and missing
MOST_FEATURES: Final = 1 << 15
MOST_PLACES: Final = 1 << 26
LEAF_STEPS: Final = 32_767
_NONE: Final = -1

Ints = npt.NDArray[np.int64]


class ForestError(ValueError):
    """The bytes are no model that can be walked here."""


@dataclass(frozen=True, slots=True)
class Forest:
    """A binary classifier of f columns and t trees.

    A tree of depth d takes 2^d places from its start on. Its root is at the place 1, the children of i at 2i and
    2i + 1, and the leaf that i = 2^d .. 2^(d+1) - 1 leads to at i - 2^d.

    Attributes:
        names: (f,) its columns.
        thresholds: of the columns one after the other, each rising.
        bounds: (f + 1,) where each column's begin.
        starts: (t,) where each tree begins.
        depths: (t,) how deep it is.
        feature: by place, the column; plus f where a missing value goes right.
        bin: by place, how many thresholds a value has passed that goes right, at least.
        leaf: by place, what is added to the log-odds, in steps.
        step: what a leaf's number is multiplied by.
        base: log-odds before any tree.
    """

    names: tuple[str, ...]
    thresholds: npt.NDArray[np.float32]
    bounds: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int64]
    depths: npt.NDArray[np.int64]
    feature: npt.NDArray[np.uint16]
    bin: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
    leaf: npt.NDArray[np.int16] | npt.NDArray[np.float32]
    step: float
    base: float

    @property
    def nbytes(self) -> int:
        """What it takes in memory."""
        return sum(each.nbytes for each in (self.thresholds, self.bounds, self.feature, self.bin, self.leaf))


@dataclass(frozen=True, slots=True)
class _Tree:
    left: Ints
    right: Ints
    split: Ints
    condition: npt.NDArray[np.float32]
    missing_left: npt.NDArray[np.bool_]


def read(model: bytes) -> Forest:
    """Read a model that XGBoost saved as UBJ: boosted trees of one output with `binary:logistic` and no categories.

    Raises:
        ForestError: it is none, or is damaged, or deeper than 12.
    """
    try:
        learner = parse(model)["learner"]
        booster = learner["gradient_booster"]
        kind = learner["objective"]["name"], booster["name"]
        if kind != ("binary:logistic", "gbtree"):
            raise ForestError(f"it is {kind[1]} with {kind[0]}; only gbtree with binary:logistic can be walked")
        names = tuple(str(name) for name in learner["feature_names"])
        base = _base(learner["learner_model_param"]["base_score"])
        trees = [_tree(tree, len(names)) for tree in booster["model"]["trees"]]
    except (UbjError, KeyError, TypeError, IndexError, AttributeError, OverflowError) as error:
        raise ForestError(f"it is no model that XGBoost has saved as UBJ ({error})") from error
    return _packed(names, base, trees)


def _base(text: Any) -> float:
    """Log-odds of the base score, in the steps and the precision that XGBoost takes."""
    try:
        score = np.float32(str(text).strip("[]"))
    except ValueError as error:
        raise ForestError(f"its base score is no number ({str(text)[:40]!r})") from error
    if not 0 < score < 1:
        raise ForestError(f"its base score is {score}, which is no probability")
    odds = float(np.float32(1) / score - np.float32(1))
    return float(np.float32(-math.log(odds)))  # numpy's logarithm of a float32 may be the neighbour of the right one


def _tree(tree: Any, features: int) -> _Tree:
    left, right, split = (
        np.asarray(tree[name], np.int64) for name in ("left_children", "right_children", "split_indices")
    )
    condition = np.asarray(tree["split_conditions"], np.float32)
    missing_left = np.asarray(tree["default_left"]).astype(np.bool_)
    count = len(left)
    if not count or not count == len(right) == len(split) == len(condition) == len(missing_left):
        raise ForestError("a tree's arrays do not have one length")
    if np.any(np.asarray(tree.get("split_type", ()))) or len(tree.get("categories_nodes", ())):
        raise ForestError("it splits by categories, which can't be walked")
    inner = left != _NONE
    if any(np.any((side[inner] <= 0) | (side[inner] >= count)) for side in (left, right)):
        raise ForestError("a tree has a branch that leads nowhere")
    if np.any((split[inner] < 0) | (split[inner] >= features)) or not np.isfinite(condition).all():
        raise ForestError("a tree splits by what is no feature or no number")
    return _Tree(left, right, split, condition, missing_left)


def _packed(names: tuple[str, ...], base: float, trees: list[_Tree]) -> Forest:
    levels = [_levels(tree) for tree in trees]
    depths = np.array([len(level) - 1 for level in levels], np.int64)
    starts = np.concatenate([[0], np.cumsum(1 << depths)])
    if starts[-1] > MOST_PLACES or len(names) > MOST_FEATURES:
        raise ForestError("it is too large")
    own = [_thresholds(trees, column) for column in range(len(names))]
    bounds = np.concatenate([[0], np.cumsum([len(each) for each in own])]).astype(np.int32)
    feature = np.zeros(starts[-1], np.uint16)
    bins = np.zeros(starts[-1], np.uint8 if max(map(len, own), default=0) <= MOST_BINS else np.uint16)
    leaf = np.zeros(starts[-1], np.float32)
    thresholds = np.concatenate([np.zeros(0, np.float32), *own])
    for tree, level, (start, end) in zip(trees, levels, pairwise(starts.tolist()), strict=True):
        leaf[start:end] = tree.condition[level[-1]]
        for depth, nodes in enumerate(level[:-1]):
            here = slice(start + (1 << depth), start + (2 << depth))
            inner = tree.left[nodes] != _NONE
            column = tree.split[nodes]
            feature[here] = np.where(inner, column + len(names) * ~tree.missing_left[nodes], 0)
            bins[here] = np.where(inner, _passed(thresholds, bounds, column, tree.condition[nodes]), 0)
    step = _step(leaf)
    steps = leaf if step is None else (leaf / np.float32(step)).astype(np.int16)
    return Forest(names, thresholds, bounds, starts[:-1], depths, feature, bins, steps, step or 1.0, base)


def _levels(tree: _Tree) -> list[Ints]:
    """The nodes of each level of the full tree: below a leaf is the leaf again."""
    found = [np.zeros(1, np.int64)]
    while (inner := tree.left[found[-1]] != _NONE).any():
        if len(found) > DEEPEST:
            raise ForestError(f"a tree is deeper than {DEEPEST}")
        nodes = found[-1]
        left, right = np.where(inner, tree.left[nodes], nodes), np.where(inner, tree.right[nodes], nodes)
        found.append(np.stack([left, right], 1).ravel())
    return found


def _thresholds(trees: list[_Tree], column: int) -> npt.NDArray[np.float32]:
    some = [tree.condition[(tree.left != _NONE) & (tree.split == column)] for tree in trees]
    return np.unique(np.concatenate([np.zeros(0, np.float32), *some]))


def _passed(
    thresholds: npt.NDArray[np.float32],
    bounds: npt.NDArray[np.int32],
    columns: Ints,
    values: npt.NDArray[np.float32],
) -> Ints:
    """(n,) how many thresholds of its column each value is at least."""
    found = np.zeros(len(values), np.int64)
    for column in np.unique(columns).tolist():
        here = columns == column
        found[here] = np.searchsorted(thresholds[bounds[column] : bounds[column + 1]], values[here], side="right")
    return found


def _step(leaf: npt.NDArray[np.float32]) -> float | None:
    """The power of two that all leaves are 16-bit multiples of, if there is one."""
    values = np.abs(leaf[leaf != 0]).astype(np.float64)
    if not values.size:
        return 1.0
    mantissa, exponent = np.frexp(values)
    whole = (mantissa * (1 << 24)).astype(np.int64)  # of float32, without rounding
    lowest = np.log2((whole & -whole).astype(np.float64)) + exponent - 24
    step = float(2.0 ** lowest.min())
    return step if values.max() / step <= LEAF_STEPS else None
