"""After kill -9, rebalances, outages, a flushed Redis and a new model a certificate on the topics says: equal."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from models.policy import Rule
from tests.faults.conftest import EVERYTHING, MakeScene
from tests.faults.payments import history
from tests.faults.report import Report
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


CRASHES = ("after_apply", "after_produce", "in_commit", "after_commit")
KILLS = len(CRASHES) + 1
INVARIANT = "a certificate says equal"


def trouble(stage: Scene, bundles: tuple[Path, Path]) -> None:
    """Crashes at every step, a new model, and a rebalance in which a worker dies."""
    for number, step in enumerate(CRASHES):
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


def unequal(told: dict[str, Any], decisions: int) -> list[str]:
    """What keeps a certificate from saying that so many decisions, all there are, are equal."""
    wrong = {
        "the verdict is not equal": told["verdict"] != "equal",
        "not every decision is equal": told["equal"] != told["decisions"],
        f"it does not count {decisions} decisions": told["equal"] + told["published_again"] != decisions,
        "it does not tell of 4 partitions": len(told["partitions"]) != 4,
        "a partition has other decisions": any(each["published"] != each["replayed"] for each in told["partitions"]),
        "it does not tell of 2 bundles": len(told["bundles"]) != 2,
    }
    return [f"{what}: {told}" for what, is_so in wrong.items() if is_so]


@pytest.mark.parametrize("delivery", ["exactly_once", "at_least_once"] if EVERYTHING else ["exactly_once"])
def test_a_certificate_after_everything_that_went_wrong(
    scene: MakeScene, bundles: tuple[Path, Path], report: Report, delivery: str
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
    assert (told["published_again"] > 0) == (delivery == "at_least_once")
    assert told["payments_without_decision"]["repeated"] > 0
    found = unequal(told, len(stage.witness.seen(stage.topics["decisions"])))
    fault = f"kill -9, a rebalance, another model, Redis flushed and killed, {delivery}"
    report.judged(fault, KILLS + 2, found, INVARIANT)


@pytest.mark.skipif(not EVERYTHING, reason="it takes a minute; `make faults` runs it")
def test_a_certificate_of_several_shards(
    scene: MakeScene, bundles: tuple[Path, Path], redis_cluster: RedisCluster, report: Report
) -> None:
    stage = scene(redis_cluster.url, shards=16)
    stage.produce(history(500, seed=42))
    trouble(stage, bundles)
    stage.finish()
    stage.wait_settled()
    stage.witness.read_to_end()
    found = unequal(stage.certificate(*bundles), len(stage.witness.seen(stage.topics["decisions"])))
    report.judged(f"kill -9, a rebalance, another model, {stage.shards} shards", KILLS, found, INVARIANT)
