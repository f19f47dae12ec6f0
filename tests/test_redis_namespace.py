"""All keys of a namespace: owned by a mark, counted and removed, on one server and on a cluster, and no other key."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from features.redis_store import Namespace, RedisStore
from tests.services.redis import RedisServer
from tests.services.redis_cluster import RedisCluster

SHARDS = {"one server": 1, "cluster": 16}


@pytest.fixture(params=SHARDS)
def place(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def url(place: str, redis_server: RedisServer, redis_cluster: RedisCluster) -> str:
    return redis_server.url if place == "one server" else redis_cluster.url


def namespace(url: str, name: str, place: str) -> Namespace:
    return Namespace(url, name, "prove", shards=SHARDS[place], cluster=place == "cluster")


@pytest.fixture
def others(url: str, unique: str, place: str) -> Iterator[Namespace]:
    """A namespace whose name begins alike."""
    with closing(namespace(url, f"{unique}0", place)) as made:
        assert made.claim("others")
        yield made
        made.remove()


def test_what_a_store_wrote_is_found_and_removed_and_nothing_else(
    url: str, unique: str, place: str, others: Namespace
) -> None:
    store = RedisStore(
        url, namespace=unique, timeout_ms=1_000, shards=SHARDS[place], cluster=place == "cluster", owner="test"
    )
    with closing(namespace(url, unique, place)) as own, closing(store):
        assert own.size() == 0
        assert own.owner() is None
        before = own.other_keys(0)
        assert own.claim("run-1")
        assert not own.claim("run-2")
        assert own.owner() == "run-1"
        store.positions()  # makes a hash for each shard
        assert own.size() == SHARDS[place] + 1
        assert own.other_keys(own.size()) == before
        assert own.delete_state() == SHARDS[place]
        assert own.owner() == "run-1"
        store.positions()
        assert own.remove() == SHARDS[place] + 1
        assert own.size() == 0
        assert own.owner() is None
    assert others.owner() == "others"


def test_the_keys_of_a_shard_are_lost_in_one_command(redis_server: RedisServer, unique: str) -> None:
    keys = [f"{unique}:4:{{s{shard}}}:{number}" for shard in range(2) for number in range(1_500)]
    with closing(Namespace(redis_server.url, unique, "prove")) as own, closing(redis_server.client()) as client:
        client.mset(dict.fromkeys(keys, "log"))
        before = client.info("commandstats").get("cmdstat_unlink", {"calls": 0})["calls"]
        assert own.delete_state() == len(keys)
        assert client.info("commandstats")["cmdstat_unlink"]["calls"] - before == 2
        assert own.size() == 0


def test_keys_of_others_are_counted_without_a_look_at_every_name(redis_server: RedisServer, unique: str) -> None:
    with closing(Namespace(redis_server.url, unique, "prove")) as own, closing(redis_server.client()) as client:
        scans = client.info("commandstats").get("cmdstat_scan")
        assert own.other_keys(0) == client.dbsize()
        assert own.other_keys(1) == client.dbsize() - 1
        assert client.info("commandstats").get("cmdstat_scan") == scans


@pytest.mark.parametrize("name", ["a*", "a?b", "[ab]", "a\\b"])
def test_a_name_that_would_match_more_than_itself_is_refused(redis_server: RedisServer, name: str) -> None:
    with pytest.raises(ValueError, match="no plain name"):
        Namespace(redis_server.url, name, "prove")
