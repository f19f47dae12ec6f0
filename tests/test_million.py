"""Mutated payments through the real processor; `python -m tests.fuzz.million` sends a million of them."""

from __future__ import annotations

import pytest

from tests.fuzz.million import judge
from tests.fuzz.tally import Tally
from tests.services.kafka import KafkaBroker
from tests.services.redis import RedisServer

PAYMENTS = 20_000
P, Q, R = (0, 1), (0, 2), (1, 1)


def test_each_mutated_payment_ends_in_one_decision_or_one_dead_letter(
    kafka: KafkaBroker, redis_server: RedisServer, unique: str
) -> None:
    tally = judge(kafka, redis_server.url, unique, PAYMENTS)
    assert not tally.wrong(), tally.summary()
    assert tally.sent == PAYMENTS
    assert min(len(tally.decided), len(tally.refused), tally.duplicates) > 50, tally.summary()


def judged(**changes: object) -> list[str]:
    """What is wrong where one payment was decided, one refused and one is its first one's duplicate, but for this."""
    tally = Tally(good={P: b"one", R: b"one"}, bad={Q}, duplicates=1)
    tally.decided[P] = tally.refused[Q] = 1
    for name, value in changes.items():
        setattr(tally, name, value)
    return tally.wrong()


def test_what_is_promised_is_not_wrong() -> None:
    assert judged() == []


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"duplicates": 0}, "1 have no outcome, and 0 were counted as duplicates"),
        ({"good": {P: b"one", R: b"other"}}, "(1, 1) has no decision, nor has its event id"),
        ({"bad": {Q, (3, 3)}}, "(3, 3) can't be decided and is no dead letter"),
        ({"bad": set(), "good": {P: b"one", R: b"one", Q: b"x"}}, "(0, 2) can be decided and is a dead letter"),
        ({"told": {"the log": ["4000056655665556"]}}, "the log tells 4000056655665556"),
    ],
)
def test_what_is_not_is(changes: dict[str, object], says: str) -> None:
    assert says in judged(**changes)


@pytest.mark.parametrize(
    ("at", "kind", "says"),
    [
        (P, "decided", "(0, 1) has 2 decisions"),
        (Q, "decided", "(0, 2) can't be decided and was"),
        (Q, "refused", "(0, 2) has 2 dead letters"),
        ((9, 9), "decided", "(9, 9) is none that was sent"),
    ],
)
def test_an_outcome_too_many_is_wrong(at: tuple[int, int], kind: str, says: str) -> None:
    tally = Tally(good={P: b"one", R: b"one"}, bad={Q}, duplicates=1)
    tally.decided[P] = tally.refused[Q] = 1
    getattr(tally, kind)[at] += 1
    assert says in tally.wrong()
