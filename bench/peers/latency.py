"""Open loop: payments at a fixed rate, and how long after each was due a `read_committed` reader had its decision.

One process goes through the rates from low to high. At the end of each, what is not decided within `DEADLINE_S` of the
last payment is missing, and counts as later than any that was decided. Where something is missing, the next rate begins
with new topics and a new process, so that a backlog is nobody's at another rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from bench.peers.contest import FIRST_PAYMENTS, START_DEADLINE_S, Entry, Run, await_count, payments_of, run_of, started
from bench.peers.tree import TreeWatch
from bench.processes import BenchError, Child, CpuWatch
from bench.reader import BUDGET_MS
from bench.stack import Stack

RATES: Final = (500, 1_000, 2_000, 5_000)
WARM_UP_S: Final = 2
DEADLINE_S: Final = 5.0
PERCENTILES: Final = {"p50_ms": 50.0, "p90_ms": 90.0, "p99_ms": 99.0, "p99_9_ms": 99.9, "max_ms": 100.0}


def measure(
    stack: Stack, entry: Entry, cells: list[dict[str, Any]], *, rates: Sequence[int], seconds: int
) -> dict[str, Any]:
    """Put a cell (see `_cell`) for each rate into `cells`, as soon as it is measured; nothing more is returned."""
    skip = 0
    with ExitStack() as now:
        at_work: tuple[Run, Child] | None = None
        for rate in sorted(rates):
            if at_work is None:
                at_work = _start(stack, entry, now, skip)
                skip += FIRST_PAYMENTS
            cells.append(_cell(*at_work, rate, seconds, skip))
            skip += rate * (WARM_UP_S + seconds)
            if cells[-1]["missing"]:
                at_work = None
                now.close()
    return {}


def needed(rates: Sequence[int], seconds: int) -> int:
    """How many payments that takes at most."""
    return sum(rate * (WARM_UP_S + seconds) + FIRST_PAYMENTS for rate in rates)


def _start(stack: Stack, entry: Entry, now: ExitStack, skip: int) -> tuple[Run, Child]:
    run = now.enter_context(run_of(stack, entry, "latency", primed=True))
    child = now.enter_context(started(run))
    run.fill(payments_of(stack, FIRST_PAYMENTS, skip=skip))
    with closing(run.follower()) as follower:
        await_count(run, child, follower.count, FIRST_PAYMENTS, START_DEADLINE_S)
    return run, child


def _cell(run: Run, child: Child, rate: int, seconds: int, skip: int) -> dict[str, Any]:
    """One rate.

    Returns:
        `rate`, what `percentiles` gives, `cpu_percent` of the process tree and the services, `peak_mib`, and what the
        load generator says of itself.
    """
    stack, schedule_s = run.stack, WARM_UP_S + seconds
    sent, received = run.state / f"sent-{rate}.npy", run.state / f"received-{rate}.npy"
    source = {"payments": stack.prepared.payments, "skip": stack.prepared.sizes.primed + skip}
    kafka = {"brokers": stack.kafka.bootstrap}
    reading = {"topic": run.decisions, "out": received, "expect": rate * schedule_s}
    sending = {"topic": run.payments, "out": sent, "rate": rate, "duration-s": schedule_s}
    with (
        Child("bench.peers.reader", kafka | source | reading) as reader,
        TreeWatch(child.pid) as tree,
        CpuWatch({"kafka": stack.kafka.pid, "redis": stack.redis.pid, "reader": reader.pid}) as services,
    ):
        reader.wait_ready()
        with Child("bench.loadgen", kafka | source | sending) as generator:
            services.add("loadgen", generator.pid)
            if not generator.wait_end(schedule_s + 60.0):
                message = "The load generator did not end within a minute of its schedule."
                raise BenchError(message)
            load = generator.result()
        reader.wait_end(DEADLINE_S)  # what it has not read by then is missing
        reader.stop()
        reader.result()
    if child.ended:
        message = f"{run.entry.name} ended by itself at {rate:,}/s; it said:\n{child.said()}"
        raise BenchError(message)
    due_ns, received_ns = arrivals(sent, received)
    window = slice(rate * WARM_UP_S, None)
    start_ns, end_ns = int(due_ns[window][0]), int(due_ns[-1])
    cpu_percent = tree.cpu_s(start_ns, end_ns) / (end_ns - start_ns) * 1e11
    return {
        "rate": rate,
        **percentiles(due_ns[window], received_ns[window]),
        "duplicates": duplicates(received),
        "cpu_percent": services.percent(start_ns, end_ns) | {"tree": cpu_percent},
        "peak_mib": tree.peak_mib,
        "loadgen": {name: load[name] for name in ("rate_achieved", "fell_short", "max_late_ms")}
        | {"undelivered": load["count"] - load["delivered"]},
    }


def arrivals(sent: Path, received: Path) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """When each payment was due and when its first decision came, ns, both (n,); -1 where none came."""
    due_ns = np.load(sent)["intended_ns"]
    rows = np.load(received)
    rows = rows[rows["payment"] >= 0]
    found, first = np.unique(rows["payment"], return_index=True)  # the first of equals, in the order received
    received_ns = np.full(len(due_ns), -1, np.int64)
    received_ns[found] = rows["received_ns"][first]
    return due_ns, received_ns


def duplicates(received: Path) -> int:
    """How many decisions came for payments that had one already, warm-up included."""
    payments = np.load(received)["payment"]
    payments = payments[payments >= 0]
    return len(payments) - len(np.unique(payments))


def percentiles(due_ns: npt.NDArray[np.int64], received_ns: npt.NDArray[np.int64]) -> dict[str, Any]:
    """Of all payments, a missing decision being later than any other.

    Returns:
        `count`, `missing`, `within_200ms` (a share), and each of `PERCENTILES` in ms: infinite where it is not known.
    """
    there = received_ns >= 0
    latency_ms = np.where(there, (received_ns - due_ns) / 1e6, np.inf)
    found = np.percentile(latency_ms, list(PERCENTILES.values()), method="higher")
    return {
        "count": len(due_ns),
        "missing": int((~there).sum()),
        "within_200ms": float((latency_ms <= BUDGET_MS).mean()),
        **dict(zip(PERCENTILES, found.tolist(), strict=True)),
    }
