"""`fraudline policy try`: counts are those of a plain loop over the history, and only what rules name is computed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from consumer.cli import main
from consumer.simulator import LABELS_FILE, PAYMENTS_FILE, Simulation, write
from features.catalog import DEFAULT
from features.errors import ConfigError
from models import dataset
from models.bundle import load
from models.rule_trial import try_rules
from models.score import Scorer
from tests.support.bundles import make_bundle

DAY_MS = 86_400_000
RULES = [
    "amount_minor > 20000",
    "card_count_1h >= 2 and channel <> 'pos'",
    "merchant_frauds_30d > 0 or card_frauds_30d > 0",
    "country <> card_country",
]


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("history")
    write(Simulation(payments=4_000, seed=21, days=25, fraud_rate=0.04), folder)
    return folder


def by_hand(history: Path, folder: Path, mature_ms: int) -> list[dict[str, Any]]:
    """Each payment with all its features and what became of it, and of which rules it is true."""
    data = dataset.read(history / PAYMENTS_FILE, history / LABELS_FILE, DEFAULT, folder, lambda _text, _share: None)
    labels = sorted(
        map(json.loads, (history / LABELS_FILE).read_bytes().splitlines()), key=lambda each: each["labelled_at"]
    )
    said = {each["event_id"]: each["label"] for each in labels}
    rows = list(map(json.loads, (history / PAYMENTS_FILE).read_bytes().splitlines()))
    last = max(row["event_time"] for row in rows)
    for row, values in zip(rows, np.asarray(data.values), strict=True):
        row |= {name: float(value) for name, value in zip(DEFAULT.names, values, strict=True) if name not in row}
        verdict, row["old"] = said.get(row["event_id"]), row["event_time"] < last - mature_ms
        row["verdict"] = verdict or ("genuine" if row["old"] else "unlabelled")
        country, card_country, channel = row.get("country"), row.get("card_country"), row.get("channel")
        row["true"] = [
            row["amount_minor"] > 20_000,
            row["card_count_1h"] >= 2 and channel is not None and channel != "pos",
            row["merchant_frauds_30d"] > 0 or row["card_frauds_30d"] > 0,
            country is not None and card_country is not None and country != card_country,
        ]
    return rows


@pytest.mark.parametrize("mature_days", [1, 7])
def test_counts_are_those_of_a_plain_loop(history: Path, tmp_path: Path, mature_days: int) -> None:
    rows = by_hand(history, tmp_path, mature_days * DAY_MS)
    trial = try_rules(
        RULES, history / PAYMENTS_FILE, history / LABELS_FILE, DEFAULT, mature_ms=mature_days * DAY_MS, examples=2
    )
    assert trial.payments == len(rows)
    frauds = [row for row in rows if row["verdict"] == "fraud"]
    assert trial.fraud == len(frauds)
    for place, tried in enumerate(trial.rules):
        met = [row for row in rows if row["true"][place]]
        alone = [row for row in met if sum(row["true"]) == 1]
        counts = {kind: [row for row in met if row["verdict"] == kind] for kind in ("fraud", "genuine", "unlabelled")}
        assert tried.rule == RULES[place]
        assert tried.matches == len(met) > 0
        assert (tried.fraud, tried.genuine, tried.unlabelled) == tuple(map(len, counts.values()))
        assert (tried.alone, tried.alone_fraud) == (len(alone), sum(row["verdict"] == "fraud" for row in alone))
        assert tried.fraud_minor == sum(row["amount_minor"] for row in counts["fraud"])
        assert tried.genuine_minor == sum(row["amount_minor"] for row in counts["genuine"])
        assert tried.share == pytest.approx(len(met) / len(rows))
        old_met, old_frauds = [row for row in met if row["old"]], [row for row in frauds if row["old"]]
        caught = sum(row["verdict"] == "fraud" for row in old_met)
        assert tried.recall == pytest.approx(caught / len(old_frauds))
        assert tried.precision == (pytest.approx(caught / len(old_met)) if old_met else None)
        for kind, of_kind in counts.items():
            shown = [each["event_id"] for each in tried.examples if each["verdict"] == kind]
            assert shown == [row["event_id"] for row in of_kind[::-1][:2]]


def test_without_labels_everything_old_is_genuine(history: Path) -> None:
    [tried] = try_rules(["amount_minor > 0"], history / PAYMENTS_FILE, None, DEFAULT, mature_ms=0).rules
    assert (tried.fraud, tried.recall, tried.precision) == (0, None, 0.0)
    assert tried.matches == tried.genuine + tried.unlabelled
    assert tried.unlabelled >= 1  # the newest


def test_with_a_bundle_a_rule_may_name_the_score_and_what_is_stopped_anyway_is_told(
    history: Path, tmp_path: Path
) -> None:
    made = make_bundle(tmp_path / "bundle")
    bundle = load(made.path, DEFAULT)
    with pytest.raises(ConfigError, match="give --bundle"):
        try_rules(["score > 0.5"], history / PAYMENTS_FILE, None, DEFAULT)
    [tried] = try_rules(["score > 0.5"], history / PAYMENTS_FILE, None, DEFAULT, bundle=bundle).rules
    (tmp_path / "work").mkdir()
    data = dataset.read(history / PAYMENTS_FILE, None, DEFAULT, tmp_path / "work", lambda _text, _share: None)
    scores = Scorer(bundle).score(np.ascontiguousarray(data.values))
    assert tried.matches == int((scores > 0.5).sum()) > 0
    assert tried.already_stopped == int(((scores > 0.5) & (scores >= bundle.policy.thresholds["full"].review)).sum())


def test_only_the_features_that_are_named_are_computed(history: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []
    real = dataset.read

    def watched(*args: Any, **options: Any) -> Any:
        asked.append(args[2].names)
        return real(*args, **options)

    monkeypatch.setattr("models.rule_trial.dataset.read", watched)
    try_rules(["card_count_1h > 3 and hour < 6"], history / PAYMENTS_FILE, None, DEFAULT)
    try_rules(["amount_minor > 3"], history / PAYMENTS_FILE, None, DEFAULT)
    assert set(asked[0]) == {"card_count_1h", "hour"}
    assert len(asked[1]) == 1


def test_the_command_tells_a_person_and_a_program(history: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = ["--on", str(history / PAYMENTS_FILE), "--labels", str(history / LABELS_FILE)]
    for more in ([], ["--json"]):
        with pytest.raises(SystemExit) as ended:
            main(["policy", "try", "--rule", RULES[0], "--rule", RULES[2], *files, *more])
        assert ended.value.code == 0
        out = capsys.readouterr().out
        if more:
            assert [each["rule"] for each in json.loads(out)["rules"]] == [RULES[0], RULES[2]]
        else:
            assert "amount_minor > 20000" in out
            assert "per_day" in out


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ("amount > 3", "amount"),
        ("amount_minor >", "is no expression"),
        ("card_count_1h > 'a'", "card_count_1h"),
    ],
)
def test_a_bad_rule_is_refused_with_its_place(
    history: Path, rule: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["policy", "try", "--rule", rule, "--on", str(history / PAYMENTS_FILE)])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert says in told
    assert told.count("\n") == 1
