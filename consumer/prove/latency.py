"""Latency of every payment of an open loop: from when it was due to when a `read_committed` reader saw its decision.

No payment is sampled or left out, and none is excused: a payment that the generator sent late has waited since it was
due, and one without a decision is over any budget. Percentiles are exact, over all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
PERCENTILES: Final = (50.0, 75.0, 90.0, 95.0, 99.0, 99.9, 99.99)
SHORT: Final = 0.99  # of the rate that was asked for
LATE_NS: Final = 5_000_000
_MS: Final = 1e6
_CURVE: Final = 200  # points of the distribution


@dataclass(frozen=True, slots=True)
class Slowest:
    """The payment that waited longest, and where: all in ms. They add up to the latency.

    Attributes:
        latency_ms: of it.
        due_s: when it was due, in seconds after the first.
        sending_ms: until it was handed to the Kafka client, late.
        appending_ms: until the broker had it, by the broker's clock where it stamps records.
        deciding_ms: from there until the witness saw the decision.
        over_p99_9_beside: how many payments that were due within a second of it are over the 99.9th percentile: many
            are one pause that all of them felt.
        stage_ms: of its batch, where it had an alert, which tells them.
        events: what the processor logged within two seconds of it.
    """

    latency_ms: float
    due_s: float
    sending_ms: float
    appending_ms: float
    deciding_ms: float
    over_p99_9_beside: int
    stage_ms: Mapping[str, float] | None = None
    events: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Latency:
    """Of n payments. Times are ms.

    Attributes:
        payments: how many were due a decision.
        undecided: how many of them have none.
        percentiles: by name, such as `p99.9`; infinite where so many were never decided.
        within_budget: the share of all that were decided in `budget_ms`.
        rate_asked, rate_sent: records a second; the generator fell short where the second is well below the first.
        fell_short: whether it did.
        late_over_5ms: records that were handed over more than 5 ms after they were due.
        max_ms, mean_ms, by_second, curve: of those that were decided.
        by_second: (seconds, p50, p99, max) of the payments that were due in each second.
        curve: (percentile, ms) of the whole distribution, dense towards its end.
    """

    budget_ms: int
    payments: int
    undecided: int
    percentiles: Mapping[str, float]
    max_ms: float
    mean_ms: float
    within_budget: float
    rate_asked: float
    rate_sent: float
    fell_short: bool
    late_over_5ms: int
    slowest: Slowest | None
    by_second: tuple[tuple[int, float, float, float], ...]
    curve: tuple[tuple[float, float], ...]


def measure(
    due_ns: Ints,
    late_ns: Ints,
    received_ns: Ints,
    kafka_ms: Ints,
    *,
    budget_ms: int,
    rate: float,
    all_due_ns: Ints,
    all_late_ns: Ints,
) -> Latency:
    """Latency of n payments, each (n,): `received_ns` and `kafka_ms` are 0 for one without a decision.

    `all_due_ns` and `all_late_ns` are of all records that were sent, traps and labels too: the rate is theirs.
    """
    decided = received_ns > 0
    latency = (received_ns[decided] - due_ns[decided]) / _MS
    handed = all_due_ns + all_late_ns
    span_s = (int(handed.max()) - int(handed.min())) / 1e9 if len(handed) > 1 else 0.0
    sent = (len(handed) - 1) / span_s if span_s else rate
    values = np.sort(latency)
    every = np.append(values, np.full(len(due_ns) - len(values), np.inf))
    named = {f"p{each:g}": _percentile(every, each) for each in PERCENTILES}
    return Latency(
        budget_ms=budget_ms,
        payments=len(due_ns),
        undecided=int((~decided).sum()),
        percentiles=named,
        max_ms=float(values[-1]) if len(values) else float("nan"),
        mean_ms=float(values.mean()) if len(values) else float("nan"),
        within_budget=float((latency <= budget_ms).sum() / len(due_ns)) if len(due_ns) else 0.0,
        rate_asked=rate,
        rate_sent=sent,
        fell_short=sent < SHORT * rate,
        late_over_5ms=int((all_late_ns > LATE_NS).sum()),
        slowest=_slowest(due_ns[decided], late_ns[decided], kafka_ms[decided], latency, named["p99.9"]),
        by_second=_by_second(due_ns[decided], latency),
        curve=_curve(values),
    )


def _percentile(values: npt.NDArray[np.float64], percent: float) -> float:
    """The smallest value that so many percent do not exceed."""
    return float(np.percentile(values, percent, method="inverted_cdf")) if len(values) else float("nan")


def _slowest(
    due_ns: Ints, late_ns: Ints, kafka_ms: Ints, latency: npt.NDArray[np.float64], high_ms: float
) -> Slowest | None:
    if not len(latency):
        return None
    at = int(latency.argmax())
    sending = float(late_ns[at]) / _MS
    appended = kafka_ms[at] - due_ns[at] / _MS if kafka_ms[at] else sending
    appending = max(0.0, float(appended) - sending)
    beside = np.abs(due_ns - due_ns[at]) < 1_000_000_000
    return Slowest(
        latency_ms=float(latency[at]),
        due_s=float(due_ns[at] - due_ns.min()) / 1e9,
        sending_ms=sending,
        appending_ms=appending,
        deciding_ms=max(0.0, float(latency[at]) - sending - appending),
        over_p99_9_beside=int((latency[beside] >= high_ms).sum()),
    )


def _by_second(due_ns: Ints, latency: npt.NDArray[np.float64]) -> tuple[tuple[int, float, float, float], ...]:
    if not len(latency):
        return ()
    seconds = (due_ns - due_ns.min()) // 1_000_000_000
    rows = []
    for second in np.unique(seconds).tolist():
        own = np.sort(latency[seconds == second])
        rows.append((int(second), _percentile(own, 50), _percentile(own, 99), float(own[-1])))
    return tuple(rows)


def _curve(values: npt.NDArray[np.float64]) -> tuple[tuple[float, float], ...]:
    """Points at even steps of the number of nines."""
    if not len(values):
        return ()
    nines = np.linspace(0, max(np.log10(len(values)), 1), _CURVE)
    percents = 100 * (1 - 10**-nines)
    return tuple((float(each), _percentile(values, float(each))) for each in percents)
