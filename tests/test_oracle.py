"""The oracle on histories so small that their values can be worked out by hand from `docs/features.md`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import count

import msgspec
import pytest

from features.catalog import DEFAULT, HANDBOOK, Catalog, Counterpart, Entity, Feature, Limits
from features.event import Label, Payment
from tests.oracle import OF_THE_PAYMENT, OVER_A_LOG, ROUNDED, Row, bucket_bounds, differences, fold, repeats

SECOND, MINUTE, HOUR, DAY = 1_000, 60_000, 3_600_000, 86_400_000
MONDAY = 1_750_032_000_000  # 2025-06-16 00:00 UTC
NOON = MONDAY + 12 * HOUR
LIMITS = Limits()
Record = Payment | Label
NUMBERS = count()


def payment(time_ms: int, amount: int = 1_000, event_id: str | None = None, **fields: str | None) -> Payment:
    given = {
        "event_id": f"e{next(NUMBERS)}" if event_id is None else event_id,
        "event_time": time_ms,
        "amount_minor": amount,
        "card_id": "card",
        "merchant_id": "shop",
        "currency": "EUR",
    }
    return msgspec.convert({**given, **fields}, Payment)


def label(time_ms: int, event_id: str | None = None, *, genuine: bool = False, **fields: str) -> Label:
    given = {
        "event_id": f"e{next(NUMBERS)}" if event_id is None else event_id,
        "event_time": time_ms,
        "label": "genuine" if genuine else "fraud",
        "labelled_at": time_ms,
        "source": "analyst",
        "card_id": "card",
        "merchant_id": "shop",
    }
    return msgspec.convert({**given, **fields}, Label)


def value(
    op: str,
    log: Sequence[Record],
    window_ms: int = 30 * DAY,
    delay_ms: int = 0,
    *,
    entity: Entity | None = "card",
    of: Counterpart | None = None,
    limits: Limits = LIMITS,
) -> float | None:
    """One operation, of the last payment of a log."""
    feature = Feature("it", "group", entity, op, "count", "missing", "", window_ms, delay_ms, of)
    return fold(log, Catalog((feature,), limits))[-1]["it"]


@pytest.mark.parametrize(
    ("op", "of_payment", "expected"),
    [
        ("amount", payment(NOON, 1_234), 1_234),
        ("round_amount", payment(NOON, 2_000), 1),
        ("round_amount", payment(NOON, 2_001), 0),
        ("round_amount", payment(NOON, 0), 1),
        ("hour", payment(NOON + 90 * MINUTE), 13.5),
        ("hour", payment(MONDAY), 0),
        ("weekday", payment(MONDAY), 0),
        ("weekday", payment(MONDAY - 1), 6),
        ("weekend", payment(MONDAY + 5 * DAY - 1), 0),
        ("weekend", payment(MONDAY + 5 * DAY), 1),
        ("weekend", payment(MONDAY - 1), 1),
        ("night", payment(MONDAY), 1),
        ("night", payment(MONDAY + 7 * HOUR - 1), 1),
        ("night", payment(MONDAY + 7 * HOUR), 0),
        ("channel", payment(NOON, channel="pos"), 1),
        ("channel", payment(NOON, channel="recurring"), 6),
        ("channel", payment(NOON, channel="carrier pigeon"), 7),
        ("channel", payment(NOON), None),
        ("mcc", payment(NOON, mcc="0742"), 742),
        ("mcc", payment(NOON, mcc="0000"), None),
        ("mcc", payment(NOON, mcc="shop"), None),
        ("mcc", payment(NOON), None),
        ("foreign", payment(NOON, country="SE", card_country="SE"), 0),
        ("foreign", payment(NOON, country="US", card_country="SE"), 1),
        ("foreign", payment(NOON, country="US"), None),
        ("foreign", payment(NOON, card_country="US"), None),
    ],
)
def test_the_payment_alone(op: str, of_payment: Payment, expected: float | None) -> None:
    assert value(op, [of_payment], entity=None) == expected


HISTORY = [
    payment(NOON - 25 * HOUR, 9_000, merchant_id="bar", country="US", device_id="e", ip="1.1.1.1", mcc="0000"),
    payment(NOON - 20 * HOUR, 400, merchant_id="kiosk", country="SE", device_id="d", ip="1.1.1.1", mcc="5411"),
    payment(NOON - 3 * HOUR, 600, merchant_id="shop", country="NO", mcc="5411"),
    payment(NOON - 30 * MINUTE, 200, merchant_id="shop", country="SE", device_id="d", mcc="5812"),
    payment(NOON, 1_500, merchant_id="shop", country="SE", device_id="d", mcc="5411"),
]
DEVIATION = math.sqrt((0**2 + 200**2 + 200**2) / 3)  # of 400, 600, 200


@pytest.mark.parametrize(
    ("op", "window_ms", "of", "expected"),
    [
        ("count", DAY, None, 4),
        ("count_before", DAY, None, 4),
        ("sum", DAY, None, 2_700),
        ("sum", 25 * HOUR + 1, None, 11_700),
        ("max", DAY, None, 1_500),
        ("max", 26 * HOUR, None, 9_000),
        ("small_count", DAY, None, 2),
        ("mean", DAY, None, 675),
        ("std", DAY, None, DEVIATION),
        ("amount_to_mean", DAY, None, 1_500 * 3 / 1_200),
        ("amount_to_max", DAY, None, 2.5),
        ("amount_to_min", DAY, None, 7.5),
        ("amount_zscore", DAY, None, (1_500 - 400) / DEVIATION),
        ("distinct", DAY, "merchant", 2),
        ("distinct", DAY, "country", 2),
        ("distinct", DAY, "device", 1),
        ("distinct", DAY, "ip", 1),
        ("distinct", 26 * HOUR, "mcc", 2),  # 0000 is none
        ("same", DAY, "merchant", 2),
        ("same", DAY, "country", 2),
        ("same", DAY, "device", 2),
        ("same", DAY, "mcc", 2),
        ("same", DAY, "ip", None),
        ("since_last", DAY, None, 1_800),
        ("since_last", 30 * MINUTE, None, None),
        ("since_last_ratio", DAY, None, 0.5 * 3 / 20),
        ("velocity", HOUR, None, 2 / (4 * 1 / 720)),
        ("near_hour", DAY, None, 1 / 3),  # of 16:00, 09:00, 11:30
        ("country_changed", DAY, None, 0),
    ],
)
def test_an_operation_over_a_history(op: str, window_ms: int, of: Counterpart | None, expected: float | None) -> None:
    assert value(op, HISTORY, window_ms, of=of) == (None if expected is None else pytest.approx(expected, rel=1e-12))


@pytest.mark.parametrize(
    ("op", "expected"),
    [("count", 1), ("sum", 700), ("max", 700), ("mean", 700), ("small_count", 0)]
    + [("distinct", 1), ("same", 0), ("frauds", 0), ("fraud_rate", 0), ("risk", 0)]
    + [(op, None) for op in ("std", "amount_to_mean", "amount_to_max", "amount_to_min", "amount_zscore", "since_last")]
    + [(op, None) for op in ("since_last_ratio", "velocity", "near_hour", "country_changed")],
)
def test_a_first_payment(op: str, expected: float | None) -> None:
    assert value(op, [payment(NOON, 700, country="SE")], of="merchant") == expected


def test_an_entity_that_the_payment_does_not_name_is_missing() -> None:
    log = [payment(NOON, terminal_id="t", account_id="a", ip="i"), payment(NOON)]
    for entity in ("account", "terminal", "device", "ip"):
        assert value("count", log, entity=entity) is None
        assert value("risk", log, entity=entity) is None
    assert value("count", log, entity="merchant") == 2
    assert value("count", [*log, payment(NOON, card_id="other", account_id="a")], entity="account") == 2


def test_a_small_amount_is_under_5() -> None:
    assert value("small_count", [payment(NOON, 500), payment(NOON, 499), payment(NOON, 0)]) == 2


def test_amounts_of_nothing() -> None:
    free = [payment(NOON, 0), payment(NOON, 700)]
    assert value("amount_to_mean", free) is None
    assert value("amount_to_max", free) is None
    assert value("amount_to_min", free) == 700


@pytest.mark.parametrize(
    ("amounts", "expected"),
    [
        ((0, 0), 0),
        ((500, 500), 0),
        ((999_999, 1_000_001), 1),  # a variance of 1 is not below 1e-12 of (10**6)**2
        ((1_000_000, 1_000_002), 0),  # it is below that of (10**6 + 1)**2
    ],
)
def test_a_deviation_of_next_to_nothing_is_none(amounts: tuple[int, int], expected: float) -> None:
    log = [*(payment(NOON, amount) for amount in amounts), payment(NOON, 5)]
    assert value("std", log) == expected
    assert value("amount_zscore", log) == (5 - 1_000_000 if expected else None)
    assert value("std", log[1:]) is None


def test_hours_are_near_around_the_clock() -> None:
    log = [payment(MONDAY + 22 * HOUR - 1), payment(MONDAY + 22 * HOUR), payment(MONDAY + 26 * HOUR)]
    assert value("near_hour", [*log, payment(MONDAY + DAY)]) == 0.5  # what is later is no earlier payment
    assert value("near_hour", [*log, payment(MONDAY + 2 * DAY)]) == pytest.approx(2 / 3)
    assert value("near_hour", [payment(MONDAY + 2 * HOUR + 1), payment(MONDAY + DAY)]) == 0


def test_equal_times_have_no_usual_gap() -> None:
    assert value("since_last_ratio", [payment(NOON), payment(NOON)]) is None
    assert value("since_last", [payment(NOON), payment(NOON)]) == 0


@pytest.mark.parametrize(
    ("last", "own", "expected"), [("SE", "US", 1), ("US", "US", 0), (None, "US", None), ("US", None, None)]
)
def test_a_changed_country(last: str | None, own: str | None, expected: float | None) -> None:
    log = [payment(NOON, country="NO"), payment(NOON, country=last), payment(NOON, country=own)]
    assert value("country_changed", log) == expected


def test_a_window_holds_its_near_edge_and_not_its_far_edge() -> None:
    log = [payment(NOON, 10), payment(NOON + 10 * MINUTE, 1)]
    assert value("sum", log, 10 * MINUTE) == 1
    assert value("sum", log, 10 * MINUTE + 1) == 11
    assert value("sum", log, 1, 10 * MINUTE) == 10  # a delayed window has no own record
    assert value("sum", log, DAY, 10 * MINUTE + 1) == 0
    assert value("count_before", log, DAY, 10 * MINUTE) == 1
    assert value("distinct", log, DAY, 10 * MINUTE + 1, of="merchant") == 0


def test_a_late_payment_is_placed_by_its_event_time() -> None:
    log = [
        payment(NOON - HOUR, 10, country="SE"),
        payment(NOON + HOUR, 100, country="US"),
        payment(NOON, 1, country="SE"),
    ]
    assert value("sum", log) == 11
    assert value("since_last", log) == 3_600
    assert value("country_changed", log) == 0
    after = [*log, payment(NOON + 2 * HOUR, country="US")]
    assert value("since_last", after) == 3_600  # NOON is recorded last and yet not the last payment
    assert value("country_changed", after) == 0


SHORT = Limits(keep=128, horizon_ms=2 * DAY)
THURSDAY = MONDAY + 3 * DAY  # when Monday has ended two days ago


def test_a_day_is_forgotten_when_it_ended_the_horizon_ago() -> None:
    assert value("count", [payment(NOON), payment(THURSDAY - 1)], limits=SHORT) == 2
    assert value("count", [payment(NOON), payment(THURSDAY)], limits=SHORT) == 1


def test_raw_records_are_forgotten_from_the_oldest_on() -> None:
    late = [payment(NOON + 2 * DAY), payment(NOON), payment(THURSDAY)]
    assert value("count", late, limits=SHORT) == 3  # Monday's lies behind Wednesday's
    assert value("count", [*late, payment(THURSDAY + 2 * DAY)], limits=SHORT) == 2  # of Friday's end: they are gone
    assert value("count", [payment(THURSDAY), payment(NOON)], limits=SHORT) == 1  # the own one is always there
    assert value("count", [payment(THURSDAY), payment(NOON), payment(NOON)], limits=SHORT) == 2


def test_buckets_are_forgotten_wherever_they_lie() -> None:
    limits = Limits(keep=1, horizon_ms=2 * DAY)
    late = [payment(NOON + 2 * DAY), payment(NOON)]
    assert value("count", [*late, payment(THURSDAY - 1)], limits=limits) == 3
    assert value("count", [*late, payment(THURSDAY)], limits=limits) == 2
    assert value("count", [*late, payment(THURSDAY - 1), payment(THURSDAY)], limits=limits) == 3


@pytest.mark.parametrize(
    ("newest_ms", "start_ms", "length_ms"),
    [
        (NOON + 4 * MINUTE, NOON + 3 * MINUTE, MINUTE),
        (NOON + 15 * MINUTE - 1, NOON + 3 * MINUTE, MINUTE),  # 12:10 is after 12:15 - 5 minutes less 1 ms
        (NOON + 15 * MINUTE, NOON, 10 * MINUTE),
        (NOON + 3 * HOUR - 1, NOON, 10 * MINUTE),  # 14:00 is after 15:00 - 1 hour less 1 ms
        (NOON + 3 * HOUR, NOON, 2 * HOUR),
        (MONDAY + 2 * DAY - 1, NOON, 2 * HOUR),
        (MONDAY + 2 * DAY, MONDAY, DAY),
        (MONDAY + 30 * DAY, MONDAY, DAY),
    ],
)
def test_a_bucket_grows_coarser_with_age(newest_ms: int, start_ms: int, length_ms: int) -> None:
    assert bucket_bounds(NOON + 3 * MINUTE + 20 * SECOND, newest_ms) == (start_ms, start_ms + length_ms)


@pytest.mark.parametrize(
    ("later_ms", "age_ms"),
    [
        (14 * MINUTE, 10 * MINUTE + 30 * SECOND),  # 12:14:00 less 12:03:30
        (30 * MINUTE, 25 * MINUTE),  # 12:30 less 12:05
        (4 * HOUR, 3 * HOUR),  # 16:00 less 13:00
        (2 * DAY, 2 * DAY),  # Wednesday noon less Monday noon
    ],
)
def test_a_bucket_has_the_age_of_its_middle(later_ms: int, age_ms: int) -> None:
    log = [payment(NOON + 3 * MINUTE + 20 * SECOND, 10), payment(NOON + later_ms, 1)]
    one = Limits(keep=1)
    assert value("sum", log, age_ms, limits=one) == 1
    assert value("sum", log, age_ms + 1, limits=one) == 11
    assert value("sum", log, 1, age_ms, limits=one) == 10
    assert value("sum", log, DAY, age_ms + 1, limits=one) == 0
    exact_ms = later_ms - 3 * MINUTE - 20 * SECOND
    assert value("sum", log, exact_ms, limits=Limits(keep=2)) == 1
    assert value("sum", log, exact_ms + 1, limits=Limits(keep=2)) == 11


def test_a_bucket_that_began_before_a_late_payment_has_no_age() -> None:
    log = [payment(NOON + 8 * MINUTE, 10), payment(NOON + 59 * MINUTE, 100), payment(NOON + 3 * MINUTE, 1)]
    one = Limits(keep=1)
    assert value("sum", log, 1, limits=one) == 11  # 12:08 lies in 12:00 to 12:10; 12:59 begins after 12:03
    assert value("sum", log, DAY, 1, limits=one) == 0
    assert value("sum", log, limits=Limits(keep=3)) == 1
    edge = [payment(NOON + 8 * MINUTE, 10), payment(NOON + 59 * MINUTE, 100)]
    assert value("sum", [*edge, payment(NOON - 1, 1)], limits=one) == 1
    assert value("sum", [*edge, payment(NOON, 1)], limits=one) == 11


def test_the_newest_are_those_recorded_last() -> None:
    """So a late record takes the place of one of a later time: 12:59 becomes a bucket, and 12:03 stays raw."""
    log = [payment(NOON + 59 * MINUTE), payment(NOON + 3 * MINUTE), payment(NOON + 60 * MINUTE)]
    assert value("since_last", log, limits=Limits(keep=2)) == 57 * 60


DEVIATION_BUCKETED = math.sqrt(3 * (900**2 + 100**2 + 300**2) - 1_300**2) / 3  # of 900, 100, 300


@pytest.mark.parametrize(
    ("op", "of", "expected"),
    [
        ("count", None, 4),
        ("sum", None, 1_700),
        ("max", None, 900),
        ("small_count", None, 3),
        ("mean", None, 425),
        ("std", None, DEVIATION_BUCKETED),
        ("amount_to_mean", None, 400 * 3 / 1_300),
        ("amount_to_max", None, 400 / 900),
        ("amount_zscore", None, (400 - 1_300 / 3) / DEVIATION_BUCKETED),
        ("amount_to_min", None, 400 / 300),
        ("velocity", None, 4 / 3),
        ("count_before", None, 4),
        ("distinct", "merchant", 2),
        ("same", "merchant", 0),
        ("since_last", None, 60),
        ("since_last_ratio", None, 1),
        ("near_hour", None, 1),
        ("country_changed", None, 1),
    ],
)
def test_what_uses_buckets_and_what_uses_raw_records_only(op: str, of: Counterpart | None, expected: float) -> None:
    """With `keep` = 2 the first two payments are in buckets; their merchant and country are not known any more."""
    log = [
        payment(NOON - DAY, 900, merchant_id="shop", country="US"),
        payment(NOON - HOUR, 100, merchant_id="shop", country="US"),
        payment(NOON - MINUTE, 300, merchant_id="kiosk", country="SE"),
        payment(NOON, 400, merchant_id="shop", country="US"),
    ]
    assert value(op, log, of=of, limits=Limits(keep=2)) == pytest.approx(expected, rel=1e-12)


WEEK = LIMITS.duplicate_ms


def test_an_event_id_is_repeated_for_the_duplicate_horizon() -> None:
    first = payment(NOON, event_id="a")
    assert repeats([first, payment(NOON + WEEK - 1, event_id="a")], LIMITS) == [False, True]
    assert repeats([first, payment(NOON + WEEK, event_id="a")], LIMITS) == [False, False]
    assert repeats([first, payment(NOON + WEEK), first], LIMITS) == [False, False, False]  # by the log's clock
    assert value("since_last", [first, payment(NOON + WEEK), first]) == 0  # so it is an earlier payment
    assert repeats([first, payment(NOON, event_id="a", card_id="other")], LIMITS) == [False, False]
    assert repeats([label(NOON, "a"), first, label(NOON), first], LIMITS) == [False, True]


def test_an_event_id_is_repeated_among_raw_records_only() -> None:
    log = [payment(NOON, event_id=event_id) for event_id in "abca"]
    assert repeats(log, Limits(keep=4)) == [False, False, False, True]
    assert repeats(log, Limits(keep=3)) == [False, False, False, False]
    again = [payment(NOON, event_id="a")] * 3
    assert repeats(again, Limits(keep=2)) == [False, True, True]  # a repeated record repeats
    assert repeats(again, Limits(keep=1)) == [False, False, False]


def test_a_repeated_record_weighs_nothing_raw_or_bucketed_but_takes_a_place() -> None:
    log = [payment(NOON, 100, "a"), payment(NOON, 100, "a"), payment(NOON, 10), payment(NOON, 1)]
    elsewhere = payment(NOON, 100, "a", merchant_id="bar")
    assert fold(log)[1] == {}
    for keep in (2, 3, 4):
        assert value("sum", log, limits=Limits(keep=keep)) == 111
    assert value("distinct", [log[0], elsewhere, payment(NOON, merchant_id="kiosk")], of="merchant") == 2
    assert value("same", log[:3], of="merchant") == 1
    assert value("since_last", [log[0], payment(NOON + SECOND, 5, "a"), payment(NOON + 2 * SECOND)]) == 2
    assert value("amount_to_min", log, limits=Limits(keep=2)) == 0.1
    assert value("amount_to_min", log[:3], limits=Limits(keep=2)) is None  # 100 left to make room for what repeats it


def test_each_log_judges_repetition_by_itself() -> None:
    """A merchant sees one event id from two cards: each card's payment is due, and the second weighs nothing here."""
    log = [payment(NOON, 100, "a", card_id="one"), payment(NOON + HOUR, 7, "a", card_id="two")]
    assert repeats(log, LIMITS) == [False, False]
    assert value("sum", log) == 7
    for op, expected in {
        "sum": 100,
        "count": 1,
        "mean": 100,
        "max": 100,
        "since_last": 3_600,
        "small_count": 1,
    }.items():
        assert value(op, log, entity="merchant") == expected
    assert value("distinct", log, entity="merchant", of="card") == 1
    for op, nothing in {"sum": 0, "count": 0, "mean": None, "max": None, "fraud_rate": None, "risk": 0}.items():
        assert value(op, log, HOUR, entity="merchant") == nothing


