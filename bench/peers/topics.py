"""The topics of a run: made, followed, read and deleted."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from typing import Any, Final, TypeVar

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import OffsetSpec

from bench.prepare import PARTITIONS
from tests.services.kafka import KafkaBroker

T = TypeVar("T")
READ_DEADLINE_S: Final = 60.0
_NOT_HEARD: Final = frozenset(
    {KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.LEADER_NOT_AVAILABLE}
)
STAMPED: Final = {"message.timestamp.type": "LogAppendTime"}
"""Records carry the instant at which the broker appended them, whoever wrote them."""


def make(kafka: KafkaBroker, names: Iterable[str], *, stamped: bool) -> None:
    """Make topics; `stamped` ones say when the broker got each record (`STAMPED`), others what its sender says."""
    kafka.create_topics(dict.fromkeys(names, PARTITIONS), STAMPED if stamped else None)


def delete(kafka: KafkaBroker, names: Sequence[str]) -> None:
    """Delete topics, so that a day's runs need no more disk than one."""
    for future in kafka.admin.delete_topics(list(names), operation_timeout=30.0).values():
        future.result()


class Progress:
    """Follows how many records a topic has."""

    def __init__(self, kafka: KafkaBroker, topic: str) -> None:
        self._admin = kafka.admin
        self._asked = {TopicPartition(topic, partition): OffsetSpec.latest() for partition in range(PARTITIONS)}

    def count(self) -> int:
        """Records in the topic; markers of transactions count too, aborted ones as well. `Follower` knows better."""
        deadline = time.monotonic() + READ_DEADLINE_S
        while True:
            try:
                return sum(future.result().offset for future in self._admin.list_offsets(self._asked).values())
            except KafkaException as error:  # a client that has not heard yet who leads a new topic's partitions
                if error.args[0].code() not in _NOT_HEARD or time.monotonic() > deadline:
                    raise


class Follower:
    """Follows the records of a topic that a `read_committed` reader sees: no markers, no aborted ones. Close it."""

    def __init__(self, kafka: KafkaBroker, topic: str) -> None:
        self._consumer = _consumer(kafka, topic, eof=False)
        self._appended_ms: list[int] = []
        self.values: list[bytes] = []
        """In the order seen."""

    def count(self) -> int:
        """Records seen by now."""
        while messages := self._consumer.consume(1_000, timeout=0):
            for message in messages:
                error = message.error()
                if error is None:
                    self.values.append(message.value() or b"")
                    self._appended_ms.append(message.timestamp()[1])
                elif error.fatal() or error.code() == KafkaError._AUTO_OFFSET_RESET:
                    raise KafkaException(error)
        return len(self.values)

    def since(self, at_ms: int) -> int:
        """Records seen by now that the broker appended at `at_ms` (since the epoch) or later, in `STAMPED` topics."""
        self.count()
        return sum(each >= at_ms for each in self._appended_ms)

    def close(self) -> None:
        """Release the connection."""
        self._consumer.close()


def read(kafka: KafkaBroker, topic: str, pick: Callable[[Any], T]) -> list[T]:
    """What `pick` takes of each message that a `read_committed` consumer sees of a topic now, in order by partition.

    Raises:
        TimeoutError: it did not see the end in a minute, for a transaction stays open.
    """
    found: list[T] = []
    deadline = time.monotonic() + READ_DEADLINE_S
    with closing(_consumer(kafka, topic, eof=True)) as consumer:
        ended: set[int] = set()
        while len(ended) < PARTITIONS:
            for message in consumer.consume(1_000, timeout=0.1):
                error = message.error()
                if error is None:
                    found.append(pick(message))
                elif error.code() == KafkaError._PARTITION_EOF:
                    ended.add(message.partition())
                else:
                    raise KafkaException(error)
            if time.monotonic() > deadline:
                text = f"{topic} could not be read to its end in {READ_DEADLINE_S:.0f} s."
                raise TimeoutError(text)
    return found


def _consumer(kafka: KafkaBroker, topic: str, *, eof: bool) -> Consumer:
    """A `read_committed` consumer of all partitions from their beginning, in no group."""
    consumer = Consumer(
        {
            "bootstrap.servers": kafka.bootstrap,
            "group.id": "bench-peers-judge",  # required by the client; nothing is committed
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.partition.eof": eof,
        }
    )
    consumer.assign([TopicPartition(topic, each, OFFSET_BEGINNING) for each in range(PARTITIONS)])
    return consumer
