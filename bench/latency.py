"""Open loop: payments at a fixed rate, and how long after each was due a `read_committed` reader had its decision.

Generator, broker, Redis, worker and reader share the machine. Every payment of the measured window counts, from when
it was due, whether or not the generator, the broker or the worker were late: nothing is sampled or left out.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from confluent_kafka import ConsumerGroupState

from bench.cause import Breakdown, breakdown, read_trace, slowest
from bench.processes import BenchError, Child, CpuWatch
from bench.reader import latencies
from bench.stack import DELIVERIES, NAIVE, Names, Stack

RATES: Final = (500, 1_000, 2_000, 5_000, 10_000)
NAIVE_RATES: Final = (500, 1_000)  # the baseline is saturated beyond
WARM_UP_S: Final = 5
BROKER_WARM_UP_RATE: Final = 1_500
DRAIN_S: Final = 60.0
JOIN_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Cell:
    """One run: who decides, payments a second, and the measured seconds."""

    kind: str
    rate: int
    seconds: int

    @property
    def schedule_s(self) -> int:
        """Warm-up and measured window are one schedule without a gap."""
        return WARM_UP_S + self.seconds

    @property
    def payments(self) -> int:
        """Of the whole schedule."""
        return self.rate * self.schedule_s


def measure(stack: Stack, *, seconds: int, rates: Sequence[int]) -> dict[str, Any]:
    """Run a cell for each delivery and rate, and for the baseline at its two rates.

    Returns:
        `cells`: a list of what `run_cell` gives.
    """
    plan = [Cell(kind, rate, seconds) for rate in rates for kind in DELIVERIES]
    plan += [Cell(NAIVE, rate, seconds) for rate in rates if rate in NAIVE_RATES]
    cells = []
    run_cell(stack, Cell("exactly_once", BROKER_WARM_UP_RATE, min(seconds, 10)))  # the broker's JVM compiles
    for cell in plan:
        found = run_cell(stack, cell)
        latency = found["latency"]
        print(
            f"  {cell.kind} at {cell.rate:,}/s: p99 {latency['p99_ms']:.1f} ms, max {latency['max_ms']:.1f} ms",
            flush=True,
        )
        cells.append(found)
    return {"seconds": seconds, "warm_up_s": WARM_UP_S, "rates": list(rates), "cells": cells}


def run_cell(stack: Stack, cell: Cell, *, processes: int = 1, **partitions: int) -> dict[str, Any]:
    """One schedule: its latencies, what ran meanwhile, and where the slowest payment spent its time.

    So many `processes` share the partitions; `partitions` are as for `Stack.fresh`.
    """
    names = stack.fresh(f"latency-{cell.kind}-{cell.rate}-{cell.seconds}-{time.monotonic_ns()}", **partitions)
    home = stack.folder / names.prefix
    home.mkdir()
    with ExitStack() as started:
        workers = [started.enter_context(_worker(stack, names, cell, home, at)) for at in range(processes)]
        reader = started.enter_context(_reader(stack, names, cell, home))
        reader.wait_ready()
        for worker in workers:
            _await_worker(stack, names, cell, worker)
        if processes > 1:
            stack.await_shares(names, processes)
        pids = {"kafka": stack.kafka.pid, "redis": stack.redis.pid, "reader": reader.pid}
        pids |= {f"worker {at}" if at else "worker": worker.pid for at, worker in enumerate(workers)}
        with CpuWatch(pids) as watch:
            load = _load(stack, names, cell, home, watch)
            reader.wait_end(DRAIN_S)  # what it has not read by then counts as missing
        reader.stop()
        read = reader.result()
        for worker in workers:
            worker.stop()
        is_told = cell.kind != NAIVE or read["received"] >= cell.payments
        decided = _together([worker.result() for worker in workers]) if is_told else {}
    return _report(cell, home, load, decided, watch)


def _worker(stack: Stack, names: Names, cell: Cell, home: Path, at: int) -> Child:
    if cell.kind == NAIVE:
        return stack.processor(names, NAIVE, max_events=cell.payments, idle_exit_s=JOIN_S)
    return stack.processor(names, cell.kind, trace=home / f"trace-{at}.jsonl", replica=at)


def _together(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What several processes did; of one, what it said."""
    if len(results) == 1:
        return results[0]
    events, batches = (sum(each[what] for each in results) for what in ("events", "batches"))
    counts = {what: Counter[str]() for what in ("tiers", "transactions", "stage_s")}
    for each in results:
        for what, count in counts.items():
            count.update(each[what])
    return {"mean_batch": events / batches} | {what: dict(count) for what, count in counts.items()}


