"""The wall clock of a worker is set by an hour, as when NTP corrects a machine's: payments are decided as ever."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace

import pytest

from tests.faults.conftest import EVERYTHING, LIKE_ANOTHER, MakeScene
from tests.faults.payments import FAR_MS, START_MS, Record, history
from tests.faults.process import DEADLINE_S, Worker
from tests.faults.report import Report
from tests.faults.scene import Scene
from tests.services.clock import Clock
from tests.services.kafka import KafkaBroker

HOUR_S = 3_600
JUMPS = ((-HOUR_S, HOUR_S), (HOUR_S, 0, -HOUR_S, 0, HOUR_S))


def of_now(records: Iterable[Record], begun_ms: int) -> Iterator[Record]:
    """The history as if it were made now: its payments lie within minutes of Kafka's clock, before and after it.

    So a worker that judged by its own clock which of them lie in the future would refuse them while it is behind.
    """
    for record in records:
        try:
            fields = json.loads(record.value or b"")
        except ValueError:
            yield record
            continue
        if isinstance(fields, dict):
            for name in {"event_time", "labelled_at"} & fields.keys():
                if fields[name] < FAR_MS:  # and not one of a malformed payment, which lies far ahead
                    fields[name] = begun_ms + (fields[name] - START_MS) // 400
        yield replace(record, value=json.dumps(fields).encode())


@pytest.mark.parametrize("jumps", JUMPS if EVERYTHING else JUMPS[:1], ids=str)
def test_under_load_it_goes_on(scene: MakeScene, wall_clock: Clock, report: Report, jumps: tuple[int, ...]) -> None:
    stage = scene()
    begun_ms = round(time.time() * 1_000)
    worker = stage.worker(clock=wall_clock)
    worker.wait_for("owns")
    for number, offset_s in enumerate(jumps):
        stage.produce(of_now(history(150, seed=80 + number, first=stage.produced), begun_ms))
        wall_clock.jump(offset_s)
        worker.wait_for("clock", times=number + 1)
        stage.wait_outcomes(stage.outcomes() + 1)
    stage.produce(of_now(history(150, seed=90, first=stage.produced), begun_ms))
    stage.finish()
    report.judged(f"the wall clock set under load, seconds {jumps}", len(jumps), stage.violations())


@LIKE_ANOTHER
@pytest.mark.parametrize("delivery", ["exactly_once", "at_least_once"])
def test_too_far_ahead_it_waits_until_its_clock_is_put_right(
    scene: MakeScene, wall_clock: Clock, report: Report, delivery: str
) -> None:
    """A broker refuses what is dated more than an hour after its own clock."""
    stage = scene(delivery=delivery)
    worker = stage.worker(clock=wall_clock)
    worker.wait_for("owns")
    stage.produce(history(100, seed=94))
    stage.wait_outcomes(10)
    wall_clock.jump(2 * HOUR_S)
    stage.produce(history(100, seed=95, first=stage.produced))
    worker.wait_for("unready")
    wall_clock.jump(0)
    stage.finish()
    report.judged(f"the wall clock two hours ahead for a while, {delivery}", 1, stage.violations())


@LIKE_ANOTHER
@pytest.mark.parametrize("meanwhile", ["nobody", "another worker"])
def test_asleep_it_is_woken_by_the_next_payment(
    scene: MakeScene, wall_clock: Clock, kafka: KafkaBroker, report: Report, meanwhile: str
) -> None:
    """The group has lost it by then, and maybe given its partitions to another; what it fetches it may not decide."""
    stage = scene()
    sleeper = _asleep(stage, wall_clock, kafka)
    if meanwhile == "another worker":
        stage.worker("b").wait_for("owns")
    stage.produce(history(200, seed=92, first=stage.produced))
    sleeper.wait_for("clock")
    stage.finish()
    report.judged(f"the wall clock set back while idle, {meanwhile} takes over", 1, stage.violations())


@LIKE_ANOTHER
def test_asleep_it_ends_at_the_deadline_of_its_drain(
    scene: MakeScene, wall_clock: Clock, kafka: KafkaBroker, report: Report
) -> None:
    stage = scene(settings={"processing": {"drain_deadline_ms": 1_000}})
    sleeper = _asleep(stage, wall_clock, kafka)
    sleeper.send(signal.SIGTERM)
    status = sleeper.wait_exit()
    found = [] if status == 1 and sleeper.logged("drain_deadline_passed") else [f"status {status}: {sleeper.story()}"]
    stage.worker()
    stage.produce(history(200, seed=93, first=stage.produced))
    stage.finish()
    report.judged("the wall clock set back while idle, then SIGTERM", 1, found + stage.violations())


def _asleep(stage: Scene, clock: Clock, kafka: KafkaBroker) -> Worker:
    """A worker that has decided something, and stands still since its clock was set back: the group has lost it.

    librdkafka's threads wait until wall times. A worker that did not wait just then hears of it and goes on; then its
    clock is set back once more.
    """
    worker = stage.worker(clock=clock)
    stage.produce(history(100, seed=91))
    stage.wait_committed()
    stage.wait_journaled()
    deadline, pause, hours = time.monotonic() + DEADLINE_S, threading.Event(), 0
    while kafka.admin.describe_consumer_groups([stage.group])[stage.group].result(DEADLINE_S).members:
        if len(worker.said("clock")) == hours:
            hours += 1
            clock.jump(-hours * HOUR_S)
        assert time.monotonic() < deadline, f"it never stood still: {worker.story()}"
        pause.wait(0.05)
    return worker
