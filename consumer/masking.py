"""Text of others, made fit for a terminal: what looks like a card number masked, and nothing that steers a screen."""

from __future__ import annotations

import re
from typing import Final

from consumer.decode import looks_like_card_number

SHORTEST, LONGEST = 12, 19  # digits of a card number
MASK: Final = "*"
_RUNS: Final = re.compile(r"\d+(?:[\W_]{1,2}\d+)*")
_GROUPS: Final = re.compile(r"\d+")
_ESCAPED_DIGIT: Final = re.compile(r"\\u003([0-9])")


def shown(data: bytes) -> str:
    """Bytes as text to be looked at.

    What is not UTF-8, and what is no printable character, is written as an escape. A run of digits that passes for a
    card number keeps its last four, also where single separators stand in it, or JSON's escapes in place of digits.
    """
    text = _ESCAPED_DIGIT.sub(r"\1", data.decode("utf-8", "backslashreplace"))
    return printable(without_card_numbers(text))


def printable(text: str) -> str:
    """Text with what is no printable character written as an escape."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def without_card_numbers(text: str) -> str:
    """`text`, of what in it passes for a card number the last four digits only; see `shown`."""
    return _RUNS.sub(lambda run: _masked(run.group()), text)


def _masked(run: str) -> str:
    """Groups of digits with separators between: those that together pass for a card number are masked."""
    groups = [range(*found.span()) for found in _GROUPS.finditer(run)]
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
