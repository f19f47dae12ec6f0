"""The rules that a freshly trained bundle starts with: what still holds when no model can answer.

Their bars come from the training payments, so that each rule fires for about the stated share of them. An analyst then
edits `policy.toml`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from models.policy import Rule, Tier

Values = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _Starter:
    """A rule whose bar is the value that `share` of the training payments reach, but at least `floor`.

    Profiles name the same value differently: the rule is over the first of `features` that the catalog has.
    """

    id: str
    features: tuple[str, ...]
    share: float
    floor: float
    action: Literal["review", "block"]
    reason: str
    tiers: tuple[Tier, ...]


_STARTERS: Final = (
    _Starter(
        id="large_amount",
        features=("amount_minor", "TX_AMOUNT"),
        share=0.005,
        floor=10_000,
        action="review",
        reason="The amount is among the largest seen, and no model could score the payment.",
        tiers=("rules_only",),
    ),
    _Starter(
        id="many_payments_in_an_hour",
        features=("card_count_1h",),
        share=0.0005,
        floor=8,
        action="review",
        reason="The card has paid unusually often within an hour.",
        tiers=("rules_only",),
    ),
    _Starter(
        id="many_small_payments",
        features=("card_small_count_1h",),
        share=0.0005,
        floor=5,
        action="review",
        reason="The card has made many tiny payments within an hour, as in card testing.",
        tiers=("rules_only",),
    ),
    _Starter(
        id="many_cards_on_a_device",
        features=("device_cards_24h",),
        share=0.0005,
        floor=5,
        action="review",
        reason="The device has used many cards within a day.",
        tiers=("rules_only",),
    ),
)


def starter_rules(values: Values, names: tuple[str, ...]) -> tuple[Rule, ...]:
    """The starting rules whose features the catalog has.

    Args:
        values: (n, features) float32 training rows, NaN where missing.
        names: the columns.
    """
    return tuple(
        Rule(
            id=starter.id,
            when=f"{feature} >= {_bar(values[:, names.index(feature)], starter):.0f}",
            action=starter.action,
            reason=starter.reason,
            tiers=starter.tiers,
        )
        for starter in _STARTERS
        for feature in [name for name in starter.features if name in names][:1]
    )


def _bar(column: Values, starter: _Starter) -> float:
    """Rounded up to two digits: a bar that a person can remember."""
    present = column[~np.isnan(column)]
    value = float(np.quantile(present, 1 - starter.share)) if present.size else 0.0
    value = max(value, starter.floor)
    unit = 10.0 ** max(math.floor(math.log10(value)) - 1, 0)
    return float(math.ceil(value / unit) * unit)
