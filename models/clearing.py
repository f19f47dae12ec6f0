"""What would have cleared an alert: the smallest change of a few features that a customer can act on.

A counterfactual in the sense of Wachter, Mittelstadt and Russell (Harvard Journal of Law & Technology 31, 2018): the
fewest features first, and then the shortest way in units of the model's own split points. A tree model is constant
between those, so that one value a step has to be tried; all tries of a level are scored at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from features.catalog import ROUND_AMOUNT_MINOR, Feature
from models.trees import Forest

Values = npt.NDArray[np.float32]
Scores = npt.NDArray[np.float32]
Predict = Callable[[Values], Scores]

MOST: Final = 3  # features that change together
STEPS: Final = 16  # values tried of one feature, the nearest first
STEPS_TOGETHER: Final = 5
PROMISING: Final = 6  # features that are tried together
LOWER, HIGHER, OFF = -1, 1, 0
AMOUNT: Final = "amount_minor"


class Change(msgspec.Struct, frozen=True, gc=False):
    """One feature that would have been another."""

    feature: str
    value: float
    to: float


class Clearing(msgspec.Struct, frozen=True, gc=False):
    """Changes that together would have brought the score below the review threshold, and the score then."""

    changes: tuple[Change, ...]
    score: float


def direction(feature: Feature) -> int | None:
    """Which way a customer could have gone; None for what is not in a customer's hands."""
    if feature.name == AMOUNT:
        return LOWER
    if feature.op in {"foreign", "country_changed"}:
        return OFF
    if feature.entity != "card":
        return None
    if feature.op in {"count", "distinct", "small_count"}:
        return LOWER
    if feature.op in {"same", "since_last"}:
        return HIGHER
    return None


@dataclass(frozen=True, slots=True)
class _Lever:
    column: int
    direction: int
    steps: Values  # rising split points of the model


