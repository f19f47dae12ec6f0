"""How far features and scores have moved from what they were when the model was made.

Population stability index, over the deciles of the reference: the sum of (now - then) x ln(now / then) over the shares
of the bins. Source: Siddiqi, "Credit Risk Scorecards" (2006), whose rule of thumb is: below 0.1 nothing has happened,
above 0.25 the population is another. Missing values are a bin of their own. A count of one half is added to every bin,
so that an empty one has a finite part; of n payments chance alone makes about (bins - 1) / n (Yurdakul and Naranjo,
"Statistical properties of the population stability index", Journal of Risk Model Validation 14, 2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from features.catalog import Feature
from features.kernels import compiled
from models.manifest import Histogram, Reference

BINS: Final = 10
WIDTH: Final = BINS + 1  # the last is for missing values
SCORE: Final = "score"
CALENDAR: Final = frozenset({"hour", "weekday", "weekend", "night"})  # operations: of any hour they are all the same
MIN_PAYMENTS: Final = 500  # below that chance alone makes a PSI of over 0.02
NOTABLE: Final = 0.1
SEVERE: Final = 0.25
_HALF: Final = 0.5

Values = npt.NDArray[np.float32]
Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def reference(features: Sequence[Feature], values: Values, scores: Values) -> Reference:
    """Histograms of the payments that a model learned from, and of its scores of later ones.

    What depends on the clock alone is left out: within an hour or a day it is never spread as in training.

    Args:
        features: (f,) what the columns are.
        values: (n, f) float32, NaN where missing.
        scores: (m,) float32.
    """
    kept = {each.name: histogram(values[:, at]) for at, each in enumerate(features) if each.op not in CALENDAR}
    return Reference(kept, histogram(scores))


def histogram(values: Values) -> Histogram:
    """(n,) values by their own deciles; fewer bins where values repeat."""
    known = np.sort(values[~np.isnan(values)])
    if not known.size:
        return Histogram((), (0,), len(values))
    places = np.arange(1, BINS) * len(known) // BINS
    edges = np.unique(known[places])
    edges = edges[edges > known[0]]
    counts = np.diff(np.searchsorted(known, edges), prepend=0, append=len(known))
    return Histogram(tuple(edges.tolist()), tuple(counts.tolist()), len(values) - len(known))


class Bins:
    """The bins of a reference: the score's first, and then those of some features, as far as it has them.

    Attributes:
        names: (k,) `score` and the features.
        then: (k, WIDTH) the reference's counts.
    """

    def __init__(self, known: Reference, features: Sequence[str]) -> None:
        """`features` are the columns of the values that will be counted."""
        told: dict[str, Histogram] = {SCORE: known.score}
        told |= {name: known.features[name] for name in features if name in known.features}
        self.names = tuple(told)
        self._columns = np.array([at for at, name in enumerate(features) if name in known.features], np.int64)
        self.edges = np.full((len(told), BINS - 1), np.inf, np.float32)
        self.then: Counts = np.zeros((len(told), WIDTH), np.int64)
        self.used = np.zeros((len(told), WIDTH), np.bool_)
        for row, each in enumerate(told.values()):
            self.edges[row, : len(each.edges)] = each.edges
            self.then[row, : len(each.counts)] = each.counts
            self.then[row, BINS] = each.missing
            self.used[row, : len(each.counts)] = True
        self.used[:, BINS] = True

    def count(self, scores: Values, values: Values, counts: Counts) -> None:
        """Add n payments to (k, WIDTH) counts: (n,) scores and (n, features) values, float32."""
        _tally(np.ascontiguousarray(scores), np.ascontiguousarray(values), self._columns, self.edges, counts)

    def shares(self, counts: Counts) -> Floats:
        """(k, WIDTH) the share of each bin, as `psi` takes it; 0 in bins that the reference does not have."""
        return np.where(self.used, _shares(counts, self.used), 0.0)

    def psi(self, counts: Counts) -> Floats:
        """(k,) the index of each; NaN below `MIN_PAYMENTS`, or where the reference is empty."""
        then, now = (_shares(each, self.used) for each in (self.then, counts))
        index = np.where(self.used, (now - then) * np.log(now / then), 0.0).sum(axis=1)
        too_few = (counts.sum(axis=1) < MIN_PAYMENTS) | (self.then.sum(axis=1) == 0)
        return np.where(too_few, np.nan, index)

    def missing_shift(self, counts: Counts) -> Floats:
        """(k,) the share that is missing now less the share that was; NaN as for `psi`."""
        total, before = counts.sum(axis=1), self.then.sum(axis=1)
        shift = counts[:, BINS] / np.maximum(total, 1) - self.then[:, BINS] / np.maximum(before, 1)
        return np.where((total < MIN_PAYMENTS) | (before == 0), np.nan, shift)


def _shares(counts: Counts, used: npt.NDArray[np.bool_]) -> Floats:
    filled = np.where(used, counts + _HALF, 1.0)
    total: Floats = np.where(used, filled, 0.0).sum(axis=1, keepdims=True)
    return filled / total


@compiled
def _tally(scores: Values, values: Values, columns: Counts, edges: Values, counts: Counts) -> None:
    bins = edges.shape[1]
    for row in range(len(scores)):
        for column in range(len(columns) + 1):
            value = scores[row] if column == 0 else values[row, columns[column - 1]]
            if np.isnan(value):
                counts[column, bins + 1] += 1
            else:
                place = 0
                for k in range(bins):
                    place += value >= edges[column, k]
                counts[column, place] += 1
