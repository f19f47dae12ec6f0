"""`fraudline backtest`: what the processor's own pipeline would have decided, and figures of a plain loop."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from confluent_kafka import Producer
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from consumer.backtest import Asked, backtest, variant
from consumer.cli import exit_status, main
from consumer.simulator import LABELS_FILE, PAYMENTS_FILE, Simulation, write
from consumer.streams import FileStream
from features.catalog import DEFAULT
from features.errors import ConfigError
from models import outcomes
from models.bundle import Bundle
from models.evaluate import average_precision, recall_at_precision, roc_auc
from models.outcomes import Jury, Said, Truth
from models.policy import DECISIONS, Rule
from models.score import Scorer
from tests.services.kafka import KafkaBroker
from tests.support.bundles import make_bundle
from tests.support.pipeline import in_production

DAY_MS = 86_400_000
RULES = (
    Rule("big", "amount_minor > 30000", "review", "A large amount."),
    Rule("fast", "card_count_1h >= 3", "block", "Many payments."),
    Rule("watched", "hour < 3", "review", "At night.", shadow=True),
)


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("history")
    write(Simulation(payments=5_000, seed=31, days=30, fraud_rate=0.03, duplicate=0.01), folder)
    return folder


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    make_bundle(folder / "one", rules=RULES, review=0.3)
    make_bundle(folder / "two", seed=5, review=0.4, rules=RULES[:1])
    return folder / "one", folder / "two"


def asked(history: Path, *variants: str, **options: Any) -> Asked:
    return Asked(
        history / PAYMENTS_FILE,
        history / LABELS_FILE,
        tuple(variant(text, DEFAULT) for text in variants),
        **({"resamples": 20} | options),
    )


@pytest.mark.parametrize("threads", [1, 3])
def test_every_variant_decides_as_the_pipeline_would(
    history: Path, bundles: tuple[Path, Path], tmp_path: Path, threads: int
) -> None:
    out = tmp_path / "out.parquet"
    backtest(asked(history, f"one={bundles[0]}", f"two={bundles[1]}", threads=threads), DEFAULT, out)
    rows = pq.read_table(out).to_pylist()
    for name, bundle in zip(("one", "two"), bundles, strict=True):
        expected = in_production(history, bundle)
        assert len(rows) == len(expected)
        for row, told in zip(rows, expected, strict=True):
            assert (row["event_id"], row["card_id"]) == (told["event_id"], told["card_id"])
            assert np.float32(row[f"{name}.score"]) == np.float32(told["score"])  # to the bit
            assert row[f"{name}.decision"] == told["decision"]
            assert row[f"{name}.rules"] == told["rules"] + told["shadow_rules"]


def test_a_scorer_is_used_by_one_thread_alone(
    history: Path, bundles: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Owned(Scorer):
        def __init__(self, bundle: Bundle, **options: Any) -> None:
            super().__init__(bundle, **options)
            self.owner = threading.get_ident()

        def score(self, values: np.ndarray) -> np.ndarray:
            assert threading.get_ident() == self.owner
            return super().score(values)

    monkeypatch.setattr("consumer.backtest.Scorer", Owned)
    monkeypatch.setattr("consumer.backtest.ROWS", 50)  # so that both threads have work
    backtest(asked(history, f"one={bundles[0]}", threads=2), DEFAULT, tmp_path / "out.parquet")


def test_a_policy_may_take_the_place_of_the_bundle_s(history: Path, bundles: tuple[Path, Path], tmp_path: Path) -> None:
    toml = (bundles[0] / "policy.toml").read_text().replace("block = 0.9", "block = 1.0")
    (tmp_path / "policy.toml").write_text(toml)
    found = backtest(
        asked(history, f"old={bundles[0]}", f"new={bundles[0]},{tmp_path / 'policy.toml'}"),
        DEFAULT, tmp_path / "out.parquet",
    )  # fmt: skip
    table = pq.read_table(tmp_path / "out.parquet")
    assert table["old.score"].equals(table["new.score"])
    [difference] = found["differences"]
    assert set(difference["decisions"]) == {"block to review"}
    assert difference["largest_score_difference"] == 0
    assert difference["ap_gain"]["value"] == 0


def test_what_production_decided_is_one_more_variant(history: Path, bundles: tuple[Path, Path], tmp_path: Path) -> None:
    decisions = in_production(history, bundles[0])
    (tmp_path / "decisions.jsonl").write_text("".join(json.dumps(each) + "\n" for each in decisions[100:]))
    told = FileStream(tmp_path / "decisions.jsonl", "decisions")
    found = backtest(asked(history, f"again={bundles[0]}", decisions=told), DEFAULT, tmp_path / "out.parquet")
    [difference] = found["differences"]
    assert (difference["old"], difference["new"]) == ("again", "production")
    assert difference["decided_by_both"] == len(decisions) - 100
    assert difference["only_old"] == 100
    assert difference["decisions"] == {}
    assert difference["largest_score_difference"] == 0
    rows = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert [row["production.decision"] for row in rows] == [None] * 100 + [each["decision"] for each in decisions[100:]]


def test_production_s_topic_gives_what_its_dump_gives(
    history: Path,
    bundles: tuple[Path, Path],
    tmp_path: Path,
    kafka: KafkaBroker,
    unique: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decisions = in_production(history, bundles[0])
    kafka.create_topics({unique: 3})
    producer = Producer({"bootstrap.servers": kafka.bootstrap})
    for each in decisions[100:]:
        producer.produce(unique, json.dumps(each).encode(), each["card_id"].encode())
    assert producer.flush(30) == 0
    (tmp_path / "dump.jsonl").write_text("".join(json.dumps(each) + "\n" for each in decisions[100:]))
    monkeypatch.setenv("FRAUDLINE_KAFKA__BROKERS", kafka.bootstrap)
    made = []
    for name, source in (("topic", unique), ("dump", str(tmp_path / "dump.jsonl"))):
        words = ["backtest", f"--payments={history / PAYMENTS_FILE}", f"--variant=a={bundles[0]}", "--resamples=0"]
        assert exit_status([*words, f"--decisions={source}", f"--out={tmp_path / name}.html"]) == 0
        made.append(json.loads((tmp_path / f"{name}.json").read_text()))
    assert made[0] == made[1]
    assert made[0]["differences"][0]["decided_by_both"] == len(decisions) - 100


def test_only_payments_of_the_range_are_judged_and_older_ones_still_count(
    history: Path, bundles: tuple[Path, Path], tmp_path: Path
) -> None:
    whole, part = tmp_path / "whole.parquet", tmp_path / "part.parquet"
    backtest(asked(history, f"one={bundles[0]}"), DEFAULT, whole)
    times = np.asarray(pq.read_table(whole)["event_time"])
    start, end = (int(np.quantile(times, share)) for share in (0.5, 0.8))
    found = backtest(asked(history, f"one={bundles[0]}", from_ms=start, to_ms=end), DEFAULT, part)
    inside = (times >= start) & (times < end)
    assert pq.read_table(part).drop(["known"]).equals(pq.read_table(whole).filter(inside).drop(["known"]))
    assert found["history"]["payments"] == int(inside.sum())
    assert found["history"]["known"] == int((times[inside] <= times.max() - 7 * DAY_MS).sum())


# -- measures

LEVELS = [np.float32(level) for level in (0.1, 0.2, 0.6, 0.9)]


@given(st.data())
def test_weighted_measures_are_those_of_payments_that_are_there_so_often(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 40))
    fraud = data.draw(hnp.arrays(np.bool_, n))
    scores = data.draw(
        hnp.arrays(np.float32, n, elements=st.sampled_from([np.float32(v) for v in (0.1, 0.2, 0.5, 0.9)]))
    )
    often = data.draw(hnp.arrays(np.int64, n, elements=st.integers(0, 4)))
    group = np.arange(n)
    ap, auc, recall = outcomes.ranking(fraud, scores, group, often[None, :].astype(np.uint8))[:, 0].tolist()
    many_fraud, many_scores = np.repeat(fraud, often), np.repeat(scores, often)
    if not many_fraud.any():
        assert np.isnan([ap, auc, recall]).all()
        return
    assert ap == pytest.approx(average_precision(many_fraud, many_scores))
    assert recall == pytest.approx(recall_at_precision(many_fraud, many_scores, 0.9))
    if many_fraud.all():
        assert np.isnan(auc)
    else:
        assert auc == pytest.approx(roc_auc(many_fraud, many_scores))


@st.composite
def judged(draw: st.DrawFn) -> tuple[Truth, Said]:
    n = draw(st.integers(1, 30))
    truth = Truth(
        event_time=np.sort(draw(hnp.arrays(np.int64, n, elements=st.integers(10**12, 10**12 + 9 * DAY_MS)))),
        amount_minor=draw(hnp.arrays(np.int64, n, elements=st.integers(0, 200_000))),
        card=draw(hnp.arrays(np.int64, n, elements=st.integers(0, 5))),
        fraud=draw(hnp.arrays(np.bool_, n)),
        known=draw(hnp.arrays(np.bool_, n)),
    )
    rules = {name: np.flatnonzero(draw(hnp.arrays(np.bool_, n))) for name in ("a", "b")}
    said = Said(
        scores=draw(hnp.arrays(np.float32, n, elements=st.sampled_from([*LEVELS, np.float32(np.nan)]))),
        decisions=draw(hnp.arrays(np.uint8, n, elements=st.integers(0, 2))),
        decided=draw(hnp.arrays(np.bool_, n)),
        rules=rules | {"c": np.zeros(0, np.int64)},
        reviews=np.full(n, 0.5, np.float32),
        actions={"a": "review", "b": "block", "c": "shadow"},
    )
    return truth, said


def rows_of(truth: Truth, said: Said) -> list[dict[str, Any]]:
    return [
        {
            "time": int(truth.event_time[row]),
            "amount": int(truth.amount_minor[row]),
            "card": int(truth.card[row]),
            "fraud": bool(truth.fraud[row]),
            "known": bool(truth.known[row]),
            "score": float(said.scores[row]),
            "alert": bool(said.decided[row]) and said.decisions[row] > 0,
            "block": bool(said.decided[row]) and said.decisions[row] == 2,
            "rules": {rule for rule, rows in said.rules.items() if row in rows},
        }
        for row in range(len(truth.fraud))
    ]


def share(part: float, whole: float) -> Any:
    return None if not whole else pytest.approx(part / whole)


@given(judged())
def test_measures_of_decisions_are_those_of_a_plain_loop(of: tuple[Truth, Said]) -> None:
    truth, said = of
    rows = rows_of(truth, said)
    found = {name: told["value"] for name, told in Jury(truth, resamples=3).measures(said).items()}
    bad = [row for row in rows if row["fraud"] and row["known"]]
    good = [row for row in rows if not row["fraud"] and row["known"]]
    caught, false = [row for row in bad if row["alert"]], [row for row in good if row["alert"]]
    assert found["alerts_per_day"] == pytest.approx(sum(row["alert"] for row in rows) / truth.days)
    assert found["precision"] == share(len(caught), len(caught) + len(false))
    assert found["false_positive_ratio"] == share(len(false), len(caught))
    assert found["recall"] == share(len(caught), len(bad))
    money = sum(row["amount"] for row in caught)
    assert found["recall_by_amount"] == share(money, sum(row["amount"] for row in bad))
    if truth.known.any():
        assert found["saved_minor_per_day"] == pytest.approx(money / truth.known_days)
        declined = sum(row["amount"] for row in good if row["block"])
        assert found["declined_good_minor_per_day"] == pytest.approx(declined / truth.known_days)
    waits = []
    defrauded = {row["card"] for row in bad}
    for card in defrauded:
        first = min(row["time"] for row in bad if row["card"] == card)
        alerts = [row["time"] for row in rows if row["card"] == card and row["alert"] and row["time"] >= first]
        if alerts:
            waits.append((min(alerts) - first) / 3_600_000)
    assert found["cards_alerted"] == share(len(waits), len(defrauded))
    assert found["hours_to_alert"] == (pytest.approx(float(np.median(waits))) if waits else None)


@given(judged())
def test_rules_are_counted_as_by_a_plain_loop(of: tuple[Truth, Said]) -> None:
    truth, said = of
    rows = rows_of(truth, said)
    for told in outcomes.rules(truth, said):
        name = told["rule"]
        fired = [row for row in rows if name in row["rules"]]
        assert told["fired"] == len(fired)
        assert told["fraud"] == sum(row["fraud"] for row in fired)
        assert told["genuine"] == sum(row["known"] and not row["fraud"] for row in fired)
        assert told["fired"] == told["fraud"] + told["genuine"] + told["unlabelled"]
        stops = {"a", "b"}
        alone = [
            place
            for place, row in enumerate(rows)
            if name in stops
            and row["rules"] & stops == {name}
            and said.decisions[place] > 0
            and not row["score"] >= 0.5
        ]
        assert told["alone"] == len(alone)
        assert told["alone_fraud"] == sum(rows[place]["fraud"] for place in alone)


@given(judged(), st.integers(0, 2**32 - 1))
def test_differences_are_counted_as_by_a_plain_loop(of: tuple[Truth, Said], seed: int) -> None:
    truth, old = of
    rng = np.random.default_rng(seed)
    n = len(truth.fraud)
    new = Said(
        rng.random(n, np.float32), rng.integers(0, 3, n).astype(np.uint8), rng.random(n) < 0.7, {}, old.reviews, {}
    )
    told = Jury(truth, resamples=3).difference(old, new)
    expected: dict[str, int] = {}
    for row in range(n):
        if old.decided[row] and new.decided[row] and old.decisions[row] != new.decisions[row]:
            name = f"{DECISIONS[old.decisions[row]]} to {DECISIONS[new.decisions[row]]}"
            expected[name] = expected.get(name, 0) + 1
    assert {name: counts["payments"] for name, counts in told["decisions"].items()} == expected
    assert told["only_old"] == sum(a and not b for a, b in zip(old.decided, new.decided, strict=True))


def test_an_interval_holds_its_value_and_shrinks_with_more_cards() -> None:
    def told(cards: int) -> dict[str, float]:
        rng = np.random.default_rng(1)
        n = 20 * cards
        card = np.repeat(np.arange(cards), 20)
        fraud = rng.random(n) < 0.1
        scores = (0.7 * rng.random(n) + 0.3 * fraud).astype(np.float32)
        truth = Truth(np.arange(n) * 1_000 + 10**12, np.full(n, 100), card, fraud, np.ones(n, np.bool_))
        said = Said(scores, (scores > 0.5).astype(np.uint8), np.ones(n, np.bool_), {}, scores, {})
        found: dict[str, float] = Jury(truth).measures(said)["ap"]
        return found

    few, many = told(30), told(600)
    for each in (few, many):
        assert each["low"] < each["value"] < each["high"]
    assert many["high"] - many["low"] < (few["high"] - few["low"]) / 2


# -- the command


def test_the_command_writes_a_page_its_figures_and_every_payment(
    history: Path, bundles: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ["--payments", str(history / PAYMENTS_FILE), "--labels", str(history / LABELS_FILE)]
    variants = ["--variant", f"<b>one</b>={bundles[0]}", "--variant", f"two={bundles[1]}"]
    with pytest.raises(SystemExit) as ended:
        main(
            [
                "backtest",
                *files,
                *variants,
                "--segment",
                "channel",
                "--resamples",
                "10",
                "--out",
                str(tmp_path / "p.html"),
            ]
        )
    assert ended.value.code == 0
    assert "recall_by_amount" in capsys.readouterr().out
    page = (tmp_path / "p.html").read_text()
    assert "&lt;b&gt;one&lt;/b&gt;" in page
    assert "<b>one</b>" not in page
    assert page.count("<svg") == 6
    assert not re.search(r"(src|href)\s*=\s*.https?:", page)
    figures = json.loads((tmp_path / "p.json").read_text())
    assert set(figures["segments"]) == {"amount", "channel"}
    assert {row["rule"] for row in figures["rules"]["<b>one</b>"]} == {"big", "fast", "watched"}
    assert pq.read_metadata(tmp_path / "p.parquet").num_rows == figures["history"]["payments"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--variant", "one"], "--variant one is not NAME=BUNDLE"),
        (["--variant", "production=b"], "give another name"),
        (["--variant", "a=/nowhere"], "no model bundle at /nowhere"),
        (["--variant", "a={one}", "--variant", "a={one}"], "Two variants have the same name"),
        (["--variant", "a={one},/nowhere.toml"], "/nowhere.toml can't be read"),
        (["--variant", "a={one}", "--segment", "colour"], "--segment colour is no field"),
        (["--variant", "a={one}", "--to", "2020-01-01"], "no payment that is to be judged"),
        (["--variant", "a={one}", "--decisions", "{history}"], "is no decision (object missing required field"),
        (["--variant", "a={one}", "--decisions", "/nowhere.jsonl"], "/nowhere.jsonl is not there"),
    ],
)
def test_what_can_not_be_asked_is_refused_in_one_sentence(
    history: Path, bundles: tuple[Path, Path], tmp_path: Path, words: list[str], says: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    words = [word.format(one=bundles[0], history=history / PAYMENTS_FILE) for word in words]
    with pytest.raises(SystemExit) as ended:
        main(["backtest", "--payments", str(history / PAYMENTS_FILE), "--out", str(tmp_path / "p.html"), *words])
    assert ended.value.code in (1, 2)
    told = capsys.readouterr().err
    assert says in told
    assert told.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_what_is_read_is_not_overwritten(history: Path, bundles: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is what is read"):
        backtest(asked(history, f"a={bundles[0]}"), DEFAULT, history / PAYMENTS_FILE)
    decisions = tmp_path / "decided.parquet"
    with pytest.raises(ConfigError, match="is what is read"):
        backtest(asked(history, f"a={bundles[0]}", decisions=decisions), DEFAULT, decisions)


@pytest.mark.parametrize(
    "wrong", [{"decision": "decline"}, {"event_id": None}, {"score": "high"}], ids=["decision", "id", "score"]
)
def test_a_file_of_almost_decisions_is_refused(
    history: Path, bundles: tuple[Path, Path], tmp_path: Path, wrong: dict[str, Any]
) -> None:
    right = {"event_id": "e", "card_id": "c", "decision": "approve", "score": 0.5, "rules": None}
    path = tmp_path / "decided.parquet"
    pq.write_table(pa.Table.from_pylist([right | wrong]), path)
    with pytest.raises(ConfigError, match="holds something else than decisions"):
        backtest(asked(history, f"a={bundles[0]}", decisions=path), DEFAULT, tmp_path / "out.parquet")
    pq.write_table(pa.Table.from_pylist([right]), path)
    assert backtest(asked(history, f"a={bundles[0]}", decisions=path), DEFAULT, tmp_path / "out.parquet")
