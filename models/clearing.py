"""What would have cleared an alert: the smallest change of a few features that a customer can act on.

A counterfactual in the sense of Wachter, Mittelstadt and Russell (Harvard Journal of Law & Technology 31, 2018): the
fewest features first, and then the shortest way in units of the model's own split points. A tree model is constant
between those, so that one value a step has to be tried; all tries of a level are scored at once.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
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
NEAR: Final = 2  # of them are tried first
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


class Lever:
    """One feature that a customer could have had otherwise, and the values that are worth a try.

    What lies on the other side of each split point is worked out once; an alert then only looks up how far it goes.
    """

    __slots__ = ("_least", "_rank", "_splits", "_values", "column", "direction")

    def __init__(self, column: int, direction: int, splits: Values, feature: Feature) -> None:
        """`splits` are the model's, rising, at least one."""
        self.column, self.direction = column, direction
        if feature.type in {"count", "amount", "seconds"}:
            moved = np.ceil(splits) - 1 if direction == LOWER else np.ceil(splits)
        else:
            moved = np.nextafter(splits, np.float32(-np.inf)) if direction == LOWER else splits
        values, rank = np.unique(moved, return_inverse=True)
        least = 0.0 if feature.op in {"small_count"} else 1.0  # the payment itself is counted
        self._splits, self._values = splits.tolist(), values.tolist()
        self._rank = rank.tolist()  # by split, which of the values it leads to
        self._least = bisect_left(self._values, least) if direction == LOWER else 0

    def steps(self, value: float) -> list[float]:
        """Values to try, the nearest first: one on the other side of each split point that lies on the way."""
        if self.direction == OFF:
            return [0.0] if value else []
        passed = bisect_right(self._splits, value)
        if self.direction == LOWER:
            end = self._rank[passed - 1] + 1 if passed else 0
            steps = self._values[self._least : end][::-1]
        else:
            steps = self._values[self._rank[passed] :] if passed < len(self._rank) else []
        if steps and steps[0] == value:  # beyond 2^24 one less may be the same
            del steps[0]
        return steps if len(steps) <= STEPS else [steps[place] for place in _spread(len(steps), STEPS)]


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
            Lever(column, way, splits[column], feature)
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
        values = row.tolist()
        ways = {
            lever.column: steps
            for lever in self._levers
            if not math.isnan(values[lever.column]) and (steps := lever.steps(values[lever.column]))
        }
        if not ways:
            return None
        followed: dict[float, Values] = {}
        singles = [({column: value}, (rank,)) for column, steps in ways.items() for rank, value in enumerate(steps)]
        lowest: dict[int, float] = {}
        # mostly a near one clears it, which no farther one can better
        for part in ([each for each in singles if each[1][0] < NEAR], [each for each in singles if each[1][0] >= NEAR]):
            scores = self._try(row, [changes for changes, _ in part], followed)
            if (cleared := self._best(row, part, scores, bar)) is not None:
                return cleared
            for (changes, _), score in zip(part, scores.tolist(), strict=True):
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

    def _try(self, row: Values, tries: Sequence[Mapping[int, float]], followed: dict[float, Values]) -> Scores:
        """The scores of a row after each of these changes; `followed` keeps the row for each other amount."""
        if not tries:
            return np.zeros(0, np.float32)
        rows = np.repeat(row[None, :], len(tries), axis=0)
        amounts = {changes[self._amount]: None for changes in tries if self._amount in changes}
        if unknown := [amount for amount in amounts if amount not in followed]:
            followed.update(zip(unknown, self._with_amounts(row, np.array(unknown)), strict=True))
        places: list[int] = []
        columns: list[int] = []
        values: list[float] = []
        for place, changes in enumerate(tries):
            for column, value in changes.items():
                if column == self._amount:
                    rows[place] = followed[value]
                else:
                    places.append(place)
                    columns.append(column)
                    values.append(value)
        rows[places, columns] = values
        return self._predict(rows)

    def _with_amounts(self, row: Values, amounts: npt.NDArray[np.float64]) -> Values:
        """(k, features) the row with each of k amounts: what is made of it changes too; what is missing stays so."""
        rows = np.repeat(row[None, :], len(amounts), axis=0)
        before, amount = float(row[self._amount]), amounts[:, None]
        rows[:, self._amount] = amounts
        if before > 0:
            rows[:, self._ratios] = row[self._ratios].astype(np.float64) * amount / before
        rows[:, self._sums] = row[self._sums].astype(np.float64) - before + amount
        rows[:, self._maxima[row[self._maxima] == before]] = amount  # as if nothing earlier was larger: at least this
        rows[:, self._rounds] = amount % ROUND_AMOUNT_MINOR == 0
        for column in self._zscores:
            if not np.isnan(row[column]):
                rows[:, column] = self._zscore(row, self._features[column], float(row[column]), before, amounts)
        return rows

    def _zscore(
        self, row: Values, feature: Feature, zscore: float, before: float, amounts: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.float64] | float:
        """The new distances, by way of the mean that the ratio beside it tells; as it was where that is not known."""
        place = self._places.get(feature.name.replace("zscore", "to_mean"))
        ratio = np.nan if place is None else float(row[place])
        if not ratio > 0 or not zscore:
            return zscore
        mean = before / ratio
        return zscore * (amounts - mean) / (before - mean) if before != mean else zscore

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


@lru_cache(4_096)
def _spread(count: int, wanted: int) -> tuple[int, ...]:
    """Places in a sequence: dense at its beginning, and the last one."""
    return tuple(sorted({round((count - 1) * (place / (wanted - 1)) ** 2) for place in range(wanted)}))


def _few(steps: Sequence[float], size: int) -> list[tuple[int, float]]:
    """Steps to try beside those of other features, with their ranks; the more features, the fewer."""
    wanted = STEPS_TOGETHER if size == 2 else 3
    places = _spread(len(steps), wanted) if len(steps) > wanted else tuple(range(len(steps)))
    return [(place, steps[place]) for place in places]


def split_points(forest: Forest) -> list[Values]:
    """The rising, different split values of each column, shape (any,) float32."""
    columns = np.concatenate([np.zeros(0, np.int64), *(tree.feature[~tree.leaf] for tree in forest.trees)])
    values = np.concatenate([np.zeros(0, np.float32), *(tree.threshold[~tree.leaf] for tree in forest.trees)])
    return [np.unique(values[columns == column]) for column in range(forest.columns)]
