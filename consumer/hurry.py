"""Which payments take the small model, because the main one would make their batch too late.

A batch is committed as a whole: its payments are done together, when the slowest part is done. So the question is how
many of them the main model may score before the earliest budget is spent that can still be kept; the others, those
whose budgets end first, take the small model. A payment that is too late either way gains nothing by a worse model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
Times = npt.NDArray[np.int64]
WEIGHT: Final = 1 / 16  # of the newest batch
SMALL_SHARE: Final = 0.25  # of the main model's cost, until the small one was measured
FORGETTING: Final = 0.98  # a cost that is not measured any more is believed less and less: so it will be tried again


@dataclass(slots=True)
class Cost:
    """Milliseconds for n rows, as a line through what was measured; newer measurements count more."""

    known: bool = False
    rows: float = 0.0
    took_ms: float = 0.0
    squares: float = 0.0
    products: float = 0.0

    def learn(self, rows: int, took_ms: float) -> None:
        """So many rows took so long."""
        weight = WEIGHT if self.known else 1.0
        self.known = True
        self.rows += weight * (rows - self.rows)
        self.took_ms += weight * (took_ms - self.took_ms)
        self.squares += weight * (rows * rows - self.squares)
        self.products += weight * (rows * took_ms - self.products)

    def forget(self) -> None:
        """Believe that it has become cheaper."""
        self.took_ms *= FORGETTING
        self.products *= FORGETTING

    def of(self, rows: Any) -> Any:
        """What a number of rows, or an array of such, will cost; nothing for none."""
        spread = self.squares - self.rows**2
        slope = max(0.0, (self.products - self.rows * self.took_ms) / spread) if spread > 1e-9 else 0.0
        return np.where(np.asarray(rows) > 0, np.maximum(0.0, self.took_ms + slope * (rows - self.rows)), 0.0)


class Hurry:
    """Knows what scoring costs, and what comes after it. Times in milliseconds; one thread at a time."""

    def __init__(self, budget_ms: float) -> None:
        """`budget_ms` is a payment's, from its Kafka timestamp on."""
        self._budget_ms = budget_ms
        self._full, self._small = Cost(), Cost()
        self._rest_ms = 0.0

    def chosen(self, ingest_ms: Times, now_ms: float) -> Mask | None:
        """Which of n payments, by their Kafka timestamps, take the small model; None for none of them."""
        n = len(ingest_ms)
        if not n or not self._full.known:
            return None
        left_ms = ingest_ms + self._budget_ms - now_ms - self._rest_ms
        savable = left_ms >= self._small_ms(n)
        if not savable.any():
            return None
        least_ms = float(left_ms[savable].min())
        if least_ms >= self._full.of(n):
            return None
        by_main = np.arange(n + 1)
        fits = self._full.of(by_main) + self._small_ms(n - by_main) <= least_ms
        most = int(np.flatnonzero(fits).max(initial=0))
        if n - most > np.count_nonzero(savable):
            return None  # those that are too late would have to take the small model for others to be in time
        order = np.argsort(np.where(savable, left_ms, np.inf), kind="stable")
        mask = np.zeros(n, np.bool_)
        mask[order[: n - most]] = True
        return mask

    def scored(self, full_rows: int, small_rows: int, took_ms: float) -> None:
        """Learn what a batch cost, of which so many rows were scored by either model."""
        if full_rows and small_rows:
            self._full.learn(full_rows, max(0.0, took_ms - float(self._small_ms(small_rows))))
        elif full_rows:
            self._full.learn(full_rows, took_ms)
        elif small_rows:
            self._small.learn(small_rows, took_ms)
            self._full.forget()

    def finished(self, rest_ms: float) -> None:
        """Learn how long a batch took from its scores to its commit."""
        self._rest_ms += WEIGHT * (rest_ms - self._rest_ms)

    def _small_ms(self, rows: Any) -> Any:
        return self._small.of(rows) if self._small.known else SMALL_SHARE * self._full.of(rows)
