"""Random histories: the enricher over either store equals the naive oracle, however the log is cut into batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.catalog import DEFAULT, Catalog
from features.enrich import Enriched, Enricher
from features.event import Payment, batch_of
from features.redis_store import RedisStore
from features.store import MemoryStore, Span, StateStore
from tests.oracle import differences, fold, repeats
from tests.services.redis import RedisServer

TOPIC = "payments"
START_MS = 1_750_000_000_000
EDGES_MS = tuple(edge for window in (1, 24, 168, 720) for edge in (window * 3_600_000 - 1, window * 3_600_000))
KEEPS = st.sampled_from([3, 4, 5, 8, 256])


@dataclass(frozen=True)
class Row:
    """A payment and where it lies in the log."""

    payment: Payment
    partition: int
    offset: int


@st.composite
def histories(draw: st.DrawFn, max_size: int = 40) -> list[Payment]:
    """Few cards, merchants and devices; late, future-dated and equal times; repeated event ids; absent fields."""
    steps = st.one_of(
        st.integers(0, 7_200_000), st.sampled_from((0, 0, 1, *EDGES_MS)), st.integers(-7_200_000, -1),
        st.sampled_from([-edge for edge in EDGES_MS]),
    )  # fmt: skip
    amounts = st.one_of(st.sampled_from([0, 1, 499, 500, 1000, 10**12]), st.integers(0, 10**7))
    countries = st.sampled_from([None, "SE", "US"])
    made: list[Payment] = []
    now_ms = START_MS
    for number in range(draw(st.integers(1, max_size))):
        now_ms += draw(steps)
        repeat = draw(st.integers(0, 9)) == 0
        event_id = draw(st.sampled_from([p.event_id for p in made])) if repeat and made else f"e{number}"
        made.append(
            Payment(
                event_id=event_id,
                event_time=now_ms,
                card_id=draw(st.sampled_from(["card-a", "card-b", "card-c"])),
                merchant_id=draw(st.sampled_from(["shop-a", "shop-b", "shop-c"])),
                amount_minor=draw(amounts),
                currency="EUR",
                device_id=draw(st.sampled_from([None, "device-a", "device-b"])),
                mcc=draw(st.sampled_from([None, "5411", "0000"])),
                country=draw(countries),
                card_country=draw(countries),
                channel=draw(st.sampled_from([None, "pos", "recurring", "carrier pigeon"])),
            )
        )
    return made


def cuts(size: int) -> st.SearchStrategy[list[int]]:
    """Where batches end: a rising list that ends at `size`."""
    return st.sets(st.integers(1, size), max_size=8).map(lambda inner: sorted(inner | {size}))


def in_batches(payments: Sequence[Payment], ends: Sequence[int], partitions: int) -> list[list[Row]]:
    """Cut a history into batches as the processor sees them: grouped by partition, offsets rising."""
    next_offset = dict.fromkeys(range(partitions), 0)
    batches = []
    for start, end in pairwise([0, *ends]):
        rows = []
        for payment in payments[start:end]:
            partition = ord(payment.card_id[-1]) % partitions
            rows.append(Row(payment, partition, next_offset[partition]))
            next_offset[partition] += 1
        batches.append(sorted(rows, key=lambda row: row.partition))
    return batches


def enriched(enricher: Enricher, rows: Sequence[Row], epoch: int, floor: int | None = None) -> Enriched:
    """Enrich one batch; the floor is each span's own start unless given."""
    bounds: dict[int, tuple[int, int]] = {}
    for row in rows:
        start, _ = bounds.get(row.partition, (row.offset, 0))
        bounds[row.partition] = (start, row.offset + 1)
    spans = tuple(
        Span(TOPIC, partition, start, end, start if floor is None else floor)
        for partition, (start, end) in bounds.items()
    )
    batch = batch_of(
        [row.payment for row in rows],
        topic=TOPIC,
        partition=[row.partition for row in rows],
        offset=[row.offset for row in rows],
    )
    return enricher.enrich(batch, spans, epoch)


