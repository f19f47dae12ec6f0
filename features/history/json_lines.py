"""JSON lines as columns: decoded and checked by msgspec, a block at a time; where a line is bad, a line at a time."""

from __future__ import annotations

import re
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa

from features.errors import ConfigError
from features.event import Label, Payment, Words
from features.history.fields import Kind, Reason, Refusals, fields_of

Record = Payment | Label

_AT_ONCE: Final = 1_024  # records: so many lie in the processor's cache until they are columns
_PLACE: Final = re.compile(r"(?:at `\$\.|field `)(\w+)")


def read_json_lines(
    path: Path, kind: Kind, refusals: Refusals, block_bytes: int
) -> Iterator[tuple[dict[str, pa.Array], Words, float]]:
    """Columns of some lines at a time, the numbers of these lines from 1, and the share of the file up to there."""
    size, line = max(path.stat().st_size, 1), 1
    decoder: msgspec.json.Decoder[Record] = msgspec.json.Decoder(kind)
    with path.open("rb") as file:
        while lines := file.readlines(block_bytes):
            if max(map(len, lines)) > block_bytes:
                raise ConfigError(f"{path} has a line of more than {block_bytes >> 20} MiB; give one record a line.")
            parts, numbers = [], []
            for start in range(0, len(lines), _AT_ONCE):
                records, rows = _decoded(decoder, lines[start : start + _AT_ONCE], line + start, refusals)
                parts.append(_columns(kind, records))
                numbers.append(rows)
            line += len(lines)
            columns = {each.name: pa.concat_arrays([part[each.name] for part in parts]) for each in fields_of(kind)}
            yield columns, np.concatenate(numbers), file.tell() / size


def read_loose_lines(
    path: Path, names: list[str], refusals: Refusals, block_bytes: int
) -> Iterator[tuple[dict[str, pa.Array], Words, float]]:
    """As `read_json_lines`, for lines of any objects: some of their values, as they are where all are of one type."""
    size, line = max(path.stat().st_size, 1), 1
    decode = msgspec.json.Decoder(dict[str, Any]).decode
    with path.open("rb") as file:
        while lines := file.readlines(block_bytes):
            objects, rows = [], []
            for row, text in enumerate(lines, start=line):
                if text.isspace():
                    continue
                try:
                    objects.append(decode(text))
                except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                    refusals.note([row], None, "malformed")
                else:
                    rows.append(row)
            line += len(lines)
            columns = {name: _loose([each.get(name) for each in objects]) for name in names}
            yield columns, np.array(rows, np.int64), file.tell() / size


def _loose(values: list[Any]) -> pa.Array:
    """One column: of the values' own type, or of texts where they have several, or one that no column can hold."""
    try:
        array = pa.array(values)
        if not pa.types.is_nested(array.type):
            return array
    except (pa.ArrowException, OverflowError):
        pass
    return pa.array([None if each is None else each if isinstance(each, str) else str(each) for each in values])


def _decoded(
    decoder: msgspec.json.Decoder[Record], lines: list[bytes], first: int, refusals: Refusals
) -> tuple[list[Record], Words]:
    records: list[Record] = []
    try:
        records.extend(map(decoder.decode, lines))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        records.clear()
    else:
        return records, np.arange(first, first + len(lines))
    rows = []
    for row, text in enumerate(lines, start=first):
        if text.isspace():
            continue
        try:
            records.append(decoder.decode(text))
        except msgspec.ValidationError as error:
            refusals.note([row], *_explain(str(error)))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            refusals.note([row], None, "malformed")
        else:
            rows.append(row)
    return records, np.array(rows, np.int64)


def _explain(text: str) -> tuple[str | None, Reason]:
    """Column and reason of a refusal, from msgspec's words, which hold no value."""
    place = _PLACE.search(text)
    column = None if place is None else place.group(1)
    if "missing required field" in text:
        return column, "missing_field"
    if column is None:
        return None, "malformed"
    return column, "wrong_type" if ", got" in text else "out_of_range"


def _columns(kind: Kind, records: list[Record]) -> dict[str, pa.Array]:
    return {
        each.name: pa.array(list(map(attrgetter(each.name), records)), pa.int64() if each.is_whole else pa.string())
        for each in fields_of(kind)
    }
