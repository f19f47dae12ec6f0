"""The first test of the design: random trouble, real state code, a model broker; on both stores."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import structlog

from features.catalog import Limits
from tests.contracts.calls import T0, T1, Record, apply, epochs_of, opened, span
from tests.services.redis import RedisServer
from tests.simulation import Plan, run
from tests.simulation_stores import MemoryBackend, RedisBackend

HISTORIES = int(os.environ.get("SIMULATION_HISTORIES", "0"))
FIRST = int(os.environ.get("SIMULATION_FIRST", "0"))


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """The state keeper tells of every doubt; hundreds of histories have thousands."""
    with structlog.testing.capture_logs():
        yield


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    """One of their own: the histories look into their logs with scans, which other tests' keys would slow down."""
    with RedisServer() as server:
        yield server


def report(failures: dict[int, list[str]], histories: int) -> str:
    lines = [f"seed {seed}: {wrong[0]}" for seed, wrong in list(failures.items())[:10]]
    return "\n".join([f"{len(failures)} of {histories} histories violate an invariant", *lines])


def test_random_histories_on_the_memory_store() -> None:
    seeds = range(FIRST, FIRST + (HISTORIES or 250))
    failures = {seed: wrong for seed in seeds if (wrong := run(Plan.of(seed), MemoryBackend))}
    assert not failures, report(failures, len(seeds))


def test_random_histories_on_redis(redis_server: RedisServer, unique: str) -> None:
    seeds = range(FIRST, FIRST + (HISTORIES or 40))
    failures: dict[int, list[str]] = {}
    with redis_server.client() as client:
        for seed in seeds:
            made: list[RedisBackend] = []

            def backend(
                shards: int, limits: Limits, name: str = f"{unique}{seed}", made: list[RedisBackend] = made
            ) -> RedisBackend:
                made.append(RedisBackend(redis_server.url, client, name, shards, limits))
                return made[-1]

            if wrong := run(Plan.of(seed), backend):
                failures[seed] = wrong
            made[0].close()
    assert not failures, report(failures, len(seeds))


@pytest.mark.parametrize("shards", [1, 3])
def test_a_state_that_went_back_in_time_names_no_two_payments_alike(shards: int) -> None:
    """A replay that follows the journal would find two payments under one (epoch, sequence)."""
    backend = MemoryBackend(shards, Limits())
    store = backend.connect()
    epochs = opened(store, T0, T1)
    copy = backend.snapshot()
    published = apply(store, epochs, [Record(0)])
    backend.restore(copy)
    backend.sever()
    again = apply(store, epochs_of(store), [Record(0, partition=1)], span(0, 1, partition=1))
    for first, second in zip(published.applied, again.applied, strict=True):
        assert [run.sequence for run in first.runs[0]] == [run.sequence for run in second.runs[0]]
        assert [run.epoch for run in first.runs[0]] != [run.epoch for run in second.runs[0]]
