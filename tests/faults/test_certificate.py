"""After kill -9, rebalances, outages, a flushed Redis and a new model a certificate on the topics says: equal."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from models.policy import Rule
from tests.faults.conftest import EVERYTHING, MakeScene
from tests.faults.payments import history
from tests.faults.scene import Load, Scene
from tests.faults.worker import Fault
from tests.services.redis import RedisServer
from tests.services.redis_cluster import RedisCluster
from tests.support.bundles import make_bundle

RULES = (Rule("big", "amount_minor > 30000 and card_count_24h >= 2", "review", "A large amount, and not the first."),)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    make_bundle(folder / "one", rules=RULES, review=0.5, block=0.8, trees=60, noise=0.4)
    make_bundle(folder / "two", seed=5, review=0.4, rules=RULES, version="2", trees=30, noise=0.4)
    return folder / "one", folder / "two"


def trouble(stage: Scene, bundles: tuple[Path, Path]) -> None:
    """Crashes at every step, a new model, and a rebalance in which a worker dies."""
    for number, step in enumerate(("after_apply", "after_produce", "in_commit", "after_commit")):
        worker = stage.worker(fault=Fault(step, 3), bundle=bundles[number // 2])
        assert worker.wait_exit() == -signal.SIGKILL, worker.story()
    first = stage.worker("a", bundle=bundles[1])
    first.wait_for("owns")
    with Load(stage):
        stage.wait_outcomes(stage.outcomes() + 100)
        other = stage.worker("b", bundle=bundles[1])
        other.wait_for("owns")
        stage.wait_outcomes(stage.outcomes() + 100)
        other.process.kill()
        assert other.wait_exit() == -signal.SIGKILL, other.story()
        stage.wait_outcomes(stage.outcomes() + 100)


def equal(told: dict[str, Any], decisions: int) -> None:
    assert told["verdict"] == "equal", told
    assert told["equal"] == told["decisions"]
    assert told["equal"] + told["published_again"] == decisions
    assert len(told["partitions"]) == 4
    assert all(each["published"] == each["replayed"] for each in told["partitions"])
    assert len(told["bundles"]) == 2


@pytest.mark.parametrize("delivery", ["exactly_once", "at_least_once"] if EVERYTHING else ["exactly_once"])
def test_a_certificate_after_everything_that_went_wrong(
    scene: MakeScene, bundles: tuple[Path, Path], delivery: str
) -> None:
    with RedisServer() as redis:
        stage = scene(redis.url, delivery=delivery, patience_ms=400, store_timeout_ms=100)
        stage.produce(history(600, seed=41))
        trouble(stage, bundles)
        stage.wait_committed()  # what was applied and then lost before anybody journaled it could not be verified
        redis.flush()
        with Load(stage):
            stage.wait_decision("full", after=len(stage.witness.seen()))
            redis.kill()
            stage.wait_decision("no_features", after=len(stage.witness.seen()))
            redis.restart()
            stage.wait_decision("full", after=len(stage.witness.seen()))
        stage.finish()
        told = stage.certificate(*bundles)
    equal(told, len(stage.witness.seen(stage.topics["decisions"])))
    assert (told["published_again"] > 0) == (delivery == "at_least_once")
    assert told["payments_without_decision"]["repeated"] > 0


@pytest.mark.skipif(not EVERYTHING, reason="it takes a minute; `make faults` runs it")
def test_a_certificate_of_several_shards(
    scene: MakeScene, bundles: tuple[Path, Path], redis_cluster: RedisCluster
) -> None:
    stage = scene(redis_cluster.url, shards=16)
    stage.produce(history(500, seed=42))
    trouble(stage, bundles)
    stage.finish(recorded=False)
    stage.wait_settled()
    stage.witness.read_to_end()
    equal(stage.certificate(*bundles), len(stage.witness.seen(stage.topics["decisions"])))
