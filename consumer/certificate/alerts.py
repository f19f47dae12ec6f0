"""Alerts that were published, and what they should have been, each as a hash: many have to wait to be compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
import numpy as np
from xxhash import xxh3_64_intdigest

from consumer.records import Alert
from features.event import Words
from models.explain import Reason

PARTITION, OFFSET, WHOLE, UNEXPLAINED, LOOSE = range(5)
WORDS: Final = 5
_encode: Final = msgspec.json.Encoder().encode


def pack(alerts: Sequence[Alert]) -> Words:
    """(n, WORDS) of n alerts, as `expected` gives hashes; which of them have no reasons."""
    rows = np.empty((len(alerts), WORDS), np.int64)
    for row, told in zip(rows, alerts, strict=True):
        state, model = told.state, told.model
        plain = (
            told.alert_id, told.event_id, told.card_id, told.merchant_id, told.event_time, told.amount_minor,
            told.currency, told.decision, told.tier, told.rules, f"{model.name}@{model.version}", model.digest,
            None if state is None else (state.shard, state.epoch, state.sequence),
        )  # fmt: skip
        whole, _, loose = hashes(plain, told.score, told.reasons)
        row[:] = told.source.partition, told.source.offset, whole, not told.reasons, loose
    return rows


def hashes(plain: tuple[Any, ...], score: float | None, reasons: tuple[Reason, ...]) -> tuple[int, int, int]:
    """An alert's hash; what it would be without reasons; and that of what does not depend on the last bits of a score.

    `plain` is what `pack` takes of an alert besides score and reasons.
    """
    return tuple(_hash((plain, *more)) for more in ((score, reasons), (score, ()), ()))  # type: ignore[return-value]


def _hash(content: object) -> int:
    digest = xxh3_64_intdigest(_encode(content))
    return digest - (1 << 64) if digest >> 63 else digest
