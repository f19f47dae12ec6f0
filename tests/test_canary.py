"""The canary: which cards, how many, and what ends it; against naive ones."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from consumer.canary import FEW, Canary
from consumer.settings import ChallengerSettings
from models.policy import APPROVE, BLOCK, REVIEW

DIGEST = "ab" * 32
PROMOTED_S = 1_700_000_000
OPTIONS = ChallengerSettings(
    canary_shares=(0.01, 0.1, 0.5), canary_step_s=60, guard_window_s=100, guard_min_payments=200
)
CARDS = [f"card_{number}" for number in range(20_000)]


def canary(options: ChallengerSettings = OPTIONS, digest: str = DIGEST) -> Canary:
    return Canary(options, digest, PROMOTED_S * 1_000)


@pytest.mark.parametrize(
    ("after_s", "share"), [(-5, 0.01), (0, 0.01), (59, 0.01), (60, 0.1), (119, 0.1), (120, 0.5), (10**6, 0.5)]
)
def test_the_share_grows_step_by_step_with_the_time_since_the_promotion(after_s: int, share: float) -> None:
    assert canary().share(PROMOTED_S + after_s) == share


def test_without_shares_or_once_stopped_it_decides_nothing() -> None:
    assert canary(ChallengerSettings()).share(PROMOTED_S + 1e6) == 0
    stopped = canary()
    assert stopped.stop("why")
    assert not stopped.stop("again")
    assert stopped.stopped == "why"
    assert stopped.share(PROMOTED_S + 1e6) == 0


def test_a_share_of_the_cards_is_chosen_and_a_chosen_card_stays_so() -> None:
    masks = [canary().chosen(CARDS, share) for share in (0.0, 0.01, 0.1, 0.5, 1.0)]
    assert [mask.mean() for mask in masks] == pytest.approx([0, 0.01, 0.1, 0.5, 1], abs=0.01)
    for smaller, larger in pairwise(masks):
        assert not (smaller & ~larger).any()
    assert (canary(digest="cd" * 32).chosen(CARDS, 0.1) != masks[2]).any()


def watched(
    champion: Sequence[int], challenger: Sequence[int], times: int = 1, *, failed: bool = False, every_s: float = 1.0
) -> str | None:
    """The reason after a number of equal batches, if any of them gave one."""
    subject, reason = canary(), None
    due = np.ones(len(champion), np.bool_)
    for number in range(times):
        told = subject.watch(
            np.array(champion, np.uint8),
            np.array(challenger, np.uint8),
            due,
            failed=failed,
            now_s=PROMOTED_S + number * every_s,
        )
        reason = reason or told
    return reason


GOOD = [APPROVE] * 8 + [REVIEW, BLOCK]


def test_what_ends_it() -> None:
    assert watched(GOOD, GOOD, 100) is None
    assert "40 alerts where the champion had 0" in str(watched([APPROVE] * 10, [REVIEW] * 2 + [APPROVE] * 8, 20))
    assert "blocks" in str(watched([REVIEW] * 10, [BLOCK] * 2 + [REVIEW] * 8, 20))
    assert "only 0 alerts" in str(watched(GOOD, [APPROVE] * 10, 20))
    assert "failed for 200 of 200" in str(watched(GOOD, GOOD, 20, failed=True))


def test_it_waits_for_enough_payments_inside_its_window() -> None:
    bad = ([APPROVE] * 10, [BLOCK] * 10)
    assert watched(*bad, times=19) is None
    assert watched(*bad, times=20) is not None
    assert watched(*bad, times=200, every_s=10) is None  # never 200 payments in 100 s


def test_payments_for_which_no_decision_is_due_do_not_count() -> None:
    subject, due = canary(), np.zeros(1_000, np.bool_)
    decisions = np.full(1_000, BLOCK, np.uint8)
    assert subject.watch(decisions * 0, decisions, due, failed=True, now_s=PROMOTED_S) is None


@given(
    st.lists(
        st.tuples(st.integers(0, 30), st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), max_size=40)),
        max_size=30,
    )
)
def test_the_guards_are_those_of_a_naive_count(batches: list[tuple[int, list[tuple[int, int]]]]) -> None:
    options = ChallengerSettings(guard_window_s=60, guard_min_payments=50, max_block_ratio=1.5)
    subject = canary(options)
    seen: list[tuple[int, int, int]] = []
    now = PROMOTED_S
    for wait_s, pairs in batches:
        now += wait_s
        ours = np.array([pair[1] for pair in pairs], np.uint8)
        theirs = np.array([pair[0] for pair in pairs], np.uint8)
        told = subject.watch(theirs, ours, np.ones(len(pairs), np.bool_), failed=False, now_s=now)
        seen += [(now, *pair) for pair in pairs]
        recent = [(old, new) for at, old, new in seen if at > now - 60]
        alerts = [sum(pair[side] > 0 for pair in recent) for side in (0, 1)]
        blocks = [sum(pair[side] == BLOCK for pair in recent) for side in (0, 1)]
        too_many = alerts[1] > 2 * max(alerts[0], FEW) or blocks[1] > 1.5 * max(blocks[0], FEW)
        too_few = alerts[0] >= FEW and alerts[1] < 0.25 * alerts[0]
        assert (told is not None) == (len(recent) >= 50 and (too_many or too_few))


def test_shares_must_rise() -> None:
    with pytest.raises(ValidationError, match="must rise"):
        ChallengerSettings(canary_shares=(0.5, 0.1))