def test_frauds_are_counted_by_their_payments_time() -> None:
    log: list[Record] = [payment(NOON), payment(NOON + HOUR), label(NOON, "a"), payment(NOON + 2 * HOUR)]
    assert value("frauds", log, 2 * HOUR) == 0
    assert value("frauds", log, 2 * HOUR + 1) == 1
    assert value("fraud_rate", log, 2 * HOUR + 1) == pytest.approx(1 / 3)
    assert value("frauds", [*log, payment(NOON - 1)]) == 0  # a negative age
    assert value("frauds", [*log, payment(NOON)], 1) == 1
    assert value("frauds", [log[2], log[0]]) == 1  # a label needs no payment before it


def test_a_rate_is_over_a_delayed_window() -> None:
    log: list[Record] = [
        payment(NOON, event_id="a"),
        payment(NOON + DAY, event_id="b"),
        label(NOON, "a"),
        label(NOON + 7 * DAY, "c"),
        payment(NOON + 7 * DAY, event_id="c"),
    ]
    assert value("fraud_rate", log, 30 * DAY, 6 * DAY) == 0.5
    assert value("count_before", log, 30 * DAY, 6 * DAY) == 2
    assert value("fraud_rate", log, 30 * DAY, 6 * DAY + 1) == 1
    assert value("risk", log, 30 * DAY, 6 * DAY + 1) == 1
    assert value("risk", log, DAY, 6 * DAY) == 0
    assert value("fraud_rate", log, DAY, 6 * DAY) == 0
    assert value("fraud_rate", log, 30 * DAY, 7 * DAY + 1) is None
    assert value("risk", log, 30 * DAY, 7 * DAY + 1) == 0


