"""Dead letters, read again: where each came from and why it was refused, and which were sent again.

That a dead letter was sent again is told by a mark: a record without value in the same partition of the dead-letter
topic, written in the transaction that sends it. So a mark lives at least as long as the letter that it is about.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from consumer.decode import Message
from consumer.kafka.publisher import Headers
from consumer.publish import HEADERS_DROPPED, KEY_TRUNCATED, TRUNCATED

CONNECT: Final = "__connect.errors."
CLASS: Final = "fraudline.Rejected."
MARK: Final = "fraudline.redrive.sent"
SENT_FROM, SENT_AT, SENT_TIMES = "fraudline.redriven.from", "fraudline.redriven.at_ms", "fraudline.redriven.times"
OURS: Final = frozenset(
    f"{CONNECT}{name}" for name in ("topic", "partition", "offset", "stage", "class.name", "exception.message")
)
CUT: Final = {TRUNCATED: "its value", KEY_TRUNCATED: "its key", HEADERS_DROPPED: "its headers"}
Place = tuple[int, int]  # partition and offset
DIGITS: Final = 18  # of a number in a header; what has more is none of ours


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record of the dead-letter topic. `origin` is where it was read; `cut` names what of it is not whole."""

    message: Message
    topic: str
    origin: Place
    stage: str
    reason: str
    detail: str
    cut: tuple[str, ...]

    @property
    def place(self) -> Place:
        """Where it lies in the dead-letter topic."""
        return self.message.partition(), self.message.offset()

    @property
    def time_ms(self) -> int | None:
        """The original's Kafka timestamp, unless the topic puts its own; None where there is none."""
        kind, time_ms = self.message.timestamp()
        return time_ms if kind else None

    def headers(self) -> Headers:
        """The original's own headers."""
        return _original(self.message.headers() or [])


def read_letter(message: Message) -> DeadLetter | Place | None:
    """A dead letter; of a mark, the offset in its partition that it is about; None for what is neither."""
    headers = _texts(message)
    if message.value() is None and MARK in headers and OURS.isdisjoint(headers):
        offset = headers[MARK]
        return (message.partition(), int(offset)) if offset.isdecimal() and len(offset) <= DIGITS else None
    try:
        origin = int(headers[f"{CONNECT}partition"]), int(headers[f"{CONNECT}offset"])
        return DeadLetter(
            message=message,
            topic=headers[f"{CONNECT}topic"],
            origin=origin,
            stage=headers[f"{CONNECT}stage"],
            reason=headers[f"{CONNECT}class.name"].removeprefix(CLASS),
            detail=headers[f"{CONNECT}exception.message"],
            cut=tuple(what for header, what in CUT.items() if header in headers),
        )
    except (KeyError, ValueError):
        return None


def mark_of(letter: DeadLetter, now_ms: int) -> Headers:
    """The headers of the mark that says that a letter was sent again."""
    return [(MARK, str(letter.place[1]).encode()), (SENT_AT, str(now_ms).encode())]


def sent_headers(letter: DeadLetter, now_ms: int) -> Headers:
    """The headers that a letter is sent again with: its own, and that, when and from where it was sent again."""
    known = letter.headers()
    times = [content or b"" for name, content in known if name == SENT_TIMES]
    before = int(times[-1]) if times and times[-1].isdigit() and len(times[-1]) <= DIGITS else 0
    partition, offset = letter.place
    kept: Headers = [each for each in known if each[0] not in (SENT_FROM, SENT_AT, SENT_TIMES)]
    return [
        *kept,
        (SENT_FROM, f"{letter.message.topic()}-{partition}-{offset}".encode()),
        (SENT_AT, str(now_ms).encode()),
        (SENT_TIMES, str(before + 1).encode()),
    ]


@dataclass(slots=True)
class Group:
    """Dead letters of one topic, stage and reason. Times are ms, of the originals; `newest` is the last one's place."""

    topic: str
    stage: str
    reason: str
    detail: str = ""
    count: int = 0
    sent_again: int = 0
    first_ms: int | None = None
    last_ms: int | None = None
    newest: str = ""


@dataclass(slots=True)
class Tally:
    """What is in the dead-letter topic: by topic, stage and reason."""

    from_ms: int | None = None
    to_ms: int | None = None
    groups: dict[tuple[str, str, str], Group] = field(default_factory=dict)
    others: int = 0
    _of: dict[Place, tuple[str, str, str]] = field(default_factory=dict)

    def add(self, messages: Iterable[Message]) -> None:
        """Count records, of each partition by rising offset."""
        for message in messages:
            letter = read_letter(message)
            if letter is None:
                self.others += 1
            elif not isinstance(letter, DeadLetter):
                key = self._of.pop(letter, None)
                if key is not None:
                    self.groups[key].sent_again += 1
            elif is_between(letter.time_ms, self.from_ms, self.to_ms):
                self._count(letter)

    def _count(self, letter: DeadLetter) -> None:
        key = letter.topic, letter.stage, letter.reason
        group = self.groups.setdefault(key, Group(*key))
        group.count += 1
        group.detail = letter.detail
        group.newest = "{}:{}".format(*letter.place)
        self._of[letter.place] = key
        if letter.time_ms is not None:
            group.first_ms = letter.time_ms if group.first_ms is None else min(group.first_ms, letter.time_ms)
            group.last_ms = letter.time_ms if group.last_ms is None else max(group.last_ms, letter.time_ms)

    def sorted(self) -> list[Group]:
        """The groups, the largest first."""
        return sorted(self.groups.values(), key=lambda each: (-each.count, each.topic, each.reason))


def is_between(time_ms: int | None, from_ms: int | None, to_ms: int | None) -> bool:
    """Whether a time lies in [from_ms, to_ms); no time lies in no bounds but none."""
    if time_ms is None:
        return from_ms is None and to_ms is None
    return (from_ms is None or time_ms >= from_ms) and (to_ms is None or time_ms < to_ms)


def _texts(message: Message) -> Mapping[str, str]:
    """Headers as text; of several of one name the last one, which is ours."""
    return {name: (content or b"").decode("utf-8", "replace") for name, content in message.headers() or ()}


def _original(headers: list[tuple[str, bytes | None]]) -> Headers:
    """Without the last of each header that is ours: the original may have had its own of the same name."""

    def reversed_kept() -> Iterator[tuple[str, bytes | None]]:
        ours = set(OURS) | set(CUT)
        for name, content in reversed(headers):
            if name in ours:
                ours.discard(name)
            else:
                yield name, content

    return list(reversed_kept())[::-1]
