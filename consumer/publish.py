"""Publish: a decided batch as the records that leave, encoded once each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from consumer.decide import Outcome
from consumer.decode import Rejected
from consumer.kafka.publisher import Headers, Outgoing
from consumer.records import (
    SCHEMA_VERSION,
    Alert,
    Digests,
    Inputs,
    JournalEntry,
    ModelRef,
    Source,
    StageTimes,
    State,
    alert_id,
)
from consumer.settings import TopicSettings
from features.enrich import Enriched
from features.event import PaymentBatch
from models.explain import NOT_EXPLAINED, Explanation
from models.policy import DECISIONS, Tier, Verdicts

# Together below the brokers' default limit of 1,048,588: one dead letter that can't be written would stop everything.
DEAD_LETTER_LIMIT_BYTES: Final = 900_000
HEADERS_LIMIT_BYTES: Final = 65_536
KEY_LIMIT_BYTES: Final = 16_384
HEADER_OVERHEAD_BYTES: Final = 10  # of the two lengths, at most
TRUNCATED: Final = "fraudline.truncated_from_bytes"
KEY_TRUNCATED: Final = "fraudline.key_truncated_from_bytes"
HEADERS_DROPPED: Final = "fraudline.headers_dropped_bytes"

GIVEN_LIMIT: Final = 4_096
# tier, thresholds, limited, version of the lists, canary, device
_Given = tuple[Tier, float | None, float | None, bool, int | None, str | None, str]


class _Decision(msgspec.Struct, frozen=True, gc=False):
    """`consumer.records.Decision` with what a batch has in common already encoded; a test holds them equal."""

    event_id: str
    card_id: str
    event_time: int
    source: Source
    decision: str
    score: float | None
    tier: Tier
    model: str
    digests: msgspec.Raw
    state: State | None
    inputs: msgspec.Raw
    rules: Sequence[str]
    shadow_rules: Sequence[str]
    kafka_time: int
    schema_version: int = SCHEMA_VERSION


def journal_records(topic: str, entries: Sequence[JournalEntry]) -> list[Outgoing]:
    """One record a run, keyed by shard."""
    return [Outgoing(topic, str(entry.shard).encode(), msgspec.json.encode(entry)) for entry in entries]


@dataclass(frozen=True, slots=True)
class Decided:
    """A batch of n payments with everything that was concluded about it.

    Attributes:
        batch: the payments.
        due: (n,) where a decision is due: not repeated, not committed by another worker.
        tier: how they were decided, but for those of `small`.
        enriched: what the state said; None when it was not asked or did not answer.
        scores: (n,) float32, None in `rules_only`.
        outcome: decisions, fired rules, and what they depended on.
        reasons: by row, for each alert that a model explains.
        state_offsets: up to where the state has the partitions that this worker reads.
        stage_ms: milliseconds of each stage so far.
        read_ms: when the batch was read, ms since the epoch.
        canary: who decides these while a canary runs, `champion` or `challenger`; None while none does.
        small: (n,) which were decided by the small model; None for none.
        device: where they were scored.
    """

    batch: PaymentBatch
    due: npt.NDArray[np.bool_]
    tier: Tier
    enriched: Enriched | None
    scores: npt.NDArray[np.float32] | None
    outcome: Outcome
    reasons: dict[int, Explanation]
    stage_ms: dict[str, float]
    read_ms: float
    state_offsets: tuple[Source, ...] = ()
    canary: str | None = None
    small: npt.NDArray[np.bool_] | None = None
    device: str = "cpu"

    def tiers(self) -> list[Tier]:
        """How each payment was decided."""
        return tiers(self.tier, self.small, len(self.batch))

    @property
    def verdicts(self) -> Verdicts:
        """Decisions and fired rules."""
        return self.outcome.verdicts


def tiers(tier: Tier, small: npt.NDArray[np.bool_] | None, n: int) -> list[Tier]:
    """How each of n payments was decided: those of `small`, if there are any, by the small model."""
    return [tier] * n if small is None else ["small" if each else tier for each in small.tolist()]


class Outbox:
    """Turns batches into records. What does not change between batches is encoded once, here."""

    def __init__(self, topics: TopicSettings, model: ModelRef, digests: Digests) -> None:
        """Prepare for one bundle."""
        self._topics = topics
        self._model = model
        self._model_name = f"{model.name}@{model.version}"
        self._encode = msgspec.json.Encoder().encode
        self._digests = msgspec.Raw(self._encode(digests))
        self._encoded_inputs: dict[_Given, msgspec.Raw] = {}

    def decisions(self, decided: Decided) -> list[Outgoing]:
        """One record for every payment that a decision is due for, in log order."""
        batch, encode, topic = decided.batch, self._encode, self._topics.decisions
        digests, model, fired = self._digests, self._model_name, decided.verdicts
        n = len(batch)
        scores: Sequence[float | None] = [None] * n if decided.scores is None else decided.scores.tolist()
        states: Sequence[State | None] = [None] * n
        if decided.enriched is not None:
            states = _states(decided.enriched)
        return [
            Outgoing(
                topic,
                payment.card_id.encode(),
                encode(
                    _Decision(
                        payment.event_id,
                        payment.card_id,
                        payment.event_time,
                        Source(batch.topic, partition, offset),
                        DECISIONS[decision],
                        score,
                        tier,
                        model,
                        digests,
                        state,
                        inputs,
                        rules,
                        shadow,
                        kafka_time,
                    )
                ),
            )
            for payment, due, partition, offset, decision, score, tier, state, inputs, rules, shadow, kafka_time in zip(
                batch.payments,
                decided.due.tolist(),
                batch.partition.tolist(),
                batch.offset.tolist(),
                decided.verdicts.decision.tolist(),
                scores,
                decided.tiers(),
                states,
                self._inputs(decided),
                by_row(fired.fired, n),
                by_row(fired.shadow, n),
                batch.ingest_time.tolist(),
                strict=True,
            )
            if due
        ]

    def _inputs(self, decided: Decided) -> list[msgspec.Raw]:
        """What each payment's decision depended on; there are few different ones, each is encoded once."""
        verdicts, outcome, n = decided.verdicts, decided.outcome, len(decided.batch)
        limited = [False] * n if outcome.limited is None else outcome.limited.tolist()
        common = outcome.lists_version, decided.canary, decided.device
        if verdicts.review is None or verdicts.block is None:
            return [self._given((decided.tier, None, None, held, *common)) for held in limited]
        if outcome.limited is None and decided.small is None and _is_one(verdicts.review) and _is_one(verdicts.block):
            review, block = float(verdicts.review[0]), float(verdicts.block[0])  # as nearly always
            return [self._given((decided.tier, review, None if math.isnan(block) else block, False, *common))] * n
        blocks = [None if math.isnan(block) else block for block in verdicts.block.tolist()]
        return [
            self._given((tier, review, block, held, *common))
            for tier, review, block, held in zip(
                decided.tiers(), verdicts.review.tolist(), blocks, limited, strict=True
            )
        ]

    def _given(self, given: _Given) -> msgspec.Raw:
        known = self._encoded_inputs.get(given)
        if known is None:
            if len(self._encoded_inputs) >= GIVEN_LIMIT:  # the alert rate moves the threshold all the time
                self._encoded_inputs.clear()
            tier, review, block, held, lists_version, canary, device = given
            inputs = Inputs(
                tier=tier,
                device="cuda" if device == "cuda" else "cpu",
                review_threshold=review,
                block_threshold=block,
                limiter="review" if held else None,
                lists_version=lists_version,
                canary=canary,
            )
            known = self._encoded_inputs[given] = msgspec.Raw(self._encode(inputs))
        return known

    def alerts(self, decided: Decided) -> list[Outgoing]:
        """One record for every payment that is due and not approved, in log order."""
        rows = np.flatnonzero(decided.due & (decided.verdicts.decision > 0)).tolist()
        by_row = decided.tiers()
        return [
            Outgoing(
                self._topics.alerts,
                decided.batch.payments[row].card_id.encode(),
                self._encode(self._alert(decided, row, by_row[row])),
            )
            for row in rows
        ]

    def dead_letters(self, rejected: Sequence[Rejected]) -> list[Outgoing]:
        """One record for every rejected one: its key, bytes, headers and timestamp, and headers that say why."""
        return [self._dead_letter(each) for each in rejected]

    def journal(self, entries: Sequence[JournalEntry]) -> list[Outgoing]:
        """See `journal_records`."""
        return journal_records(self._topics.journal, entries)

    def _alert(self, decided: Decided, row: int, tier: Tier) -> Alert:
        batch, payment, enriched = decided.batch, decided.batch.payments[row], decided.enriched
        why = decided.reasons.get(row, NOT_EXPLAINED)
        age_ms = -1 if enriched is None else int(enriched.age_ms[row])
        return Alert(
            alert_id=alert_id(payment.card_id, payment.event_id, payment.event_time),
            event_id=payment.event_id,
            card_id=payment.card_id,
            merchant_id=payment.merchant_id,
            event_time=payment.event_time,
            amount_minor=payment.amount_minor,
            currency=payment.currency,
            source=Source(batch.topic, int(batch.partition[row]), int(batch.offset[row])),
            decision=DECISIONS[decided.verdicts.decision[row]],
            score=None if decided.scores is None else float(decided.scores[row]),
            tier=tier,
            reasons=why.reasons,
            rules=tuple(rule for rule, mask in decided.verdicts.fired if mask[row]),
            model=self._model,
            feature_age_ms=None if age_ms < 0 else age_ms,
            stage_ms=StageTimes(
                queued=round(max(0.0, decided.read_ms - int(batch.ingest_time[row])), 1),
                decode=decided.stage_ms["decode"],
                enrich=decided.stage_ms["enrich"],
                score=decided.stage_ms["score"],
                decide=decided.stage_ms["decide"],
            ),
            device_id=payment.device_id,
            account_id=payment.account_id,
            state=None
            if enriched is None
            else State(int(enriched.shard[row]), int(enriched.epoch[row]), int(enriched.sequence[row])),
            state_offsets=list(decided.state_offsets),
            cleared_by=why.cleared_by,
        )

    def _dead_letter(self, rejected: Rejected) -> Outgoing:
        message = rejected.message
        headers: Headers = [(name, _bytes(content)) for name, content in message.headers() or ()]
        size = sum(len(name.encode()) + len(content or b"") + HEADER_OVERHEAD_BYTES for name, content in headers)
        if size > HEADERS_LIMIT_BYTES:
            headers = [(HEADERS_DROPPED, str(size).encode())]
        headers += [
            ("__connect.errors.topic", message.topic().encode()),
            ("__connect.errors.partition", str(message.partition()).encode()),
            ("__connect.errors.offset", str(message.offset()).encode()),
            ("__connect.errors.stage", rejected.stage.encode()),
            ("__connect.errors.class.name", f"fraudline.Rejected.{rejected.reason}".encode()),
            ("__connect.errors.exception.message", rejected.detail.encode()),
        ]
        key = _cut(message.key(), KEY_LIMIT_BYTES, KEY_TRUNCATED, headers)
        value = _cut(message.value(), DEAD_LETTER_LIMIT_BYTES, TRUNCATED, headers)
        kind, timestamp_ms = message.timestamp()
        return Outgoing(self._topics.dead_letters, key, value, headers, timestamp_ms if kind else 0)


