"""Why, in a sentence: what a feature's value says to a person, beside what is usual where that is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from features.catalog import DAY_MS, HOUR_MS, MINUTE_MS, Feature
from features.currencies import exponent
from features.event import CHANNELS

Row = Mapping[str, float]
"""A payment's features by name; what is missing is not there."""

_WHOSE: Final = {
    "card": "with this card",
    "account": "from this account",
    "merchant": "at this merchant",
    "terminal": "at this terminal",
    "device": "from this device",
    "ip": "from this address",
}
_OTHERS: Final = {
    "card": "cards",
    "merchant": "merchants",
    "device": "devices",
    "ip": "addresses",
    "country": "countries",
    "mcc": "kinds of merchant",
}
_SAME: Final = {
    "card": "with this card",
    "merchant": "at this merchant",
    "device": "on this device",
    "ip": "from this address",
    "country": "in this country",
    "mcc": "at this kind of merchant",
}
_DAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def code_of(feature: Feature) -> str:
    """A word for the kind of a reason: `card.count`, `merchant.fraud_rate`. It stays when windows change."""
    return f"{feature.entity or 'payment'}.{feature.op}"


def sentence(feature: Feature, value: float | None, row: Row, currency: str | None = None) -> str:
    """What a feature's value says, without a full stop.

    Args:
        feature: as the catalog declares it.
        value: None where it is missing.
        row: the payment's other features, for what is usual.
        currency: of the payment's amounts; None: two decimals, and no name.
    """
    if value is None:
        return f"Not known: {feature.help[0].lower()}{feature.help[1:]}"
    return _SENTENCES[feature.op](feature, value, row, currency)


_Sentence = Callable[[Feature, float, Row, str | None], str]


def _money(minor: float, currency: str | None) -> str:
    decimals = 2 if currency is None else exponent(currency)
    return f"{minor / 10**decimals:,.{decimals}f}{'' if currency is None else f' {currency}'}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) or abs(value) >= 100 else f"{value:.2g}"


def _plural(count: float, one: str, many: str) -> str:
    return f"{_number(count)} {one if count == 1 else many}"


def _time(ms: float) -> str:
    """A span in its largest unit."""
    for unit_ms, name in ((DAY_MS, "day"), (HOUR_MS, "hour"), (MINUTE_MS, "minute"), (1_000, "second")):
        if ms >= unit_ms and not (name == "day" and ms == DAY_MS):
            count = ms / unit_ms
            return _plural(round(count, 1) if count < 10 else round(count), name, f"{name}s")
    return "less than a second"


def _whose(feature: Feature) -> str:
    return _WHOSE[feature.entity or "card"]


def _when(feature: Feature) -> str:
    window = _time(feature.window_ms)
    return f"the {window} that ended {_time(feature.delay_ms)} ago" if feature.delay_ms else window


def _usual(feature: Feature, row: Row) -> str:
    """What is usual, from the count of 30 days, for a shorter window."""
    month = row.get(f"{feature.entity}_count_30d")
    if month is None or feature.window_ms >= 30 * DAY_MS or feature.delay_ms or month < 2:
        return ""
    a_day = month / 30
    return f"; usual is {_number(a_day)} a day" if a_day >= 1 else f"; usual is one in {_number(round(1 / a_day))} days"


def _count(feature: Feature, value: float, row: Row, _currency: str | None) -> str:
    return f"{_plural(value, 'payment', 'payments')} in {_when(feature)} {_whose(feature)}{_usual(feature, row)}"


def _ratio(what: str) -> _Sentence:
    def text(feature: Feature, value: float, _row: Row, _currency: str | None) -> str:
        return f"The amount is {_number(value)} times {what} {_whose(feature)} in {_when(feature)}"

    return text


def _zscore(feature: Feature, value: float, _row: Row, _currency: str | None) -> str:
    side = "above" if value >= 0 else "below"
    return f"The amount is {abs(value):.1f} deviations {side} the usual {_whose(feature)} in {_when(feature)}"


