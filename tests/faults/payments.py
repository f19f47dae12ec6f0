"""A small, dense history: few cards and fewer merchants, so that every batch holds payments that see each other."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from zlib import crc32

START_MS = 1_760_000_000_000
PARTITIONS = 3


@dataclass(frozen=True, slots=True)
class Record:
    """One record to produce."""

    partition: int
    key: bytes
    value: bytes | None


def history(count: int, seed: int, first: int = 0) -> list[Record]:
    """`count` records; those of a card lie in one partition. `first` is the number of records made before."""
    rng = random.Random(seed)
    made: list[Record] = []
    values: list[Record] = []  # what can be sent again
    for number in range(first, first + count):
        draw = rng.random()
        if draw < 0.04:
            made.append(_malformed(rng, number))
        elif draw < 0.10 and values:
            made.append(rng.choice(values[-60:]))
        else:
            made.append(_payment(rng, number))
            values.append(made[-1])
    return made


def _payment(rng: random.Random, number: int) -> Record:
    card = f"card-{rng.randrange(30)}"
    late_ms = rng.randrange(7_200_000) if rng.random() < 0.1 else 0
    fields: dict[str, object] = {
        "event_id": f"event-{number}",
        "event_time": START_MS + number * 40_000 - late_ms,
        "card_id": card,
        "merchant_id": f"merchant-{min(rng.randrange(6), rng.randrange(6))}",
        "amount_minor": rng.choice((199, 450, 1_000, 2_350, 10_000, rng.randrange(100_000))),
        "currency": "EUR",
        "mcc": rng.choice(("5411", "5812", "4829")),
        "country": rng.choice(("DE", "DE", "FR", "US")),
        "card_country": "DE",
        "channel": rng.choice(("pos", "ecom")),
    }
    if rng.random() < 0.7:
        fields["device_id"] = f"device-{rng.randrange(12)}"
    return Record(_partition(card), card.encode(), json.dumps(fields).encode())


def _malformed(rng: random.Random, number: int) -> Record:
    card = f"card-{rng.randrange(30)}"
    whole = json.loads(_payment(rng, number).value or b"")
    value = rng.choice(
        (
            None,
            b"not json",
            b"[1, 2]",
            json.dumps(whole | {"amount_minor": -5}).encode(),
            json.dumps(whole | {"currency": "XXQ"}).encode(),
            json.dumps(whole | {"event_time": 4_000_000_000_000}).encode(),
            json.dumps({name: whole[name] for name in whole if name != "merchant_id"}).encode(),
        )
    )
    return Record(_partition(card), card.encode(), value)


def _partition(card: str) -> int:
    return crc32(card.encode()) % PARTITIONS
