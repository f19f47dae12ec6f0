"""State on a Redis Cluster: slots move, primaries fail and are replaced, and no record is lost or counted twice."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from features.enrich import Enriched, shard_of
from features.errors import ConfigError, StateBehind, StoreUnavailable, StoreUnsuitable
from features.event import LAYOUT_VERSION
from features.redis_store import RedisStore
from tests.contracts.calls import apply, epochs_of, opened, records, span
from tests.poison import VALID, payment
from tests.services.redis import RedisServer
from tests.services.redis_cluster import ClusterNode, RedisCluster
from tests.support.rig import P0, PATIENCE_S, Rig, same

pytestmark = pytest.mark.redis
SHARDS = 16
BATCH = 100
GIVE_UP_S = 30.0


@pytest.fixture
def store(redis_cluster: RedisCluster, unique: str) -> Iterator[RedisStore]:
    redis_cluster.flush()  # a shard's slot has the keys of all namespaces, and half of it should be half of this one's
    store = RedisStore(redis_cluster.url, namespace=unique, timeout_ms=500, shards=SHARDS, cluster=True)
    yield store
    store.close()


@contextmanager
def cut_off(primary: ClusterNode) -> Iterator[None]:
    """Its replicas hear nothing from it, and can't come back to it."""
    primary.ask("ACL", "SETUSER", "default", "-psync", "-sync")
    primary.ask("CLIENT", "KILL", "TYPE", "REPLICA")
    yield
    primary.ask("ACL", "SETUSER", "default", "+psync", "+sync")


class Pair:
    """One history of payments, decided on a cluster and, as it should be, in memory."""

    def __init__(self, store: RedisStore, batches: int, patience_s: float = PATIENCE_S) -> None:
        payments = [
            payment(
                event_id=f"evt-{number}",
                card_id=f"tok_{number % 97}",
                merchant_id=f"m-{number % 7}",
                amount_minor=100 + number,
                event_time=VALID["event_time"] + 60_000 * number,
            )
            for number in range(BATCH * batches)
        ]
        self.subject = Rig([0], store, clock=time.monotonic, patience_s=patience_s)  # type: ignore[arg-type]
        self.control = Rig([0])
        for rig in (self.subject, self.control):
            rig.part(0).add(*payments)
        self.decided = self.undecided = 0

    def decide(self) -> Enriched | None:
        """Decide the next batch on both: equal features, or none while the state can't be trusted."""
        start = self.decided * BATCH
        self.decided += 1
        found, expected = (rig.decide(0, start, start + BATCH) for rig in (self.subject, self.control))
        if found is None:
            self.undecided += 1
        else:
            same(found, expected)
        return found

    def decide_until_trusted(self) -> None:
        """Go on until the state is trusted again, as the loop does; what a doubt interrupts is left undecided."""
        deadline = time.monotonic() + GIVE_UP_S
        trusted = False
        while not (trusted and self.decide() is not None):
            assert time.monotonic() < deadline, "the state was never trusted again"
            trusted = self.subject.keeper.recover(time.monotonic() + 0.1)
            if not trusted:
                time.sleep(0.01)


def meta(store_namespace: str, shard: int) -> str:
    return f"{store_namespace}:{LAYOUT_VERSION}:{{s{shard}}}:meta"


def errors_of(cluster: RedisCluster, name: str) -> int:
    """How often all nodes have answered with an error of this name."""
    counts = 0
    for node in cluster.nodes:
        with node.client() as client:
            counts += client.info("errorstats").get(f"errorstat_{name}", {}).get("count", 0)
    return counts


def busiest() -> int:
    """A shard that has a merchant's log and cards' logs."""
    return shard_of(b"m:m-0", SHARDS)


def test_a_slot_moves_under_load(redis_cluster: RedisCluster, store: RedisStore, unique: str) -> None:
    pair = Pair(store, batches=40)
    for _ in range(5):
        assert pair.decide() is not None
    seen = {name: errors_of(redis_cluster, name) for name in ("TRYAGAIN", "ASK")}
    for _ in range(3):
        redis_cluster.move_slot(meta(unique, busiest()), halfway=pair.decide)
        pair.decide_until_trusted()
        assert pair.decide() is not None
    assert pair.undecided >= 3  # in the midst of each move
    assert errors_of(redis_cluster, "TRYAGAIN") > seen["TRYAGAIN"]
    assert errors_of(redis_cluster, "ASK") > seen["ASK"]
    assert pair.subject.count("fraudline_state_regressions_total") == 0
    assert pair.subject.markers() == {P0: pair.decided * BATCH}


def test_primaries_hand_over_under_load(redis_cluster: RedisCluster, store: RedisStore, unique: str) -> None:
    pair = Pair(store, batches=20, patience_s=GIVE_UP_S)  # what is in good order is waited for, on any machine
    assert pair.decide() is not None
    owner = {shard: redis_cluster.primary_of(meta(unique, shard)) for shard in range(SHARDS)}
    for primary in redis_cluster.primaries():
        before = pair.subject.epochs()
        redis_cluster.fail_over(primary)
        assert pair.decide() is not None
        changed = {
            shard for shard, (old, new) in enumerate(zip(before, pair.subject.epochs(), strict=True)) if old != new
        }
        assert changed == {shard for shard, node in owner.items() if node is primary}
        assert pair.decide() is not None
    assert pair.subject.count("fraudline_state_regressions_total") == 0


