"""A batch of a file of features as policies look at it, and what they made of it as columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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


def features_of(batch: pa.RecordBatch, names: Sequence[str]) -> npt.NDArray[np.float32]:
    """(n, features) the values of these features."""
    values = np.empty((len(batch), len(names)), np.float32)
    for column, name in enumerate(names):
        values[:, column] = batch.column(name)
    return values


def fields_of(batch: pa.RecordBatch) -> Fields:
    """The payments' fields, of a batch that kept them."""

    def get(name: str) -> Any:
        column = batch.column(place_of(name))
        return np.asarray(column) if FIELDS[name] == "number" else column.to_pylist()

    return get


def decisions_of(decisions: npt.NDArray[np.uint8]) -> pa.Array:
    """(n,) the names of decisions."""
    return pa.array(DECISIONS, pa.string()).take(pa.array(decisions))


def rules_of(n: int, fired: Fired) -> pa.Array:
    """(n,) the ids of the rules that fired, by payment, in their order."""
    names, rows, codes = list[str](), [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for rule, mask in fired:
        here = np.flatnonzero(mask)
        rows.append(here)
        codes.append(np.full(len(here), len(names), np.int64))
        names.append(rule)
    row, code = np.concatenate(rows), np.concatenate(codes)
    ends = np.cumsum(np.bincount(row, minlength=n))
    offsets = pa.array(np.concatenate(([0], ends)), pa.int32())
    found = pa.array(names, pa.string()).take(pa.array(code[np.argsort(row, kind="stable")]))
    return pa.ListArray.from_arrays(offsets, found)
