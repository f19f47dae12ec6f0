"""Payments as their bytes come and decisions as they go, for peers whose framework hands over bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

import orjson

from bench.peers.counters import Counters, is_alert

REQUIRED: Final = {"event_id": str, "event_time": int, "card_id": str, "merchant_id": str, "amount_minor": int}

Publication = tuple[bytes, bytes, bytes | None]
"""What is published of one payment: its key, its decision, and its alert if one is due."""


def payment_of(value: bytes | None) -> dict[str, Any] | None:
    """The payment that these bytes hold, or None where they hold none that the counters can take."""
    try:
        found = orjson.loads(value or b"")
    except orjson.JSONDecodeError:
        return None
    if isinstance(found, dict) and all(isinstance(found.get(name), kind) for name, kind in REQUIRED.items()):
        return found
    return None


def by_counters(counters: Counters, values: Iterable[bytes | None]) -> Iterator[Publication]:
    """Decide a batch by one call to Redis and one predict; what is no payment is passed over."""
    payments = [payment for value in values if (payment := payment_of(value)) is not None]
    for decision in counters.decide_batch(payments):
        value = orjson.dumps(decision)
        yield decision["card_id"].encode(), value, value if is_alert(decision) else None
