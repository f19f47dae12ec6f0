"""Alerts that were published, and what they should have been, each as a hash: many have to wait to be compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec
import numpy as np
from xxhash import xxh3_64_intdigest

from consumer.records import Alert
from features.event import Words
from models.explain import Reason

PARTITION, OFFSET, WHOLE, UNEXPLAINED, LOOSE = range(5)
WORDS: Final = 5
_encode: Final = msgspec.json.Encoder().encode


class Plain(NamedTuple):
    """What an alert says besides score and reasons: of what was published and of what was replayed."""

    alert_id: str
    event_id: str
    card_id: str
    merchant_id: str
    event_time: int
    amount_minor: int
    currency: str
    decision: str
    tier: str
    rules: tuple[str, ...]
    model: str
    bundle: str
    state: tuple[int, int, int] | None


def pack(alerts: Sequence[Alert]) -> Words:
    """(n, WORDS) of n alerts, as `expected` gives hashes; which of them have no reasons."""
    rows = np.empty((len(alerts), WORDS), np.int64)
    for row, told in zip(rows, alerts, strict=True):
        state, model = told.state, told.model
        plain = Plain(
            told.alert_id, told.event_id, told.card_id, told.merchant_id, told.event_time, told.amount_minor,
            told.currency, told.decision, told.tier, told.rules, f"{model.name}@{model.version}", model.digest,
            None if state is None else (state.shard, state.epoch, state.sequence),
        )  # fmt: skip
        whole, _, loose = hashes(plain, told.score, told.reasons)
        row[:] = told.source.partition, told.source.offset, whole, not told.reasons, loose
    return rows


def hashes(plain: Plain, score: float | None, reasons: tuple[Reason, ...]) -> tuple[int, int, int]:
    """An alert's hash; what it would be without reasons; and without what depends on the last bits of a score."""
    return tuple(_hash((plain, *more)) for more in ((score, reasons), (score, ()), ()))  # type: ignore[return-value]


def _hash(content: object) -> int:
    digest = xxh3_64_intdigest(_encode(content))
    return digest - (1 << 64) if digest >> 63 else digest
