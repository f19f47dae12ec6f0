"""`fraudline explain`, first half: everything that the topics hold about one event.

Kafka has no index of events, so its topics are searched: for the bytes of the id, and only what has them is decoded.
Who knows the card or the time lets most of them be left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar
from zlib import crc32

import msgspec

from consumer.dead_letters import DeadLetter, read_letter
from consumer.decode import Decoder, Message
from consumer.masking import shown
from consumer.records import Alert, Decision
from consumer.streams import Stream, TopicStream
from features.event import Payment

Only = Mapping[int, tuple[int, int]]  # by partition: offsets
Seen = Callable[[int], None]
ESCAPE: Final = b"\\"
_T = TypeVar("_T", Decision, Alert)


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the records are. None: not looked at."""

    decisions: Stream
    payments: Stream
    labels: Stream | None
    journal: Stream | None
    alerts: Stream | None
    dead_letters: Stream | None


@dataclass(frozen=True, slots=True)
class Published:
    """A decision, and when Kafka had it in ms; None where that is not known."""

    decision: Decision
    time_ms: int | None


@dataclass(slots=True)
class Dossier:
    """What was found of an event.

    Attributes:
        decisions: several where it was decided again under at_least_once, or where several cards use the id.
        alerts: likewise.
        payments: the records of payments of this id; only those that a decision is about, if there is one; and none
            that the dead letters tell to have been refused, whatever today's limits say.
        letters: dead letters whose bytes name the id, and which of them were sent again.
    """

    event_id: str
    decisions: list[Published] = field(default_factory=list)
    alerts: list[Alert] = field(default_factory=list)
    payments: list[tuple[Message, Payment]] = field(default_factory=list)
    letters: list[tuple[DeadLetter, bool]] = field(default_factory=list)


def needle(text: str) -> bytes:
    """The bytes of a string in JSON, as everybody writes it who writes no needless escapes."""
    return msgspec.json.encode(text)


def partition_of(card: str, partitions: int) -> int:
    """Where the processor's producer puts the records of a card: librdkafka's partitioner `consistent_random`."""
    return crc32(card.encode()) % partitions


def find(
    event_id: str,
    sources: Sources,
    decoder: Decoder,
    *,
    card: str | None = None,
    only: Callable[[Stream], Only | None] = lambda _stream: None,
    seen: Seen = lambda _count: None,
) -> Dossier:
    """Search. `only` narrows topics down; `seen` is told how many more records were looked at.

    Raises KafkaUnavailable, ConfigError.
    """
    found = Dossier(event_id)
    decided = _of_event(sources.decisions, only, event_id, card, Decision, seen)
    found.decisions = [Published(each, _time(message)) for message, each in decided]
    if sources.alerts is not None and any(each.decision.decision != "approve" for each in found.decisions):
        found.alerts = [each for _, each in _of_event(sources.alerts, only, event_id, card, Alert, seen)]
    places = {(each.decision.source.partition, each.decision.source.offset) for each in found.decisions}
    within = _around(places) if places else only(sources.payments)
    for message in _holding(sources.payments, within, needle(event_id), seen):
        payment = decoder.check(message.value() or b"", is_label=False)
        if isinstance(payment, Payment) and payment.event_id == event_id and card in (None, payment.card_id):
            found.payments.append((message, payment))
    if sources.dead_letters is not None:
        found.letters = _letters(sources.dead_letters, event_id, seen)
    refused = {(letter.topic, *letter.origin) for letter, _ in found.letters}
    refused -= {
        (source.topic, source.partition, source.offset) for source in (e.decision.source for e in found.decisions)
    }
    found.payments = [
        (message, payment)
        for message, payment in found.payments
        if (message.topic(), message.partition(), message.offset()) not in refused
    ]
    return found


def _of_event(
    stream: Stream, only: Callable[[Stream], Only | None], event_id: str, card: str | None, kind: type[_T], seen: Seen
) -> list[tuple[Message, _T]]:
    """Of a topic of ours, what is about an event; where the card is known, in its partition first.

    Elsewhere it may be that the topic had fewer partitions then.
    """
    if card is None or not isinstance(stream, TopicStream):
        return _decoded(stream, only(stream), event_id, card, kind, seen)
    within = dict(only(stream) or stream.newest(1 << 62))
    number = partition_of(card, len(within))
    own = {number: within.pop(number)}
    return _decoded(stream, own, event_id, card, kind, seen) or _decoded(stream, within, event_id, card, kind, seen)


