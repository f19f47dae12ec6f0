"""Kills: the whole process tree ends by `kill -9` amid its work, several times, and starts again as it was started.

Payments go on coming meanwhile. When the last process has nothing left to do it is asked to end, and what it and those
before it published and kept is judged against the topic.
"""

from __future__ import annotations

import random
import time
from contextlib import ExitStack, closing
from dataclasses import asdict
from typing import Any, Final

import orjson

from bench.peers import topics, tree
from bench.peers.contest import FIRST_PAYMENTS, START_DEADLINE_S, Entry, Run, await_count, payments_of, run_of, started
from bench.peers.judge import Kept, judge_counters, judge_decisions, judge_logs, kept_counters, sums_of
from bench.peers.topics import Follower
from bench.processes import BenchError, Child
from bench.stack import Stack

RATE: Final = 500
KILLS: Final = 3
LONGEST_S: Final = 180  # of the load; it is ended when the last kill is survived
AMID_S: Final = (6.0, 12.0)  # from when a process decides again to its kill: some commit every five seconds
AFTER_S: Final = 1.0  # of load after the last restart
DONE_S: Final = 2.0  # without a decision when every payment has one, and
IDLE_S: Final = 65.0  # when some have none: a killed process's transaction, behind which nobody reads, has ended
LOOK_EVERY_S: Final = 0.2
SEED: Final = 20_251


def measure(stack: Stack, entry: Entry, *, kills: int, longest_s: int = LONGEST_S) -> dict[str, Any]:
    """One history of kills.

    Returns:
        `kills`; `decisions` and `kept` as `bench.peers.judge` has them; `back_s`, the seconds from each restart to the
        first decision after it.
    """
    rng = random.Random(SEED)
    with run_of(stack, entry, "kills", primed=False) as run, ExitStack() as entered:
        follower = entered.enter_context(closing(run.follower()))
        run.fill(payments_of(stack, FIRST_PAYMENTS))
        back_s: list[float] = []
        for at in range(kills):
            began_ms = _now_ms()
            with run.process() as child:
                try:
                    if at == 0:
                        await_count(run, child, follower.count, FIRST_PAYMENTS, START_DEADLINE_S)
                        load = entered.enter_context(_load(run, longest_s))
                    else:
                        back_s.append(_back(run, child, follower, began_ms))
                    _work_on(run, child, rng.uniform(*AMID_S))
                finally:
                    tree.kill(child.pid)
        began_ms = _now_ms()
        with started(run) as child:
            back_s.append(_back(run, child, follower, began_ms))
            time.sleep(AFTER_S)
            load.stop()
            await_idle(
                follower, set(topics.read(stack.kafka, run.payments, lambda message: _event_id(message.value())))
            )
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


def _work_on(run: Run, child: Child, seconds: float) -> None:
    """Let it work for so long. Raises BenchError."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if child.ended:
            message = f"{run.entry.name} ended by itself; it said:\n{child.said()}"
            raise BenchError(message)
        time.sleep(LOOK_EVERY_S)


def _back(run: Run, child: Child, follower: Follower, began_ms: int) -> float:
    """Seconds until a reader sees a decision of this process: one that the broker got after it was started."""
    return await_count(run, child, lambda: follower.since(began_ms), 1, START_DEADLINE_S)


def await_idle(follower: Follower, due: set[str], *, done_s: float = DONE_S, idle_s: float = IDLE_S) -> None:
    """Return when no decision came for `done_s` and all that are `due` (event ids) are there, or for `idle_s`."""
    missing, seen, moved = set(due), 0, time.monotonic()
    while time.monotonic() - moved < (idle_s if missing else done_s):
        time.sleep(LOOK_EVERY_S)
        now = follower.count()
        if now != seen:
            missing.difference_update(map(_event_id, follower.values[seen:now]))
            seen, moved = now, time.monotonic()


def _event_id(value: bytes) -> str:
    return str(orjson.loads(value)["event_id"])


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


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
