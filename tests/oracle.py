"""The naive fold of a log of payments and labels: `docs/features.md` in lists, loops and fractions.

It shares no code with the fold of `features` and is meant to be read beside the spec. A log is a list of payments and
labels **in the order in which the state recorded them**: sort decisions by (epoch, sequence) of one epoch first, or
pass that order as `order`. Counterparts are compared as texts, so a collision of 32-bit tags is not foreseen here.

Other tests use `repeats`, `fold` and `differences`. What they return has a place for each *payment*, none for labels.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction

import msgspec

from features.catalog import COUNTERPARTS, DEFAULT, Catalog, Feature, Limits
from features.event import Label, Payment

Value = int | Fraction | float | None  # None: missing
Row = dict[str, float | None]

MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR
MONTH = 30 * DAY
CHANNELS = {"pos": 1, "ecom": 2, "atm": 3, "contactless": 4, "moto": 5, "recurring": 6}
FIELDS = {
    "card": "card_id",
    "account": "account_id",
    "merchant": "merchant_id",
    "terminal": "terminal_id",
    "device": "device_id",
    "ip": "ip",
}

# A bucketed record lies in the bucket of the first row whose next coarser bucket ends after M - age; else in its day's.
LEVELS = (
    # length, next coarser length, age
    (MINUTE, 10 * MINUTE, 5 * MINUTE),
    (10 * MINUTE, 2 * HOUR, HOUR),
    (2 * HOUR, DAY, DAY),
)

# Names of what is computed in float64 and stored as float32 have one of these in them; everything else must be exact.
ROUNDED = (
    *("mean", "std", "amount_to_", "zscore", "ratio", "velocity", "near_hour", "rate", "risk"),
    *("AVG_AMOUNT", "RISK"),  # in the handbook profile
)
RELATIVE_TOLERANCE = 1e-6


def repeats(log: Sequence[Payment | Label], limits: Limits, *, order: Sequence[int] | None = None) -> list[bool]:
    """For each payment of `log`: does its card's log say that its event id is repeated, so that no decision is due?"""
    found = _repeated(log, limits, range(len(log)) if order is None else order)
    return [found[i] for i in sorted(found)]


SKIPPED: Row = {"skipped": None}


def fold(
    log: Sequence[Payment | Label],
    catalog: Catalog = DEFAULT,
    *,
    order: Sequence[int] | None = None,
    names: Collection[str] | None = None,
    only: Collection[int] | None = None,
    whole_cards: bool = True,
) -> list[Row]:
    """Every feature of every payment, as the log says it.

    Args:
        log: n payments and any labels, in log order unless `order` says otherwise.
        catalog: the features, and the limits of the logs.
        order: a permutation of range(len(log)): the order in which the state recorded it.
        names: compute only these features (all by default).
        only: compute features of the payments at these places of `log` alone; others get `SKIPPED`.
        whole_cards: whether all that its cards paid is in `log`. Where it is not, no payment is called repeated.

    Returns:
        n dictionaries, for the payments in the order of `log`: feature name to value, None where it is missing. The
        dictionary of a payment that its card's log calls repeated is empty: no decision is due, so its features mean
        nothing.
    """
    known = {feature.name: feature for feature in catalog.features}
    wanted = [known[name] for name in (known if names is None else names)]
    used = {feature.entity for feature in wanted}
    order = range(len(log)) if order is None else order
    repeated = _repeated(log, catalog.limits, order) if whole_cards else dict.fromkeys(order, False)
    logs: dict[tuple[str, str], _Log] = {}
    rows: dict[int, Row] = {}
    for i in order:
        record, pasts = log[i], dict[str, _Past]()
        for entity, entity_id in _entities(record):
            if entity not in used:
                continue
            entity_log = logs.setdefault((entity, entity_id), _Log(catalog.limits))
            if isinstance(record, Label):
                entity_log.label(record)
            else:
                pasts[entity] = _Past(entity_log.pay(record), entity_log)
        if isinstance(record, Payment):
            if repeated[i]:
                rows[i] = {}
            elif only is None or i in only:
                rows[i] = {f.name: _plain(_value(f, record, pasts)) for f in wanted}
            else:
                rows[i] = SKIPPED
    return [rows[i] for i in sorted(rows)]


