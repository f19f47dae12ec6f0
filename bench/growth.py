"""Growth: payments a second, payments a CPU-second and p99 against what grows, one axis at a time.

Entities, partitions, features, trees, a hot card, a hot merchant: at each value a saturated processor, then
an open loop. Processes: the same full topic for one and for two, which begin at the same instant. Backlog: see
`bench.growth_backlog`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, Final

import psutil
from confluent_kafka import Producer

from bench import latency, saturation
from bench.growth_backlog import Case, outage
from bench.growth_settings import SHARED_PARTITIONS, Point, bundle_of, most_cards, part_of, points, stack_of, trees_of
from bench.history import loops
from bench.latency import Cell
from bench.loadgen import fill, read_payments
from bench.processes import BenchError
from bench.progress import Progress
from bench.stack import Stack
from features.catalog import DEFAULT

DELIVERY: Final = "exactly_once"
PAYMENTS: Final = 40_000
QUICK_PAYMENTS: Final = 6_000
RATE: Final = 2_000
QUICK_RATE: Final = 500
SECONDS: Final = 6
QUICK_SECONDS: Final = 2
PROCESSES: Final = (1, 2)
SHARED_LABELS: Final = 1  # so few, or one of two processes might get labels alone: each gets as many of all
PROCESS_ROUNDS: Final = 2
CASES: Final = (
    Case(2_000, outage_s=60, after_s=60),
    Case(5_000, outage_s=15, after_s=30),
    Case(20_000, outage_s=3, after_s=3),
)
QUICK_CASES: Final = (Case(500, outage_s=3, after_s=10),)
DEADLINE_S: Final = 180.0
FLUSH_S: Final = 120.0
LOADED_S: Final = 30.0  # of a transaction that fills a topic


def measure(stack: Stack, *, quick: bool) -> dict[str, Any]:
    """Everything that grows.

    Returns:
        `points`: for each `axis` and `value` (axis None: as usual) what `saturation.run_once` says, and `cell`, what
        `latency.run_cell` says, and how many `features` and `trees` there were; `skipped`: what there was no memory
        for. `processes`: a list of rounds, by how many there were (`1`, `2`) and with a `cell` too, and `loops`.
        `backlog`: what `growth_backlog.outage` says.
    """
    most = most_cards(psutil.virtual_memory().available)
    plan = points(quick=quick, most_cards=most)
    wanted = points(quick=quick, most_cards=10**12)
    payments = QUICK_PAYMENTS if quick else PAYMENTS
    saturation.run_once(stack, DELIVERY, "growth-warm-up", payments)  # the broker's JVM compiles
    found = [_point(stack, each, payments, quick=quick) for each in plan]
    rounds = [_processes(stack, at, payments, quick=quick) for at in range(1 if quick else PROCESS_ROUNDS)]
    cases = [outage(stack, each) for each in (QUICK_CASES if quick else CASES)]
    return {
        "rate": QUICK_RATE if quick else RATE,
        "payments": payments,
        "points": found,
        "skipped": [each.value for each in wanted if each not in plan],
        "processes": rounds,
        "backlog": cases,
    }


def _open_loop(*, quick: bool) -> Cell:
    return Cell(DELIVERY, QUICK_RATE, QUICK_SECONDS) if quick else Cell(DELIVERY, RATE, SECONDS)


def _point(stack: Stack, point: Point, payments: int, *, quick: bool) -> dict[str, Any]:
    cell = _open_loop(quick=quick)
    here = stack_of(stack, point, payments=max(payments, cell.payments))
    name = "usual" if point.axis is None else f"{point.axis.replace(' ', '-')}-{point.value}"
    run = saturation.run_once(here, DELIVERY, f"growth-{name}", payments)
    opened = latency.run_cell(here, cell)
    if point.axis == "entities":
        with stack.redis.client(timeout_s=FLUSH_S) as client:  # millions of keys take their time to go
            client.flushall()
    print(
        f"  {name}: {run['eps']:,.0f}/s, {run['eps_per_cpu_s']:,.0f} a CPU-second, p99 at {cell.rate:,}/s "
        f"{opened['latency']['p99_ms']:.0f} ms",
        flush=True,
    )
    catalog = part_of(DEFAULT, point.value) if point.axis == "catalog" else DEFAULT
    bundle = bundle_of(stack.prepared, point) if point.axis in ("catalog", "trees") else stack.prepared.bundle
    facts = {"features": len(catalog.names), "trees": trees_of(bundle)}
    return {"axis": point.axis, "value": point.value} | facts | {"run": run, "cell": opened}


def _processes(stack: Stack, at: int, payments: int, *, quick: bool) -> dict[str, Any]:
    """One process, two, each saturated and in an open loop, and what two cores allow two loops that share nothing."""
    cell = _open_loop(quick=quick)
    found: dict[str, Any] = {}
    for count in PROCESSES if at % 2 == 0 else PROCESSES[::-1]:
        each = shared(stack, f"growth-processes-{at}-{count}", payments, count)
        print(f"  {count} processes: {each['eps']:,.0f}/s, {each['eps_per_cpu_s']:,.0f} a CPU-second", flush=True)
        opened = latency.run_cell(
            replace(stack, partitions=SHARED_PARTITIONS), cell, processes=count, labels=SHARED_LABELS
        )
        print(f"    p99 at {cell.rate:,}/s {opened['latency']['p99_ms']:.0f} ms", flush=True)
        found[str(count)] = each | {"cell": opened}
    return found | {"loops": loops()}


def shared(stack: Stack, prefix: str, payments: int, processes: int) -> dict[str, Any]:
    """What processes that share the partitions did with so many payments.

    Every process has its share of the partitions before there is anything to do. Then the topic is filled in one
    transaction, so that all begin at the instant in which it is committed.
    """
    stack = replace(stack, partitions=SHARED_PARTITIONS)
    names = stack.fresh(prefix, labels=SHARED_LABELS)
    records = read_payments(stack.prepared.payments, payments, skip=stack.prepared.sizes.primed)
    producer = Producer({"bootstrap.servers": stack.kafka.bootstrap, "transactional.id": prefix, "linger.ms": 50})
    producer.init_transactions(LOADED_S)
    with ExitStack() as started:
        workers = [started.enter_context(stack.processor(names, DELIVERY, replica=at)) for at in range(processes)]
        for worker in workers:
            worker.wait_ready()
        stack.await_shares(names, processes)
        producer.begin_transaction()
        delivery = fill(producer, names.topics["payments"], records)
        producer.commit_transaction(LOADED_S)
        with Progress(stack.kafka.bootstrap, names.group, names.topics["payments"]) as progress:
            if not progress.wait_done(delivery.sent, DEADLINE_S):
                message = f"{processes} processes did not decide {payments:,} payments in {DEADLINE_S:.0f} s."
                raise BenchError(message)
        for worker in workers:
            worker.stop()
        return together([worker.result() for worker in workers])


def together(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What several processes did that worked at the same time."""
    events, cpu_s = (sum(each[what] for each in results) for what in ("events", "cpu_s"))
    wall_s = max(each["wall_s"] for each in results)
    return {
        "events": events,
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        "eps": events / wall_s,
        "eps_per_cpu_s": events / cpu_s,
        "shares": [each["events"] / events for each in results],
        "mean_batch": events / sum(each["batches"] for each in results),
    }