def test_a_label_counts_for_the_entities_that_it_names() -> None:
    own = payment(NOON, account_id="a", terminal_id="t", device_id="d", ip="i")
    for entity in ("card", "merchant"):
        assert value("frauds", [label(NOON), own], entity=entity) == 1
    for entity, field in {
        "account": "account_id",
        "terminal": "terminal_id",
        "device": "device_id",
        "ip": "ip",
    }.items():
        its_id = field[0]
        assert value("frauds", [label(NOON), own], entity=entity) == 0  # type: ignore[arg-type]  # a str
        assert value("frauds", [label(NOON, **{field: its_id}), own], entity=entity) == 1  # type: ignore[arg-type]  # same
    assert value("frauds", [label(NOON, card_id="other"), own]) == 0


def test_a_label_may_be_repeated_reversed_and_given_again() -> None:
    fraud, genuine, own = label(NOON, "a"), label(NOON, "a", genuine=True), payment(NOON)
    assert value("frauds", [fraud, fraud, own]) == 1
    assert value("frauds", [fraud, genuine, own]) == 0
    assert value("frauds", [genuine, fraud, own]) == 1
    assert value("frauds", [fraud, genuine, fraud, own]) == 1
    assert value("frauds", [fraud, label(NOON, "b", genuine=True), own]) == 1


