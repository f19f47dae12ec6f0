"""How close each stage is to its own floor: what it costs in the processor, and what the same bytes cost without it.

A round goes through the batch sizes; at each the real stages run on payments that follow each other in one history, and
right after them the floors (`bench.floors`) on the very same bytes. What runs between the stages of a whole processor
(its loop, its metrics, the waiting of threads for each other) is what is left of a saturated worker's CPU.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from typing import Any, Final

import psutil
from confluent_kafka import Producer

from bench import floors, saturation
from bench.floors import DEADLINE_S, RawTransactions, micros
from bench.loadgen import fill, read_payments
from bench.prepare import PARTITIONS, as_partitioned_messages
from bench.processes import BenchError
from bench.stack import Names, Stack
from bench.stages import Laps, Line, Passed
from consumer.judge import Model
from consumer.kafka.publisher import Outgoing, TransactionalPublisher
from consumer.kafka.source import KafkaSource, offsets_of
from consumer.model_loader import load_model
from consumer.settings import KafkaSettings, TopicSettings
from features.event import LAYOUT_VERSION
from features.redis_store import RedisStore
from features.store import Append, Applied, Span
from models.manifest import MODEL

SIZES: Final = {1: 1_000, 128: 12_800, 512: 12_800}
QUICK_SHARE: Final = 4
STAGES: Final = ("consume", "decode", "enrich", "score", "decide", "explain", "encode", "produce", "commit")
SERVER: Final = "redis"  # a stage of another process
WORKER_PAYMENTS: Final = 60_000

Micros = dict[str, float]


class Tapped(RedisStore):
    """Notes what is sent to Redis and what comes back."""

    def __init__(self, url: str, namespace: str) -> None:
        super().__init__(url, namespace=namespace, timeout_ms=1_000)
        self.prefix = f"{namespace}:{LAYOUT_VERSION}:{{s0}}:".encode()
        self.appends: list[Append] = []
        self.applied: list[Applied] = []

    def apply(self, appends: Sequence[Append]) -> list[Applied]:
        """See `StateStore`."""
        found = super().apply(appends)
        self.appends += appends
        self.applied += found
        return found


class Kafka:
    """The processor's source and publisher on topics of their own, and their floors."""

    def __init__(self, stack: Stack, names: Names, payments: int) -> None:
        """Fill the topic that is read again and again with so many payments."""
        topics = names.topics
        self._settings = KafkaSettings(brokers=stack.kafka.bootstrap, group_id=names.group)
        self._topic, self._count = topics["payments"], payments
        filler = Producer({"bootstrap.servers": stack.kafka.bootstrap, "acks": "all", "linger.ms": 50})
        fill(filler, self._topic, read_payments(stack.prepared.payments, payments))
        self._source = KafkaSource(self._settings, self._topic, lambda _kind: None)
        self._source.start(list(topics.values()))
        self._join()
        self._publisher = TransactionalPublisher(self._settings, self._source)
        self._raw = RawTransactions(self._settings)
        # offset 0 of every partition: commits change nothing, and `rewind` always comes back to the beginning
        self._spans = [Span(self._topic, partition, -1, 0, 0) for partition in range(PARTITIONS)]
        self.publish([[]], 1)

    def _join(self) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not self._source.owned:
            self._source.poll(1, 0.1)
            if time.monotonic() > deadline:
                message = "The group of the bench was not formed."
                raise BenchError(message)

    def consume(self, size: int) -> tuple[float, float]:
        """Microseconds a payment: the processor's source, and its floor."""
        source = self._source
        source.pause()
        source.rewind()

        def drain() -> None:
            source.resume()
            left = self._count
            while left > 0:
                messages = source.still_owned(source.poll(min(size, left), 1.0))
                taken = source.take(messages)
                source.hold(taken)
                left -= len(messages)
                source.committed(taken.spans)  # only here: the group stays where it is

        measured = micros(drain, self._count)
        source.pause()
        return measured, floors.consume(self._settings, self._topic, self._count, size)

    def publish(self, batches: Sequence[Sequence[Outgoing]], payments: int) -> dict[str, tuple[float, float]]:
        """Microseconds a payment of `produce` and `commit`: the processor's publisher, and their floor."""
        source, publisher, spent_ns = self._source, self._publisher, [0, 0]
        source.pause()
        source.poll(1, 0)  # a member of the group has to be heard of
        source.hold(source.take(()))
        for records in batches:
            before = time.process_time_ns()
            publisher.publish(records)
            publisher._flush()  # else committing would be waiting for it
            between = time.process_time_ns()
            publisher.commit(self._spans)
            spent_ns[0] += between - before
            spent_ns[1] += time.process_time_ns() - between
        raw = self._raw.run(batches, lambda: (offsets_of(self._spans), source.group_metadata()), payments)
        return {
            stage: (ns / payments / 1e3, floor)
            for stage, ns, floor in zip(("produce", "commit"), spent_ns, raw, strict=True)
        }

    def close(self) -> None:
        """Leave the group."""
        self._raw.close()
        self._publisher.close()
        self._source.close()


