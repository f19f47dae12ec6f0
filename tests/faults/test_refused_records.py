"""The broker refuses what is produced, or takes nothing for a while: decisions wait; none is lost or repeated."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from tests.faults.conftest import EVERYTHING, LIKE_ANOTHER, MakeScene
from tests.faults.payments import Record, history
from tests.faults.report import Report
from tests.faults.scene import DEADLINE_S, Scene
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
    _limit_bytes(kafka, stage.topics[role], 100)
    stage.produce(history(300, seed=72, first=stage.produced))
    worker.wait_for("unready")
    _limit_bytes(kafka, stage.topics[role], None)
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


def _limit_bytes(kafka: KafkaBroker, topic: str, limit: int | None) -> None:
    """Let a topic take batches up to a size, or with None up to the broker's."""
    kind = AlterConfigOpType.DELETE if limit is None else AlterConfigOpType.SET
    entry = ConfigEntry("max.message.bytes", "" if limit is None else str(limit), incremental_operation=kind)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    for future in kafka.admin.incremental_alter_configs([resource]).values():
        future.result(DEADLINE_S)


def large(count: int) -> list[Record]:
    """Records that are no payments, each of which comes to a dead letter of 300 kB."""
    return [Record(number % 4, b"card-0", b"x" * 300_000) for number in range(count)]


def _filled(scene: MakeScene, delivery: str) -> Scene:
    """A scene whose workers hold 2 MiB of what is not acknowledged, and whose batches come to 6 MB."""
    return scene(
        delivery=delivery,
        settings={"kafka": {"producer_queue_kb": 2_048, "request_timeout_ms": 2_000}, "processing": {"linger_ms": 100}},
    )


@pytest.mark.parametrize("delivery", ("exactly_once", "at_least_once") if EVERYTHING else ("exactly_once",))
def test_a_full_queue_of_the_producer_slows_the_worker_and_nothing_else(
    scene: MakeScene, report: Report, delivery: str
) -> None:
    stage = _filled(scene, delivery)
    stage.produce([*history(100, seed=73), *large(60), *history(100, seed=74, first=100)])
    stage.worker()
    stage.finish()
    report.judged(f"the producer's queue full, {delivery}", 1, stage.violations())


@pytest.mark.parametrize("delivery", ("exactly_once", "at_least_once") if EVERYTHING else ("exactly_once",))
def test_a_queue_that_stays_full_is_given_up_with_its_producer(
    scene: MakeScene, kafka_proxy: KafkaProxy, report: Report, delivery: str
) -> None:
    stage = _filled(scene, delivery)
    worker = stage.worker(proxy=kafka_proxy)
    worker.wait_for("owns")
    stage.produce(history(100, seed=75))
    stage.wait_outcomes(20)
    kafka_proxy.hold(Api.PRODUCE)
    stage.produce([*large(60), *history(100, seed=76, first=100)])
    worker.wait_for("unready")
    kafka_proxy.release()
    stage.finish()
    report.judged(f"the producer's queue stays full, {delivery}", 1, stage.violations())
