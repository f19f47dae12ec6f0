"""THE list of features: one declaration each, in the order of the model's columns.

A feature of the payment alone has no entity; every other one is an operation over a window of one entity's log (see
`features.windows` for what a window holds). All values are float32; NaN means missing: the payment names no such
entity, or nothing earlier is known. Amounts are in minor units and are not converted between currencies.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal

import msgspec
import numpy as np

from features.event import LAYOUT_VERSION, PaymentBatch
from features.windows import NEVER, Floats, View

Entity = Literal["card", "merchant", "device"]

HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS
WEEK_MS: Final = 7 * DAY_MS
MONTH_MS: Final = 30 * DAY_MS

SMALL_AMOUNT_MINOR: Final = 500
ROUND_AMOUNT_MINOR: Final = 1_000

SEMANTICS_VERSION: Final = 1  # raise it when an operation's meaning changes without a change of its declaration


class Feature(msgspec.Struct, frozen=True):
    """One feature: `op` over the last `window_ms` of `entity`'s log, or over the payment alone."""

    name: str
    entity: Entity | None
    op: str
    window_ms: int | None
    help: str


def _payment(name: str, op: str, text: str) -> Feature:
    return Feature(name, None, op, None, text)


def _card(name: str, op: str, window_ms: int, text: str) -> Feature:
    return Feature(f"card_{name}", "card", op, window_ms, text)


def _merchant(name: str, op: str, window_ms: int, text: str) -> Feature:
    return Feature(f"merchant_{name}", "merchant", op, window_ms, text)


def _device(name: str, op: str, window_ms: int, text: str) -> Feature:
    return Feature(f"device_{name}", "device", op, window_ms, text)


FEATURES: Final[tuple[Feature, ...]] = (
    _payment("amount_minor", "amount", "Amount of the payment"),
    _payment("is_round_amount", "round_amount", "1 when the amount is a multiple of 10.00"),
    _payment("hour", "hour", "Hour of the day, UTC, with its fraction"),
    _payment("weekday", "weekday", "Day of the week, UTC: 0 is Monday"),
    _payment("channel", "channel", "Channel as a code (pos, ecom, atm, contactless, moto, recurring, other)"),
    _payment("mcc", "mcc", "Merchant category code"),
    _payment("is_foreign", "foreign", "1 when the payment's country is not the card's"),
    _card("count_1h", "count", HOUR_MS, "Payments of this card in 1 hour, this one included"),
    _card("count_24h", "count", DAY_MS, "Payments of this card in 24 hours, this one included"),
    _card("count_7d", "count", WEEK_MS, "Payments of this card in 7 days, this one included"),
    _card("count_30d", "count", MONTH_MS, "Payments of this card in 30 days, this one included"),
    _card("sum_1h", "sum", HOUR_MS, "Amount spent with this card in 1 hour"),
    _card("sum_24h", "sum", DAY_MS, "Amount spent with this card in 24 hours"),
    _card("sum_7d", "sum", WEEK_MS, "Amount spent with this card in 7 days"),
    _card("sum_30d", "sum", MONTH_MS, "Amount spent with this card in 30 days"),
    _card("mean_7d", "mean", WEEK_MS, "Mean amount of this card's payments in 7 days"),
    _card("mean_30d", "mean", MONTH_MS, "Mean amount of this card's payments in 30 days"),
    _card("max_24h", "max", DAY_MS, "Largest payment of this card in 24 hours"),
    _card("max_30d", "max", MONTH_MS, "Largest payment of this card in 30 days"),
    _card("small_count_1h", "small_count", HOUR_MS, "Payments under 5.00 with this card in 1 hour (card testing)"),
    _card("small_count_24h", "small_count", DAY_MS, "Payments under 5.00 with this card in 24 hours (card testing)"),
    _card("merchants_1h", "distinct_merchants", HOUR_MS, "Different merchants paid with this card in 1 hour"),
    _card("merchants_24h", "distinct_merchants", DAY_MS, "Different merchants paid with this card in 24 hours"),
    _card("merchants_7d", "distinct_merchants", WEEK_MS, "Different merchants paid with this card in 7 days"),
    _card("countries_7d", "distinct_countries", WEEK_MS, "Different countries of this card's payments in 7 days"),
    _card("since_last_s", "since_last", MONTH_MS, "Seconds since this card's last payment"),
    _card("amount_to_mean_30d", "amount_to_mean", MONTH_MS, "Amount over the card's earlier mean in 30 days"),
    _card("amount_to_max_30d", "amount_to_max", MONTH_MS, "Amount over the largest earlier one in 30 days"),
    _card("amount_zscore_30d", "amount_zscore", MONTH_MS, "Amount's distance from the card's mean, in deviations"),
    _card("at_merchant_30d", "same_merchant", MONTH_MS, "Earlier payments of this card at this merchant in 30 days"),
    _card("on_device_30d", "same_device", MONTH_MS, "Earlier payments of this card on this device in 30 days"),
    _card("country_changed", "country_changed", MONTH_MS, "1 when the card's last payment was in another country"),
    _merchant("count_1h", "count", HOUR_MS, "Payments at this merchant in 1 hour, this one included"),
    _merchant("count_24h", "count", DAY_MS, "Payments at this merchant in 24 hours, this one included"),
    _merchant("count_7d", "count", WEEK_MS, "Payments at this merchant in 7 days, this one included"),
    _merchant("sum_24h", "sum", DAY_MS, "Turnover of this merchant in 24 hours"),
    _merchant("mean_30d", "mean", MONTH_MS, "Mean payment at this merchant in 30 days"),
    _merchant("max_30d", "max", MONTH_MS, "Largest payment at this merchant in 30 days"),
    _merchant("small_count_1h", "small_count", HOUR_MS, "Payments under 5.00 at this merchant in 1 hour"),
    _merchant("since_last_s", "since_last", MONTH_MS, "Seconds since this merchant's last payment"),
    _merchant("amount_to_mean_30d", "amount_to_mean", MONTH_MS, "Amount over the merchant's usual in 30 days"),
    _device("count_1h", "count", HOUR_MS, "Payments from this device in 1 hour, this one included"),
    _device("count_24h", "count", DAY_MS, "Payments from this device in 24 hours, this one included"),
    _device("sum_24h", "sum", DAY_MS, "Amount paid from this device in 24 hours"),
    _device("cards_24h", "distinct_cards", DAY_MS, "Different cards used on this device in 24 hours"),
    _device("cards_30d", "distinct_cards", MONTH_MS, "Different cards used on this device in 30 days"),
    _device("merchants_24h", "distinct_merchants", DAY_MS, "Different merchants paid from this device in 24 hours"),
    _device("since_last_s", "since_last", MONTH_MS, "Seconds since this device's last payment"),
)


