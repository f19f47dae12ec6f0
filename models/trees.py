"""Trees as plain arrays, to be changed and put back: what XGBoost saves, read and written by XGBoost itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import xgboost

from models.edge.ubj import parse

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Values = npt.NDArray[np.float32]
_NO_PARENT: Final = 2_147_483_647
_NONE: Final = -1


@dataclass(slots=True)
class Tree:
    """One tree of m nodes, the root first.

    Attributes:
        left: (m,) the left child, or -1 at a leaf.
        right: (m,) likewise.
        feature: (m,) the column that is looked at.
        threshold: (m,) what is below it goes left.
        missing_left: (m,) where a missing value goes left.
        value: (m,) of a leaf, what it adds to the log-odds.
        cover: (m,) the sum of the second derivatives of what was learned from.
    """

    left: Ints
    right: Ints
    feature: Ints
    threshold: Floats
    missing_left: npt.NDArray[np.bool_]
    value: Floats
    cover: Floats

    @property
    def leaf(self) -> npt.NDArray[np.bool_]:
        """(m,) which nodes are leaves."""
        found: npt.NDArray[np.bool_] = self.left == _NONE
        return found

    @property
    def parents(self) -> Ints:
        """(m,) the parent of each node; -1 of the root."""
        found, inner = np.full(len(self.left), _NONE), np.flatnonzero(~self.leaf)
        found[self.left[inner]] = found[self.right[inner]] = inner
        return found

    def levels(self) -> list[Ints]:
        """The nodes, level by level from the root."""
        found = [np.zeros(1, np.int64)]
        while (inner := found[-1][~self.leaf[found[-1]]]).size:
            found.append(np.stack([self.left[inner], self.right[inner]], 1).ravel())
        return found

    def paths(self, values: Values) -> list[Ints]:
        """For each level, where (n,) each row of (n, columns) stands after so many steps; at a leaf it stays."""
        at = np.zeros(len(values), np.int64)
        found, rows = [at], np.arange(len(values))
        for _ in self.levels()[1:]:
            cell = values[rows, self.feature[at]]
            goes_left = np.where(np.isnan(cell), self.missing_left[at], cell < self.threshold[at])
            at = np.where(self.leaf[at], at, np.where(goes_left, self.left[at], self.right[at]))
            found.append(at)
        return found

    def without(self, node: int, value: float) -> None:
        """Make a node a leaf of this value; what is below it is dropped by `packed`."""
        self.left[node] = self.right[node] = _NONE
        self.value[node] = value

    def packed(self) -> Tree:
        """The same tree without the nodes that nothing leads to."""
        order = np.concatenate(self.levels())
        place = np.full(len(self.left), _NONE)
        place[order] = np.arange(len(order))
        left, right = (np.where(side[order] == _NONE, _NONE, place[side[order]]) for side in (self.left, self.right))
        return Tree(
            left,
            right,
            self.feature[order],
            self.threshold[order],
            self.missing_left[order],
            self.value[order],
            self.cover[order],
        )


class Forest:
    """A binary classifier of one output, opened for a change."""

    def __init__(self, model: bytes) -> None:
        """Read UBJ that XGBoost has saved. As JSON it would hold up all other threads for a tenth of a second."""
        self._document: dict[str, Any] = parse(model)
        learner = self._document["learner"]
        self._held: list[dict[str, Any]] = learner["gradient_booster"]["model"]["trees"]
        score = float(str(learner["learner_model_param"]["base_score"]).strip("[]"))
        self.base = float(np.log(score / (1 - score)))
        self.columns = len(learner["feature_names"])
        self.trees: list[Tree] = [_read(tree) for tree in self._held]

    def ubj(self) -> bytes:
        """The model as UBJ, with `trees` and `base` as they are now."""
        learner = self._document["learner"]
        trees = self.trees or [_stump()]
        learner["learner_model_param"]["base_score"] = f"[{1 / (1 + np.exp(-self.base)):.9E}]"
        model = learner["gradient_booster"]["model"]
        model["trees"] = [_written(tree, number, self.columns) for number, tree in enumerate(trees)]
        model["tree_info"] = [0] * len(trees)
        model["iteration_indptr"] = list(range(len(trees) + 1))
        model["gbtree_model_param"]["num_trees"] = str(len(trees))
        fresh = xgboost.Booster({"nthread": 1})
        fresh.load_model(bytearray(json.dumps(self._document, default=np.ndarray.tolist).encode()))
        return bytes(fresh.save_raw("ubj"))


def changed(model: bytes, change: Callable[[Forest], None]) -> bytes:
    """A model as UBJ, after a change."""
    forest = Forest(model)
    change(forest)
    return forest.ubj()


def _read(tree: dict[str, Any]) -> Tree:
    left = np.asarray(tree["left_children"], np.int64)
    condition = np.asarray(tree["split_conditions"], np.float32)
    return Tree(
        left,
        np.asarray(tree["right_children"], np.int64),
        np.asarray(tree["split_indices"], np.int64),
        condition,
        np.asarray(tree["default_left"], np.bool_),
        np.where(left == _NONE, condition, np.float32(0)),
        np.asarray(tree["sum_hessian"], np.float32),
    )


def _written(tree: Tree, number: int, columns: int) -> dict[str, Any]:
    count, leaf = len(tree.left), tree.leaf
    nothing: Sequence[int] = []
    return {
        "id": number,
        "left_children": tree.left.tolist(),
        "right_children": tree.right.tolist(),
        "parents": np.where(tree.parents == _NONE, _NO_PARENT, tree.parents).tolist(),
        "split_indices": np.where(leaf, 0, tree.feature).tolist(),
        "split_conditions": np.where(leaf, tree.value, tree.threshold).tolist(),
        "split_type": [0] * count,
        "default_left": np.where(leaf, False, tree.missing_left).astype(int).tolist(),
        "base_weights": np.where(leaf, tree.value, np.float32(0)).tolist(),
        "loss_changes": np.where(leaf, 0.0, 1.0).tolist(),
        "sum_hessian": tree.cover.tolist(),
        "categories": nothing,
        "categories_nodes": nothing,
        "categories_segments": nothing,
        "categories_sizes": nothing,
        "tree_param": {
            "num_deleted": "0",
            "num_feature": str(columns),
            "num_nodes": str(count),
            "size_leaf_vector": "1",
        },
    }


def _stump() -> Tree:
    """A tree that says nothing: XGBoost has no model without one."""
    node, nothing = np.zeros(1, np.int64), np.zeros(1, np.float32)
    return Tree(node - 1, node - 1, node, nothing, np.zeros(1, np.bool_), nothing, nothing)
