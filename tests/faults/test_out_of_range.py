"""What the group's offsets point at is no longer in Kafka: the worker says so and ends; it skips nothing by itself."""

from __future__ import annotations

import signal

import pytest
from confluent_kafka import TopicPartition

from tests.faults.conftest import MakeScene
from tests.faults.payments import PARTITIONS, history
from tests.faults.process import DEADLINE_S, Worker
from tests.faults.report import Report
from tests.faults.scene import Scene
from tests.services.kafka import KafkaBroker

INVARIANT = "one sentence, exit status 1, nothing skipped"
PATIENCE_MS = 3_000


@pytest.fixture
def stage(scene: MakeScene) -> Scene:
    """A scene whose workers have little patience, and a history for them."""
    made = scene(settings={"kafka": {"max_poll_interval_ms": PATIENCE_MS}})
    made.produce(history(200, seed=91))
    return made


def test_retention_has_passed_the_committed_offsets(stage: Scene, kafka: KafkaBroker, report: Report) -> None:
    stage.worker()
    stage.finish()
    decided, committed = stage.outcomes(), stage.committed()
    stage.produce(history(200, seed=92, first=stage.produced))
    _delete(stage, kafka)
    worker = stage.worker()
    worker.wait_exit()
    report.judged("offsets deleted before the start", 1, _told(stage, worker, decided, committed), INVARIANT)


def test_retention_passes_a_worker_that_stands_still(stage: Scene, kafka: KafkaBroker, report: Report) -> None:
    worker = stage.worker()
    stage.wait_committed()
    stage.wait_journaled()
    worker.send(signal.SIGSTOP)
    decided, committed = stage.outcomes(), stage.committed()
    stage.produce(history(200, seed=92, first=stage.produced))
    _delete(stage, kafka)
    worker.send(signal.SIGCONT)
    worker.wait_exit()
    report.judged("offsets deleted under a worker", 1, _told(stage, worker, decided, committed), INVARIANT)


def _delete(stage: Scene, kafka: KafkaBroker) -> None:
    """Delete the first half of what was not decided yet."""
    ends = stage.ends()
    until = [
        TopicPartition(topic, number, (offset + ends[topic, number] + 1) // 2)
        for (topic, number), offset in stage.committed().items()
        if topic == stage.topics["payments"]
    ]
    assert len(until) == PARTITIONS
    for future in kafka.admin.delete_records(until).values():
        future.result(DEADLINE_S)


def _told(stage: Scene, worker: Worker, decided: int, committed: dict[tuple[str, int], int]) -> list[str]:
    """What is wrong with how it ended."""
    said = worker.said("error")
    stage.witness.read_to_end()
    found = [] if worker.process.returncode == 1 else [f"the exit status is {worker.process.returncode}"]
    if len(said) != 1 or "reset the group's offsets" not in said[0] or stage.topics["payments"] not in said[0]:
        found.append(f"it said {said}")
    if stage.outcomes() != decided:
        found.append(f"{stage.outcomes() - decided} records beyond the hole were decided")
    if stage.committed() != committed:
        found.append(f"offsets moved from {committed} to {stage.committed()}")
    return found
