"""The harness of the peers at work: process trees are watched and killed whole, and real runs are judged."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from confluent_kafka import Producer

from bench.naive_model import train_naive_model
from bench.peers import kills, latency, saturation, topics, tree
from bench.peers.catalog import FRAUDLINE, Variant, named
from bench.peers.contest import Entry, payments_of, put
from bench.prepare import Prepared, Sizes
from bench.stack import Stack
from consumer.simulator import LABELS_FILE, PAYMENTS_FILE, Simulation, write
from models.train import TrainOptions, train
from tests.faults.conftest import EVERYTHING
from tests.services.kafka import KafkaBroker
from tests.services.redis import RedisServer
from tests.support.page import until

# A parent that ignores SIGTERM, a child in a session of its own with one that works, and one whose parent has ended.
_FAMILY = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
busy = "import time\\nend = time.process_time() + 0.5\\nwhile time.process_time() < end: pass\\ntime.sleep(600)"
apart = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {busy!r}])"
orphan = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])"
subprocess.Popen([sys.executable, "-c", apart], start_new_session=True)
subprocess.run([sys.executable, "-c", orphan])
print("ready", flush=True)
time.sleep(600)
"""
MEMBERS = 4


@pytest.fixture
def parent() -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", _FAMILY], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        # the one in another session starts in its own time
        until(lambda: len(tree.family(process.pid)) >= MEMBERS, "the whole family")
        yield process
    finally:
        tree.kill(process.pid)
        process.communicate()


def test_a_kill_ends_the_whole_family_orphans_included(parent: subprocess.Popen[str]) -> None:
    members = tree.family(parent.pid)
    assert len(members) == MEMBERS
    tree.kill(parent.pid)
    assert not [each for each in members if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
    assert parent.wait() == -signal.SIGKILL
    tree.kill(parent.pid)  # nothing is left to do


def test_a_kill_ends_nobody_else(parent: subprocess.Popen[str]) -> None:
    assert os.getpid() not in {each.pid for each in tree.family(parent.pid)}


def test_a_watch_sees_what_children_use(parent: subprocess.Popen[str]) -> None:
    began_ns = time.time_ns()
    with tree.TreeWatch(parent.pid) as watch:
        until(lambda: watch.total_s >= 0.5 and watch.peak_mib, "half a second of work")
    assert watch.cpu_s(began_ns - 10**9, time.time_ns()) > 0.0
    assert watch.processes == MEMBERS
    assert watch.peak_mib > 3.0


def test_a_follower_counts_what_a_reader_sees_of_transactions_and_tells_when_it_was_appended(
    kafka: KafkaBroker, unique: str
) -> None:
    topics.make(kafka, [unique], stamped=True)
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "transactional.id": unique})
    producer.init_transactions(30.0)

    def transaction(*values: bytes, commit: bool) -> None:
        producer.begin_transaction()
        for value in values:
            producer.produce(unique, value, partition=0)
        producer.flush(30.0)
        (producer.commit_transaction if commit else producer.abort_transaction)(30.0)

    with closing(topics.Follower(kafka, unique)) as follower:
        transaction(b"1", b"2", commit=True)
        transaction(b"none", commit=False)
        until(lambda: follower.count() >= 2, "the first transaction")
        began_ms = time.time_ns() // 1_000_000 + 1
        until(lambda: time.time_ns() // 1_000_000 >= began_ms)
        assert (follower.since(0), follower.since(began_ms)) == (2, 0)
        transaction(b"3", commit=True)
        until(lambda: follower.since(began_ms) >= 1, "the last transaction")
        assert (follower.values, follower.since(began_ms)) == ([b"1", b"2", b"3"], 1)
    assert topics.Progress(kafka, unique).count() == 7  # with the aborted one and three markers
    topics.delete(kafka, [unique])


class Script(topics.Follower):
    """Sees what it is told to, step by step."""

    def __init__(self, *steps: tuple[str, ...]) -> None:
        self.values = []
        self._steps = list(steps)

    def count(self) -> int:
        if self._steps:
            self.values += [b'{"event_id":"%s"}' % each.encode() for each in self._steps.pop(0)]
        return len(self.values)


def test_decisions_that_came_twice_do_not_stand_for_one_that_is_late() -> None:
    follower = Script(("a",), ("a", "a"), (), ("b",))
    kills.await_idle(follower, {"a", "b"}, done_s=0.0, idle_s=60.0)
    assert follower.values[-1] == b'{"event_id":"b"}'


def test_who_has_given_up_is_not_waited_for_forever() -> None:
    follower = Script(("a",))
    kills.await_idle(follower, {"a", "b"}, done_s=60.0, idle_s=0.05)
    assert follower.values == [b'{"event_id":"a"}']


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("prepared")
    sizes = Sizes(history=12_000, training=12_000, primed=1_000)
    write(Simulation(payments=sizes.history, seed=31, days=30, fraud_rate=0.03), folder)
    payments, labels = folder / PAYMENTS_FILE, folder / LABELS_FILE
    train(payments, labels, folder / "bundle", options=TrainOptions(trees=20, depth=4))
    train_naive_model(folder / "naive.ubj", payments, labels, trees=20, depth=4)
    return Prepared(sizes, payments, folder / "bundle", folder / "naive.ubj")


@pytest.fixture
def stack(kafka: KafkaBroker, redis_server: RedisServer, prepared: Prepared, tmp_path: Path) -> Stack:
    return Stack(kafka, redis_server, prepared, tmp_path)


def confluent(variant: Variant) -> Entry:
    """In this environment, which has all that it needs."""
    return Entry(replace(named("confluent"), at_home=True), variant)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["own_batches", "our_batches"] if EVERYTHING else ["our_batches"])
