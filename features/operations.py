"""What to gather for a catalog's features of one entity, worked out once; and the features of payments alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from features.catalog import COUNTERPARTS, DAY_MS, HOUR_MS, MONTH_MS, ROUND_AMOUNT_MINOR, Entity, Feature
from features.cells import CHANNELS
from features.event import PaymentBatch, Words
from features.values import OPERATIONS, PROGRAM_COLUMNS

Floats = npt.NDArray[np.float64]

NIGHT_ENDS_HOUR: Final = 7


def _missing_zero(codes: Floats) -> Floats:
    return np.where(codes == 0, np.nan, codes)


def _weekday(batch: PaymentBatch) -> Words:
    days: Words = (batch.event_time // DAY_MS + 3) % 7  # 1970-01-01 was a Thursday
    return days


PAYMENT_OPS: Final[dict[str, Callable[[PaymentBatch], Floats]]] = {
    "amount": lambda b: b.amount.astype(np.float64),
    "round_amount": lambda b: (b.amount % ROUND_AMOUNT_MINOR == 0).astype(np.float64),
    "hour": lambda b: b.event_time % DAY_MS / HOUR_MS,
    "weekday": lambda b: _weekday(b).astype(np.float64),
    "weekend": lambda b: (_weekday(b) >= 5).astype(np.float64),
    "night": lambda b: (b.event_time % DAY_MS < NIGHT_ENDS_HOUR * HOUR_MS).astype(np.float64),
    "channel": lambda b: _missing_zero(b.channel.astype(np.float64)),
    "mcc": lambda b: _missing_zero(b.mcc.astype(np.float64)),
    "foreign": lambda b: np.where((b.country == 0) | (b.card_country == 0), np.nan, b.country != b.card_country),
}


@dataclass(frozen=True)
class Plan:
    """One entity's features: the edges of its cells, the channels that are needed, and a program of values."""

    edges: Words
    needed: Words
    program: Words

    @classmethod
    def of(cls, entity: Entity, features: Sequence[Feature]) -> Plan:
        """Work it out. An entity without features has a plan too: its logs still tell repeated event ids."""
        ages = {feature.delay_ms for feature in features} | {f.delay_ms + f.window_ms for f in features} | {MONTH_MS}
        edges = sorted(ages - {0})
        needed = np.zeros(CHANNELS, np.int64)
        program = np.zeros((len(features), PROGRAM_COLUMNS), np.int64)
        for row, feature in enumerate(features):
            operation = OPERATIONS[feature.op]
            which = 0 if feature.of is None else (*COUNTERPARTS[entity], "country", "mcc").index(feature.of)
            needed[list(operation.channels)] = 1
            if operation.by_tag is not None:
                needed[operation.by_tag + which] = 1
            lower = edges.index(feature.delay_ms) + 1 if feature.delay_ms else 0
            upper = edges.index(feature.delay_ms + feature.window_ms) + 1
            program[row] = (operation.number, lower, upper, which, feature.window_ms, edges.index(MONTH_MS) + 1)
        return cls(np.array(edges, np.int64), needed, program)
