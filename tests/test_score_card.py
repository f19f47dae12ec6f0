"""The score card: every event counts once, repeats are seen, and fraud is counted as caught only where it is fraud."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.records import (
    Alert,
    Decision,
    DecisionName,
    Digests,
    Inputs,
    ModelRef,
    Source,
    StageTimes,
    alert_id,
)
from consumer.score_card import RECENT, ScoreCard, Summary
from models.policy import Tier

MS = 1_000_000
DIGEST = "0" * 64


def decision(number: int, outcome: DecisionName = "approve", *, tier: Tier = "full", partition: int = 0) -> bytes:
    return msgspec.json.encode(
        Decision(
            event_id=f"evt-{number}",
            card_id="tok",
            event_time=1_700_000_000_000,
            source=Source("payments", partition, number),
            decision=outcome,
            score=None if tier == "rules_only" else 0.5,
            tier=tier,
            model="test@1",
            digests=Digests(DIGEST, DIGEST, DIGEST),
            state=None,
            inputs=Inputs(tier, "cpu", None, None),
        )
    )


def alert(number: int) -> bytes:
    event_id = f"evt-{number}"
    return msgspec.json.encode(
        Alert(
            alert_id=alert_id("tok", event_id, 1_700_000_000_000),
            event_id=event_id,
            card_id="tok",
            merchant_id="m",
            event_time=1_700_000_000_000,
            amount_minor=100,
            currency="EUR",
            source=Source("payments", 0, number),
            decision="review",
            score=0.5,
            tier="full",
            reasons=(),
            rules=(),
            model=ModelRef("test", "1", DIGEST),
            feature_age_ms=None,
            stage_ms=StageTimes(0, 0, 0, 0, 0),
        )
    )


def summary_of(card: ScoreCard) -> Summary:
    return card.summary("at_least_once")


def test_nothing_yet() -> None:
    summary = summary_of(ScoreCard(frozenset({"evt-1"})))
    assert (summary.payments, summary.decisions, summary.alerts, summary.duplicates) == (0, 0, 0, 0)
    assert summary.p50_ms is summary.p99_ms is summary.max_ms is summary.within_budget is None
    assert summary.precision is None
    assert summary.recall == 0.0
    assert summary.throughput_eps == 0.0


def test_a_second_decision_for_one_record_is_a_duplicate_and_answers_nothing() -> None:
    card = ScoreCard(frozenset())
    for number in (1, 2, 2, 2):
        card.received("decision", decision(number), 5 * MS)
    card.received("decision", decision(2, partition=1), 5 * MS)
    assert card.answered == 3
    assert (summary_of(card).decisions, summary_of(card).duplicates) == (3, 2)


def test_dead_letters_answer_and_alerts_do_not() -> None:
    card = ScoreCard(frozenset())
    card.sent(b"evt-1", 1 * MS)
    card.received("decision", decision(1, "review"), 1_001 * MS)
    card.received("dead_letter", b"not JSON", 2_001 * MS)
    card.received("alert", alert(1), 9_001 * MS)
    summary = summary_of(card)
    assert card.answered == 2
    assert (summary.decisions, summary.dead_letters, summary.alerts) == (1, 1, 1)
    assert summary.throughput_eps == 1.0  # two answers in the two seconds to the last of them
    assert [each.event_id for each in card.latest_alerts] == ["evt-1"]


def test_only_the_latest_alerts_are_kept() -> None:
    card = ScoreCard(frozenset())
    for number in range(20):
        card.received("alert", alert(number), MS)
    assert [each.event_id for each in card.latest_alerts] == [f"evt-{number}" for number in range(12, 20)]
    assert summary_of(card).alerts == 20


def test_precision_and_recall_are_of_what_was_not_approved() -> None:
    card = ScoreCard(frozenset({"evt-1", "evt-2", "evt-3", "evt-4"}))
    outcomes: dict[int, DecisionName] = {1: "block", 2: "review", 3: "approve", 5: "review", 6: "approve"}
    for number, outcome in outcomes.items():
        card.received("decision", decision(number, outcome), MS)
    summary = summary_of(card)
    assert (summary.frauds, summary.frauds_caught, summary.false_alarms) == (4, 2, 1)
    assert summary.recall == 0.5  # a fraud without a decision is one that was not caught
    assert summary.precision == pytest.approx(2 / 3, abs=1e-4)


def test_tiers_are_counted_by_decision() -> None:
    card = ScoreCard(frozenset())
    tiers: tuple[Tier, ...] = ("full", "full", "no_features", "rules_only")
    for number, tier in enumerate(tiers):
        card.received("decision", decision(number, tier=tier), MS)
    assert summary_of(card).tiers == {"full": 2, "no_features": 1, "rules_only": 1}


def test_exactly_the_budget_is_within_it() -> None:
    card = ScoreCard(frozenset())
    for number, took_ms in enumerate((199, 200, 201, 5_000)):
        card.sent(f"evt-{number}".encode(), 1 * MS)
        card.received("decision", decision(number), (1 + took_ms) * MS)
    assert summary_of(card).within_budget == 0.5
    assert summary_of(card).max_ms == 5_000


def test_a_decision_for_something_that_was_never_sent_has_no_latency() -> None:
    card = ScoreCard(frozenset())
    card.received("decision", decision(1), MS)
    assert card.recent() == (None, None)
    assert summary_of(card).decisions == 1


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=60))
def test_percentiles_are_over_every_event(took_ms: list[int]) -> None:
    card = ScoreCard(frozenset())
    for number, took in enumerate(took_ms):
        card.sent(f"evt-{number}".encode(), 1 * MS)
        card.received("decision", decision(number), (1 + took) * MS)
    summary = summary_of(card)
    assert summary.p50_ms == pytest.approx(np.percentile(took_ms, 50), abs=0.01)
    assert summary.p99_ms == pytest.approx(np.percentile(took_ms, 99), abs=0.01)
    assert summary.max_ms == max(took_ms)
    assert summary.within_budget == pytest.approx(np.mean(np.array(took_ms) <= 200), abs=1e-6)


def test_the_live_percentiles_look_at_the_newest_only() -> None:
    card = ScoreCard(frozenset())
    for number in range(RECENT + 10):
        card.sent(f"evt-{number}".encode(), 1 * MS)
        card.received("decision", decision(number), (1 + (9_000 if number < 10 else 7)) * MS)
    assert card.recent() == (7.0, 7.0)
    assert summary_of(card).max_ms == 9_000


def test_the_summary_as_plain_types_is_json() -> None:
    card = ScoreCard(frozenset())
    card.received("decision", decision(1), MS)
    document = msgspec.json.decode(msgspec.json.encode(summary_of(card).as_dict()))
    assert document["tiers"] == {"full": 1}
    assert document["delivery"] == "at_least_once"
