"""What a payment costs in each stage, at several batch sizes, with the full catalog and a real Redis; no Kafka.

Rounds go through all batch sizes in turn, on payments that follow each other in one history, so that a noisy minute
touches all of them. CPU time is the client process's own; what Redis used is beside it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, MutableSequence, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import psutil

from bench.loadgen import Record, read_payments
from bench.naive import Scorer as NaiveScorer
from bench.naive_model import load_model as load_naive_model
from bench.prepare import MAX_FUTURE_MS, MAX_PAYMENT_BYTES, PARTITIONS, as_partitioned_messages
from bench.stack import Names, Stack
from consumer.decide import Decider
from consumer.decode import Decoder, Message, in_log_order
from consumer.journal import entries
from consumer.judge import Model
from consumer.kafka.publisher import Outgoing
from consumer.model_loader import load_model
from consumer.publish import Decided, Outbox
from consumer.settings import TopicSettings
from features.catalog import DEFAULT
from features.enrich import Enriched, Enricher
from features.event import PaymentBatch
from features.redis_store import RedisStore
from features.store import Span, StateStore
from models.explain import Explanation

STAGES: Final = ("decode", "enrich", "score", "decide", "explain", "encode")  # to explain alerts is a part of decide
ROUND_PAYMENTS: Final = {1: 1_000, 8: 4_000, 32: 8_000, 128: 12_800, 512: 12_800, 1024: 12_288}
QUICK_SHARE: Final = 4
NAIVE_PAYMENTS: Final = 1_000
TOPIC: Final = "payments"

Micros = dict[str, float]


@dataclass(slots=True)
class Laps:
    """Adds up CPU and wall nanoseconds by stage."""

    cpu_ns: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STAGES, 0))
    wall_ns: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STAGES, 0))
    _cpu: int = 0
    _wall: int = 0

    def start(self) -> None:
        """The first stage of a batch begins."""
        self._wall, self._cpu = time.perf_counter_ns(), time.process_time_ns()

    def end(self, stage: str) -> None:
        """A stage ends and the next begins."""
        cpu, wall = time.process_time_ns(), time.perf_counter_ns()
        self.cpu_ns[stage] += cpu - self._cpu
        self.wall_ns[stage] += wall - self._wall
        self._wall, self._cpu = time.perf_counter_ns(), time.process_time_ns()

    def per_payment(self, payments: int) -> tuple[Micros, Micros]:
        """Microseconds a payment: CPU and wall."""
        return (
            {stage: spent / payments / 1e3 for stage, spent in self.cpu_ns.items()},
            {stage: spent / payments / 1e3 for stage, spent in self.wall_ns.items()},
        )


@dataclass(frozen=True, slots=True)
class Passed:
    """What one batch was on its way through the stages."""

    messages: Sequence[Message]
    batch: PaymentBatch
    enriched: Enriched
    alerts: npt.NDArray[np.intp]
    records: Sequence[Outgoing]


class Line:
    """The stages on one thread, as `consumer.pipeline` calls them, without Kafka and without telemetry."""

    def __init__(
        self,
        model: Model,
        store: StateStore,
        messages: Iterator[Message],
        passed: MutableSequence[Passed] | None = None,
        topics: TopicSettings | None = None,
    ) -> None:
        """Decide `messages`, which begin at offset 0 of every partition; note in `passed` what went through."""
        self._passed = passed
        self._decoder = Decoder(max_payment_bytes=MAX_PAYMENT_BYTES, max_future_ms=MAX_FUTURE_MS)
        self._enricher = Enricher(DEFAULT, store)
        self._brain = model.brain
        self._decider = Decider(model.brain.policy)
        self._outbox = Outbox(topics or TopicSettings(), model.reference, model.digests)
        self._messages = messages
        self._epochs = [position.epoch for position in store.positions()]
        self._position = dict.fromkeys(range(PARTITIONS), 0)
        store.adopt({(TOPIC, partition): 0 for partition in self._position})
        self.alerts = 0

    def run(self, payments: int, batch: int, laps: Laps) -> None:
        """Take `payments` through all stages in batches of `batch`."""
        for _ in range(payments // batch):
            self._batch(list(islice(self._messages, batch)), laps)

    def _batch(self, messages: Sequence[Message], laps: Laps) -> None:
        brain, outbox = self._brain, self._outbox
        ordered = in_log_order(messages)
        spans = self._spans(ordered)
        laps.start()
        batch = self._decoder.decode(ordered).batch
        laps.end("decode")
        enriched = self._enricher.enrich(batch, spans, self._epochs)
        laps.end("enrich")
        scores = brain.scorer.score(enriched.values)
        laps.end("score")
        due = ~(enriched.repeated | enriched.stale)
        outcome = self._decider.decide(scores, enriched.values, "full", batch, due, 0.0)
        laps.end("decide")
        alerts = np.flatnonzero(due & (outcome.verdicts.decision > 0))
        currencies = [batch.payments[row].currency for row in alerts.tolist()]
        told = brain.explain(enriched.values[alerts], "full", currencies=currencies) if alerts.size else []
        reasons = [Explanation(each) for each in told]
        why = dict(zip(alerts.tolist(), reasons, strict=True))
        laps.end("explain")
        stage_ms = dict.fromkeys(STAGES, 0.0)
        decided = Decided(batch, due, "full", enriched, scores, outcome, why, stage_ms, 0.0)
        records = [*outbox.decisions(decided), *outbox.alerts(decided), *outbox.journal(entries(enriched.recorded))]
        laps.end("encode")
        self.alerts += alerts.size
        if self._passed is not None:
            self._passed.append(Passed(ordered, batch, enriched, alerts, records))
        self._position.update({span.partition: span.end for span in spans})

    def _spans(self, ordered: Sequence[Message]) -> tuple[Span, ...]:
        last = {message.partition(): message.offset() for message in ordered}
        return tuple(
            Span(TOPIC, partition, self._position[partition], offset + 1, self._position[partition])
            for partition, offset in last.items()
        )


def needed(*, rounds: int, quick: bool) -> int:
    """How many payments so many rounds take, the warm-up included."""
    return sum(_plan(quick=quick).values()) * (rounds + 1)


def _plan(*, quick: bool) -> dict[int, int]:
    """Payments of a round by batch size."""
    return {size: payments // (QUICK_SHARE if quick else 1) for size, payments in ROUND_PAYMENTS.items()}


def measure(stack: Stack, *, rounds: int, quick: bool) -> dict[str, Any]:
    """Microseconds a payment by batch size, stage and round.

    Returns:
        `sizes`: by batch size, `payments` and `alerts` in all, and for `cpu_us` and `wall_us` a list of rounds by
        stage; `redis_us` is the server's CPU over all rounds. `naive`: the baseline's client, one payment at a time.
    """
    plan = _plan(quick=quick)
    total = needed(rounds=rounds, quick=quick)
    names = stack.fresh("stages")
    records = read_payments(stack.prepared.payments, total, skip=stack.prepared.sizes.primed)
    model = load_model(stack.prepared.bundle, device="cpu", threads=1)
    messages = iter(as_partitioned_messages(records, TOPIC, time.time_ns() // 1_000_000))
    redis = psutil.Process(stack.redis.pid)
    found: dict[int, dict[str, Any]] = {
        size: {"payments": 0, "alerts": 0, "redis_s": 0.0, "cpu_us": [], "wall_us": []} for size in plan
    }
    with closing(_store(stack, names)) as store:
        line = Line(model, store, messages)
        for size, payments in plan.items():
            line.run(payments, size, Laps())  # warm-up
        for _ in range(rounds):
            for size, payments in plan.items():
                _round(line, redis, size, payments, found[size])
    for entry in found.values():
        entry["redis_us"] = entry.pop("redis_s") / entry["payments"] * 1e6
    naive = _naive(stack, records[: NAIVE_PAYMENTS * (rounds + 1)], rounds)
    return {"rounds": rounds, "sizes": {str(size): entry for size, entry in found.items()}, "naive": naive}


def _round(line: Line, redis: psutil.Process, size: int, payments: int, entry: dict[str, Any]) -> None:
    laps, alerts, redis_s = Laps(), line.alerts, _used_s(redis)
    line.run(payments, size, laps)
    cpu_us, wall_us = laps.per_payment(payments // size * size)
    entry["payments"] += payments // size * size
    entry["alerts"] += line.alerts - alerts
    entry["redis_s"] += _used_s(redis) - redis_s
    entry["cpu_us"].append(cpu_us)
    entry["wall_us"].append(wall_us)


def _naive(stack: Stack, records: Sequence[Record], rounds: int) -> dict[str, Any]:
    """The baseline's client cost of the same work: decode, counters, one-row predict."""
    redis, entry = psutil.Process(stack.redis.pid), {"cpu_us": list[float](), "wall_us": list[float]()}
    booster = load_naive_model(stack.prepared.naive)
    values = [value for _, value in records]
    per_round = len(values) // (rounds + 1)
    redis_s = 0.0
    with stack.redis.client() as client:
        score = NaiveScorer(client, booster)
        for at in range(rounds + 1):
            before_s, wall, cpu = _used_s(redis), time.perf_counter_ns(), time.process_time_ns()
            for value in values[at * per_round : (at + 1) * per_round]:
                payment: Mapping[str, Any] = json.loads(value)
                score(payment)
            spent = time.process_time_ns() - cpu, time.perf_counter_ns() - wall
            if at:  # the first round is warm-up
                entry["cpu_us"].append(spent[0] / per_round / 1e3)
                entry["wall_us"].append(spent[1] / per_round / 1e3)
                redis_s += _used_s(redis) - before_s
    return entry | {"payments": per_round * rounds, "redis_us": redis_s / (per_round * rounds) * 1e6}


def _store(stack: Stack, names: Names) -> RedisStore:
    return RedisStore(stack.redis.url, namespace=names.namespace, timeout_ms=1_000)


def _used_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system
