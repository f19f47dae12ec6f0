"""The payment simulator: a seeded history of payments, in arrival order, and what becomes known of them later.

`simulate` draws a `History`; `write` puts it into `payments.jsonl` and `labels.jsonl`. The same `Simulation` gives the
same bytes. What the world does is in `simulator_world`; this module turns it into records and delivers them, if asked
late, twice or damaged.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from consumer.simulator_fraud import fraud_payments
from consumer.simulator_world import (
    CAMPAIGNS,
    CASH,
    CATEGORIES,
    COUNTRIES,
    DAY_MS,
    HOUR_MS,
    MINUTE_MS,
    SECOND_MS,
    Bools,
    Columns,
    Floats,
    Ints,
    World,
    concatenate,
    genuine_payments,
)
from features.errors import ConfigError
from features.event import CHANNELS, MAX_EVENT_TIME_MS, MIN_EVENT_TIME_MS, Label, Payment

MONDAY_MS: Final = 1_767_571_200_000  # 2026-01-05T00:00:00Z
MAX_PAYMENTS: Final = 100_000_000
PAYMENTS_FILE: Final = "payments.jsonl"
LABELS_FILE: Final = "labels.jsonl"
_CHUNK_RECORDS: Final = 8_192
_SOURCES: Final = ("customer", "issuer", "chargeback", "analyst")
_SOURCE_SHARES: Final = (0.40, 0.25, 0.25, 0.10)
_GENUINE_LABELS: Final = 0.01
_TEST_CARD_NUMBER: Final = "4111111111111111"  # the card networks' published test number

Record = tuple[bytes, bytes, int]


class _PaymentRecord(Payment, frozen=True, gc=False, omit_defaults=True):
    """A payment as it is sent: absent fields are left out instead of null."""


class _LabelRecord(Label, frozen=True, gc=False, omit_defaults=True):
    """A label as it is sent: absent fields are left out instead of null."""


@dataclass(frozen=True, slots=True)
class Simulation:
    """What to simulate. Shares lie in [0, 1); `start_ms` is milliseconds since the epoch, UTC.

    Left to itself a customer pays a dozen times, about every second or third day, and there is a merchant for ten
    customers. One customer in eight holds a second card on the same account. `late` payments arrive minutes to hours
    after they happened; `duplicate` ones are delivered again with the same bytes; `malformed` records come on top of
    `payments`.

    Raises:
        ConfigError: a value can't be used.
    """

    payments: int
    seed: int
    start_ms: int = MONDAY_MS
    customers: int | None = None
    merchants: int | None = None
    days: float | None = None
    fraud_rate: float = 0.005
    late: float = 0.0
    duplicate: float = 0.0
    malformed: float = 0.0

    def __post_init__(self) -> None:
        _within("payments", self.payments, 1, MAX_PAYMENTS)
        _within("seed", self.seed, 0, 2**32 - 1)
        _within("customers", self.customers, 50, 10_000_000)
        _within("merchants", self.merchants, 50, 1_000_000)
        _within("days", self.days, 1, 3_650)
        _within("start_ms", self.start_ms, MIN_EVENT_TIME_MS, MAX_EVENT_TIME_MS - 4_000 * DAY_MS)
        _within("fraud_rate", self.fraud_rate, 0, 0.2)
        for name in ("late", "duplicate", "malformed"):
            _within(name, getattr(self, name), 0, 0.9)

    @property
    def records(self) -> int:
        """How many records the payments file or topic gets, duplicates and malformed ones included."""
        return self.payments + round(self.payments * self.duplicate) + round(self.payments * self.malformed)

    def world(self, rng: np.random.Generator) -> World:
        """The customers and merchants of this simulation."""
        customers = self.customers or min(max(self.payments // 12, 200), 1_000_000)
        merchants = self.merchants or min(max(customers // 10, 50), 50_000)
        days = self.days or min(max(round(self.payments / customers * 2.5), 3), 180)
        return World(customers, merchants, days, rng)


def _within(name: str, value: float | None, least: float, most: float) -> None:
    if value is not None and not (math.isfinite(value) and least <= value <= most):
        raise ConfigError(
            f"The simulator's {name} must lie between {least:,} and {most:,}; give a value inside that range."
        )


@dataclass(frozen=True)
class History:
    """A simulated history of n payments in arrival order. `row` and `damage` have one entry a delivered record.

    Attributes:
        simulation: What was asked for.
        columns: The payments, shape (n,).
        row: Which payment each delivered record shows.
        damage: 0 for a payment as it is, else 1 + the index in the list of malformations.
        summary: Counts, ready for JSON: payments, who and where pays, fraud and its campaigns, labels, deliveries.
    """

    simulation: Simulation
    world: World
    columns: Columns
    row: Ints
    damage: Ints
    labelled: Ints
    labelled_at_ms: Ints
    source: Ints
    summary: dict[str, Any]

    @cached_property
    def fraud(self) -> Bools:
        """Which payments are fraud, shape (n,), in arrival order without duplicates and malformed records."""
        return self.columns.campaign > 0

    @cached_property
    def fraud_event_ids(self) -> frozenset[str]:
        """The event ids of all fraud, labelled yet or not."""
        return frozenset(self._event_ids(np.flatnonzero(self.fraud)))

    def records(self) -> Iterator[Record]:
        """Key, value and event time in milliseconds of every delivered payment record, in arrival order."""
        for keys, values, times in self.record_chunks():
            yield from zip(keys, values, times, strict=True)

    def labels(self) -> Iterator[Record]:
        """Key, value and `labelled_at` in milliseconds of every label, in order of `labelled_at`."""
        for keys, values, times in self.label_chunks():
            yield from zip(keys, values, times, strict=True)

    def record_chunks(self) -> Iterator[tuple[list[bytes], list[bytes], list[int]]]:
        """As `records`, some thousands at once: keys, values and event times."""
        encode = msgspec.json.Encoder().encode
        for start in range(0, len(self.row), _CHUNK_RECORDS):
            rows = self.row[start : start + _CHUNK_RECORDS]
            damage = self.damage[start : start + _CHUNK_RECORDS]
            payments = self._payments(rows)
            values = list(map(encode, payments))
            for at in np.flatnonzero(damage).tolist():
                values[at] = MALFORMATIONS[int(damage[at]) - 1](values[at])
            yield [p.card_id.encode() for p in payments], values, [p.event_time for p in payments]

    def label_chunks(self) -> Iterator[tuple[list[bytes], list[bytes], list[int]]]:
        """As `labels`, some thousands at once: keys, values and `labelled_at`."""
        encode = msgspec.json.Encoder().encode
        for start in range(0, len(self.labelled), _CHUNK_RECORDS):
            chunk = slice(start, start + _CHUNK_RECORDS)
            rows, times = self.labelled[chunk], self.labelled_at_ms[chunk].tolist()
            columns = self.columns.take(rows)
            cards = self._names("card", columns.card)
            verdicts = np.where(self.fraud[rows], "fraud", "genuine").tolist()
            fields = (
                self._event_ids(rows),
                cards,
                self._names("m", columns.merchant),
                self._event_times(rows),
                verdicts,
                times,
                [_SOURCES[source] for source in self.source[chunk].tolist()],
                self._names("a", self.world.account[self.world.holder[columns.card]]),
                self._terminals(columns.terminal),
                _devices(columns.device),
                _addresses(columns.ip),
            )
            yield [card.encode() for card in cards], list(map(encode, map(_LabelRecord, *fields))), times

    def _payments(self, rows: Ints) -> list[Payment]:
        columns, world = self.columns.take(rows), self.world
        shop, customer = columns.merchant, world.holder[columns.card]
        country, home = world.shop_country[shop], world.home[customer]
        money = np.where(world.shop_ecom[shop], home, country)
        fields = (
            self._event_ids(rows),
            self._event_times(rows),
            self._names("card", columns.card),
            self._names("m", shop),
            _minor_units(columns.euro, money).tolist(),
            [COUNTRIES[at].currency for at in money.tolist()],
            _devices(columns.device),
            _addresses(columns.ip),
            [CATEGORIES[at].mcc for at in world.category[shop].tolist()],
            [COUNTRIES[at].code for at in country.tolist()],
            [COUNTRIES[at].code for at in home.tolist()],
            [CHANNELS[at] for at in columns.channel.tolist()],
            self._terminals(columns.terminal),
            self._names("a", world.account[customer]),
        )
        return list(map(_PaymentRecord, *fields))

    def _event_ids(self, rows: Ints) -> list[str]:
        prefix = f"e{self.simulation.seed:x}"
        return [f"{prefix}-{row:x}" for row in rows.tolist()]

    def _event_times(self, rows: Ints) -> list[int]:
        times: list[int] = (self.columns.time_ms[rows] + self.simulation.start_ms).tolist()
        return times

    def _names(self, kind: str, numbers: Ints) -> list[str]:
        form = {"card": "card_{:07d}", "m": "m_{:06d}", "a": "a_{:07d}"}[kind].format
        return list(map(form, numbers.tolist()))

    def _terminals(self, numbers: Ints) -> list[str | None]:
        return list(map(self._terminal_names.__getitem__, numbers.tolist()))

    @cached_property
    def _terminal_names(self) -> list[str | None]:
        """The name of each terminal under its merchant's number; the last is what -1 finds: none."""
        world = self.world
        shop = np.repeat(np.arange(world.merchants), world.terminals)
        place = np.arange(len(shop)) - world.first_terminal[shop]
        cash = world.category[shop] == CASH
        rows = zip(cash.tolist(), shop.tolist(), place.tolist(), strict=True)
        return [f"{'atm' if machine else 't'}_{at:06d}_{which:02d}" for machine, at, which in rows] + [None]


