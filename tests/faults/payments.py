"""A small, dense history: few cards and fewer merchants, so that every batch holds payments that see each other.

Labels of its payments lie between them: of some twice, of some reversed, and of some that were never paid.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from zlib import crc32

START_MS = 1_760_000_000_000
FAR_MS = 4_000_000_000_000  # the future, whoever asks
PARTITIONS = 4  # so that of two workers none has labels alone
LABEL_PARTITIONS = 2

LABELLED = ("event_id", "card_id", "merchant_id", "event_time", "account_id", "terminal_id", "device_id")
"""What a label says of its payment."""


@dataclass(frozen=True, slots=True)
class Record:
    """One record to produce, to the payments or to the labels."""

    partition: int
    key: bytes
    value: bytes | None
    is_label: bool = False


def history(count: int, seed: int, first: int = 0) -> list[Record]:
    """`count` records; those of a card lie in one partition of each topic. `first`: how many were made before."""
    rng = random.Random(seed)
    made: list[Record] = []
    values: list[Record] = []  # what can be sent again
    for number in range(first, first + count):
        draw = rng.random()
        if draw < 0.04:
            made.append(_malformed(rng, number))
        elif draw < 0.10 and values:
            made.append(rng.choice(values[-60:]))
        elif draw < 0.20 and values:
            made.append(_label(rng, number, json.loads(rng.choice(values[-40:]).value or b"")))
        else:
            made.append(_payment(rng, number))
            values.append(made[-1])
    return made


def _payment(rng: random.Random, number: int) -> Record:
    holder = rng.randrange(30)
    card = f"card-{holder}"
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
        "account_id": f"account-{holder % 20}",
    }
    if rng.random() < 0.7:
        fields["device_id"] = f"device-{rng.randrange(12)}"
    if fields["channel"] == "pos":
        fields["terminal_id"] = f"{fields['merchant_id']}-{rng.randrange(2)}"
    return Record(_partition(card), card.encode(), json.dumps(fields).encode())


def _label(rng: random.Random, number: int, payment: dict[str, object]) -> Record:
    """What is known of a payment at this place in the history; one in eight of them is malformed."""
    fields: dict[str, object] = {name: payment[name] for name in LABELLED if name in payment}
    fields["label"] = rng.choice(("fraud", "fraud", "fraud", "genuine"))
    fields["labelled_at"] = START_MS + number * 40_000
    fields["source"] = rng.choice(("chargeback", "customer"))
    if rng.random() < 0.1:
        fields["event_id"] = f"unpaid-{number}"
    value: bytes | None = json.dumps(fields).encode()
    if rng.random() < 0.125:
        value = rng.choice(
            (
                None,
                b"[1, 2]",
                json.dumps(fields | {"label": "maybe"}).encode(),
                json.dumps(fields | {"event_time": START_MS + number * 40_000 + 1}).encode(),
                json.dumps({name: fields[name] for name in fields if name != "merchant_id"}).encode(),
            )
        )
    card = str(payment["card_id"]).encode()
    return Record(crc32(card) % LABEL_PARTITIONS, card, value, is_label=True)


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
            json.dumps(whole | {"event_time": FAR_MS}).encode(),
            json.dumps({name: whole[name] for name in whole if name != "merchant_id"}).encode(),
        )
    )
    return Record(_partition(card), card.encode(), value)


def _partition(card: str) -> int:
    return crc32(card.encode()) % PARTITIONS
