"""Figures of the last quarter of an hour: how many, how fast, decided in which tier.

Everything is counted by the Kafka timestamps of the records, so that reading late or in a burst changes nothing.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final

import numpy as np

from consumer.dashboard.shown import decided_ms
from consumer.metrics import DECISIONS, TIERS
from consumer.records import Alert

SPAN_S: Final = 900
STEP_S: Final = 10
RECENT_S: Final = 60
MAX_TIMED: Final = 50_000
_STAGES: Final = ("queued", "decode", "enrich", "score", "decide")
_COLUMNS: Final = {name: place for place, name in enumerate(("alerts", *DECISIONS, *TIERS))}


class Figures:
    """Counts by second and the times of the newest alerts; bounded. Not thread-safe: its owner holds a lock."""

    def __init__(self, budget_ms: float) -> None:
        """`budget_ms` is what a payment may take."""
        self._budget_ms = budget_ms
        self._second = [-1] * SPAN_S
        self._counts = [[0] * len(_COLUMNS) for _ in range(SPAN_S)]
        self._times: deque[tuple[float, ...]] = deque(maxlen=MAX_TIMED)
        self._since_s: int | None = None
        self._newest_ms = 0

    def decision(self, at_ms: int, decision: str, tier: str) -> None:
        """Count a decision with this Kafka timestamp."""
        self._newest_ms = max(self._newest_ms, at_ms)
        second = at_ms // 1_000
        if self._since_s is None:
            self._since_s = second + 1  # the first one was not read from its beginning
        counts = self._at(second)
        if counts is not None:
            counts[_COLUMNS[decision]] += 1
            counts[_COLUMNS[tier]] += 1

    def alert(self, at_ms: int, alert: Alert, received_ms: int | None) -> None:
        """Count an alert; `received_ms` is when it came, where it came as it was published."""
        counts = self._at(at_ms // 1_000)
        if counts is not None:
            counts[_COLUMNS["alerts"]] += 1
        stages = alert.stage_ms
        reach_ms = float("nan") if received_ms is None else float(received_ms - at_ms)
        parts = (stages.queued, stages.decode, stages.enrich, stages.score, stages.decide)
        self._times.append((at_ms / 1_000, decided_ms(alert), reach_ms, *parts))

    def document(self, now_ms: int) -> dict[str, Any]:
        """All figures at a time, ready for JSON."""
        end_s = (max(now_ms, self._newest_ms) // 1_000) // STEP_S * STEP_S
        seconds, counts = np.array(self._second), np.array(self._counts)
        times = np.array(self._times, np.float64).reshape(-1, 3 + len(_STAGES))
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
                **_percentiles_by_step(times, end_s),
            },
            "tiers": {name: int(counts[inside, _COLUMNS[name]].sum()) for name in TIERS},
            "decisions": {name: int(counts[inside, _COLUMNS[name]].sum()) for name in DECISIONS},
            "latency": self._latency(times),
            "lag": {
                "queued_p50_ms": _percentile(recent[:, 3], 50),
                "queued_max_ms": _percentile(recent[:, 3], 100),
                "reach_p50_ms": _percentile(recent[~np.isnan(recent[:, 2]), 2], 50),
                "newest_decision_ms": self._newest_ms or None,
            },
            "stages_p50_ms": {name: _percentile(times[:, 3 + place], 50) for place, name in enumerate(_STAGES)},
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

    def _latency(self, times: Any) -> dict[str, Any]:
        took = times[:, 1]
        return {
            "budget_ms": self._budget_ms,
            "alerts": int(took.size),
            "p50_ms": _percentile(took, 50),
            "p95_ms": _percentile(took, 95),
            "p99_ms": _percentile(took, 99),
            "over_budget": round(float(np.mean(took > self._budget_ms)), 6) if took.size else None,
        }


def _percentiles_by_step(times: Any, end_s: int) -> dict[str, list[float | None]]:
    steps = SPAN_S // STEP_S - 1
    start_s = end_s - steps * STEP_S
    place = np.floor((times[:, 0] - start_s) / STEP_S).astype(np.int64)
    parts = [times[place == step, 1] for step in range(steps)]
    return {f"p{part}_ms": [_percentile(each, part) for each in parts] for part in (50, 99)}


def _percentile(values: Any, part: float) -> float | None:
    return round(float(np.percentile(values, part)), 2) if values.size else None