def _devices(numbers: Ints) -> list[str | None]:
    return [None if at < 0 else f"d_{at * 2654435761 & 0xFFFFFFFF:08x}" for at in numbers.tolist()]


def _addresses(numbers: Ints) -> list[str | None]:
    return [None if at < 0 else f"10.{at >> 16}.{at >> 8 & 255}.{at & 255}" for at in numbers.tolist()]


def _minor_units(euro: Floats, country: Ints) -> Ints:
    """Amounts in the currency of `country`, shape (n,), never 0."""
    rate = np.array([country.minor_per_euro for country in COUNTRIES])
    minor: Ints = np.maximum(np.rint(euro * rate[country]).astype(np.int64), 1)
    return minor


def simulate(simulation: Simulation) -> History:
    """Draw the history of a simulation: the same simulation gives the same history.

    The history holds about 60 bytes a payment; drawing it takes three times that.
    """
    rng = np.random.default_rng(simulation.seed)
    world = simulation.world(rng)
    frauds = round(simulation.payments * simulation.fraud_rate)
    genuine = genuine_payments(world, simulation.payments - frauds, rng)
    columns = concatenate([genuine, fraud_payments(world, genuine, frauds, rng)])
    is_late = rng.random(len(columns)) < simulation.late
    delay = np.where(is_late, np.exp(rng.uniform(math.log(2.0), math.log(360.0), len(columns))) * MINUTE_MS, 0)
    arrival = columns.time_ms + delay.astype(np.int64)
    order = np.argsort(arrival, kind="stable")
    columns, arrival = columns.take(order), arrival[order]
    row, damage = _deliveries(simulation, arrival, rng)
    labelled, labelled_at, source = _labels(world, columns, arrival, rng)
    campaigns = np.bincount(columns.campaign, minlength=len(CAMPAIGNS)).tolist()
    summary = {
        "payments": len(columns),
        "records": len(row),
        "days": round(world.days, 3),
        "cards": _distinct(columns.card),
        "accounts": _distinct(world.account[world.holder[columns.card]]),
        "merchants": _distinct(columns.merchant),
        "terminals": _distinct(columns.terminal[columns.terminal >= 0]),
        "fraud": frauds,
        "fraud_share": frauds / len(columns),
        "campaigns": {
            name: {"payments": count, "share": count / len(columns)}
            for name, count in zip(CAMPAIGNS[1:], campaigns[1:], strict=True)
        },
        "labels": len(labelled),
        "late": int(is_late.sum()),
        "duplicates": round(simulation.payments * simulation.duplicate),
        "malformed": round(simulation.payments * simulation.malformed),
    }
    labelled_at += simulation.start_ms
    return History(simulation, world, columns, row, damage, labelled, labelled_at, source, summary)


