"""The wait follows the load, stays inside its share of the budget, and is none when the loop is idle."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.pace import BUDGET_SHARE, FULL_LOAD, IDLE_LOAD, Pace

LINGER_MS, BUDGET_MS = 10, 200
LIMIT_S = BUDGET_MS / 1000 * BUDGET_SHARE

spans_s = st.floats(0, 10)
turns = st.lists(st.tuples(spans_s, spans_s), max_size=30)


def settled(load: float, *, linger_ms: int = LINGER_MS, budget_ms: int = BUDGET_MS) -> Pace:
    """A pace after many turns of 10 ms, of which `load` was work."""
    pace = Pace(linger_ms=linger_ms, budget_ms=budget_ms)
    for _ in range(200):
        pace.worked(0.010 * load, 0.010 * (1 - load))
    return pace


def test_a_new_or_idle_loop_does_not_wait() -> None:
    assert Pace(linger_ms=LINGER_MS, budget_ms=BUDGET_MS).wait_s(0) == 0
    assert settled(IDLE_LOAD * 0.99).wait_s(0) == 0


@pytest.mark.parametrize("load", [FULL_LOAD, 0.8, 1.0])
def test_a_loaded_loop_waits_the_whole_linger(load: float) -> None:
    assert settled(load).wait_s(0) == pytest.approx(LINGER_MS / 1000)


def test_half_way_between_it_waits_half() -> None:
    assert settled((IDLE_LOAD + FULL_LOAD) / 2).wait_s(0) == pytest.approx(LINGER_MS / 2000)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=6))
def test_more_load_never_waits_less(loads: list[float]) -> None:
    waits = [settled(load).wait_s(0) for load in sorted(loads)]
    assert all(after >= before - 1e-12 for before, after in pairwise(waits))


@given(turns, st.floats(-5, 5), st.integers(0, 150), st.integers(151, 1_000))
def test_a_wait_is_bounded_by_linger_and_by_what_is_left_of_the_share(
    history: list[tuple[float, float]], age_s: float, linger_ms: int, budget_ms: int
) -> None:
    pace = Pace(linger_ms=linger_ms, budget_ms=budget_ms)
    for busy_s, idle_s in history:
        pace.worked(busy_s, idle_s)
    wait_s = pace.wait_s(age_s)
    assert 0 <= wait_s <= linger_ms / 1000
    assert wait_s <= max(0.0, budget_ms / 1000 * BUDGET_SHARE - age_s)


def test_an_old_payment_waits_no_more() -> None:
    busy = settled(1.0)
    assert busy.wait_s(LIMIT_S) == busy.wait_s(30.0) == 0
    assert busy.wait_s(LIMIT_S - 0.004) == pytest.approx(0.004)


def test_one_long_rest_forgets_the_load() -> None:
    pace = settled(1.0)
    pace.worked(0.001, 1.0)
    assert pace.wait_s(0) == 0


def test_a_turn_that_took_no_time_says_nothing() -> None:
    pace = settled(1.0)
    before = pace.wait_s(0)
    pace.worked(0.0, 0.0)
    assert pace.wait_s(0) == before


def test_no_linger_never_waits() -> None:
    assert settled(1.0, linger_ms=0).wait_s(0) == 0
