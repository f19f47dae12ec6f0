"""`fraudline train` from end to end: its report, its search, data larger than memory; and `score` on files."""

from __future__ import annotations

import dataclasses
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest
import xgboost

from consumer.cli import exit_status
from consumer.edge import score_stream
from consumer.simulator import LABELS_FILE, PAYMENTS_FILE, Simulation, write
from features.catalog import DEFAULT
from features.event import Label
from models import fit as fitting
from models.bundle import load
from models.calibrate import Line, calibrated, with_line
from models.explain import Explainer
from models.fit import Part, TreeOptions, fit, margins
from models.score import Scorer
from models.search import searcher
from models.train import TrainOptions, train

SIMULATION = Simulation(payments=6_000, seed=3, days=12, fraud_rate=0.05)
WORDS = ("--label-delay-days", "1", "--windows", "2", "--trees", "20", "--learning-rate", "0.3")
OPTIONS = TrainOptions(trees=20, learning_rate=0.3, label_delay_days=1.0, windows=2)


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("history")
    write(SIMULATION, path)
    return path


@pytest.fixture(scope="module")
def trained(history: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trained") / "bundle"
    words = ["train", *files(history), "--out", str(path), *WORDS, "--segment", "channel", "--json"]
    assert exit_status(words) == 0
    return path


def files(history: Path) -> tuple[str, ...]:
    return "--payments", str(history / PAYMENTS_FILE), "--labels", str(history / LABELS_FILE)


class Page(HTMLParser):
    """What a page shows, and what it asks others for."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "xlink:href") and value]


def test_the_report_has_its_plots_inside_and_asks_nobody(trained: Path) -> None:
    text = trained.with_name("bundle.report.html").read_text("utf-8")
    page = Page()
    page.feed(text)
    assert page.tags.count("svg") == 8
    assert not {"script", "img", "iframe", "link"} & set(page.tags)
    assert all(link.startswith("#") for link in page.links), "a page that is mailed has nobody to ask"


def test_the_reports_figures_agree_with_the_manifest_and_with_each_other(trained: Path) -> None:
    told = json.loads(trained.with_name("bundle.report.json").read_bytes())
    metrics = load(trained, DEFAULT).manifest.metrics
    test = told["windows"][-1]
    assert test["is_test"]
    assert test["average_precision"] == metrics["full"]["average_precision"]
    chosen = next(row for row in told["thresholds"] if row["chosen"])
    assert chosen["flagged"] == metrics["full"]["review"]["flagged"]
    assert chosen["alerts_a_day"] == pytest.approx(chosen["flagged"] / told["test_days"])
    assert 0 <= chosen["saved_share"] <= 1
    for segments in told["segments"].values():
        assert sum(row["payments"] for row in segments) == test["payments"]
        assert sum(row["fraud"] for row in segments) == test["fraud"]
    assert set(told["segments"]) == {"amount", "channel"}
    assert sum(told["histogram"]["fraud"]) == test["fraud"]
    assert sum(told["calibration"]["payments"]) == test["payments"]
    assert sum(share for _, share in told["gain"]) <= 1 + 1e-6


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--segment", "colour"), "is no field of a payment"),
        (("--report", "page.txt"), "must end in .html"),
        (("--from", "2026-01-02", "--to", "2026-01-01"), "--from must lie before its --to"),
    ],
)
def test_what_can_not_be_meant_is_refused_before_any_work(
    history: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], says: str
) -> None:
    assert exit_status(["train", *files(history), "--out", str(tmp_path / "bundle"), *words]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_files_are_scored_as_the_bundle_scores_features_built_from_them(
    history: Path, trained: Path, tmp_path: Path, suffix: str
) -> None:
    out = tmp_path / f"scores{suffix}"
    assert exit_status(["score", *files(history), "--bundle", str(trained), "--out", str(out)]) == 0
    built = tmp_path / "features.parquet"
    assert exit_status(["features", "build", *files(history), "--out", str(built)]) == 0
    table = pq.read_table(built)
    values = np.stack([np.asarray(table[name]) for name in DEFAULT.names], axis=1)
    if suffix == ".parquet":
        rows = pq.read_table(out).to_pylist()
    else:
        rows = [json.loads(line) for line in out.read_bytes().splitlines()]
    assert [row["event_id"] for row in rows] == table["event_id"].to_pylist()
    bundle = load(trained, DEFAULT)
    scores = Scorer(bundle).score(np.ascontiguousarray(values))
    assert np.array_equal(np.array([row["score"] for row in rows], np.float32), scores)
    bar = bundle.policy.thresholds["full"]
    reviewed = np.where(scores >= np.float32(bar.review), "review", "approve")
    expected = np.where(scores >= np.float32(bar.block or 2), "block", reviewed)
    assert [row["decision"] for row in rows] == expected.tolist()


def test_files_are_decided_as_the_pipeline_decides_them(history: Path, trained: Path, tmp_path: Path) -> None:
    """A stream through the processor's own pipeline, and files at column speed: the same scores, bit for bit."""
    out = tmp_path / "decisions.jsonl"
    with (history / PAYMENTS_FILE).open("rb") as payments, out.open("wb") as decisions:
        score_stream(
            bundle=trained,
            payments=payments,
            decisions=decisions,
            rejects=None,
            labels=history / LABELS_FILE,
            as_of_ms=None,
        )
    streamed = [json.loads(line) for line in out.read_bytes().splitlines()]
    assert exit_status(["score", *files(history), "--bundle", str(trained), "--out", str(tmp_path / "all.jsonl")]) == 0
    filed = [json.loads(line) for line in (tmp_path / "all.jsonl").read_bytes().splitlines()]
    same = ("event_id", "card_id", "event_time", "decision", "rules", "model")
    assert [[each[name] for name in same] for each in filed] == [[each[name] for name in same] for each in streamed]
    scores = [np.array([each["score"] for each in some], np.float32) for some in (filed, streamed)]
    assert np.array_equal(*scores)
    assert len(filed) == SIMULATION.payments


def test_labels_are_never_known_before_they_are_given(history: Path, trained: Path, tmp_path: Path) -> None:
    """A label that comes after all payments changes no score; one that comes before them does."""
    labels = [msgspec.json.decode(line, type=Label) for line in (history / LABELS_FILE).read_bytes().splitlines()]
    newest = max(label.event_time for label in labels) + 100 * 86_400_000

    def scored(name: str, some: list[Label]) -> bytes:
        place = tmp_path / name
        place.mkdir()
        (place / LABELS_FILE).write_bytes(b"\n".join(map(msgspec.json.encode, some)))
        words = ("--payments", str(history / PAYMENTS_FILE), "--labels", str(place / LABELS_FILE))
        assert exit_status(["score", *words, "--bundle", str(trained), "--out", str(place / "out.jsonl")]) == 0
        return (place / "out.jsonl").read_bytes()

    late = [msgspec.structs.replace(label, labelled_at=newest) for label in labels]
    early = [msgspec.structs.replace(label, labelled_at=label.event_time) for label in labels]
    none = scored("none", [])
    assert scored("late", late) == none
    assert scored("early", early) != none


def test_rows_that_memory_does_not_hold_give_the_same_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    values = np.lib.format.open_memmap(tmp_path / "values.npy", "w+", np.float32, (5_000, 40))
    values[:] = rng.lognormal(size=values.shape)
    fraud = (values[:, 0] > 2) & (rng.random(5_000) < 0.8)
    part = Part(values, np.arange(5_000), np.arange(40), fraud)
    options = TreeOptions(trees=10, depth=3, learning_rate=0.3, seed=1, threads=1)
    names = tuple(f"f{column}" for column in range(40))
    monkeypatch.setattr(fitting, "CHUNK_ROWS", 1_000)
    kinds: list[str] = []

    def noted(kind: str) -> Any:
        made = getattr(xgboost, kind)

        def make(*given: Any, **more: Any) -> Any:
            kinds.append(kind)
            return made(*given, **more)

        return make

    for kind in ("QuantileDMatrix", "ExtMemQuantileDMatrix"):
        monkeypatch.setattr(xgboost, kind, noted(kind))
    models = [fit(part, names, options, lambda _text, _share: None, memory_mb) for memory_mb in (64, 0)]
    assert kinds == ["QuantileDMatrix", "ExtMemQuantileDMatrix"]
    assert np.array_equal(*(margins(model, part) for model in models))
    assert [each.name for each in tmp_path.iterdir()] == ["values.npy"]


def test_a_search_of_the_same_seed_finds_the_same_and_never_worse(history: Path, tmp_path: Path) -> None:
    found: list[TrainOptions] = []
    best: list[float] = []

    def look(trials: int) -> None:
        choose = searcher(DEFAULT, minutes=None, trials=trials, told=lambda _count, value: best.append(value))

        def kept(*given: Any) -> TrainOptions:
            found.append(choose(*given))
            return found[-1]

        paths = (history / PAYMENTS_FILE, history / LABELS_FILE)
        train(*paths, tmp_path / f"bundle-{len(found)}", options=OPTIONS, choose=kept)

    look(1)
    assert found[0] == OPTIONS, "the first trial is the options as they are"
    look(3)
    look(3)
    assert found[1] == found[2]
    assert best[1:4] == best[4:7]
    assert best[1] == best[0] <= best[3]


def test_calibration_makes_sums_right_and_changes_no_order() -> None:
    rng = np.random.default_rng(2)
    true_margin = rng.normal(-3, 2, 50_000)
    fraud = rng.random(50_000) < 1 / (1 + np.exp(-true_margin))
    line = calibrated((true_margin + 1.5) / 0.5, fraud)
    assert line.slope == pytest.approx(0.5, rel=0.05)
    assert line.offset == pytest.approx(-1.5, rel=0.05)
    assert calibrated(-true_margin, fraud) == Line(), "an order that would be turned around is left alone"
    assert calibrated(true_margin, np.zeros(50_000, np.bool_)) == Line()
    assert calibrated(np.ones(50_000), fraud) == Line()


def test_a_line_in_the_trees_is_the_line_on_their_log_odds_and_explanations_still_add_up(
    trained: Path, history: Path
) -> None:
    bundle = load(trained, DEFAULT)
    rng = np.random.default_rng(3)
    values = rng.lognormal(3, 2, (64, len(DEFAULT.names))).astype(np.float32)
    part = Part(values, np.arange(64), np.arange(values.shape[1]), np.zeros(64, np.bool_))
    options = TreeOptions(trees=10, depth=3, learning_rate=0.3, seed=1, threads=1)
    fraud = values[:, 0] > np.median(values[:, 0])
    plain = fit(dataclasses.replace(part, fraud=fraud), DEFAULT.names, options, lambda _text, _share: None, 64)
    line = Line(0.7, -1.25)
    assert np.allclose(margins(with_line(plain, line), part), 0.7 * margins(plain, part) - 1.25, atol=1e-5)
    told = Explainer(bundle).contributions(values, "full").sum(axis=1)
    assert np.allclose(1 / (1 + np.exp(-told)), Scorer(bundle).score(values), atol=1e-5)
