"""Payments for the tests of the benches: few cards and merchants, ten minutes apart, a device for most."""

from __future__ import annotations

import random
from typing import Any


def payments(prefix: str, count: int) -> list[dict[str, Any]]:
    """The same ones at each call; every name begins with `prefix`."""
    rng = random.Random(7)
    made: list[dict[str, Any]] = []
    for index in range(count):
        card = rng.randrange(8)
        payment: dict[str, Any] = {
            "event_id": f"{prefix}-e{index}",
            "event_time": 1_750_000_000_000 + index * 600_000,
            "card_id": f"{prefix}-c{card}",
            "merchant_id": f"{prefix}-m{rng.randrange(3)}",
            "amount_minor": rng.randrange(10_000),
            "currency": "EUR",
        }
        made.append(payment | ({"device_id": f"{prefix}-d{card}"} if rng.random() < 0.7 else {}))
    return made
