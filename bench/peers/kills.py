"""Kills: the whole process tree ends by `kill -9` amid its work, several times, and starts again as it was started.

Payments go on coming meanwhile. When the last process has nothing left to do it is asked to end, and what it and those
before it published and kept is judged against the topic.
"""

from __future__ import annotations

import random
import time
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any, Final

import orjson

from bench.peers import topics, tree
from bench.peers.contest import FIRST_PAYMENTS, START_DEADLINE_S, Entry, Run, await_count, payments_of, run_of, started
from bench.peers.judge import Kept, judge_counters, judge_decisions, judge_logs, kept_counters, sums_of
from bench.peers.topics import Progress
from bench.processes import Child
from bench.stack import Stack

RATE: Final = 500
KILLS: Final = 3
LONGEST_S: Final = 180  # of the load; it is ended when the last kill is survived
AMID: Final = (50, 500)  # decisions that a process makes before it is killed, at least and at most
AFTER_S: Final = 1.0  # of load after the last restart
DONE_S: Final = 2.0  # without a decision when there are as many as payments, and
IDLE_S: Final = 15.0  # when there are fewer: it has given up
LOOK_EVERY_S: Final = 0.2
SEED: Final = 20_251


def measure(stack: Stack, entry: Entry, *, kills: int, longest_s: int = LONGEST_S) -> dict[str, Any]:
    """One history of kills.

    Returns:
        `kills`; `decisions` and `kept` as `bench.peers.judge` has them; `back_s`, the seconds from each restart to the
        first decision after it.
    """
    rng = random.Random(SEED)
    with run_of(stack, entry, "kills", primed=False) as run, ExitStack() as loading:
        progress = run.progress()
        run.fill(payments_of(stack, FIRST_PAYMENTS))
        back_s: list[float] = []
        for at in range(kills):
            with run.process() as child:
                try:
                    if at == 0:
                        await_count(run, child, progress, FIRST_PAYMENTS, START_DEADLINE_S)
                        load = loading.enter_context(_load(run, longest_s))
                    else:
                        back_s.append(_back(run, child, progress))
                    await_count(run, child, progress, progress.count() + rng.randint(*AMID), START_DEADLINE_S)
                finally:
                    tree.kill(child.pid)
        with started(run) as child:
            back_s.append(_back(run, child, progress))
            time.sleep(AFTER_S)
            load.stop()
            _await_idle(progress, topics.Progress(stack.kafka, run.payments).count())
        return {"kills": kills, "back_s": back_s} | _judged(run)


def needed() -> int:
    """How many payments that takes at most."""
    return FIRST_PAYMENTS + RATE * LONGEST_S


def _load(run: Run, longest_s: int) -> Child:
    prepared = run.stack.prepared
    return Child(
        "bench.loadgen",
        {
            "brokers": run.stack.kafka.bootstrap,
            "topic": run.payments,
            "payments": prepared.payments,
            "skip": prepared.sizes.primed + FIRST_PAYMENTS,
            "rate": RATE,
            "duration-s": longest_s,
        },
    )


def _back(run: Run, child: Child, progress: Progress) -> float:
    return await_count(run, child, progress, progress.count() + 1, START_DEADLINE_S)


def _await_idle(progress: Progress, payments: int) -> None:
    """Return when no decision came for a while."""
    before, moved = progress.count(), time.monotonic()
    while time.monotonic() - moved < (DONE_S if before >= payments else IDLE_S):
        time.sleep(LOOK_EVERY_S)
        now = progress.count()
        if now != before:
            before, moved = now, time.monotonic()


def _judged(run: Run) -> dict[str, Any]:
    kafka, redis = run.stack.kafka, run.stack.redis
    sent = topics.read(kafka, run.payments, lambda message: message)
    payments = [orjson.loads(message.value()) for message in sent]
    told = topics.read(kafka, run.decisions, lambda message: orjson.loads(message.value()))
    kept: Kept
    if run.entry.keeps_logs:
        kept = judge_logs(redis.url, run.names.namespace, run.owner, sent)
    else:
        with redis.client() as client:
            kept = judge_counters(sums_of(payments), kept_counters(client))
    decisions = judge_decisions((payment["event_id"] for payment in payments), told)
    return {"decisions": asdict(decisions), "kept": asdict(kept)}
