"""Each operation on a small history, with numbers worked out by hand."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest

from features.catalog import DEFAULT, ENTITY_OPS, FEATURES, PAYMENT_OPS, Catalog
from features.enrich import Enriched, Enricher
from features.errors import StateBehind
from features.event import CHANNELS, Payment, batch_of
from features.offline import build
from features.store import MemoryStore, Span
from tests.oracle import fold

MONDAY_NOON_MS = 1_750_075_200_000  # 2025-06-16 12:00:00 UTC
SECOND, MINUTE, HOUR, DAY = 1_000, 60_000, 3_600_000, 86_400_000
MISSING = None


def payment(at_ms: int = 0, amount: int = 1_000, **fields: str | None) -> Payment:
    """A payment `at_ms` after a Monday noon."""
    number = payment.made = getattr(payment, "made", 0) + 1  # type: ignore[attr-defined]  # distinct ids without a global
    given = {"event_id": f"e{number}", "card_id": "card", "merchant_id": "shop", "currency": "EUR"} | fields
    return msgspec.convert({**given, "event_time": MONDAY_NOON_MS + at_ms, "amount_minor": amount}, Payment)


def features(history: list[Payment], keep: int = 256) -> dict[str, float | None]:
    """The last payment's features, by name."""
    values = build(history, Catalog(DEFAULT.features, keep)).values[-1]
    return {
        name: None if math.isnan(value) else float(value) for name, value in zip(DEFAULT.names, values, strict=True)
    }


@pytest.mark.parametrize(
    ("fields", "name", "expected"),
    [
        ({"amount": 1_234}, "amount_minor", 1_234),
        ({"amount": 2_000}, "is_round_amount", 1),
        ({"amount": 2_001}, "is_round_amount", 0),
        ({"amount": 0}, "is_round_amount", 1),
        ({"at_ms": 0}, "hour", 12),
        ({"at_ms": 90 * MINUTE}, "hour", 13.5),
        ({"at_ms": 12 * HOUR - 1}, "weekday", 0),
        ({"at_ms": 12 * HOUR}, "weekday", 1),
        ({"at_ms": 6 * DAY}, "weekday", 6),
        ({"channel": "pos"}, "channel", 1),
        ({"channel": "recurring"}, "channel", len(CHANNELS)),
        ({"channel": "carrier pigeon"}, "channel", len(CHANNELS) + 1),
        ({"channel": None}, "channel", MISSING),
        ({"mcc": "5411"}, "mcc", 5_411),
        ({"mcc": None}, "mcc", MISSING),
        ({"country": "SE", "card_country": "SE"}, "is_foreign", 0),
        ({"country": "US", "card_country": "SE"}, "is_foreign", 1),
        ({"country": None, "card_country": "SE"}, "is_foreign", MISSING),
        ({"country": "US", "card_country": None}, "is_foreign", MISSING),
    ],
)
def test_features_of_the_payment_alone(fields: dict[str, object], name: str, expected: float | None) -> None:
    assert features([payment(**fields)])[name] == expected  # type: ignore[arg-type]  # a table of mixed fields


def test_a_first_payment_has_counts_of_one_and_no_past() -> None:
    row = features([payment(amount=700)])
    assert row["card_count_1h"] == row["card_count_30d"] == row["merchant_count_7d"] == 1
    assert row["card_sum_24h"] == row["card_mean_7d"] == row["card_max_30d"] == 700
    assert row["card_merchants_7d"] == 1
    assert row["card_at_merchant_30d"] == 0
    for name in ("card_since_last_s", "card_amount_to_mean_30d", "card_amount_to_max_30d", "card_amount_zscore_30d"):
        assert row[name] is MISSING
    assert row["card_country_changed"] is MISSING


def test_a_payment_without_device_or_country_has_none_of_their_features() -> None:
    row = features([payment(device_id="d", country="SE"), payment(MINUTE)])
    assert all(row[name] is MISSING for name in DEFAULT.names if name.startswith("device_"))
    assert row["card_on_device_30d"] is MISSING
    assert row["card_country_changed"] is MISSING
    assert row["card_countries_7d"] == 1  # the earlier payment's


HISTORY = [
    payment(-31 * DAY, 9_000, merchant_id="old", country="US", device_id="d"),  # outside every window
    payment(-8 * DAY, 400, merchant_id="kiosk", country="SE", device_id="d"),  # 30 d only
    payment(-2 * DAY, 600, merchant_id="shop", country="SE", device_id="d"),  # 7 d
    payment(-2 * HOUR, 200, merchant_id="bar", country="NO", device_id="e"),  # 24 h
    payment(-30 * MINUTE, 300, merchant_id="shop", country="SE", device_id="d"),  # 1 h
    payment(0, 1_500, merchant_id="shop", country="DK", device_id="d"),
]


