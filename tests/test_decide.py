"""What a decision depends on besides the policy: lists, the limiter and the alert rate; and the policy's commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from consumer.cli import exit_status
from consumer.decide import Decider
from features.event import Payment, batch_of
from models.alert_rate import WARM_UP_S
from models.lists import ListEntry, Lists
from models.policy import AlertRate, LimiterOptions, Policy, Thresholds

FEATURES = {"card_count_1h": False}
BARS: Any = {"full": Thresholds(0.5, 0.9), "no_features": Thresholds(0.5)}
POLICY = """
schema_version = 2
[thresholds.full]
review = 0.5
[thresholds.no_features]
review = 0.5
[[rules]]
id = "abroad"
when = "amount_minor >= 1000 and country <> card_country"
action = "block"
reason = "A large amount, abroad."
[[rules]]
id = "busy"
when = "card_count_1h > 5"
action = "tag"
reason = "Many payments."
shadow = true
"""


def batch(*cards: str) -> Any:
    payments = [
        Payment(f"e{row}", 1_000 + row, card, "m1", 100, "EUR", country="DE", card_country="DE")
        for row, card in enumerate(cards)
    ]
    return batch_of(payments, topic="payments", partition=[0] * len(cards), offset=range(len(cards)))


def decide(decider: Decider, scores: list[float], *cards: str, now_s: float = 0.0) -> Any:
    n = len(scores)
    values, due = np.zeros((n, 1), np.float32), np.ones(n, np.bool_)
    held = np.array(scores, np.float32)
    paid = batch(*(cards or ("c1",) * n))
    outcome = decider.decide(held, values, "full", paid, due, now_s)
    return outcome, lambda: decider.settle(held, "full", outcome, due, now_s)


def test_lists_that_hold_now_are_asked_and_their_version_is_told() -> None:
    lists = [Lists((), 4), Lists([ListEntry("deny", "card", "c2"), ListEntry("allow", "card", "c3")], 7)]
    held = iter(lists)
    decider = Decider(Policy(FEATURES, BARS), lists=lambda: next(held))
    outcome, _ = decide(decider, [0.1, 0.1, 0.95], "c1", "c2", "c3")
    assert (outcome.verdicts.decision.tolist(), outcome.lists_version) == ([0, 0, 2], 4)
    outcome, _ = decide(decider, [0.1, 0.1, 0.95], "c1", "c2", "c3")
    assert (outcome.verdicts.decision.tolist(), outcome.lists_version) == ([0, 2, 0], 7)
    assert [rule for rule, _ in outcome.verdicts.fired] == ["list_deny", "list_allow"]


def test_a_batch_that_was_not_committed_does_not_count_for_the_limiter() -> None:
    policy = Policy(FEATURES, BARS, limiter=LimiterOptions(max_blocks_per_minute=2))
    decider = Decider(policy)
    for _ in range(3):  # aborted, and taken again
        outcome, settle = decide(decider, [0.95, 0.95])
        assert outcome.verdicts.decision.tolist() == [2, 2]
        assert outcome.limited is None
    settle()
    outcome, _ = decide(decider, [0.95, 0.6])
    assert outcome.verdicts.decision.tolist() == [1, 1]
    assert outcome.limited.tolist() == [True, False]


def test_files_have_no_rate_to_hold() -> None:
    policy = Policy(FEATURES, BARS, limiter=LimiterOptions(max_blocks_per_minute=0), alert_rate=AlertRate(1, 0.6, 0.8))
    outcome, _ = decide(Decider(policy, is_live=False), [0.95, 0.55])
    assert outcome.verdicts.decision.tolist() == [2, 1]
    assert outcome.limited is None


def test_the_alert_rate_moves_the_threshold_that_decisions_tell() -> None:
    policy = Policy(FEATURES, BARS, alert_rate=AlertRate(10, 0.4, 0.8))
    decider = Decider(policy)
    assert decider.review == pytest.approx(0.5)
    for second in range(round(WARM_UP_S) + 2):
        outcome, settle = decide(decider, [0.6] * 5, now_s=float(second))
        settle()
    assert decider.review > 0.6
    outcome, _ = decide(decider, [0.6])
    assert outcome.verdicts.decision.tolist() == [0]
    assert outcome.verdicts.review.tolist() == pytest.approx([decider.review])


@pytest.fixture
def policy_file(tmp_path: Path) -> Path:
    path = tmp_path / "policy.toml"
    path.write_text(POLICY)
    return path


def test_check_says_what_is_in_a_policy(policy_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status(["policy", "check", str(policy_file), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [rule["id"] for rule in told["rules"]] == ["abroad", "busy"]
    assert told["fields"] == "amount_minor, card_country, country"
    assert exit_status(["policy", "check", str(policy_file)]) == 0


def test_check_refuses_with_place_and_cause(policy_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy_file.write_text(POLICY.replace("country <>", "county <>"))
    assert exit_status(["policy", "check", str(policy_file)]) == 2
    error = capsys.readouterr().err
    assert "rules[0].when at line 1, column 26: `county` is no field and no feature; perhaps country is meant" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("facts", "decision", "fired", "shadow"),
    [
        ((), "approve", [], []),
        (("score=0.6",), "review", [], []),
        (("amount_minor=2000", "country=DE", "card_country=FR"), "block", ["abroad"], []),
        (("amount_minor=2000", "country=DE"), "approve", [], []),
        (("card_count_1h=9",), "approve", [], ["busy"]),
    ],
)
def test_explain_says_what_is_decided_and_why(
    policy_file: Path,
    capsys: pytest.CaptureFixture[str],
    facts: tuple[str, ...],
    decision: str,
    fired: list[str],
    shadow: list[str],
) -> None:
    words = [word for fact in facts for word in ("--fact", fact)]
    assert exit_status(["policy", "explain", str(policy_file), *words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["decision"], list(told["fired"]), list(told["shadow"])) == (decision, fired, shadow)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--fact", "amount_minor"), "is not NAME=VALUE"),
        (("--fact", "amount=5"), "is no field, no feature and not the score"),
        (("--fact", "amount_minor=much"), "must be a number"),
        (("--tier", "best"), "--tier must be one of"),
    ],
)
def test_explain_refuses_what_can_not_be_meant(
    policy_file: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], says: str
) -> None:
    assert exit_status(["policy", "explain", str(policy_file), *words]) == 2
    assert says in capsys.readouterr().err
