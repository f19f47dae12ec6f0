"""On the way to Redis, and in its memory: replies are lost, an older server takes over, there is no room."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.faults.conftest import EVERYTHING, MakeScene
from tests.faults.process import DEADLINE_S
from tests.faults.report import Report
from tests.faults.scene import Load, Scene
from tests.services.redis import RedisServer
from tests.services.redis_proxy import How, RedisProxy

LOST: tuple[How, ...] = ("cut", "silent")


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer() as made:
        yield made


@pytest.fixture
def wire(server: RedisServer) -> Iterator[RedisProxy]:
    with RedisProxy(server.ports[0]) as made:
        yield made


def begun(scene: MakeScene, url: str, outage: str = "degrade") -> Scene:
    stage = scene(url, patience_ms=200, store_timeout_ms=100, outage=outage, degrades=True)
    stage.worker().wait_for("owns")
    return stage


@pytest.mark.parametrize("outage", ["degrade", "pause"] if EVERYTHING else ["degrade"])
@pytest.mark.parametrize("how", LOST if EVERYTHING else LOST[:1])
def test_a_batch_whose_reply_is_lost_was_applied_once(
    scene: MakeScene, wire: RedisProxy, report: Report, how: How, outage: str
) -> None:
    """The worker can't know that its records are in the state: it asks, and sends none of them a second time."""
    stage, times = begun(scene, wire.url, outage), 5
    with Load(stage):
        stage.wait_decision("full")
        for _ in range(times):
            wire.lose_reply(b"EXEC", how)
            stage.wait_decision("full", after=len(stage.witness.seen()))
    stage.finish()
    report.judged(f"Redis applied a batch and its reply was lost ({how}), {outage}", times, stage.violations())


def test_a_replica_that_lags_takes_over(scene: MakeScene, server: RedisServer, report: Report) -> None:
    """What it lacks is recorded again, in a new epoch; no decision rests on less than the whole history."""
    with ExitStack() as stack:
        replica = stack.enter_context(RedisServer())
        wire = stack.enter_context(RedisProxy(server.ports[0]))
        stage = begun(scene, wire.url)
        with Load(stage):
            stage.wait_decision("full")
            follow(replica, server)
            with replica.client() as client:
                client.replicaof("127.0.0.1", "1")  # the link breaks: from here on it lacks what is written
                stage.wait_outcomes(stage.outcomes() + 200)
                server.kill()
                client.replicaof("NO", "ONE")
            wire.lead_to(replica.ports[0])
            stage.wait_decision("full", after=len(stage.witness.seen()))
        stage.finish()
        assert stage.evidence().lost(), "the replica lacked nothing"
        report.judged("a replica that lags is promoted", 1, stage.violations())


def follow(replica: RedisServer, primary: RedisServer) -> None:
    """Make it a replica, and wait until it has what there is; nobody tells when."""
    deadline, pause = time.monotonic() + DEADLINE_S, threading.Event()
    with replica.client() as client:
        client.replicaof("127.0.0.1", str(primary.ports[0]))
        while client.info("replication")["master_link_status"] != "up":
            assert time.monotonic() < deadline, "the replica never followed"
            pause.wait(0.02)


def test_redis_runs_out_of_memory_under_load(scene: MakeScene, server: RedisServer, report: Report) -> None:
    """A batch that finds no room is in no log at all: payments go without features until there is room again."""
    stage, times = begun(scene, server.url), 2
    with Load(stage), server.client() as client:
        stage.wait_decision("full")
        for _ in range(times):
            client.config_set("maxmemory", client.info("memory")["used_memory"] // 2)
            stage.wait_decision("no_features", after=len(stage.witness.seen()))
            client.config_set("maxmemory", 0)
            stage.wait_decision("full", after=len(stage.witness.seen()))
    stage.finish()
    report.judged("Redis out of memory under load", times, stage.violations())
