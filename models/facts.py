"""What rules look at: the fields, the features and the score of the payments of a batch, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, get_args, get_type_hints

import numpy as np
import numpy.typing as npt

from features.event import Payment

Kind = Literal["number", "text"]
Values = npt.NDArray[np.float32]
Scores = npt.NDArray[np.float32]
Fields = Callable[[str], Any]

SCORE: Final = "score"
ABSENT: Final = -1
NOWHERE: Final = -2  # of a text that no payment of the batch has
FIELDS: Final[dict[str, Kind]] = {
    name: "number" if hint is int or int in get_args(hint) else "text" for name, hint in get_type_hints(Payment).items()
}
"""Every field of a payment."""


class Facts:
    """Of n payments: each column is looked up once, when a rule asks for it.

    Args:
        values: (n, features) float32, NaN where missing.
        scores: (n,) float32; None where there is no model.
        fields: gives a field by its name: (n,) integers, or n texts and None where absent.
    """

    __slots__ = ("_codes", "_fields", "_known", "score", "values")

    def __init__(self, values: Values, scores: Scores | None, fields: Fields) -> None:
        self.values, self._fields = values, fields
        self.score: Scores = np.full(len(values), np.nan, np.float32) if scores is None else scores
        self._known: dict[str | int, Any] = {}
        self._codes: dict[str, tuple[npt.NDArray[np.int64], Callable[[str], int]]] = {}

    def field(self, name: str) -> Any:
        """A field of every payment."""
        if name not in self._known:
            self._known[name] = self._fields(name)
        return self._known[name]

    def codes(self, name: str) -> tuple[npt.NDArray[np.int64], Callable[[str], int]]:
        """A text field as numbers: equal texts have equal ones, absent ones -1; and the number of a text, or `NOWHERE`.

        So that any number of comparisons look at each text once.
        """
        if name not in self._codes:
            codes: dict[str | None, int] = {None: ABSENT}
            found = np.array([codes.setdefault(text, len(codes)) for text in self.field(name)], np.int64)
            self._codes[name] = found, lambda text: codes.get(text, NOWHERE)
        return self._codes[name]

    def feature(self, column: int) -> Values:
        """(n,) a feature of every payment."""
        if column not in self._known:
            self._known[column] = np.ascontiguousarray(self.values[:, column])
        found: Values = self._known[column]
        return found


def fields_of(payments: Sequence[Payment]) -> Fields:
    """The fields of payments that are at hand."""

    def field(name: str) -> Any:
        found = [getattr(payment, name) for payment in payments]
        return np.array(found, np.int64) if FIELDS[name] == "number" else found

    return field
