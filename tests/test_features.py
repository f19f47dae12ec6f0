"""The catalog as declared, and what the enricher does besides computing values (those: test_windows_properties)."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import pytest

from features.catalog import COUNTERPARTS, DAY_MS, DEFAULT, FEATURES, HANDBOOK, Catalog, Limits
from features.compaction import due, newly_of_period, summary
from features.enrich import COMPACTIONS, Enriched, Enricher
from features.errors import StateBehind
from features.event import Payment, batch_of
from features.folding import read_logs
from features.payment import PAYMENT_OPS, read_payments
from features.reader import limits_array
from features.store import Append, Applied, MemoryStore, Span
from features.values import OPERATIONS
from features.warm import warm_up

TOPIC = "t"
START_MS = 1_750_000_000_000
DELAYED = {"amount_to_max", "amount_to_mean", "amount_zscore", "count_before", "fraud_rate", "risk"}


def payment(number: int = 0, **fields: object) -> Payment:
    known = {"event_id": f"e{number}", "event_time": START_MS + number, "card_id": "card", "merchant_id": "shop"}
    return Payment(**(known | {"amount_minor": 1_000, "currency": "EUR"} | fields))  # type: ignore[arg-type]


class Rig:
    """An enricher over a store of its own, and its epochs."""

    def __init__(self, store: MemoryStore | None = None, limits: Limits = DEFAULT.limits) -> None:
        self.store = store or MemoryStore()
        self.store.adopt({(TOPIC, 0): 0})
        self.enricher = Enricher(Catalog(FEATURES, limits), self.store)
        self._epochs = [position.epoch for position in self.store.positions()]

    def enrich(self, payments: Sequence[Payment], start: int, floor: int) -> Enriched:
        end = start + len(payments)
        batch = batch_of(payments, topic=TOPIC, partition=[0] * len(payments), offset=range(start, end))
        return self.enricher.enrich(batch, (Span(TOPIC, 0, start, end, floor),), self._epochs)


@pytest.mark.parametrize("catalog", [DEFAULT, HANDBOOK])
def test_every_declaration_can_be_computed(catalog: Catalog) -> None:
    assert len(set(catalog.names)) == len(catalog.names)
    for feature in catalog.features:
        assert feature.help
        if feature.entity is None:
            assert feature.op in PAYMENT_OPS
            assert (feature.window_ms, feature.delay_ms, feature.of) == (0, 0, None)
            continue
        operation = OPERATIONS[feature.op]
        assert 0 < feature.window_ms <= feature.window_ms + feature.delay_ms <= catalog.limits.horizon_ms - DAY_MS
        assert (feature.of is not None) == (operation.by_tag is not None or feature.op == "country_changed")
        assert feature.of is None or feature.of in (*COUNTERPARTS[feature.entity], "country", "mcc")
        assert feature.delay_ms == 0 or feature.op in DELAYED


def test_a_loop_is_compiled_once_for_logs_that_came_as_bytes_and_for_own_arrays() -> None:
    warm_up()
    store = MemoryStore()
    rig = Rig(store, limits=Limits(keep=2))
    for start in range(3):
        rig.enrich([payment(start)], start, start)
    for loop in (read_logs, due, newly_of_period, summary, read_payments):
        assert len(loop.signatures) == 1  # type: ignore[attr-defined]


class Asked(MemoryStore):
    """Notes which keys each call wants to be kept alive."""

    def __init__(self) -> None:
        super().__init__()
        self.refreshed: list[set[bytes]] = []

    def apply(self, appends: Sequence[Append]) -> list[Applied]:
        self.refreshed.append({key for append in appends for key in append.refresh})
        return super().apply(appends)


def test_a_log_that_is_used_is_kept_alive_once_in_thirty_days() -> None:
    store = Asked()
    rig = Rig(store)
    begin_ms = 690 * 30 * DAY_MS
    for number, later_ms in enumerate((0, 1, 30 * DAY_MS, 30 * DAY_MS + 1, 30 * DAY_MS + 2)):
        rig.enrich([payment(number, event_time=begin_ms + later_ms)], number, number)
    assert store.refreshed == [set(), set(), set(), {b"c:card", b"m:shop"}, set()]  # with the call behind the third


def test_the_handbook_profile_has_the_books_15_inputs() -> None:
    assert len(HANDBOOK.names) == 15
    assert HANDBOOK.entities == ("card", "terminal")


def test_the_fingerprint_moves_with_what_defines_a_value_and_not_with_words() -> None:
    same = Catalog(tuple(msgspec.structs.replace(f, help="other words", group="g") for f in FEATURES))
    assert same.fingerprint == DEFAULT.fingerprint
    assert Catalog(FEATURES, Limits(keep=127)).fingerprint != DEFAULT.fingerprint
    assert Catalog(FEATURES[::-1]).fingerprint != DEFAULT.fingerprint
    assert Catalog(FEATURES[:-1]).fingerprint != DEFAULT.fingerprint
    later = msgspec.structs.replace(FEATURES[-1], delay_ms=DAY_MS)
    assert Catalog((*FEATURES[:-1], later)).fingerprint != DEFAULT.fingerprint


@pytest.mark.parametrize(
    "limits",
    [Limits(keep=0), Limits(keep=16_385), Limits(frauds=0), Limits(horizon_ms=DAY_MS, duplicate_ms=2 * DAY_MS)],
)
def test_limits_that_a_summary_could_not_hold_are_refused(limits: Limits) -> None:
    with pytest.raises(ValueError, match="limits"):
        limits_array(limits)


def test_a_part_of_a_catalog_has_the_values_of_the_whole() -> None:
    names = ("merchant_count_1h", "amount_minor", "card_frauds_30d", "card_amount_zscore_30d")
    part, whole = DEFAULT.only(names), DEFAULT
    history = [payment(number, amount_minor=100 * number) for number in range(20)]

    def values(catalog: Catalog) -> np.ndarray:
        rig = Rig()
        rig.enricher = Enricher(catalog, rig.store)
        return rig.enrich(history, 0, 0).values

    columns = [whole.names.index(name) for name in names]
    assert np.array_equal(values(part), values(whole)[:, columns], equal_nan=True)


def test_a_model_with_fewer_features_keeps_the_logs_that_the_next_one_needs() -> None:
    rig = Rig()
    rig.enricher = Enricher(DEFAULT.only(("card_count_1h",)), rig.store)
    rig.enrich([payment(number) for number in range(10)], 0, 0)
    rig.enricher = Enricher(DEFAULT, rig.store)
    values = rig.enrich([payment(10)], 10, 10).values
    assert values[0, DEFAULT.names.index("merchant_count_1h")] == 11


def test_a_batch_without_payments_moves_the_marker() -> None:
    rig = Rig()
    epochs = [position.epoch for position in rig.store.positions()]
    empty = batch_of([], topic=TOPIC, partition=[], offset=[])
    enriched = rig.enricher.enrich(empty, (Span(TOPIC, 0, 0, 7, 0),), epochs)
    assert enriched.values.shape == (0, len(DEFAULT.names))
    assert rig.store.positions()[0].markers == {(TOPIC, 0): 7}


@pytest.mark.parametrize("more", [0, 1], ids=["every log is lost", "a log is lost"])
def test_a_lost_record_above_the_floor_is_a_regression_and_below_it_another_workers(more: int) -> None:
    rig = Rig()
    history = [payment(number) for number in range(1 + more)]
    rig.enrich(history[:1], 0, 0)
    rig.store._shards[0].logs.clear()
    with pytest.raises(StateBehind, match="went back in time"):
        rig.enrich(history, 0, 0)
    assert rig.enrich(history, 0, 1).stale.tolist() == [True, False][: 1 + more]


def test_what_others_have_committed_meanwhile_is_not_due_even_where_its_record_is_still_there() -> None:
    """Its logs may be compacted too far for its features: a worker that woke up late must not publish them."""
    rig = Rig()
    history = [payment(number, card_id=f"card{number}") for number in range(6)]
    assert not rig.enrich(history[:4], 0, 0).stale.any()
    rig.enrich(history[4:], 4, 4)
    assert rig.enrich(history[2:], 2, 2).stale.tolist() == [True, True, False, False]
    assert not rig.enrich(history[2:], 2, 4).stale.any(), "a catch-up knows that they are committed"


def test_a_record_that_was_folded_into_a_summary_is_another_workers() -> None:
    rig = Rig(limits=Limits(keep=2, frauds=1))
    history = [payment(number) for number in range(40)]
    for start in range(0, 40, 4):
        rig.enrich(history[start : start + 4], start, start)
    assert rig.store.size_bytes() < 40 * 48, "the logs were compacted"
    late = rig.enrich(history[:4], 0, 0)
    assert late.stale.all()
    assert not late.repeated.any()


def test_a_call_carries_a_bounded_number_of_compactions() -> None:
    rig = Rig(limits=Limits(keep=1, frauds=1))
    history = [
        payment(number, card_id=f"card{number % 200}", merchant_id=f"shop{number % 200}") for number in range(800)
    ]
    rig.enrich(history, 0, 0)
    rig.enrich([payment(800)], 800, 800)
    before = rig.store.size_bytes()
    rig.enrich(history[:200], 0, 801)
    assert len(rig.enricher._upkeep[0].replacements) <= COMPACTIONS
    rig.enrich([payment(801)], 801, 801)
    assert rig.store.size_bytes() < before + 4 * 48


def test_payment_only_leaves_every_entity_feature_missing() -> None:
    batch = batch_of([payment()], topic=TOPIC, partition=[0], offset=[0])
    values = Enricher(DEFAULT, MemoryStore()).payment_only(batch)[0]
    alone = np.zeros(len(DEFAULT.names), np.bool_)
    alone[list(DEFAULT.payment_columns)] = True
    assert np.isnan(values[~alone]).all()
    assert values[DEFAULT.names.index("amount_minor")] == 1_000


def test_a_future_event_does_not_erase_a_history_that_is_inside_the_horizon() -> None:
    """The largest margin that decode lets through is a day: less than the horizon spares."""
    rig = Rig()
    history = [payment(number) for number in range(3)] + [payment(3, event_time=START_MS + DAY_MS), payment(4)]
    values = rig.enrich(history, 0, 0).values
    assert values[:, DEFAULT.names.index("card_count_30d")].tolist() == [1, 2, 3, 4, 4]


def test_a_late_event_does_not_become_the_last_payment() -> None:
    rig = Rig()
    history = [payment(0), payment(1, event_time=START_MS - 3_600_000), payment(2, event_time=START_MS + 5_000)]
    values = rig.enrich(history, 0, 0).values
    since = values[:, DEFAULT.names.index("card_since_last_s")]
    assert np.isnan(since[:2]).all()
    assert since[2] == 5.0