def test_a_peer_that_is_killed_is_judged(stack: Stack, variant: Variant) -> None:
    found = kills.measure(stack, confluent(variant), kills=1, longest_s=20)
    decisions, kept = found["decisions"], found["kept"]
    assert decisions["payments"] > kills.AMID_S[0] * kills.RATE
    assert (decisions["lost"], decisions["unknown"]) == (0, 0)  # it commits what is delivered
    assert kept["missing"] == 0
    assert len(found["back_s"]) == 1
    if variant == "our_batches":
        assert (kept["what"], kept["wrong"], kept["excess"], decisions["differing"]) == ("entity logs", 0, 0, 0)
    else:
        assert kept["what"] == "counters"
    assert not [name for name in stack.kafka.admin.list_topics().topics if name.startswith("kills-")]


@pytest.mark.slow
def test_fraudline_that_is_killed_is_judged_like_a_peer(stack: Stack) -> None:
    found = kills.measure(stack, Entry(FRAUDLINE, "exactly_once"), kills=1, longest_s=20)
    decisions, kept = found["decisions"], found["kept"]
    assert decisions | {"payments": 0} == dict.fromkeys(decisions, 0)
    assert (kept["what"], kept["wrong"], kept["missing"], kept["excess"]) == ("entity logs", 0, 0, 0)


@pytest.mark.slow
def test_a_full_topic_is_emptied_and_measured(stack: Stack, unique: str) -> None:
    topics.make(stack.kafka, [unique], stamped=False)
    put(stack, unique, payments_of(stack, 5_000))
    found = saturation.measure(stack, confluent("own_batches"), unique, 5_000, seconds=60.0)
    assert found["all_decided"]
    assert found["decided"] > 0
    assert found["eps"] == pytest.approx(found["decided"] / found["window_s"])
    assert found["eps_per_cpu_s"] == pytest.approx(found["decided"] / found["cpu_s"])
    assert min(found["cpu_s"], found["peak_mib"], found["processes"], found["first_decision_s"]) > 0
    topics.delete(stack.kafka, [unique])


@pytest.mark.slow
def test_the_open_loop_counts_every_payment_of_its_window(stack: Stack) -> None:
    found: list[dict[str, Any]] = []
    latency.measure(stack, confluent("own_batches"), found, rates=(100, 200), seconds=2)
    assert [(cell["rate"], cell["count"]) for cell in found] == [(100, 200), (200, 400)]
    for cell in found:
        assert cell["missing"] + cell["duplicates"] == 0
        assert 0 < cell["p50_ms"] <= cell["p99_ms"] <= cell["max_ms"]
        assert cell["loadgen"]["undelivered"] == 0


@pytest.mark.slow
def test_a_peer_that_can_not_start_is_told_with_what_it_said(stack: Stack, tmp_path: Path) -> None:
    broken = Stack(stack.kafka, stack.redis, replace(stack.prepared, naive=tmp_path / "none.ubj"), stack.folder)
    with pytest.raises(Exception, match="ended by itself; it said"):
        latency.measure(broken, confluent("per_event"), [], rates=(100,), seconds=1)