BY_HAND = [
    ("card_count_1h", 2),
    ("card_count_24h", 3),
    ("card_count_7d", 4),
    ("card_count_30d", 5),
    ("card_sum_1h", 1_800),
    ("card_sum_24h", 2_000),
    ("card_sum_7d", 2_600),
    ("card_sum_30d", 3_000),
    ("card_mean_7d", 650),
    ("card_mean_30d", 600),
    ("card_max_24h", 1_500),
    ("card_max_30d", 1_500),
    ("card_small_count_1h", 1),
    ("card_small_count_24h", 2),
    ("card_merchants_1h", 1),
    ("card_merchants_24h", 2),
    ("card_merchants_7d", 2),
    ("card_countries_7d", 3),
    ("card_since_last_s", 1_800),
    ("card_amount_to_mean_30d", 1_500 / 375),  # earlier: 400, 600, 200, 300
    ("card_amount_to_max_30d", 2.5),
    ("card_amount_zscore_30d", (1_500 - 375) / math.sqrt((25**2 + 225**2 + 175**2 + 75**2) / 4)),
    ("card_at_merchant_30d", 2),
    ("card_on_device_30d", 3),
    ("card_country_changed", 1),
    ("merchant_count_1h", 2),
    ("merchant_count_24h", 2),
    ("merchant_count_7d", 3),
    ("merchant_sum_24h", 1_800),
    ("merchant_mean_30d", 800),
    ("merchant_max_30d", 1_500),
    ("merchant_small_count_1h", 1),
    ("merchant_since_last_s", 1_800),
    ("merchant_amount_to_mean_30d", 1_500 / 450),
    ("device_count_1h", 2),
    ("device_count_24h", 2),
    ("device_sum_24h", 1_800),
    ("device_cards_24h", 1),
    ("device_cards_30d", 1),
    ("device_merchants_24h", 1),
    ("device_since_last_s", 1_800),
]


@pytest.mark.parametrize(("name", "expected"), BY_HAND)
def test_every_operation_by_hand(name: str, expected: float) -> None:
    assert features(HISTORY)[name] == pytest.approx(expected, rel=1e-6)
    assert fold(HISTORY, 256)[-1][name] == pytest.approx(expected, rel=1e-12)


def test_the_hand_computed_table_and_the_oracle_leave_no_feature_out() -> None:
    tested = {name for name, _ in BY_HAND}
    alone = {FEATURES[column].name for column in DEFAULT.payment_columns}
    assert tested | alone == set(DEFAULT.names) == set(fold(HISTORY, 256)[-1])


def test_a_window_holds_its_newest_edge_and_not_its_oldest() -> None:
    assert features([payment(0), payment(HOUR)])["card_count_1h"] == 1
    assert features([payment(0), payment(HOUR - 1)])["card_count_1h"] == 2
    assert features([payment(0), payment(0)])["card_count_1h"] == 2


def test_a_future_dated_record_does_not_count() -> None:
    row = features([payment(MINUTE, 9_000), payment(0, 500)])
    assert row["card_count_30d"] == 1
    assert row["card_max_30d"] == 500
    assert row["card_since_last_s"] is MISSING


def test_a_late_payment_is_placed_by_its_event_time_and_does_not_become_the_last() -> None:
    on_time, late, now = payment(-MINUTE, country="SE"), payment(-HOUR, country="US"), payment(0, country="SE")
    row = features([on_time, late, now])
    assert row["card_count_24h"] == 3
    assert row["card_count_1h"] == 2
    assert row["card_since_last_s"] == 60
    assert row["card_country_changed"] == 0


def test_of_equal_times_the_last_in_log_order_is_the_last() -> None:
    first, second, now = payment(-MINUTE, country="SE"), payment(-MINUTE, country="US"), payment(0, country="US")
    assert features([first, second, now])["card_country_changed"] == 0
    assert features([second, first, now])["card_country_changed"] == 1
    assert features([payment(0, country="SE"), payment(0, country="US")])["card_country_changed"] == 1


def test_an_unknown_country_of_the_last_payment_says_nothing() -> None:
    known, unknown, now = payment(-2 * MINUTE, country="SE"), payment(-MINUTE), payment(0, country="SE")
    assert features([known, unknown, now])["card_country_changed"] is MISSING


def test_amounts_that_never_varied_have_no_deviation_and_zero_amounts_no_ratio() -> None:
    assert features([payment(-2, 500), payment(-1, 500), payment(0, 900)])["card_amount_zscore_30d"] is MISSING
    row = features([payment(-1, 0), payment(0, 900)])
    assert row["card_amount_to_mean_30d"] is MISSING
    assert row["card_amount_to_max_30d"] is MISSING


def test_only_the_last_keep_records_are_seen() -> None:
    row = features([payment(number * SECOND, 100 + number) for number in range(10)], keep=4)
    assert row["card_count_30d"] == row["merchant_count_7d"] == 4
    assert row["card_sum_30d"] == 106 + 107 + 108 + 109


def test_a_repeated_event_id_weighs_nothing_anywhere() -> None:
    first = payment(0, 500, device_id="d")
    again = payment(MINUTE, 500, device_id="d", merchant_id="other", event_id=first.event_id)
    now = payment(2 * MINUTE, 700, device_id="d", merchant_id="other")
    assert build([first, again, now]).kept.tolist() == [True, False, True]
    row = features([first, again, now])
    assert row["card_count_1h"] == row["device_count_1h"] == 2
    assert row["merchant_count_1h"] == 1
    assert row["card_merchants_1h"] == 2  # `other` by this payment itself
    assert row["card_since_last_s"] == 120


