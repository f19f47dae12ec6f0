"""The store contract on both stores, and the two side by side: the same calls leave the same bytes."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.errors import StateBehind
from features.redis_store import SHARD, RedisStore
from features.store import Applied, MemoryStore, StateStore
from tests.contracts.store import TOPIC, MakeStore, Record, StoreContract, append, assert_tails_survive, span
from tests.services.redis import RedisServer


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def make_store(self) -> MakeStore:
        return MemoryStore


class TestRedisStore(StoreContract):
    @pytest.fixture
    def make_store(self, redis_server: RedisServer) -> Iterator[MakeStore]:
        stores: list[StateStore] = []

        def make(keep: int) -> StateStore:
            stores.append(redis_store(redis_server, keep))
            return stores[-1]

        yield make
        for store in stores:
            store.close()


def redis_store(server: RedisServer, keep: int) -> RedisStore:
    return RedisStore(server.url, namespace=f"t{uuid.uuid4().hex[:12]}", keep=keep, timeout_ms=5_000)


@given(data=st.data())
def test_trimming_leaves_the_tails_of_a_memory_store(data: st.DataObject) -> None:
    assert_tails_survive(MemoryStore, data)


@settings(max_examples=30)
@given(data=st.data())
def test_trimming_leaves_the_tails_of_a_redis_store(redis_server: RedisServer, data: st.DataObject) -> None:
    assert_tails_survive(lambda keep: redis_store(redis_server, keep), data)


class Pinned(MemoryStore):
    """A memory store with the epoch of another."""

    def __init__(self, keep: int, epoch: int) -> None:
        super().__init__(keep)
        self._epoch = epoch


@settings(max_examples=60)
@given(data=st.data())
def test_the_same_calls_leave_the_same_bytes_in_both_stores(redis_server: RedisServer, data: st.DataObject) -> None:
    keep = data.draw(st.integers(1, 4), label="keep")
    rows = st.builds(
        Record, st.just(0), st.sampled_from("ab"), st.sampled_from("mn"), st.sampled_from(["", "", "x", "y"])
    )
    log = [
        Record(offset, row.card, row.merchant, row.event_id)
        for offset, row in enumerate(data.draw(st.lists(rows, min_size=1, max_size=24), label="log"))
    ]
    real = redis_store(redis_server, keep)
    try:
        epoch = real.position().epoch
        memory = Pinned(keep, epoch)
        for store in (real, memory):
            store.adopt({(TOPIC, 0): 0})
        for _ in range(10):
            marker = memory.position().markers[TOPIC, 0]
            start = data.draw(st.integers(0, min(marker + 1, len(log))), label="start")
            end = data.draw(st.integers(start, len(log)), label="end")
            floor = data.draw(st.integers(0, marker), label="floor")
            call = append(epoch, log[start:end], span(start, end, floor))
            outcomes: list[Applied | None] = []
            for store in (real, memory):
                try:
                    outcomes.append(store.apply(call))
                except StateBehind:
                    outcomes.append(None)
            assert outcomes[0] == outcomes[1]
            assert real.position() == memory.position()
    finally:
        real.close()


def test_both_hold_a_card_in_one_key_of_one_hash_slot(redis_server: RedisServer) -> None:
    store = redis_store(redis_server, 4)
    epoch = store.position().epoch
    store.adopt({(TOPIC, 0): 0})
    store.apply(append(epoch, [Record(0)]))
    store.close()
    with redis_server.client() as client:
        keys = list(client.scan_iter(match=store._prefix + b"*"))
    assert len(keys) == 3
    assert all(SHARD.encode() in key for key in keys)
