"""A judge: one bundle at work. It scores, decides, explains and writes its decisions down.

The champion judges every payment. A challenger may stand beside it: it judges the same payments from the same features,
its verdicts go to the shadow topic, and in a canary they count for a share of the cards.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import structlog

from consumer.canary import Canary
from consumer.decide import Decider, Outcome
from consumer.explaining import Clear, Explain, Job
from consumer.publish import Decided, Outbox, tiers
from consumer.records import Digests, ModelRef
from consumer.settings import TopicSettings
from features.catalog import Catalog
from features.event import PaymentBatch
from features.reader import Values
from models.lists import Lists
from models.manifest import Reference
from models.policy import Policy, Tier
from models.score import Scores, Scoring, ScoringFailed

_LOG: Final = structlog.get_logger("judge")
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Brain:
    """What decides: one bundle's models, its policy, and how to explain.

    `explain` gives alerts their reasons; `clear`, if there is one, what would have cleared them.
    """

    scorer: Scoring
    policy: Policy
    explain: Explain
    clear: Clear | None = None


@dataclass(frozen=True, slots=True)
class Model:
    """A loaded bundle, ready to decide.

    `spread` is what drift is measured from, if the bundle has that; `signed_by` names the key whose signature was
    checked, if that was asked for.
    """

    reference: ModelRef
    digests: Digests
    brain: Brain
    device: str
    catalog: Catalog
    spread: Reference | None = None
    signed_by: str | None = None


@dataclass(frozen=True, slots=True)
class Trial:
    """A challenger, and for which cards it decides."""

    model: Model
    canary: Canary


@dataclass(frozen=True, slots=True)
class LineUp:
    """Who judges from the next batch on."""

    champion: Model
    challenger: Trial | None = None

    def catalog(self, whole: Catalog) -> Catalog:
        """The features that they need, of all that can be computed."""
        if self.challenger is None or self.challenger.model.catalog.names == self.champion.catalog.names:
            return self.champion.catalog
        needed = {*self.champion.catalog.names, *self.challenger.model.catalog.names}
        return whole.only(tuple(name for name in whole.names if name in needed))


@dataclass(frozen=True, slots=True)
class Opinion:
    """What a judge makes of n payments.

    Attributes:
        scores: (n,) float32, None in `rules_only`.
        values: (n, its features) float32.
        tier: how they were scored; those of `small`, if there are any, by the small model instead.
        device: where.
    """

    scores: Scores | None
    values: Values
    tier: Tier
    small: Mask | None = None
    device: str = "cpu"


@dataclass(slots=True)
class Surroundings:
    """What every judge of a processor is told of the world: topics, lists, its share of all payments, the time.

    `clock` is Unix time in seconds; `ticks`, by which rates are measured, are seconds that go on evenly when it is set.
    """

    topics: TopicSettings
    lists: Callable[[], Lists | None] = lambda: None
    share: Callable[[], float] = lambda: 1.0
    is_live: bool = True
    clock: Callable[[], float] = field(default=time.time)
    ticks: Callable[[], float] = field(default=time.monotonic)


class Judge:
    """One model at work in one processor. One thread at a time."""

    def __init__(
        self,
        model: Model,
        catalog: Catalog,
        around: Surroundings,
        *,
        role: Literal["champion", "challenger"] = "champion",
        before: Judge | None = None,
    ) -> None:
        """Settle where the model's features lie among those of `catalog`, which are computed.

        `before` is the judge whose place it takes: what was blocked in the last minute still counts for the limiter.
        """
        self.model, self.role = model, role
        names = catalog.names
        own = model.catalog.names
        self._columns = None if own == names else np.array([names.index(name) for name in own], np.intp)
        self._ticks = around.ticks
        self.decider: Decider = Decider(
            model.brain.policy,
            lists=around.lists,
            share=around.share,
            is_live=around.is_live,
            before=None if before is None else before.decider,
        )
        self.outbox = Outbox(around.topics, model.reference, model.digests)

    def score(self, values: Values, tier: Tier, hurried: Mask | None = None) -> Opinion:
        """Score n payments from all values that were computed; `tier` is `full` or `no_features`.

        Those that are `hurried` take the small model, if the bundle has one.
        """
        if self._columns is not None:
            values = values.take(self._columns, axis=1)
        if not len(values):
            return Opinion(np.zeros(0, np.float32), values, tier, device=self.model.device)
        scorer = self.model.brain.scorer
        try:
            if hurried is not None and scorer.has_small and tier == "full":
                return self._hurried(values, hurried)
            predict = scorer.score_payment_only if tier == "no_features" else scorer.score
            scores = _probabilities(predict(values))
            return Opinion(scores, values, tier, device=scorer.device)
        except ScoringFailed as error:
            _LOG.warning("scoring_failed", role=self.role, error=str(error), payments=len(values))
            return Opinion(None, values, "rules_only", device=self.model.device)

    def _hurried(self, values: Values, small: Mask) -> Opinion:
        scorer, scores = self.model.brain.scorer, np.empty(len(values), np.float32)
        scores[small] = scorer.score_small(values[small])
        devices = {scorer.device}
        if not small.all():
            scores[~small] = scorer.score(values[~small])
            devices.add(scorer.device)
        device = "cpu" if "cpu" in devices else scorer.device
        return Opinion(_probabilities(scores), values, "full", small, device)

    def decide(self, opinion: Opinion, batch: PaymentBatch, due: Mask) -> Outcome:
        """The policy's verdicts; `due` are the payments for which they count."""
        return self.decider.decide(
            opinion.scores, opinion.values, opinion.tier, batch, due, self._ticks(), opinion.small
        )

    def explain(
        self, opinion: Opinion, outcome: Outcome, batch: PaymentBatch, alerts: npt.NDArray[np.intp], limit_s: float
    ) -> Job | None:
        """The work of explaining these rows; None where there is nothing to explain."""
        review = outcome.verdicts.review
        if not alerts.size or opinion.scores is None or review is None:
            return None
        brain, payments = self.model.brain, batch.payments
        return Job(
            brain.explain,
            None if math.isinf(limit_s) else brain.clear,
            opinion.values[alerts],
            tiers(opinion.tier, None if opinion.small is None else opinion.small[alerts], len(alerts)),
            opinion.scores[alerts],
            review[alerts],
            [payments[row].currency for row in alerts.tolist()],
            limit_s,
        )

    def settle(self, opinion: Opinion, outcome: Outcome, due: Mask) -> None:
        """Learn from a batch that was committed."""
        due = due if opinion.small is None else due & ~opinion.small
        self.decider.settle(opinion.scores, opinion.tier, outcome, due, self._ticks())


@dataclass(frozen=True, slots=True)
class Heard:
    """A judge's verdicts on a batch. `due`: for which payments they count; `decided`: as they are published."""

    judge: Judge
    opinion: Opinion
    due: Mask
    decided: Decided
    job: Job | None
    alerts: list[int]


def _probabilities(scores: Scores) -> Scores:
    """The scores as they are, or ScoringFailed: a model that gives one impossible number is not trusted at all."""
    if not ((scores >= 0) & (scores <= 1)).all():  # false for NaN too
        raise ScoringFailed("the model gave a score that is no probability")
    return scores