TWO = Limits(frauds=2)


def test_the_oldest_of_too_many_labels_is_frozen_in_its_day() -> None:
    labels: list[Record] = [label(MONDAY, "a"), label(NOON, "b"), label(NOON, "c")]
    own = payment(NOON + DAY)
    assert value("frauds", [*labels, own], DAY, limits=TWO) == 0
    assert value("frauds", [*labels, own], DAY + 1, limits=TWO) == 3  # 36 hours ago, but frozen at Monday noon
    assert value("frauds", [*labels, own], DAY + 1) == 2
    assert value("frauds", [*labels, payment(MONDAY + HOUR)], 1, limits=TWO) == 1  # its day had begun: no age
    assert value("frauds", [*labels, payment(MONDAY - 1)], limits=TWO) == 0  # its day had not


def test_what_is_frozen_is_not_reversed() -> None:
    labels: list[Record] = [label(NOON, "a"), label(NOON, "b"), label(NOON, "c")]
    own = payment(NOON)
    assert value("frauds", [*labels, label(NOON, "a", genuine=True), own], limits=TWO) == 3
    assert value("frauds", [*labels, label(NOON, "b", genuine=True), own], limits=TWO) == 2
    assert value("frauds", [*labels, label(NOON, "a"), own], limits=TWO) == 4  # nobody knows any more that it counts
    room: list[Record] = [
        labels[0],
        labels[1],
        label(NOON, "a", genuine=True),
        labels[2],
        label(NOON, "b", genuine=True),
        own,
    ]
    assert value("frauds", room, limits=TWO) == 1


