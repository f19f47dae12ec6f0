"""What was published, packed into numbers: many decisions have to wait until the payments that they are about are made.

A decision becomes a row of eight-byte words. Words that few decisions differ in (bundle, rules, inputs) are kept once,
and numbered.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
from xxhash import xxh3_64_intdigest

from consumer.records import Decision, Digests, alert_text
from features.event import Words
from models.lists import LISTS
from models.policy import DECISIONS, Tier

PARTITION, OFFSET, SHARD, EPOCH, SEQUENCE, SCORE, REVIEW, BLOCK, IDENTITY, DECISION, RULES, CASE = range(12)
WORDS: Final = 12
NO_STATE: Final = -1
QUIET: Final = 0  # the number of no rules
CODE_OF: Final = {name: code for code, name in enumerate(DECISIONS)}

Fired = tuple[tuple[str, ...], tuple[str, ...]]  # rules, shadow rules


class Case(NamedTuple):
    """What decisions have in common: who decided how, from which inputs but thresholds."""

    topic: str
    model: str
    digests: Digests
    tier: Tier
    device: str
    input_tier: Tier
    limited: bool
    lists_version: int | None
    canary: str | None


@dataclass(slots=True)
class Reach:
    """Between which offsets of a partition of payments all that was published of it is there.

    By partition of what was published, the first and the last of them; 0 for the first where nothing is gone. What is
    published of one batch goes to several partitions, which are read one after the other, or were cut at other places.
    """

    firsts: dict[int, int] = field(default_factory=dict)
    lasts: dict[int, int] = field(default_factory=dict)
    least: int = 1 << 62

    @property
    def first(self) -> int:
        """The first offset from which on nothing is missing."""
        return max(self.least, *self.firsts.values())

    @property
    def last(self) -> int:
        """The last offset up to which nothing is missing."""
        return min(self.lasts.values())

    def note(self, partition: int, offsets: Words, *, is_whole: bool) -> None:
        """Something about these offsets is in `partition`, whose beginning is gone unless it `is_whole`."""
        least = int(offsets.min())
        self.least = min(self.least, least)
        self.firsts[partition] = min(self.firsts.get(partition, least), 0 if is_whole else least)
        self.lasts[partition] = max(self.lasts.get(partition, -1), int(offsets.max()))


class Numbered:
    """Values that come again and again, each with a number."""

    def __init__(self) -> None:
        """Nothing is numbered yet."""
        self.known: list[object] = []
        self._number: dict[object, int] = {}

    def of(self, value: object) -> int:
        """The number of a value."""
        number = self._number.get(value)
        if number is None:
            number = self._number[value] = len(self.known)
            self.known.append(value)
        return number


class Packer:
    """Packs decisions. What it numbered, it can give back."""

    def __init__(self) -> None:
        """Begin."""
        self._cases, self._rules = Numbered(), Numbered()
        self._rules.of(((), ()))  # QUIET

    @property
    def cases(self) -> Sequence[Case]:
        """All cases, by number."""
        return self._cases.known  # type: ignore[return-value]

    @property
    def rules(self) -> Sequence[Fired]:
        """Which rules fired together, by number."""
        return self._rules.known  # type: ignore[return-value]

    def number_of(self, fired: Fired) -> int:
        """The number of rules that fired together."""
        return self._rules.of(fired)

    def pack(self, decisions: Sequence[Decision]) -> Words:
        """(n, WORDS) of n decisions."""
        rows = np.empty((len(decisions), WORDS), np.int64)
        case_of, rules_of, nan = self._cases.of, self._rules.of, math.nan
        words: list[int] = []  # flat: numpy takes twice as long to look into tuples
        numbers: list[float] = []
        for told in decisions:
            state, given, source = told.state, told.inputs, told.source
            limited = given.limiter is not None
            who = (source.topic, told.model, told.digests, told.tier, given.device, given.tier, limited)
            words += (
                source.partition,
                source.offset,
                *((NO_STATE, 0, 0) if state is None else (state.shard, state.epoch, state.sequence)),
                CODE_OF[told.decision],
                rules_of((told.rules, told.shadow_rules)),
                case_of(Case(*who, given.lists_version, given.canary)),
            )
            score, review, block = told.score, given.review_threshold, given.block_threshold
            numbers += (
                nan if score is None else score,
                nan if review is None else review,
                nan if block is None else block,
            )
        columns = [PARTITION, OFFSET, SHARD, EPOCH, SEQUENCE, DECISION, RULES, CASE]
        rows[:, columns] = np.array(words, np.int64).reshape(-1, len(columns))
        rows[:, [SCORE, REVIEW, BLOCK]] = np.array(numbers, np.float64).reshape(-1, 3).view(np.int64)
        rows[:, IDENTITY] = identities((told.card_id, told.event_id, told.event_time) for told in decisions)
        return rows


def floats(rows: Words, column: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """(n,) a column of numbers as float32, which they were when they were published; NaN for null."""
    return np.ascontiguousarray(rows[:, column]).view(np.float64).astype(np.float32)


def identities(payments: Iterable[tuple[str, str, int]]) -> Words:
    """(n,) hashes of what an alert id is made of: card, event, event time."""
    return np.array([xxh3_64_intdigest(alert_text(*each)) for each in payments], np.uint64).view(np.int64)


def lists_told(rules: Sequence[Fired]) -> dict[str, np.ndarray[tuple[int], np.dtype[np.bool_]]]:
    """Of each list in which of `rules` it is told of."""
    return {name: np.array([f"list_{name}" in fired for fired, _ in rules], np.bool_) for name in LISTS}
