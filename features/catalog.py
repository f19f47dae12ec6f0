"""THE list of features: one declaration each, in the order of the model's columns.

A feature of the payment alone has no entity; every other one is an operation over a window of one entity's log (see
`docs/features.md` for what a window holds). All values are float32; NaN means missing: the payment names no such
entity, or what the feature compares with is not known. Amounts are in minor units and are not converted between
currencies.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Final, Literal, get_args

import msgspec

from features.event import LAYOUT_VERSION

Entity = Literal["card", "account", "merchant", "terminal", "device", "ip"]
Counterpart = Literal["card", "merchant", "device", "ip", "country", "mcc"]
Type = Literal["amount", "code", "count", "flag", "hours", "ratio", "score", "seconds"]
Default = Literal["missing", "0", "1", "own amount"]

ENTITIES: Final[tuple[Entity, ...]] = get_args(Entity)
COUNTERPARTS: Final[dict[Entity, tuple[Counterpart, Counterpart, Counterpart]]] = {
    "card": ("merchant", "device", "ip"),
    "account": ("card", "device", "ip"),
    "merchant": ("card", "device", "ip"),
    "terminal": ("card", "merchant", "device"),
    "device": ("card", "merchant", "ip"),
    "ip": ("card", "device", "merchant"),
}
"""What a record of each entity's log says of the payment's other parties, besides country and mcc."""

MINUTE_MS: Final = 60_000
HOUR_MS: Final = 60 * MINUTE_MS
DAY_MS: Final = 24 * HOUR_MS
WEEK_MS: Final = 7 * DAY_MS
MONTH_MS: Final = 30 * DAY_MS

ROUND_AMOUNT_MINOR: Final = 1_000

SEMANTICS_VERSION: Final = 2  # raise it when an operation's meaning changes without a change of its declaration


class Feature(msgspec.Struct, frozen=True):
    """One feature: `op` over `entity`'s records of age delay <= age < delay + window, or over the payment alone.

    `of` is the counterpart that the operation looks at, where it looks at one. `default` is the value when nothing
    earlier is known of the entity; without the entity itself every feature is missing.
    """

    name: str
    group: str
    entity: Entity | None
    op: str
    type: Type
    default: Default
    help: str
    window_ms: int = 0
    delay_ms: int = 0
    of: Counterpart | None = None


_SPANS: Final = {
    "5m": (5 * MINUTE_MS, "5 minutes"),
    "1h": (HOUR_MS, "1 hour"),
    "24h": (DAY_MS, "24 hours"),
    "7d": (WEEK_MS, "7 days"),
    "30d": (MONTH_MS, "30 days"),
}


def _payment(name: str, op: str, kind: Type, text: str, default: Default = "missing") -> Feature:
    return Feature(name, "payment", None, op, kind, default, text)


def _over(
    entity: Entity,
    group: str,
    stem: str,
    spans: str,
    op: str,
    kind: Type,
    default: Default,
    text: str,
    *,
    of: Counterpart | None = None,
    delay_ms: int = 0,
    suffix: str = "",
) -> list[Feature]:
    """The same operation over several windows; `{span}` in the text becomes the window's length in words."""
    return [
        Feature(
            f"{entity}_{stem}_{span}{suffix}" if stem else f"{entity}_{span}{suffix}",
            f"{entity}.{group}",
            entity,
            op,
            kind,
            default,
            text.format(span=_SPANS[span][1]),
            _SPANS[span][0],
            delay_ms,
            of,
        )
        for span in spans.split()
    ]


def _one(
    entity: Entity,
    group: str,
    name: str,
    op: str,
    kind: Type,
    text: str,
    *,
    of: Counterpart | None = None,
    window_ms: int = MONTH_MS,
    delay_ms: int = 0,
    default: Default = "missing",
) -> Feature:
    """An operation whose name does not say its window: 30 days unless told."""
    return Feature(f"{entity}_{name}", f"{entity}.{group}", entity, op, kind, default, text, window_ms, delay_ms, of)


def _before_last_week(entity: Entity) -> list[Feature]:
    """The amount against the 30 days that ended 7 days ago: an attack that is under way does not raise those."""
    return [
        _one(entity, "amount", f"{op}_prior_30d", op, kind, f"{text} of the 30 days that ended 7 days ago",
             delay_ms=WEEK_MS)
        for op, kind, text in _PRIOR
    ]  # fmt: skip


_PRIOR: Final[tuple[tuple[str, Type, str], ...]] = (
    ("amount_to_mean", "ratio", "Amount over the mean"),
    ("amount_to_max", "ratio", "Amount over the largest"),
    ("amount_zscore", "score", "Amount's distance from the mean"),
)


