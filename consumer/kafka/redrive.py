"""Sends dead letters again: records, marks and audit record in one transaction, under an id that all redrives share."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Final

from confluent_kafka import Consumer

from consumer.audit import AuditEntry
from consumer.dead_letters import DeadLetter, Place, mark_of, read_letter, sent_headers
from consumer.kafka.audit import outgoing
from consumer.kafka.client import group_config, require_topics
from consumer.kafka.logreader import LogReader
from consumer.kafka.publisher import Outgoing, TransactionalPublisher
from consumer.settings import Settings
from consumer.streams import TopicStream, read_range
from features.errors import Fenced, KafkaError, KafkaUnavailable

ID: Final = "redrive"


class Redriver:
    """One redrive. While it lives, no other redrive of this group can send: a new one takes the id over."""

    def __init__(self, settings: Settings, audit: Callable[[Sequence[DeadLetter]], AuditEntry] | None) -> None:
        """Take over. `audit` tells what the audit topic is told of letters. Raises KafkaUnavailable."""
        kafka, topics = settings.kafka, settings.topics
        self._kafka = kafka
        self._topic, self._audit_topic, self._audit = topics.dead_letters, topics.audit, audit
        wanted = [topics.payments, topics.labels, topics.dead_letters, *([topics.audit] if audit else [])]
        checker = Consumer(group_config(kafka))
        try:
            self._partitions = require_topics(checker, kafka, wanted)
        finally:
            checker.close()
        own = kafka.model_copy(update={"transactional_id": f"{kafka.group_id}-{ID}"})
        self._publisher = TransactionalPublisher(own, None)
        self._log = LogReader(kafka, topics.dead_letters)

    def stream(self) -> TopicStream:
        """All dead letters and all marks, also those behind a processor's transaction that is still open."""
        return TopicStream(self._kafka, self._topic, waits=True)

    def letters(self, places: Sequence[Place]) -> Iterator[DeadLetter]:
        """The letters at these places, which rise in each partition. Raises KafkaUnavailable."""
        for partition, some in groupby(places, lambda place: place[0]):
            due = {offset for _, offset in some}
            for messages in read_range(self._log, (self._topic, partition), min(due), max(due) + 1):
                for message in messages:
                    letter = read_letter(message) if message.offset() in due else None
                    if isinstance(letter, DeadLetter):
                        yield letter

    def send(self, letters: Sequence[DeadLetter]) -> None:
        """See `consumer.redrive.Sender`."""
        now_ms = round(time.time() * 1_000)
        records: list[Outgoing] = []
        for letter in letters:
            own, origin = letter.message, letter.origin[0]
            if origin >= self._partitions[letter.topic]:
                raise KafkaUnavailable(
                    f"{letter.topic} has no partition {origin} any more, where a dead letter came from: send it by hand"
                )
            records += (
                Outgoing(letter.topic, own.key(), own.value(), sent_headers(letter, now_ms), partition=origin),
                Outgoing(self._topic, own.key(), None, mark_of(letter, now_ms), partition=letter.place[0]),
            )
        if self._audit is not None:
            records.append(outgoing(self._audit_topic, self._audit(letters)))
        try:
            self._publisher.publish(records)
            self._publisher.commit(())
        except Fenced:
            raise
        except KafkaError as error:
            raise KafkaUnavailable(
                f"The dead letters were not sent, or another redrive took over ({error}); run it again: what was sent "
                "is known, and is not sent twice"
            ) from error

    def close(self) -> None:
        """Release the connections."""
        self._publisher.close()
        self._log.close()


def told_of(letters: Sequence[DeadLetter]) -> dict[str, object]:
    """What the audit topic is told of letters that are sent together."""
    first, last = letters[0].place, letters[-1].place
    reasons = Counter(letter.reason for letter in letters)
    return {
        "letters": len(letters),
        "first": "{}:{}".format(*first),
        "last": "{}:{}".format(*last),
        "reasons": ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items())),
    }