class Clearer:
    """Finds counterfactuals for one model. One thread at a time.

    Args:
        booster: the model.
        predict: scores rows of all its features.
        features: as the catalog declares them, in column order.
    """

    def __init__(self, forest: Forest, predict: Predict, features: Sequence[Feature]) -> None:
        self._predict = predict
        self._features = tuple(features)
        self._places = {feature.name: place for place, feature in enumerate(features)}
        self._amount = self._places.get(AMOUNT, -1)
        self._ratios = self._made_by("amount_to_mean", "amount_to_max", "amount_to_min")
        self._sums, self._maxima = self._made_by("sum"), self._made_by("max")
        self._rounds, self._zscores = self._made_by("round_amount"), self._made_by("amount_zscore").tolist()
        splits = split_points(forest)
        self._levers = [
            _Lever(column, way, splits[column])
            for column, feature in enumerate(features)
            if (way := direction(feature)) is not None and splits[column].size
        ]

    def clear(
        self, values: Values, scores: Scores, bars: Scores, until: float, now: Callable[[], float] = time.monotonic
    ) -> list[Clearing | None]:
        """For each of n alerts the smallest change that clears it; None where none is found in time.

        Args:
            values: (n, features).
            scores: (n,) what the model gave them.
            bars: (n,) scores of at least this are alerts.
            until: when to stop looking, on the clock `now`, in seconds.
            now: a monotonic clock.
        """
        found: list[Clearing | None] = []
        for row, score, bar in zip(values, scores.tolist(), bars.tolist(), strict=True):
            found.append(None if score < bar or now() >= until else self._clear(row, bar, until, now))
        return found

    def _made_by(self, *operations: str) -> npt.NDArray[np.intp]:
        """The columns of features that are made by these operations."""
        return np.array([at for at, feature in enumerate(self._features) if feature.op in operations], np.intp)

    def _clear(self, row: Values, bar: float, until: float, now: Callable[[], float]) -> Clearing | None:
        levers = [lever for lever in self._levers if not np.isnan(row[lever.column])]
        ways = {lever.column: self._steps(lever, float(row[lever.column])) for lever in levers}
        ways = {column: steps for column, steps in ways.items() if steps}
        if not ways:
            return None
        followed: dict[float, Values] = {}
        singles = [({column: value}, (rank,)) for column, steps in ways.items() for rank, value in enumerate(steps)]
        scores = self._try(row, [changes for changes, _ in singles], followed)
        if (cleared := self._best(row, singles, scores, bar)) is not None:
            return cleared
        lowest: dict[int, float] = {}
        for (changes, _), score in zip(singles, scores.tolist(), strict=True):
            (column,) = changes
            lowest[column] = min(lowest.get(column, 1.0), score)
        promising = sorted(lowest, key=lambda column: (lowest[column], column))[:PROMISING]
        for size in range(2, MOST + 1):
            if now() >= until:
                return None
            tries = [
                (dict(zip(columns, (value for _, value in steps), strict=True)), tuple(rank for rank, _ in steps))
                for columns in combinations(promising, size)
                for steps in product(*(_few(ways[column], size) for column in columns))
            ]
            scores = self._try(row, [changes for changes, _ in tries], followed)
            if (cleared := self._best(row, tries, scores, bar)) is not None:
                return cleared
        return None

    def _steps(self, lever: _Lever, value: float) -> list[float]:
        """Values to try, the nearest first: one on the other side of each split point that lies on the way."""
        if lever.direction == OFF:
            return [0.0] if value else []
        whole = self._features[lever.column].type in {"count", "amount", "seconds"}
        if lever.direction == LOWER:
            passed = lever.steps[lever.steps <= value][::-1]
            steps = np.ceil(passed) - 1 if whole else np.nextafter(passed, np.float32(-np.inf))
            least = 0.0 if self._features[lever.column].op in {"small_count"} else 1.0  # the payment itself is counted
            steps = steps[steps >= least]
        else:
            passed = lever.steps[lever.steps > value]
            steps = np.ceil(passed) if whole else passed
        rising = [float(step) for step in dict.fromkeys(steps.tolist()) if step != value]
        return rising if len(rising) <= STEPS else [rising[place] for place in _spread(len(rising), STEPS)]

    def _try(self, row: Values, tries: Sequence[Mapping[int, float]], followed: dict[float, Values]) -> Scores:
        """The scores of a row after each of these changes; `followed` keeps the row for each other amount."""
        rows = np.repeat(row[None, :], len(tries), axis=0)
        places: list[int] = []
        columns: list[int] = []
        values: list[float] = []
        for place, changes in enumerate(tries):
            for column, value in changes.items():
                if column != self._amount:
                    places.append(place)
                    columns.append(column)
                    values.append(value)
                    continue
                if value not in followed:
                    followed[value] = row.copy()
                    followed[value][column] = value
                    self._follow_amount(row, followed[value], value)
                rows[place] = followed[value]
        rows[places, columns] = values
        return self._predict(rows)

    def _follow_amount(self, row: Values, changed: Values, amount: float) -> None:
        """With the payment's amount, what is made of it changes too; what is missing stays so."""
        before = float(row[self._amount])
        if before > 0:
            changed[self._ratios] = row[self._ratios].astype(np.float64) * amount / before
        changed[self._sums] = row[self._sums].astype(np.float64) - before + amount
        largest = self._maxima[row[self._maxima] == before]
        changed[largest] = amount  # as if nothing earlier was larger: at least this
        changed[self._rounds] = float(amount % ROUND_AMOUNT_MINOR == 0)
        for column in self._zscores:
            if not np.isnan(row[column]):
                changed[column] = self._zscore(row, self._features[column], float(row[column]), before, amount)

    def _zscore(self, row: Values, feature: Feature, zscore: float, before: float, amount: float) -> float:
        """The new distance, by way of the mean that the ratio beside it tells; as it was where that is not known."""
        place = self._places.get(feature.name.replace("zscore", "to_mean"))
        ratio = np.nan if place is None else float(row[place])
        if not ratio > 0 or not zscore:
            return zscore
        mean = before / ratio
        return zscore * (amount - mean) / (before - mean) if before != mean else zscore

    def _best(
        self,
        row: Values,
        tries: Sequence[tuple[Mapping[int, float], tuple[int, ...]]],
        scores: Scores,
        bar: float,
    ) -> Clearing | None:
        """Of the tries that clear it the nearest: the fewest steps, and of those the lowest score."""
        clearing = np.flatnonzero(scores < np.float32(bar)).tolist()
        if not clearing:
            return None
        best = min(clearing, key=lambda place: (sum(tries[place][1]), float(scores[place]), place))
        changes = tuple(
            Change(self._features[column].name, float(row[column]), value) for column, value in tries[best][0].items()
        )
        return Clearing(changes, float(scores[best]))


def _spread(count: int, wanted: int) -> list[int]:
    """Places in a sequence: dense at its beginning, and the last one."""
    return sorted({round((count - 1) * (place / (wanted - 1)) ** 2) for place in range(wanted)})


def _few(steps: Sequence[float], size: int) -> list[tuple[int, float]]:
    """Steps to try beside those of other features, with their ranks; the more features, the fewer."""
    wanted = STEPS_TOGETHER if size == 2 else 3
    places = _spread(len(steps), wanted) if len(steps) > wanted else range(len(steps))
    return [(place, steps[place]) for place in places]


def split_points(forest: Forest) -> list[Values]:
    """The rising, different split values of each column, shape (any,) float32."""
    columns = np.concatenate([np.zeros(0, np.int64), *(tree.feature[~tree.leaf] for tree in forest.trees)])
    values = np.concatenate([np.zeros(0, np.float32), *(tree.threshold[~tree.leaf] for tree in forest.trees)])
    return [np.unique(values[columns == column]) for column in range(forest.columns)]
