"""The decline limiter and the alert rate: what they hold, against naive ones; and that only commits count."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.alert_rate import MEMORY_S, WARM_UP_S, AlertRateController
from models.limiter import FEW, WINDOW_S, Limiter
from models.policy import BLOCK, REVIEW, AlertRate, LimiterOptions

batches = st.lists(
    st.tuples(
        st.integers(0, 30),  # seconds since the batch before
        st.lists(st.tuples(st.sampled_from([0, REVIEW, BLOCK, BLOCK]), st.booleans()), max_size=12),
        st.booleans(),  # whether it is committed
    ),
    max_size=12,
)


@given(batches, st.sampled_from([None, 0, 1, 5]), st.sampled_from([None, 0.0, 0.05, 0.5]))
def test_no_minute_has_more_blocks_than_allowed(batches: Any, per_minute: int | None, share: float | None) -> None:
    limiter = Limiter(LimiterOptions(share, per_minute))
    now_s, committed = 0.0, []  # of each committed batch: when, decided, blocked
    for later_s, payments, is_committed in batches:
        now_s += later_s
        asked = np.array([decision for decision, _ in payments], np.uint8)
        due = np.array([is_due for _, is_due in payments], np.bool_)
        decision = asked.copy()
        held = limiter.hold(decision, due, now_s)
        recent = [each for each in committed if each[0] > now_s - WINDOW_S]
        decided, blocked = (sum(each[place] for each in recent) for place in (1, 2))
        here = int(due.sum())
        allowed = [here] if per_minute is None else [per_minute - blocked]
        if share is not None:
            allowed.append(int(share * max(decided + here, FEW)) - blocked)
        wanted = np.flatnonzero(due & (asked == BLOCK)).tolist()
        kept = wanted[: max(0, min(allowed))]
        expected = asked.copy()
        expected[[row for row in wanted if row not in kept]] = REVIEW
        assert decision.tolist() == expected.tolist()
        assert (np.flatnonzero(held).tolist() if held is not None else []) == [r for r in wanted if r not in kept]
        if is_committed:
            limiter.settle()
            committed.append((now_s, here, len(kept)))


def test_without_options_nothing_is_held() -> None:
    limiter, decision = Limiter(None), np.full(500, BLOCK, np.uint8)
    assert limiter.hold(decision, np.ones(500, np.bool_), 1.0) is None
    limiter.settle()
    assert (decision == BLOCK).all()


def settle(controller: AlertRateController, rng: np.random.Generator, *, per_s: int, s: int, begun_s: float) -> int:
    """Some seconds of uniform scores; gives how many alerted."""
    alerts = 0
    for second in range(s):
        scores = rng.random(per_s).astype(np.float32)
        alert = scores >= np.float32(controller.review)
        controller.settle(scores, np.ones(per_s, np.bool_), alert, begun_s + second)
        alerts += int(alert.sum())
    return alerts


def test_the_rate_is_held_when_traffic_changes() -> None:
    controller = AlertRateController(AlertRate(360, 0.5, 0.999), 0.6)
    rng, hour = np.random.default_rng(1), 3_600
    assert controller.review == pytest.approx(0.6)
    settle(controller, rng, per_s=10, s=2 * hour, begun_s=0)
    assert controller.review == pytest.approx(0.99, abs=0.002)
    assert settle(controller, rng, per_s=10, s=hour, begun_s=2 * hour) == pytest.approx(360, rel=0.15)
    settle(controller, rng, per_s=30, s=4 * hour, begun_s=3 * hour)
    assert settle(controller, rng, per_s=30, s=hour, begun_s=7 * hour) == pytest.approx(360, rel=0.15)


def test_the_threshold_stays_inside_its_bounds_and_waits_until_it_knows_enough() -> None:
    rng = np.random.default_rng(2)
    strict = AlertRateController(AlertRate(1, 0.5, 0.7), 0.9)
    assert strict.review == 0.7
    settle(strict, rng, per_s=10, s=1_000, begun_s=0)
    assert strict.review == pytest.approx(0.7)
    loose = AlertRateController(AlertRate(1e9, 0.5, 0.7), 0.6)
    settle(loose, rng, per_s=10, s=round(WARM_UP_S), begun_s=0)
    assert loose.review == 0.6
    settle(loose, rng, per_s=10, s=10, begun_s=WARM_UP_S)
    assert loose.review == 0.5


def test_alerts_that_no_threshold_spares_leave_less_room_and_a_part_of_the_payments_gets_a_part_of_the_rate() -> None:
    def after(other_alerts: int, share: float) -> float:
        controller, rng = AlertRateController(AlertRate(360, 0.5, 0.999), 0.9), np.random.default_rng(3)
        for second in range(round(2 * MEMORY_S)):
            scores = np.append(rng.random(10), np.zeros(other_alerts)).astype(np.float32)
            alert = (scores >= controller.review) | (np.arange(len(scores)) >= 10)
            controller.settle(scores, np.ones(len(scores), np.bool_), alert, float(second), share)
        return controller.review

    assert after(0, 1.0) == pytest.approx(0.99, abs=0.003)
    assert after(0, 0.5) == pytest.approx(0.995, abs=0.003)
    assert after(1, 1.0) == 0.999, "rules alone exceed the rate"
