"""Random histories: every way to compute features equals the naive oracle, however a log is cut, merged or read.

Limits are small, so that records leave the raw part, buckets coarsen, days are forgotten and labels are frozen in a
history of some dozen records; logs are compacted whenever the enricher finds it worth it, which is at random moments.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.catalog import DAY_MS, DEFAULT, Catalog, Limits
from features.compaction import summary
from features.enrich import Enriched, Enricher
from features.event import Label, Payment, batch_of, labels_of
from features.grouping import payment_records
from features.offline import build
from features.reader import EntityReader, limits_array
from features.redis_store import RedisStore
from features.store import MemoryStore, Span, StateStore
from tests.oracle import differences, fold, repeats
from tests.services.redis import RedisServer
from tests.support.bounds import LOG_BYTES

PAYMENTS, LABELS = "payments", "labels"
START_MS = 1_750_000_000_000
HOUR_MS = 3_600_000
EDGES_MS = tuple(
    edge for window in (300_000, HOUR_MS, DAY_MS, 7 * DAY_MS, 30 * DAY_MS) for edge in (window - 1, window)
)
LIMITS = st.builds(
    lambda keep, horizon, frauds: Limits(keep, horizon, min(horizon, 7 * DAY_MS), frauds),
    st.sampled_from([1, 2, 3, 5, 8, 128]),
    st.sampled_from([2 * DAY_MS, 9 * DAY_MS, 38 * DAY_MS]),
    st.sampled_from([1, 2, 3, 32]),
)
Record = Payment | Label


@st.composite
def logs(draw: st.DrawFn, max_size: int = 40) -> list[Record]:
    """Few entities; late, equal and far apart times; repeated event ids; absent fields; labels of all kinds."""
    steps = st.one_of(
        st.integers(0, 2 * HOUR_MS), st.sampled_from((0, 0, 1, *EDGES_MS)), st.integers(-2 * HOUR_MS, -1),
        st.sampled_from([-edge for edge in EDGES_MS[:8]]),
    )  # fmt: skip
    amounts = st.one_of(st.sampled_from([0, 1, 499, 500, 1000, 10**12]), st.integers(0, 10**7))
    countries = st.sampled_from([None, "SE", "US"])
    made: list[Record] = []
    payments: list[Payment] = []
    now_ms = START_MS
    for number in range(draw(st.integers(1, max_size))):
        now_ms += draw(steps)
        kind = draw(st.integers(0, 9))
        if payments and kind < 3:
            made.append(draw(labels(draw(st.sampled_from(payments)), now_ms)))
            continue
        event_id = draw(st.sampled_from([p.event_id for p in payments])) if payments and kind == 3 else f"e{number}"
        payment = Payment(
            event_id=event_id,
            event_time=now_ms,
            card_id=draw(st.sampled_from(["card-a", "card-b"])),
            merchant_id=draw(st.sampled_from(["shop-a", "shop-b"])),
            amount_minor=draw(amounts),
            currency="EUR",
            device_id=draw(st.sampled_from([None, "device-a", "device-b"])),
            ip=draw(st.sampled_from([None, "10.0.0.1", "10.0.0.2"])),
            mcc=draw(st.sampled_from([None, "5411", "0000"])),
            country=draw(countries),
            card_country=draw(countries),
            channel=draw(st.sampled_from([None, "pos", "recurring", "carrier pigeon"])),
            terminal_id=draw(st.sampled_from([None, "terminal-a"])),
            account_id=draw(st.sampled_from([None, "account-a"])),
        )
        payments.append(payment)
        made.append(payment)
    return made


@st.composite
def labels(draw: st.DrawFn, about: Payment, now_ms: int) -> Label:
    """What somebody says of a payment, or of one that never came; it need not name every entity."""
    return Label(
        event_id=draw(st.sampled_from([about.event_id] * 4 + ["nobody's"])),
        card_id=about.card_id,
        merchant_id=about.merchant_id,
        event_time=about.event_time,
        label=draw(st.sampled_from(["fraud", "fraud", "genuine"])),
        labelled_at=max(now_ms, about.event_time),
        source="issuer",
        terminal_id=draw(st.sampled_from([None, about.terminal_id])),
        device_id=about.device_id,
        ip=about.ip,
        account_id=about.account_id,
    )


def cuts(size: int) -> st.SearchStrategy[list[int]]:
    """Where batches end: a rising list that ends at `size`."""
    return st.sets(st.integers(1, size), max_size=8).map(lambda inner: sorted(inner | {size}))


class Online:
    """An enricher over a fresh store, and where its two partitions stand."""

    def __init__(self, store: StateStore, limits: Limits) -> None:
        store.adopt({(PAYMENTS, 0): 0, (LABELS, 0): 0})
        self._epochs = [position.epoch for position in store.positions()]
        store.adopt({(PAYMENTS, 0): 0, (LABELS, 0): 0})
        self.catalog = Catalog(DEFAULT.features, limits)
        self._enricher = Enricher(self.catalog, store)
        self.recorded: list[Record] = []

    def enrich(self, records: Sequence[Record], at: tuple[int, int], floor: tuple[int, int]) -> Enriched:
        """One batch, labels first as in any batch; payments and labels begin at these offsets."""
        payments = [record for record in records if isinstance(record, Payment)]
        known = [record for record in records if isinstance(record, Label)]
        ends = (at[0] + len(payments), at[1] + len(known))
        spans = (
            Span(LABELS, 0, at[1], ends[1], floor[1], labels=True),
            Span(PAYMENTS, 0, at[0], ends[0], floor[0]),
        )
        return self._enricher.enrich(
            batch_of(payments, topic=PAYMENTS, partition=[0] * len(payments), offset=range(at[0], ends[0])),
            spans,
            self._epochs,
            labels_of(known, topic=LABELS, partition=[0] * len(known), offset=range(at[1], ends[1])),
        )

    def run(self, log: Sequence[Record], ends: Sequence[int]) -> tuple[bytes, list[bool], list[Enriched]]:
        """Everything in batches, each committed before the next."""
        results, at = [], (0, 0)
        for start, end in pairwise([0, *ends]):
            batch = log[start:end]
            results.append(self.enrich(batch, at, at))
            payments = sum(isinstance(record, Payment) for record in batch)
            at = (at[0] + payments, at[1] + len(batch) - payments)
            self.recorded += sorted(batch, key=lambda record: isinstance(record, Payment))
        values = b"".join(result.values.tobytes() for result in results)
        return values, [flag for result in results for flag in result.repeated.tolist()], results


def assert_equals_oracle(online: Online, log: list[Record], ends: list[int]) -> None:
    raw, flags, results = online.run(log, ends)
    recorded = online.recorded
    assert flags == repeats(recorded, online.catalog.limits)
    assert not any(result.stale.any() for result in results)
    assert all((result.sequence >= 0).all() for result in results)
    values = np.frombuffer(raw, np.float32).reshape(-1, len(DEFAULT.features))
    for row, expected, flag in zip(values, fold(recorded, online.catalog), flags, strict=True):
        if not flag:
            assert differences(row.tolist(), DEFAULT.names, expected) == []
    offline = build(recorded, online.catalog)
    assert offline.values.tobytes() == raw
    assert offline.kept.tolist() == [not flag for flag in flags]


@given(data=st.data(), log=logs(), limits=LIMITS, shards=st.sampled_from([1, 3]))
def test_memory_store_and_offline_equal_the_oracle(
    data: st.DataObject, log: list[Record], limits: Limits, shards: int
) -> None:
    assert_equals_oracle(Online(MemoryStore(shards), limits), log, data.draw(cuts(len(log))))


@pytest.fixture(scope="session")
def namespaces() -> Iterator[str]:
    return (f"properties{number}" for number in range(10**9))


@settings(max_examples=40)
@given(data=st.data(), log=logs(), limits=LIMITS, shards=st.sampled_from([1, 3]))
def test_redis_store_equals_the_oracle(
    redis_server: RedisServer, namespaces: Iterator[str], data: st.DataObject, log: list[Record], limits: Limits,
    shards: int,
) -> None:  # fmt: skip
    store = RedisStore(redis_server.url, namespace=next(namespaces), limits=limits, timeout_ms=5_000, shards=shards)
    try:
        assert_equals_oracle(Online(store, limits), log, data.draw(cuts(len(log))))
    finally:
        store.close()


@settings(max_examples=50)
@given(data=st.data(), log=logs().map(lambda log: [r for r in log if isinstance(r, Payment)]), limits=LIMITS)
def test_cuts_change_nothing_bit_for_bit(data: st.DataObject, log: list[Record], limits: Limits) -> None:
    def values(ends: list[int]) -> tuple[bytes, list[bool]]:
        return Online(MemoryStore(), limits).run(log, ends)[:2]

    assert values(data.draw(cuts(len(log)))) == values([len(log)]) == values([*range(1, len(log) + 1)])


@settings(max_examples=50)
@given(data=st.data(), log=logs().map(lambda log: [r for r in log if isinstance(r, Payment)]), limits=LIMITS)
def test_replays_above_the_floor_see_what_the_first_pass_saw(
    data: st.DataObject, log: list[Record], limits: Limits
) -> None:
    """Whatever is not committed may be enriched again, in other batches, at any later time: compaction stops there."""
    online = Online(MemoryStore(), limits)
    first: list[tuple[bytes, int]] = []
    floor = 0
    for last_round in [False] * 6 + [True]:
        start = data.draw(st.integers(floor, len(first)), label="start")
        end = len(log) if last_round else data.draw(st.integers(start, len(log)), label="end")
        if start == end:
            continue
        result = online.enrich(log[start:end], (start, 0), (floor, 0))
        assert not result.stale.any()
        seen = [(row.tobytes(), int(seq)) for row, seq in zip(result.values, result.sequence, strict=True)]
        known = len(first) - start
        assert seen[:known] == first[start:end]
        first += seen[known:]
        floor = data.draw(st.integers(floor, len(first)), label="floor")


@settings(max_examples=60)
@given(data=st.data(), log=logs(max_size=60), limits=LIMITS)
def test_a_summary_at_any_place_stands_for_what_it_replaces(
    data: st.DataObject, log: list[Record], limits: Limits
) -> None:
    """Cut after cut, at any record: the last payments' values are those of the log as it was."""
    reader = EntityReader(Catalog(DEFAULT.features, limits), "card")
    payments = [record for record in log if isinstance(record, Payment)]
    batch = batch_of(payments, topic=PAYMENTS, partition=[0] * len(payments), offset=range(len(payments)))
    known = [record for record in log if isinstance(record, Label)]
    label_words = labels_of(known, topic=LABELS, partition=[0] * len(known), offset=range(len(known))).base
    rows, label_rows = iter(payment_records(batch, "card")), iter(label_words)
    words = np.array([next(rows) if isinstance(record, Payment) else next(label_rows) for record in log])
    array = limits_array(limits)
    place = max(i for i, record in enumerate(log) if isinstance(record, Payment))
    whole = words[: place + 1]
    compacted, taken = whole[:0], 0
    for cut in data.draw(st.lists(st.integers(0, place), max_size=4).map(sorted)):
        compacted = summary(np.concatenate((compacted, whole[taken:cut])), array)
        taken = cut
    compacted = np.concatenate((compacted, whole[taken:]))

    def last(words: np.ndarray) -> bytes:
        one = np.array([0]), np.array([len(words)]), np.array([0, 1])
        values, extra = reader.read(words, *one, words[-1:, 2].copy())
        return values.tobytes() + extra.tobytes()

    assert last(compacted) == last(whole)


def test_logs_are_compacted_below_the_floor_and_stay_small() -> None:
    """A hot card: 20,000 payments in two weeks fit 16 KB, and nothing that is not committed is merged."""
    limits = Limits()
    online = Online(store := MemoryStore(), limits)
    log: list[Record] = [
        Payment(f"e{i}", START_MS + 60_000 * i, "card", f"shop-{i}", 100 + i, "EUR") for i in range(20_000)
    ]
    largest = 0
    for start in range(0, len(log), 64):
        online.enrich(log[start : start + 64], (start, 0), (start, 0))
        sizes = [len(held) for shard in store._shards for key, held in shard.logs.items() if key == b"c:card"]
        largest = max(largest, *sizes)
    assert largest < LOG_BYTES + 64 * 48, "a batch that is not committed comes on top"
