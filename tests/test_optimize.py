"""`fraudline model optimize`: every form is a bundle like any other, judged on what nobody learned from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from consumer.cli import app
from consumer.simulator import LABELS_FILE, PAYMENTS_FILE, Simulation, write
from features.catalog import DEFAULT
from features.errors import ConfigError
from models.bundle import load
from models.edge import load as load_on_the_edge
from models.manifest import MODEL, SMALL
from models.optimize import OptimizeOptions, _mover, optimize
from models.score import Scorer
from models.train import TrainOptions, train
from tests.support.bundles import rows

SIMULATION = Simulation(payments=8_000, seed=3, days=16, fraud_rate=0.05)
FORMS = ("pruned", "pruned-quantized", "distilled")


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("history")
    write(SIMULATION, path)
    return path


@pytest.fixture(scope="module")
def bundle(history: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained when half of the history had happened."""
    path = tmp_path_factory.mktemp("optimize") / "bundle"
    first = json.loads((history / PAYMENTS_FILE).read_text().splitlines()[0])["event_time"]
    options = TrainOptions(
        trees=40, learning_rate=0.3, label_delay_days=1.0, windows=2, to_ms=first + 9 * 86_400_000, threads=1
    )
    train(history / PAYMENTS_FILE, history / LABELS_FILE, path, options=options)
    return path


@pytest.fixture(scope="module")
def made(history: Path, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, object]]]:
    out = tmp_path_factory.mktemp("forms") / "out"
    files = ["--payments", str(history / PAYMENTS_FILE), "--labels", str(history / LABELS_FILE)]
    done = CliRunner().invoke(app, ["model", "optimize", str(bundle), *files, "--out", str(out), "--json"])
    assert done.exit_code == 0, done.output
    return out, json.loads(done.stdout)


def test_every_form_is_a_bundle_that_loads_and_is_measured_on_both_engines(
    made: tuple[Path, list[dict[str, object]]],
) -> None:
    out, told = made
    assert [(row["form"], row["engine"]) for row in told] == [
        (form, engine) for form in ("original", *FORMS) for engine in ("xgboost", "compiled")
    ]
    by_form = {(row["form"], row["engine"]): row for row in told}
    for form in FORMS:
        loaded = load(out / form, DEFAULT)
        row = by_form[form, "xgboost"]
        assert loaded.manifest.trees[MODEL] == row["trees"]
        assert loaded.manifest.metrics["full"]["average_precision"] == row["ap"]
        assert loaded.manifest.metrics["optimized"]["form"] == form
        assert row["bundle"] == str(out / form)
        assert row["ap"] == by_form[form, "compiled"]["ap"]
    original = by_form["original", "xgboost"]
    assert original["largest_difference"] == 0 == by_form["original", "compiled"]["largest_difference"]
    for form in FORMS:
        if form != "distilled":  # here the original is hardly larger than a student
            assert by_form[form, "compiled"]["memory_bytes"] < by_form["original", "compiled"]["memory_bytes"]  # type: ignore[operator]
        assert float(by_form[form, "xgboost"]["ap"]) > 0.7 * float(original["ap"])  # type: ignore[arg-type]


def test_the_edge_scores_every_form_as_xgboost_does(made: tuple[Path, list[dict[str, object]]]) -> None:
    values = rows(300, 7)
    for form in (*FORMS, "tiered"):
        loaded = load(made[0] / form, DEFAULT)
        on_the_edge = load_on_the_edge(made[0] / form)
        assert np.abs(on_the_edge.full.score(values) - Scorer(loaded).score(values)).max() <= 1e-6


def test_the_tiered_bundle_is_the_original_with_the_student_as_its_small_model(
    bundle: Path, made: tuple[Path, list[dict[str, object]]]
) -> None:
    original, tiered = load(bundle, DEFAULT), load(made[0] / "tiered", DEFAULT)
    assert tiered.model == original.model
    assert tiered.small == load(made[0] / "distilled", DEFAULT).model
    assert tiered.policy.thresholds["full"] == original.policy.thresholds["full"]
    assert tiered.manifest.trees[SMALL] == max(10, original.manifest.trees[MODEL] // 3)


def test_drift_of_a_form_is_measured_from_its_own_scores(
    bundle: Path, made: tuple[Path, list[dict[str, object]]]
) -> None:
    known = load(bundle, DEFAULT).manifest.reference
    assert known is not None
    for form in (*FORMS, "tiered"):
        own = load(made[0] / form, DEFAULT).manifest.reference
        assert own is not None
        assert own.features == known.features
        assert (own.score == known.score) is False


def test_a_threshold_goes_where_as_many_payments_lie_above_it() -> None:
    rng = np.random.default_rng(2)
    before, after = rng.random(1_000).astype(np.float32), rng.random(1_000).astype(np.float32) ** 3
    moved = _mover(before, after)
    for threshold in (0.01, 0.5, 0.9, float(before[3])):
        above = np.count_nonzero(before >= np.float32(threshold))
        assert np.count_nonzero(after >= np.float32(moved(threshold))) == above
    assert moved(2.0) == 2.0


def test_a_history_that_ends_with_the_bundle_is_refused(history: Path, tmp_path: Path) -> None:
    options = TrainOptions(trees=10, learning_rate=0.3, label_delay_days=1.0, windows=2, threads=1)
    files = history / PAYMENTS_FILE, history / LABELS_FILE
    train(*files, tmp_path / "bundle", options=options)
    with pytest.raises(ConfigError, match="earlier --to"):
        optimize(tmp_path / "bundle", *files, tmp_path / "out", OptimizeOptions(("prune",)), lambda *_: None, DEFAULT)


@pytest.mark.parametrize(("techniques", "says"), [((), "techniques"), (("melt",), "prune, quantize")])
def test_unknown_techniques_are_refused(techniques: tuple[str, ...], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        OptimizeOptions(techniques)  # type: ignore[arg-type]


def test_only_what_is_asked_for_is_made(history: Path, bundle: Path, tmp_path: Path) -> None:
    files = history / PAYMENTS_FILE, history / LABELS_FILE
    found = optimize(bundle, *files, tmp_path / "out", OptimizeOptions(("quantize",)), lambda *_: None, DEFAULT)
    assert [(row.form, row.engine) for row in found] == [("original", "xgboost"), ("quantized", "xgboost")]
    assert sorted(each.name for each in (tmp_path / "out").iterdir()) == ["quantized"]
    only = optimize(bundle, *files, tmp_path / "none", OptimizeOptions(("compile",)), lambda *_: None, DEFAULT)
    assert [row.engine for row in only] == ["xgboost", "compiled"]
