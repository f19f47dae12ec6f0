"""What the columns of a file of payments or labels hold, read off the record types; and the count of what does not."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Final, Literal, cast

import numpy as np
import numpy.typing as npt
from msgspec.inspect import Field as Declared
from msgspec.inspect import IntType, LiteralType, Metadata, NoneType, StrType, StructType, UnionType, type_info

from features.errors import ConfigError
from features.event import Label, Payment

Mask = npt.NDArray[np.bool_]

Kind = type[Payment] | type[Label]
Reason = Literal[
    "card_number",
    "future_event_time",
    "malformed",
    "missing_field",
    "out_of_range",
    "unknown_currency",
    "wrong_type",
]

WORDS: Final[dict[Reason, str]] = {
    "card_number": "looks like a card number: send a token",
    "future_event_time": "is later than labelled_at",
    "malformed": "is not one row of the format",
    "missing_field": "is missing",
    "out_of_range": "is out of range",
    "unknown_currency": "is not an active ISO 4217 code",
    "wrong_type": "has another type than it should",
}


@dataclass(frozen=True, slots=True)
class Field:
    """One column: text of `least` to `most` characters, one of `choices`, or (`is_whole`) an integer in that range."""

    name: str
    is_required: bool
    is_whole: bool
    least: int = 0
    most: int = 0
    choices: tuple[str, ...] = ()


@cache
def fields_of(kind: Kind) -> tuple[Field, ...]:
    """The columns of a record type, in order."""
    return tuple(_field(each) for each in cast("StructType", type_info(kind)).fields)


def _field(declared: Declared) -> Field:
    held = declared.type
    if isinstance(held, UnionType):
        [held] = [each for each in held.types if not isinstance(each, NoneType)]
    if isinstance(held, Metadata):
        held = held.type
    match held:
        case IntType(ge=int(least), le=int(most)):
            return Field(declared.name, declared.required, True, least, most)
        case StrType(min_length=least, max_length=int(most)):
            return Field(declared.name, declared.required, False, least or 0, most)
        case LiteralType(values=values):
            return Field(declared.name, declared.required, False, choices=tuple(map(str, values)))
    raise TypeError(f"{declared.name}: a column can't hold {held}")


@dataclass(slots=True)
class Refused:
    """Rows of a file and why each is refused, ten bytes for each: a column may be wrong in every row."""

    numbers: array[int] = field(default_factory=lambda: array("q"))
    whys: array[int] = field(default_factory=lambda: array("H"))
    known: list[tuple[str | None, Reason]] = field(default_factory=list)

    def add(self, rows: list[int], column: str | None, reason: Reason) -> None:
        """Rows that are refused for the same reason."""
        why = (column, reason)
        if why not in self.known:
            self.known.append(why)
        self.numbers.extend(rows)
        self.whys.extend([self.known.index(why)] * len(rows))

    def merge(self, other: Refused) -> None:
        """Add what another part of the file refused."""
        for number, why in enumerate(other.known):
            rows = [row for row, its in zip(other.numbers, other.whys, strict=True) if its == number]
            self.add(rows, *why)

    def by_row(self) -> Iterator[tuple[int, str | None, Reason]]:
        """Each with its column and its reason, by rising row."""
        before = None
        for place in np.argsort(np.array(self.numbers, np.int64), kind="stable"):
            if self.numbers[place] != before:
                before = self.numbers[place]
                yield before, *self.known[self.whys[place]]


@dataclass(slots=True)
class Refusals:
    """Rows that are no record, counted by reason; the first one is told."""

    path: Path
    what: str
    counts: Counter[Reason] = field(default_factory=Counter)
    first_row: int | None = None
    first: str = ""
    rows: Refused | None = None  # each of them, where they are asked for

    def note(self, rows: list[int], column: str | None, reason: Reason) -> None:
        """Count rows of the file, numbered from 1 and rising, as refused for the same reason."""
        if not rows:
            return
        self.counts[reason] += len(rows)
        if self.rows is not None:
            self.rows.add(rows, column, reason)
        if self.first_row is None or rows[0] < self.first_row:
            self.first_row = rows[0]
            self.first = f"{'' if column is None else f'column {column} '}{WORDS[reason]}"

    def merge(self, other: Refusals) -> None:
        """Add what another part of the same file refused."""
        self.counts.update(other.counts)
        if self.rows is not None and other.rows is not None:
            self.rows.merge(other.rows)
        if other.first_row is not None and (self.first_row is None or other.first_row < self.first_row):
            self.first_row, self.first = other.first_row, other.first

    def demand_none(self) -> None:
        """Raise ConfigError when any row was refused."""
        if count := self.counts.total():
            rows = f"1 row that is no {self.what}" if count == 1 else f"{count:,} rows that are no {self.what}"
            raise ConfigError(
                f"{self.path} has {rows} (row {self.first_row:,}: {self.first}); mend the file, or give --skip-bad to "
                "leave them out."
            )
