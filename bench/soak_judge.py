"""Judges what a soak has measured: does a series grow, do descriptors, does the p99 of every minute hold?

A slope is Theil's and Sen's: the median of the slopes between all pairs of points, which single peaks do not move (Sen,
"Estimates of the regression coefficient based on Kendall's tau", 1968; `scipy.stats.theilslopes`). Its confidence
interval is made for independent points. Memory is not: what is high now is high a second later. So points are means of
blocks, and the interval is widened by the root of (1 + r) / (1 - r), r being the correlation of neighbouring residuals:
so much fewer points are independent (Bayley and Hammersley, "The effective number of independent observations in an
autocorrelated time series", 1946).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from scipy.stats import theilslopes

Floats = npt.NDArray[np.float64]
Verdict = Literal["flat", "growing", "undecided"]

BLOCKS: Final = 40  # points that a slope is drawn through
FEWEST_BLOCKS: Final = 8
CONFIDENCE: Final = 0.95
HIGHEST_CORRELATION: Final = 0.95
HORIZON_H: Final = 168.0  # a week: what surely takes longer than that to double is called flat
WIDEST: Final = 0.05  # of the level an hour: an interval that goes beyond it can't show that nothing grows
MOST_MORE_FILES: Final = 2


@dataclass(frozen=True, slots=True)
class Slope:
    """How a series grows.

    Attributes:
        per_hour: the slope, in the series' unit an hour.
        low: the lower end of its 95 % confidence interval.
        high: the upper end.
        level: the median of the series.
    """

    per_hour: float
    low: float
    high: float
    level: float

    @property
    def verdict(self) -> Verdict:
        """What the interval shows.

        `flat`: even its upper end is less than the level in `HORIZON_H`, or it holds 0 and goes no further up than
        `WIDEST`. `growing`: it lies above 0. `undecided`: it holds 0 and more than that.
        """
        if self.high * HORIZON_H < self.level:
            return "flat"
        if self.low > 0:
            return "growing"
        return "flat" if self.high <= WIDEST * self.level else "undecided"


def slope(at_s: Sequence[float], values: Sequence[float]) -> Slope:
    """The slope of a series of n values at rising times, in seconds.

    Raises:
        ValueError: there are fewer values than points are needed.
    """
    times, series = np.asarray(at_s, np.float64), np.asarray(values, np.float64)
    count = min(BLOCKS, len(series))
    if count < FEWEST_BLOCKS:
        message = f"{count} values are too few for a slope; {FEWEST_BLOCKS} are needed."
        raise ValueError(message)
    hours, means = _blocks(times, count) / 3_600, _blocks(series, count)
    found = theilslopes(means, hours, CONFIDENCE)
    wider = _widening(means - found.intercept - found.slope * hours)
    middle = float(found.slope)
    return Slope(
        middle,
        middle - wider * (middle - float(found.low_slope)),
        middle + wider * (float(found.high_slope) - middle),
        float(np.median(series)),
    )


def _blocks(series: Floats, count: int) -> Floats:
    return np.array([part.mean() for part in np.array_split(series, count)])


def _widening(residuals: Floats) -> float:
    """How much wider the interval is, for residuals that resemble their neighbours."""
    centred = residuals - residuals.mean()
    power = float(centred @ centred)
    if power == 0.0:
        return 1.0
    correlation = float(np.clip(centred[1:] @ centred[:-1] / power, 0.0, HIGHEST_CORRELATION))
    return math.sqrt((1 + correlation) / (1 - correlation))


def more_files(counts: Sequence[float]) -> float:
    """By how many the descriptors of the last tenth exceed those of the first one (medians)."""
    series = np.asarray(counts, np.float64)
    tenth = max(1, len(series) // 10)
    return float(np.median(series[-tenth:]) - np.median(series[:tenth]))


def files_are_flat(counts: Sequence[float]) -> bool:
    """Whether descriptors do not grow."""
    return more_files(counts) <= MOST_MORE_FILES


def held(p99_ms: Sequence[float], limit_ms: float) -> list[int]:
    """The minutes whose p99 did not hold; one without a decision did not."""
    return [minute for minute, value in enumerate(p99_ms) if not value <= limit_ms]
