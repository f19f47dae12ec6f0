"""A batch of a file of features as policies look at it, and what they made of it as columns."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features.history.chunks import KEPT
from features.history.output import IDENTITY
from models.facts import FIELDS, Fields
from models.policy import DECISIONS

Fired = Iterable[tuple[str, npt.NDArray[np.bool_]]]
_OWN = frozenset(each.name for each in IDENTITY)


def place_of(field: str) -> str:
    """The column that has a field of the payments."""
    return field if field in _OWN else KEPT + field


def fields_of(batch: pa.RecordBatch) -> Fields:
    """The payments' fields, of a batch that kept them."""

    def get(name: str) -> Any:
        column = batch.column(place_of(name))
        return np.asarray(column) if FIELDS[name] == "number" else column.to_pylist()

    return get


def decisions_of(decisions: npt.NDArray[np.uint8]) -> pa.Array:
    """(n,) the names of decisions."""
    return pa.array(np.array(DECISIONS, object)[decisions], pa.string())


def rules_of(n: int, fired: Fired) -> pa.Array:
    """(n,) the ids of the rules that fired, by payment."""
    rules: list[list[str]] = [[] for _ in range(n)]
    for rule, mask in fired:
        for row in np.flatnonzero(mask).tolist():
            rules[row].append(rule)
    return pa.array(rules, pa.list_(pa.string()))
