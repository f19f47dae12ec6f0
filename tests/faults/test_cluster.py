"""A Redis Cluster changes under the processor's feet while payments come: slots move, primaries hand over, one dies."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from features.event import LAYOUT_VERSION
from tests.faults.conftest import MakeScene
from tests.faults.payments import history
from tests.faults.report import Report
from tests.faults.scene import Load, Scene
from tests.services.redis_cluster import RedisCluster

SHARDS = 16
SOME = 40  # outcomes: more than one batch, so that some are decided in the midst of a change


def some_more(stage: Scene) -> None:
    """Return when payments have gone on for a while."""
    stage.wait_outcomes(stage.outcomes() + SOME)


def hand_over(stage: Scene, cluster: RedisCluster, _meta: str) -> int:
    primaries = cluster.primaries()
    for primary in primaries:
        cluster.fail_over(primary)
        some_more(stage)
    return len(primaries)


def move(stage: Scene, cluster: RedisCluster, meta: str) -> int:
    times = 3
    for _ in range(times):
        cluster.move_slot(meta, halfway=lambda: some_more(stage))
        some_more(stage)
    return times


def die(stage: Scene, cluster: RedisCluster, meta: str) -> int:
    cluster.primary_of(meta).kill()
    stage.wait_decision("no_features", after=len(stage.witness.seen()))
    cluster.await_served()
    cluster.heal()
    return 1


@pytest.mark.parametrize("change", [hand_over, move, die])
def test_the_cluster_changes_and_nothing_is_lost_or_doubled(
    scene: MakeScene, redis_cluster: RedisCluster, report: Report, change: Callable[[Scene, RedisCluster, str], int]
) -> None:
    """Each shard is judged by its own journal: a record has to be in that of every shard that has a log of it."""
    stage = scene(redis_cluster.url, shards=SHARDS, patience_ms=200, degrades=True)
    stage.worker().wait_for("owns")
    stage.produce(history(200, seed=21))
    with Load(stage):
        stage.wait_decision("full")
        times = change(stage, redis_cluster, f"{stage.group}:{LAYOUT_VERSION}:{{s3}}:meta")
        stage.wait_decision("full", after=len(stage.witness.seen()))
    stage.finish()
    report.judged(f"cluster: {change.__name__.replace('_', ' ')}, under load", times, stage.violations())
