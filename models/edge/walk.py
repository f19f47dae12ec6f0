"""Walks rows through trees: two loops, compiled on the machine that runs them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

from .forest import Forest

_F = TypeVar("_F", bound=Callable[..., object])
Values = npt.NDArray[np.float32]
Scores = npt.NDArray[np.float32]
_BLOCK: Final = 16  # rows that go on together: enough that memory is never waited for, few enough for its first cache
_STEEPEST: Final = np.float32(88.7)  # XGBoost's: what exp holds in float32
_ONE: Final = np.float32(1)


def _compiled(function: _F) -> _F:
    """Compile at first use, and keep the result where there is a place for it."""
    decorate = cast("Callable[..., Callable[[_F], _F]]", numba.njit)
    try:
        return decorate(nogil=True, cache=True)(function)
    except RuntimeError:  # no folder can be written
        return decorate(nogil=True)(function)


@_compiled
def _tell_apart(values: Values, thresholds: Values, bounds: Any, missing: int, bins: Any) -> None:
    """How many thresholds of its column each value is at least, twice: missing values are below all, and above all.

    Halving as in any binary search, but for a block of rows at once: no row waits for another one's memory.
    """
    rows, columns = np.uint64(values.shape[0]), np.uint64(values.shape[1])
    at, some = np.empty(_BLOCK, np.uint64), np.empty(_BLOCK, np.float32)
    for first in range(np.uint64(0), rows, np.uint64(_BLOCK)):
        count = min(np.uint64(_BLOCK), rows - first)
        for column in range(np.uint64(0), columns):
            begin = np.uint64(bounds[column])
            length = np.uint64(bounds[column + np.uint64(1)]) - begin
            if not length:
                continue
            for k in range(count):
                at[k], some[k] = begin, values[first + k, column]
            while length > np.uint64(1):
                half = length >> np.uint64(1)
                for k in range(count):
                    at[k] += half * np.uint64(thresholds[at[k] + half - np.uint64(1)] <= some[k])
                length -= half
            for k in range(count):
                passed = at[k] - begin + np.uint64(thresholds[at[k]] <= some[k])
                bins[first + k, column] = passed
                bins[first + k, columns + column] = missing if math.isnan(some[k]) else passed


@_compiled
def _walk(bins: Any, starts: Any, depths: Any, feature: Any, bar: Any, leaf: Any, sums: Any) -> None:
    """Add each tree's leaf to each row's sum, in the order that XGBoost does; a block of rows goes down together."""
    rows, one = np.uint64(len(bins)), np.uint64(1)
    at = np.empty(_BLOCK, np.uint64)
    for first in range(np.uint64(0), rows, np.uint64(_BLOCK)):
        count = min(np.uint64(_BLOCK), rows - first)
        for tree in range(np.uint64(0), np.uint64(len(starts))):
            start, depth = np.uint64(starts[tree]), np.uint64(depths[tree])
            for k in range(count):
                at[k] = one
            for _ in range(depth):
                for k in range(count):
                    place = start + at[k]
                    at[k] = (at[k] << one) + np.uint64(bins[first + k, feature[place]] >= bar[place])
            for k in range(count):
                sums[first + k] += leaf[start + at[k] - (one << depth)]


@_compiled
def _squash(margins: Scores) -> None:
    """Log-odds to probabilities, in the steps and the precision that XGBoost takes."""
    for row in range(len(margins)):
        margins[row] = _ONE / (math.exp(min(-margins[row], _STEEPEST)) + _ONE)


class Walker:
    """Scores rows as XGBoost does with the same model; a test holds them together within 1e-6. Any thread."""

    def __init__(self, forest: Forest) -> None:
        """Compile what is not compiled yet."""
        self._forest = forest
        self._exact = forest.leaf.dtype == np.int16
        self(np.full((1, len(forest.names)), np.nan, np.float32))

    def __call__(self, values: Values) -> Scores:
        """(n,) float32 probabilities of (n, columns) float32 values; NaN is missing.

        Raises:
            ValueError: for another shape or type.
        """
        forest, columns = self._forest, len(self._forest.names)
        if values.ndim != 2 or values.shape[1] != columns or values.dtype != np.float32:
            raise ValueError(f"float32 values of {columns} columns are needed, not {values.dtype} {values.shape}")
        kind = forest.bin.dtype
        bins = np.zeros((len(values), 2 * columns), kind)
        _tell_apart(np.ascontiguousarray(values), forest.thresholds, forest.bounds, np.iinfo(kind).max, bins)
        if self._exact:
            steps = np.zeros(len(values), np.int32)
            _walk(bins, forest.starts, forest.depths, forest.feature, forest.bin, forest.leaf, steps)
            margins = steps.astype(np.float32) * np.float32(forest.step) + np.float32(forest.base)
        else:
            margins = np.full(len(values), forest.base, np.float32)
            _walk(bins, forest.starts, forest.depths, forest.feature, forest.bin, forest.leaf, margins)
        _squash(margins)
        return margins
