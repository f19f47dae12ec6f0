"""Which records production refused, as its dead letters tell: an input, since the limits of then may not be today's."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence

from consumer.dead_letters import DeadLetter, read_letter
from consumer.decode import Message
from consumer.streams import SUFFIX, Stream
from features.errors import ConfigError

Place = tuple[str, int]  # topic and partition


class Refused:
    """The sources of dead letters, without those that a decision is about after all."""

    def __init__(self) -> None:
        """Nothing was refused."""
        self._offsets: dict[Place, set[int]] = defaultdict(set)

    def __bool__(self) -> bool:
        """Whether anything was."""
        return any(self._offsets.values())

    def add(self, letter: DeadLetter) -> None:
        """Production refused the record that this letter is about."""
        partition, offset = letter.origin
        self._offsets[letter.topic, partition].add(offset)

    def add_all(self, stream: Stream) -> None:
        """Replay as if no record of a topic had ever been accepted. Raises KafkaUnavailable, ConfigError."""
        for messages in stream.chunks():
            for message in messages:
                self._offsets[stream.topic, message.partition()].add(message.offset())

    def release(self, topic: str, partition: int, offset: int) -> None:
        """A record was decided: whatever the dead letters say, its decision is compared."""
        if (topic, partition) in self._offsets:
            self._offsets[topic, partition].discard(offset)

    def without(self, messages: Sequence[Message], topics: Collection[str]) -> Sequence[Message]:
        """Messages without those that were refused in a topic of one of these names."""
        if not self:
            return messages
        of = self._offsets
        return [
            each
            for each in messages
            if not any(each.offset() in of.get((topic, each.partition()), ()) for topic in topics)
        ]


def read_refused(stream: Stream, is_asked: Callable[[DeadLetter], bool] = lambda _letter: True) -> Refused:
    """Read a dead-letter topic; marks of letters that were sent again, and what is no letter of ours, say nothing.

    Raises KafkaUnavailable, and ConfigError for a dump without headers.
    """
    found, records, with_headers = Refused(), 0, 0
    for messages in stream.chunks():
        records += len(messages)
        for message in messages:
            with_headers += bool(message.headers())
            letter = read_letter(message)
            if isinstance(letter, DeadLetter) and is_asked(letter):
                found.add(letter)
    if records and not with_headers and stream.place.endswith(SUFFIX):
        raise ConfigError(
            f"{stream.place} has no headers, which tell where dead letters come from; dump the topic with kcat -J."
        )
    return found
