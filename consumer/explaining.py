"""Reasons beside the main path: alerts are explained on a thread of their own while the batch's decisions leave.

The payments whose scores are highest come first, and what is not done in time leaves without reasons: an alert is worth
more than its explanation.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, Protocol

import numpy as np
import structlog

from models.clearing import Clearing
from models.explain import NOT_EXPLAINED, Explanation, Reason
from models.policy import Scores, Tier, Values

_LOG: Final = structlog.get_logger("explaining")
AT_ONCE: Final = 16
CLEARING_SHARE: Final = 0.5  # of the limit: what may be spent on what would have cleared the alerts of a batch


class Explain(Protocol):
    """Gives each of n alerts its reasons; see `models.explain.Explainer.explain`."""

    def __call__(  # noqa: D102
        self, values: Values, tier: Tier, *, currencies: Sequence[str]
    ) -> list[tuple[Reason, ...]]: ...


Clear = Callable[[Values, Tier, Scores, Scores, float], list[Clearing | None]]


class Job:
    """The alerts of one judge in one batch. `result` waits for what can be had in time."""

    def __init__(
        self,
        explain: Explain,
        clear: Clear | None,
        values: Values,
        tiers: Sequence[Tier],
        scores: Scores,
        bars: Scores,
        currencies: Sequence[str],
        limit_s: float,
    ) -> None:
        """`tiers` say which model scored each, `bars` are the review thresholds; without `clear` only reasons."""
        self._explain, self._clear = explain, clear
        self._values, self._tiers, self._scores, self._bars = values, tiers, scores, bars
        self._currencies = currencies
        self._begun = time.monotonic()
        self._until = self._begun + limit_s
        self._limit_s = limit_s
        self._found: list[Explanation] = [NOT_EXPLAINED] * len(values)
        self.future: Future[None] | None = None

    def run(self) -> None:
        """Explain, and then look for what would have cleared them, until the time is over."""
        order = np.argsort(-self._scores, kind="stable").tolist()
        for first in range(0, len(order), AT_ONCE):
            if time.monotonic() >= self._until:
                return
            some = order[first : first + AT_ONCE]
            for tier in dict.fromkeys(self._tiers):
                rows = [row for row in some if self._tiers[row] == tier]
                told = self._explain(self._values[rows], tier, currencies=[self._currencies[row] for row in rows])
                for row, reasons in zip(rows, told, strict=True):
                    self._found[row] = Explanation(reasons)
        if self._clear is None:
            return
        until = min(self._until, time.monotonic() + CLEARING_SHARE * self._limit_s)
        for row in order:
            if time.monotonic() >= until:
                return
            one = slice(row, row + 1)
            (cleared,) = self._clear(self._values[one], self._tiers[row], self._scores[one], self._bars[one], until)
            self._found[row] = Explanation(self._found[row].reasons, cleared)

    def result(self) -> list[Explanation]:
        """An explanation for each alert; `NOT_EXPLAINED` where there was no time, or explaining failed."""
        if self.future is not None:
            left_s = None if math.isinf(self._until) else max(0.0, self._until - time.monotonic())
            try:
                self.future.result(left_s)
            except TimeoutError:
                self.future.cancel()
            except Exception:  # reasons are a help: no decision may fail for want of one
                _LOG.exception("explaining_failed", alerts=len(self._found))
        return list(self._found)


class Explaining:
    """Runs jobs one after the other on one thread. `limit_s` bounds how long a batch waits for its reasons."""

    def __init__(self, limit_s: float) -> None:
        """The thread starts with the first job, and ends with the process."""
        self.limit_s = limit_s
        self._pool = ThreadPoolExecutor(1, "explaining")

    def begin(self, job: Job) -> Job:
        """Start a job."""
        job.future = self._pool.submit(job.run)
        return job
