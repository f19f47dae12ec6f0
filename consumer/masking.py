"""Text of others, made fit for a terminal: what looks like a card number masked, and nothing that steers a screen."""

from __future__ import annotations

import re
from typing import Final

from consumer.decode import looks_like_card_number

SHORTEST, LONGEST = 12, 19  # digits of a card number
MASK: Final = "*"
_ESCAPE: Final = r"\\u[0-9a-fA-F]{4}|\\[bfnrt]"  # JSON's, of a separator
_ESCAPES: Final = re.compile(_ESCAPE)
_RUNS: Final = re.compile(rf"\d+(?:(?:{_ESCAPE}|[\W_])+\d+)*")
_WRITTEN: Final = re.compile(r"\d+(?:[ .-]\d+)*")  # as people write a number
_GROUPS: Final = re.compile(r"\d+")
_ESCAPED_DIGIT: Final = re.compile(r"\\u003([0-9])")


def shown(data: bytes) -> str:
    """Bytes as text to be looked at.

    What is not UTF-8, and what is no printable character, is written as an escape. A run of digits that passes for a
    card number keeps its last four, also where separators stand in it, or JSON's escapes for them or for digits.
    """
    text = _ESCAPED_DIGIT.sub(r"\1", data.decode("utf-8", "backslashreplace"))
    return printable(without_card_numbers(text))


def shown_id(text: str) -> str:
    """An id to be looked at: as it is, unless a card number stands in it."""
    return shown(text.encode()) if holds_card_number(text) else text


def shown_token(text: str) -> str:
    """A card's token: as it is, unless it is none (see `looks_like_card_number`)."""
    return shown(text.encode()) if text and looks_like_card_number(text) else text


def holds_card_number(text: str) -> bool:
    """Whether a card number stands in a text, as people write it."""
    return any(_masked(run.group()) != run.group() for run in _WRITTEN.finditer(text))


def printable(text: str) -> str:
    """Text with what is no printable character written as an escape."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def without_card_numbers(text: str) -> str:
    """`text`, of what in it passes for a card number the last four digits only; see `shown`."""
    return _RUNS.sub(lambda run: _masked(run.group()), text)


def _masked(run: str) -> str:
    """Groups of digits with separators between: those that together pass for a card number are masked."""
    digits = _ESCAPES.sub(lambda escape: " " * len(escape.group()), run)
    groups = [range(*found.span()) for found in _GROUPS.finditer(digits)]
    hidden: set[int] = set()
    for first, group in enumerate(groups):
        if len(group) > LONGEST:  # one may be anywhere in it
            hidden.update(group[:-4])
            continue
        places: list[int] = []
        for more in groups[first:]:
            places += more
            if len(places) > LONGEST:
                break
            if len(places) >= SHORTEST and looks_like_card_number("".join(run[place] for place in places)):
                hidden.update(places[:-4])
    return "".join(MASK if place in hidden else each for place, each in enumerate(run)) if hidden else run
