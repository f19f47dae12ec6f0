"""Decide: the policy, with what depends on the moment: lists, the decline limiter, and the alert rate.

Whatever depends on time or load is part of the outcome, so that every decision can say it and a replay can take it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from features.event import Payment, PaymentBatch
from models.alert_rate import AlertRateController
from models.facts import fields_of
from models.limiter import Limiter
from models.lists import Lists
from models.policy import DECISIONS, Policy, Scores, Tier, Values, Verdicts, merged

Mask = npt.NDArray[np.bool_]
APPROVE: Final = DECISIONS.index("approve")


@dataclass(frozen=True, slots=True)
class Outcome:
    """Verdicts on n payments, and what they depended on besides.

    Attributes:
        verdicts: the decisions that hold, limited ones included.
        limited: (n,) which would have been blocked; None for none.
        lists_version: of the lists that were asked; None where there are none.
    """

    verdicts: Verdicts
    limited: Mask | None = None
    lists_version: int | None = None


class Decider:
    """Decides batches in turn. `settle` each one that was committed: only then does it count for the next."""

    def __init__(
        self,
        policy: Policy,
        *,
        lists: Callable[[], Lists | None] = lambda: None,
        share: Callable[[], float] = lambda: 1.0,
        is_live: bool = True,
        before: Decider | None = None,
    ) -> None:
        """`lists` gives what holds now, `share` the part of all payments that this process sees.

        Where it is not live, as for files, there is no rate to hold: neither limiter nor alert rate are used.
        `before` is the one whose place it takes: what that one blocked in the last minute counts on.
        """
        self._policy, self._lists, self._share = policy, lists, share
        counted = None if before is None else before._limiter
        self._limiter: Limiter = Limiter(policy.limiter if is_live else None, counted)
        rate = policy.alert_rate if is_live else None
        self._rate = None if rate is None else AlertRateController(rate, policy.thresholds["full"].review)

    @property
    def review(self) -> float:
        """The review threshold of the tier `full` that holds now, outside of segments."""
        return self._policy.thresholds["full"].review if self._rate is None else self._rate.review

    def decide(
        self,
        scores: Scores | None,
        values: Values,
        tier: Tier,
        batch: PaymentBatch,
        due: Mask,
        now_s: float,
        small: Mask | None = None,
    ) -> Outcome:
        """Decide about the payments of a batch.

        `due` are those whose decisions will be published; `small` those of the tier `small`, if not all are of `tier`.
        """
        lists = self._lists()
        if small is None or scores is None:
            verdicts = self._verdicts(scores, values, tier, batch.payments, batch.event_time, lists)
        else:
            parts: list[tuple[npt.NDArray[np.intp], Tier]] = [
                (np.flatnonzero(~small), tier),
                (np.flatnonzero(small), "small"),
            ]
            verdicts = merged(
                [
                    (rows, self._verdicts(scores[rows], values[rows], each, some, batch.event_time[rows], lists))
                    for rows, each in parts
                    for some in [[batch.payments[row] for row in rows.tolist()]]
                ],
                len(batch),
                self._policy.order,
            )
        limited = self._limiter.hold(verdicts.decision, due, now_s)
        return Outcome(verdicts, limited, None if lists is None else lists.version)

    def _verdicts(
        self,
        scores: Scores | None,
        values: Values,
        tier: Tier,
        payments: Sequence[Payment],
        event_time: npt.NDArray[np.int64],
        lists: Lists | None,
    ) -> Verdicts:
        return self._policy.decide(
            scores,
            values,
            tier,
            fields=fields_of(payments),
            event_time=event_time,
            lists=lists,
            review=None if self._rate is None else self._rate.review,
        )

    def settle(self, scores: Scores | None, tier: Tier, outcome: Outcome, due: Mask, now_s: float) -> None:
        """Learn from a batch that was committed."""
        self._limiter.settle()
        if self._rate is not None and tier == "full" and scores is not None:
            self._rate.settle(scores, due, outcome.verdicts.decision > APPROVE, now_s, self._share())
