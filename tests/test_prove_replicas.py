"""The processors of a proof on a real Kafka and Redis: who died, and who took over from whom."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from consumer.prove.faults import is_replaced_while_stopped
from consumer.prove.names import settings_of
from consumer.prove.promises import judged
from consumer.prove.replicas import Replicas, last_given
from consumer.prove.resources import Resources
from consumer.prove.run import prove
from consumer.prove.worker import Ended, until
from features.errors import ConfigError
from tests.faults.conftest import EVERYTHING
from tests.test_prove import DEADLINE_S, Plant, bundle, plant

__all__ = ["bundle", "plant"]


@pytest.fixture
def replicas(plant: Plant) -> Iterator[Replicas]:
    """Nobody works yet; the topics are there."""
    settings = settings_of(plant.run, plant.settings())
    resources = Resources(plant.run, settings)
    with closing(resources):
        resources.make(plant.settings().topics.payments, processors=1)
        with closing(Replicas(plant.run, settings, None)) as made:
            yield made
        resources.remove()


def test_a_stop_counts_only_if_others_were_given_every_partition_meanwhile(replicas: Replicas) -> None:
    replicas.start("a")
    assert not is_replaced_while_stopped(replicas, "a", 0.1)
    assert replicas.workers["a"].lives
    replicas.start("b")
    assert until(lambda: set(replicas.owners().values()) == {"a", "b"}, DEADLINE_S)
    assert is_replaced_while_stopped(replicas, "b", DEADLINE_S)
    replicas.drain_all()
    assert [each.status for each in replicas.ended] == [0, 0]


def test_a_processor_that_ends_by_itself_is_noted_and_does_not_end_the_proof(plant: Plant) -> None:
    settings = settings_of(plant.run, plant.settings())
    replicas = Replicas(plant.run, settings, Path("/none/such.toml"))
    with closing(replicas):
        replicas.begin("a")
        replicas.begin("b")
        assert not replicas.gets_to_work("a")
        assert list(replicas.workers) == ["b"]
        assert replicas.ended == [Ended("a", "", 2)]
        with pytest.raises(ConfigError):  # but who is there first has to get to work
            replicas.start("c")


def test_a_processor_that_hangs_is_killed_and_noted_and_does_not_end_the_proof(plant: Plant, tmp_path: Path) -> None:
    config = tmp_path / "fraudline.toml"
    os.mkfifo(config)  # whoever reads it waits for somebody who writes
    replicas = Replicas(plant.run, settings_of(plant.run, plant.settings()), config)
    with closing(replicas):
        hung = replicas.begin("a")
        replicas.begin("b")
        assert not replicas.gets_to_work("a", 2.0)
        assert not hung.lives
        assert list(replicas.workers) == ["b"]
        assert replicas.ended == [Ended("a", "", -signal.SIGKILL, is_stuck=True)]
        replicas.begin("a")  # and somebody else may take its place


def test_partitions_are_of_whoever_was_given_them_last() -> None:
    def given(second: str, *partitions: str) -> str:
        told = ", ".join(f'"{each}": 5' for each in partitions)
        return (
            f'{{"event": "partitions_assigned", "partitions": {{{told}}}, "timestamp": "2026-01-01T00:00:{second}Z"}}'
        )

    first = ["error: no JSON", given("01.5", "p/0", "p/1"), given("09", "p/2")]
    second = [given("05", "p/1"), given("04", "p/0"), given("06")]
    later = [given("04.25", "p/0")]
    assert last_given([("a", first), ("b", second), ("a", later)]) == {"p/0": "a", "p/1": "b", "p/2": "a"}


@pytest.mark.faults
@pytest.mark.skipif(not EVERYTHING, reason="it takes a minute; `make faults` runs it")
def test_a_replacement_that_ends_by_itself_after_a_kill_breaks_the_promise(plant: Plant, tmp_path: Path) -> None:
    config = tmp_path / "fraudline.toml"
    config.write_text("")

    def tell(text: str) -> None:
        if text.startswith("kill -9"):
            config.unlink()

    asked = replace(plant.asked(), config=config, faults=True)
    evidence = prove(plant.run, plant.settings(), asked, tell)
    verdicts = {promise.id: verdict for promise, verdict in judged(evidence)}
    assert verdicts["kill"].status == verdicts["drain"].status == "broken"
    [said] = {example for example in verdicts["kill"].examples if "by itself" in example}
    assert said.endswith("ended by itself, with status 2")
    assert verdicts["outcome"].status == "held", verdicts["outcome"]
    assert evidence.stalls == 1
    assert plant.left() == []
