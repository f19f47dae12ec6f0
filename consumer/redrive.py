"""`fraudline dlq redrive`: which dead letters are sent again, what is to be expected of each, and how they are sent.

1. Take the transactional id that all redrives of a group share: one that is still running can commit no more.
2. Read the dead-letter topic: letters that were asked for, without those that have a mark. A processor's transaction
   that is open hides what lies behind it, so its end is waited for.
3. Decode each with today's decoder: would it be accepted now?
4. Send some at a time. A transaction holds the records, a mark for each, and what the audit topic is told.

Killed between any two, the next run finds by the marks what was sent, and sends the rest.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from consumer.dead_letters import DeadLetter, Place, is_between, read_letter
from consumer.decode import Decoder, Message
from consumer.kafka.publisher import Headers

ACCEPTED: Final = "accepted"
NEVER: Final = frozenset(("card_number",))  # sent again it would only lie in one topic more
AT_ONCE: Final = 200
BROKERS_TIME: Final = 2  # the kind of a timestamp that a broker has put


@dataclass(frozen=True, slots=True)
class Asked:
    """Which dead letters are meant: all that fit everything that is given. Times are ms, of the originals."""

    reasons: frozenset[str] = frozenset()
    topics: frozenset[str] = frozenset()
    places: frozenset[Place] = frozenset()
    from_ms: int | None = None
    to_ms: int | None = None
    limit: int = 10_000
    force: bool = False

    def means(self, letter: DeadLetter) -> bool:
        """Whether it is one of them."""
        return (
            (not self.reasons or letter.reason in self.reasons)
            and (not self.topics or letter.topic in self.topics)
            and (not self.places or letter.place in self.places)
            and is_between(letter.time_ms, self.from_ms, self.to_ms)
        )


@dataclass(slots=True)
class Plan:
    """What would be sent again.

    Attributes:
        chosen: where the letters lie, of each partition by rising offset.
        expected: how many of each topic and expectation, `accepted` or the reason of a refusal, are chosen.
        refused: likewise of those that are not sent: they would fail again, or are not whole.
        sent_before: how many that were asked for have been sent before.
        left: how many more there are than the limit.
    """

    chosen: list[Place] = field(default_factory=list)
    expected: Counter[tuple[str, str]] = field(default_factory=Counter)
    refused: Counter[tuple[str, str]] = field(default_factory=Counter)
    sent_before: int = 0
    left: int = 0


class Oracle:
    """What the decoder of today would make of a dead letter that is sent again."""

    def __init__(self, decoder: Decoder, topics: Sequence[str]) -> None:
        """Letters of other topics than these are sent nowhere."""
        self._decoder, self._topics = decoder, frozenset(topics)

    def expects(self, letter: DeadLetter, now_ms: int) -> str:
        """`accepted`; the reason for which it is refused again; or why it can't be sent at all."""
        if letter.topic not in self._topics:
            return "another_topic"
        if letter.cut:
            return "not_whole"
        decoded = self._decoder.decode([_Again(letter, now_ms)])
        return decoded.rejected[0].reason if decoded.rejected else ACCEPTED

    def may_be_sent(self, expected: str, *, force: bool) -> bool:
        """Whether a letter of which this is expected is sent."""
        return expected == ACCEPTED or (force and expected not in NEVER | {"another_topic", "not_whole"})


def plan(chunks: Iterable[Sequence[Message]], asked: Asked, oracle: Oracle, now_ms: int) -> Plan:
    """Read the whole topic, of each partition by rising offset, and choose."""
    expected: dict[Place, tuple[str, str]] = {}
    found = Plan()
    for messages in chunks:
        for message in messages:
            letter = read_letter(message)
            if isinstance(letter, DeadLetter):
                if asked.means(letter):
                    expected[letter.place] = letter.topic, oracle.expects(letter, now_ms)
            elif letter is not None and expected.pop(letter, None) is not None:
                found.sent_before += 1
    for place, (topic, outcome) in sorted(expected.items()):
        if not oracle.may_be_sent(outcome, force=asked.force):
            found.refused[topic, outcome] += 1
        elif len(found.chosen) == asked.limit:
            found.left += 1
        else:
            found.chosen.append(place)
            found.expected[topic, outcome] += 1
    return found


class Sender(Protocol):
    """Sends letters and their marks, all of them or none."""

    def send(self, letters: Sequence[DeadLetter]) -> None:
        """In one transaction. Raises KafkaUnavailable: then run the redrive again."""


def send(
    letters: Iterable[DeadLetter],
    sender: Sender,
    rate: float,
    sent: Callable[[int], None] = lambda _more: None,
    *,
    clock: Callable[[], float] = time.monotonic,
    wait: Callable[[float], None] = time.sleep,
) -> int:
    """Send letters at so many a second at most; `sent` is told how many more are. Returns how many."""
    begun_s, count = clock(), 0
    for block in _blocks(letters, max(1, min(AT_ONCE, int(rate)))):
        early_s = begun_s + count / rate - clock()
        if early_s > 0:
            wait(early_s)
        sender.send(block)
        count += len(block)
        sent(len(block))
    return count


def _blocks(letters: Iterable[DeadLetter], size: int) -> Iterator[list[DeadLetter]]:
    block: list[DeadLetter] = []
    for letter in letters:
        block.append(letter)
        if len(block) == size:
            yield block
            block = []
    if block:
        yield block


@dataclass(frozen=True, slots=True)
class _Again:
    """A dead letter as its topic would have it, if it were sent now."""

    letter: DeadLetter
    now_ms: int

    def topic(self) -> str:
        return self.letter.topic

    def partition(self) -> int:
        return self.letter.origin[0]

    def offset(self) -> int:
        return self.letter.origin[1]

    def key(self) -> bytes | None:
        return self.letter.message.key()

    def value(self) -> bytes | None:
        return self.letter.message.value()

    def headers(self) -> Headers:
        return self.letter.headers()

    def timestamp(self) -> tuple[int, int]:
        return BROKERS_TIME, self.now_ms
