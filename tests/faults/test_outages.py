"""Kafka and Redis die, stall, lose data and come back: payments are decided, or wait, and state catches up."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from tests.faults.conftest import EVERYTHING, MakeScene
from tests.faults.payments import history
from tests.faults.report import Report
from tests.faults.scene import Load, Scene
from tests.faults.worker import Fault
from tests.services.kafka import KafkaBroker
from tests.services.redis import RedisServer

BROKER = (("in_commit", "exactly_once"),)
EVERY_BROKER = tuple(
    (step, delivery)
    for step in ("after_apply", "after_send", "after_produce", "after_flush", "in_commit", "after_commit")
    for delivery in ("exactly_once", "at_least_once")
)


@pytest.mark.parametrize(("step", "delivery"), EVERY_BROKER if EVERYTHING else BROKER)
def test_a_broker_that_dies_in_a_transaction_costs_nothing(
    scene: MakeScene, kafka: KafkaBroker, report: Report, step: str, delivery: str
) -> None:
    stage = scene(delivery=delivery)
    stage.produce(history(600, seed=8))
    worker = stage.worker(fault=Fault(step, 5, "STOP"))
    worker.wait_stopped()
    kafka.kill()
    worker.send(signal.SIGCONT)
    kafka.restart()
    stage.finish()
    report.judged(f"broker killed at {step}, {delivery}", 1, stage.violations())


@pytest.fixture
def stage(scene: MakeScene, own_redis: RedisServer, request: pytest.FixtureRequest) -> Scene:
    """A scene with a Redis of its own, whose outages are short of patience, and a worker that has begun."""
    options = {"patience_ms": 200, "store_timeout_ms": 100, "degrades": True} | getattr(request, "param", {})
    made = scene(own_redis.url, **options)
    made.worker().wait_for("owns")
    return made


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def load(stage: Scene) -> Iterator[Load]:
    with Load(stage) as made:
        stage.wait_outcomes(150)
        yield made


@dataclass(frozen=True, slots=True)
class Absence:
    """A way in which Redis is away for a while, and how it comes back."""

    name: str
    begin: Callable[[RedisServer], object]
    end: Callable[[RedisServer], object]


KILLED = Absence("killed and restarted", RedisServer.kill, RedisServer.restart)
SHUT_DOWN = Absence("shut down in good order and restarted", RedisServer.stop, RedisServer.restart)
STALLED = Absence("stalled and resumed", RedisServer.pause, RedisServer.resume)
EVERY_ABSENCE = (KILLED, SHUT_DOWN, STALLED)


@pytest.mark.parametrize("absence", EVERY_ABSENCE if EVERYTHING else (KILLED, STALLED), ids=lambda each: each.name)
def test_redis_is_away_and_payments_are_decided_without_it(
    stage: Scene, load: Load, own_redis: RedisServer, report: Report, absence: Absence
) -> None:
    for _ in range(2):
        absence.begin(own_redis)
        stage.wait_decision("no_features", after=len(stage.witness.seen()))
        absence.end(own_redis)
        stage.wait_decision("full", after=len(stage.witness.seen()))
    _close(stage, load)
    report.judged(f"Redis {absence.name}, degrade", 2, stage.violations())


@pytest.mark.parametrize("absence", EVERY_ABSENCE if EVERYTHING else (KILLED,), ids=lambda each: each.name)
@pytest.mark.parametrize("stage", [{"outage": "pause"}], indirect=True, ids=["pause"])
def test_redis_is_away_and_payments_wait_for_it(
    stage: Scene, load: Load, own_redis: RedisServer, report: Report, absence: Absence
) -> None:
    for number in range(2):
        absence.begin(own_redis)
        stage.workers[0].wait_for("unready", times=number + 1)
        absence.end(own_redis)
        stage.wait_decision("full", after=len(stage.witness.seen()))
    _close(stage, load)
    report.judged(f"Redis {absence.name}, pause", 2, stage.violations())


@pytest.mark.parametrize("stage", [{}, {"outage": "pause"}], indirect=True, ids=["degrade", "pause"])
def test_redis_is_flushed(stage: Scene, load: Load, own_redis: RedisServer, report: Report) -> None:
    for _ in range(2):
        own_redis.flush()
        mark = len(stage.witness.seen())
        stage.wait_outcomes(stage.outcomes() + 100)
        stage.wait_decision("full", after=mark)
    _close(stage, load)
    epochs = {timeline.epoch for timeline in stage.evidence().timelines()[0]}
    assert len(epochs) >= 2
    report.judged(f"Redis flushed, {stage.outage}", 2, stage.violations())


@pytest.mark.parametrize(
    "stage", [{"store_timeout_ms": 1_000, "patience_ms": 5_000, "degrades": False}], indirect=True, ids=["patient"]
)
def test_redis_forgets_its_script(stage: Scene, load: Load, own_redis: RedisServer, report: Report) -> None:
    """As after a failover: the script is sent again, and nobody notices."""
    stage.wait_decision("full")
    with own_redis.client() as client:
        for _ in range(3):
            client.script_flush()
            stage.wait_outcomes(stage.outcomes() + 60)
    _close(stage, load)
    report.judged("SCRIPT FLUSH", 3, stage.violations())


Copy = Callable[[RedisServer], Callable[[], None]]


def _cut_short(server: RedisServer) -> Callable[[], None]:
    """A power cut under appendfsync everysec: the end of the file is missing."""
    server.persist()
    (appended,) = (server.data / "appendonlydir").glob("*.incr.aof")
    kept_bytes = appended.stat().st_size

    def restore() -> None:
        server.kill()
        os.truncate(appended, kept_bytes)
        server.restart()

    return restore


def _restored_copy(server: RedisServer) -> Callable[[], None]:
    """A backup of the data directory, put back by an operator."""
    server.persist()
    files, backup = server.data / "appendonlydir", server.data / "backup"
    shutil.copytree(files, backup)

    def restore() -> None:
        server.kill()
        shutil.rmtree(files)
        shutil.copytree(backup, files)
        server.restart()

    return restore


def _in_place(server: RedisServer) -> Callable[[], None]:
    """All keys set back under a server that goes on: neither a connection nor the server's run id tells of it."""
    with server.client() as client:
        keys = list(client.scan_iter())
        copy = list(zip(keys, client.transaction(lambda pipe: [pipe.dump(key) for key in keys]), strict=True))

    def restore() -> None:
        with server.client() as client, client.pipeline(transaction=True) as pipe:
            pipe.flushall()
            for key, value in copy:
                pipe.restore(key, 0, value)
            pipe.execute()

    return restore