def differences(values: Sequence[float], names: Sequence[str], expected: Row) -> list[str]:
    """What is wrong with a row of float32 features, one line each; empty when it equals the oracle's.

    Counts, sums, largest amounts, flags and times must be equal exactly; what `ROUNDED` tells by its name, to 1e-6. A
    catalog made up for a test should have the operations in its features' names.
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


def _repeated(log: Sequence[Payment | Label], limits: Limits, order: Sequence[int]) -> dict[int, bool]:
    """The verdict of its card's log on each payment, by the payment's place in `log`."""
    cards: dict[str, _Log] = {}
    found: dict[int, bool] = {}
    for i in order:
        record = log[i]
        if isinstance(record, Payment):
            found[i] = cards.setdefault(record.card_id, _Log(limits)).pay(record).repeated
    return found


@dataclass(eq=False)
class _Record:
    """A payment in a log, and whether that log saw its event id before."""

    payment: Payment
    repeated: bool = False


@dataclass(frozen=True)
class _Bucket:
    """The amounts of payments that happened in [start_ms, end_ms)."""

    start_ms: int
    end_ms: int
    amounts: list[int]


class _Log:
    """The log of one entity: where each of its records is now. What is in none of the lists is forgotten."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._newest_ms: int | None = None  # M
        self.raw: list[_Record] = []
        self._bucketed: list[Payment] = []
        self._frauds: list[Label] = []
        self._frozen: list[Label] = []

    def pay(self, payment: Payment) -> _Record:
        """Steps 1 to 4 for one payment."""
        record = _Record(payment)
        self._newest_ms = max(payment.event_time, self._newest_ms or payment.event_time)
        self._forget()
        self.raw.append(record)
        while len(self.raw) > self._limits.keep:
            oldest = self.raw.pop(0)
            if not oldest.repeated and not self._forgotten(oldest.payment.event_time):
                self._bucketed.append(oldest.payment)
        after_ms = self._newest_ms - self._limits.duplicate_ms
        ids = [past.payment.event_id for past in self.raw[:-1] if past.payment.event_time > after_ms]
        record.repeated = payment.event_id in ids
        return record

    def label(self, label: Label) -> None:
        same = [fraud for fraud in self._frauds if fraud.event_id == label.event_id]
        if label.label == "genuine":
            self._frauds = [fraud for fraud in self._frauds if fraud not in same]
        elif not same and not self._forgotten(label.event_time):
            self._frauds.append(label)
        while len(self._frauds) > self._limits.frauds:
            self._frozen.append(self._frauds.pop(0))

    def buckets(self) -> list[_Bucket]:
        """The buckets of now: their levels depend on how old their records have become."""
        assert self._newest_ms is not None
        buckets: dict[tuple[int, int], list[int]] = {}
        for payment in self._bucketed:
            bounds = bucket_bounds(payment.event_time, self._newest_ms)
            buckets.setdefault(bounds, []).append(payment.amount_minor)
        return [_Bucket(start_ms, end_ms, amounts) for (start_ms, end_ms), amounts in buckets.items()]

    def frauds(self) -> list[int]:
        """Event times of the frauds that can be reversed."""
        return [fraud.event_time for fraud in self._frauds]

    def frozen(self) -> list[tuple[int, int]]:
        """Bounds of the day of each fraud that can't be reversed any more."""
        return [_around(fraud.event_time, DAY) for fraud in self._frozen]

    def _forget(self) -> None:
        """Raw records go from the oldest on, up to the first that must stay; all else goes wherever it lies.

        M only grows, so what counts nowhere now never will.
        """
        while self.raw and self._forgotten(self.raw[0].payment.event_time):
            self.raw.pop(0)
        self._bucketed = [payment for payment in self._bucketed if not self._forgotten(payment.event_time)]
        self._frauds = [fraud for fraud in self._frauds if not self._forgotten(fraud.event_time)]
        self._frozen = [fraud for fraud in self._frozen if not self._forgotten(fraud.event_time)]

    def _forgotten(self, time_ms: int) -> bool:
        """Has the UTC day of this time ended at or before M - horizon?"""
        return self._newest_ms is not None and _around(time_ms, DAY)[1] <= self._newest_ms - self._limits.horizon_ms


