"""Field maps of other people's files: refused in one sentence, or columns of the right types and as many rows."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

from features.errors import ConfigError
from features.event import Label, Payment
from features.history.fields import fields_of
from features.history.mapping import Columns, apply, parse
from tests.fuzz.target import one_sentence, scratch

_MOMENT: Final = datetime(2026, 1, 5, 12, 30, tzinfo=UTC)
_ROWS: Final = 5
_TABLE: Final[dict[str, pa.Array]] = {
    "id": pa.array(["a", "b", "", None, "\u00e9"]),
    "number": pa.array([0, 1, -(2**63), 2**63 - 1, None], pa.int64()),
    "small": pa.array([0, 1, 255, None, 7], pa.uint8()),
    "large": pa.array([0, 1, 2**64 - 1, None, 7], pa.uint64()),
    "amount": pa.array([0.1, float("nan"), float("inf"), 1e300, None]),
    "narrow": pa.array([0.1, float("nan"), float("-inf"), 3e38, None], pa.float32()),
    "when": pa.array([_MOMENT, None, _MOMENT, _MOMENT, _MOMENT], pa.timestamp("us", "UTC")),
    "day": pa.array([_MOMENT.date(), None, _MOMENT.date(), _MOMENT.date(), _MOMENT.date()], pa.date32()),
    "said": pa.array(["12.5", "2026-01-05T12:30:00+01:00", "9" * 18, "1e5", None]),
    "flag": pa.array([True, False, None, True, False]),
    "bytes": pa.array([b"\xff", b"", None, b"x", b"y"]),
    "list": pa.array([[1], [], None, [2], [3]]),
    "nothing": pa.nulls(_ROWS),
    "coded": pa.array(["x", "y", None, "x", "y"]).dictionary_encode(),
}


def check(data: bytes) -> None:
    """Lines FIELD=EXPRESSION are what `--map` was given; what begins with a bracket is a file with tables."""
    text = data.decode("utf-8", "replace")
    path = Path("history.parquet")
    words = [str(scratch("map.toml", data))] if text.startswith("[") else [w for w in text.split("\n") if "=" in w]
    try:
        columns = parse(words)
    except ConfigError as error:
        one_sentence(error)
        return
    for kind in (Payment, Label):
        try:
            expressions = columns.of(kind, list(_TABLE), path)
        except ConfigError as error:
            one_sentence(error)
            expressions = _all_that_go(columns, kind)
        _check_applied(expressions, kind, path)


def _all_that_go(columns: Columns, kind: Any) -> dict[str, Any]:
    """What can be filled although fields that every record has can't be."""
    own = columns.payments if kind is Payment else columns.labels
    return {name: each for name, each in own if each.column is None or each.column in _TABLE}


def _check_applied(expressions: dict[str, Any], kind: Any, path: Path) -> None:
    fields = {each.name: each for each in fields_of(kind)}
    for name, expression in expressions.items():
        try:
            found, wrong, silent = apply({name: expression}, _TABLE, _ROWS, kind, path)
        except ConfigError as error:
            one_sentence(error)
            continue
        column = found[name]
        assert len(column) == len(silent) == _ROWS
        assert column.type == (pa.int64() if fields[name].is_whole else pa.string()), column.type
        faulty = wrong.get(name, np.zeros(_ROWS, np.bool_))
        assert not (faulty & np.asarray(column.is_valid())).any(), "a wrong value is there"
        source = None if expression.column is None else _TABLE[expression.column]
        if fields[name].is_whole and source is not None and pa.types.is_integer(source.type) and not expression.scale:
            pairs = zip(source.to_pylist(), column.to_pylist(), strict=True)
            assert all(made is None or made == given + expression.add_ms for given, made in pairs), "another number"
