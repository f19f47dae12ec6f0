"""Workers that stall, come, go and clash: what one has decided is never decided again by another."""

from __future__ import annotations

import signal

import pytest

from tests.faults.conftest import EVERYTHING, MakeScene
from tests.faults.payments import history
from tests.faults.report import Report
from tests.faults.scene import Load
from tests.faults.worker import Fault

STALE = (("in_commit", "exactly_once"),)
STUCK = (("after_produce", "exactly_once"),)
EVERY_STALE = tuple(
    (step, delivery)
    for step in ("after_apply", "after_send", "after_produce", "after_flush", "in_commit", "after_commit")
    for delivery in ("exactly_once", "at_least_once")
)


@pytest.mark.parametrize(("step", "delivery"), EVERY_STALE if EVERYTHING else STALE)
def test_a_worker_that_stalls_past_its_session_changes_nothing_when_it_wakes(
    scene: MakeScene, report: Report, step: str, delivery: str
) -> None:
    stage = scene(delivery=delivery)
    stage.produce(history(600, seed=3))
    stale = stage.worker("stale", fault=Fault(step, 4, "STOP"))
    stale.wait_stopped()
    before = stage.outcomes()
    heir = stage.worker("heir")
    heir.wait_for("owns")
    stage.wait_outcomes(before + 200)
    stale.send(signal.SIGCONT)
    stage.produce(history(200, seed=4, first=stage.produced))
    stage.finish()
    report.judged(f"SIGSTOP at {step}, take-over, SIGCONT, {delivery}", 1, stage.violations())


def test_a_worker_that_wakes_before_its_transaction_expires_is_fenced_all_the_same(
    scene: MakeScene, report: Report
) -> None:
    stage = scene()
    stage.produce(history(600, seed=5))
    stale = stage.worker("stale", fault=Fault("after_flush", 4, "STOP"))
    stale.wait_stopped()
    heir = stage.worker("heir")
    heir.wait_for("owns")
    stale.send(signal.SIGCONT)
    stage.produce(history(200, seed=6, first=stage.produced))
    stage.finish()
    report.judged("SIGSTOP at after_flush, SIGCONT with its transaction open", 1, stage.violations())


STUCK_MS = 6_500  # longer than an abandoned transaction holds the heir up


@pytest.mark.parametrize(("step", "delivery"), EVERY_STALE if EVERYTHING else STUCK)
def test_a_worker_whose_loop_is_stuck_while_its_heart_beats_changes_nothing_afterwards(
    scene: MakeScene, report: Report, step: str, delivery: str
) -> None:
    """Its clients go on meanwhile: past `max_poll_interval_ms` they leave the group, which is told so at once."""
    stage = scene(delivery=delivery, settings={"kafka": {"max_poll_interval_ms": STUCK_MS}})
    stage.produce(history(600, seed=3))
    stuck = stage.worker("stuck", fault=Fault(step, 4, "STUCK"))
    stuck.wait_for("stopping")
    before = stage.outcomes()
    heir = stage.worker("heir")
    heir.wait_for("owns")
    stage.wait_outcomes(before + 200)
    stuck.go_on()
    stage.produce(history(200, seed=4, first=stage.produced))
    stage.finish()
    assert stuck.process.returncode == 0
    report.judged(f"stuck at {step} past max.poll.interval, take-over, {delivery}", 1, stage.violations())


@pytest.mark.parametrize("delivery", ["exactly_once", "at_least_once"] if EVERYTHING else ["exactly_once"])
def test_workers_come_and_go_under_load(scene: MakeScene, report: Report, delivery: str) -> None:
    stage = scene(delivery=delivery)
    first = stage.worker("a")
    first.wait_for("owns")
    with Load(stage):
        stage.wait_outcomes(150)
        others = [stage.worker("b"), stage.worker("c")]
        for worker in others:
            worker.wait_for("owns")
        stage.wait_outcomes(stage.outcomes() + 300)
        for worker in others:
            assert worker.drain() == 0, worker.story()
        stage.wait_outcomes(stage.outcomes() + 150)
    stage.finish()
    assert first.process.returncode == 0
    report.judged(f"1 -> 3 -> 1 workers under load, {delivery}", 1, stage.violations())


def test_of_two_workers_with_one_transactional_id_one_gives_up(scene: MakeScene, report: Report) -> None:
    stage = scene()
    one = stage.worker("same")
    one.wait_for("owns")
    stage.produce(history(300, seed=7))
    two = stage.worker("same")
    with Load(stage):
        loser = stage.first_to_end((one, two))
    assert "Fenced" in loser.wait_for("error")
    assert loser.process.returncode == 1
    stage.finish()
    report.judged("one transactional id for two workers", 1, stage.violations())
