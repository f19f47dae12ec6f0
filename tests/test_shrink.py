"""Smaller models stay models: XGBoost scores and explains them, and validation does not suffer."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import xgboost
from hypothesis import given, settings
from hypothesis import strategies as st

from models.edge.forest import LEAF_STEPS, MOST_BINS
from models.shrink import MOST_THRESHOLDS, pruned, quantized
from models.trees import Forest

COLUMNS = 4
Values = npt.NDArray[np.float32]


def sample(seed: int, rows: int = 1_500) -> tuple[Values, npt.NDArray[np.bool_]]:
    rng = np.random.default_rng(seed)
    values = rng.normal(0, 1, (rows, COLUMNS)).astype(np.float32)
    values[rng.random(values.shape) < 0.1] = np.nan
    return values, np.nan_to_num(values[:, 0] * 2 + values[:, 1]) + rng.normal(0, 1.5, rows) > 2


def grown(seed: int, trees: int = 40, depth: int = 5, max_bin: int = 256) -> bytes:
    values, fraud = sample(seed)
    options = {"objective": "binary:logistic", "max_depth": depth, "eta": 0.3, "nthread": 1, "base_score": 0.1}
    matrix = xgboost.DMatrix(values, fraud, feature_names=[f"f{column}" for column in range(COLUMNS)])
    return bytes(xgboost.train(options | {"max_bin": max_bin}, matrix, trees).save_raw("ubj"))


def booster_of(model: bytes) -> xgboost.Booster:
    booster = xgboost.Booster({"nthread": 1})
    booster.load_model(bytearray(model))
    return booster


def margins(model: bytes, values: Values) -> npt.NDArray[np.float64]:
    return booster_of(model).inplace_predict(values, predict_type="margin").astype(np.float64)


def log_loss(model: bytes, values: Values, fraud: npt.NDArray[np.bool_]) -> float:
    return float(np.logaddexp(0, np.where(fraud, -1, 1) * margins(model, values)).sum())


def nodes(model: bytes) -> int:
    return sum(len(tree.left) for tree in Forest(model).trees)


MODELS = {seed: grown(seed) for seed in range(3)}


@settings(max_examples=20)
@given(st.sampled_from(sorted(MODELS)), st.integers(10, 40))
def test_a_model_that_was_opened_and_closed_is_the_same(seed: int, other: int) -> None:
    values, _ = sample(other)
    assert np.array_equal(margins(Forest(MODELS[seed]).ubj(), values), margins(MODELS[seed], values))


@settings(max_examples=20)
@given(st.sampled_from(sorted(MODELS)), st.integers(10, 40))
def test_pruning_never_costs_log_loss_on_what_it_was_chosen_on(seed: int, other: int) -> None:
    values, fraud = sample(other, 400)
    small = pruned(MODELS[seed], values, fraud)
    assert log_loss(small, values, fraud) <= log_loss(MODELS[seed], values, fraud) + 1e-3
    assert nodes(small) <= nodes(MODELS[seed])


def test_pruning_keeps_what_validation_rewards_and_cuts_noise() -> None:
    values, fraud = sample(50, 6_000)
    small = pruned(MODELS[0], values, fraud)
    assert nodes(small) < 0.7 * nodes(MODELS[0])
    later, truth = sample(51, 6_000)
    assert log_loss(small, later, truth) < log_loss(MODELS[0], later, truth)


def test_where_nothing_is_worth_it_one_number_is_left() -> None:
    values, fraud = sample(50)
    model = pruned(MODELS[0], values, fraud, worth=1e9)
    assert nodes(model) == 1
    assert np.ptp(margins(model, values)) == 0


@given(st.sampled_from(sorted(MODELS)))
def test_pruned_and_quantized_models_are_explained_to_the_last_bit_of_their_score(seed: int) -> None:
    values, fraud = sample(60, 300)
    for model in (pruned(MODELS[seed], values, fraud), quantized(MODELS[seed], values)):
        booster = booster_of(model)
        matrix = xgboost.DMatrix(values, feature_names=booster.feature_names)
        parts = booster.predict(matrix, pred_contribs=True)
        assert np.allclose(parts.sum(axis=1), margins(model, values), atol=1e-4)


@pytest.mark.parametrize("seed", sorted(MODELS))
def test_quantizing_leaves_few_thresholds_and_whole_steps(seed: int) -> None:
    model = grown(seed, trees=120, depth=6, max_bin=2_000)
    values, _ = sample(70)
    before = [np.unique(thresholds(model, column)) for column in range(COLUMNS)]
    assert max(map(len, before)) > MOST_THRESHOLDS
    small = quantized(model, values)
    for column, known in enumerate(before):
        kept = np.unique(thresholds(small, column))
        assert len(kept) <= MOST_THRESHOLDS <= MOST_BINS
        assert np.isin(kept, known).all()
    leaves = np.concatenate([tree.value[tree.leaf] for tree in Forest(small).trees])
    step = float(np.abs(leaves[leaves != 0]).min())
    while np.any(leaves % np.float32(step)):
        step /= 2
    assert np.abs(leaves).max() / step <= LEAF_STEPS
    assert np.abs(margins(small, values) - margins(model, values)).mean() < 0.05
    assert Forest(small).base == 0


def thresholds(model: bytes, column: int) -> Values:
    trees = Forest(model).trees
    return np.concatenate([tree.threshold[~tree.leaf & (tree.feature == column)] for tree in trees])
