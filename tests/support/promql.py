"""What a PromQL expression names: a walk over its tokens. Whether it is one at all, promtool says."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

_TOKEN: Final = re.compile(
    r"""(?P<space>\s+|\#[^\n]*)
    |(?P<text>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|`[^`]*`)
    |(?P<number>(?:\d+(?:ms|[smhdwy]))+|0x[0-9a-fA-F]+|\d*\.?\d+(?:[eE][+-]?\d+)?)
    |(?P<name>[a-zA-Z_][a-zA-Z0-9_:]*)
    |(?P<sign>=~|!~|!=|==|<=|>=|[-+*/%^=<>(){}\[\],:@])""",
    re.VERBOSE,
)
_WORDS: Final = {"and", "or", "unless", "atan2", "offset", "bool", "inf", "nan", "start", "end"}
_CALLED: Final = {"(", "by", "without"}  # what comes behind a function
_LISTS: Final = {"by", "without", "on", "ignoring", "group_left", "group_right"}


@dataclass(frozen=True, slots=True)
class Selector:
    """A metric, and what its labels must be: (label, operator, text)."""

    metric: str
    matchers: tuple[tuple[str, str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Named:
    """What an expression names: selectors, and the labels that it groups or joins by."""

    selectors: tuple[Selector, ...]
    labels: frozenset[str]


def named(expression: str) -> Named:
    """Walk an expression. Raises ValueError at what is no token of PromQL."""
    tokens = list(_tokens(expression))
    selectors: list[Selector] = []
    labels: set[str] = set()
    at = 0
    while at < len(tokens):
        kind, text = tokens[at]
        following = tokens[at + 1][1] if at + 1 < len(tokens) else ""
        at += 1
        if kind == "name" and text in _LISTS:
            if following == "(":
                end = tokens.index(("sign", ")"), at)
                labels.update(word for sort, word in tokens[at:end] if sort == "name")
                at = end + 1
        elif kind == "name" and text.lower() not in _WORDS and following not in _CALLED:
            matchers: tuple[tuple[str, str, str], ...] = ()
            if following == "{":
                end = tokens.index(("sign", "}"), at)
                matchers = tuple(_matchers(tokens[at + 1 : end]))
                at = end + 1
            selectors.append(Selector(text, matchers))
        elif text == "{":
            raise ValueError(f"a selector without a metric in {expression}")
    return Named(tuple(selectors), frozenset(labels))


def _tokens(expression: str) -> Iterator[tuple[str, str]]:
    at = 0
    while at < len(expression):
        match = _TOKEN.match(expression, at)
        if match is None:
            raise ValueError(f"no PromQL at {at} of {expression}")
        at = match.end()
        kind = match.lastgroup or ""
        if kind != "space":
            yield kind, match[0]


def _matchers(tokens: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str, str]]:
    words = [text for _, text in tokens if text != ","]
    for label, operator, text in zip(words[::3], words[1::3], words[2::3], strict=True):
        yield label, operator, text[1:-1]


Exported = Mapping[str, Sequence[Mapping[str, str]]]
"""The labels of every sample that is exported, by its name."""
TARGET: Final = {"namespace", "job", "instance"}  # Prometheus puts them on


def unknown(expression: str, exported: Exported, recorded: Mapping[str, str]) -> list[str]:
    """What an expression names that is neither exported nor recorded, in words; `recorded` has expressions by name."""
    found = named(expression)
    problems = [why for selector in found.selectors for why in _lacks(selector, exported, recorded)]
    labels = {"le", *TARGET}.union(*(_labels(selector.metric, exported, recorded) for selector in found.selectors))
    return problems + [f"no metric of it has the label {label}" for label in sorted(found.labels - labels)]


def _lacks(selector: Selector, exported: Exported, recorded: Mapping[str, str]) -> Iterator[str]:
    if selector.metric not in exported and selector.metric not in recorded:
        yield f"nothing exports {selector.metric}"
        return
    known = TARGET | _labels(selector.metric, exported, recorded)
    for label, operator, text in selector.matchers:
        if label not in known:
            yield f"{selector.metric} has no label {label}"
        elif label not in TARGET and operator in ("=", "=~"):
            there = {sample.get(label, "") for sample in exported.get(selector.metric, ())}
            words = text.split("|") if operator == "=~" else [re.escape(text)]
            for word in words:
                if not any(re.fullmatch(word, value) for value in there):
                    yield f"{selector.metric} has no {label} that is {word}"


def _labels(metric: str, exported: Exported, recorded: Mapping[str, str]) -> set[str]:
    if metric in recorded:
        inner = named(recorded[metric]).selectors
        return set().union(*(_labels(selector.metric, exported, {}) for selector in inner))
    return {label for sample in exported.get(metric, ()) for label in sample}
