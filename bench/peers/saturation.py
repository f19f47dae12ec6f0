"""Saturation: how many payments a second, and a CPU-second, of a process that is alone with a full topic.

The topic is filled once and read by everybody. A run goes on until all is decided or the time is over. What counts are
the decisions that the broker appended after the warm-up, by its own timestamps, and the CPU time of the whole process
tree in the same interval.
"""

from __future__ import annotations

import time
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from bench.peers import topics
from bench.peers.contest import START_DEADLINE_S, Entry, Run, await_count, run_of, started
from bench.peers.topics import Progress
from bench.peers.tree import TreeWatch
from bench.processes import BenchError, Child, CpuWatch
from bench.stack import Stack

WARM_UP_SHARE: Final = 0.4  # a JVM compiles for some seconds
STALL_S: Final = 10.0
ALL_BUT_REPEATED: Final = 0.98  # some payments come twice, and may be decided once
SETTLE_S: Final = 1.0  # the last transaction may be on its way
LOOK_EVERY_S: Final = 0.2


def measure(stack: Stack, entry: Entry, payments: str, count: int, *, seconds: float) -> dict[str, Any]:
    """One run on a topic that holds `count` payments.

    Returns:
        `eps`, `eps_per_cpu_s`, `cpu_s`, `window_s`, `decided` (in the window), `cpu_percent` by service, `peak_mib`,
        `processes`, `first_decision_s` after the start, and `all_decided`: whether the topic was emptied in the time.
    """
    with run_of(stack, entry, "saturation", payments=payments, primed=True) as run:
        pids = {"kafka": stack.kafka.pid, "redis": stack.redis.pid}
        with started(run) as child, TreeWatch(child.pid) as tree, CpuWatch(pids) as services:
            progress = run.progress()
            waited_s = await_count(run, child, progress.count, 1, START_DEADLINE_S)
            _await_end(run, child, progress, count, seconds)
        times_ms = np.array(topics.read(stack.kafka, run.decisions, lambda message: message.timestamp()[1]), np.int64)
    window = interval(times_ms, seconds)
    decided = int(((times_ms > window[0]) & (times_ms <= window[1])).sum())
    start_ns, end_ns = (at * 1_000_000 for at in window)
    window_s, cpu_s = (end_ns - start_ns) / 1e9, tree.cpu_s(start_ns, end_ns)
    return {
        "eps": decided / window_s,
        "eps_per_cpu_s": decided / cpu_s,
        "cpu_s": cpu_s,
        "window_s": window_s,
        "decided": decided,
        "cpu_percent": services.percent(start_ns, end_ns) | {"tree": cpu_s / window_s * 100},
        "peak_mib": tree.peak_mib,
        "processes": tree.processes,
        "first_decision_s": waited_s,
        "all_decided": len(times_ms) >= count,
    }


def interval(times_ms: npt.NDArray[np.int64], seconds: float) -> tuple[int, int]:
    """What counts, in ms: from the end of the warm-up to the last decision, or to `seconds` after the first.

    Raises:
        BenchError: there are too few decisions to tell.
    """
    if len(times_ms) < 2 or times_ms.max() == times_ms.min():
        message = f"{len(times_ms)} decisions are too few to tell a rate from."
        raise BenchError(message)
    first = int(times_ms.min())
    end = min(int(times_ms.max()), first + round(seconds * 1000))
    return first + round((end - first) * WARM_UP_SHARE), end


def _await_end(run: Run, child: Child, progress: Progress, count: int, seconds: float) -> None:
    """Return when the time is over, when all is decided, or when nothing moves any more."""
    began = moved = time.monotonic()
    before = 0
    while time.monotonic() - began < seconds + SETTLE_S:
        time.sleep(LOOK_EVERY_S)
        if child.ended:
            message = f"{run.entry.name} ended by itself; it said:\n{child.said()}"
            raise BenchError(message)
        now = progress.count()
        if now != before:
            before, moved = now, time.monotonic()
        elif now >= count and time.monotonic() - moved > SETTLE_S:
            return
        elif time.monotonic() - moved > STALL_S:
            if now > ALL_BUT_REPEATED * count:
                return
            message = f"{run.entry.name} stopped after {now:,} decisions; it said:\n{child.said()}"
            raise BenchError(message)