def test_an_event_id_is_repeated_on_its_own_card_within_keep_records_only() -> None:
    first = payment(0)
    elsewhere = payment(1, card_id="another card", event_id=first.event_id)
    assert build([first, elsewhere]).kept.all()
    far = [first, *[payment(number) for number in range(1, 5)], payment(9, event_id=first.event_id)]
    assert not build(far, Catalog(DEFAULT.features, 5)).kept[-1]
    assert build(far, Catalog(DEFAULT.features, 4)).kept[-1]


def test_a_repeat_that_is_alone_in_its_windows_raises_no_warning() -> None:
    """Its own record weighs nothing, so that every window of it may be empty; pytest makes a warning an error."""
    first = payment(0)
    assert build([first, payment(40 * DAY, event_id=first.event_id)]).kept.tolist() == [True, False]


def test_every_declared_operation_exists_and_names_are_distinct() -> None:
    assert len(set(DEFAULT.names)) == len(DEFAULT.names) >= 30
    for feature in FEATURES:
        assert (feature.op in PAYMENT_OPS) if feature.entity is None else (feature.op in ENTITY_OPS)
        assert (feature.window_ms is None) == (feature.entity is None)
        assert feature.help


def test_the_fingerprint_moves_with_what_defines_a_value_and_not_with_the_help() -> None:
    same = Catalog(tuple(msgspec.structs.replace(feature, help="other words") for feature in FEATURES))
    assert same.fingerprint == DEFAULT.fingerprint
    assert Catalog(FEATURES, keep=255).fingerprint != DEFAULT.fingerprint
    assert Catalog(FEATURES[::-1]).fingerprint != DEFAULT.fingerprint
    assert Catalog(FEATURES[:-1]).fingerprint != DEFAULT.fingerprint


def test_a_batch_without_payments_moves_the_marker() -> None:
    store = MemoryStore(8)
    epoch = store.position().epoch
    store.adopt({("t", 0): 0})
    empty = batch_of([], topic="t", partition=[], offset=[])
    enriched = Enricher(DEFAULT, store).enrich(empty, (Span("t", 0, 0, 7, 0),), epoch)
    assert enriched.values.shape == (0, len(DEFAULT.names))
    assert store.position().markers == {("t", 0): 7}


class Forgetful(MemoryStore):
    """A store that can lose its logs and keep its markers."""

    def forget(self) -> None:
        self._logs.clear()


@pytest.mark.parametrize("more", [0, 1], ids=["every log is lost", "a log is lost"])
def test_a_lost_record_above_the_floor_is_a_regression_and_below_it_another_workers(more: int) -> None:
    store = Forgetful(8)
    epoch = store.position().epoch
    store.adopt({("t", 0): 0})
    enricher = Enricher(DEFAULT, store)
    history = [payment(), payment()][: 1 + more]
    enricher.enrich(batch_of(history[:1], topic="t", partition=[0], offset=[0]), (Span("t", 0, 0, 1, 0),), epoch)
    store.forget()
    again = batch_of(history, topic="t", partition=[0] * len(history), offset=range(len(history)))
    with pytest.raises(StateBehind, match="went back in time"):
        enricher.enrich(again, (Span("t", 0, 0, len(history), 0),), epoch)
    assert (
        enricher.enrich(again, (Span("t", 0, 0, len(history), 1),), epoch).stale.tolist() == [True, False][: 1 + more]
    )


def test_what_others_have_committed_meanwhile_is_not_due_even_where_its_record_is_still_there() -> None:
    """Its logs may be trimmed too far for its features: a worker that woke up late must not publish them."""
    store = MemoryStore(2)
    epoch = store.position().epoch
    store.adopt({("t", 0): 0})
    enricher = Enricher(DEFAULT, store)
    history = [payment(number, card_id=f"card{number}") for number in range(6)]

    def enriched(start: int, end: int, floor: int) -> Enriched:
        batch = batch_of(history[start:end], topic="t", partition=[0] * (end - start), offset=range(start, end))
        return enricher.enrich(batch, (Span("t", 0, start, end, floor),), epoch)

    assert not enriched(0, 4, 0).stale.any()
    enriched(4, 6, 4)
    late = enriched(2, 6, 2)
    assert late.stale.tolist() == [True, True, False, False]
    assert not enriched(2, 6, 4).stale.any()  # a catch-up knows that they are committed


def test_payment_only_leaves_every_entity_feature_missing() -> None:
    batch = batch_of([payment()], topic="t", partition=[0], offset=[0])
    values = Enricher(DEFAULT, MemoryStore(8)).payment_only(batch)[0]
    alone = np.zeros(len(DEFAULT.names), np.bool_)
    alone[list(DEFAULT.payment_columns)] = True
    assert np.isnan(values[~alone]).all()
    assert values[DEFAULT.names.index("amount_minor")] == 1_000