def _since_frauds(entity: Entity, whose: str) -> list[Feature]:
    """How fresh the newest known fraud is, and since when there has been any: who is compromised is so for a while."""
    said = f"Seconds since the {{}} payment of 30 days {whose} that is known as fraud"
    return [
        _one(entity, "labels", "since_fraud_s", "since_fraud", "seconds", said.format("newest")),
        _one(entity, "labels", "since_first_fraud_s", "since_first_fraud", "seconds", said.format("oldest")),
    ]


def _frauds(entity: Entity, counts: str, rates: str, *, delay_ms: int, whose: str) -> list[Feature]:
    """What is known of frauds: counts at once, rates over payments that are old enough to have been reported."""
    days = delay_ms // DAY_MS
    return [
        *_over(entity, "labels", "frauds", counts, "frauds", "count", "0", f"Known frauds {whose} in {{span}}"),
        *_over(
            entity,
            "labels",
            "fraud_rate",
            rates,
            "fraud_rate",
            "ratio",
            "missing",
            f"Known frauds over payments {whose} in the {{span}} that ended {days} days ago",
            delay_ms=delay_ms,
        ),
    ]


FEATURES: Final[tuple[Feature, ...]] = (
    # the payment alone
    _payment("amount_minor", "amount", "amount", "Amount of the payment"),
    _payment("is_round_amount", "round_amount", "flag", "1 when the amount is a multiple of 10.00"),
    _payment("hour", "hour", "hours", "Hour of the day, UTC, with its fraction"),
    _payment("weekday", "weekday", "code", "Day of the week, UTC: 0 is Monday"),
    _payment("channel", "channel", "code", "Channel: pos, ecom, atm, contactless, moto, recurring, other, from 1"),
    _payment("mcc", "mcc", "code", "Merchant category code"),
    _payment("is_foreign", "foreign", "flag", "1 when the payment's country is not the card's"),
    # card
    *_over("card", "volume", "count", "5m 1h 24h 7d 30d", "count", "count", "1", "Payments with this card in {span}"),
    *_over("card", "volume", "sum", "1h 24h 7d 30d", "sum", "amount", "own amount", "Spent with this card in {span}"),
    *_over("card", "volume", "mean", "7d 30d", "mean", "amount", "own amount", "Mean payment with this card in {span}"),
    *_over("card", "volume", "max", "24h 30d", "max", "amount", "own amount", "Largest payment with it in {span}"),
    *_over("card", "volume", "std", "30d", "std", "amount", "missing", "Deviation of earlier amounts in {span}"),
    _one("card", "amount", "amount_to_mean_30d", "amount_to_mean", "ratio", "Amount over the earlier mean in 30 days"),
    _one("card", "amount", "amount_to_max_30d", "amount_to_max", "ratio", "Amount over the largest earlier one"),
    _one("card", "amount", "amount_zscore_30d", "amount_zscore", "score", "Amount's distance from the earlier mean"),
    *_before_last_week("card"),
    _one("card", "rhythm", "since_last_s", "since_last", "seconds", "Seconds since this card's last payment"),
    _one("card", "rhythm", "since_last_ratio", "since_last_ratio", "ratio", "That over the usual gap in 30 days"),
    _one(
        "card", "rhythm", "velocity_1h_30d", "velocity", "ratio", "Payments in 1 hour over the usual of 30 days",
        window_ms=HOUR_MS, default="missing",
    ),
    _one("card", "rhythm", "near_hour_30d", "near_hour", "ratio", "Share of earlier ones within 2 hours of the clock"),
    *_over("card", "testing", "small_count", "1h 24h", "small_count", "count", "0", "Payments under 5.00 in {span}"),
    _one(
        "card", "testing", "amount_to_min_1h", "amount_to_min", "ratio",
        "Amount over the smallest earlier one in 1 hour (small, then large)", window_ms=HOUR_MS,
    ),
    *_over("card", "spread", "merchants", "1h 24h 7d", "distinct", "count", "1",
           "Different merchants paid with it in {span}", of="merchant"),
    *_over("card", "spread", "countries", "7d", "distinct", "count", "1",
           "Different countries of its payments in {span}", of="country"),
    *_over("card", "spread", "devices", "30d", "distinct", "count", "1",
           "Different devices it was used on in {span}", of="device"),
    *_over("card", "novelty", "at_merchant", "30d", "same", "count", "0",
           "Earlier payments at this merchant in {span}", of="merchant"),
    *_over("card", "novelty", "on_device", "30d", "same", "count", "0",
           "Earlier payments on this device in {span}; 0: new", of="device"),
    *_over("card", "novelty", "from_ip", "30d", "same", "count", "0",
           "Earlier payments from this IP address in {span}", of="ip"),
    *_over("card", "novelty", "in_country", "30d", "same", "count", "0",
           "Earlier payments in this country in {span}; 0: new", of="country"),
    *_over("card", "novelty", "in_mcc", "30d", "same", "count", "0",
           "Earlier payments in this merchant category in {span}; 0: the first", of="mcc"),
    _one("card", "novelty", "country_changed", "country_changed", "flag", "1 when the last payment was elsewhere",
         of="country"),
    *_frauds("card", "30d", "", delay_ms=WEEK_MS, whose="with this card"),
    # account
    *_over("account", "volume", "count", "1h 24h 7d", "count", "count", "1", "Payments of this account in {span}"),
    *_over("account", "volume", "sum", "24h", "sum", "amount", "own amount", "Spent from this account in {span}"),
    _one("account", "volume", "amount_to_mean_30d", "amount_to_mean", "ratio", "Amount over the account's mean"),
    *_over("account", "spread", "cards", "30d", "distinct", "count", "1",
           "Different cards of this account in {span}", of="card"),
    # merchant
    *_over("merchant", "volume", "count", "5m 1h 24h 7d", "count", "count", "1", "Payments here in {span}"),
    *_over("merchant", "volume", "sum", "24h", "sum", "amount", "own amount", "Turnover of this merchant in {span}"),
    *_over("merchant", "volume", "mean", "30d", "mean", "amount", "own amount", "Mean payment here in {span}"),
    *_over("merchant", "volume", "max", "30d", "max", "amount", "own amount", "Largest payment here in {span}"),
    _one("merchant", "amount", "amount_to_mean_30d", "amount_to_mean", "ratio", "Amount over the usual here"),
    _one("merchant", "amount", "amount_zscore_30d", "amount_zscore", "score", "Amount's distance from the usual here"),
    _one("merchant", "rhythm", "since_last_s", "since_last", "seconds", "Seconds since the last payment here"),
    _one(
        "merchant", "rhythm", "velocity_1h_30d", "velocity", "ratio", "Payments in 1 hour over the usual of 30 days",
        window_ms=HOUR_MS, default="missing",
    ),
    *_over("merchant", "testing", "small_count", "1h", "small_count", "count", "0", "Payments under 5.00 in {span}"),
    *_over("merchant", "spread", "cards", "24h", "distinct", "count", "1",
           "Different cards used here in {span}", of="card"),
    *_frauds("merchant", "30d", "24h 30d", delay_ms=WEEK_MS, whose="at this merchant"),
    *_since_frauds("merchant", "at this merchant"),
    # terminal
    *_over("terminal", "volume", "count", "1h 24h", "count", "count", "1", "Payments at this terminal in {span}"),
    _one("terminal", "amount", "amount_to_mean_30d", "amount_to_mean", "ratio", "Amount over the usual at it"),
    *_over("terminal", "spread", "cards", "24h", "distinct", "count", "1",
           "Different cards used at it in {span}", of="card"),
    *_frauds("terminal", "7d 30d", "24h 7d 30d", delay_ms=WEEK_MS, whose="at this terminal"),
    *_since_frauds("terminal", "at this terminal"),
    # device
    *_over("device", "volume", "count", "1h 24h", "count", "count", "1", "Payments from this device in {span}"),
    *_over("device", "volume", "sum", "24h", "sum", "amount", "own amount", "Paid from this device in {span}"),
    *_over("device", "spread", "cards", "24h 30d", "distinct", "count", "1",
           "Different cards used on it in {span}", of="card"),
    *_over("device", "spread", "merchants", "24h", "distinct", "count", "1",
           "Different merchants paid from it in {span}", of="merchant"),
    _one("device", "rhythm", "since_last_s", "since_last", "seconds", "Seconds since this device's last payment"),
    *_frauds("device", "30d", "", delay_ms=WEEK_MS, whose="from this device"),
    # ip
    *_over("ip", "volume", "count", "5m 1h 24h", "count", "count", "1", "Payments from this IP address in {span}"),
    *_over("ip", "spread", "cards", "24h", "distinct", "count", "1",
           "Different cards used from it in {span}", of="card"),
    *_over("ip", "spread", "devices", "24h", "distinct", "count", "1",
           "Different devices behind it in {span}", of="device"),
    *_frauds("ip", "30d", "", delay_ms=WEEK_MS, whose="from this IP address"),
)  # fmt: skip


