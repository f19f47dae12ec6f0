"""Fraudline's batch function without its Kafka parts, for a framework that hands over batches.

Decode, enrich from entity logs in Redis, score, decide, explain, encode: what `consumer.pipeline` does between poll and
produce, in the same order and with the same parts. Consuming, delivering and committing are the framework's.
"""

from __future__ import annotations

import argparse
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from consumer.decode import Decoder, Message, in_log_order
from consumer.judge import Judge, Surroundings
from consumer.model_loader import load_model
from consumer.publish import Decided
from consumer.settings import TopicSettings
from features.enrich import Enricher
from features.redis_store import RedisStore
from features.store import Source, Span

MAX_PAYMENT_BYTES: Final = 65_536
MAX_FUTURE_MS: Final = 300_000
STORE_TIMEOUT_MS: Final = 1_000
EXPLAIN_LIMIT_S: Final = 0.03  # what a batch waits for the reasons of its alerts at most, as in the processor
COMMIT_WITHIN_S: Final = 30.0  # a framework that says nothing is taken to have committed what is older


@dataclass(frozen=True, slots=True)
class Record:
    """A source record for frameworks whose own is not shaped like the Kafka client's; see `consumer.decode.Message`.

    `timestamp_ms` is the record's Kafka timestamp; 0 where the framework does not tell.
    """

    topic_: str
    partition_: int
    offset_: int
    key_: bytes | None
    value_: bytes | None
    timestamp_ms: int = 0

    def topic(self) -> str:
        """Its topic."""
        return self.topic_

    def partition(self) -> int:
        """Its partition."""
        return self.partition_

    def offset(self) -> int:
        """Its offset."""
        return self.offset_

    def key(self) -> bytes | None:
        """Its key."""
        return self.key_

    def value(self) -> bytes | None:
        """Its bytes."""
        return self.value_

    def headers(self) -> list[tuple[str, bytes | None]] | None:
        """None: a payment needs none."""
        return None

    def timestamp(self) -> tuple[int, int]:
        """(type, ms since the epoch); type 0 means that there is none."""
        return (1, self.timestamp_ms) if self.timestamp_ms else (0, 0)


@dataclass(frozen=True, slots=True)
class Answer:
    """What is to be published of one payment: its key, its decision, and its alert if one is due; encoded."""

    key: bytes
    decision: bytes
    alert: bytes | None