def test_frauds_are_forgotten_with_their_day() -> None:
    limits = Limits(horizon_ms=2 * DAY, frauds=2)
    early = label(NOON, "a")
    assert value("frauds", [early, payment(THURSDAY - 1)], limits=limits) == 1
    assert value("frauds", [early, payment(THURSDAY)], limits=limits) == 0
    assert value("frauds", [payment(THURSDAY), early, payment(NOON)], limits=limits) == 0
    frozen: list[Record] = [early, label(NOON + 2 * DAY, "b"), label(NOON + 2 * DAY, "c")]
    assert value("frauds", [*frozen, payment(THURSDAY - 1)], limits=limits) == 3
    assert value("frauds", [*frozen, payment(THURSDAY)], limits=limits) == 2
    room: list[Record] = [label(NOON + 2 * DAY, "b"), early, payment(THURSDAY), label(THURSDAY, "c")]
    assert value("frauds", [*room, label(THURSDAY, "b", genuine=True), payment(THURSDAY)], limits=limits) == 1
    full: list[Record] = [payment(THURSDAY), label(THURSDAY, "b"), label(THURSDAY, "c"), early]  # takes no place
    assert value("frauds", [*full, label(THURSDAY, "b", genuine=True), payment(THURSDAY)], limits=limits) == 1


