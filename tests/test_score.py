from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
import xgboost
from hypothesis import given
from hypothesis import strategies as st
from xgboost.core import XGBoostError

from features.catalog import DEFAULT
from features.errors import BundleError, ConfigError
from models.bundle import Bundle
from models.explain import Explainer
from models.gpu import DeviceFull, GpuPredictor, NoRoom
from models.native import CpuPredictor
from models.score import ConstantScorer, Scorer, Scoring, open_model
from tests.support.bundles import looks_like_fraud, make_bundle, rows


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("score") / "bundle")


@pytest.fixture(scope="module")
def scorer(bundle: Bundle) -> Scorer:
    return Scorer(bundle)


def test_scores_tell_fraud_from_the_rest(scorer: Scorer) -> None:
    values = rows(400, seed=9)
    fraud = looks_like_fraud(values)
    scores = scorer.score(values)
    assert scores.dtype == np.float32
    assert scores.shape == (400,)
    assert scores[fraud].min() > np.median(scores[~fraud])


@given(st.lists(st.integers(1, 300), min_size=1, max_size=8), st.integers(0, 2**32 - 1))
def test_a_score_does_not_depend_on_the_batch_around_it(scorer: Scorer, sizes: list[int], seed: int) -> None:
    values = rows(sum(sizes), seed)
    cuts = np.cumsum(sizes)[:-1]
    for verb in (scorer.score, scorer.score_payment_only):
        apart = np.concatenate([verb(part) for part in np.split(values, cuts)])
        assert np.array_equal(apart, verb(values))


def test_a_score_does_not_depend_on_how_the_matrix_lies_in_memory_or_on_threads(bundle: Bundle) -> None:
    values = rows(300)
    expected = Scorer(bundle).score(values)
    assert np.array_equal(Scorer(bundle, threads=2).score(values), expected)
    assert np.array_equal(Scorer(bundle).score(np.asfortranarray(values)), expected)
    assert np.array_equal(Scorer(bundle).score(np.repeat(values, 2, axis=0)[::2]), expected)


def test_scores_are_the_bits_that_xgboost_s_own_wrapper_gives(bundle: Bundle, scorer: Scorer) -> None:
    booster = xgboost.Booster({"nthread": 1})
    booster.load_model(bytearray(bundle.model))
    for count in (1, 2, 63, 64, 65, 1_000):
        values = rows(count, seed=count)
        assert np.array_equal(scorer.score(values), booster.inplace_predict(values))


def test_a_model_that_is_no_binary_classifier_fails_the_batch_not_the_process() -> None:
    values = rows(90)[:, :4]
    booster = xgboost.train(
        {"objective": "multi:softprob", "num_class": 3, "nthread": 1},
        xgboost.DMatrix(values, np.arange(90) % 3, nthread=1),
        2,
    )
    with pytest.raises(XGBoostError, match="one number"):
        CpuPredictor(booster)(values)


def test_the_payment_model_looks_at_no_other_column(scorer: Scorer) -> None:
    values = rows(200)
    others = [i for i in range(len(DEFAULT.names)) if i not in DEFAULT.payment_columns]
    blind = values.copy()
    blind[:, others] = np.nan
    assert np.array_equal(scorer.score_payment_only(values), scorer.score_payment_only(blind))
    assert not np.array_equal(scorer.score_payment_only(values), scorer.score(values))


def test_later_calls_do_not_change_earlier_scores(scorer: Scorer) -> None:
    first = scorer.score(rows(64, seed=1))
    kept = first.copy()
    scorer.score(rows(64, seed=2))
    assert np.array_equal(first, kept)


def test_scores_are_finite_for_the_most_extreme_values(scorer: Scorer) -> None:
    largest = np.finfo(np.float32).max
    corners = np.array([np.nan, 0.0, -0.0, largest, -largest, np.finfo(np.float32).tiny], np.float32)
    values = np.repeat(corners[:, None], len(DEFAULT.names), axis=1)
    for scores in (scorer.score(values), scorer.score_payment_only(values)):
        assert np.isfinite(scores).all()
        assert ((scores > 0) & (scores < 1)).all()


@pytest.mark.parametrize("double", [False, True])
def test_an_empty_batch_has_no_scores(scorer: Scorer, double: bool) -> None:
    subject: Scoring = ConstantScorer(0.5) if double else scorer
    subject.warm_up()
    for scores in (subject.score(rows(0)), subject.score_payment_only(rows(0))):
        assert scores.shape == (0,)
        assert scores.dtype == np.float32


