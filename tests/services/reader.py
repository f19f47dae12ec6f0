"""An independent witness: what a `read_committed` consumer sees of some topics from their start, while others crash."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec

_CLIENT = {"reconnect.backoff.ms": 50, "reconnect.backoff.max.ms": 500, "log_level": 0}


@dataclass(frozen=True, slots=True)
class Seen:
    """One committed record, as it was read; `timestamp_ms` is Kafka's."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    timestamp_ms: int
    received_monotonic_ns: int


class ReadCommitted:
    """Reads topics from the beginning in a thread of its own, through any restart of the broker, until `stop`.

    The topics must exist, with the partitions they are to have. Use as a context manager.
    """

    def __init__(self, bootstrap: str, topics: Sequence[str]) -> None:
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": f"read-committed-{uuid.uuid4().hex}",  # required by the client; nothing is committed
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "fetch.wait.max.ms": 100,
                **_CLIENT,
            }
        )
        self._admin = AdminClient({"bootstrap.servers": bootstrap, **_CLIENT})
        self._partitions = self._find_partitions(topics)
        self._seen: list[Seen] = []
        self._ends: dict[tuple[str, int], int] = {}
        self._failure: KafkaError | None = None
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._read, name="read-committed", daemon=True)
        self._consumer.assign([TopicPartition(t, p, OFFSET_BEGINNING) for t, p in self._partitions])
        self._thread.start()

    def seen(self, topic: str | None = None) -> list[Seen]:
        """All records so far in the order of arrival, or those of one topic."""
        with self._changed:
            return [record for record in self._seen if topic is None or record.topic == topic]

    def wait_until(self, predicate: Callable[[Sequence[Seen]], object], timeout_s: float = 30.0) -> list[Seen]:
        """Wait until `predicate` holds of all records so far; returns them.

        Raises:
            TimeoutError: it did not hold in time.
            confluent_kafka.KafkaException: the consumer failed for good.
        """
        self._wait(lambda: predicate(self._seen), timeout_s)
        return self.seen()

    def read_to_end(self, timeout_s: float = 30.0) -> list[Seen]:
        """Wait until everything that is committed at this moment was read; returns all records so far.

        Raises:
            TimeoutError: it was not read in time.
            confluent_kafka.KafkaException: the broker did not say where its topics end, or reading failed for good.
        """
        deadline = time.monotonic() + timeout_s
        ends = self._committed_ends(deadline)
        self._wait(lambda: all(self._ends.get(at, 0) >= end for at, end in ends.items()), deadline - time.monotonic())
        return self.seen()

    def stop(self) -> None:
        """End the thread and close the consumer; what was seen stays readable."""
        if not self._stopping.is_set():
            self._stopping.set()
            self._thread.join()
            self._consumer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _find_partitions(self, topics: Sequence[str]) -> list[tuple[str, int]]:
        known = self._admin.list_topics(timeout=10.0).topics
        absent = sorted(set(topics) - set(known))
        if absent:
            self._consumer.close()
            message = f"These topics do not exist: {', '.join(absent)}; create them before reading."
            raise LookupError(message)
        return [(topic, partition) for topic in topics for partition in known[topic].partitions]

    def _committed_ends(self, deadline: float) -> dict[tuple[str, int], int]:
        wanted = {TopicPartition(topic, part): OffsetSpec.latest() for topic, part in self._partitions}
        while True:
            try:
                self._admin.list_topics(timeout=5.0)  # or the client goes on with the leader epoch before a restart
                futures = self._admin.list_offsets(
                    wanted, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=5.0
                )
                return {(at.topic, at.partition): future.result().offset for at, future in futures.items()}
            except KafkaException:
                if time.monotonic() > deadline:
                    raise

    def _wait(self, holds: Callable[[], object], timeout_s: float) -> None:
        with self._changed:
            held = self._changed.wait_for(lambda: self._failure is not None or bool(holds()), timeout_s)
            if self._failure is not None:
                raise KafkaException(self._failure)
            if not held:
                message = f"Not so after {timeout_s} s and {len(self._seen)} committed records."
                raise TimeoutError(message)

    def _read(self) -> None:
        while not self._stopping.is_set():
            first = self._consumer.poll(0.1)
            if first is None:
                continue
            messages = [first, *self._consumer.consume(500, timeout=0)]
            now_ns = time.monotonic_ns()
            with self._changed:
                for message in messages:
                    self._take(message, now_ns)
                self._changed.notify_all()

    def _take(self, message: Any, now_ns: int) -> None:  # Any: the client ships no types
        error = message.error()
        if error is None:
            self._seen.append(
                Seen(
                    topic=message.topic(),
                    partition=message.partition(),
                    offset=message.offset(),
                    key=message.key(),
                    value=message.value(),
                    headers=tuple(message.headers() or ()),
                    timestamp_ms=message.timestamp()[1],
                    received_monotonic_ns=now_ns,
                )
            )
        elif error.code() == KafkaError._PARTITION_EOF:
            self._ends[message.topic(), message.partition()] = message.offset()
        elif error.fatal() or error.code() == KafkaError._AUTO_OFFSET_RESET:
            self._failure = error
