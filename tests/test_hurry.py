"""What would miss its budget on the main model takes the small one, and nothing else does."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.hurry import Hurry

BUDGET_MS = 200.0
NOW_MS = 1_000_000.0


def hurry(full_ms: float = 0.1, small_ms: float = 0.01, rest_ms: float = 0.0) -> Hurry:
    """One that has seen what rows cost."""
    made = Hurry(BUDGET_MS)
    for rows in (10, 1_000) * 40:
        made.scored(rows, 0, full_ms * rows)
        made.scored(0, rows, small_ms * rows)
        made.scored(rows, 0, full_ms * rows)  # so that what was forgotten is known again
        made.finished(rest_ms)
    for rows in (10, 1_000) * 100:
        made.scored(rows, 0, full_ms * rows)
    return made


def ages(*ages_ms: float) -> np.ndarray:
    return (NOW_MS - np.array(ages_ms)).astype(np.int64)


def test_nobody_hurries_where_there_is_time() -> None:
    assert hurry().chosen(ages(*[10.0] * 500), NOW_MS) is None


def test_nobody_hurries_before_anything_was_measured() -> None:
    assert Hurry(BUDGET_MS).chosen(ages(199.0), NOW_MS) is None


def test_all_hurry_where_only_the_small_model_is_in_time() -> None:
    mask = hurry().chosen(ages(*[185.0] * 1_000), NOW_MS)  # 15 ms left; 100 by the main model, 10 by the small one
    assert mask is not None
    assert mask.sum() > 900


def test_those_whose_budgets_end_first_hurry() -> None:
    old, young = [150.0] * 500, [20.0] * 500  # 50 ms left; 100 for all by the main model
    mask = hurry().chosen(ages(*young, *old), NOW_MS)
    assert mask is not None
    assert 400 < mask.sum() < 700
    assert mask[500:].all() or not mask[:500].any()


def test_who_is_too_late_either_way_keeps_the_main_model() -> None:
    assert hurry().chosen(ages(*[5_000.0] * 1_000), NOW_MS) is None
    mask = hurry().chosen(ages(*[5_000.0] * 500, *[140.0] * 500), NOW_MS)  # 60 ms left, 100 by the main model
    assert mask is not None
    assert mask[500:].any()
    assert not mask[:500].any()
    assert hurry().chosen(ages(*[5_000.0] * 1_000, 150.0), NOW_MS) is None  # one alone can't be saved


def test_what_comes_after_the_scores_counts() -> None:
    assert hurry().chosen(ages(*[50.0] * 500), NOW_MS) is None  # 150 ms left, 50 for the scores
    slow = hurry(rest_ms=120.0)
    assert slow.chosen(ages(*[50.0] * 500), NOW_MS) is not None


def test_small_batches_say_little_about_large_ones() -> None:
    made = Hurry(BUDGET_MS)
    for _ in range(50):
        made.scored(1, 0, 0.5)  # nearly all of it is the call
    assert made.chosen(ages(*[10.0] * 1_000), NOW_MS) is None


def test_a_main_model_that_was_slow_once_is_tried_again() -> None:
    made = hurry(full_ms=2.0)
    rounds = 0
    while (mask := made.chosen(ages(*[10.0] * 200), NOW_MS)) is not None:
        small = int(mask.sum())
        made.scored(200 - small, small, 0.01 * 200)
        rounds += 1
        assert rounds < 1_000
    assert rounds > 0


@given(st.lists(st.floats(0, 400), min_size=1, max_size=60), st.floats(0.01, 5), st.floats(0.001, 1), st.floats(0, 150))
def test_whoever_hurries_is_in_time_by_it_and_no_more_than_needed(
    some: list[float], full_ms: float, small_ms: float, rest_ms: float
) -> None:
    made = hurry(full_ms, min(small_ms, full_ms), rest_ms)
    mask = made.chosen(ages(*some), NOW_MS)
    left = BUDGET_MS - np.array(some) - made._rest_ms
    n = len(some)
    cost_small, cost_full = float(made._small.of(n)), float(made._full.of(n))
    savable = left >= cost_small + 1
    if mask is None:
        late = np.count_nonzero(left < cost_small)
        by_late = float(
            made._full.of(late) + made._small.of(n - late)
        )  # as little as can be, with the late by the main
        assert not savable.any() or left[savable].min() >= cost_full - 1 or left[savable].min() <= by_late + 1
        return
    assert left[left >= cost_small - 1].min() <= cost_full + 1
    assert mask.any()
    done = float(made._full.of(int((~mask).sum())) + made._small.of(int(mask.sum())))
    assert done <= left[left >= cost_small].min(initial=np.inf) + 1e-6 or mask.all()
    assert not mask[left < cost_small].any()
    latest_that_hurries = left[mask & savable].max(initial=-np.inf)
    assert latest_that_hurries <= left[~mask & savable].min(initial=np.inf) + 1


@pytest.mark.parametrize("n", [0, 1])
def test_hardly_anybody_is_no_special_case(n: int) -> None:
    assert hurry().chosen(ages(*[10.0] * n), NOW_MS) is None
