"""Contributions by tables are those of TreeSHAP: by XGBoost, and by the definition of a Shapley value."""

from __future__ import annotations

from itertools import combinations
from math import factorial

import numpy as np
import numpy.typing as npt
import pytest
import xgboost
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from models import shap
from models.shap import DEEPEST, TooLarge, TreeShap
from models.shrink import pruned
from models.trees import Forest, Tree

COLUMNS = 4
Values = npt.NDArray[np.float32]


def grown(seed: int, trees: int, depth: int, **more: object) -> bytes:
    rng = np.random.default_rng(seed)
    values = np.round(rng.normal(0, 2, (500, COLUMNS)), 1).astype(np.float32)
    values[rng.random(values.shape) < 0.15] = np.nan
    fraud = np.nan_to_num(values[:, 0] * values[:, 1]) + rng.normal(0, 1, len(values)) > 1
    options = {"objective": "binary:logistic", "max_depth": depth, "eta": 0.4, "nthread": 1, "seed": seed} | more
    names = [f"f{column}" for column in range(COLUMNS)]
    booster = xgboost.train(options, xgboost.DMatrix(values, fraud, feature_names=names), trees)
    return bytes(booster.save_raw("ubj"))


def some(seed: int) -> tuple[Values, npt.NDArray[np.bool_]]:
    values = np.random.default_rng(seed).normal(0, 2, (200, COLUMNS)).astype(np.float32)
    return values, values[:, 0] > 0


MODELS = [grown(1, 1, 1), grown(2, 15, 3), grown(3, 20, 6), grown(4, 5, 9, min_child_weight=0.1)]
MODELS.append(pruned(MODELS[2], *some(1)))
cells = st.floats(-6, 6, width=32).map(lambda value: round(value, 1)) | st.sampled_from([np.nan, 1e30, -1e30])
matrices = hnp.arrays(np.float32, st.tuples(st.integers(0, 20), st.just(COLUMNS)), elements=cells)


@given(st.sampled_from(MODELS), matrices)
@settings(max_examples=60)
def test_tables_give_what_xgboost_gives_and_add_up_to_the_score(model: bytes, values: Values) -> None:
    found = TreeShap(Forest(model))(values)
    assert found.shape == (len(values), COLUMNS + 1)
    if not len(values):
        return
    booster = xgboost.Booster({"nthread": 1})
    booster.load_model(bytearray(model))
    matrix = xgboost.DMatrix(values, feature_names=booster.feature_names)
    assert np.allclose(found, booster.predict(matrix, pred_contribs=True), atol=1e-4)
    assert np.allclose(found.sum(axis=1), booster.predict(matrix, output_margin=True), atol=1e-4)


def expectation(tree: Tree, node: int, row: Values, known: frozenset[int]) -> float:
    """What a tree says where only the features of `known` are known: the others follow what was learned from."""
    if tree.left[node] < 0:
        return float(tree.value[node])
    left, right, feature = int(tree.left[node]), int(tree.right[node]), int(tree.feature[node])
    if feature in known:
        goes_left = tree.missing_left[node] if np.isnan(row[feature]) else row[feature] < tree.threshold[node]
        return expectation(tree, left if goes_left else right, row, known)
    share = float(tree.cover[left]) / float(tree.cover[node])
    return share * expectation(tree, left, row, known) + (1 - share) * expectation(tree, right, row, known)


@given(st.sampled_from(MODELS[:3]), hnp.arrays(np.float32, COLUMNS, elements=cells))
@settings(max_examples=25)
def test_tables_give_what_the_definition_gives(model: bytes, row: Values) -> None:
    forest = Forest(model)
    found = TreeShap(forest)(row[None, :])[0]
    for feature in range(COLUMNS):
        others = [column for column in range(COLUMNS) if column != feature]
        total = 0.0
        for size in range(COLUMNS):
            weight = factorial(size) * factorial(COLUMNS - size - 1) / factorial(COLUMNS)
            for group in combinations(others, size):
                without = frozenset(group)
                for tree in forest.trees:
                    with_it = expectation(tree, 0, row, without | {feature})
                    total += weight * (with_it - expectation(tree, 0, row, without))
        assert found[feature] == pytest.approx(total, abs=1e-4)


def test_tables_that_would_be_too_large_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shap, "MOST_CELLS", 100)
    with pytest.raises(TooLarge, match="cells"):
        TreeShap(Forest(MODELS[2]))


def test_a_tree_that_is_too_deep_is_refused() -> None:
    column = np.arange(64, dtype=np.float32)[:, None]
    options = {"objective": "binary:logistic", "max_depth": 40, "min_child_weight": 0, "lambda": 0, "nthread": 1}
    matrix = xgboost.DMatrix(column, np.arange(64) % 2, feature_names=["x"])
    model = bytes(xgboost.train(options, matrix, 1).save_raw("ubj"))
    with pytest.raises(TooLarge, match=f"deeper than {DEEPEST}"):
        TreeShap(Forest(model))
