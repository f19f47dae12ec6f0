"""The store contract on each store, with one shard and with several; and two side by side, byte for byte."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.errors import StateBehind
from features.redis_store import RedisStore
from features.store import Applied, MemoryStore, Replacement, StateStore
from tests.contracts.calls import L0, T0, Record, appends, span, summary_of, unit
from tests.contracts.store import MakeStore, StoreContract
from tests.services.redis import RedisServer
from tests.services.redis_cluster import RedisCluster

SHARDS = pytest.mark.parametrize("shards", [1, 4])


@SHARDS
class TestMemoryStore(StoreContract):
    @pytest.fixture
    def make_store(self, shards: int) -> MakeStore:
        return lambda: MemoryStore(shards)


@SHARDS
class TestRedisStore(StoreContract):
    @pytest.fixture
    def make_store(self, redis_server: RedisServer, shards: int) -> Iterator[MakeStore]:
        stores: list[StateStore] = []

        def make() -> StateStore:
            stores.append(redis_store(redis_server, shards))
            return stores[-1]

        yield make
        for store in stores:
            store.close()


@pytest.mark.parametrize("shards", [3, 16])
class TestRedisCluster(StoreContract):
    @pytest.fixture
    def make_store(self, redis_cluster: RedisCluster, shards: int) -> Iterator[MakeStore]:
        with ExitStack() as stack:

            def make() -> StateStore:
                namespace = f"t{uuid.uuid4().hex[:12]}"
                store = RedisStore(
                    redis_cluster.url, namespace=namespace, timeout_ms=5_000, shards=shards, cluster=True
                )
                return stack.enter_context(closing(store))

            yield make


def redis_store(server: RedisServer, shards: int) -> RedisStore:
    return RedisStore(server.url, namespace=f"t{uuid.uuid4().hex[:12]}", timeout_ms=5_000, shards=shards)


class Pinned(MemoryStore):
    """A memory store with the epochs of another."""

    def __init__(self, epochs: Sequence[int]) -> None:
        super().__init__(len(epochs))
        for shard, epoch in zip(self._shards, epochs, strict=True):
            shard.epoch = epoch


def told(applied: Sequence[Applied]) -> list[object]:
    """Answers, comparably."""
    return [
        (each.units, each.lengths.tolist(), each.partial, each.markers, each.floors, each.runs, each.all_floors)
        for each in applied
    ]


@settings(max_examples=60)
@given(data=st.data())
def test_the_same_calls_leave_the_same_bytes_in_both_stores(redis_server: RedisServer, data: st.DataObject) -> None:
    rows = st.builds(Record, st.just(0), st.sampled_from("ab"), st.sampled_from("mn"))
    drawn = data.draw(st.lists(rows, min_size=1, max_size=24), label="log")
    log = [Record(offset, row.card, row.merchant) for offset, row in enumerate(drawn)]
    real = redis_store(redis_server, data.draw(st.sampled_from([1, 3]), label="shards"))
    try:
        epochs = [position.epoch for position in real.positions()]
        memory = Pinned(epochs)
        for store in (real, memory):
            store.adopt({T0: 0, L0: 0})
        for _ in range(10):
            marker = memory.positions()[0].markers[T0]
            start = data.draw(st.integers(0, min(marker + 1, len(log))), label="start")
            end = data.draw(st.integers(start, len(log)), label="end")
            floor = data.draw(st.integers(0, marker), label="floor")
            label = data.draw(st.integers(0, 3), label="label")
            calls = appends(
                epochs,
                [*[Record(label, labels=True)], *log[start:end]],
                span(0, label + 1, labels=True),
                span(start, end, floor),
                replacements=data.draw(st.lists(replacements(log), max_size=2, unique_by=lambda r: r.key)),
                refresh=[b"c:a"],
                all_floors=data.draw(st.booleans(), label="all floors"),
            )
            outcomes: list[object] = []
            for store in (real, memory):
                try:
                    outcomes.append(told(store.apply(calls)))
                except StateBehind:
                    outcomes.append(None)
            assert outcomes[0] == outcomes[1]
            assert real.positions() == memory.positions()
    finally:
        real.close()


def replacements(log: Sequence[Record]) -> st.SearchStrategy[Replacement]:
    """Some that fit and some that don't, of logs that are called and of one that mostly is not."""
    return st.builds(
        lambda key, first, units, summary: Replacement(
            key, unit(first).tobytes(), units * 48, summary_of(*range(summary))
        ),
        st.sampled_from([b"c:a", b"m:n", b"c:b"]),
        st.sampled_from(log),
        st.integers(1, 4),
        st.integers(1, 2),
    )
