"""Emptying a namespace in Redis: what it deletes, what it leaves, and what others see meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
from redis import Redis

from features.catalog import Limits
from features.errors import StoreUnavailable, StoreUnsuitable
from features.event import LAYOUT_VERSION
from features.redis_store import RedisStore
from tests.contracts.calls import T0, Record, apply, epochs_of, markers, opened, records, span
from tests.services.redis import RedisServer

pytestmark = pytest.mark.redis


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[Redis]:
    redis_server.flush()
    with redis_server.client() as client:
        yield client
        client.execute_command("ACL", "SETUSER", "default", "+@all")


def store_on(server: RedisServer, namespace: str = "ns", *, shards: int = 1, **more: object) -> RedisStore:
    return RedisStore(server.url, namespace=namespace, timeout_ms=5_000, shards=shards, **more)  # type: ignore[arg-type]


def keys(client: Redis, namespace: str = "ns") -> set[bytes]:
    prefix = f"{namespace}:{LAYOUT_VERSION}:".encode()
    return {key for key in client.scan_iter() if key.startswith(prefix)}


def test_only_the_namespace_is_emptied_whatever_its_name_means_as_a_pattern(
    redis_server: RedisServer, client: Redis
) -> None:
    spaces = ["n*", "nx", "n[x]", "n?", "n\\x"]
    for namespace in spaces:
        with closing(store_on(redis_server, namespace)) as store:
            apply(store, opened(store), records([0]))
    for emptied in spaces:
        before = {namespace: keys(client, namespace) for namespace in spaces}
        with closing(store_on(redis_server, emptied)) as store:
            store.reset({})
        after = {namespace: keys(client, namespace) for namespace in spaces}
        assert after.pop(emptied) == {f"{emptied}:{LAYOUT_VERSION}:{{s0}}:meta".encode()}
        del before[emptied]
        assert after == before


def test_more_keys_than_a_step_deletes_go_too(redis_server: RedisServer, client: Redis) -> None:
    with closing(store_on(redis_server, shards=3)) as store:
        rows = [Record(offset, f"card-{offset}", f"shop-{offset}") for offset in range(3_000)]
        apply(store, opened(store), rows)
        assert len(keys(client)) == 6_003
        store.reset({T0: 0})
        assert len(keys(client)) == 3


def test_what_keeps_others_out_stays_until_the_end(redis_server: RedisServer, client: Redis) -> None:
    with closing(store_on(redis_server)) as store:
        apply(store, opened(store), records([0]))
        with client.monitor() as monitor:
            store.reset({T0: 0})
            client.ping()
            seen = [text.split() for text in iter(lambda: monitor.next_command()["command"], "PING")]
    unlinked = [words[1] for words in seen if words[0] == "UNLINK"]
    assert sorted(unlinked) == [f"ns:{LAYOUT_VERSION}:{{s0}}:{key}" for key in ("c:a", "m:shop")]


def test_a_namespace_takes_the_shape_of_whoever_resets_it(redis_server: RedisServer, client: Redis) -> None:
    with closing(store_on(redis_server, shards=3)) as store:
        apply(store, opened(store), records([0]))
    with closing(store_on(redis_server, limits=Limits(keep=16))) as store:
        with pytest.raises(StoreUnsuitable, match="fraudline state rebuild"):
            store.positions()
        store.reset({T0: 0})
        assert markers(store) == {T0: 0}
        assert apply(store, epochs_of(store), records([0])).offsets() == [0]
    assert not any(b"{s1}" in key or b"{s2}" in key for key in keys(client))


def test_another_owners_namespace_is_not_touched(redis_server: RedisServer, client: Redis) -> None:
    with closing(store_on(redis_server, owner="group a")) as store:
        apply(store, opened(store), records([0]))
    before = keys(client)
    with closing(store_on(redis_server, owner="group b")) as store, pytest.raises(StoreUnsuitable, match="group a"):
        store.reset({T0: 0})
    assert keys(client) == before
    with closing(store_on(redis_server, owner="group a")) as store:
        assert apply(store, epochs_of(store), records([1]), span(1, 2)).offsets() == [0, 1]


def test_while_it_is_emptied_others_wait_and_once_that_was_given_up_they_say_so(
    redis_server: RedisServer, client: Redis
) -> None:
    meta = f"ns:{LAYOUT_VERSION}:{{s0}}:meta"
    with closing(store_on(redis_server)) as store, closing(store_on(redis_server)) as other:
        apply(store, opened(store), records([0]))
        client.execute_command("ACL", "SETUSER", "default", "-unlink")  # so that it ends half way
        with pytest.raises(StoreUnsuitable, match="ACL"):
            store.reset({T0: 0})
        with pytest.raises(StoreUnavailable, match="being emptied"):
            other.positions()
        other.adopt({T0: 7})
        client.hincrby(meta, "emptying", -61_000)
        with pytest.raises(StoreUnsuitable, match="repeat fraudline state rebuild"):
            other.positions()
        client.execute_command("ACL", "SETUSER", "default", "+unlink")
        store.reset({T0: 0})
        assert markers(other) == {T0: 0}
        assert apply(other, epochs_of(other), records([0])).offsets() == [0]
