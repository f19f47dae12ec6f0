"""What enrichment costs a payment, client and Redis together, with the full catalog: ordinary and hot, small and large.

Batches of payments that are already decoded, spread over partitions, each enriched once, in the order of one history.
All variants take turns in every round, on state of their own that was primed alike. The client's CPU, the server's CPU
and the wall time stand beside each other: on few cores the wall time has what others did in it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import orjson
import psutil
from redis import Redis

from bench.loadgen import read_payments
from bench.prepare import MAX_FUTURE_MS, MAX_PAYMENT_BYTES, PARTITIONS, as_partitioned_messages
from consumer.decode import Decoder, in_log_order
from features.catalog import DEFAULT
from features.enrich import Enricher
from features.event import PaymentBatch
from features.grouping import ID_FIELDS
from features.redis_store import RedisStore
from features.store import Span
from features.warm import warm_up

TOPIC: Final = "payments"
SIZES: Final = {1: 400, 8: 1_600, 32: 3_200, 128: 12_800, 512: 12_800}
HOT_SIZE: Final = 128
PRIMING_BATCH: Final = 512
ZIPF: Final = 1.2  # the exponent with which merchants of the hot variant are drawn
ZIPF_MERCHANTS: Final = 1_000


@dataclass(frozen=True, slots=True)
class Server:
    """Where the state lies: an address, how it is reached, and the processes that serve it."""

    url: str
    pids: Sequence[int]
    shards: int = 1
    cluster: bool = False

    def cpu_s(self) -> float:
        """CPU seconds that the processes have used so far."""
        times = [psutil.Process(pid).cpu_times() for pid in self.pids]
        return sum(each.user + each.system for each in times)


@dataclass(slots=True)
class Variant:
    """One line of the table: where, how many at once, and what was measured in each round."""

    name: str
    size: int
    work: Work
    rounds: list[dict[str, float]] = field(default_factory=list)


class Work(Protocol):
    """Something that takes the next payments of a history, in batches."""

    def run(self, payments: int, size: int) -> dict[str, float]:
        """Microseconds a payment of client CPU, server CPU and wall time."""

    def close(self) -> None:
        """Release the connection."""


class Counters:
    """The baseline: counters by hour and day as Redis' documentation advises them, one pipeline a batch.

    For each of six entities a payment adds to a count and a sum of its hour in a hash and reads the whole hash, from
    which windows could be summed. It is neither atomic nor idempotent, its windows are of whole hours, and it has none
    of the distinct counts, spreads, ratios and fraud rates. What its client would make of the hashes is not counted.
    """

    def __init__(self, server: Server, payments: Sequence[Any]) -> None:
        self._server = server
        self._client = Redis.from_url(server.url)
        self._payments, self._at = payments, 0

    def run(self, payments: int, size: int) -> dict[str, float]:
        """See `Work`."""
        taken = [orjson.loads(each.value()) for each in self._payments[self._at : self._at + payments]]
        self._at += payments
        before_s, wall, cpu = self._server.cpu_s(), time.perf_counter_ns(), time.process_time_ns()
        for start in range(0, payments, size):
            with self._client.pipeline(transaction=False) as pipe:
                for payment in taken[start : start + size]:
                    hour = payment["event_time"] // 3_600_000
                    for name in ID_FIELDS.values():
                        if (identity := payment.get(name)) is not None:
                            key = f"counters:{name}:{identity}"
                            pipe.hincrby(key, f"n:{hour}", 1)
                            pipe.hincrby(key, f"s:{hour}", payment["amount_minor"])
                            pipe.hgetall(key)
                pipe.execute()
        spent = time.process_time_ns() - cpu, time.perf_counter_ns() - wall
        return _per_payment(payments, spent, self._server.cpu_s() - before_s)

    def close(self) -> None:
        """See `Work`."""
        self._client.close()


class Line:
    """Payments that follow each other, enriched in batches on one server."""

    def __init__(self, server: Server, namespace: str, payments: Sequence[Any]) -> None:
        """Take `payments` from the beginning, on an empty namespace."""
        self._server = server
        self.store = RedisStore(
            server.url, namespace=namespace, timeout_ms=1_000, shards=server.shards, cluster=server.cluster
        )
        self._enricher = Enricher(DEFAULT, self.store)
        self._epochs = [position.epoch for position in self.store.positions()]
        self.store.adopt({(TOPIC, partition): 0 for partition in range(PARTITIONS)})
        self._ends = dict.fromkeys(range(PARTITIONS), 0)
        self._payments, self._at = payments, 0

    def run(self, payments: int, size: int) -> dict[str, float]:
        """Enrich so many payments; microseconds a payment of client CPU, server CPU and wall time."""
        batches = [self._batch(size) for _ in range(payments // size)]
        before_s, wall, cpu = self._server.cpu_s(), time.perf_counter_ns(), time.process_time_ns()
        for batch, spans in batches:
            self._enricher.enrich(batch, spans, self._epochs)
        spent = time.process_time_ns() - cpu, time.perf_counter_ns() - wall
        return _per_payment(payments // size * size, spent, self._server.cpu_s() - before_s)

    def close(self) -> None:
        """See `Work`."""
        self.store.close()

    def _batch(self, size: int) -> tuple[PaymentBatch, tuple[Span, ...]]:
        taken = self._payments[self._at : self._at + size]
        if len(taken) < size:
            message = f"The history has {len(self._payments):,} payments, too few for so many rounds."
            raise SystemExit(message)
        self._at += size
        ordered = in_log_order(taken)
        batch = Decoder(max_payment_bytes=MAX_PAYMENT_BYTES, max_future_ms=MAX_FUTURE_MS).decode(ordered).batch
        spans = []
        for partition in np.unique(batch.partition).tolist():
            end = int(batch.offset[batch.partition == partition].max()) + 1
            spans.append(Span(TOPIC, partition, self._ends[partition], end, self._ends[partition]))
            self._ends[partition] = end
        return batch, tuple(spans)


def _per_payment(payments: int, spent_ns: tuple[int, int], redis_s: float) -> dict[str, float]:
    return {
        "client_us": spent_ns[0] / payments / 1e3,
        "wall_us": spent_ns[1] / payments / 1e3,
        "redis_us": redis_s / payments * 1e6,
    }


def messages(payments: Path, count: int, *, hot: bool) -> list[Any]:
    """The first payments of a history as Kafka messages; `hot` draws their merchants from a Zipf distribution."""
    records = read_payments(payments, count)
    if hot:
        rng = np.random.default_rng(5)
        ranks = rng.zipf(ZIPF, 4 * count)
        ranks = ranks[ranks <= ZIPF_MERCHANTS][:count].tolist()
        records = [(key, _with_merchant(value, rank)) for (key, value), rank in zip(records, ranks, strict=True)]
    return as_partitioned_messages(records, TOPIC, time.time_ns() // 1_000_000)


def _with_merchant(value: bytes, rank: int) -> bytes:
    head, _, rest = value.partition(b'"merchant_id":"')
    return head + b'"merchant_id":"hot-%d"' % rank + rest.partition(b'"')[2]


def measure(
    server: Server, payments: Path, *, rounds: int, primed: int, quick: bool, cluster: Server | None = None
) -> dict[str, Any]:
    """Microseconds a payment by variant and round.

    Returns:
        `variants`: for each `name`, `size` and `rounds`, a list of `client_us`, `redis_us` and `wall_us`.
    """
    warm_up()
    share = 4 if quick else 1
    total = primed + (rounds + 1) * sum(SIZES.values()) // share + 1_024
    plain, hot = messages(payments, total, hot=False), messages(payments, total, hot=True)
    lines: dict[str, Line] = {"ordinary": Line(server, "ordinary", plain), "hot merchants": Line(server, "hot", hot)}
    variants = [Variant("ordinary", size, lines["ordinary"]) for size in SIZES]
    variants.append(Variant("hot merchants", HOT_SIZE, lines["hot merchants"]))
    if cluster is not None:
        lines["cluster"] = Line(cluster, "cluster", plain)
        variants.append(Variant("cluster", 512, lines["cluster"]))
    counters = Counters(server, plain)
    variants.append(Variant("counters", HOT_SIZE, counters))
    works: list[Work] = [*lines.values(), counters]
    for work in works:
        work.run(primed, PRIMING_BATCH)
    for variant in variants:
        variant.work.run(SIZES[variant.size] // share, variant.size)  # warm-up
    for _ in range(rounds):
        for variant in variants:
            variant.rounds.append(variant.work.run(SIZES[variant.size] // share, variant.size))
    for work in works:
        work.close()
    return {
        "primed": primed,
        "variants": [{"name": v.name, "size": v.size, "rounds": v.rounds} for v in variants],
    }
