"""The hot path, six verbs in order: decode, enrich, score, decide, publish, commit. One micro-batch at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import structlog

from consumer.decide import Decider
from consumer.decode import Decoded, Decoder, Message, in_log_order
from consumer.journal import entries
from consumer.kafka.publisher import Publisher, Step
from consumer.publish import Decided, Outbox
from consumer.records import Source
from consumer.telemetry import Telemetry
from features.enrich import Enriched, Enricher
from features.errors import StoreUnavailable
from features.event import LabelBatch, PaymentBatch
from features.reader import Values
from features.store import Span
from models.explain import Reason
from models.policy import DECISIONS, Policy, Tier
from models.score import Scores, Scoring, ScoringFailed

_LOG: Final = structlog.get_logger("pipeline")
STORE_SHARE: Final = 0.4  # of the budget: what a batch waits for the store at most, a reconnection included


class State(Protocol):
    """Features, while the state can be trusted; see `consumer.state.StateKeeper`."""

    def enrich(  # noqa: D102
        self, batch: PaymentBatch, spans: tuple[Span, ...], patience_s: float, labels: LabelBatch | None = None
    ) -> Enriched | None: ...


@dataclass(frozen=True, slots=True)
class Brain:
    """What decides: one bundle's models, its policy, and how to explain.

    `explain` takes the alerts' feature rows and their tier, and gives each one's reasons.
    """

    scorer: Scoring
    policy: Policy
    explain: Callable[[Values, Tier], list[tuple[Reason, ...]]]


class Pipeline:
    """Takes micro-batches from decode to commit. What depends on settings is settled here, once."""

    def __init__(
        self,
        *,
        decoder: Decoder,
        enricher: Enricher,
        state: State,
        brain: Brain,
        outbox: Outbox,
        publisher: Publisher,
        telemetry: Telemetry,
        budget_ms: int,
        pause_on_outage: bool,
        labels_topic: str | None = None,
        positions: Callable[[], Mapping[tuple[str, int], int]] = dict,
        decider: Decider | None = None,
        step: Step = lambda _name: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """What it is given. Without a `decider` the brain's policy decides, without lists.

        `positions` tells up to where (exclusive) each partition that is read was decided before this batch. `clock`
        gives Unix time in seconds, for accounting and for rates; `step` is told of each step that a crash may hit.
        """
        self._decoder, self._enricher, self._state, self._brain = decoder, enricher, state, brain
        self._outbox, self._publisher, self._telemetry = outbox, publisher, telemetry
        self._budget_ms = budget_ms
        self._patience_s = budget_ms / 1000 * STORE_SHARE
        self._pause_on_outage = pause_on_outage
        self._labels_topic = labels_topic
        self._longest_ms = max((f.window_ms + f.delay_ms for f in enricher.catalog.features), default=0)
        self._positions = positions
        self._decider = decider or Decider(brain.policy)
        self._step = step
        self._clock = clock
        self._stage_ms: dict[str, float] = {}

    def process(self, messages: Sequence[Message], spans: tuple[Span, ...]) -> Decided:
        """Decide, publish and commit the records that `spans` cover.

        Raises:
            StoreUnavailable: the store does not answer and payments are to wait for it; nothing was published.
            KafkaError: see `Publisher` for what is then true.
        """
        read_ms = self._clock() * 1000
        self._stage_ms = {}
        with self._stage("decode"):
            decoded = self._decoder.decode(in_log_order(messages, self._labels_topic))
        with self._stage("enrich"):
            enriched = self._enrich(decoded, spans)
        with self._stage("score"):
            scores, values, tier = self._score(decoded.batch, enriched)
        with self._stage("decide"):
            offsets = () if enriched is None else self._offsets(spans)
            decided = self._decide(decoded.batch, enriched, scores, values, tier, read_ms, offsets)
        with self._stage("publish"):
            self._publish(decoded, decided)
        with self._stage("commit"):
            self._publisher.commit(spans)
        self._decider.settle(scores, tier, decided.outcome, decided.due, self._clock())
        self._account(decoded, decided)
        return decided

    def _enrich(self, decoded: Decoded, spans: tuple[Span, ...]) -> Enriched | None:
        enriched = self._state.enrich(decoded.batch, spans, self._patience_s, decoded.labels)
        if enriched is None and self._pause_on_outage:
            raise StoreUnavailable("the state store does not answer, and store.outage is 'pause'")
        self._step("after_apply")
        return enriched

    def _score(self, batch: PaymentBatch, enriched: Enriched | None) -> tuple[Scores | None, Values, Tier]:
        values = self._enricher.payment_only(batch) if enriched is None else enriched.values
        tier: Tier = "no_features" if enriched is None else "full"
        if not len(batch):
            return np.zeros(0, np.float32), values, tier
        predict = self._brain.scorer.score_payment_only if enriched is None else self._brain.scorer.score
        try:
            return _probabilities(predict(values)), values, tier
        except ScoringFailed as error:
            _LOG.warning("scoring_failed", error=str(error), payments=len(batch))
            return None, values, "rules_only"

    def _decide(
        self,
        batch: PaymentBatch,
        enriched: Enriched | None,
        scores: Scores | None,
        values: Values,
        tier: Tier,
        read_ms: float,
        offsets: tuple[Source, ...],
    ) -> Decided:
        due = np.ones(len(batch), np.bool_) if enriched is None else ~(enriched.repeated | enriched.stale)
        outcome = self._decider.decide(scores, values, tier, batch, due, self._clock())
        alerts = np.flatnonzero(due & (outcome.verdicts.decision > 0))
        reasons: dict[int, tuple[Reason, ...]] = {}
        if alerts.size and tier != "rules_only":
            reasons = dict(zip(alerts.tolist(), self._brain.explain(values[alerts], tier), strict=True))
        return Decided(batch, due, tier, enriched, scores, outcome, reasons, self._stage_ms, read_ms, offsets)

    def _offsets(self, spans: tuple[Span, ...]) -> tuple[Source, ...]:
        """Up to where the state has what this worker reads: all that was decided before, and this batch."""
        ends = dict(self._positions()) | {(span.topic, span.partition): span.end for span in spans}
        return tuple(Source(topic, partition, end) for (topic, partition), end in ends.items())

    def _publish(self, decoded: Decoded, decided: Decided) -> None:
        records = self._outbox.decisions(decided)
        records += self._outbox.alerts(decided)
        records += self._outbox.dead_letters(decoded.rejected)
        if decided.enriched is not None:
            records += self._outbox.journal(entries(decided.enriched.recorded))
        self._publisher.publish(records)

    def _account(self, decoded: Decoded, decided: Decided) -> None:
        telemetry = self._telemetry
        for stage, spent_ms in self._stage_ms.items():
            telemetry.stage[stage].observe(spent_ms / 1000)
        telemetry.batch_size.observe(len(decided.batch) + len(decoded.labels) + len(decoded.rejected))
        repeated = stale = 0
        if decided.enriched is not None:
            stale = int(np.count_nonzero(decided.enriched.stale))
            repeated = int(np.count_nonzero(decided.enriched.repeated & ~decided.enriched.stale))
        refused = sum(rejected.message.topic() != self._labels_topic for rejected in decoded.rejected)
        telemetry.payments.inc(len(decided.batch) - stale + refused)  # stale ones are another worker's
        telemetry.duplicates.inc(repeated)
        counts = np.bincount(decided.verdicts.decision[decided.due], minlength=len(DECISIONS)).tolist()
        for name, count in zip(DECISIONS, counts, strict=True):
            if count:
                telemetry.decisions[name, decided.tier].inc(count)
        telemetry.alerts.inc(sum(counts[1:]))
        self._account_policy(decided)
        for rejected in decoded.rejected:
            telemetry.rejected(rejected.stage, rejected.reason)
        for label in decoded.labels.labels:
            telemetry.labels[label.label, label.source].inc()
        self._account_times(decided)
        telemetry.committed(
            now_ms=self._clock() * 1000,
            timestamps_ms=decided.batch.ingest_time[decided.due],
            budget_ms=self._budget_ms,
        )

    def _account_policy(self, decided: Decided) -> None:
        """Which rules fired, and what held them back."""
        telemetry, due, outcome = self._telemetry, decided.due, decided.outcome
        for kind, fired in (("live", outcome.verdicts.fired), ("shadow", outcome.verdicts.shadow)):
            for rule, mask in fired:
                telemetry.rule(rule, kind, int(np.count_nonzero(mask & due)))
        if outcome.limited is not None:
            telemetry.blocks_limited.inc(int(np.count_nonzero(outcome.limited & due)))
        telemetry.review_threshold.set(self._decider.review)

    def _account_times(self, decided: Decided) -> None:
        """Clocks, late payments, and how old what was known is."""
        batch, telemetry = decided.batch, self._telemetry
        if not len(batch):
            return
        ahead_ms = batch.event_time - batch.ingest_time
        telemetry.clocks(batch.partition, ahead_ms)
        telemetry.too_late.inc(int(np.count_nonzero(-ahead_ms > self._longest_ms)))
        if decided.enriched is not None:
            ages_ms = decided.enriched.age_ms[decided.enriched.age_ms >= 0]
            telemetry.feature_age.observe_many(ages_ms / 1_000.0)
            telemetry.state_age.set(max(0.0, self._clock() - float(batch.ingest_time.max()) / 1_000.0))

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        self._stage_ms[name] = round((time.perf_counter() - begun) * 1000, 3)


def _probabilities(scores: Scores) -> Scores:
    """The scores as they are, or ScoringFailed: a model that gives one impossible number is not trusted at all."""
    if not ((scores >= 0) & (scores <= 1)).all():  # false for NaN too
        raise ScoringFailed("the model gave a score that is no probability")
    return scores