def _is_one(values: npt.NDArray[np.float32]) -> bool:
    """Whether there are values and all are the same, to the bit: NaN is as good as any."""
    bits = values.view(np.uint32)
    return bits.size > 0 and bool((bits == bits[0]).all())


def by_row(fired: tuple[tuple[str, npt.NDArray[np.bool_]], ...], n: int) -> Sequence[Sequence[str]]:
    """The ids of the rules that fired, by payment."""
    if not fired:
        return [()] * n
    rules: list[list[str]] = [[] for _ in range(n)]
    for rule, mask in fired:
        for row in np.flatnonzero(mask).tolist():
            rules[row].append(rule)
    return rules


def _states(enriched: Enriched) -> list[State]:
    stamps = (enriched.shard.tolist(), enriched.epoch.tolist(), enriched.sequence.tolist())
    return [State(*stamp) for stamp in zip(*stamps, strict=True)]


def _cut(content: bytes | None, limit_bytes: int, header: str, headers: Headers) -> bytes | None:
    """At most `limit_bytes` of it; if that is not all, `header` says how many there were."""
    if content is None or len(content) <= limit_bytes:
        return content
    headers.append((header, str(len(content)).encode()))
    return content[:limit_bytes]


def _bytes(content: bytes | str | None) -> bytes | None:
    return content.encode() if isinstance(content, str) else content
