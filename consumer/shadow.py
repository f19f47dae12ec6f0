"""The shadow topic: how champion and challenger judged each payment, written with the decisions."""

from __future__ import annotations

from typing import Final, Literal

import msgspec
import numpy as np

from consumer.judge import Model
from consumer.kafka.publisher import Outgoing
from consumer.publish import Decided
from consumer.records import ShadowDecision, Source, Verdict
from models.policy import DECISIONS

_encode: Final = msgspec.json.Encoder().encode


class ShadowOutbox:
    """Turns two judges' verdicts on a batch into records."""

    def __init__(self, topic: str) -> None:
        """`topic` is the shadow topic."""
        self._topic = topic

    def records(self, champion: Decided, challenger: Decided, old: Model, new: Model) -> list[Outgoing]:
        """One record for every payment that a decision is due for, in log order."""
        batch = champion.batch
        ours, theirs = _verdicts(challenger, new), _verdicts(champion, old)
        by_challenger = challenger.due.tolist()
        rows = np.flatnonzero(champion.due | challenger.due).tolist()
        partition, offset = batch.partition.tolist(), batch.offset.tolist()
        found = []
        for row in rows:
            payment = batch.payments[row]
            by: Literal["champion", "challenger"] = "challenger" if by_challenger[row] else "champion"
            record = ShadowDecision(
                payment.event_id,
                payment.card_id,
                payment.event_time,
                Source(batch.topic, partition[row], offset[row]),
                theirs[row],
                ours[row],
                by,
            )
            found.append(Outgoing(self._topic, payment.card_id.encode(), _encode(record)))
        return found


def _verdicts(decided: Decided, model: Model) -> list[Verdict]:
    name, digest = f"{model.reference.name}@{model.reference.version}", model.reference.digest
    decisions = decided.verdicts.decision.tolist()
    scores: list[float | None] = [None] * len(decisions) if decided.scores is None else decided.scores.tolist()
    return [
        Verdict(name, digest, tier, score, DECISIONS[decision])
        for score, decision, tier in zip(scores, decisions, decided.tiers(), strict=True)
    ]