def _handbook_customer(days: int) -> list[Feature]:
    name, group, window_ms = f"{days}DAY_WINDOW", "handbook.customer", days * DAY_MS
    return [
        Feature(
            f"CUSTOMER_ID_NB_TX_{name}", group, "card", "count", "count", "1", f"Payments of {days} days", window_ms,
        ),
        Feature(
            f"CUSTOMER_ID_AVG_AMOUNT_{name}", group, "card", "mean", "amount", "own amount", f"Mean of {days} days",
            window_ms,
        ),
    ]  # fmt: skip


def _handbook_terminal(days: int) -> list[Feature]:
    name, group, window_ms = f"{days}DAY_WINDOW", "handbook.terminal", days * DAY_MS
    past = f"in the {days} days that ended 7 days ago"
    return [
        Feature(
            f"TERMINAL_ID_NB_TX_{name}", group, "terminal", "count_before", "count", "0", f"Payments {past}", window_ms,
            WEEK_MS,
        ),
        Feature(
            f"TERMINAL_ID_RISK_{name}", group, "terminal", "risk", "ratio", "0", f"Share of known frauds {past}",
            window_ms, WEEK_MS,
        ),
    ]  # fmt: skip


HANDBOOK_FEATURES: Final[tuple[Feature, ...]] = (
    _payment("TX_AMOUNT", "amount", "amount", "Amount of the payment"),
    _payment("TX_DURING_WEEKEND", "weekend", "flag", "1 on Saturday and Sunday, UTC"),
    _payment("TX_DURING_NIGHT", "night", "flag", "1 when the hour is 0 to 6, UTC"),
    *(feature for days in (1, 7, 30) for feature in _handbook_customer(days)),
    *(feature for days in (1, 7, 30) for feature in _handbook_terminal(days)),
)
"""The 15 inputs of the Fraud Detection Handbook (Le Borgne et al., ULB, 2022), chapter 3; its customer is a card."""


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What bounds an entity's log. All processors of a namespace share them: they define values.

    `keep` records stay raw; what is older than `horizon_ms` is forgotten; a repeated event id is recognised among the
    raw records for `duplicate_ms`; `frauds` labels can be reversed.
    """

    keep: int = 128
    horizon_ms: int = 38 * DAY_MS
    duplicate_ms: int = WEEK_MS
    frauds: int = 32


DEFAULT_LIMITS: Final = Limits()


@dataclass(frozen=True)
class Catalog:
    """An ordered set of features, and the limits of the logs that they are computed from.

    `kept` are entities that have logs whether a feature needs them or not: a later model may.
    """

    features: tuple[Feature, ...]
    limits: Limits = DEFAULT_LIMITS
    kept: tuple[Entity, ...] = ()

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Feature names, in column order."""
        return tuple(feature.name for feature in self.features)

    @cached_property
    def flags(self) -> dict[str, bool]:
        """For each feature, in column order, whether it is a flag."""
        return {feature.name: feature.type == "flag" for feature in self.features}

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """Group names, in order."""
        return tuple(group for group, _ in groupby(self.features, key=lambda feature: feature.group))

    @cached_property
    def entities(self) -> tuple[Entity, ...]:
        """The entities that the features need. Cards come first and are always there: they tell repeated event ids."""
        used = {feature.entity for feature in self.features} | {"card"}
        return tuple(entity for entity in ENTITIES if entity in used)

    @cached_property
    def logged(self) -> tuple[Entity, ...]:
        """The entities that have logs: those that the features need, and those kept besides."""
        return tuple(entity for entity in ENTITIES if entity in {*self.entities, *self.kept})

    @cached_property
    def payment_columns(self) -> tuple[int, ...]:
        """Columns of the features that are computed from the payment alone."""
        return tuple(i for i, feature in enumerate(self.features) if feature.entity is None)

    def columns_of(self, entity: Entity) -> tuple[int, ...]:
        """Columns of the features of one entity."""
        return tuple(i for i, feature in enumerate(self.features) if feature.entity == entity)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over everything that defines a value: a bundle trained on another fingerprint is refused."""
        declared = [[f.name, f.entity, f.op, f.window_ms, f.delay_ms, f.of] for f in self.features]
        text = msgspec.json.encode([SEMANTICS_VERSION, LAYOUT_VERSION, self.limits, declared])
        return hashlib.sha256(text).hexdigest()

    def only(self, names: tuple[str, ...]) -> Catalog:
        """The catalog of these features, in this order, over the same logs. Raises KeyError for an unknown name."""
        known = {feature.name: feature for feature in self.features}
        return Catalog(tuple(known[name] for name in names), self.limits, self.logged)

    def groups_of(self, names: Iterable[str]) -> tuple[str, ...]:
        """The groups of built-in profiles that features of these names belong to, in order of appearance."""
        wanted = set(names)
        found = (f.group for profile in PROFILES.values() for f in profile.features if f.name in wanted)
        return tuple(dict.fromkeys(found))


DEFAULT: Final = Catalog(FEATURES)
HANDBOOK: Final = Catalog(HANDBOOK_FEATURES)
PROFILES: Final = {"default": DEFAULT, "handbook": HANDBOOK}
