"""JSON lines as columns: decoded and checked by msgspec, a block at a time; where a line is bad, a line at a time."""

from __future__ import annotations

import re
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path
from typing import Final

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
