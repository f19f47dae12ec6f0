"""The hot path, six verbs in order: decode, enrich, score, decide, publish, commit. One micro-batch at a time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import structlog

from consumer.account import Account
from consumer.decode import Decoded, Decoder, Message, in_log_order
from consumer.explaining import Explaining
from consumer.flood import Flood
from consumer.hurry import Hurry
from consumer.journal import entries
from consumer.judge import Heard, Judge, LineUp, Mask, Opinion, Surroundings
from consumer.kafka.publisher import Outgoing, Publisher, Step
from consumer.publish import Decided
from consumer.records import Source
from consumer.shadow import ShadowOutbox
from consumer.telemetry import Telemetry
from features.catalog import Catalog
from features.enrich import Enriched, Enricher, Sent
from features.errors import StoreUnavailable
from features.event import LabelBatch, PaymentBatch
from features.store import Span
from models.explain import NOT_EXPLAINED
from models.policy import Tier

_LOG: Final = structlog.get_logger("pipeline")
EXPLAIN_SHARE: Final = 0.15  # of the budget: what a batch waits for the reasons of its alerts at most
STORE_SHARE: Final = 0.4  # of the budget: what a batch waits for the store at most, a reconnection included


class State(Protocol):
    """Features, while the state can be trusted; see `consumer.state.StateKeeper`."""

    def send(  # noqa: D102
        self, batch: PaymentBatch, spans: tuple[Span, ...], labels: LabelBatch | None = None
    ) -> Sent | None: ...
    def enrich(  # noqa: D102
        self,
        batch: PaymentBatch,
        spans: tuple[Span, ...],
        patience_s: float,
        labels: LabelBatch | None = None,
        sent: Sent | None = None,
    ) -> Enriched | None: ...


@dataclass(frozen=True, slots=True)
class Begun:
    """A batch that is decoded; `is_ahead` while the one before it is decided, when the store may be at work on it."""

    spans: tuple[Span, ...]
    decoded: Decoded
    read_ms: float
    decode_ms: float
    is_ahead: bool
    sent: Sent | None


class Pipeline:
    """Takes micro-batches from decode to commit. What depends on settings is settled here, once."""

    def __init__(
        self,
        *,
        decoder: Decoder,
        enricher: Enricher,
        state: State,
        line_up: Callable[[], LineUp],
        around: Surroundings,
        publisher: Publisher,
        telemetry: Telemetry,
        budget_ms: int,
        pause_on_outage: bool,
        positions: Callable[[], Mapping[tuple[str, int], int]] = dict,
        max_rejected_in_a_row: int = 0,
        step: Step = lambda _name: None,
    ) -> None:
        """What it is given.

        `line_up` tells who judges now: a new answer holds from the next batch on. `positions` tells up to where
        (exclusive) each partition that is read was decided before this batch; `max_rejected_in_a_row` payments may be
        rejected in a row (0: any number); `step` is told of each step that a crash may hit.
        """
        self._decoder, self._enricher, self._state = decoder, enricher, state
        self._ask_line_up, self._around = line_up, around
        self._publisher, self._telemetry = publisher, telemetry
        self._patience_s = budget_ms / 1000 * STORE_SHARE
        self._pause_on_outage = pause_on_outage
        self._labels_topic = around.topics.labels
        self._positions = positions
        self._step = step
        self._clock = around.clock
        self._stage_ms: dict[str, float] = {}
        self._whole: Catalog = enricher.catalog
        limit_s = budget_ms / 1000 * EXPLAIN_SHARE if around.is_live else math.inf
        self._explaining = Explaining(limit_s)
        self._beside = ThreadPoolExecutor(max_workers=1, thread_name_prefix="committing")
        self._hurry = Hurry(budget_ms)
        self._flood = Flood(max_rejected_in_a_row, self._labels_topic)
        self._shadow = ShadowOutbox(around.topics.shadow)
        self._account = Account(telemetry, labels_topic=self._labels_topic, budget_ms=budget_ms, clock=self._clock)
        self._line_up = line_up()
        self._champion, self._challenger = self._seat(None)

    @property
    def line_up(self) -> LineUp:
        """Who judged the last batch."""
        return self._line_up

    def process(self, messages: Sequence[Message], spans: tuple[Span, ...]) -> Decided:
        """Decide, publish and commit the records that `spans` cover: `begin` and `finish` in one."""
        return self.finish(self.begin(messages, spans))

    def begin(self, messages: Sequence[Message], spans: tuple[Span, ...], *, ahead: bool = False) -> Begun:
        """Decode a batch and, `ahead` of the one that is decided, have the store begin with it.

        Publishes nothing, and no trouble with the store is told here. Then `finish` it, or give its `Begun.sent` to
        `StateKeeper.forget`.
        """
        read_ms, begun = self._clock() * 1000, time.perf_counter()
        decoded = self._decoder.decode(in_log_order(messages, self._labels_topic))
        decode_ms = _ms_since(begun)
        sent = None
        if ahead and len(decoded.batch):  # of a flood of bad records nothing is to move before `finish` has seen it
            sent = self._state.send(decoded.batch, spans, decoded.labels)
            self._step("after_send")
        return Begun(spans, decoded, read_ms, decode_ms, ahead, sent)

    def finish(self, begun: Begun, meanwhile: Callable[[], Begun | None] | None = None) -> Decided:
        """Decide, publish and commit a batch. `meanwhile` is called once the store has answered.

        When that has begun with the next batch, the features of that one are computed while this one is committed.
        What `meanwhile` raises is raised, and nothing was published.

        Raises:
            StoreUnavailable: the store does not answer and payments are to wait for it; nothing was published.
            InputUnusable: too many records in a row are no payments; nothing was published.
            KafkaError: see `Publisher` for what is then true.
        """
        decoded, spans = begun.decoded, begun.spans
        # what it waited for the batch before it is waiting, as it would be in the topic
        read_ms = self._clock() * 1000 - begun.decode_ms if begun.is_ahead else begun.read_ms
        self._stage_ms = {"decode": begun.decode_ms}
        self._change_line_up()
        self._flood.look(decoded.rejected, any_valid=len(decoded.batch) > 0)
        looked_ms = 0.0 if begun.sent is None else begun.sent.looked_ms  # beside the commit of the batch before
        with self._stage("enrich"):
            enriched = self._enrich(begun)
        self._stage_ms["enrich"] = round(self._stage_ms["enrich"] + looked_ms, 3)
        offsets = () if enriched is None else self._offsets(spans)
        ahead = None if meanwhile is None else meanwhile()
        with self._stage("score"):
            opinions = self._score(decoded.batch, enriched)
        scored = time.perf_counter()
        with self._stage("decide"):
            heard = self._decide(decoded.batch, enriched, opinions, read_ms, offsets)
        with self._stage("publish"):
            self._publish(decoded, heard)
        begun_s = time.perf_counter()
        committed_s, now_ms = self._commit(spans, None if ahead is None else ahead.sent)
        self._stage_ms["commit"] = round((committed_s - begun_s) * 1_000, 3)
        self._flood.settle()
        self._hurry.finished((committed_s - scored) * 1_000)
        for each in heard:
            each.judge.settle(each.opinion, each.decided.outcome, each.due)
        self._watch_canary(heard)
        self._account.batch(decoded, heard, self._stage_ms, now_ms)
        return heard[0].decided

    def _seat(self, before: Judge | None) -> tuple[Judge, Judge | None]:
        """The judges of the line-up, and the features that they need."""
        catalog = self._line_up.catalog(self._whole)
        champion = Judge(self._line_up.champion, catalog, self._around, before=before)
        challenger = None
        if self._line_up.challenger is not None:
            challenger = Judge(self._line_up.challenger.model, catalog, self._around, role="challenger")
        self._enricher.compute(catalog)
        self._account.follow(self._line_up.champion, catalog)
        return champion, challenger

    def _change_line_up(self) -> None:
        """Between two batches: who judges from now on."""
        line_up = self._ask_line_up()
        if line_up is self._line_up:
            return
        before, self._line_up = self._line_up, line_up
        self._champion, self._challenger = self._seat(self._champion)
        reference = line_up.champion.reference
        if reference != before.champion.reference:
            self._telemetry.model(
                name=reference.name,
                version=reference.version,
                digest=reference.digest,
                device=line_up.champion.device,
            )
            self._telemetry.model_swaps["swapped"].inc()
            _LOG.info("model_swapped", model=reference.version, digest=reference.digest)

    def _enrich(self, begun: Begun) -> Enriched | None:
        decoded = begun.decoded
        enriched = self._state.enrich(decoded.batch, begun.spans, self._patience_s, decoded.labels, begun.sent)
        if enriched is None and self._pause_on_outage:
            raise StoreUnavailable("the state store does not answer, and store.outage is 'pause'")
        self._step("after_apply")
        return enriched

    def _score(self, batch: PaymentBatch, enriched: Enriched | None) -> list[tuple[Judge, Opinion]]:
        values = self._enricher.payment_only(batch) if enriched is None else enriched.values
        tier: Tier = "no_features" if enriched is None else "full"
        judges = (self._champion,) if self._challenger is None else (self._champion, self._challenger)
        hurried = None
        if self._around.is_live and tier == "full" and all(judge.model.brain.scorer.has_small for judge in judges):
            hurried = self._hurry.chosen(batch.ingest_time, self._clock() * 1_000)
        begun = time.perf_counter()
        opinions = [(judge, judge.score(values, tier, hurried)) for judge in judges]
        if tier == "full" and all(each.scores is not None for _, each in opinions):
            small = max(0 if each.small is None else int(each.small.sum()) for _, each in opinions)
            self._hurry.scored(len(values) - small, small, (time.perf_counter() - begun) * 1_000)
        return opinions

    def _decide(
        self,
        batch: PaymentBatch,
        enriched: Enriched | None,
        opinions: list[tuple[Judge, Opinion]],
        read_ms: float,
        offsets: tuple[Source, ...],
    ) -> list[Heard]:
        due = np.ones(len(batch), np.bool_) if enriched is None else ~(enriched.repeated | enriched.stale)
        share, of_challenger = self._canary(batch)
        heard = []
        for judge, opinion in opinions:
            own = due
            if of_challenger is not None:
                own = due & (of_challenger if judge is self._challenger else ~of_challenger)
            elif judge is self._challenger:
                own = np.zeros(len(batch), np.bool_)
            outcome = judge.decide(opinion, batch, own)
            alerts = np.flatnonzero(own & (outcome.verdicts.decision > 0))
            job = judge.explain(opinion, outcome, batch, alerts, self._explaining.limit_s)
            if job is not None:
                self._explaining.begin(job)
            canary = judge.role if share else None
            decided = Decided(
                batch, own, opinion.tier, enriched, opinion.scores, outcome, {}, self._stage_ms, read_ms, offsets,
                canary, opinion.small, opinion.device,
            )  # fmt: skip
            counts = due if judge is self._challenger else own
            heard.append(Heard(judge, opinion, counts, decided, job, alerts.tolist()))
        return heard

    def _canary(self, batch: PaymentBatch) -> tuple[float, Mask | None]:
        """The share of the cards for which the challenger decides, and which payments are theirs; None for none."""
        trial = self._line_up.challenger
        share = 0.0 if trial is None else trial.canary.share(self._clock())
        self._telemetry.canary_share.set(share)
        if trial is None or not share:
            return 0.0, None
        return share, trial.canary.chosen([payment.card_id for payment in batch.payments], share)

    def _offsets(self, spans: tuple[Span, ...]) -> tuple[Source, ...]:
        """Up to where the state has what this worker reads: all that was decided before, and this batch."""
        ends = dict(self._positions()) | {(span.topic, span.partition): span.end for span in spans}
        return tuple(Source(topic, partition, end) for (topic, partition), end in ends.items())

    def _publish(self, decoded: Decoded, heard: Sequence[Heard]) -> None:
        self._publisher.publish(self._records(decoded, heard))

    def _records(self, decoded: Decoded, heard: Sequence[Heard]) -> Iterator[Outgoing]:
        """Everything that leaves; alerts come last, so that the rest is on its way while they are explained."""
        outbox, champion = self._champion.outbox, heard[0].decided
        for each in heard:
            yield from each.judge.outbox.decisions(each.decided)
        if len(heard) > 1:
            yield from self._shadow.records(champion, heard[1].decided, heard[0].judge.model, heard[1].judge.model)
        yield from outbox.dead_letters(decoded.rejected)
        if champion.enriched is not None:
            yield from outbox.journal(entries(champion.enriched.recorded))
        for each in heard:
            if each.job is not None:
                found = each.job.result()
                each.decided.reasons.update(zip(each.alerts, found, strict=True))
                self._telemetry.unexplained.inc(sum(why is NOT_EXPLAINED for why in found))
            yield from each.judge.outbox.alerts(each.decided)

    def _commit(self, spans: tuple[Span, ...], ahead: Sent | None) -> tuple[float, float]:
        """Commit; the brokers' time for that is the time to look at what the store says of the next batch.

        Returns when it was committed: by `time.perf_counter`, and in ms since the epoch.
        """

        def commit() -> tuple[float, float]:
            self._publisher.commit(spans)
            return time.perf_counter(), self._clock() * 1_000

        if ahead is None:
            return commit()
        committing = self._beside.submit(commit)
        try:
            ahead.look()
        except BaseException:
            wait([committing])
            raise
        return committing.result()

    def _watch_canary(self, heard: Sequence[Heard]) -> None:
        """Whether the challenger may go on deciding, after what both made of the same payments."""
        trial = self._line_up.challenger
        if trial is None or len(heard) == 1:
            return
        champion, challenger = heard
        failed = challenger.opinion.scores is None and champion.opinion.scores is not None
        theirs, ours = champion.decided.verdicts.decision, challenger.decided.verdicts.decision
        due = champion.decided.due | challenger.decided.due
        reason = trial.canary.watch(theirs, ours, due, failed=failed, now_s=self._clock())
        if reason is not None and trial.canary.stop(reason):
            _LOG.error("canary_rolled_back", reason=reason, model=trial.model.reference.version)
            self._telemetry.canary_rollbacks.inc()

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        self._stage_ms[name] = _ms_since(begun)


def _ms_since(begun: float) -> float:
    return round((time.perf_counter() - begun) * 1000, 3)
