"""Mutated payments through the real processor; `python -m tests.fuzz.million` sends a million of them."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from confluent_kafka import Producer

from tests.fuzz.million import judge
from tests.fuzz.outcomes import PARTITIONS, Outcomes
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


def test_a_second_decision_that_comes_once_there_is_one_for_each_payment_is_seen(
    kafka: KafkaBroker, unique: str
) -> None:
    topics = {role: f"{unique}.{role}" for role in ("decisions", "dead_letters")}
    kafka.create_topics(dict.fromkeys(topics.values(), PARTITIONS))
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "transactional.id": unique, "log_level": 0})
    producer.init_transactions()

    def decide() -> None:
        producer.begin_transaction()
        producer.produce(topics["decisions"], b'{"source":{"partition":0,"offset":1}}', partition=2)
        producer.commit_transaction()

    tally = Tally(good={P: b"one"})
    with closing(Outcomes(kafka.bootstrap, topics, tally)) as outcomes:
        decide()
        outcomes.read_one_each(lambda: 0)
        decide()
        assert outcomes.read_to_end().wrong() == ["(0, 1) has 2 decisions"]
    producer.close()


@pytest.mark.parametrize("there", ["nothing", "servers that do not start"])
def test_without_servers_a_sentence_says_so(there: str, tmp_path: Path) -> None:
    if there != "nothing":
        for name in ("java", "mvn", "redis-server"):
            (tmp_path / name).write_text("#!/bin/sh\nexit 1\n")
            (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.million", "--payments", "10"],
        cwd=Path(__file__).parents[1], env=os.environ | {"PATH": str(tmp_path)}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    said = "java and mvn not found on PATH. Payments are sent through real services only."
    assert done.stderr.splitlines()[0].startswith(said if there == "nothing" else "WRONG: ")


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
