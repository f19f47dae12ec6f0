"""SIGTERM, whatever the worker is at: it ends as documented, and what it had not finished another one does."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable

import pytest
from confluent_kafka import ConsumerGroupState

from tests.faults.conftest import EVERYTHING, LIKE_ANOTHER, MakeScene
from tests.faults.payments import history
from tests.faults.process import DEADLINE_S
from tests.faults.report import Report
from tests.faults.scene import Load, Scene
from tests.faults.worker import Fault
from tests.services.kafka import KafkaBroker

INVARIANT = "exit status as documented; 1-3: once, equal, in order"
LONG_MS = 60_000  # for requests, so that only the drain's own deadline can end a worker in time


@pytest.mark.parametrize("delivery", ("exactly_once", "at_least_once") if EVERYTHING else ("exactly_once",))
def test_loaded_it_finishes_its_batch_and_ends_well(scene: MakeScene, report: Report, delivery: str) -> None:
    """The signal comes in the middle of a batch, which is committed all the same: nothing is decided twice."""
    stage = scene(delivery=delivery)
    stage.produce(history(400, seed=61))
    worker = stage.worker(fault=Fault("after_produce", 4, "STOP"))
    worker.wait_stopped()
    before = stage.committed()
    worker.send(signal.SIGTERM)
    worker.send(signal.SIGCONT)
    assert worker.wait_exit() == 0, worker.story()
    found = [] if stage.committed() != before else ["the batch in flight was given up"]
    stage.worker()
    stage.finish()
    report.judged(f"SIGTERM while loaded, {delivery}", 1, found + stage.violations(exactly_once=True), INVARIANT)


def test_idle_it_ends_well(scene: MakeScene, report: Report) -> None:
    stage = scene()
    stage.produce(history(100, seed=62))
    worker = stage.worker()
    stage.wait_committed()
    stage.wait_journaled()
    assert worker.drain() == 0, worker.story()
    report.judged("SIGTERM while idle", 1, stage.violations(), INVARIANT)


def test_in_a_rebalance_it_ends_well_and_the_others_go_on(scene: MakeScene, kafka: KafkaBroker, report: Report) -> None:
    """The group waits for a member that is stopped, and for the one that ends."""
    stage = scene(settings={"kafka": {"session_timeout_ms": 6_000}})
    leaver, stopped = stage.worker("leaver"), stage.worker("stopped")
    for worker in (leaver, stopped):
        worker.wait_for("owns")
    with Load(stage):
        stage.wait_outcomes(50)
        stopped.send(signal.SIGSTOP)
        stage.worker("joins")
        _wait_rebalancing(stage, kafka)
        assert leaver.drain() == 0, leaver.story()
        stopped.send(signal.SIGCONT)
        stage.wait_outcomes(stage.outcomes() + 50)
    stage.finish()
    report.judged("SIGTERM in a rebalance", 1, stage.violations(), INVARIANT)


def _wait_rebalancing(stage: Scene, kafka: KafkaBroker) -> None:
    deadline, pause = time.monotonic() + DEADLINE_S, threading.Event()
    while True:
        (told,) = kafka.admin.describe_consumer_groups([stage.group]).values()
        if told.result(DEADLINE_S).state == ConsumerGroupState.PREPARING_REBALANCING:
            return
        assert time.monotonic() < deadline, f"the group never waited for anybody: {stage.stories()}"
        pause.wait(0.02)


def ways(kafka: KafkaBroker, broker: str) -> tuple[Callable[[], object], Callable[[], object]]:
    """How the broker goes and how it comes back."""
    return (kafka.kill, kafka.restart) if broker == "killed" else (kafka.pause, kafka.resume)


@LIKE_ANOTHER
@pytest.mark.parametrize("broker", ["killed", "stalled"])
def test_with_the_broker_down_an_idle_worker_ends_well(
    scene: MakeScene, kafka: KafkaBroker, report: Report, broker: str
) -> None:
    stage = scene()
    stage.produce(history(100, seed=63))
    worker = stage.worker()
    stage.wait_committed()
    stage.wait_journaled()
    down, up = ways(kafka, broker)
    down()
    status = worker.drain()
    up()
    found = [] if status == 0 else [f"ended with {status}: {worker.story()}"]
    stage.wait_committed()  # once the broker knows its groups again
    report.judged(f"SIGTERM while idle, the broker {broker}", 1, found + stage.violations(), INVARIANT)


@pytest.mark.parametrize("broker", ["stalled", pytest.param("killed", marks=LIKE_ANOTHER)])
@pytest.mark.parametrize("delivery", ("exactly_once", "at_least_once") if EVERYTHING else ("exactly_once",))
def test_with_the_broker_down_a_batch_is_given_up_at_the_deadline(
    scene: MakeScene, kafka: KafkaBroker, report: Report, delivery: str, broker: str
) -> None:
    stage = scene(
        delivery=delivery,
        settings={
            "kafka": {"request_timeout_ms": LONG_MS, "max_poll_interval_ms": LONG_MS},
            "processing": {"drain_deadline_ms": 1_000},
        },
    )
    stage.produce(history(400, seed=64))
    worker = stage.worker(fault=Fault("after_produce", 4, "STOP"))
    worker.wait_stopped()
    down, up = ways(kafka, broker)
    down()
    worker.send(signal.SIGCONT)
    worker.send(signal.SIGTERM)
    status = worker.wait_exit(LONG_MS / 2_000)
    up()
    found = [] if status == 1 and worker.logged("drain_deadline_passed") else [f"ended with {status}: {worker.story()}"]
    stage.worker()
    stage.finish()
    report.judged(f"SIGTERM while loaded, the broker {broker}, {delivery}", 1, found + stage.violations(), INVARIANT)