def test_the_double_answers_what_it_is_told() -> None:
    double = ConstantScorer(full=0.25, payment_only=0.75)
    assert double.score(rows(3)).tolist() == [0.25] * 3
    assert double.score_payment_only(rows(3)).tolist() == [0.75] * 3


@pytest.mark.parametrize(
    "values",
    [rows(3)[:, :-1], rows(3).astype(np.float64), rows(3)[0]],
    ids=["too narrow", "float64", "one dimension"],
)
def test_another_shape_or_type_is_a_bug_of_the_caller(scorer: Scorer, values: np.ndarray) -> None:
    with pytest.raises(ValueError, match="columns are needed"):
        scorer.score(values)


def test_columns_in_another_order_are_refused_before_the_first_score(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match=r"model\.ubj has other columns"):
        open_model(bundle.model, DEFAULT.names[::-1], "model.ubj", threads=1)


def test_an_unknown_device_is_refused(bundle: Bundle) -> None:
    with pytest.raises(ConfigError, match="`cpu` or `cuda`"):
        Scorer(bundle, device="tpu")


def has_gpu() -> bool:
    return Path("/proc/driver/nvidia/version").exists()


@pytest.mark.skipif(has_gpu(), reason="there is a GPU here")
def test_cuda_without_a_gpu_is_refused_instead_of_silently_using_the_cpu(bundle: Bundle) -> None:
    with pytest.raises(ConfigError, match=r"model\.device"):
        Scorer(bundle, device="cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not has_gpu(), reason="needs a CUDA device and CuPy")
def test_the_gpu_scores_as_the_cpu_does(bundle: Bundle) -> None:
    values = rows(3_000)  # more than its first buffers hold
    values[:8] = np.array([np.nan, 0.0, 1e30, -1e30, 3.4e38, -3.4e38, 1e-45, -0.0], np.float32)[:, None]
    gpu = Scorer(bundle, device="cuda")
    gpu.warm_up()
    assert gpu.device == "cuda"
    np.testing.assert_allclose(gpu.score(values), Scorer(bundle).score(values), atol=1e-5)
    np.testing.assert_allclose(gpu.score_payment_only(values), Scorer(bundle).score_payment_only(values), atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not has_gpu(), reason="needs a CUDA device and CuPy")
def test_the_gpu_explains_as_the_cpu_does(bundle: Bundle) -> None:
    values = rows(64)
    by_gpu, by_cpu = Explainer(bundle, device="cuda"), Explainer(bundle)
    for tier in ("full", "no_features"):
        np.testing.assert_allclose(
            by_gpu.contributions(values, tier),  # type: ignore[arg-type]
            by_cpu.contributions(values, tier),  # type: ignore[arg-type]
            atol=1e-4,
        )


@contextmanager
def full_gpu() -> Iterator[None]:
    """Takes all of the GPU's memory, down to the smallest piece that it gives, and gives it back."""
    import cupy  # noqa: PLC0415  absent where there is no GPU

    cupy.get_default_memory_pool().free_all_blocks()
    taken, size_bytes = [], cupy.cuda.runtime.memGetInfo()[0]
    while size_bytes >= 512:
        try:
            taken.append(cupy.cuda.Memory(size_bytes))
        except cupy.cuda.runtime.CUDARuntimeError:
            size_bytes //= 2
    yield
    taken.clear()


def on_the_gpu(bundle: Bundle) -> GpuPredictor:
    booster = xgboost.Booster()
    booster.load_model(bytearray(bundle.model))
    return GpuPredictor(booster)


@pytest.mark.gpu
@pytest.mark.skipif(not has_gpu(), reason="needs a CUDA device and CuPy")
def test_a_gpu_without_room_is_told_from_one_that_fails(bundle: Bundle) -> None:
    """What CuPy and XGBoost raise then is `DeviceFull`, or of a model `NoRoom`; once there is room, it scores again."""
    predictor, few, many = on_the_gpu(bundle), rows(100), rows(1_000_000)
    before = predictor(few)
    with full_gpu(), pytest.raises(DeviceFull, match="no room for 1,000,000 rows"):
        predictor(many)
    with full_gpu(), pytest.raises(NoRoom, match="no room for the model"):
        on_the_gpu(bundle)
    with full_gpu(), suppress(DeviceFull):  # XGBoost may have kept what it needs
        assert np.array_equal(predictor(few), before)
    assert np.array_equal(predictor(few), before)
    assert len(predictor(many)) == len(many)