def _around(time_ms: int, length_ms: int) -> tuple[int, int]:
    start_ms = time_ms // length_ms * length_ms
    return start_ms, start_ms + length_ms


def bucket_bounds(time_ms: int, newest_ms: int) -> tuple[int, int]:
    """Start and end of the bucket in which a record of this time lies when M is `newest_ms`."""
    for length_ms, coarser_ms, age_ms in LEVELS:
        if _around(time_ms, coarser_ms)[1] > newest_ms - age_ms:
            return _around(time_ms, length_ms)
    return _around(time_ms, DAY)


class _Past:
    """What one payment sees of one log, right after its own record."""

    def __init__(self, own: _Record, log: _Log) -> None:
        self.now_ms = own.payment.event_time
        self._own = own
        self._raw = [record for record in log.raw if not record.repeated]
        self._buckets = log.buckets()
        self._frauds = log.frauds()
        self._frozen = log.frozen()

    def raw(self, feature: Feature) -> list[Payment]:
        """The raw payments in the window, in log order; with the own one, where the window holds age 0."""
        return [record.payment for record in self._raw_records(feature)]

    def earlier(self, feature: Feature) -> list[Payment]:
        return [record.payment for record in self._raw_records(feature) if record is not self._own]

    def last(self, feature: Feature) -> Payment | None:
        """The newest earlier payment by event time; of equals the one recorded last."""
        newest = None
        for payment in self.earlier(feature):
            if newest is None or payment.event_time >= newest.event_time:
                newest = payment
        return newest

    def amounts(self, feature: Feature) -> list[int]:
        return [payment.amount_minor for payment in self.raw(feature)] + list(self._bucketed(feature))

    def earlier_amounts(self, feature: Feature) -> list[int]:
        return [payment.amount_minor for payment in self.earlier(feature)] + list(self._bucketed(feature))

    def frauds(self, feature: Feature) -> int:
        exact = [time_ms for time_ms in self._frauds if self._holds(feature, time_ms)]
        frozen = [day for day in self._frozen if self._holds_bucket(feature, *day)]
        return len(exact) + len(frozen)

    def fraud_ages_ms(self, feature: Feature) -> list[Fraction]:
        exact = [Fraction(self.now_ms - time_ms) for time_ms in self._frauds if self._holds(feature, time_ms)]
        frozen = [day for day in self._frozen if self._holds_bucket(feature, *day)]
        return exact + [max(Fraction(0), self.now_ms - Fraction(sum(day), 2)) for day in frozen]

    def _raw_records(self, feature: Feature) -> list[_Record]:
        return [record for record in self._raw if self._holds(feature, record.payment.event_time)]

    def _bucketed(self, feature: Feature) -> Iterator[int]:
        for bucket in self._buckets:
            if self._holds_bucket(feature, bucket.start_ms, bucket.end_ms):
                yield from bucket.amounts

    def _holds(self, feature: Feature, time_ms: int) -> bool:
        return feature.delay_ms <= self.now_ms - time_ms < feature.delay_ms + feature.window_ms

    def _holds_bucket(self, feature: Feature, start_ms: int, end_ms: int) -> bool:
        if start_ms > self.now_ms:
            return False
        age_ms = max(Fraction(0), self.now_ms - Fraction(start_ms + end_ms, 2))
        return feature.delay_ms <= age_ms < feature.delay_ms + feature.window_ms


