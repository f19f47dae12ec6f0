"""Read payments or labels from Parquet, CSV or JSON lines, some thousand rows at a time, as columns of two types.

Text columns come as `string`, those of few values maybe as dictionaries; numbers as `int64`: what can't be one is noted
and null. A directory is read as its files of one format in the order of their names.
"""

from __future__ import annotations

import csv as python_csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from features.errors import ConfigError
from features.event import Payment
from features.history.fields import Field, Kind, Mask, Refusals, fields_of
from features.history.json_lines import read_json_lines, read_loose_lines
from features.history.mapping import AS_NAMED, Columns, apply

ROWS: Final = 65_536
BLOCK_BYTES: Final = 8 << 20
KEY_LINES: Final = 10_000
FORMATS: Final = (".parquet", ".csv", ".jsonl")
CODED: Final = ("currency", "mcc", "country", "card_country", "channel", "label", "source")
_WHOLE: Final = r"^[+-]?[0-9]{1,18}$"


@dataclass(frozen=True, slots=True)
class Piece:
    """Some rows of a file.

    Attributes:
        columns: by field name, all of the same length. Fields that the file lacks are left out.
        wrong: by field name, which values were no number.
        rows: (n,) the rows' numbers in the file, from 1.
        share: of the file, up to here.
    """

    columns: dict[str, pa.Array]
    rows: np.ndarray[tuple[int], np.dtype[np.int64]]
    share: float
    wrong: dict[str, Mask] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Source:
    """A file of payments or labels, or a part of one: row groups of a Parquet file."""

    path: Path
    kind: Kind
    groups: tuple[int, ...] | None = None
    mapped: Columns = AS_NAMED  # frozen

    def pieces(self, refusals: Refusals, *, threads: bool = True) -> Iterator[Piece]:
        """The rows, in order. Raises ConfigError for a file that can't be read."""
        readers: dict[str, Callable[[Source, Refusals, bool], Iterator[Piece]]]
        readers = {".parquet": _parquet, ".csv": _csv, ".jsonl": _json_lines}
        if self.mapped:
            readers = dict.fromkeys(readers, _foreign)
        try:
            yield from readers[self.path.suffix.lower()](self, refusals, threads)
        except (pa.ArrowException, UnicodeDecodeError) as error:
            raise ConfigError(f"{self.path} can't be read as {self._format} ({_first_line(error)}).") from None
        except OSError as error:
            raise ConfigError(f"{self.path} can't be read ({error.strerror or _first_line(error)}).") from None

    @property
    def _format(self) -> str:
        return {".parquet": "Parquet", ".csv": "CSV", ".jsonl": "JSON lines"}[self.path.suffix.lower()]


def sources(path: Path, kind: Kind, mapped: Columns = AS_NAMED) -> list[Source]:  # frozen
    """The files that `path` names, in order. Raises ConfigError for none, or of a format that is not known."""
    files = [path]
    if path.is_dir():
        files = sorted(each for each in path.iterdir() if each.suffix.lower() in FORMATS)
        if len({each.suffix.lower() for each in files}) != 1:
            raise ConfigError(f"{path} must hold files of one format, {_formats()}; found {len(files)} files.")
    for each in files:
        if each.suffix.lower() not in FORMATS:
            raise ConfigError(f"{each} must be a file that ends in {_formats()}.")
        if not each.exists():
            raise ConfigError(f"{each} is not there; give a file that ends in {_formats()}.")
    return [Source(each, kind, mapped=mapped) for each in files]


def check_output(out: Path, *inputs: Path | None) -> None:
    """Refuse an output that would replace an input, or be read as one next time. Raises ConfigError."""
    place = out.absolute().resolve()
    for each in filter(None, inputs):
        read = each.absolute().resolve()
        if place == read:
            raise ConfigError(f"{out} is what is read; give another place for what is written.")
        if read.is_dir() and place.parent == read and out.suffix.lower() in FORMATS:
            raise ConfigError(f"{out} lies among the files that are read from {each}; give another place for it.")


def estimated_rows(source: Source) -> int:
    """About how many rows a file has: rather too many than too few, without reading it."""
    if source.path.suffix.lower() == ".parquet":
        try:
            return int(pq.read_metadata(source.path).num_rows)
        except (pa.ArrowException, OSError) as error:
            raise ConfigError(f"{source.path} can't be read as Parquet ({_first_line(error)}).") from None
    return source.path.stat().st_size // (100 if source.path.suffix.lower() == ".csv" else 200)


def _formats() -> str:
    return f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"


def _first_line(error: Exception) -> str:
    """What the library says, without a value of the file: its first words up to a colon or a line's end."""
    return str(error).split("\n", 1)[0].split(":", 1)[0][:80].rstrip(". ") or type(error).__name__


