"""kill -9 at every step of a batch, at several batches, and at random times: nothing is lost, repeated or changed."""

from __future__ import annotations

import random
import signal

import pytest

from tests.faults.conftest import EVERYTHING, MakeScene
from tests.faults.payments import history
from tests.faults.report import Report
from tests.faults.scene import Load
from tests.faults.worker import Fault
from tests.services.redis import RedisServer

STEPS = ("after_apply", "after_send", "after_produce", "after_flush", "in_commit", "after_commit")
IN_EVERY_BATCH = tuple(step for step in STEPS if step != "after_send")  # that one takes a backlog of payments
POSITIONS = (1, 2, 3, 5, 8, 13) if EVERYTHING else (2, 9)
DELIVERIES = ("exactly_once", "at_least_once")
EVERY_PLACE = tuple((step, delivery) for step in STEPS for delivery in DELIVERIES)
PLACES = (
    ("after_apply", "exactly_once"),
    ("in_commit", "exactly_once"),
    ("after_flush", "at_least_once"),
)
CHUNKS = (1, 2, 3)  # that are caught up with; each partition takes one at least
KILLS = 20 if EVERYTHING else 2  # by us, and half as many by themselves


@pytest.mark.parametrize(("step", "delivery"), EVERY_PLACE if EVERYTHING else PLACES)
def test_a_worker_that_is_killed_at_a_step_loses_and_repeats_nothing(
    scene: MakeScene, report: Report, step: str, delivery: str
) -> None:
    stage = scene(delivery=delivery)
    stage.produce(history(200 + 30 * sum(POSITIONS), seed=1))  # enough batches for the last fault to be reached
    for nth in POSITIONS:
        worker = stage.worker(fault=Fault(step, nth))
        assert worker.wait_exit() == -signal.SIGKILL, worker.story()
    stage.worker()
    stage.finish()
    report.judged(f"kill -9 {step}, {delivery}", len(POSITIONS), stage.violations())


@pytest.mark.parametrize("delivery", DELIVERIES if EVERYTHING else DELIVERIES[:1])
def test_workers_that_are_killed_while_they_catch_up_lose_and_repeat_nothing(
    scene: MakeScene, report: Report, delivery: str
) -> None:
    """After some records are in the state, and before the journal tells of them; Redis lost all before each worker."""
    with RedisServer() as redis:
        stage = scene(redis.url, delivery=delivery)
        stage.produce(history(400, seed=3))
        stage.worker(fault=Fault("after_commit", 9)).wait_exit()
        for nth in CHUNKS:
            with redis.client() as client:
                client.flushall()
            worker = stage.worker(fault=Fault("in_catch_up", nth))
            assert worker.wait_exit() == -signal.SIGKILL, worker.story()
        stage.worker()
        stage.finish()
        report.judged(f"kill -9 in_catch_up, {delivery}", len(CHUNKS), stage.violations())


@pytest.mark.parametrize("seed", range(2 if EVERYTHING else 1))
@pytest.mark.timeout(600)
def test_workers_that_are_killed_at_random_lose_and_repeat_nothing(scene: MakeScene, report: Report, seed: int) -> None:
    """Every other victim is killed by us, wherever it is; the others kill themselves at a step of their own."""
    rng = random.Random(seed)
    stage = scene()
    stage.produce(history(300, seed=2 + seed))
    replicas = {name: stage.worker(name) for name in "abc"}
    for kill in range(KILLS):
        name = rng.choice("abc")
        victim = replicas[name]
        victim.wait_for("owns")
        stage.produce(history(150, seed=100 + kill, first=stage.produced))
        stage.wait_outcomes(stage.outcomes() + rng.randrange(1, 100))
        victim.process.kill()
        assert victim.wait_exit() == -signal.SIGKILL, victim.story()
        fault = Fault(rng.choice(IN_EVERY_BATCH), rng.randrange(1, 3)) if kill % 2 else None
        replicas[name] = stage.worker(name, fault=fault)
        if fault:
            with Load(stage):
                assert replicas[name].wait_exit() == -signal.SIGKILL, replicas[name].story()
            replicas[name] = stage.worker(name)
    for replica in replicas.values():
        replica.wait_for("owns")  # before that, SIGTERM ends a process as it ends any other
    stage.finish()
    report.judged("kill -9 at random, 3 workers", KILLS + KILLS // 2, stage.violations())
