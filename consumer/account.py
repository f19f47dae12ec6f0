"""What a committed batch adds to the metrics: outcomes, rules, clocks, ages, drift, and how two judges compare."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from consumer.decode import Decoded
from consumer.drift import Drift
from consumer.judge import Heard, Mask, Model
from consumer.publish import Decided
from consumer.telemetry import Telemetry
from features.catalog import Catalog
from features.enrich import Enriched
from features.event import PaymentBatch
from models.policy import DECISIONS, Tier


class Account:
    """Keeps the metrics of one pipeline. Nothing is counted before its batch is committed."""

    def __init__(self, telemetry: Telemetry, *, labels_topic: str, budget_ms: int, clock: Callable[[], float]) -> None:
        """`clock` gives seconds since the epoch; `follow` comes before the first batch."""
        self._telemetry, self._labels_topic = telemetry, labels_topic
        self._budget_ms, self._clock = budget_ms, clock
        self._in_state_ms = 0  # Kafka timestamp of the newest payment in the state
        self._champion: Model | None = None
        self._drift: Drift | None = None

    def follow(self, champion: Model, catalog: Catalog) -> None:
        """Who judges from the next batch on, and the features that are computed then; a new champion drifts anew."""
        self._longest_ms = max((f.window_ms + f.delay_ms for f in catalog.features), default=0)
        self._device = champion.device
        if self._champion is None or champion.reference != self._champion.reference:
            self._drift = None
            if champion.spread is not None:
                self._drift = Drift(champion.reference.digest, champion.spread, champion.catalog.names, self._clock)
            self._telemetry.drift.current = self._drift
        self._champion = champion

    def batch(self, decoded: Decoded, heard: Sequence[Heard], stage_ms: Mapping[str, float], now_ms: float) -> None:
        """Count a batch that was committed at `now_ms`; `stage_ms` tells how long each stage took."""
        telemetry, batch, enriched = self._telemetry, decoded.batch, heard[0].decided.enriched
        for stage, spent_ms in stage_ms.items():
            telemetry.stage[stage].observe(spent_ms / 1000)
        telemetry.batch_size.observe(len(batch) + len(decoded.labels) + len(decoded.rejected))
        repeated = stale = 0
        if enriched is not None:
            stale = int(np.count_nonzero(enriched.stale))
            repeated = int(np.count_nonzero(enriched.repeated & ~enriched.stale))
        refused = sum(rejected.message.topic() != self._labels_topic for rejected in decoded.rejected)
        telemetry.payments.inc(len(batch) - stale + refused)  # stale ones are another worker's
        telemetry.duplicates.inc(repeated)
        for each in heard:
            self._decisions(each.decided)
        for rejected in decoded.rejected:
            telemetry.rejected(rejected.stage, rejected.reason)
        for label in decoded.labels.labels:
            telemetry.labels[label.label, label.source].inc()
        self._times(batch, enriched)
        self._drifted(heard[0])
        due = heard[0].decided.due
        if len(heard) > 1:
            due = due | heard[1].decided.due
            self._compare(heard[0].decided, heard[1].decided, due)
        telemetry.review_threshold.set(heard[0].judge.decider.review)
        telemetry.committed(now_ms=now_ms, timestamps_ms=batch.ingest_time[due], budget_ms=self._budget_ms)

    def _decisions(self, decided: Decided) -> None:
        """What was decided, which rules fired, and what held them back."""
        telemetry, due, outcome = self._telemetry, decided.due, decided.outcome
        small = np.zeros(len(due), np.bool_) if decided.small is None else decided.small
        of_tiers: tuple[tuple[Tier, Mask], ...] = ((decided.tier, due & ~small), ("small", due & small))
        for tier, rows in of_tiers:
            counts = np.bincount(decided.verdicts.decision[rows], minlength=len(DECISIONS)).tolist()
            for name, count in zip(DECISIONS, counts, strict=True):
                if count:
                    telemetry.decisions[name, tier].inc(count)
            telemetry.alerts.inc(sum(counts[1:]))
        if decided.scores is not None and decided.device != self._device:
            telemetry.device_fallbacks.inc(int(np.count_nonzero(due)))
        for kind, fired in (("live", outcome.verdicts.fired), ("shadow", outcome.verdicts.shadow)):
            for rule, mask in fired:
                telemetry.rule(rule, kind, int(np.count_nonzero(mask & due)))
        if outcome.limited is not None:
            telemetry.blocks_limited.inc(int(np.count_nonzero(outcome.limited & due)))

    def _compare(self, champion: Decided, challenger: Decided, due: Mask) -> None:
        """How both judged the same payments."""
        theirs, ours = champion.verdicts.decision, challenger.verdicts.decision
        pairs = np.bincount(theirs[due] * len(DECISIONS) + ours[due], minlength=len(DECISIONS) ** 2).tolist()
        for place, count in enumerate(pairs):
            if count:
                names = DECISIONS[place // len(DECISIONS)], DECISIONS[place % len(DECISIONS)]
                self._telemetry.shadow_decisions[names].inc(count)

    def _drifted(self, champion: Heard) -> None:
        """What the champion scored from all features; with a canary too, its payments are a fair sample."""
        opinion = champion.opinion
        if self._drift is not None and opinion.tier == "full" and opinion.scores is not None:
            rows = champion.due if opinion.small is None else champion.due & ~opinion.small
            self._drift.count(opinion.scores[rows], opinion.values[rows])

    def _times(self, batch: PaymentBatch, enriched: Enriched | None) -> None:
        """Clocks, late payments, and how old what was known is."""
        telemetry = self._telemetry
        if not len(batch):
            return
        ahead_ms = batch.event_time - batch.ingest_time
        telemetry.clocks(batch.partition, ahead_ms)
        telemetry.too_late.inc(int(np.count_nonzero(-ahead_ms > self._longest_ms)))
        if enriched is not None:
            ages_ms = enriched.age_ms[enriched.age_ms >= 0]
            telemetry.feature_age.observe_many(ages_ms / 1_000.0)
            self._in_state_ms = max(self._in_state_ms, int(batch.ingest_time.max()))
        if self._in_state_ms:
            telemetry.state_age.set(max(0.0, self._clock() - self._in_state_ms / 1_000.0))
