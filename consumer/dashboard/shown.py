"""How records look on the page: plain JSON of what is shown, amounts with the decimals of their currency."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from consumer.masking import without_card_numbers
from consumer.records import Alert, Decision
from features.currencies import exponent

# What a producer may fill with a card number, though it should not. Event ids are shown as they are: for looking up.
NAMES: Final = ("merchant_id", "device_id", "account_id")


def amount(amount_minor: int, currency: str) -> str:
    """An amount as people write it, without its currency: `1,234.50`; with as many decimals as the currency has."""
    decimals = exponent(currency)
    units, rest = divmod(abs(amount_minor), 10**decimals)
    sign = "-" if amount_minor < 0 else ""
    return f"{sign}{units:,}.{rest:0{decimals}d}" if decimals else f"{sign}{units:,}"


def line(number: int, raised_ms: int, alert: Alert) -> bytes:
    """One alert in a list, as JSON."""
    return msgspec.json.encode(
        {
            "number": number,
            "raised_ms": raised_ms,
            "event_id": alert.event_id,
            "decision": alert.decision,
            "score": alert.score,
            "amount": amount(alert.amount_minor, alert.currency),
            "currency": alert.currency,
            "merchant_id": without_card_numbers(alert.merchant_id),
            "card_id": alert.card_id,
            "rules": alert.rules,
            "reasons": [reason.text or reason.feature for reason in alert.reasons],
            "tier": alert.tier,
        }
    )


def whole_alert(raised_ms: int, alert: Alert) -> dict[str, Any]:
    """All of an alert, for its payment's own page."""
    told: dict[str, Any] = msgspec.to_builtins(alert)
    names = {name: without_card_numbers(told[name]) for name in NAMES if told.get(name)}
    return (
        told
        | names
        | {
            "raised_ms": raised_ms,
            "amount": amount(alert.amount_minor, alert.currency),
            "decided_ms": decided_ms(alert),
        }
    )


def decided_ms(alert: Alert) -> float:
    """From the payment's Kafka timestamp until it was decided: the sum of its stages."""
    stages = alert.stage_ms
    return stages.queued + stages.decode + stages.enrich + stages.score + stages.decide


def whole_decision(decided_at_ms: int, decision: Decision) -> dict[str, Any]:
    """All of a decision."""
    told: dict[str, Any] = msgspec.to_builtins(decision)
    return told | {"decided_at_ms": decided_at_ms}
