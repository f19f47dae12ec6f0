"""What is measured of whom, in which order, and for how long."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from bench.peers import kills, latency, saturation, topics
from bench.peers.catalog import FRAUDLINE
from bench.peers.contest import Entry, payments_of, put
from bench.peers.results import Measurement
from bench.stack import Stack

PAYMENTS_TOPIC: Final = "peers.payments"
WARM_UP_PAYMENTS: Final = 60_000
WARM_UP_S: Final = 10.0
Done = Callable[[Entry, Measurement, dict[str, Any], float], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of everything.

    Attributes:
        what: the measurements.
        rounds: of saturation; everybody's turn comes once a round.
        saturation_s: seconds from a run's first decision on, the first of which are warm-up.
        saturation_payments: in the topic that everybody reads.
        rates: of the open loop, payments a second.
        latency_s: measured at each rate.
        kills: in a history.
    """

    what: Sequence[Measurement]
    rounds: int
    saturation_s: float
    saturation_payments: int
    rates: Sequence[int]
    latency_s: int
    kills: int

    @property
    def needed(self) -> int:
        """How many payments the history must have beyond those that prime the logs."""
        return max(self.saturation_payments, latency.needed(self.rates, self.latency_s), kills.needed())


FULL: Final = Plan(("saturation", "latency", "kills"), 2, 18.0, 340_000, latency.RATES, 8, kills.KILLS)
QUICK: Final = Plan(("saturation", "latency", "kills"), 1, 4.0, 60_000, (500, 2_000), 3, 1)


def measure(stack: Stack, entries: Sequence[Entry], plan: Plan, done: Done) -> None:
    """Carry out the plan; `done` is given each result, and the seconds it took, as soon as it is there.

    What a peer fails at is its result (`failed`), and the next one goes on.
    """
    if {"saturation", "latency"} & set(plan.what):
        _warm_up(stack)
    if "saturation" in plan.what:
        _saturation(stack, entries, plan, done)
    for what in ("latency", "kills"):
        if what not in plan.what:
            continue
        for entry in entries:
            began = time.monotonic()
            if what == "latency":
                found = _latency(stack, entry, plan)
            else:
                found = _or_failed(lambda entry=entry: kills.measure(stack, entry, kills=plan.kills))
            done(entry, what, found, time.monotonic() - began)


def _warm_up(stack: Stack) -> None:
    """A run that does not count: the broker's JVM compiles, and files are read into memory."""
    topics.make(stack.kafka, [PAYMENTS_TOPIC], stamped=False)
    put(stack, PAYMENTS_TOPIC, payments_of(stack, WARM_UP_PAYMENTS))
    entry = Entry(FRAUDLINE, "exactly_once")
    _or_failed(lambda: saturation.measure(stack, entry, PAYMENTS_TOPIC, WARM_UP_PAYMENTS, seconds=WARM_UP_S))
    topics.delete(stack.kafka, [PAYMENTS_TOPIC])


def _saturation(stack: Stack, entries: Sequence[Entry], plan: Plan, done: Done) -> None:
    topics.make(stack.kafka, [PAYMENTS_TOPIC], stamped=False)
    count = plan.saturation_payments
    put(stack, PAYMENTS_TOPIC, payments_of(stack, count))
    runs: dict[Entry, list[dict[str, Any]]] = {entry: [] for entry in entries}
    took_s = dict.fromkeys(entries, 0.0)
    for at in range(plan.rounds):
        turn = at * len(entries) // plan.rounds
        for entry in (*entries[turn:], *entries[:turn]):
            began = time.monotonic()
            run = _or_failed(
                lambda entry=entry: saturation.measure(stack, entry, PAYMENTS_TOPIC, count, seconds=plan.saturation_s)
            )
            took_s[entry] += time.monotonic() - began
            runs[entry].append(run)
            failures = [each["failed"] for each in runs[entry] if "failed" in each]
            whole = [each for each in runs[entry] if "failed" not in each]
            found = {"seconds": plan.saturation_s, "runs": whole} | ({"failed": failures[0]} if failures else {})
            done(entry, "saturation", found, took_s[entry])
    topics.delete(stack.kafka, [PAYMENTS_TOPIC])


def _latency(stack: Stack, entry: Entry, plan: Plan) -> dict[str, Any]:
    cells: list[dict[str, Any]] = []
    ended = _or_failed(lambda: latency.measure(stack, entry, cells, rates=plan.rates, seconds=plan.latency_s))
    about = {"seconds": plan.latency_s, "warm_up_s": latency.WARM_UP_S, "deadline_s": latency.DEADLINE_S}
    return about | {"cells": cells} | ended


def _or_failed(measured: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return measured()
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {error}"}
