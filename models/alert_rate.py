"""Holds the rate of alerts that analysts can work, by moving the review threshold inside bounds.

Scores drift and traffic comes in tides: a fixed threshold gives twice the alerts one day and half of them the next.
What was seen is forgotten exponentially: the sum of what is still remembered, over the memory's span, is a rate.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from models.policy import AlertRate

Scores = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

MEMORY_S: Final = 3_600.0
WARM_UP_S: Final = 300.0  # until then the policy's own threshold holds
MOVE_S: Final = 1.0  # between two moves
STEPS: Final = 1_024  # between the bounds, evenly in log-odds
_EDGE: Final = 1e-6


class AlertRateController:
    """Finds the review threshold. One a processor; `hold` gives it, `settle` tells what was committed.

    Args:
        options: the rate and the bounds.
        review: the policy's own threshold, to begin with.
    """

    def __init__(self, options: AlertRate, review: float) -> None:
        self._options = options
        lowest, highest = max(options.lowest, _EDGE), min(options.highest, 1 - _EDGE)
        odds = np.linspace(math.log(lowest / (1 - lowest)), math.log(highest / (1 - highest)), STEPS)
        self._edges = (1 / (1 + np.exp(-odds))).astype(np.float32)
        self._edges[0], self._edges[-1] = options.lowest, options.highest
        self._seen = np.zeros(STEPS)  # remembered scores from each edge up to the next; the last one has no end
        self._others = 0.0  # remembered alerts that no threshold could have spared
        self._begun_s: float | None = None
        self._told_s = self._moved_s = 0.0
        self.review = min(max(review, options.lowest), options.highest)

    def settle(self, scores: Scores, due: Mask, alerts: Mask, now_s: float, share: float = 1.0) -> None:
        """Learn from a batch that was committed, and move.

        Args:
            scores: (n,) of the tier `full`.
            due: (n,) which decisions were published.
            alerts: (n,) which of those are no approval.
            now_s: a clock's seconds.
            share: which part of all payments this processor sees now; the rate is that of all of them.
        """
        if self._begun_s is None:
            self._begun_s = self._told_s = now_s
        kept = math.exp(-max(0.0, now_s - self._told_s) / MEMORY_S)
        self._told_s = now_s
        self._seen *= kept
        self._others *= kept
        scored = due & (scores >= self._edges[0])
        if scored.any():
            place = np.searchsorted(self._edges, scores[scored], side="right") - 1
            self._seen += np.bincount(place, minlength=STEPS)
        self._others += int(np.count_nonzero(alerts & due & ~scored))
        if now_s - self._begun_s >= WARM_UP_S and now_s - self._moved_s >= MOVE_S:
            self._moved_s = now_s
            self._move(share, now_s - self._begun_s)

    def _move(self, share: float, lived_s: float) -> None:
        """The lowest threshold whose alerts, over what is remembered, come to no more than the rate."""
        span_h = MEMORY_S * (1 - math.exp(-lived_s / MEMORY_S)) / 3_600
        room = self._options.per_hour * share * span_h - self._others
        above = np.cumsum(self._seen[::-1])[::-1]
        fits = np.flatnonzero(above <= room)
        self.review = float(self._edges[fits[0]]) if len(fits) else self._options.highest
