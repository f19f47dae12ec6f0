"""The broker refuses what is produced, or takes nothing for a while: decisions wait; none is lost or repeated."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError

from tests.faults.conftest import EVERYTHING, LIKE_ANOTHER, MakeScene
from tests.faults.payments import PARTITIONS, Record, history
from tests.faults.process import Worker
from tests.faults.report import Report
from tests.faults.scene import Scene
from tests.faults.worker import Fault
from tests.services.kafka import KafkaBroker
from tests.services.proxy import Api, KafkaProxy

PLACES = (("decisions", "at_least_once"),)
EVERY_PLACE = (*PLACES, ("decisions", "exactly_once"), ("journal", "at_least_once"), ("alerts", "exactly_once"))
SETTINGS = {"kafka": {"request_timeout_ms": 1_500}}


@pytest.mark.parametrize(("role", "delivery"), EVERY_PLACE if EVERYTHING else PLACES)
def test_what_a_topic_finds_too_large_for_a_while_is_published_once_it_takes_it(
    scene: MakeScene, kafka: KafkaBroker, report: Report, role: str, delivery: str
) -> None:
    """An error that no retry of the client cures."""
    stage = scene(delivery=delivery, settings=SETTINGS)
    worker = stage.worker()
    worker.wait_for("owns")
    stage.produce(history(200, seed=71))
    stage.wait_outcomes(20)
    kafka.limit_bytes(stage.topics[role], 100)
    stage.produce(history(300, seed=72, first=stage.produced))
    worker.wait_for("unready")
    kafka.limit_bytes(stage.topics[role], None)
    stage.finish()
    report.judged(f"{role} refused as too large, {delivery}", 1, stage.violations())


@LIKE_ANOTHER
@pytest.mark.parametrize("delivery", ["exactly_once", "at_least_once"])
def test_while_replicas_are_missing_decisions_wait(
    scene: MakeScene, kafka_proxy: KafkaProxy, report: Report, delivery: str
) -> None:
    """An error that the client meets by trying again, for longer than the worker has patience."""
    stage = scene(delivery=delivery, settings=SETTINGS)
    worker = stage.worker(proxy=kafka_proxy)
    worker.wait_for("owns")
    stage.produce(history(200, seed=77))
    stage.wait_outcomes(20)
    kafka_proxy.refuse(stage.topics["decisions"], KafkaError.NOT_ENOUGH_REPLICAS)
    stage.produce(history(300, seed=78, first=stage.produced))
    worker.wait_for("unready")
    kafka_proxy.accept()
    stage.finish()
    report.judged(f"decisions refused with NOT_ENOUGH_REPLICAS, {delivery}", 1, stage.violations())


FETCHES = 60  # by then a worker holds all that was produced before them, which each may bring up to 1 MB a partition of


def _filled(scene: MakeScene, proxy: KafkaProxy, delivery: str, patience_ms: int) -> tuple[Scene, Worker]:
    """A worker that is about to take a batch of 6 MB, of which its producer holds 2 MiB; and nothing is taken from it.

    It is stuck behind a batch, with the next one in its memory already; `patience_ms` is that of its clients.
    """
    settings = {"producer_queue_kb": 2_048, "request_timeout_ms": patience_ms}
    stage = scene(delivery=delivery, settings={"kafka": settings})
    worker = stage.worker(proxy=proxy, fault=Fault("after_commit", 1, "STUCK"))
    worker.wait_for("owns")
    stage.produce(history(1, seed=73))
    worker.wait_for("stopping")
    stage.produce([Record(number % PARTITIONS, b"card-0", b"x" * 300_000) for number in range(20)])
    proxy.wait_asked(Api.FETCH, FETCHES)
    proxy.hold(Api.PRODUCE)
    worker.go_on()
    return stage, worker


def _given_up(worker: Worker) -> int:
    """How often a batch was, because the queue stayed full."""
    return sum("queue stays full" in each["error"] for each in worker.logged("batch_failed"))


@pytest.mark.parametrize("delivery", ("exactly_once", "at_least_once") if EVERYTHING else ("exactly_once",))
def test_a_full_queue_of_the_producer_slows_the_worker_and_nothing_else(
    scene: MakeScene, kafka_proxy: KafkaProxy, report: Report, delivery: str
) -> None:
    stage, worker = _filled(scene, kafka_proxy, delivery, patience_ms=20_000)
    worker.wait_inside("_produce_when_there_is_room")
    kafka_proxy.release()
    stage.finish()
    assert worker.logged("batch_failed") == []
    report.judged(f"the producer's queue full, {delivery}", 1, stage.violations())


@pytest.mark.parametrize("delivery", ("exactly_once", "at_least_once") if EVERYTHING else ("exactly_once",))
def test_a_queue_that_stays_full_is_given_up_with_its_producer(
    scene: MakeScene, kafka_proxy: KafkaProxy, report: Report, delivery: str
) -> None:
    stage, worker = _filled(scene, kafka_proxy, delivery, patience_ms=2_000)
    worker.wait_until(lambda: _given_up(worker) > 0, "a batch to be given up because the queue stays full")
    kafka_proxy.release()
    stage.finish()
    report.judged(f"the producer's queue stays full, {delivery}", _given_up(worker), stage.violations())