def test_rows_are_the_payments_in_the_order_given() -> None:
    log: list[Record] = [payment(NOON, 10), label(NOON), payment(NOON, 1)]
    names = ("card_sum_24h", "card_frauds_30d")
    assert fold(log, names=names) == [
        {"card_sum_24h": 10, "card_frauds_30d": 0},
        {"card_sum_24h": 11, "card_frauds_30d": 1},
    ]
    assert fold(log, names=names, order=[2, 1, 0]) == [
        {"card_sum_24h": 11, "card_frauds_30d": 1},
        {"card_sum_24h": 1, "card_frauds_30d": 0},
    ]
    twice = [payment(NOON, 1, "a"), payment(NOON, 2, "a")]
    assert repeats(twice, LIMITS, order=[1, 0]) == [True, False]
    assert fold(twice, names=["amount_minor"], order=[1, 0]) == [{}, {"amount_minor": 2}]


def test_every_feature_is_known_to_the_oracle() -> None:
    declared = {feature.op for catalog in (DEFAULT, HANDBOOK) for feature in catalog.features}
    assert declared <= set(OVER_A_LOG) | set(OF_THE_PAYMENT)
    for catalog in (DEFAULT, HANDBOOK):
        assert tuple(fold(HISTORY, catalog)[-1]) == catalog.names
    with pytest.raises(ValueError, match="does not say its account"):
        value("distinct", HISTORY, of="account")  # type: ignore[arg-type]  # what the declaration can't say


def test_names_tell_what_is_rounded() -> None:
    rounded = {"mean", "std", "amount_to_mean", "amount_to_max", "amount_to_min", "amount_zscore", "since_last_ratio"}
    rounded |= {"velocity", "near_hour", "fraud_rate", "risk"}
    for feature in (*DEFAULT.features, *HANDBOOK.features):
        assert any(part in feature.name for part in ROUNDED) == (feature.op in rounded)


@pytest.mark.parametrize(
    ("name", "got", "want", "same"),
    [
        ("card_count_1h", 2.0, 2.0, True),
        ("card_count_1h", 2.0, 3.0, False),
        ("card_sum_1h", 16_777_216.0, 16_777_217.0, True),  # as float32
        ("card_since_last_s", 1.0, 1.0000009, False),
        ("card_mean_7d", 1.0, 1.0000009, True),
        ("card_mean_7d", 1.0, 1.000002, False),
        ("card_mean_7d", math.nan, None, True),
        ("card_mean_7d", math.nan, 0.0, False),
        ("card_mean_7d", 0.0, None, False),
    ],
)
def test_differences(name: str, got: float, want: float | None, same: bool) -> None:
    expected: Row = {name: want}
    assert (differences([got], [name], expected) == []) == same
