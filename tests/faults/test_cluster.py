"""A Redis Cluster changes under the processor's feet: slots move, primaries hand over, one dies."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from features.event import LAYOUT_VERSION
from tests.faults.check import Evidence, Law, violations
from tests.faults.conftest import MakeScene
from tests.faults.payments import Record, history
from tests.faults.process import DEADLINE_S
from tests.faults.report import Report
from tests.faults.scene import Scene
from tests.services.reader import Seen
from tests.services.redis_cluster import RedisCluster

SHARDS = 16


def of_one_partition(count: int, seed: int, first: int = 0) -> list[Record]:
    """Payments alone, all in one partition: so every shard records them in the same order, under the same numbers."""
    return [replace(each, partition=0) for each in history(count, seed, first) if not each.is_label]


def as_one_shard(evidence: Evidence) -> Evidence:
    """The journals of all shards as that of one, which tells an order only if none contradicts another."""

    def in_epoch_1(record: Seen, document: dict[str, object]) -> Seen:
        return replace(record, value=json.dumps(document).encode())

    journal = [(record, json.loads(record.value or b"")) for record in evidence.journal]
    decisions = [(record, json.loads(record.value or b"")) for record in evidence.decisions]
    for _, decision in decisions:
        if decision["state"] is not None:
            decision["state"]["epoch"] = 1
    return replace(
        evidence,
        journal=[in_epoch_1(record, entry | {"epoch": 1}) for record, entry in journal if entry["count"]],
        decisions=[in_epoch_1(record, decision) for record, decision in decisions],
    )


def hand_over(cluster: RedisCluster, _meta: str) -> None:
    for primary in cluster.primaries():
        cluster.fail_over(primary)


def move(cluster: RedisCluster, meta: str) -> None:
    for _ in range(3):
        cluster.move_slot(meta)


def die(cluster: RedisCluster, meta: str) -> None:
    cluster.primary_of(meta).kill()
    cluster.await_served()
    cluster.heal()


@pytest.mark.parametrize("change", [hand_over, move, die])
def test_the_cluster_changes_and_nothing_is_lost_or_doubled(
    scene: MakeScene, redis_cluster: RedisCluster, report: Report, change: Callable[[RedisCluster, str], None]
) -> None:
    stage = scene(redis_cluster.url, shards=SHARDS, patience_ms=200)
    stage.worker().wait_for("owns")
    stage.produce(of_one_partition(300, seed=21))
    stage.wait_decision("full")
    change(redis_cluster, f"{stage.group}:{LAYOUT_VERSION}:{{s3}}:meta")
    stage.produce(of_one_partition(300, seed=22, first=300))
    mark = len(stage.witness.seen(stage.topics["decisions"]))
    for first in range(600, 10_000, 20):  # until one is decided with features again
        stage.produce(of_one_partition(20, seed=first, first=first))
        stage.wait_committed()
        since = stage.witness.seen(stage.topics["decisions"])[mark:]
        if any(b'"tier":"full"' in (each.value or b"") for each in since):
            break
    found = _judged(stage)
    report.judged(f"cluster: {change.__name__.replace('_', ' ')}, under load", 1, found)


def _judged(stage: Scene) -> list[str]:
    """Wait until every payment is in the state, end the worker, and judge."""
    stage.wait_committed()
    deadline = time.monotonic() + DEADLINE_S
    while missing := as_one_shard(stage.evidence()).unrecorded():
        assert time.monotonic() < deadline, f"{missing} records have no order: {stage.stories()}"
    stage.finish(recorded=False)
    return violations(as_one_shard(stage.evidence()), Law(exactly_once=True))