def _mean(amounts: Sequence[int]) -> Fraction | None:
    return Fraction(sum(amounts), len(amounts)) if amounts else None


def _deviation(amounts: Sequence[int]) -> float | None:
    mean = _mean(amounts)
    if mean is None or len(amounts) < 2:
        return None
    variance = sum((amount - mean) ** 2 for amount in amounts) / len(amounts)
    return 0.0 if variance < mean**2 / 10**12 else math.sqrt(variance)


def _over(top: int, bottom: int) -> Fraction | None:
    return Fraction(top, bottom) if bottom else None


def _counterpart(payment: Payment, of: str) -> str | None:
    """A party of the payment, its country or its category; "0000" and what is not a number are no category."""
    if of == "country":
        return payment.country
    if of == "mcc":
        mcc = _mcc(payment)
        return None if mcc is None else str(mcc)
    text: str | None = getattr(payment, FIELDS[of])
    return text


def _of(feature: Feature) -> str:
    """The counterpart that a feature looks at; ValueError where a record of its entity does not say it."""
    assert feature.entity is not None
    if feature.of not in {*COUNTERPARTS[feature.entity], "country", "mcc"}:
        raise ValueError(f"{feature.name}: a record of a {feature.entity}'s log does not say its {feature.of}")
    return feature.of


def _amount_to_mean(feature: Feature, past: _Past, own: Payment) -> Value:
    amounts = past.earlier_amounts(feature)
    return _over(own.amount_minor * len(amounts), sum(amounts))


def _amount_to_max(feature: Feature, past: _Past, own: Payment) -> Value:
    return _over(own.amount_minor, max(past.earlier_amounts(feature), default=0))


def _amount_to_min(feature: Feature, past: _Past, own: Payment) -> Value:
    amounts = [payment.amount_minor for payment in past.earlier(feature)]
    return Fraction(own.amount_minor, min(amounts) or 1) if amounts else None


def _amount_zscore(feature: Feature, past: _Past, own: Payment) -> Value:
    amounts = past.earlier_amounts(feature)
    mean, deviation = _mean(amounts), _deviation(amounts)
    return float(own.amount_minor - mean) / deviation if mean is not None and deviation else None


def _distinct(feature: Feature, past: _Past, own: Payment) -> Value:
    return len({_counterpart(payment, _of(feature)) for payment in past.raw(feature)} - {None})


def _same(feature: Feature, past: _Past, own: Payment) -> Value:
    mine = _counterpart(own, _of(feature))
    theirs = [_counterpart(payment, _of(feature)) for payment in past.earlier(feature)]
    return None if mine is None else theirs.count(mine)


def _since_last(feature: Feature, past: _Past, own: Payment) -> Value:
    last = past.last(feature)
    return None if last is None else Fraction(own.event_time - last.event_time, 1_000)


def _since_last_ratio(feature: Feature, past: _Past, own: Payment) -> Value:
    ages_ms = [own.event_time - payment.event_time for payment in past.earlier(feature)]
    return _over(min(ages_ms) * len(ages_ms), max(ages_ms)) if ages_ms else None


def _velocity(feature: Feature, past: _Past, own: Payment) -> Value:
    month = msgspec.structs.replace(feature, window_ms=MONTH, delay_ms=0)
    n, usual = len(past.amounts(feature)), len(past.earlier_amounts(month))
    return _over(n * MONTH, usual * feature.window_ms)


def _near_hour(feature: Feature, past: _Past, own: Payment) -> Value:
    apart_ms = [abs(payment.event_time % DAY - own.event_time % DAY) for payment in past.earlier(feature)]
    near = [apart for apart in apart_ms if min(apart, DAY - apart) <= 2 * HOUR]
    return _over(len(near), len(apart_ms))


def _country_changed(feature: Feature, past: _Past, own: Payment) -> Value:
    last = past.last(feature)
    if last is None or last.country is None or own.country is None:
        return None
    return int(last.country != own.country)


