"""Who judges: a swap between two batches, a challenger in shadow, a canary and its end."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec
import numpy as np
import pytest

from consumer.canary import Canary
from consumer.judge import LineUp, Model, Trial
from consumer.records import ShadowDecision
from consumer.settings import ChallengerSettings
from features.catalog import DEFAULT, Catalog, Limits
from features.reader import Values
from models.limiter import FEW
from models.policy import LimiterOptions, Policy
from models.score import ConstantScorer, Scores, Scoring
from tests.poison import payment
from tests.test_pipeline import NOW_MS, POLICY, TOPICS, Broken, Rig, events, model

HALF = ChallengerSettings(enabled=True, canary_shares=(0.5,), guard_min_payments=50)


@dataclass(slots=True)
class Seen:
    """A `Scoring` that keeps what it was given."""

    given: list[Values] = field(default_factory=list)
    has_small: bool = False
    device: str = "cpu"

    def score(self, values: Values) -> Scores:
        self.given.append(values.copy())
        return np.full(len(values), 0.1, np.float32)

    def score_small(self, values: Values) -> Scores:
        return self.score(values)

    def score_payment_only(self, values: Values) -> Scores:
        return self.score(values)

    def warm_up(self) -> None:
        """Nothing to warm up."""


def fewer(version: str, scorer: Scoring, names: tuple[str, ...]) -> Model:
    """A model of some features, in an order of its own."""
    catalog = DEFAULT.only(names)
    return model(version, scorer, Policy(catalog.flags, dict(POLICY.thresholds), where="test"), catalog=catalog)


def challenge(rig: Rig, challenger: Model, options: ChallengerSettings = HALF) -> Canary:
    canary = Canary(options, challenger.reference.digest, NOW_MS)
    rig.line_up = LineUp(rig.line_up.champion, Trial(challenger, canary))
    return canary


def shadows(rig: Rig) -> list[ShadowDecision]:
    return [msgspec.json.decode(value, type=ShadowDecision) for value in rig.publisher.values(TOPICS.shadow)]


def test_a_new_champion_decides_from_the_next_batch_on_and_is_named() -> None:
    rig = Rig(ConstantScorer(full=0.1))
    rig.process(*events(3))
    rig.line_up = LineUp(model("2", ConstantScorer(full=0.95)))
    rig.process(*events(3, first=3))
    assert [(each.model, each.decision) for each in rig.decisions] == [("test@1", "approve")] * 3 + [
        ("test@2", "block")
    ] * 3
    assert [alert.model.version for alert in rig.alerts] == ["2"] * 3
    assert rig.count("fraudline_model_swaps_total", result="swapped") == 1
    info = {"name": "test", "version": "2", "digest": "2".rjust(64, "0"), "device": "cpu"}
    assert rig.telemetry.registry.get_sample_value("fraudline_model_info", info) == 1


def test_a_new_champion_gets_its_own_features_in_its_own_order() -> None:
    rig = Rig(before := Seen())
    rig.process(*events(2, card_id="one"))
    names = ("card_count_24h", "amount_minor", "merchant_count_1h")
    rig.line_up = LineUp(fewer("2", after := Seen(), names))
    rig.process(*events(2, first=2, card_id="one"))
    assert before.given[0].shape == (2, len(DEFAULT.names))
    assert after.given[0].tolist() == [[3.0, 1250.0, 3.0], [4.0, 1250.0, 4.0]]


@pytest.mark.parametrize("jump_s", [-3_600, 3_600])
def test_the_limiter_forgets_after_a_minute_though_the_clock_is_set(jump_s: int) -> None:
    """By the wall clock, set back, what was blocked would count on for an hour, and nothing more be blocked."""
    limited = Policy(DEFAULT.flags, dict(POLICY.thresholds), limiter=LimiterOptions(None, 5))
    rig = Rig(ConstantScorer(full=0.95), limited)
    rig.process(*events(5))
    rig.clock_s += jump_s
    rig.ticks_s += 59
    rig.process(*events(5, first=5))
    rig.ticks_s += 2
    rig.process(*events(5, first=10))
    assert [each.decision for each in rig.decisions] == ["block"] * 5 + ["review"] * 5 + ["block"] * 5


def test_what_was_blocked_before_a_swap_still_counts_for_the_limiter() -> None:
    limited = Policy(DEFAULT.flags, dict(POLICY.thresholds), limiter=LimiterOptions(None, 5))
    rig = Rig(ConstantScorer(full=0.95), limited)
    rig.process(*events(4))
    rig.line_up = LineUp(model("2", ConstantScorer(full=0.95), limited))
    rig.process(*events(4, first=4))
    assert [each.decision for each in rig.decisions] == ["block"] * 5 + ["review"] * 3


def test_a_challenger_in_shadow_judges_the_same_payments_and_decides_nothing() -> None:
    rig = Rig(ConstantScorer(full=0.1))
    challenge(rig, model("2", ConstantScorer(full=0.95)), ChallengerSettings(enabled=True))
    rig.process(*events(3), payment(event_id="evt-0"))
    assert [(each.model, each.decision, each.inputs.canary) for each in rig.decisions] == [
        ("test@1", "approve", None)
    ] * 3
    assert rig.alerts == []
    assert [each.event_id for each in shadows(rig)] == ["evt-0", "evt-1", "evt-2"]  # the repeated one is not judged
    assert {
        (each.champion.model, each.champion.decision, each.challenger.model, each.challenger.decision, each.decided_by)
        for each in shadows(rig)
    } == {("test@1", "approve", "test@2", "block", "champion")}
    assert rig.count("fraudline_shadow_decisions_total", champion="approve", challenger="block") == 3
    assert rig.decided == 3


def test_both_judge_from_the_same_state_which_counts_each_payment_once() -> None:
    rig = Rig(champion := Seen())
    challenge(rig, fewer("2", challenger := Seen(), ("merchant_count_1h", "card_count_24h")))
    rig.process(*events(3, card_id="one"))
    column = DEFAULT.names.index("card_count_24h")
    assert champion.given[0][:, column].tolist() == [1, 2, 3]
    assert challenger.given[0].tolist() == [[1, 1], [2, 2], [3, 3]]


def test_in_a_canary_the_challenger_decides_for_its_cards_and_each_payment_is_decided_once() -> None:
    rig = Rig(ConstantScorer(full=0.1))
    canary = challenge(rig, model("2", ConstantScorer(full=0.6)), HALF.model_copy(update={"max_alert_ratio": 100.0}))
    cards = [f"card_{number % 40}" for number in range(200)]
    rig.process(*(payment(event_id=f"evt-{n}", card_id=card) for n, card in enumerate(cards)))
    chosen = dict(zip(cards, canary.chosen(cards, 0.5).tolist(), strict=True))
    assert sorted(each.event_id for each in rig.decisions) == sorted(f"evt-{n}" for n in range(200))
    for each in rig.decisions:
        own = chosen[each.card_id]
        assert (each.model, each.decision) == (("test@2", "review") if own else ("test@1", "approve"))
        assert each.inputs.canary == ("challenger" if own else "champion")
    assert {each.card_id for each in rig.alerts} == {card for card, own in chosen.items() if own}
    assert {each.card_id: each.decided_by == "challenger" for each in shadows(rig)} == chosen
    assert len(shadows(rig)) == 200
    assert rig.decided == 200
    assert rig.count("fraudline_canary_share") == 0.5


def test_a_canary_that_leaves_its_bounds_is_rolled_back_by_itself() -> None:
    rig = Rig(ConstantScorer(full=0.1))
    canary = challenge(rig, model("2", ConstantScorer(full=0.95)))
    rig.process(*(payment(event_id=f"evt-{n}", card_id=f"card_{n}") for n in range(60)))
    assert {each.model for each in rig.decisions} == {"test@1", "test@2"}
    assert "60 alerts where the champion had 0" in str(canary.stopped)
    assert rig.count("fraudline_canary_rollbacks_total") == 1
    rig.process(*(payment(event_id=f"evt-{n}", card_id=f"card_{n}") for n in range(60, 120)))
    assert {each.model for each in rig.decisions[60:]} == {"test@1"}
    assert {each.inputs.canary for each in rig.decisions[60:]} == {None}
    assert {each.decided_by for each in shadows(rig)[60:]} == {"champion"}
    assert rig.count("fraudline_canary_rollbacks_total") == 1


def test_a_challenger_that_fails_takes_nothing_from_the_champion() -> None:
    rig = Rig(ConstantScorer(full=0.95))
    canary = challenge(rig, model("2", Broken()), ChallengerSettings(enabled=True, guard_min_payments=5))
    rig.process(*events(5))
    assert {(each.tier, each.decision) for each in rig.decisions} == {("full", "block")}
    assert {(each.challenger.tier, each.challenger.score) for each in shadows(rig)} == {("rules_only", None)}
    assert "failed for 5 of 5" in str(canary.stopped)


def test_the_challengers_limiter_counts_only_what_it_decides() -> None:
    limited = Policy(DEFAULT.flags, dict(POLICY.thresholds), limiter=LimiterOptions(None, FEW))
    rig = Rig(ConstantScorer(full=0.95))
    challenge(rig, model("2", ConstantScorer(full=0.95), limited), ChallengerSettings(enabled=True))
    rig.process(*events(2 * FEW))
    assert {each.challenger.decision for each in shadows(rig)} == {"block"}


def test_the_features_of_a_running_enricher_may_change_but_not_its_logs() -> None:
    rig = Rig()
    enricher = rig.state.enricher
    enricher.compute(DEFAULT.only(("amount_minor",)))
    with pytest.raises(ValueError, match="logs and limits may not"):
        enricher.compute(Catalog(DEFAULT.features, Limits(keep=7)))