def _reader(stack: Stack, names: Names, cell: Cell, home: Path) -> Child:
    arguments = {"brokers": stack.kafka.bootstrap, "topic": names.topics["decisions"], "out": home / "received.npy"}
    return Child("bench.reader", arguments | {"expect": cell.payments, "idle-exit-s": cell.schedule_s + DRAIN_S})


def _await_worker(stack: Stack, names: Names, cell: Cell, worker: Child) -> None:
    """Wait until it owns the partitions; the baseline does not say so itself, so the broker is asked."""
    if cell.kind != NAIVE:
        worker.wait_ready()
        return
    deadline = time.monotonic() + JOIN_S
    while True:
        known = stack.kafka.admin.describe_consumer_groups([names.group])[names.group]
        if known.result().state == ConsumerGroupState.STABLE:
            return
        if time.monotonic() > deadline:
            message = f"The baseline did not join its group in {JOIN_S:.0f} s."
            raise BenchError(message)
        time.sleep(0.1)


def _load(stack: Stack, names: Names, cell: Cell, home: Path, watch: CpuWatch) -> dict[str, Any]:
    arguments = {
        "brokers": stack.kafka.bootstrap,
        "topic": names.topics["payments"],
        "payments": stack.prepared.payments,
        "skip": stack.prepared.sizes.primed,
        "rate": cell.rate,
        "duration-s": cell.schedule_s,
        "out": home / "sent.npy",
    }
    with Child("bench.loadgen", arguments) as generator:
        watch.add("loadgen", generator.pid)
        if not generator.wait_end(cell.schedule_s + DRAIN_S):
            message = f"The load generator did not end within {DRAIN_S:.0f} s of its schedule."
            raise BenchError(message)
        return generator.result()


def _report(cell: Cell, home: Path, load: dict[str, Any], decided: dict[str, Any], watch: CpuWatch) -> dict[str, Any]:
    whole = np.load(home / "sent.npy")
    window, measured = whole[cell.rate * WARM_UP_S :], home / "measured.npy"
    np.save(measured, window)
    due_ns = window["intended_ns"]
    return {
        "kind": cell.kind,
        "rate": cell.rate,
        "latency": latencies(measured, home / "received.npy"),
        "slowest": _cause(window, home, decided),
        "cpu_percent": watch.percent(int(due_ns[0]), int(due_ns[-1])),
        "loadgen": {name: load[name] for name in ("rate_achieved", "fell_short", "max_late_ms", "late_over_5ms")}
        | {"undelivered": load["count"] - load["delivered"]},
        "mean_batch": decided.get("mean_batch", 1.0),
        "tiers": decided.get("tiers", {}),
        "transactions": decided.get("transactions", {}),
    }


def _cause(window: Any, home: Path, decided: dict[str, Any]) -> Breakdown | None:
    """Where the slowest payment spent its time; the baseline keeps no trace."""
    event = slowest(window, np.load(home / "received.npy"))
    if event is None or "stage_s" not in decided:
        return None
    found = (breakdown(event, read_trace(trace)) for trace in sorted(home.glob("trace-*.jsonl")))
    return next((each for each in found if each is not None), None)
