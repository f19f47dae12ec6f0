"""Which alerts a reader of the page asks for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from consumer.metrics import DECISIONS, TIERS
from consumer.records import Alert
from features.currencies import exponent

MAX_TEXT: Final = 128


class BadRequest(ValueError):
    """What was asked can't be answered; its text is one plain sentence without what was sent."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What an alert must have; None asks for nothing.

    `reason` is a part of a reason's code, of its feature or of a rule's id; `text` a part of any of its ids;
    `min_amount` is in whole units of the alert's own currency.
    """

    decision: str | None = None
    tier: str | None = None
    reason: str | None = None
    min_score: float | None = None
    min_amount: float | None = None
    text: str | None = None

    def takes(self, alert: Alert) -> bool:
        """Whether an alert is asked for."""
        return (
            self.decision in (None, alert.decision)
            and self.tier in (None, alert.tier)
            and (self.min_score is None or (alert.score is not None and alert.score >= self.min_score))
            and (self.min_amount is None or alert.amount_minor >= self.min_amount * 10 ** exponent(alert.currency))
            and (self.reason is None or any(self.reason in word for word in words_of(alert)))
            and (self.text is None or any(self.text in name.lower() for name in _ids(alert)))
        )


EVERYTHING: Final = Selection()


def words_of(alert: Alert) -> list[str]:
    """Why it was raised, in words that can be looked for: rules, and codes and features of its reasons."""
    words = list(alert.rules)
    for reason in alert.reasons:
        words += (reason.code, reason.feature)
    return [word.lower() for word in words]


def selection_of(asked: Mapping[str, str]) -> Selection:
    """What the parameters of a request ask for; unknown ones are left alone. Raises BadRequest."""
    return Selection(
        decision=_one_of(asked, "decision", DECISIONS),
        tier=_one_of(asked, "tier", TIERS),
        reason=_text(asked, "reason"),
        min_score=_number(asked, "min_score"),
        min_amount=_number(asked, "min_amount"),
        text=_text(asked, "text"),
    )


def whole(asked: Mapping[str, str], name: str, least: int, most: int, otherwise: int) -> int:
    """A whole number of a request. Raises BadRequest."""
    text = asked.get(name, "")
    if not text:
        return otherwise
    if not (text.isascii() and text.isdigit() and len(text) <= 18 and least <= int(text) <= most):
        raise BadRequest(f"{name} must be a whole number from {least} to {most}.")
    return int(text)


def _one_of(asked: Mapping[str, str], name: str, words: tuple[str, ...]) -> str | None:
    word = asked.get(name) or None
    if word is not None and word not in words:
        raise BadRequest(f"{name} must be one of {', '.join(words)}.")
    return word


def _number(asked: Mapping[str, str], name: str) -> float | None:
    text = asked.get(name, "").strip()
    if not text:
        return None
    try:
        number = float(text) if len(text) <= 32 else math.nan
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or number < 0:
        raise BadRequest(f"{name} must be a number of 0 or more.")
    return number


def _text(asked: Mapping[str, str], name: str) -> str | None:
    text = asked.get(name, "").strip().lower()
    if len(text) > MAX_TEXT:
        raise BadRequest(f"{name} may have at most {MAX_TEXT} characters.")
    return text or None


def _ids(alert: Alert) -> list[str]:
    names = (alert.event_id, alert.alert_id, alert.card_id, alert.merchant_id, alert.device_id, alert.account_id)
    return [name for name in names if name]
