"""Rows of a history that are no record, put aside with the reason: JSON lines, one for each.

A line has `file`, `row` (from 1), `column` (null where the row is none of the format), `reason`, `why` (a sentence) and
`record`: the row as it is, a line of text, or an object for a table's row. It may hold what must not be in a log, so
nobody but the owner may read the file.
"""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Iterable, Iterator
from itertools import tee
from pathlib import Path
from typing import Any, BinaryIO, Final

import orjson
import pyarrow.parquet as pq

from features.errors import ConfigError
from features.history.fields import WORDS, Refusals

MODE: Final = 0o600


class Quarantine:
    """Writes refused rows to a file, which is there from the beginning, empty if there are none."""

    def __init__(self, path: Path) -> None:
        """Make the file. Raises ConfigError when that can't be done."""
        self.path = path
        self.rows = 0
        try:
            self._file: BinaryIO = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, MODE), "wb")
            path.chmod(MODE)  # one that was there before keeps its own
        except OSError as error:
            raise ConfigError(f"Refused rows can't be written to {path} ({error.strerror}).") from None

    def take(self, refusals: Refusals) -> None:
        """All that a file refused. Raises ConfigError when it can't be read again."""
        if refusals.rows is None:
            return
        asked, told = tee(refusals.rows.by_row())
        try:
            records = contents(refusals.path, (row for row, _, _ in asked))
            for (row, column, reason), (_, record) in zip(told, records, strict=False):
                line = {"file": str(refusals.path), "row": row, "column": column, "reason": reason}
                line |= {"why": WORDS[reason], "record": record}
                self._file.write(orjson.dumps(line, default=str, option=orjson.OPT_APPEND_NEWLINE))
                self.rows += 1
            self._file.flush()
        except (OSError, csv.Error) as error:
            why = getattr(error, "strerror", None) or error
            raise ConfigError(f"Refused rows of {refusals.path} can't be put aside ({why}).") from None

    def close(self) -> None:
        """Nothing more comes."""
        self._file.close()


def contents(path: Path, rows: Iterable[int]) -> Iterator[tuple[int, Any]]:
    """What is in these rows of a file, numbered from 1 and rising."""
    wanted = iter(rows)
    row = next(wanted, None)
    if row is None:
        return
    for number, content in enumerate(_rows(path), start=1):
        if number == row:
            yield number, content
            row = next(wanted, None)
            if row is None:
                return


def _rows(path: Path) -> Iterator[Any]:
    match path.suffix.lower():
        case ".parquet":
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches():
                    yield from batch.to_pylist()
        case ".csv":
            with path.open(encoding="utf-8-sig", errors="replace", newline="") as text:
                csv.field_size_limit(sys.maxsize)
                rows = (row for row in csv.reader(text) if row)  # a blank line is no row
                header = next(rows, [])
                yield from (dict(zip(header, row, strict=True)) if len(row) == len(header) else row for row in rows)
        case _:
            with path.open("rb") as lines:
                yield from (line.rstrip(b"\r\n").decode(errors="replace") for line in lines)
