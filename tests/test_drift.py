"""Drift: the index against its own definition, windows that slide, what is exported, and the report."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from typer.testing import CliRunner

from consumer.cli import app
from consumer.drift import WINDOWS, Drift, DriftCollector
from consumer.judge import LineUp
from consumer.telemetry import Health, Telemetry, serve
from features.catalog import DEFAULT
from models.bundle import load
from models.bundle_writer import Recipe, write
from models.drift import BINS, MIN_PAYMENTS, SCORE, WIDTH, Bins, histogram, reference
from models.manifest import Reference
from models.score import ConstantScorer
from tests.support.bundles import make_bundle, rows
from tests.test_pipeline import Rig, events, model

HOUR, DAY = WINDOWS
Values = npt.NDArray[np.float32]
cells = st.integers(-100, 100).map(float) | st.sampled_from([np.nan, 0.0, 1e30, -1e30])
columns = hnp.arrays(np.float32, st.integers(0, 200), elements=cells)


@given(columns)
def test_a_histogram_counts_every_value_once(values: Values) -> None:
    found = histogram(values)
    known = values[~np.isnan(values)]
    assert list(found.edges) == sorted(set(found.edges))
    assert len(found.counts) == len(found.edges) + 1 <= BINS
    assert found.missing == np.isnan(values).sum()
    edges = [-np.inf, *found.edges, np.inf]
    for low, high, count in zip(edges[:-1], edges[1:], found.counts, strict=True):
        assert count == sum(low <= value < high for value in known.tolist())


@given(columns, columns)
@settings(max_examples=50)
def test_counts_are_those_of_a_plain_loop(then: Values, now: Values) -> None:
    bins = Bins(Reference({"f": histogram(then)}, histogram(then)), ["f"])
    counts = np.zeros((2, WIDTH), np.int64)
    bins.count(np.nan_to_num(now), now[:, None], counts)
    edges = histogram(then).edges
    for value in now.tolist():
        place = BINS if np.isnan(value) else sum(value >= edge for edge in edges)
        counts[1, place] -= 1
    assert not counts[1].any()
    assert counts[0].sum() == len(now)


def naive_psi(then: list[int], now: list[int]) -> float:
    """As Siddiqi defines it, with half a count more in each bin."""
    total = 0.0
    for a, b in zip(then, now, strict=True):
        share = (a + 0.5) / (sum(then) + 0.5 * len(then))
        other = (b + 0.5) / (sum(now) + 0.5 * len(now))
        total += (other - share) * np.log(other / share)
    return total


@given(st.lists(st.integers(0, 10_000), min_size=BINS + 1, max_size=BINS + 1))
def test_the_index_is_what_its_definition_says(now: list[int]) -> None:
    values = np.arange(1_000, dtype=np.float32)
    bins = Bins(Reference({}, histogram(values)), [])
    (found,) = bins.psi(np.array([now]))
    if sum(now) < MIN_PAYMENTS:
        assert np.isnan(found)
    else:
        assert found == pytest.approx(naive_psi([100] * BINS + [0], now))


def test_the_same_population_has_not_moved_and_another_one_has() -> None:
    rng = np.random.default_rng(1)
    before = rng.normal(0, 1, (5_000, 2)).astype(np.float32)
    known = Reference({name: histogram(before[:, at]) for at, name in enumerate("ab")}, histogram(rng.random(5_000)))  # type: ignore[arg-type]
    bins = Bins(known, ["a", "b"])
    counts = np.zeros((3, WIDTH), np.int64)
    values = rng.normal(0, 1, (5_000, 2)).astype(np.float32)
    values[:, 1] += 1
    values[:1_000, 0] = np.nan
    bins.count(rng.random(5_000).astype(np.float32), values, counts)
    score, a, b = bins.psi(counts)
    assert score < 0.02
    assert b > 0.25
    assert bins.missing_shift(counts).tolist() == pytest.approx([0, 0.2, 0])
    assert a > 0.1  # missing values are a bin of their own


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_000_000_000.0

    def __call__(self) -> float:
        return self.now_s


@given(st.lists(st.tuples(st.floats(0, 5_000), st.integers(1, 50)), max_size=30))
@settings(max_examples=50)
def test_windows_forget_what_is_older_than_they_are_long(steps: list[tuple[float, int]]) -> None:
    clock = Clock()
    drift = Drift("d", Reference({}, histogram(np.arange(100, dtype=np.float32))), (), clock)
    seen: list[tuple[float, int]] = []
    for pause_s, count in steps:
        clock.now_s += pause_s
        drift.count(np.zeros(count, np.float32), np.zeros((count, 0), np.float32))
        seen.append((clock.now_s, count))
        for window in WINDOWS:
            slot = int(clock.now_s // window.slot_s)
            expected = sum(some for at, some in seen if slot - int(at // window.slot_s) < window.slots)
            assert drift.counts(window).sum() == expected


def test_a_clock_that_was_set_back_loses_nothing() -> None:
    clock = Clock()
    drift = Drift("d", Reference({}, histogram(np.arange(100, dtype=np.float32))), (), clock)
    drift.count(np.zeros(3, np.float32), np.zeros((3, 0), np.float32))
    clock.now_s -= 10_000
    drift.count(np.zeros(4, np.float32), np.zeros((4, 0), np.float32))
    assert drift.counts(HOUR).sum() == 7


def spread() -> Reference:
    return reference(DEFAULT.features, rows(2_000), np.linspace(0, 1, 2_000, dtype=np.float32))


def watched(rig: Rig) -> Rig:
    """Another champion: one whose drift is measured."""
    plain = model("2", ConstantScorer(full=0.2))
    rig.line_up = LineUp(
        type(plain)(plain.reference, plain.digests, plain.brain, plain.device, plain.catalog, spread())
    )
    return rig


def test_the_processor_counts_what_its_champion_scored() -> None:
    rig = watched(Rig(ConstantScorer(full=0.1)))
    rig.process(*events(20), *events(5))  # five are repeated
    drift = rig.telemetry.drift.current
    assert drift is not None
    assert drift.digest == "2".rjust(64, "0")
    assert drift.counts(HOUR).sum(axis=1).tolist() == [20] * (len(DEFAULT.names) - 1)
    assert not {"hour", "weekday"} & set(drift.bins.names)
    for first in range(1_000, 1_000 + MIN_PAYMENTS, 100):
        rig.process(*events(100, first))
    assert rig.count("fraudline_score_psi", window="1h") > 0.25
    assert rig.count("fraudline_feature_psi", feature="amount_minor", window="24h") > 0.25
    seen = drift.counts(HOUR)[0].sum()
    rig.state.up = False
    rig.process(*events(5, 100))  # decided without features
    assert drift.counts(HOUR)[0].sum() == seen


def test_a_bundle_without_a_reference_exports_nothing() -> None:
    rig = Rig(ConstantScorer(full=0.1))
    rig.process(*events(3))
    assert rig.telemetry.drift.current is None
    assert all(not family.samples for family in DriftCollector().collect())


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    made = make_bundle(tmp_path / "plain")
    recipe = Recipe(
        name="test",
        version="1",
        created_ms=0,
        model=made.model,
        no_features=made.no_features,
        policy=made.policy,
        golden_rows=rows(8),
        window=(0, 1),
        metrics={},
        reference=spread(),
    )
    return write(tmp_path / "bundle", recipe, DEFAULT).path


def test_the_report_adds_the_counts_of_all_workers(bundle: Path, tmp_path: Path) -> None:
    loaded = load(bundle, DEFAULT)
    assert loaded.manifest.reference is not None
    servers = []
    for seed in range(2):
        telemetry = Telemetry()
        telemetry.drift.current = Drift(loaded.digest, loaded.manifest.reference, DEFAULT.names, Clock())
        values = rows(600, seed)
        values[:, 0] *= 50
        telemetry.drift.current.count(np.full(600, 0.01, np.float32), values)
        servers.append(serve(telemetry, Health(), "127.0.0.1", 0))
    urls = [f"http://127.0.0.1:{server.port}" for server in servers]
    try:
        with urlopen(f"{urls[0]}/drift") as answer:
            assert json.load(answer)["bundle"] == loaded.digest
        page = tmp_path / "drift.html"
        workers = [word for url in urls for word in ("--worker", url)]
        done = CliRunner().invoke(app, ["drift", "report", str(bundle), *workers, "--out", str(page), "--json"])
        assert done.exit_code == 0, done.output
        told = json.loads(done.stdout)
        assert [window["payments"] for window in told["windows"]] == [1_200, 1_200]
        first, second, *_ = told["rows"]
        assert first["name"] == SCORE
        assert second["name"] == DEFAULT.names[0]
        assert second["psi"]["1h"] > 0.25
        assert page.read_text().count("<svg") >= 10
        assert json.loads(page.with_suffix(".json").read_text()) == told
        alone = make_bundle(tmp_path / "alone", seed=8)
        other = CliRunner().invoke(app, ["drift", "report", str(alone.path), *workers])
        assert other.exit_code != 0
    finally:
        for server in servers:
            server.close()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "--worker"),
        (["--worker", "http://127.0.0.1:1"], "does not answer"),
        (["--worker", "nonsense"], "no address"),
        (["--payments", "p.jsonl"], "--labels"),
        (["--worker", "http://127.0.0.1:1", "--out", "page.txt"], ".html"),
    ],
)
def test_what_can_not_be_reported_is_said_in_one_sentence(bundle: Path, arguments: list[str], says: str) -> None:
    done = CliRunner().invoke(app, ["drift", "report", str(bundle), *arguments])
    assert done.exit_code != 0
    assert says in str(done.exception) or says in done.output
