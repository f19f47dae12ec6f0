"""Payments as no sender should send them: simulated ones, with bytes, fields, keys and headers changed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from consumer.simulator import Simulation, simulate
from features.event import MAX_AMOUNT_MINOR, MAX_EVENT_TIME_MS, MIN_EVENT_TIME_MS, Payment
from tests.fuzz.mutate import Mutator
from tests.support.canaries import CARD_NUMBERS

SECRET: Final = "secret-Zq9canary"
INTACT: Final = 0.4
HUGE: Final = 0.0005
_FIELDS: Final = Payment.__struct_fields__
_LIMITS: Final = (
    *(0, -1, 1, MAX_AMOUNT_MINOR, MAX_AMOUNT_MINOR + 1, MIN_EVENT_TIME_MS - 1, MIN_EVENT_TIME_MS, MAX_EVENT_TIME_MS),
    *(MAX_EVENT_TIME_MS + 1, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**40, 0.5, 1e300),
)
_TEXTS: Final = (
    *("", " ", "\0", "\x1b[2J", "\u202e", "\U0001f600" * 128, "a" * 129, "\u0130\u00df\ufb01", "null", "NaN"),
    *(*CARD_NUMBERS, " ".join(CARD_NUMBERS[0][at : at + 4] for at in (0, 4, 8, 12)), SECRET, "'; drop table", "../x"),
)
_RAW: Final = (b"NaN", b"Infinity", b"-Infinity", b"1e999", b"01", b"0x10", rb'"\ud800"', b'"\xff"', b"'x'", b"")
_Fields = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Sent:
    """A record as it is to be sent. `time_ms` is its Kafka timestamp."""

    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]
    time_ms: int


def records(count: int, seed: int) -> Iterator[Sent]:
    """`count` records, four in ten as they should be; the same for the same seed."""
    rng = random.Random(seed)
    base: list[bytes] = []
    history = simulate(Simulation(payments=count, seed=seed, duplicate=0.02))
    mutator = Mutator([], [f'"{name}"'.encode() for name in _FIELDS], 70_000)
    for made, (key, value, time_ms) in enumerate(history.records()):
        if made == count:
            return
        base.append(value)
        if len(base) > 64:
            base.pop(0)
        headers = [("traceparent", b"00-1"), (rng.choice(CARD_NUMBERS), SECRET.encode())] if rng.random() < 0.01 else []
        if rng.random() < INTACT:
            yield Sent(key, value, headers, time_ms)
        else:
            yield Sent(_key(key, rng), _value(value, base, mutator, rng), headers, time_ms)


def _key(key: bytes, rng: random.Random) -> bytes | None:
    if rng.random() > 0.1:
        return key
    return rng.choice((None, b"", b"\xff\0", CARD_NUMBERS[1].encode(), b"k" * 2_000, key[::-1]))


def _value(value: bytes, base: list[bytes], mutator: Mutator, rng: random.Random) -> bytes | None:
    if rng.random() < HUGE:
        return rng.choice(_HUGE)(value)
    draw = rng.random()
    if draw < 0.35:
        return mutator.mutated(value, rng)
    if draw < 0.37:
        return rng.choice((None, b"", b" ", b"null", b"[]", value * 2, base[0][: len(value) // 2] + value))
    return _changed(value, base, rng)


def _changed(value: bytes, base: list[bytes], rng: random.Random) -> bytes:
    """The payment with one or two of its fields changed, and still JSON unless a raw text was put in."""
    fields = json.loads(value)
    for _ in range(rng.choice((1, 1, 2))):
        rng.choice(_CHANGES)(fields, base, rng)
    text = json.dumps(fields, ensure_ascii=rng.random() < 0.5, indent=rng.choice((None, None, 1)))
    encoded = text.encode()
    if rng.random() < 0.05:
        name = rng.choice(_FIELDS)
        encoded = encoded[:-1] + f',"{name}":'.encode() + rng.choice(_RAW) + b"}"
    return encoded


def _drop(fields: _Fields, _base: list[bytes], rng: random.Random) -> None:
    fields.pop(rng.choice(_FIELDS), None)


def _retype(fields: _Fields, _base: list[bytes], rng: random.Random) -> None:
    fields[rng.choice(_FIELDS)] = rng.choice((None, True, 7, 1.5, "7", [], {}, [fields.get("card_id")]))


def _limit(fields: _Fields, _base: list[bytes], rng: random.Random) -> None:
    fields[rng.choice(("amount_minor", "event_time", "amount_minor", "event_time", "mcc"))] = rng.choice(_LIMITS)


def _text(fields: _Fields, _base: list[bytes], rng: random.Random) -> None:
    fields[rng.choice(_FIELDS)] = rng.choice(_TEXTS)


def _unknown(fields: _Fields, _base: list[bytes], rng: random.Random) -> None:
    inner: Any = rng.choice((1, "x", CARD_NUMBERS[2], None))
    for _ in range(rng.choice((0, 1, 5, 62, 63, 64, 300))):
        inner = [inner] if rng.random() < 0.5 else {"a": inner}
    fields[rng.choice(("note", "Card_id", "card_id ", "\u00e9", "x" * 500))] = inner


def _exchange(fields: _Fields, base: list[bytes], rng: random.Random) -> None:
    """A field of another payment: its event id, its card, its time."""
    name = rng.choice(_FIELDS)
    fields[name] = json.loads(rng.choice(base)).get(name)


def _shuffle(fields: _Fields, _base: list[bytes], rng: random.Random) -> None:
    items = list(fields.items())
    rng.shuffle(items)
    fields.clear()
    fields.update(items)


_CHANGES: Final[tuple[Callable[[_Fields, list[bytes], random.Random], None], ...]] = (
    *(_drop, _retype, _limit, _text, _unknown, _exchange, _exchange, _shuffle),
)
_HUGE: Final[tuple[Callable[[bytes], bytes], ...]] = (
    lambda value: value[:-1] + b',"x":"' + b"y" * 65_000 + b'"}',
    lambda value: value[:-1] + b',"x":"' + b"y" * 200_000 + b'"}',
    lambda value: value[:-1] + b',"x":' + b"[" * 30_000 + b"]" * 30_000 + b"}",
    lambda value: value[:-1] + b',"x":' + b"9" * 60_000 + b"}",
    lambda value: value[:-1] + b',"x":[' + b"1," * 30_000 + b"1]}",
    lambda value: b"\xff" * 60_000,
)
