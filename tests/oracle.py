"""The naive fold of a payments log: what state, features and duplicates must equal, in lists, loops and fractions.

It shares no code with `features.windows` or `features.enrich` and is meant to be read beside the catalog's help texts:

- An entity's history is every payment that named it, in the order given; a payment sees its own record and the
  `keep - 1` before it.
- A payment whose event id is among the last `keep` payments of its card is *repeated*: it gets no decision, and it
  counts nowhere, neither for its card nor for its merchant or device.
- A record of time u is in a window of w ms of a payment of time t when 0 <= t - u < w.

Other tests use three functions: `repeats`, `fold` and `differences`. They take payments **in the order in which the
state recorded them**: sort decisions by (epoch, sequence) of one epoch first, or pass that order as `order`.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from functools import partial

from features.event import Payment

Value = int | Fraction | float | None  # None: missing
Row = dict[str, float | None]

HOUR = 3_600_000
DAY = 24 * HOUR
SPANS = {"1h": HOUR, "24h": DAY, "7d": 7 * DAY, "30d": 30 * DAY}
MONTH = SPANS["30d"]
CHANNELS = {"pos": 1, "ecom": 2, "atm": 3, "contactless": 4, "moto": 5, "recurring": 6}

# Ratios and deviations are computed in float64 and stored as float32; everything else must be exact.
ROUNDED = ("mean", "amount_to_", "zscore")
RELATIVE_TOLERANCE = 1e-6


@dataclass
class _Seen:
    """One payment in a history, and whether its event id was repeated."""

    payment: Payment
    repeated: bool


def repeats(payments: Sequence[Payment], keep: int, *, order: Sequence[int] | None = None) -> list[bool]:
    """For each payment: is its event id among the last `keep` payments of its card?"""
    found = [False] * len(payments)
    cards: dict[str, list[str]] = {}
    for i in range(len(payments)) if order is None else order:
        ids = cards.setdefault(payments[i].card_id, [])
        found[i] = payments[i].event_id in ids[-keep:]
        ids.append(payments[i].event_id)
    return found


def fold(
    payments: Sequence[Payment],
    keep: int,
    *,
    order: Sequence[int] | None = None,
    names: Collection[str] | None = None,
) -> list[Row]:
    """Every feature of every payment, as the log says it.

    Args:
        payments: n payments, in log order unless `order` says otherwise.
        keep: how many records of a history a payment sees, its own included.
        order: a permutation of range(n): the order in which the state recorded the payments.
        names: compute only these features (all by default).

    Returns:
        n dictionaries, for the payments as given: feature name to value, None where it is missing. The dictionary of a
        repeated payment is empty: no decision is due, so its features mean nothing.
    """
    repeated = repeats(payments, keep, order=order)
    histories: dict[tuple[str, str], list[_Seen]] = {}
    rows: list[Row] = [{} for _ in payments]
    for i in range(len(payments)) if order is None else order:
        payment, seen = payments[i], _Seen(payments[i], repeated[i])
        values: dict[str, Callable[[], Value]] = dict(_payment_alone(payment))
        for entity, entity_id in _entities(payment):
            history = histories.setdefault((entity, entity_id), [])
            history.append(seen)
            values |= _FEATURES[entity](_Past(seen, history[-keep:]))
        if payment.device_id is None:
            values |= dict.fromkeys(_FEATURES["device"](_Past(seen, [])), _missing)
        if not repeated[i]:
            wanted = values if names is None else names
            rows[i] = {name: _plain(values[name]()) for name in wanted}
    return rows


def differences(values: Sequence[float], names: Sequence[str], expected: Row) -> list[str]:
    """What is wrong with a row of float32 features, one line each; empty when it equals the oracle's.

    Counts, sums, largest amounts and times must be equal exactly; ratios and deviations to 1e-6.
    """
    wrong = []
    for name, value in zip(names, values, strict=True):
        want = expected[name]
        if want is None or math.isnan(value):
            same = want is None and math.isnan(value)
        elif any(part in name for part in ROUNDED):
            same = math.isclose(float(value), want, rel_tol=RELATIVE_TOLERANCE, abs_tol=1e-9)
        else:
            same = float(value) == _as_float32(want)
        if not same:
            wrong.append(f"{name} is {float(value)}, the oracle says {want}")
    return wrong


class _Past:
    """What one payment sees of one history: its own record, the last of `prefix`, and those before it."""

    def __init__(self, own: _Seen, prefix: list[_Seen]) -> None:
        self.payment = own.payment
        counted = [seen.payment for seen in prefix if not seen.repeated and seen is not own]
        self._earlier = [past for past in counted if past.event_time <= own.payment.event_time]

    def earlier(self, window_ms: int) -> list[Payment]:
        return [past for past in self._earlier if self.payment.event_time - past.event_time < window_ms]

    def all(self, window_ms: int) -> list[Payment]:
        return [*self.earlier(window_ms), self.payment]

    def last(self) -> Payment | None:
        """The newest earlier payment by event time; of equals the one recorded last."""
        newest = None
        for past in self.earlier(MONTH):
            if newest is None or past.event_time >= newest.event_time:
                newest = past
        return newest

    def count(self, window_ms: int) -> int:
        return len(self.all(window_ms))

    def small(self, window_ms: int) -> int:
        return len([past for past in self.all(window_ms) if past.amount_minor < 500])

    def total(self, window_ms: int) -> int:
        return sum(past.amount_minor for past in self.all(window_ms))

    def mean(self, window_ms: int) -> Fraction:
        return Fraction(self.total(window_ms), self.count(window_ms))

    def largest(self, window_ms: int) -> int:
        return max(past.amount_minor for past in self.all(window_ms))

    def distinct(self, name: str, window_ms: int) -> int:
        return len({getattr(past, name) for past in self.all(window_ms)} - {None})

    def since_last_s(self) -> Fraction | None:
        last = self.last()
        return None if last is None else Fraction(self.payment.event_time - last.event_time, 1000)

    def to_mean(self) -> Fraction | None:
        total = sum(past.amount_minor for past in self.earlier(MONTH))
        return Fraction(self.payment.amount_minor * len(self.earlier(MONTH)), total) if total else None

    def to_largest(self) -> Fraction | None:
        largest = max([past.amount_minor for past in self.earlier(MONTH)], default=0)
        return Fraction(self.payment.amount_minor, largest) if largest else None

    def zscore(self) -> float | None:
        amounts = [past.amount_minor for past in self.earlier(MONTH)]
        if len(set(amounts)) < 2:
            return None
        mean = Fraction(sum(amounts), len(amounts))
        variance = sum((amount - mean) ** 2 for amount in amounts) / len(amounts)
        return float(self.payment.amount_minor - mean) / math.sqrt(variance)

    def same(self, name: str) -> int | None:
        own = getattr(self.payment, name)
        return None if own is None else len([past for past in self.earlier(MONTH) if getattr(past, name) == own])

    def country_changed(self) -> int | None:
        last = self.last()
        if last is None or last.country is None or self.payment.country is None:
            return None
        return int(last.country != self.payment.country)


def _entities(payment: Payment) -> list[tuple[str, str]]:
    named = [("card", payment.card_id), ("merchant", payment.merchant_id)]
    return named if payment.device_id is None else [*named, ("device", payment.device_id)]


def _payment_alone(payment: Payment) -> Mapping[str, Callable[[], Value]]:
    when = datetime.fromtimestamp(payment.event_time // 1000, UTC)
    in_hour = Fraction(payment.event_time % HOUR, HOUR)
    known = payment.country is not None and payment.card_country is not None
    return {
        "amount_minor": lambda: payment.amount_minor,
        "is_round_amount": lambda: int(payment.amount_minor % 1000 == 0),
        "hour": lambda: when.hour + in_hour,
        "weekday": when.weekday,
        "channel": lambda: None if payment.channel is None else CHANNELS.get(payment.channel, 7),
        "mcc": lambda: None if payment.mcc is None else int(payment.mcc) or None,
        "is_foreign": lambda: int(payment.country != payment.card_country) if known else None,
    }


def _card(past: _Past) -> Mapping[str, Callable[[], Value]]:
    values: dict[str, Callable[[], Value]] = {
        "card_max_24h": lambda: past.largest(DAY),
        "card_max_30d": lambda: past.largest(MONTH),
        "card_mean_7d": lambda: past.mean(SPANS["7d"]),
        "card_mean_30d": lambda: past.mean(MONTH),
        "card_small_count_1h": lambda: past.small(HOUR),
        "card_small_count_24h": lambda: past.small(DAY),
        "card_merchants_1h": lambda: past.distinct("merchant_id", HOUR),
        "card_merchants_24h": lambda: past.distinct("merchant_id", DAY),
        "card_merchants_7d": lambda: past.distinct("merchant_id", SPANS["7d"]),
        "card_countries_7d": lambda: past.distinct("country", SPANS["7d"]),
        "card_since_last_s": past.since_last_s,
        "card_amount_to_mean_30d": past.to_mean,
        "card_amount_to_max_30d": past.to_largest,
        "card_amount_zscore_30d": past.zscore,
        "card_at_merchant_30d": lambda: past.same("merchant_id"),
        "card_on_device_30d": lambda: past.same("device_id"),
        "card_country_changed": past.country_changed,
    }
    for name, window_ms in SPANS.items():
        values[f"card_count_{name}"] = partial(past.count, window_ms)
        values[f"card_sum_{name}"] = partial(past.total, window_ms)
    return values


def _merchant(past: _Past) -> Mapping[str, Callable[[], Value]]:
    return {
        "merchant_count_1h": lambda: past.count(HOUR),
        "merchant_count_24h": lambda: past.count(DAY),
        "merchant_count_7d": lambda: past.count(SPANS["7d"]),
        "merchant_sum_24h": lambda: past.total(DAY),
        "merchant_mean_30d": lambda: past.mean(MONTH),
        "merchant_max_30d": lambda: past.largest(MONTH),
        "merchant_small_count_1h": lambda: past.small(HOUR),
        "merchant_since_last_s": past.since_last_s,
        "merchant_amount_to_mean_30d": past.to_mean,
    }


def _device(past: _Past) -> Mapping[str, Callable[[], Value]]:
    return {
        "device_count_1h": lambda: past.count(HOUR),
        "device_count_24h": lambda: past.count(DAY),
        "device_sum_24h": lambda: past.total(DAY),
        "device_cards_24h": lambda: past.distinct("card_id", DAY),
        "device_cards_30d": lambda: past.distinct("card_id", MONTH),
        "device_merchants_24h": lambda: past.distinct("merchant_id", DAY),
        "device_since_last_s": past.since_last_s,
    }


_FEATURES: dict[str, Callable[[_Past], Mapping[str, Callable[[], Value]]]] = {
    "card": _card,
    "merchant": _merchant,
    "device": _device,
}


def _missing() -> None:
    return None


def _plain(value: Value) -> float | None:
    return None if value is None else float(value)


def _as_float32(value: float) -> float:
    """Round to the nearest single-precision number, as a column of features does."""
    return float(struct.unpack("<f", struct.pack("<f", value))[0])