def _around(places: set[tuple[int, int]]) -> Only:
    """From the first to the last place of each partition."""
    offsets: dict[int, list[int]] = {}
    for partition, offset in places:
        offsets.setdefault(partition, []).append(offset)
    return {partition: (min(some), max(some) + 1) for partition, some in offsets.items()}


def _holding(stream: Stream, only: Only | None, sought: bytes, seen: Seen) -> Iterator[Message]:
    """Records that have these bytes, or escapes that may stand for them."""
    chunks = stream.chunks(only) if isinstance(stream, TopicStream) else stream.chunks()
    for messages in chunks:
        seen(len(messages))
        for message in messages:
            value = message.value()
            if value is not None and (sought in value or ESCAPE in value):
                yield message


def _decoded(
    stream: Stream, only: Only | None, event_id: str, card: str | None, kind: type[_T], seen: Seen
) -> list[tuple[Message, _T]]:
    decode = msgspec.json.Decoder(kind).decode
    found = []
    for message in _holding(stream, only, needle(event_id), seen):
        try:
            each = decode(message.value() or b"")
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue  # what is no record of ours says nothing of the event
        if each.event_id == event_id and card in (None, each.card_id):
            found.append((message, each))
    return found


def _letters(stream: Stream, event_id: str, seen: Seen) -> list[tuple[DeadLetter, bool]]:
    """Those whose bytes name the event as its `event_id`, or anyhow where they are not JSON."""
    letters: dict[tuple[int, int], DeadLetter] = {}
    sent: set[tuple[int, int]] = set()
    for messages in stream.chunks():
        seen(len(messages))
        for message in messages:
            letter = read_letter(message)
            if isinstance(letter, DeadLetter):
                if _names(message.value() or b"", event_id):
                    letters[letter.place] = letter
            elif letter is not None and letter in letters:
                sent.add(letter)
    return [(letter, place in sent) for place, letter in letters.items()]


def _names(value: bytes, event_id: str) -> bool:
    sought = needle(event_id)
    if sought not in value and ESCAPE not in value:
        return False
    try:
        document = msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return sought in value
    return isinstance(document, dict) and document.get("event_id") == event_id


def _time(message: Message) -> int | None:
    kind, time_ms = message.timestamp()
    return time_ms if kind else None


@dataclass(frozen=True, slots=True)
class Standing:
    """What became of an event without a decision: a stable word, and a sentence."""

    word: str
    text: str


def standing(found: Dossier, committed: Mapping[int, int | None], kept_from: Sequence[int]) -> Standing:
    """Say what became of an event that no decision is about.

    Args:
        found: what the topics hold of it.
        committed: by partition of payments, up to where (exclusive) the group has decided; empty where nobody knows.
        kept_from: the oldest offset of each partition of the decisions.
    """
    waiting = [
        (message, committed[message.partition()] or 0)
        for message, _ in found.payments
        if message.partition() in committed and message.offset() >= (committed[message.partition()] or 0)
    ]
    if waiting:
        message, reached = waiting[0]
        return Standing(
            "undecided",
            f"The payment lies at {_place(message)}, and the group has decided up to offset {reached}: "
            f"{message.offset() - reached + 1:,} payments are due before and with it; see fraudline lag.",
        )
    unsent = [letter for letter, is_sent in found.letters if not is_sent]
    if not found.payments and unsent:
        letter = unsent[0]
        return Standing(
            "dead_letter",
            f"It is in the dead letters: {shown(letter.reason.encode())}; "
            f"see fraudline dlq show {letter.place[0]}:{letter.place[1]}.",
        )
    if not found.payments:
        return Standing("never_seen", "No decision, payment or dead letter of this id was found.")
    return _decided_once(found, kept_from)


def _decided_once(found: Dossier, kept_from: Sequence[int]) -> Standing:
    places = ", ".join(_place(message) for message, _ in found.payments)
    if any(kept_from):
        return Standing(
            "decision_gone",
            f"The payment ({places}) was decided or counted as a repetition, and the decisions topic no longer reaches "
            "back to the beginning.",
        )
    return Standing(
        "repeated_or_lost",
        f"The payment ({places}) is behind what the group has committed, and has no decision: either its id repeats "
        "one that was decided for its card and is not in what was searched, or something is wrong; fraudline certify "
        "tells which.",
    )


def _place(message: Message) -> str:
    return f"{message.topic()}-{message.partition()}-{message.offset()}"
