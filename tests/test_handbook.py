"""The handbook profile against the book's own definition, in plain Python.

Chapter 3 of the Fraud Detection Handbook: a rolling window of w days over time-ordered payments holds those of
(t - w, t], and of equal times the own and those before it. A terminal's payments and frauds in the w days that ended 7
days ago are the rolling value of 7 + w days less that of 7 days; its risk is one over the other, 0 when there are none.
In the book every fraud is known after 7 days, so here each payment's label comes exactly 7 days after it.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from random import Random

import pytest

from features.catalog import DAY_MS, HANDBOOK, HOUR_MS, Catalog, Limits
from features.event import Label, Payment
from features.offline import build
from tests.oracle import Row, differences, fold

UNBOUNDED = Catalog(HANDBOOK.features, Limits(10_000, 400 * DAY_MS, 400 * DAY_MS, 1_000))  # nothing is bucketed
START_MS = 1_750_032_000_000  # 2025-06-16 00:00 UTC, a Monday
DELAY = timedelta(days=7)


def history() -> list[tuple[Payment, bool]]:
    """600 payments over 70 days in time order and whether they are frauds; many times are equal or whole days apart."""
    random = Random(3)
    times = sorted(START_MS + random.randrange(70 * 12) * 2 * HOUR_MS for _ in range(600))
    return [
        (
            Payment(
                event_id=f"e{number}",
                event_time=time_ms,
                card_id=f"customer{random.randrange(5)}",
                merchant_id="shop",
                amount_minor=random.randrange(20_000),
                currency="EUR",
                terminal_id=f"terminal{random.randrange(6)}",
            ),
            random.random() < 0.15,
        )
        for number, time_ms in enumerate(times)
    ]


def recorded(payments: list[tuple[Payment, bool]]) -> list[Payment | Label]:
    """The payments, and each one's label 7 days later; before a payment of the same moment."""
    labels = [
        Label(
            event_id=payment.event_id,
            card_id=payment.card_id,
            merchant_id=payment.merchant_id,
            event_time=payment.event_time,
            label="fraud" if fraud else "genuine",
            labelled_at=payment.event_time + 7 * DAY_MS,
            source="chargeback",
            terminal_id=payment.terminal_id,
        )
        for payment, fraud in payments
    ]
    timed: list[tuple[int, int, Payment | Label]] = [(label.labelled_at, 0, label) for label in labels]
    timed += [(payment.event_time, 1, payment) for payment, _ in payments]
    return [record for _, _, record in sorted(timed, key=lambda entry: entry[:2])]


def by_the_book(payments: list[tuple[Payment, bool]]) -> list[Row]:
    times = [datetime.fromtimestamp(payment.event_time / 1000, UTC) for payment, _ in payments]
    return [book_row(payments[: last + 1], times[: last + 1]) for last in range(len(payments))]


def book_row(payments: list[tuple[Payment, bool]], times: list[datetime]) -> Row:
    """The last payment's 15 inputs."""
    own, now = payments[-1][0], times[-1]
    customer = [
        (time, payment.amount_minor)
        for (payment, _), time in zip(payments, times, strict=True)
        if payment.card_id == own.card_id
    ]
    terminal = [
        (time, int(fraud))
        for (payment, fraud), time in zip(payments, times, strict=True)
        if payment.terminal_id == own.terminal_id
    ]
    row: Row = {
        "TX_AMOUNT": own.amount_minor,
        "TX_DURING_WEEKEND": int(now.weekday() >= 5),
        "TX_DURING_NIGHT": int(now.hour <= 6),
    }
    for days in (1, 7, 30):
        window = timedelta(days=days)
        amounts = rolling(customer, now, window)
        row[f"CUSTOMER_ID_NB_TX_{days}DAY_WINDOW"] = len(amounts)
        row[f"CUSTOMER_ID_AVG_AMOUNT_{days}DAY_WINDOW"] = sum(amounts) / len(amounts)
        long, short = rolling(terminal, now, DELAY + window), rolling(terminal, now, DELAY)
        n, frauds = len(long) - len(short), sum(long) - sum(short)
        row[f"TERMINAL_ID_NB_TX_{days}DAY_WINDOW"] = n
        row[f"TERMINAL_ID_RISK_{days}DAY_WINDOW"] = frauds / n if n else 0
    return row


def rolling(values: list[tuple[datetime, int]], now: datetime, window: timedelta) -> list[int]:
    return [value for time, value in values if now - window < time <= now]


@pytest.fixture(scope="module")
def payments() -> list[tuple[Payment, bool]]:
    return history()


@pytest.fixture(scope="module")
def book(payments: list[tuple[Payment, bool]]) -> list[Row]:
    return by_the_book(payments)


def test_the_history_has_what_could_go_wrong(payments: list[tuple[Payment, bool]], book: list[Row]) -> None:
    times = [payment.event_time for payment, _ in payments]
    apart_days = {(b - a) / DAY_MS for a in times for b in times}
    assert {0, 1, 7, 8, 14, 30, 37} < apart_days  # every edge of a window
    assert len(set(times)) < len(times)
    risks = [row["TERMINAL_ID_RISK_1DAY_WINDOW"] for row in book]
    assert {0, 1} < set(risks)
    assert any(row["TERMINAL_ID_NB_TX_30DAY_WINDOW"] == 0 for row in book)
    assert any(row["TX_DURING_WEEKEND"] for row in book)
    assert any(row["TX_DURING_NIGHT"] for row in book)


def test_the_oracle_is_the_book(payments: list[tuple[Payment, bool]], book: list[Row]) -> None:
    for row, expected in zip(fold(recorded(payments), UNBOUNDED), book, strict=True):
        assert set(row) == set(expected) == set(HANDBOOK.names)
        for name, value in row.items():
            assert value is not None
            assert math.isclose(value, expected[name] or 0, rel_tol=1e-12), name


def test_the_offline_fold_is_the_book(payments: list[tuple[Payment, bool]], book: list[Row]) -> None:
    offline = build(recorded(payments), UNBOUNDED)
    assert offline.kept.all()
    for values, expected in zip(offline.values, book, strict=True):
        assert differences(values, HANDBOOK.names, expected) == []