def _distinct(numbers: Ints) -> int:
    return int(np.count_nonzero(np.bincount(numbers)))


def _deliveries(simulation: Simulation, arrival: Ints, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """Which payment each delivered record shows and how it is damaged, in arrival order."""
    count = len(arrival)
    again = rng.choice(count, round(count * simulation.duplicate), replace=False)
    broken = rng.integers(0, count, round(count * simulation.malformed))
    when = np.concatenate([arrival, arrival[again] + rng.integers(200, 60_000, len(again)), arrival[broken]])
    order = np.argsort(when, kind="stable")
    row = np.concatenate([np.arange(count), again, broken])
    damage = np.zeros(len(row), np.int64)
    damage[count + len(again) :] = rng.permutation(np.arange(len(broken)) % len(MALFORMATIONS)) + 1
    return row[order], damage[order]


def _labels(world: World, columns: Columns, arrival: Ints, rng: np.random.Generator) -> tuple[Ints, Ints, Ints]:
    """Which payments are labelled, when (since the start) and by whom (an index of `_SOURCES`), sorted by when.

    All fraud is, in the end. Analysts also clear one genuine payment in a hundred, mostly ones that looked large.
    """
    fraud = np.flatnonzero(columns.campaign)
    surprise = columns.euro / world.level[columns.merchant]
    large = surprise >= np.quantile(surprise, 0.9)
    seen = rng.random(len(columns)) < _GENUINE_LABELS * np.where(large, 7.0, 1.0 / 3.0)
    genuine = np.flatnonzero(seen & (columns.campaign == 0))
    count = len(fraud)
    source = rng.choice(len(_SOURCES), count, p=_SOURCE_SHARES)
    delay = np.choose(
        source,
        (
            np.clip(rng.lognormal(math.log(20.0), 1.0, count), 0.3, 240.0) * HOUR_MS,
            np.clip(rng.lognormal(math.log(45.0), 0.9, count), 1.0, 1_440.0) * MINUTE_MS,
            rng.uniform(5.0, 45.0, count) * DAY_MS,
            np.clip(rng.lognormal(math.log(5.0), 0.8, count), 0.2, 72.0) * HOUR_MS,
        ),
    )
    cleared = np.clip(rng.lognormal(math.log(6.0), 0.9, len(genuine)), 0.2, 96.0) * HOUR_MS
    labelled = np.concatenate([fraud, genuine])
    when = arrival[labelled] + np.concatenate([delay, cleared]).astype(np.int64) + SECOND_MS
    order = np.argsort(when, kind="stable")
    by_whom = np.concatenate([source, np.full(len(genuine), _SOURCES.index("analyst"))])
    return labelled[order], when[order], by_whom[order]


def _field(name: str, raw: bytes) -> Callable[[bytes], bytes]:
    """A malformation: the field `name` has the raw JSON `raw` for a value."""

    def damaged(value: bytes) -> bytes:
        record = msgspec.json.decode(value, type=dict[str, msgspec.Raw])
        return msgspec.json.encode(_renamed(record) | {name: msgspec.Raw(raw)})

    return damaged


def _without(name: str) -> Callable[[bytes], bytes]:
    """A malformation: the field `name` is missing."""

    def damaged(value: bytes) -> bytes:
        record = _renamed(msgspec.json.decode(value, type=dict[str, msgspec.Raw]))
        del record[name]
        return msgspec.json.encode(record)

    return damaged


def _renamed(record: dict[str, msgspec.Raw]) -> dict[str, msgspec.Raw]:
    """The record under another event id, so that it is not taken for a duplicate of the payment it was made from."""
    return record | {"event_id": msgspec.Raw(b'"x' + bytes(record["event_id"])[2:])}


MALFORMATIONS: Final[tuple[Callable[[bytes], bytes], ...]] = (
    lambda _: b"<payment>this is not JSON</payment>",
    lambda value: value[: len(value) // 2],
    lambda value: b"[" + value + b"]",
    lambda _: b"[" * 1_000 + b"]" * 1_000,
    _field("amount_minor", b'"12.50"'),
    _field("amount_minor", b"-100"),
    _field("amount_minor", b"NaN"),
    _field("amount_minor", b"99999999999999999999999"),
    _field("amount_minor", b'{"value":' * 1_000 + b"1" + b"}" * 1_000),
    _field("event_time", b'"2026-01-05T00:00:00Z"'),
    _field("event_time", b"1767571200"),
    _field("currency", b'"XXQ"'),
    _field("card_id", b'"' + _TEST_CARD_NUMBER.encode() + b'"'),
    _field("card_id", b"null"),
    _field("merchant_id", b'""'),
    _field("merchant_id", b'"m_\xff\xfe"'),
    _without("amount_minor"),
    _without("card_id"),
)


def write(simulation: Simulation, out_dir: Path, progress: Callable[[int], None] | None = None) -> dict[str, Any]:
    """Write `payments.jsonl` and `labels.jsonl` into `out_dir`, whole or not at all, one record a line.

    Args:
        simulation: What to simulate.
        out_dir: Made if it is missing; files of these names are replaced.
        progress: Called after each chunk with the number of payment records just written (not the total so far).

    Returns:
        `History.summary` with `seconds` and `payments_per_s`, ready for JSON.

    Raises:
        ConfigError: the files can't be written.
    """
    began = time.perf_counter()
    history = simulate(simulation)
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        _write_lines(out_dir / LABELS_FILE, history.label_chunks(), None)
        _write_lines(out_dir / PAYMENTS_FILE, history.record_chunks(), progress)
    except OSError as error:
        raise ConfigError(
            f"The simulated payments can't be written to {out_dir} ({error.strerror}); give a directory that you may "
            "write to and that has free space."
        ) from error
    seconds = time.perf_counter() - began
    return history.summary | {"seconds": round(seconds, 3), "payments_per_s": round(simulation.payments / seconds)}


def _write_lines(
    path: Path, chunks: Iterable[tuple[list[bytes], list[bytes], list[int]]], progress: Callable[[int], None] | None
) -> None:
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            for _, values, _ in chunks:
                file.write(b"\n".join(values) + b"\n")
                if progress is not None:
                    progress(len(values))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
