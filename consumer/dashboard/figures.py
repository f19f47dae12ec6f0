"""Figures of the last quarter of an hour: how many, how fast, decided in which tier.

Everything is counted by the Kafka timestamps of the records, so that reading late or in a burst changes nothing.
Latency is that of every payment: from its Kafka timestamp to that of its decision.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from typing import Any, Final

import numpy as np

from consumer.metrics import DECISIONS, TIERS
from consumer.records import Alert

SPAN_S: Final = 900
STEP_S: Final = 10
RECENT_S: Final = 60
MAX_TIMED: Final = 50_000
_STAGES: Final = ("queued", "decode", "enrich", "score", "decide")
# Whole milliseconds as far as budgets reach, then steps of a twentieth, to ten minutes.
EXACT_MS: Final = 1_000
BOUNDS_MS: Final = (*range(EXACT_MS + 1), *(round(EXACT_MS * 1.05**step) for step in range(1, 133)))
STEPS: Final = SPAN_S // STEP_S
_COLUMNS: Final = {name: place for place, name in enumerate(("alerts", *DECISIONS, *TIERS))}


class Figures:
    """Counts by second and the times of the newest alerts; bounded. Not thread-safe: its owner holds a lock."""

    def __init__(self, budget_ms: float) -> None:
        """`budget_ms` is what a payment may take."""
        self._budget_ms = budget_ms
        self._second = [-1] * SPAN_S
        self._counts = [[0] * len(_COLUMNS) for _ in range(SPAN_S)]
        self._step = [-1] * STEPS
        self._took = np.zeros((STEPS, len(BOUNDS_MS) + 1), np.int64)
        self._over = [0] * STEPS
        self._times: deque[tuple[float, ...]] = deque(maxlen=MAX_TIMED)
        self._since_s: int | None = None
        self._newest_ms = 0

    def decision(self, at_ms: int, decision: str, tier: str, paid_ms: int | None = None) -> None:
        """Count a decision with this Kafka timestamp, and that of its payment."""
        self._newest_ms = max(self._newest_ms, at_ms)
        second = at_ms // 1_000
        if self._since_s is None:
            self._since_s = second + 1  # the first one was not read from its beginning
        counts = self._at(second)
        if counts is not None:
            counts[_COLUMNS[decision]] += 1
            counts[_COLUMNS[tier]] += 1
        if paid_ms is not None:
            self._time(second // STEP_S, max(at_ms - paid_ms, 0))

    def alert(self, at_ms: int, alert: Alert, received_ms: int | None) -> None:
        """Count an alert; `received_ms` is when it came, where it came as it was published."""
        counts = self._at(at_ms // 1_000)
        if counts is not None:
            counts[_COLUMNS["alerts"]] += 1
        stages = alert.stage_ms
        reach_ms = float("nan") if received_ms is None else float(received_ms - at_ms)
        parts = (stages.queued, stages.decode, stages.enrich, stages.score, stages.decide)
        self._times.append((at_ms / 1_000, reach_ms, *parts))

    def document(self, now_ms: int) -> dict[str, Any]:
        """All figures at a time, ready for JSON."""
        end_s = (max(now_ms, self._newest_ms) // 1_000) // STEP_S * STEP_S
        seconds, counts = np.array(self._second), np.array(self._counts)
        times = np.array(self._times, np.float64).reshape(-1, 2 + len(_STAGES))
        times = times[times[:, 0] > end_s - SPAN_S]
        recent = times[times[:, 0] > now_ms / 1_000 - RECENT_S]
        payments = counts[:, [_COLUMNS[name] for name in DECISIONS]].sum(axis=1)
        alerts = counts[:, _COLUMNS["alerts"]]
        inside = (seconds > end_s - SPAN_S) & (seconds < end_s + STEP_S)
        return {
            "now_ms": now_ms,
            "recent_s": RECENT_S,
            "span_s": SPAN_S,
            "payments_per_s": self._rate(seconds, payments, now_ms),
            "alerts_per_s": self._rate(seconds, alerts, now_ms),
            "series": {
                "step_s": STEP_S,
                "end_ms": end_s * 1_000,
                "payments_per_s": self._by_step(seconds, payments, end_s),
                "alerts_per_s": self._by_step(seconds, alerts, end_s),
                **self._percentiles_by_step(end_s),
            },
            "tiers": {name: int(counts[inside, _COLUMNS[name]].sum()) for name in TIERS},
            "decisions": {name: int(counts[inside, _COLUMNS[name]].sum()) for name in DECISIONS},
            "latency": self._latency(end_s),
            "lag": {
                "queued_p50_ms": _percentile(recent[:, 2], 50),
                "queued_max_ms": _percentile(recent[:, 2], 100),
                "reach_p50_ms": _percentile(recent[~np.isnan(recent[:, 1]), 1], 50),
                "newest_decision_ms": self._newest_ms or None,
            },
            "stages_p50_ms": {name: _percentile(times[:, 2 + place], 50) for place, name in enumerate(_STAGES)},
        }

    def _at(self, second: int) -> list[int] | None:
        """The counts of a second; None if it is older than the span."""
        place = second % SPAN_S
        if self._second[place] > second:
            return None
        if self._second[place] < second:
            self._second[place] = second
            self._counts[place] = [0] * len(_COLUMNS)
        return self._counts[place]

    def _time(self, step: int, took_ms: int) -> None:
        """Note how long a payment of a step took; nothing if the step is older than the span."""
        place = step % STEPS
        if self._step[place] > step:
            return
        if self._step[place] < step:
            self._step[place], self._over[place] = step, 0
            self._took[place] = 0
        self._took[place, bisect_left(BOUNDS_MS, took_ms)] += 1
        self._over[place] += took_ms > self._budget_ms

    def _rate(self, seconds: Any, counted: Any, now_ms: int) -> float | None:
        """A second's average over the last minute, or over as much of it as was read."""
        end_s = max(now_ms, self._newest_ms) // 1_000
        start_s = max(end_s - RECENT_S, end_s if self._since_s is None else self._since_s)
        if start_s >= end_s:
            return None
        return round(float(counted[(seconds >= start_s) & (seconds < end_s)].sum()) / (end_s - start_s), 2)

    def _by_step(self, seconds: Any, counted: Any, end_s: int) -> list[float | None]:
        """A second's average in each whole step up to `end_s`; None before the first record."""
        steps = SPAN_S // STEP_S - 1
        start_s = end_s - steps * STEP_S
        places = (seconds >= start_s) & (seconds < end_s)
        sums = np.bincount((seconds[places] - start_s) // STEP_S, counted[places], minlength=steps)
        since_s = end_s if self._since_s is None else self._since_s
        return [round(float(each) / STEP_S, 2) if start_s + step * STEP_S >= since_s else None
                for step, each in enumerate(sums)]  # fmt: skip

    def _latency(self, end_s: int) -> dict[str, Any]:
        kept = [place for place, step in enumerate(self._step) if step > end_s // STEP_S - STEPS]
        took = self._took[kept].sum(axis=0)
        payments = int(took.sum())
        over = sum(self._over[place] for place in kept)
        return {
            "budget_ms": self._budget_ms,
            "payments": payments,
            **{f"p{part}_ms": _percentile_of(took, part) for part in (50, 95, 99)},
            "over_budget": round(over / payments, 6) if payments else None,
        }

    def _percentiles_by_step(self, end_s: int) -> dict[str, list[int | None]]:
        steps = range(end_s // STEP_S - STEPS + 1, end_s // STEP_S)
        nothing = np.zeros(len(BOUNDS_MS) + 1, np.int64)
        rows = [self._took[step % STEPS] if self._step[step % STEPS] == step else nothing for step in steps]
        return {f"p{part}_ms": [_percentile_of(row, part) for row in rows] for part in (50, 99)}


def _percentile_of(took: Any, part: int) -> int | None:
    """The bound below which this part of the counted payments took; exact to a millisecond up to a second."""
    counted = np.cumsum(took)
    if not counted[-1]:
        return None
    place = int(np.searchsorted(counted, counted[-1] * part / 100))
    return int(BOUNDS_MS[min(place, len(BOUNDS_MS) - 1)])


def _percentile(values: Any, part: float) -> float | None:
    return round(float(np.percentile(values, part)), 2) if values.size else None
