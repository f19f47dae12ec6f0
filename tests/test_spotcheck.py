"""The check that never ends: records that were just committed are in the logs of their entities, once and unchanged."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

import pytest

from consumer.spotcheck import RECORDS, SpotCheck
from features.catalog import DEFAULT
from features.event import UNIT_BYTES
from features.grouping import Grouper
from features.store import MemoryStore, StateStore
from tests.support.doubles import Flaky
from tests.support.rig import DECODER, Rig

METRIC = "fraudline_state_checks_total"
DEADLINE_S = 30.0


def check_of(rig: Rig, *, interval_s: float = 60.0, store: StateStore | None = None) -> SpotCheck:
    return SpotCheck(
        store=store or rig.store,
        log=rig.log,
        decoder=DECODER,
        grouper=Grouper(DEFAULT.logged),
        telemetry=rig.telemetry,
        interval_s=interval_s,
        rng=random.Random(1),
    )


def results(rig: Rig) -> dict[str, int]:
    registry = rig.telemetry.registry
    found = {r: registry.get_sample_value(METRIC, {"result": r}) for r in ("equal", "mismatch", "unverifiable")}
    return {result: int(count) for result, count in found.items() if count}


@pytest.fixture
def rig() -> Rig:
    rig = Rig([100, 100])
    for start in range(0, 100, 50):
        for partition in range(2):
            assert rig.decide(partition, start, start + 50) is not None
    return rig


def logs(rig: Rig) -> dict[bytes, bytearray]:
    assert isinstance(rig.store, MemoryStore)
    return rig.store._shards[0].logs


def test_records_of_a_sound_state_are_found_once(rig: Rig) -> None:
    check = check_of(rig)
    for _ in range(10):
        check.look()
    assert set(results(rig)) == {"equal"}
    assert results(rig)["equal"] > 10 * RECORDS


def lose_a_log(held: dict[bytes, bytearray]) -> None:
    for key in [key for key in held if key.startswith(b"m:")]:
        del held[key]


def lose_records(held: dict[bytes, bytearray]) -> None:
    for log in held.values():
        del log[-5 * UNIT_BYTES :]


def double_records(held: dict[bytes, bytearray]) -> None:
    for log in held.values():
        log.extend(log[-5 * UNIT_BYTES :])


def change_amounts(held: dict[bytes, bytearray]) -> None:
    for log in held.values():
        for unit in range(0, len(log), UNIT_BYTES):
            log[unit + 8] ^= 1


@pytest.mark.parametrize("damage", [lose_a_log, lose_records, double_records, change_amounts])
def test_damage_is_a_mismatch(rig: Rig, damage: Callable[[dict[bytes, bytearray]], None]) -> None:
    damage(logs(rig))
    check = check_of(rig)
    for _ in range(10):
        check.look()
    assert results(rig).get("mismatch", 0) > 0


def test_what_is_decided_and_not_in_the_state_yet_is_no_mismatch(rig: Rig) -> None:
    assert isinstance(rig.store, MemoryStore)
    rig.store.flush()
    rig.store.adopt(dict.fromkeys(rig.log.partitions, 0))
    check_of(rig).look()
    assert set(results(rig)) == {"unverifiable"}


def test_what_came_before_the_state_was_begun_is_no_mismatch(rig: Rig) -> None:
    rig.store.reset(dict.fromkeys(rig.log.partitions, 100))
    check_of(rig).look()
    assert set(results(rig)) == {"unverifiable"}


def test_an_empty_log_is_nothing_to_look_at() -> None:
    rig = Rig([0])
    check_of(rig).look()
    assert results(rig) == {}


def test_it_looks_by_itself_and_a_store_that_is_away_does_not_end_it(rig: Rig) -> None:
    enough = threading.Event()
    store = Flaky(rig.store, failures=3)

    def tick() -> None:
        if "equal" in results(rig) and "unverifiable" in results(rig):
            enough.set()

    rig.log.tick = tick
    check = check_of(rig, interval_s=0.001, store=store)
    check.start()
    assert enough.wait(DEADLINE_S)
    check.stop()
    assert set(results(rig)) == {"equal", "unverifiable"}
