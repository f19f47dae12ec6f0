"""Writes the audit topic: records that are there when the call returns, alone or together with what they tell of."""

from __future__ import annotations

import threading
import uuid
from collections import deque
from collections.abc import Sequence
from typing import Final

import msgspec
import structlog
from confluent_kafka import Consumer

from consumer.audit import AuditEntry
from consumer.kafka.client import group_config, require_topics
from consumer.kafka.publisher import Outgoing, TransactionalPublisher
from consumer.settings import KafkaSettings
from features.errors import FraudlineError, KafkaError, KafkaUnavailable, ProducerLost

_LOG: Final = structlog.get_logger("audit")
RETRY_S: Final = 2.0
WAITING: Final = 1_000
STOP_LIMIT_S: Final = 3.0


class AuditWriter:
    """Writes audit records, each acknowledged by all in-sync replicas before the call returns.

    It holds the transactional id `<kafka.transactional_id>-audit-<purpose>`: what runs for long names its purpose, and
    a command has an id of its own, so that two at once don't fence each other. Not thread-safe.
    """

    def __init__(
        self, kafka: KafkaSettings, topic: str, purpose: str | None = None, beside: Sequence[str] = ()
    ) -> None:
        """Connect. Raises KafkaUnavailable, also when the topic is missing, or one `beside` it that is written to."""
        purpose = purpose or uuid.uuid4().hex[:12]
        self._topic = topic
        checker = Consumer(group_config(kafka))
        try:
            require_topics(checker, kafka, [topic, *beside])
        finally:
            checker.close()
        own = kafka.model_copy(update={"transactional_id": f"{kafka.transactional_id}-audit-{purpose}"})
        self._brokers = kafka.brokers
        self._publisher = TransactionalPublisher(own, None)

    def write(self, entry: AuditEntry) -> None:
        """One record. Raises KafkaUnavailable: then it may be there or not."""
        self.publish((), entry)

    def publish(self, records: Sequence[Outgoing], entry: AuditEntry) -> None:
        """Records and the one that tells of them, in one transaction: all are seen, or none.

        Raises:
            KafkaUnavailable: nothing was written, or it is not known whether everything was; the text says which.
        """
        try:
            self._publisher.publish([*records, outgoing(self._topic, entry)])
            self._publisher.commit(())
        except KafkaError as error:
            self._renew()  # also after an abort: the broker may miss numbers of the records that it refused
            if isinstance(error, ProducerLost):
                raise KafkaUnavailable(
                    f"Kafka at {self._brokers} did not say whether it took the records of {entry.action} ({error}); "
                    "look with fraudline audit list before it is tried again"
                ) from error
            raise KafkaUnavailable(f"Kafka at {self._brokers} did not take the audit record: {error}") from error

    def _renew(self) -> None:
        try:
            self._publisher.renew()
        except KafkaError as error:
            _LOG.warning("audit_producer_not_renewed", error=str(error))

    def close(self) -> None:
        """Release the connection."""
        self._publisher.close()

    def __enter__(self) -> AuditWriter:
        """Use as a context manager."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()


class BackgroundAudit:
    """Audit records of a processor: `put` never waits, a thread writes them, and tries again while Kafka is away."""

    def __init__(self, kafka: KafkaSettings, topic: str) -> None:
        """The thread starts with the first record; before that there is no connection."""
        self._kafka, self._topic = kafka, topic
        self._waiting: deque[AuditEntry] = deque()
        self._woken, self._stopping = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="audit")
        self._lock = threading.Lock()

    def put(self, entry: AuditEntry) -> None:
        """Take a record. Safe from any thread."""
        with self._lock:
            if len(self._waiting) >= WAITING:
                _LOG.error("audit_record_dropped", action=entry.action, entry_id=entry.entry_id)
                return
            self._waiting.append(entry)
            if self._thread.ident is None and not self._stopping.is_set():
                self._thread.start()
        self._woken.set()

    def stop(self) -> None:
        """Write what is waiting, as far as that takes no longer than a few seconds."""
        self._stopping.set()
        self._woken.set()
        if self._thread.is_alive():
            self._thread.join(STOP_LIMIT_S)
        for entry in list(self._waiting):  # of a thread that still runs after the limit
            _LOG.error("audit_record_dropped", action=entry.action, entry_id=entry.entry_id)

    def _run(self) -> None:
        while True:
            self._woken.wait()
            self._woken.clear()
            while self._waiting:
                if self._written():
                    continue
                if self._stopping.wait(RETRY_S):
                    return
            if self._stopping.is_set():
                return

    def _written(self) -> bool:
        try:
            with AuditWriter(self._kafka, self._topic, "processor") as writer:
                while self._waiting:
                    writer.write(self._waiting[0])
                    self._waiting.popleft()
        except FraudlineError as error:
            _LOG.warning("audit_not_written", waiting=len(self._waiting), error=str(error))
            return False
        return True


def outgoing(topic: str, entry: AuditEntry) -> Outgoing:
    """The record of an entry."""
    return Outgoing(topic, entry.entry_id.encode(), msgspec.json.encode(entry))