def opened(store: StateStore, keep: int, partitions: int = 1) -> tuple[Enricher, int]:
    """An enricher over a fresh store, and its epoch."""
    epoch = store.position().epoch
    store.adopt({(TOPIC, partition): 0 for partition in range(partitions)})
    return Enricher(Catalog(DEFAULT.features, keep), store), epoch


def assert_equals_oracle(
    store: StateStore, payments: list[Payment], ends: list[int], keep: int, partitions: int
) -> None:
    enricher, epoch = opened(store, keep, partitions)
    batches = in_batches(payments, ends, partitions)
    results = [enriched(enricher, rows, epoch) for rows in batches]
    recorded = [row.payment for rows in batches for row in rows]
    flags = np.concatenate([result.repeated for result in results]).tolist()
    sequence = np.concatenate([result.sequence for result in results])
    assert flags == repeats(recorded, keep)
    assert np.all(np.diff(sequence) == 1)
    assert not any(result.stale.any() for result in results)
    values = np.concatenate([result.values for result in results])
    for row, expected, flag in zip(values, fold(recorded, keep), flags, strict=True):
        if not flag:
            assert differences(row, DEFAULT.names, expected) == []


@given(data=st.data(), payments=histories(), keep=KEEPS, partitions=st.integers(1, 3))
def test_memory_store_equals_the_oracle(
    data: st.DataObject, payments: list[Payment], keep: int, partitions: int
) -> None:
    ends = data.draw(cuts(len(payments)))
    assert_equals_oracle(MemoryStore(keep), payments, ends, keep, partitions)


@pytest.fixture(scope="session")
def namespaces() -> Iterator[str]:
    return (f"properties{number}" for number in range(10**9))


@settings(max_examples=40)
@given(data=st.data(), payments=histories(), keep=KEEPS, partitions=st.integers(1, 3))
def test_redis_store_equals_the_oracle(
    redis_server: RedisServer, namespaces: Iterator[str], data: st.DataObject, payments: list[Payment], keep: int,
    partitions: int,
) -> None:  # fmt: skip
    ends = data.draw(cuts(len(payments)))
    store = RedisStore(redis_server.url, namespace=next(namespaces), keep=keep, timeout_ms=5_000)
    try:
        assert_equals_oracle(store, payments, ends, keep, partitions)
    finally:
        store.close()


@settings(max_examples=50)
@given(data=st.data(), payments=histories(), keep=KEEPS)
def test_cuts_change_nothing_bit_for_bit(data: st.DataObject, payments: list[Payment], keep: int) -> None:
    def values(ends: list[int]) -> tuple[bytes, bytes]:
        enricher, epoch = opened(MemoryStore(keep), keep)
        results = [enriched(enricher, rows, epoch) for rows in in_batches(payments, ends, 1)]
        return b"".join(r.values.tobytes() for r in results), b"".join(r.repeated.tobytes() for r in results)

    assert values(data.draw(cuts(len(payments)))) == values([len(payments)]) == values([*range(1, len(payments) + 1)])


@settings(max_examples=50)
@given(data=st.data(), payments=histories(), keep=KEEPS)
def test_replays_above_the_floor_see_what_the_first_pass_saw(
    data: st.DataObject, payments: list[Payment], keep: int
) -> None:
    """Whatever is not committed may be enriched again, in other batches, at any later time."""
    enricher, epoch = opened(MemoryStore(keep), keep)
    log = [row for rows in in_batches(payments, [len(payments)], 1) for row in rows]
    first: list[tuple[bytes, int]] = []
    floor = 0
    for last_round in [False] * 6 + [True]:
        start = data.draw(st.integers(floor, len(first)), label="start")
        end = len(log) if last_round else data.draw(st.integers(start, len(log)), label="end")
        if start == end:
            continue
        result = enriched(enricher, log[start:end], epoch, floor)
        assert not result.stale.any()
        seen = [(row.tobytes(), int(seq)) for row, seq in zip(result.values, result.sequence, strict=True)]
        known = len(first) - start
        assert seen[:known] == first[start:end]
        first += seen[known:]
        floor = data.draw(st.integers(floor, len(first)), label="floor")
