"""Every rule of the entity log, taken out, is noticed by the simulation. `pytest -s` shows how often."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import structlog

from features.catalog import Limits
from features.errors import FraudlineError
from features.redis_store import RedisStore
from tests.contracts.store import StoreContract
from tests.mutants.state import EPOCH_GUARD, MUTANTS, Mutant, script_without
from tests.services.redis import RedisServer
from tests.simulation import Plan, run
from tests.simulation_stores import Backend, MemoryBackend, RedisBackend

ON_MEMORY, ON_REDIS = 48, 110
SCRIPTED = [mutant for mutant in MUTANTS if mutant.script]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with structlog.testing.capture_logs():
        yield


def plan_of(seed: int, mutant: Mutant | None = None) -> Plan:
    return Plan(seed, shards=1 if seed % 2 else 3, regressions=mutant is not None and mutant.regressions)


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    """One of their own: the histories look into their logs with scans, which other tests' keys would slow down."""
    with RedisServer() as server:
        yield server


def noticed(
    mutant: Mutant, histories: int, make_backend: Callable[[int, int, Limits], Backend], *, enough: int | None = None
) -> int:
    """In how many histories the mutant violates an invariant, or dies of an error that the product never raises.

    Ends when there are `enough`.
    """
    count = 0
    for seed in range(histories):
        if count == enough:
            break

        def backend(shards: int, limits: Limits, seed: int = seed) -> Backend:
            return make_backend(seed, shards, limits)

        try:
            count += bool(run(plan_of(seed, mutant), backend, mutant.enricher))
        except (FraudlineError, LookupError, ValueError):
            count += 1
    return count


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name.replace(" ", "-"))
def test_the_simulation_notices_a_missing_rule(mutant: Mutant) -> None:
    count = noticed(mutant, ON_MEMORY, lambda _seed, shards, limits: MemoryBackend(shards, limits, mutant.memory))
    print(f"\nwithout {mutant.name}, memory store: {count} of {ON_MEMORY} histories violate an invariant")
    assert count > 0


@pytest.mark.parametrize("mutant", SCRIPTED, ids=lambda mutant: mutant.name.replace(" ", "-"))
def test_the_simulation_notices_a_rule_that_the_script_lacks(
    mutant: Mutant, redis_server: RedisServer, unique: str
) -> None:
    assert mutant.script
    script = script_without(*mutant.script)
    made: list[RedisBackend] = []
    with redis_server.client() as client:

        def backend(seed: int, shards: int, limits: Limits) -> RedisBackend:
            made.append(RedisBackend(redis_server.url, client, f"{unique}{seed}", shards, limits, script))
            return made[-1]

        count = noticed(mutant, ON_REDIS, backend, enough=1)
        for each in made:
            each.close()
    assert count > 0


@pytest.mark.parametrize("regressions", [False, True])
def test_without_a_mutation_the_same_histories_are_clean(regressions: bool) -> None:
    mutant = Mutant("none", regressions=regressions)
    assert not [seed for seed in range(ON_MEMORY) if run(plan_of(seed, mutant), MemoryBackend)]


def test_the_contract_notices_a_missing_epoch_guard(redis_server: RedisServer, unique: str) -> None:
    """Few histories need it, since lost state has lost its markers too."""
    assert EPOCH_GUARD.script
    script = script_without(*EPOCH_GUARD.script)
    real = RedisStore(redis_server.url, namespace=unique, timeout_ms=5_000, script=script)
    for store in (EPOCH_GUARD.memory(1), real):
        with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
            StoreContract().test_another_epoch_refuses(store)
    real.close()