def test_a_shard_that_has_moved_is_trusted_only_after_its_markers_were_read(
    redis_cluster: RedisCluster, store: RedisStore, unique: str
) -> None:
    epochs = opened(store)
    apply(store, epochs, records([0]))
    redis_cluster.move_slot(meta(unique, shard_of(b"c:a", SHARDS)))
    for _ in range(2):
        with pytest.raises(StateBehind, match="its markers have to be read first"):
            apply(store, epochs, records([1]), span(1, 2))
    assert apply(store, epochs_of(store), records([1]), span(1, 2)).offsets() == [0, 1]


def test_writes_that_a_new_primary_never_had_are_caught_up(
    redis_cluster: RedisCluster, store: RedisStore, unique: str
) -> None:
    pair = Pair(store, batches=30)
    for _ in range(3):
        assert pair.decide() is not None
    primary = redis_cluster.primary_of(meta(unique, busiest()))
    replica = redis_cluster.replica_of(primary)
    before = pair.subject.epochs()
    with cut_off(primary):
        for _ in range(3):
            assert pair.decide() is not None
        redis_cluster.take_over(replica)
    redis_cluster.await_whole()
    pair.decide_until_trusted()
    assert pair.subject.count("fraudline_state_regressions_total") == 1
    after = pair.subject.epochs()
    assert after[busiest()] != before[busiest()]
    told = [each for each in pair.subject.journal if each.count == 0 and each.shard == busiest()]
    first, *_ = told  # a doubt that lasts has another epoch begin
    assert (first.parent_epoch, first.parent_sequence) == (before[busiest()], 3 * BATCH)
    for _ in range(3):
        assert pair.decide() is not None


def test_a_primary_dies_and_is_replaced_while_payments_go_on(
    redis_cluster: RedisCluster, store: RedisStore, unique: str
) -> None:
    pair = Pair(store, batches=20)
    for _ in range(3):
        assert pair.decide() is not None
    redis_cluster.primary_of(meta(unique, busiest())).kill()
    assert pair.decide() is None
    pair.decide_until_trusted()
    for _ in range(3):
        assert pair.decide() is not None
    redis_cluster.heal()
    assert pair.decide() is not None


def test_a_lost_script_is_sent_again_to_each_node(redis_cluster: RedisCluster, store: RedisStore) -> None:
    pair = Pair(store, batches=6)
    for node in redis_cluster.primaries():
        assert pair.decide() is not None
        node.ask("SCRIPT", "FLUSH")
        assert pair.decide() is not None


def test_while_a_slot_is_served_by_nobody_the_store_says_so_and_nothing_is_half_done(
    redis_cluster: RedisCluster, store: RedisStore, unique: str
) -> None:
    epochs = opened(store)
    apply(store, epochs, records([0]))
    primary = redis_cluster.primary_of(meta(unique, shard_of(b"c:a", SHARDS)))
    primary.pause()
    with pytest.raises(StoreUnavailable):
        apply(store, epochs, records([1]), span(1, 2))
    with pytest.raises(StateBehind, match="was reconnected"):
        apply(store, epochs, records([1]), span(1, 2))
    primary.resume()
    redis_cluster.await_whole()
    assert apply(store, epochs_of(store), records([1]), span(1, 2)).offsets() == [0, 1]


def test_shards_lie_on_all_primaries_and_only_their_primaries_are_asked(
    redis_cluster: RedisCluster, store: RedisStore, unique: str
) -> None:
    opened(store)
    owners = [redis_cluster.primary_of(meta(unique, shard)) for shard in range(SHARDS)]
    assert len({owner.ports[0] for owner in owners}) == 3
    for owner, shard in zip(owners, range(SHARDS), strict=True):
        assert owner.ask("HGET", meta(unique, shard), "epoch") is not None


def test_a_cluster_and_a_single_server_are_not_taken_for_each_other(
    redis_cluster: RedisCluster, redis_server: RedisServer, unique: str
) -> None:
    single = RedisStore(redis_cluster.url, namespace=unique, timeout_ms=500)
    with pytest.raises(StoreUnsuitable, match=r"is a cluster's node: set store\.cluster"):
        single.check()
    single.close()
    clustered = RedisStore(redis_server.url, namespace=unique, timeout_ms=500, shards=SHARDS, cluster=True)
    with pytest.raises(StoreUnsuitable, match=r"is no cluster's node: unset store\.cluster"):
        clustered.check()
    clustered.close()


@pytest.mark.parametrize("url", ["redis://h:1/3", "unix:///run/redis.sock"])
def test_an_address_that_no_cluster_has_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=r"store\.cluster needs store\.url"):
        RedisStore(url, namespace="ns", timeout_ms=500, shards=SHARDS, cluster=True)