@pytest.mark.parametrize(
    ("copy", "fault"),
    [
        (_cut_short, "Redis restarted without the end of its file"),
        (_restored_copy, "Redis restarted with an older copy"),
        (_in_place, "Redis set back to an older copy while it runs"),
    ],
)
def test_redis_goes_back_in_time(
    stage: Scene, load: Load, own_redis: RedisServer, report: Report, copy: Copy, fault: str
) -> None:
    """What was recorded since is recorded again, under other numbers: the journal contradicts itself nowhere."""
    restore = copy(own_redis)
    stage.wait_outcomes(stage.produced + 200)  # what was produced before may be in the copy, decided or not
    restore()
    mark = len(stage.witness.seen())
    stage.wait_outcomes(stage.outcomes() + 100)
    stage.wait_decision("full", after=mark)
    _close(stage, load)
    assert stage.evidence().lost(), "the state did not go back in time"
    report.judged(fault, 1, stage.violations())


def test_a_worker_cut_off_from_redis_is_taken_over(scene: MakeScene, own_redis: RedisServer, report: Report) -> None:
    """What it decided without features is missing from the state; its heir must notice, though its own link is fine."""
    stage = scene(degrades=True)
    heir = stage.worker("heir")
    heir.wait_for("owns")
    own_redis.kill()
    cut_off = stage.worker("cut-off", redis_url=own_redis.url)
    cut_off.wait_for("owns")
    stage.produce(history(300, seed=9))
    stage.wait_decision("no_features")
    stage.wait_committed()
    cut_off.process.kill()
    stage.produce(history(300, seed=10, first=stage.produced))
    stage.finish()
    report.judged("worker cut off from Redis, taken over", 1, stage.violations())


def _close(stage: Scene, load: Load) -> None:
    load.stop()
    stage.finish()
