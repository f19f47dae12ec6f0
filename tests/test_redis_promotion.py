"""A single Redis whose replica takes its place, under the same address, without all that the primary had."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from features.errors import StoreUnavailable
from features.redis_store import RedisStore
from tests.services.redis import RedisServer
from tests.support.rig import P0, Rig, same

pytestmark = pytest.mark.redis
DEADLINE_S = 30.0
REGRESSIONS = "fraudline_state_regressions_total"


@pytest.fixture
def primary() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def replica(primary: RedisServer) -> Iterator[RedisServer]:
    with RedisServer(config={"repl-diskless-sync-delay": "0"}) as server, server.client() as client:
        client.replicaof("127.0.0.1", str(primary.ports[0]))
        until(lambda: client.info("replication")["master_link_status"] == "up")
        yield server


def until(reached: object) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not reached():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def promote(primary: RedisServer, replica: RedisServer) -> None:
    """The primary is gone, and the replica answers where it did."""
    primary.kill()
    with replica.client() as client:
        client.replicaof("NO", "ONE")
        client.config_set("port", primary.ports[0])


@pytest.mark.parametrize("lag", [0, 3])
def test_a_promoted_replica_is_caught_up_with_in_a_new_epoch(
    primary: RedisServer, replica: RedisServer, unique: str, lag: int
) -> None:
    store = RedisStore(primary.url, namespace=unique, timeout_ms=1_000)
    rig, control = Rig([1_000], store, clock=time.monotonic), Rig([1_000])  # type: ignore[arg-type]
    for start in range(0, 300, 100):
        same(rig.decide(0, start, start + 100), control.decide(0, start, start + 100))
    with primary.client() as client:
        client.wait(1, 5_000)  # the replica has all of that
        if lag:
            client.execute_command("ACL", "SETUSER", "default", "-psync", "-sync")
            client.execute_command("CLIENT", "KILL", "TYPE", "REPLICA")
    for start in range(300, 300 + 100 * lag, 100):
        same(rig.decide(0, start, start + 100), control.decide(0, start, start + 100))
    before = rig.epochs()
    promote(primary, replica)
    end = 300 + 100 * lag
    with pytest.raises(StoreUnavailable):
        store.positions()  # whoever talks to the dead one hears that it is
    assert rig.keeper.recover(time.monotonic() + DEADLINE_S)
    same(rig.decide(0, end, end + 100), control.decide(0, end, end + 100))
    assert rig.epochs() != before
    assert rig.markers() == {P0: end + 100}
    assert rig.count(REGRESSIONS) == (1 if lag else 0)
    store.close()
