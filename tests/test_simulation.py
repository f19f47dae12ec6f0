"""The first test of the design: random trouble, real state code, a model broker; on both stores."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import structlog

from tests.services.redis import RedisServer
from tests.simulation import Plan, run
from tests.simulation_model import MemoryBackend, RedisBackend

HISTORIES = int(os.environ.get("SIMULATION_HISTORIES", "0"))


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """The state keeper tells of every doubt; hundreds of histories have thousands."""
    with structlog.testing.capture_logs():
        yield


def report(failures: dict[int, list[str]], histories: int) -> str:
    lines = [f"seed {seed}: {wrong[0]}" for seed, wrong in list(failures.items())[:10]]
    return "\n".join([f"{len(failures)} of {histories} histories violate an invariant", *lines])


def test_random_histories_on_the_memory_store() -> None:
    histories = HISTORIES or 300
    failures = {seed: wrong for seed in range(histories) if (wrong := run(Plan.of(seed), MemoryBackend))}
    assert not failures, report(failures, histories)


def test_random_histories_on_redis(redis_server: RedisServer, unique: str) -> None:
    histories = HISTORIES or 40
    failures: dict[int, list[str]] = {}
    with redis_server.client() as client:
        for seed in range(histories):
            made: list[RedisBackend] = []

            def backend(keep: int, name: str = f"{unique}{seed}", made: list[RedisBackend] = made) -> RedisBackend:
                made.append(RedisBackend(redis_server.url, client, name, keep))
                return made[-1]

            if wrong := run(Plan.of(seed), backend):
                failures[seed] = wrong
            made[0].close()
    assert not failures, report(failures, histories)
