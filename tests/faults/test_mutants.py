"""Each guard taken out of a worker, by a component passed to it: the checker must see what the guard prevents."""

from __future__ import annotations

import signal

from tests.faults.conftest import LIKE_ANOTHER, MakeScene
from tests.faults.payments import history
from tests.faults.report import Report
from tests.faults.worker import Fault
from tests.services.redis import RedisServer


def test_without_the_marker_payments_are_appended_twice(scene: MakeScene, report: Report) -> None:
    stage = scene()
    stage.produce(history(400, seed=1))
    for nth in (3, 5):
        worker = stage.worker(fault=Fault("after_apply", nth), mutant="appends_again")
        assert worker.wait_exit() == -signal.SIGKILL, worker.story()
    stage.worker(mutant="appends_again")
    stage.finish(recorded=False)  # its journal contradicts itself
    report.caught("no marker: replayed payments are appended again", 2, stage.violations(), "no decision")


@LIKE_ANOTHER
def test_without_the_marker_a_gap_in_the_state_is_skipped(scene: MakeScene, report: Report) -> None:
    stage = scene()
    heir = stage.worker("heir", mutant="skips_a_gap")
    heir.wait_for("owns")
    with RedisServer() as gone:
        url = gone.url
    cut_off = stage.worker("cut-off", redis_url=url, mutant="skips_a_gap")
    cut_off.wait_for("owns")
    stage.produce(history(300, seed=9))
    stage.wait_decision("no_features")
    stage.wait_committed()
    cut_off.process.kill()
    stage.produce(history(300, seed=10, first=stage.produced))
    stage.finish(recorded=False)
    report.caught("no marker: a gap is skipped", 1, stage.violations(), "no order")


@LIKE_ANOTHER
def test_without_the_transaction_a_batch_is_decided_twice(scene: MakeScene, report: Report) -> None:
    """The publisher of at_least_once, judged as if it had promised exactly_once."""
    stage = scene(delivery="at_least_once")
    stage.produce(history(400, seed=1))
    for nth in (3, 5):
        worker = stage.worker(fault=Fault("in_commit", nth))
        assert worker.wait_exit() == -signal.SIGKILL, worker.story()
    stage.worker()
    stage.finish()
    report.caught("no transaction", 2, stage.violations(exactly_once=True), "has 2 decisions")


def test_without_labels_payments_are_decided_as_if_nothing_were_known(scene: MakeScene, report: Report) -> None:
    stage = scene()
    stage.produce(history(400, seed=1))
    stage.worker(mutant="no_labels")
    stage.finish(recorded=False)
    report.caught("labels are not applied", 1, stage.violations(), "other features")


def test_a_worker_that_stays_without_features_after_a_kill_is_seen(scene: MakeScene, report: Report) -> None:
    """All it decides is right by the tier that it names."""
    stage = scene(patience_ms=200)
    stage.produce(history(400, seed=1))
    worker = stage.worker(fault=Fault("after_apply", 3))
    assert worker.wait_exit() == -signal.SIGKILL, worker.story()
    stage.worker(mutant="no_features")
    stage.finish(recorded=False)
    report.caught("its state is never trusted again", 1, stage.violations(), "without features")


@LIKE_ANOTHER
def test_without_the_own_record_prefix_payments_see_the_future(scene: MakeScene, report: Report) -> None:
    stage = scene()
    stage.produce(history(400, seed=1))
    stage.worker(mutant="whole_log")
    stage.finish()
    report.caught("no own-record prefix", 1, stage.violations(), "other features")