def _missing_zero(codes: Floats) -> Floats:
    return np.where(codes == 0, np.nan, codes)


PAYMENT_OPS: Final[dict[str, Callable[[PaymentBatch], Floats]]] = {
    "amount": lambda b: b.amount.astype(np.float64),
    "round_amount": lambda b: (b.amount % ROUND_AMOUNT_MINOR == 0).astype(np.float64),
    "hour": lambda b: b.event_time % DAY_MS / HOUR_MS,
    "weekday": lambda b: ((b.event_time // DAY_MS + 3) % 7).astype(np.float64),  # 1970-01-01 was a Thursday
    "channel": lambda b: _missing_zero(b.channel.astype(np.float64)),
    "mcc": lambda b: _missing_zero(b.mcc.astype(np.float64)),
    "foreign": lambda b: np.where((b.country == 0) | (b.card_country == 0), np.nan, b.country != b.card_country),
}


def _mean(view: View, window: int) -> Floats:
    count = view.count[:, window]  # 0 only where the payment itself is repeated
    return np.where(count > 0, view.total[:, window] / np.where(count > 0, count, 1), np.nan)


def _since_last(view: View, window: int) -> Floats:
    age = view.since_last_ms
    return np.where(age < view.windows_ms[window], age / 1000, np.nan)


def _amount_to_mean(view: View, window: int) -> Floats:
    count = view.count[:, window] - 1
    total = view.total[:, window] - view.subject.amount
    return np.where(total > 0, view.subject.amount * count / np.where(total > 0, total, 1), np.nan)


def _amount_to_max(view: View, window: int) -> Floats:
    peak = view.maximum(window, earlier=True)
    return np.where(peak > 0, view.subject.amount / np.where(peak > 0, peak, 1), np.nan)


def _amount_zscore(view: View, window: int) -> Floats:
    mean, spread = view.deviation(window)
    return np.where(spread > 0, (view.subject.amount - mean) / np.where(spread > 0, spread, 1), np.nan)


def _country_changed(view: View, window: int) -> Floats:
    last = view.last
    before = np.where(last >= 0, view.column("country")[np.maximum(last, 0)], 0)
    known = (before != 0) & (view.subject.country != 0) & (view.since_last_ms < view.windows_ms[window])
    return np.where(known, before != view.subject.country, np.nan)


assert NEVER > MONTH_MS  # noqa: S101  # `since_last_ms < window` is False where there is no earlier payment

ENTITY_OPS: Final[dict[str, Callable[[View, int], Floats]]] = {
    "count": lambda v, w: v.count[:, w],
    "sum": lambda v, w: v.total[:, w],
    "mean": _mean,
    "max": lambda v, w: v.maximum(w, earlier=False),
    "small_count": lambda v, w: v.below(SMALL_AMOUNT_MINOR)[:, w],
    "distinct_merchants": lambda v, w: v.distinct("merchant")[:, w],
    "distinct_cards": lambda v, w: v.distinct("card")[:, w],
    "distinct_countries": lambda v, w: v.distinct("country")[:, w],
    "since_last": _since_last,
    "amount_to_mean": _amount_to_mean,
    "amount_to_max": _amount_to_max,
    "amount_zscore": _amount_zscore,
    "same_merchant": lambda v, w: v.earlier_with_same("merchant", w),
    "same_device": lambda v, w: v.earlier_with_same("device", w),
    "country_changed": _country_changed,
}


@dataclass(frozen=True)
class Catalog:
    """An ordered set of features and the number of records that each of them may see."""

    features: tuple[Feature, ...]
    keep: int = 256

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Feature names, in column order."""
        return tuple(feature.name for feature in self.features)

    @cached_property
    def entities(self) -> tuple[Entity, ...]:
        """The entities that have logs. Card logs come first: they decide whether an event id is repeated."""
        used = {feature.entity for feature in self.features if feature.entity}
        others: tuple[Entity, ...] = ("merchant", "device")
        return ("card", *(entity for entity in others if entity in used))

    @cached_property
    def payment_columns(self) -> tuple[int, ...]:
        """Columns of the features that are computed from the payment alone."""
        return tuple(i for i, feature in enumerate(self.features) if feature.entity is None)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over everything that defines a value: a bundle trained on another fingerprint is refused."""
        declared = [[f.name, f.entity, f.op, f.window_ms] for f in self.features]
        text = msgspec.json.encode([SEMANTICS_VERSION, LAYOUT_VERSION, self.keep, declared])
        return hashlib.sha256(text).hexdigest()


DEFAULT: Final = Catalog(FEATURES)