def _fraud_rate(feature: Feature, past: _Past, own: Payment) -> Value:
    return _over(past.frauds(feature), len(past.amounts(feature)))


def _seconds(age_ms: Fraction | None) -> Value:
    return None if age_ms is None else age_ms / 1_000


def _risk(feature: Feature, past: _Past, own: Payment) -> Value:
    return _fraud_rate(feature, past, own) or 0


OVER_A_LOG: Mapping[str, Callable[[Feature, _Past, Payment], Value]] = {
    "count": lambda feature, past, _: len(past.amounts(feature)),
    "count_before": lambda feature, past, _: len(past.amounts(feature)),
    "sum": lambda feature, past, _: sum(past.amounts(feature)),
    "max": lambda feature, past, _: max(past.amounts(feature), default=None),
    "small_count": lambda feature, past, _: len([amount for amount in past.amounts(feature) if amount < 500]),
    "mean": lambda feature, past, _: _mean(past.amounts(feature)),
    "std": lambda feature, past, _: _deviation(past.earlier_amounts(feature)),
    "amount_to_mean": _amount_to_mean,
    "amount_to_max": _amount_to_max,
    "amount_to_min": _amount_to_min,
    "amount_zscore": _amount_zscore,
    "distinct": _distinct,
    "same": _same,
    "since_last": _since_last,
    "since_last_ratio": _since_last_ratio,
    "velocity": _velocity,
    "near_hour": _near_hour,
    "country_changed": _country_changed,
    "frauds": lambda feature, past, _: past.frauds(feature),
    "fraud_rate": _fraud_rate,
    "risk": _risk,
    "since_fraud": lambda feature, past, _: _seconds(min(past.fraud_ages_ms(feature), default=None)),
    "since_first_fraud": lambda feature, past, _: _seconds(max(past.fraud_ages_ms(feature), default=None)),
}


def _when(payment: Payment) -> datetime:
    return datetime.fromtimestamp(payment.event_time // 1000, UTC)


def _mcc(payment: Payment) -> int | None:
    text = payment.mcc
    return int(text) or None if text is not None and text.isascii() and text.isdigit() else None


def _foreign(payment: Payment) -> Value:
    known = payment.country is not None and payment.card_country is not None
    return int(payment.country != payment.card_country) if known else None


OF_THE_PAYMENT: Mapping[str, Callable[[Payment], Value]] = {
    "amount": lambda payment: payment.amount_minor,
    "round_amount": lambda payment: int(payment.amount_minor % 1_000 == 0),
    "hour": lambda payment: _when(payment).hour + Fraction(payment.event_time % HOUR, HOUR),
    "weekday": lambda payment: _when(payment).weekday(),
    "weekend": lambda payment: int(_when(payment).weekday() in {5, 6}),
    "night": lambda payment: int(_when(payment).hour <= 6),
    "channel": lambda payment: None if payment.channel is None else CHANNELS.get(payment.channel, 7),
    "mcc": _mcc,
    "foreign": _foreign,
}


def _value(feature: Feature, payment: Payment, pasts: Mapping[str, _Past]) -> Value:
    if feature.entity is None:
        return OF_THE_PAYMENT[feature.op](payment)
    operation = OVER_A_LOG[feature.op]
    return operation(feature, pasts[feature.entity], payment) if feature.entity in pasts else None


def _entities(record: Payment | Label) -> list[tuple[str, str]]:
    """The logs that a payment or a label is a record of."""
    named = [(entity, getattr(record, field)) for entity, field in FIELDS.items()]
    return [(entity, entity_id) for entity, entity_id in named if entity_id is not None]


def _plain(value: Value) -> float | None:
    return None if value is None else float(value)


def _as_float32(value: float) -> float:
    """Round to the nearest single-precision number, as a column of features does."""
    return float(struct.unpack("<f", struct.pack("<f", value))[0])
