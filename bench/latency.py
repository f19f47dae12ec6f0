"""Open loop: payments at a fixed rate, and how long after each was due a `read_committed` reader had its decision.

Generator, broker, Redis, worker and reader share the machine. Every payment of the measured window counts, from when
it was due, whether or not the generator, the broker or the worker were late: nothing is sampled and nothing is left out.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import numpy as np
from confluent_kafka import ConsumerGroupState
from confluent_kafka.admin import AdminClient

from bench.cause import breakdown, read_trace, slowest
from bench.processes import BenchError, Child, CpuWatch
from bench.reader import latencies
from bench.stack import DELIVERIES, NAIVE, Names, Stack

RATES: Final = (500, 1_000, 2_000, 5_000, 10_000)
NAIVE_RATES: Final = (500, 1_000)  # the baseline is saturated beyond
WARM_UP_S: Final = 5
DRAIN_S: Final = 60.0
JOIN_S: Final = 30.0


def measure(stack: Stack, *, seconds: int, rates: Sequence[int]) -> dict[str, Any]:
    """A cell for each delivery and rate, the baseline at its two rates beside them.

    Returns:
        `cells`: a list of what `_cell` gives.
    """
    plan = [(delivery, rate) for delivery in DELIVERIES for rate in rates]
    plan += [(NAIVE, rate) for rate in rates if rate in NAIVE_RATES]
    cells = []
    for kind, rate in plan:
        cell = _cell(stack, kind, rate, seconds)
        found = cell["latency"]
        print(f"  {kind} at {rate:,}/s: p99 {found['p99_ms']:.1f} ms, max {found['max_ms']:.1f} ms", flush=True)
        cells.append(cell)
    return {"seconds": seconds, "warm_up_s": WARM_UP_S, "rates": list(rates), "cells": cells}


def _cell(stack: Stack, kind: str, rate: int, seconds: int) -> dict[str, Any]:
    names = stack.fresh(f"latency-{kind}-{rate}")
    home = stack.folder / names.prefix
    home.mkdir()
    sent, received, trace = home / "sent.npy", home / "received.npy", home / "trace.jsonl"
    total = rate * (WARM_UP_S + seconds)
    with ExitStack() as started:
        worker = started.enter_context(_worker(stack, names, kind, total, trace))
        reader = started.enter_context(
            Child(
                "bench.reader",
                {"brokers": stack.kafka.bootstrap, "topic": names.topics["decisions"], "out": received}
                | {"expect": total, "idle-exit-s": WARM_UP_S + seconds + DRAIN_S},
            )
        )
        reader.wait_ready()
        _await_worker(stack, names, kind, worker)
        pids = {"kafka": stack.kafka.pid, "redis": stack.redis.pid, "worker": worker.pid, "reader": reader.pid}
        with CpuWatch(pids) as watch:
            load = _load(stack, names, rate, sent, watch)
            drained = reader.wait_end(DRAIN_S)
        reader.stop()
        read = reader.result()
        worker.stop()
        decided = worker.result()
    return _report(kind, rate, home, load, decided, watch) | {"drained": drained, "received": read["received"]}


def _worker(stack: Stack, names: Names, kind: str, total: int, trace: Path) -> Child:
    if kind == NAIVE:
        return stack.processor(names, kind, max_events=total, idle_exit_s=JOIN_S)
    return stack.processor(names, kind, trace=trace)


def _await_worker(stack: Stack, names: Names, kind: str, worker: Child) -> None:
    """Wait until it owns the partitions; the baseline does not say so itself, so the broker is asked."""
    if kind != NAIVE:
        worker.wait_ready()
        return
    admin: AdminClient = stack.kafka.admin
    deadline = time.monotonic() + JOIN_S
    while admin.describe_consumer_groups([names.group])[names.group].result().state != ConsumerGroupState.STABLE:
        if time.monotonic() > deadline:
            message = f"The baseline did not join its group in {JOIN_S:.0f} s."
            raise BenchError(message)
        time.sleep(0.1)


def _load(stack: Stack, names: Names, rate: int, sent: Path, watch: CpuWatch) -> dict[str, Any]:
    """Warm-up and measured window in one schedule without a gap; what is warm-up is cut from the sidecar after."""
    seconds = stack_seconds(sent)
    arguments = {
        "brokers": stack.kafka.bootstrap,
        "topic": names.topics["payments"],
        "payments": stack.prepared.payments,
        "skip": stack.prepared.sizes.primed,
        "rate": rate,
        "duration-s": seconds,
        "out": sent,
    }
    with Child("bench.loadgen", arguments) as generator:
        watch.add("loadgen", generator.pid)
        if not generator.wait_end(seconds + DRAIN_S):
            message = f"The load generator did not end {DRAIN_S:.0f} s after its schedule."
            raise BenchError(message)
        return generator.result()