class Round:
    """One batch size: the real stages, then their floors on the same bytes."""

    def __init__(
        self, stack: Stack, kafka: Kafka, store: Tapped, model: Model, messages: Iterator[Any], topics: TopicSettings
    ) -> None:
        self._redis, self._client = psutil.Process(stack.redis.pid), stack.redis.client()
        self._model_bytes = (stack.prepared.bundle / MODEL).read_bytes()
        self._kafka, self._store, self._model = kafka, store, model
        self._passed: list[Passed] = []
        self._line = Line(model, store, messages, self._passed, topics)
        self._topics = topics

    def run(self, size: int, payments: int) -> dict[str, Any]:
        """By stage what it cost and its floor, and other readings of some floors."""
        for kept in (self._passed, self._store.appends, self._store.applied):
            kept.clear()
        laps, before = Laps(), self._redis.cpu_times()
        payments = payments // size * size
        self._line.run(payments, size, laps)
        after = self._redis.cpu_times()
        redis_us = (after.user + after.system - before.user - before.system) / payments * 1e6
        measured = laps.per_payment(payments)[0] | {SERVER: redis_us}
        passed, values = self._passed, [each.enriched.values for each in self._passed]
        decode = floors.decode(passed)
        exchange = floors.exchange(self._client, self._redis, self._store.prefix, self._store.appends, payments)
        folding = floors.fold(passed, self._store.applied, payments)
        score = floors.score(self._model_bytes, values, payments)
        encode = floors.encode(passed, self._topics, payments)
        plain = exchange["APPEND and MGET"]
        floor = {
            "decode": min(decode.values()),
            "enrich": plain["client_us"] + folding,
            "score": min(score.values()),
            "decide": floors.decide([self._model.brain.scorer.score(each) for each in values], payments),
            "explain": floors.explain(self._model_bytes, [e.enriched.values[e.alerts] for e in passed], payments),
            "encode": min(encode.values()),
            SERVER: plain["redis_us"],
        }
        published = self._kafka.publish([each.records for each in passed], payments)
        published["consume"] = self._kafka.consume(size)
        for stage, (cost, least) in published.items():
            measured[stage], floor[stage] = cost, least
        readings = {"decode": decode, "score": score, "encode": encode, "exchange": exchange, "fold": folding}
        return {"measured": measured, "floor": floor, "readings": readings}


def measure(stack: Stack, *, rounds: int, quick: bool) -> dict[str, Any]:
    """Microseconds of CPU a payment of every stage and of its floor.

    Returns:
        `sizes`: by batch size a list of rounds, each with `measured` and `floor` by stage, and `readings` of what
        floors are made of. `worker`: by round, what a saturated processor of its own cost in all.
    """
    plan = {size: payments // (QUICK_SHARE if quick else 1) for size, payments in SIZES.items()}
    total = sum(plan.values()) * (rounds + 1)
    workers = [
        saturation.run_once(stack, "exactly_once", f"limits-{at}", WORKER_PAYMENTS // (QUICK_SHARE if quick else 1))
        for at in range(rounds)
    ]
    names = stack.fresh("limits")
    records = read_payments(stack.prepared.payments, total, skip=stack.prepared.sizes.primed)
    messages = as_partitioned_messages(records, "payments", time.time_ns() // 1_000_000)
    found: dict[int, list[dict[str, Any]]] = {size: [] for size in plan}
    with ExitStack() as open_things:
        store = open_things.enter_context(closing(Tapped(stack.redis.url, names.namespace)))
        kafka = open_things.enter_context(closing(Kafka(stack, names, max(plan.values()))))
        model = load_model(stack.prepared.bundle, device="cpu", threads=1)
        each = Round(stack, kafka, store, model, iter(messages), TopicSettings(**names.topics))
        for at in range(rounds + 1):  # the first one is warm-up
            for size, payments in plan.items():
                one = each.run(size, payments)
                if at:
                    found[size].append(one)
    return {"rounds": rounds, "workers": workers, "sizes": {str(size): each for size, each in found.items()}}