def _distinct(feature: Feature, value: float, _row: Row, _currency: str | None) -> str:
    others = _OTHERS[feature.of or "card"]
    one = {"countries": "country", "addresses": "address", "kinds of merchant": "kind of merchant"}.get(
        others, others[:-1]
    )
    return f"{_plural(value, one, f'different {others}')} in {_when(feature)} {_whose(feature)}"


def _same(feature: Feature, value: float, _row: Row, _currency: str | None) -> str:
    where = _SAME[feature.of or "card"]
    if not value:
        return f"The first payment {where} {_whose(feature)} in {_when(feature)}"
    return f"{_plural(value, 'earlier payment', 'earlier payments')} {where} {_whose(feature)} in {_when(feature)}"


def _share(what: str) -> _Sentence:
    def text(feature: Feature, value: float, _row: Row, _currency: str | None) -> str:
        return f"{value:.1%} of the payments {_whose(feature)} in {_when(feature)} {what}"

    return text


def _amount_of(before: str, after: str = "") -> _Sentence:
    def text(feature: Feature, value: float, _row: Row, currency: str | None) -> str:
        return f"{before} {_money(value, currency)}{after} {_whose(feature)} in {_when(feature)}".strip()

    return text


def _flag(yes: str, no: str) -> _Sentence:
    return lambda _feature, value, _row, _currency: yes if value else no


def _channel(_feature: Feature, value: float, _row: Row, _currency: str | None) -> str:
    place = int(value) - 1
    return f"Its channel is {CHANNELS[place] if 0 <= place < len(CHANNELS) else 'another one'}"


_SENTENCES: Final[dict[str, _Sentence]] = {
    "amount": lambda _f, value, _row, currency: f"The amount is {_money(value, currency)}",
    "round_amount": _flag("The amount is a round number", "The amount is not a round number"),
    "hour": lambda _f, value, _row, _c: f"It is {int(value):02d}:{int(value * 60) % 60:02d} UTC",
    "night": _flag("It is night", "It is not night"),
    "weekday": lambda _f, value, _row, _c: f"It is a {_DAYS[int(value) % 7]}",
    "weekend": _flag("It is the weekend", "It is a working day"),
    "channel": _channel,
    "mcc": lambda _f, value, _row, _c: f"The kind of merchant is {value:04.0f}",
    "foreign": _flag("The payment is not in the card's country", "The payment is in the card's country"),
    "count": _count,
    "count_before": _count,
    "sum": _amount_of("", " spent"),
    "mean": _amount_of("The mean payment is"),
    "max": _amount_of("The largest payment is"),
    "std": _amount_of("Amounts differ by", " from each other"),
    "small_count": lambda feature, value, _row, _c: (
        f"{_plural(value, 'payment', 'payments')} under 5.00 in {_when(feature)} {_whose(feature)}"
    ),
    "amount_to_mean": _ratio("the usual"),
    "amount_to_max": _ratio("the largest earlier one"),
    "amount_to_min": _ratio("the smallest earlier one"),
    "amount_zscore": _zscore,
    "distinct": _distinct,
    "same": _same,
    "since_last": lambda feature, value, _row, _c: f"The last payment {_whose(feature)} was {_time(value * 1_000)} ago",
    "since_last_ratio": lambda feature, value, _row, _c: (
        f"The time since the last payment {_whose(feature)} is {_number(value)} times the usual"
    ),
    "velocity": lambda feature, value, _row, _c: (
        f"Payments {_whose(feature)} in {_when(feature)} are {_number(value)} times as many as usual"
    ),
    "near_hour": _share("were at this time of the day"),
    "country_changed": _flag("The last payment was in another country", "The last payment was in the same country"),
    "frauds": lambda feature, value, _row, _c: (
        f"{_plural(value, 'known fraud', 'known frauds')} in {_when(feature)} {_whose(feature)}"
    ),
    "fraud_rate": _share("were fraud"),
    "risk": _share("were fraud"),
    "since_fraud": lambda feature, value, _row, _c: f"A fraud {_whose(feature)} was {_time(value * 1_000)} ago",
    "since_first_fraud": lambda feature, value, _row, _c: (
        f"There has been fraud {_whose(feature)} for {_time(value * 1_000)}"
    ),
}