def _parquet(source: Source, _refusals: Refusals, threads: bool) -> Iterator[Piece]:
    metadata = pq.read_metadata(source.path)
    columns_there = [metadata.schema.column(number) for number in range(metadata.num_columns)]
    coded = [each.path for each in columns_there if each.path in CODED and each.physical_type == "BYTE_ARRAY"]
    with pq.ParquetFile(source.path, metadata=metadata, read_dictionary=coded) as file:  # decodes few texts faster
        names = _held(source, file.schema_arrow.names)
        fields = {each.name: each for each in fields_of(source.kind)}
        for name in names:
            _check_type(source.path, fields[name], file.schema_arrow.field(name).type)
        groups = range(metadata.num_row_groups) if source.groups is None else source.groups
        before = sum(metadata.row_group(each).num_rows for each in range(groups[0] if groups else 0))
        total, done = sum(metadata.row_group(each).num_rows for each in groups), 0
        for batches in _batches(file, groups, names, threads):
            columns: dict[str, pa.Array] = {}
            wrong: dict[str, Mask] = {}
            for name in names:
                column = pa.concat_arrays([batch.column(name) for batch in batches])
                if fields[name].is_whole:
                    columns[name], mask = _whole(column)
                    if mask is not None:
                        wrong[name] = mask
                else:
                    columns[name] = column if name in CODED else column.cast(pa.string())
                    columns[name].validate(full=True)  # a writer may have put any bytes there
            rows = np.arange(before + done + 1, before + done + 1 + sum(map(len, batches)))
            done += len(rows)
            yield Piece(columns, rows, done / total, wrong)


def _batches(
    file: pq.ParquetFile, groups: Sequence[int], names: list[str], threads: bool
) -> Iterator[list[pa.RecordBatch]]:
    """The rows of row groups, about `ROWS` at a time.

    Each reader gets few row groups: it keeps the pages of all that it was given.
    """
    rest = list(groups)
    while rest:
        run, rows = [], 0
        while rest and rows < ROWS:
            run.append(rest.pop(0))
            rows += file.metadata.row_group(run[-1]).num_rows
        held: list[pa.RecordBatch] = []
        for batch in file.iter_batches(ROWS, row_groups=run, columns=names, use_threads=threads):
            held.append(batch)
            if sum(map(len, held)) >= ROWS:
                yield held
                held = []
        if held:
            yield held


def _check_type(path: Path, wanted: Field, held: pa.DataType) -> None:
    value = held.value_type if pa.types.is_dictionary(held) else held
    types = pa.types
    if types.is_null(value):
        return
    is_text = types.is_string(value) or types.is_large_string(value) or types.is_string_view(value)
    is_number = types.is_integer(held) or types.is_floating(held) or types.is_timestamp(held)
    if (is_number if wanted.is_whole else is_text) or (wanted.is_whole and types.is_decimal(held)):
        return
    raise ConfigError(
        f"{path}: column {wanted.name} has type {held}, and should hold {'integers' if wanted.is_whole else 'text'}."
    )


def _whole(column: pa.Array) -> tuple[pa.Array, Mask | None]:
    """A column as int64, with null for what is no integer; and which those are, if any. Timestamps become ms."""
    if pa.types.is_timestamp(column.type):
        return column.cast(pa.timestamp("ms", column.type.tz), safe=False).cast(pa.int64()), None
    if pa.types.is_null(column.type) or pa.types.is_signed_integer(column.type):
        return column.cast(pa.int64()), None
    numbers = np.asarray(column.cast(pa.float64(), safe=False).fill_null(np.nan))
    there = np.asarray(column.is_valid()) & ~np.isnan(numbers)
    whole = there & (np.abs(numbers) < 2**53)  # beyond that it is out of any field's range
    whole[whole] = np.floor(numbers[whole]) == numbers[whole]
    integers = pa.array(np.where(whole, numbers, 0).astype(np.int64), mask=~whole)
    return integers, there & ~whole


def _csv(source: Source, refusals: Refusals, _threads: bool) -> Iterator[Piece]:
    names = _held(source, csv_header(source.path))
    fields = {each.name: each for each in fields_of(source.kind)}
    for columns, rows, share in _csv_texts(source.path, names, refusals):
        wrong = {}
        for name in names:
            if fields[name].is_whole:
                column = columns[name]
                good = pc.match_substring_regex(column, _WHOLE).fill_null(False)
                wrong[name] = np.asarray(pc.and_(column.is_valid(), pc.invert(good)))
                columns[name] = pc.if_else(good, column, pa.scalar(None, pa.string())).cast(pa.int64())
        yield Piece(columns, rows, share, wrong)


