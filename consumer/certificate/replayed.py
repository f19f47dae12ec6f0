"""A batch of decisions made again: the same models and policies, features as replayed, and inputs as they were told."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from consumer.certificate.alerts import Plain, hashes
from consumer.certificate.told import (
    BLOCK,
    CASE,
    DECISION,
    EPOCH,
    NO_STATE,
    QUIET,
    REVIEW,
    RULES,
    SCORE,
    SEQUENCE,
    SHARD,
    Case,
    Fired,
    Packer,
    floats,
    lists_told,
)
from consumer.columns import fields_of, place_of
from consumer.publish import by_row
from consumer.records import alert_id
from consumer.threads import PerThread
from features.catalog import Catalog
from features.event import Words
from models.bundle import Bundle
from models.explain import Explainer, Reason
from models.facts import Facts
from models.lists import ListName, Times
from models.policy import BLOCK as BLOCKED
from models.policy import DECISIONS, Policy, Tier
from models.policy import REVIEW as REVIEWED
from models.score import Scorer

Mask = npt.NDArray[np.bool_]
Values = npt.NDArray[np.float32]
Scores = npt.NDArray[np.float32]

BAND: Final = 1e-5  # what scores may differ by on another kind of device, or with other versions of libraries
DEVICE: Final = "cpu"
DIFFERENCES: Final = ("model", "tier", "score", "thresholds", "limiter", "decision", "rules")


class AsTold:
    """What lists said, as the decisions tell it."""

    def __init__(self, fired: Mapping[str, Mask]) -> None:
        """`fired`, by list: (n,) where it did."""
        self._fired = fired

    def named(self, name: ListName, _facts: Facts, _event_time: Times) -> Mask | None:
        """See `models.lists.Listed`."""
        mask = self._fired[name]
        return mask if mask.any() else None


@dataclass(frozen=True, slots=True)
class Remade:
    """What n decisions came out as.

    Attributes:
        scores: (n,) float32, NaN in `rules_only`.
        decision: (n,) as `models.policy.DECISIONS` numbers them.
        rules: (n,) numbers of the rules that fired.
        differs: by what it is: (n,) where it differs from what was told.
        near: (n,) where the score is another, but inside the band.
        flipped: (n,) where decision or rules differ for that alone: with the score as told they are as told.
        unknown: (n,) where the bundle is not at hand.
        alerts: (n, 3) what `alerts.hashes` gives for each that is not approved.
        loose: (n,) where scores may differ in their last bits.
    """

    scores: Scores
    decision: npt.NDArray[np.uint8]
    rules: Words
    differs: dict[str, Mask]
    near: Mask
    flipped: Mask
    unknown: Mask
    alerts: Words
    loose: Mask

    @classmethod
    def blank(cls, n: int) -> Remade:
        """Nothing known of n decisions."""
        near, flipped, unknown, loose = (np.zeros(n, np.bool_) for _ in range(4))
        differs = {name: np.zeros(n, np.bool_) for name in DIFFERENCES}
        scores, decision = np.full(n, np.nan, np.float32), np.zeros(n, np.uint8)
        rules, alerts = np.zeros(n, np.int64), np.zeros((n, 3), np.int64)
        return cls(scores, decision, rules, differs, near, flipped, unknown, alerts, loose)


class Remaker:
    """Makes decisions again. Safe from several threads: each has scorers of its own."""

    def __init__(
        self,
        bundles: Mapping[str, Bundle],
        whole: Catalog,
        catalog: Catalog,
        packer: Packer,
        *,
        tolerance: float,
        alerts: bool,
    ) -> None:
        """`bundles` by digest, of `whole`; `catalog` is of the features that batches come with. `alerts`: as well."""
        places = {name: place for place, name in enumerate(catalog.names)}
        self._bundles, self._packer, self._tolerance = bundles, packer, tolerance
        self._alerts = alerts
        self._columns = {
            digest: np.array([places[name] for name in bundle.manifest.features], np.intp)
            for digest, bundle in bundles.items()
        }
        self._lists = lists_told(packer.rules)
        self._scorers = PerThread[str, Scorer](lambda digest: Scorer(bundles[digest], threads=1, compiled=True))
        self._explainers = PerThread[str, Explainer](lambda digest: Explainer(bundles[digest], whole, threads=1))
        self._numbering = threading.Lock()

    def remake(self, told: Words, batch: pa.RecordBatch, values: Values) -> Remade:
        """Make n decisions again.

        Args:
            told: (n, told.WORDS) what was published.
            batch: their payments.
            values: (n, features) float32, NaN where missing.
        """
        whole = Remade.blank(len(told))
        for number in np.unique(told[:, CASE]).tolist():
            rows = np.flatnonzero(told[:, CASE] == number)
            self._case(whole, rows, self._packer.cases[number], told[rows], batch.take(pa.array(rows)), values[rows])
        return whole

    def _case(
        self, whole: Remade, rows: npt.NDArray[np.intp], case: Case, told: Words, batch: pa.RecordBatch, values: Values
    ) -> None:
        bundle = self._bundles.get(case.digests.bundle)
        if bundle is None:
            whole.unknown[rows] = True
            return
        differs = whole.differs
        manifest, policy = bundle.manifest, bundle.policy
        named = (f"{manifest.name}@{manifest.version}", manifest.catalog_fingerprint, policy.digest)
        differs["model"][rows] = named != (case.model, case.digests.catalog, case.digests.policy)
        scorer = self._scorers[case.digests.bundle]
        differs["tier"][rows] = case.tier != case.input_tier
        if case.tier == "small" and not scorer.has_small:
            differs["tier"][rows] = True
            return
        own = np.ascontiguousarray(values[:, self._columns[case.digests.bundle]])
        scores = _scored(scorer, own, case.tier)
        said = floats(told, SCORE)
        verdict = self._decided(policy, case, scores, own, told, batch)
        decision, rules, other_bars, unlimited = verdict
        if scores is not None:
            whole.scores[rows] = scores
        found = whole.scores[rows]
        equal = (found.view(np.int32) == said.view(np.int32)) | (np.isnan(found) & np.isnan(said))
        limit = self._tolerance or (0.0 if case.device == DEVICE else BAND)
        near = ~equal & (np.abs(found - said) <= limit)
        differs["score"][rows] = ~equal & ~near
        differs["thresholds"][rows] = other_bars
        differs["limiter"][rows] = unlimited
        other = (decision != told[:, DECISION]) | (rules != told[:, RULES])
        flipped = np.zeros(len(rows), np.bool_)
        if scores is not None and (other & near).any():
            with_said = np.where(near, said, scores)
            again, rules_again, _, _ = self._decided(policy, case, with_said, own, told, batch)
            flipped = other & (again == told[:, DECISION]) & (rules_again == told[:, RULES])
        differs["decision"][rows] = (decision != told[:, DECISION]) & ~flipped
        differs["rules"][rows] = (rules != told[:, RULES]) & ~flipped
        whole.decision[rows], whole.rules[rows] = decision, rules
        whole.near[rows], whole.flipped[rows] = near, flipped
        whole.loose[rows] = limit > 0
        if self._alerts:  # of what was decided otherwise inside the band, the alert is that of the decision
            decision, rules = np.where(flipped, told[:, DECISION], decision), np.where(flipped, told[:, RULES], rules)
            some = np.flatnonzero(decision > 0)
            some_batch = batch.take(pa.array(some))
            whole.alerts[rows[some]] = self._alerted(
                case, named[0], told[some], own[some], found[some], decision[some], rules[some], some_batch
            )

    def _alerted(
        self,
        case: Case,
        model: str,
        told: Words,
        values: Values,
        scores: Scores,
        decision: npt.NDArray[Any],
        rules: Words,
        batch: pa.RecordBatch,
    ) -> Words:
        """(n, 3) hashes of the alerts of these decisions."""
        names = ("card_id", "event_id", "event_time", "merchant_id", "amount_minor", "currency")
        columns = {name: batch.column(place_of(name)).to_pylist() for name in names}
        explainer = self._explainers[case.digests.bundle]
        reasons: Sequence[tuple[Reason, ...]] = [()] * len(values)
        if case.tier != "rules_only":
            reasons = explainer.explain(values, case.tier, currencies=columns["currency"])
        states = map(tuple, told[:, [SHARD, EPOCH, SEQUENCE]].tolist())
        found = np.empty((len(values), 3), np.int64)
        for row, (card, event, time, merchant, amount, currency, verdict, fired, score, why, state) in enumerate(
            zip(*columns.values(), decision.tolist(), rules.tolist(), scores.tolist(), reasons, states, strict=True)
        ):
            plain = Plain(
                alert_id(card, event, time), event, card, merchant, time, amount, currency, DECISIONS[verdict],
                case.tier, self._packer.rules[fired][0], model, case.digests.bundle,
                None if state[0] == NO_STATE else state,
            )  # fmt: skip
            found[row] = hashes(plain, None if case.tier == "rules_only" else score, why)
        return found

    def _decided(
        self, policy: Policy, case: Case, scores: Scores | None, values: Values, told: Words, batch: pa.RecordBatch
    ) -> tuple[npt.NDArray[np.uint8], Words, Mask, Mask]:
        """Decisions; rules by number; where thresholds can't be as told; where nothing was there to be limited."""
        n, tier = len(told), case.tier
        listed = {name: mask[told[:, RULES]] for name, mask in self._lists.items()}
        lists = None if case.lists_version is None else AsTold(listed)
        event_time = np.asarray(batch.column("event_time"))
        fields = fields_of(batch)
        verdicts = policy.decide(scores, values, tier, fields=fields, event_time=event_time, lists=lists)
        review, block = floats(told, REVIEW), floats(told, BLOCK)
        if verdicts.review is None or verdicts.block is None:
            other_bars = ~np.isnan(review) | ~np.isnan(block)
        else:
            other_block = ~_same(verdicts.block, block)
            other_bars = (verdicts.review != review) | other_block
            if other_bars.any():
                other_bars &= ~_may_move(policy, tier, verdicts.review, review) | other_block
                verdicts = policy.decide(
                    scores, values, tier, fields=fields, event_time=event_time, lists=lists, bars=(review, block)
                )
        decision = verdicts.decision
        unlimited = np.zeros(n, np.bool_)
        if case.limited:
            unlimited = (decision != BLOCKED) | (policy.limiter is None)
            decision = np.where(unlimited, decision, np.uint8(REVIEWED))
        return decision, self._numbers(verdicts.fired, verdicts.shadow, n), other_bars, unlimited

    def _numbers(self, fired: Sequence[tuple[str, Mask]], shadow: Sequence[tuple[str, Mask]], n: int) -> Words:
        live, silent = by_row(tuple(fired), n), by_row(tuple(shadow), n)
        if not fired and not shadow:
            return np.full(n, QUIET, np.int64)
        told: list[Fired] = [(tuple(one), tuple(other)) for one, other in zip(live, silent, strict=True)]
        with self._numbering:
            return np.array([self._packer.number_of(each) for each in told], np.int64)


def _scored(scorer: Scorer, values: Values, tier: Tier) -> Scores | None:
    if tier == "rules_only":
        return None
    score = {"full": scorer.score, "small": scorer.score_small, "no_features": scorer.score_payment_only}[tier]
    return score(values)


def _may_move(policy: Policy, tier: Tier, own: Scores, told: Scores) -> Mask:
    """(n,) where the load of that hour may have moved a review threshold to what is told: not in segments."""
    rate = policy.alert_rate
    if rate is None or tier != "full":
        return np.zeros(len(told), np.bool_)
    inside = (told >= np.float32(rate.lowest)) & (told <= np.float32(rate.highest))
    moves: Mask = inside & (own == np.float32(policy.thresholds["full"].review))
    return moves


def _same(one: Scores, other: Scores) -> Mask:
    same: Mask = (one == other) | (np.isnan(one) & np.isnan(other))
    return same