class Ours:
    """Decides batches of payments. One instance a process (or a worker with partitions of its own); `close` it.

    A partition's payments come in the order of their offsets, without gaps; after a restart the framework goes on at
    an offset that it has committed, or at an earlier one. Payments that were applied before are decided as they were
    then and not counted twice.
    """

    def __init__(self, arguments: argparse.Namespace, clock: Callable[[], float] = time.monotonic) -> None:
        """Load the bundle and connect; `arguments` are those of `bench.peers.arguments`, `clock` gives seconds.

        The first start on a machine compiles for most of a minute.
        """
        self._store = RedisStore(arguments.redis, namespace=arguments.namespace, timeout_ms=STORE_TIMEOUT_MS)
        self._store.check()
        self._decoder = Decoder(max_payment_bytes=MAX_PAYMENT_BYTES, max_future_ms=MAX_FUTURE_MS)
        model = load_model(arguments.bundle, device="cpu", threads=1)
        topics = TopicSettings(
            payments=arguments.payments_topic, decisions=arguments.decisions_topic, alerts=arguments.alerts_topic
        )
        self._enricher = Enricher(model.catalog, self._store)
        self._judge = Judge(model, model.catalog, Surroundings(topics))
        positions = self._store.positions()
        self._epochs = [position.epoch for position in positions]
        self._known: set[Source] = set.intersection(*(set(position.markers) for position in positions))
        self._clock = clock
        self._next: dict[Source, int] = {}
        self._committed: dict[Source, int] = {}
        self._past: dict[Source, deque[tuple[float, int]]] = {}

    def decide(self, messages: Sequence[Message]) -> list[Answer]:
        """Decide n payments with one round trip to Redis and one predict.

        Returns:
            An answer for each payment that is due one, in log order: none for bytes that are no valid payment, none for
            an event id that was decided before.

        Raises:
            StateBehind: payments are missing between those of the state and these.
            StoreUnavailable: Redis did not answer in a second; the call may be repeated.
        """
        if not messages:
            return []
        read_ms, began = time.time() * 1_000, time.perf_counter()
        ordered = in_log_order(messages)
        spans = self._spans(ordered)
        batch = self._decoder.decode(ordered).batch
        decoded = time.perf_counter()
        enriched = self._enricher.enrich(batch, spans, self._epochs)
        found = time.perf_counter()
        judge = self._judge
        opinion = judge.score(enriched.values, "full")
        scored = time.perf_counter()
        due = ~(enriched.repeated | enriched.stale)
        outcome = judge.decide(opinion, batch, due)
        alerts = np.flatnonzero(due & (outcome.verdicts.decision > 0))
        job = judge.explain(opinion, outcome, batch, alerts, EXPLAIN_LIMIT_S)
        reasons = {}
        if job is not None:
            job.run()
            reasons = dict(zip(alerts.tolist(), job.result(), strict=True))
        stage_ms = {
            "decode": (decoded - began) * 1_000,
            "enrich": (found - decoded) * 1_000,
            "score": (scored - found) * 1_000,
            "decide": (time.perf_counter() - scored) * 1_000,
        }
        decided = Decided(batch, due, opinion.tier, enriched, opinion.scores, outcome, reasons, stage_ms, read_ms)
        judge.settle(opinion, outcome, due)
        self._advance(spans)
        raised = dict(zip(alerts.tolist(), judge.outbox.alerts(decided), strict=True))
        rows = np.flatnonzero(due).tolist()
        return [
            Answer(each.key, each.value, raised[row].value if row in raised else None)
            for row, each in zip(rows, judge.outbox.decisions(decided), strict=True)
        ]

    def committed(self, topic: str, partition: int, offset: int) -> None:
        """The framework has committed this partition up to `offset` (exclusive), so that logs may be compacted to it.

        Without it what was decided half a minute ago counts as committed. Never say it early: payments below are
        taken for decided, and get no answer.
        """
        self._committed[topic, partition] = offset

    def close(self) -> None:
        """Release the connection."""
        self._store.close()

    def _spans(self, ordered: Sequence[Message]) -> tuple[Span, ...]:
        """What the batch covers of each partition, in the order of its records."""
        bounds: dict[Source, tuple[int, int]] = {}
        for message in ordered:
            source, offset = (message.topic(), message.partition()), message.offset()
            first, _ = bounds.get(source, (offset, 0))
            bounds[source] = first, offset + 1
        return tuple(self._span(source, first, end) for source, (first, end) in bounds.items())

    def _span(self, source: Source, first: int, end: int) -> Span:
        if source not in self._known:
            self._store.adopt({source: first})
            self._known.add(source)
        start = min(first, self._next.get(source, first))  # where the last batch ended, or earlier after a rewind
        self._past.setdefault(source, deque([(self._clock(), start)]))
        return Span(*source, start, end, self.floor(source))

    def floor(self, source: Source) -> int:
        """Up to where (exclusive) a partition that was decided counts as committed."""
        if source in self._committed:
            return self._committed[source]
        past, now = self._past[source], self._clock()
        while len(past) > 1 and now - past[1][0] >= COMMIT_WITHIN_S:
            past.popleft()
        return past[0][1]

    def _advance(self, spans: Sequence[Span]) -> None:
        """Note where each partition stands now."""
        now = self._clock()
        for span in spans:
            source = span.topic, span.partition
            past = self._past[source]
            self._next[source] = span.end
            if now - past[-1][0] >= 1.0:
                past.append((now, span.end))