def csv_header(path: Path) -> list[str]:
    """The names in a CSV file's first row. Raises ConfigError where one is there twice."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        header = next(python_csv.reader(file), [])
    if len(set(header)) != len(header):
        raise ConfigError(f"{path} names a column twice in its first row.")
    return header


def _csv_texts(
    path: Path, names: list[str], refusals: Refusals
) -> Iterator[tuple[dict[str, pa.Array], np.ndarray[tuple[int], np.dtype[np.int64]], float]]:
    """Columns as texts, the rows' numbers, and the share of the file up to there."""
    lost: list[int] = []

    def skip(row: pa_csv.InvalidRow) -> str:
        lost.append(row.number - 1)  # the header is row 1 to the parser
        return "skip"

    with pa_csv.open_csv(
        path,
        pa_csv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES),  # with threads rows have no numbers
        pa_csv.ParseOptions(newlines_in_values=True, invalid_row_handler=skip),
        pa_csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()), include_columns=names, strings_can_be_null=True,
            null_values=[""],
        ),
    ) as reader:  # fmt: skip
        size, at = path.stat().st_size, 1
        taken = 0
        for batch in reader:
            rows = np.arange(at, at + batch.num_rows + len(lost))
            rows = rows[~np.isin(rows, lost)][: batch.num_rows]
            at = int(rows[-1]) + 1 if rows.size else at
            here = [row for row in lost if row < at]
            refusals.note(sorted(here), None, "malformed")
            lost[:] = [row for row in lost if row >= at]
            taken += batch.nbytes
            yield dict(zip(names, batch.columns, strict=True)), rows, min(1.0, taken / size)
        refusals.note(sorted(lost), None, "malformed")


def _foreign(source: Source, refusals: Refusals, threads: bool) -> Iterator[Piece]:
    """Rows of a file whose columns are mapped; those that say nothing are left out."""
    path = source.path
    raw: Iterator[tuple[dict[str, pa.Array], np.ndarray[tuple[int], np.dtype[np.int64]], float]]
    match path.suffix.lower():
        case ".parquet":
            held = pq.read_schema(path).names
        case ".csv":
            held = csv_header(path)
        case _:
            # any line may have any of these: the first ones only tell what is missing altogether
            own = source.mapped.payments if source.kind is Payment else source.mapped.labels
            named = {each.column for _, each in own if each.column is not None}
            optional = {each.name for each in fields_of(source.kind) if not each.is_required}
            held = sorted(_keys(path) | named | optional)
    expressions = source.mapped.of(source.kind, held, path)
    names = sorted({each.column for each in expressions.values() if each.column is not None})
    match path.suffix.lower():
        case ".parquet":
            raw = _parquet_columns(source, names, threads)
        case ".csv":
            raw = _csv_texts(path, names, refusals)
        case _:
            raw = read_loose_lines(path, names, refusals, BLOCK_BYTES)
    for columns, rows, share in raw:
        made, wrong, silent = apply(expressions, columns, len(rows), source.kind, path)
        said = ~silent
        if silent.any():
            made = {name: column.filter(pa.array(said)) for name, column in made.items()}
            wrong = {name: mask[said] for name, mask in wrong.items()}
        yield Piece(made, rows[said], share, wrong)


def _parquet_columns(
    source: Source, names: list[str], threads: bool
) -> Iterator[tuple[dict[str, pa.Array], np.ndarray[tuple[int], np.dtype[np.int64]], float]]:
    with pq.ParquetFile(source.path) as file:
        groups = range(file.metadata.num_row_groups) if source.groups is None else source.groups
        before = sum(file.metadata.row_group(each).num_rows for each in range(groups[0] if groups else 0))
        total, done = sum(file.metadata.row_group(each).num_rows for each in groups), 0
        for batches in _batches(file, groups, names, threads):
            columns = {name: pa.concat_arrays([batch.column(name) for batch in batches]) for name in names}
            rows = np.arange(before + done + 1, before + done + 1 + sum(map(len, batches)))
            done += len(rows)
            yield columns, rows, done / total


def _keys(path: Path) -> set[str]:
    """The names in the first lines that are JSON objects."""
    found = set[str]()
    with path.open("rb") as file:
        for line in islice(file, KEY_LINES):
            try:
                document = msgspec.json.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                continue
            if isinstance(document, dict):
                found |= set(document)
    return found


def _json_lines(source: Source, refusals: Refusals, _threads: bool) -> Iterator[Piece]:
    for columns, rows, share in read_json_lines(source.path, source.kind, refusals, BLOCK_BYTES):
        yield Piece(columns, rows, share)


def _held(source: Source, names: list[str]) -> list[str]:
    """The fields that a file has columns for. Raises ConfigError when a required one is not there."""
    for each in fields_of(source.kind):
        if each.is_required and each.name not in names:
            raise ConfigError(f"{source.path} has no column {each.name}; if it has another name there, give --map.")
    return [each.name for each in fields_of(source.kind) if each.name in names]
