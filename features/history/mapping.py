"""Files of others: which of their columns is which field of a payment or a label, and how a value becomes one.

    event_time = TX_DATETIME             numbers are ms since the epoch; timestamps and ISO 8601 texts are read as such
    amount_minor = TX_AMOUNT * 100       a number times a number, rounded
    labelled_at = TX_DATETIME + 7d       a time and so long after it: s, m, h or d
    currency = 'USD'                     the same for every row
    label = TX_FRAUD                     besides fraud and genuine: 1 or true is fraud, of 0 or false nothing was said

A field that is not named is taken from a column of its own name. A label's is also looked for where the payments' is.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.errors import ConfigError
from features.event import Label, Payment
from features.history.fields import Field, Kind, Mask, fields_of

LABEL: Final = "label."
TIMES: Final = frozenset({"event_time", "labelled_at"})
_EXPRESSION: Final = re.compile(
    r"""\s*(?: '(?P<constant>[^']*)' | "(?P<quoted>[^"]*)"
        | (?P<column>[^'"*+]+?) \s* (?: \*\s*(?P<scale>[0-9]*\.?[0-9]+) | \+\s*(?P<count>[0-9]{1,6})(?P<unit>[smhd]) )?
        )\s*""",
    re.VERBOSE,
)
_UNIT_MS: Final = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_WHOLE: Final = r"^\s*[+-]?[0-9]{1,18}\s*$"
_NUMBER: Final = r"^\s*[+-]?[0-9]{1,15}(\.[0-9]*)?\s*$"
_EXACT: Final = float(2**53)
_LARGEST: Final = 2**63 - 1
_FRAUD: Final = frozenset({"1", "true", "fraud"})
_NOTHING: Final = frozenset({"0", "false", ""})


@dataclass(frozen=True, slots=True)
class Expression:
    """Where a field comes from: a column, times `scale` and `add_ms` later, or else always `constant`."""

    column: str | None
    constant: str = ""
    scale: float | None = None
    add_ms: int = 0


@dataclass(frozen=True, slots=True)
class Columns:
    """What is mapped, by field, of payments and of labels."""

    payments: tuple[tuple[str, Expression], ...] = ()
    labels: tuple[tuple[str, Expression], ...] = ()

    def __bool__(self) -> bool:
        """Whether anything is."""
        return bool(self.payments or self.labels)

    def of(self, kind: Kind, held: Sequence[str], path: Path) -> dict[str, Expression]:
        """Each field's expression, for a file that has these columns; fields that it can't fill are left out.

        Raises ConfigError: a column that was named is not there, or a field that every record has can't be filled.
        """
        own = dict(self.payments if kind is Payment else self.labels)
        found = {}
        for field in fields_of(kind):
            known = own.get(field.name)
            if known is None and kind is Label:
                known = dict(self.payments).get(field.name)
                if known is not None and known.column is not None and known.column not in held:
                    known = None
            if known is None and field.name in held:
                known = Expression(field.name)
            if known is None:
                if field.is_required:
                    name = f"{LABEL if kind is Label else ''}{field.name}"
                    raise ConfigError(f"{path} has no column {field.name}; map it with --map {name}=COLUMN.")
                continue
            if known.column is not None and known.column not in held:
                raise ConfigError(f"{path} has no column {known.column}, which {field.name} is mapped to.")
            found[field.name] = known
        return found


AS_NAMED: Final = Columns()  # every field is a column of its own name


def parse(words: Iterable[str]) -> Columns:
    """What `--map` was given: FIELD=EXPRESSION, label.FIELD=EXPRESSION, or TOML files with [payments] and [labels].

    Raises ConfigError: a field or a table that is not known, or an expression that can't be read.
    """
    payments: dict[str, Expression] = {}
    labels: dict[str, Expression] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            tables = _tables(Path(word))
            payments |= {name: _expression(name, text) for name, text in tables.get("payments", {}).items()}
            labels |= {name: _expression(name, text) for name, text in tables.get("labels", {}).items()}
        elif name.startswith(LABEL):
            labels[name.removeprefix(LABEL).strip()] = _expression(name, text)
        else:
            payments[name.strip()] = _expression(name, text)
    for kind, mapped in ((Payment, payments), (Label, labels)):
        fields = {each.name: each for each in fields_of(kind)}
        for name, expression in mapped.items():
            if name not in fields:
                prefix = LABEL if kind is Label else ""
                raise ConfigError(f"--map {prefix}{name}: there is no such field; there are {', '.join(fields)}.")
            if not fields[name].is_whole and (expression.scale is not None or expression.add_ms):
                raise ConfigError(f"--map {name}: {name} is a text; * and + are for numbers and times.")
            if expression.add_ms and name not in TIMES:
                raise ConfigError(f"--map {name}: {name} is no time; + is for times.")
    return Columns(tuple(payments.items()), tuple(labels.items()))


def _tables(path: Path) -> dict[str, dict[str, Any]]:
    try:
        found = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no TOML"
        raise ConfigError(f"--map {path} can't be read ({why}); give FIELD=COLUMN, or a TOML file.") from None
    for name, table in found.items():
        if name not in ("payments", "labels") or not isinstance(table, dict):
            raise ConfigError(f"{path} has {name}, and may have the tables [payments] and [labels] only.")
    return found


def _expression(name: str, text: object) -> Expression:
    matched = _EXPRESSION.fullmatch(text) if isinstance(text, str) else None
    if matched is None:
        raise ConfigError(f"--map {name}: {text!s} is none of COLUMN, COLUMN * NUMBER, COLUMN + 7d and 'TEXT'.")
    if matched["column"] is None:
        constant = matched["constant"] if matched["quoted"] is None else matched["quoted"]
        return Expression(None, constant)
    scale = None if matched["scale"] is None else float(matched["scale"])
    add_ms = 0 if matched["count"] is None else int(matched["count"]) * _UNIT_MS[matched["unit"]]
    return Expression(matched["column"].strip(), "", scale, add_ms)


def apply(
    expressions: Mapping[str, Expression], raw: Mapping[str, pa.Array], rows: int, kind: Kind, path: Path
) -> tuple[dict[str, pa.Array], dict[str, Mask], Mask]:
    """Columns of records from columns of a file; what is wrong with which values; and which rows say nothing.

    Args:
        expressions: what `Columns.of` gave.
        raw: the file's columns that these name, of `rows` rows.
        rows: how many.
        kind: of the records.
        path: for errors.

    Raises:
        ConfigError: a column of a type that can't be read.
    """
    columns: dict[str, pa.Array] = {}
    wrong: dict[str, Mask] = {}
    silent = np.zeros(rows, np.bool_)
    fields = {each.name: each for each in fields_of(kind)}
    for name, expression in expressions.items():
        field = fields[name]
        array = pa.repeat(pa.scalar(expression.constant), rows) if expression.column is None else raw[expression.column]
        array = _plain(array)
        try:
            if field.is_whole:
                columns[name], faulty = _whole(array, expression, is_time=name in TIMES)
                if faulty.any():
                    wrong[name] = faulty
            elif name == "label":
                columns[name], silent = _label(_text(array))
            else:
                columns[name] = _text(array)
        except pa.ArrowException:
            raise ConfigError(
                f"{path}: column {expression.column} has type {array.type}, from which no {_what(field)} can be made."
            ) from None
    return columns, wrong, silent


def _what(field: Field) -> str:
    return "time" if field.name in TIMES else "integer" if field.is_whole else "text"


def _plain(array: pa.Array) -> pa.Array:
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _text(array: pa.Array) -> pa.Array:
    """As text; a whole number without a fraction, whatever its type."""
    if pa.types.is_floating(array.type):
        numbers = np.asarray(array.fill_null(0.0), np.float64)
        if bool((np.isfinite(numbers) & (np.floor(numbers) == numbers) & (np.abs(numbers) < _EXACT)).all()):
            array = array.cast(pa.int64())
    return array.cast(pa.string())


def _label(texts: pa.Array) -> tuple[pa.Array, Mask]:
    """`fraud` and `genuine`, other texts as they are; and where nothing was said."""
    coded = pc.utf8_lower(texts).dictionary_encode()
    known = [str(each) for each in coded.dictionary.to_pylist()]
    words = pa.array(["fraud" if each in _FRAUD else each for each in known], pa.string())
    nothing = np.array([*(each in _NOTHING for each in known), True])
    which = np.asarray(coded.indices.fill_null(len(known)))
    return words.take(coded.indices), nothing[which]


def _whole(array: pa.Array, expression: Expression, *, is_time: bool) -> tuple[pa.Array, Mask]:
    """As int64, null for what is none; and which those are."""
    there = np.asarray(array.is_valid())
    if pa.types.is_timestamp(array.type) or pa.types.is_date(array.type):
        zone = array.type.tz if pa.types.is_timestamp(array.type) else None
        numbers = np.asarray(array.cast(pa.timestamp("ms", zone), safe=False).cast(pa.int64()).fill_null(0))
        good = there
    elif pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        numbers, good = _of_texts(array, expression.scale, is_time)
    elif expression.scale is None and (pa.types.is_integer(array.type) or pa.types.is_null(array.type)):
        numbers, good = np.asarray(array.cast(pa.int64()).fill_null(0)), there
    else:
        numbers, good = _scaled(np.asarray(array.cast(pa.float64(), safe=False).fill_null(np.nan)), expression.scale)
    good = good & there & (numbers <= _LARGEST - expression.add_ms)
    return pa.array(np.where(good, numbers, 0) + expression.add_ms, mask=~good), there & ~good


def _scaled(numbers: np.ndarray[Any, Any], scale: float | None) -> tuple[Any, Mask]:
    """Times the scale, rounded; without one, what is whole already."""
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is no good below
        product = numbers if scale is None else np.rint(numbers * scale)
    good = np.isfinite(product) & (np.abs(np.nan_to_num(product)) < _EXACT)
    good &= np.floor(np.where(good, product, 0.5)) == np.where(good, product, 0.0)
    return np.where(good, product, 0).astype(np.int64), good


def _of_texts(array: pa.Array, scale: float | None, is_time: bool) -> tuple[Any, Mask]:
    pattern = _WHOLE if scale is None else _NUMBER
    good = np.asarray(pc.match_substring_regex(array, pattern).fill_null(False))
    trimmed = pc.utf8_trim_whitespace(pc.if_else(pa.array(good), array, pa.scalar("0")))
    if scale is None:
        numbers = np.array(pc.utf8_ltrim(trimmed, "+").cast(pa.int64()))
    else:
        numbers, fits = _scaled(np.asarray(pc.utf8_ltrim(trimmed, "+").cast(pa.float64())), scale)
        good = good & fits
    rest = np.flatnonzero(~good & np.asarray(array.is_valid()))
    if is_time and rest.size:
        texts = array.take(pa.array(rest))
        numbers[rest], good[rest] = _moments(texts)
    return numbers, good


def _moments(texts: pa.Array) -> tuple[Any, Mask]:
    """ISO 8601 texts as ms; without an offset they are UTC. All at once where they are plain, else one by one."""
    try:
        return np.asarray(texts.cast(pa.timestamp("ms")).cast(pa.int64())), np.ones(len(texts), np.bool_)
    except pa.ArrowException:
        pass
    found = [_moment(text) for text in texts.to_pylist()]
    good = np.array([each is not None for each in found], np.bool_)
    return np.array([each or 0 for each in found], np.int64), good


def _moment(text: str) -> int | None:
    try:
        time = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    return round((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1_000)
