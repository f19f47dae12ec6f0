"""Answers get lost and the way to the broker gets stuck: what was carried out, unheard, is not done a second time."""

from __future__ import annotations

import pytest

from tests.faults.conftest import EVERYTHING, MakeScene
from tests.faults.payments import history
from tests.faults.report import Report
from tests.services.proxy import Api, KafkaProxy

COMMITS = ((Api.END_TXN, "exactly_once"), (Api.OFFSET_COMMIT, "at_least_once"))
ANSWERS = (
    (Api.END_TXN, "exactly_once"),
    (Api.PRODUCE, "exactly_once"),  # after which the client's own call for offsets was seen never to come back
)
EVERY_ANSWER = (
    *ANSWERS,
    (Api.OFFSET_COMMIT, "at_least_once"),
    (Api.INIT_PRODUCER_ID, "exactly_once"),
    (Api.ADD_PARTITIONS_TO_TXN, "exactly_once"),
    (Api.TXN_OFFSET_COMMIT, "exactly_once"),
    (Api.PRODUCE, "at_least_once"),
)
PATIENCE_MS = 2_000


@pytest.mark.parametrize(("api", "delivery"), EVERY_ANSWER if EVERYTHING else ANSWERS)
def test_an_answer_is_lost_and_its_connection_with_it(
    scene: MakeScene, kafka_proxy: KafkaProxy, report: Report, api: Api, delivery: str
) -> None:
    """The client asks again, over a new connection, for what the broker has done already."""
    stage = scene(delivery=delivery, settings={"kafka": {"request_timeout_ms": PATIENCE_MS}})
    kafka_proxy.lose_answers(api, times=1)
    worker = stage.worker(proxy=kafka_proxy)
    stage.produce(history(200, seed=51))
    kafka_proxy.wait_lost(api, 1)
    if api is not Api.INIT_PRODUCER_ID:  # which is asked for once
        for number in (2, 3):
            stage.wait_outcomes(stage.outcomes() + 20)
            kafka_proxy.lose_answers(api, times=1)
            stage.produce(history(200, seed=51 + number, first=stage.produced))
            kafka_proxy.wait_lost(api, number)
    stage.finish()
    assert worker.process.returncode == 0
    report.judged(f"answers to {api.name} lost, {delivery}", kafka_proxy.lost(api), stage.violations())


@pytest.mark.parametrize(("api", "delivery"), COMMITS if EVERYTHING else COMMITS[:1])
def test_a_commit_whose_outcome_is_never_heard_is_not_repeated(
    scene: MakeScene, kafka_proxy: KafkaProxy, report: Report, api: Api, delivery: str
) -> None:
    """Every answer is lost until the worker gives the commit up, though the broker had carried it out at once."""
    stage = scene(delivery=delivery, settings={"kafka": {"request_timeout_ms": PATIENCE_MS}})
    worker = stage.worker(proxy=kafka_proxy)
    worker.wait_for("owns")
    stage.produce(history(200, seed=54))
    stage.wait_outcomes(20)
    kafka_proxy.lose_answers(api, times=1_000_000)
    stage.produce(history(200, seed=55, first=stage.produced))
    worker.wait_for("unready")
    kafka_proxy.lose_answers(api, times=0)
    stage.finish()
    lost = kafka_proxy.lost(api)
    assert lost > 0
    report.judged(f"no answer to {api.name} until it is given up, {delivery}", lost, stage.violations())


@pytest.mark.parametrize("delivery", ("exactly_once", "at_least_once") if EVERYTHING else ("exactly_once",))
def test_the_way_to_the_broker_is_stuck_for_longer_than_a_request_may_take(
    scene: MakeScene, kafka_proxy: KafkaProxy, report: Report, delivery: str
) -> None:
    """Another takes over meanwhile; what was under way arrives after that, late and in order."""
    stage = scene(delivery=delivery, settings={"kafka": {"request_timeout_ms": PATIENCE_MS}})
    stuck = stage.worker("stuck", proxy=kafka_proxy)
    stuck.wait_for("owns")
    stage.produce(history(600, seed=56))
    stage.wait_outcomes(20)
    kafka_proxy.hold()
    stuck.wait_for("unready")
    heir = stage.worker("heir")
    heir.wait_for("owns")
    stage.produce(history(200, seed=57, first=stage.produced))
    stage.wait_outcomes(stage.outcomes() + 50)
    kafka_proxy.release()
    stage.finish()
    report.judged(f"the way to the broker stuck, take-over, {delivery}", 1, stage.violations())


def test_offsets_whose_commit_is_stuck_are_given_up(scene: MakeScene, kafka_proxy: KafkaProxy, report: Report) -> None:
    """The client's own call would wait until the session is over, or a minute, and the worker with it."""
    patience = {"request_timeout_ms": PATIENCE_MS, "session_timeout_ms": 100_000, "max_poll_interval_ms": 120_000}
    stage = scene(delivery="at_least_once", settings={"kafka": patience})
    worker = stage.worker(proxy=kafka_proxy)
    worker.wait_for("owns")
    stage.produce(history(200, seed=58))
    stage.wait_outcomes(20)
    kafka_proxy.hold(Api.OFFSET_COMMIT)
    stage.produce(history(200, seed=59, first=stage.produced))
    worker.wait_for("unready")
    kafka_proxy.release()
    stage.finish()
    report.judged("commits of offsets stuck, at_least_once", 1, stage.violations())
