"""Publish and commit: the two deliveries, behind one seam.

A batch is `publish`ed, then `commit`ted with the offsets it covers. When either raises `TransactionAborted` nothing of
the batch can be seen by a read_committed reader (exactly_once) or its offsets stand where they were (at_least_once):
rewind and go on. When `ProducerLost` is raised the outcome is unknown: call `renew`, which settles it, then rewind.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Final, Protocol

import msgspec
from confluent_kafka import KafkaError as Code
from confluent_kafka import KafkaException, Producer

from consumer.kafka.client import Bounded, Config, common_config, denied, error_of, unavailable, within
from consumer.kafka.source import KafkaSource, offsets_of
from consumer.settings import KafkaSettings
from features.errors import Fenced, KafkaRefused, KafkaUnavailable, ProducerLost, TransactionAborted
from features.store import Span

Headers = list[tuple[str, bytes | None]]
Step = Callable[[str], None]

_FENCED: Final = frozenset(
    {Code._FENCED, Code.INVALID_PRODUCER_EPOCH, Code.PRODUCER_FENCED, Code.INVALID_PRODUCER_ID_MAPPING}
)
CLOSE_LIMIT_S: Final = 5.0
OVERDUE_S: Final = 1.0  # what a call that keeps its time-out may need beyond it, to say why
FENCE_LIMIT: Final = 3
FENCE_WINDOW_S: Final = 60.0


class Outgoing(msgspec.Struct, frozen=True, gc=False):
    """A record to publish. Its key chooses the partition, unless one is named.

    No named tuple: one of those takes four times as long to make, and there is one a payment.
    """

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers | None = None
    timestamp_ms: int = 0
    partition: int | None = None


class Publisher(Protocol):
    """See the module's text for what may be raised, and what is then true; and KafkaRefused, for good."""

    def publish(self, records: Iterable[Outgoing]) -> None:
        """Hand records to the client, in order."""

    def commit(self, spans: Sequence[Span]) -> None:
        """Make everything published since the last commit visible, and the spans' ends the group's offsets."""

    def renew(self) -> None:
        """Replace the producer after ProducerLost. Raises KafkaUnavailable, Fenced."""

    def close(self) -> None:
        """Release the producer, dropping what was not committed."""


def producer_config(kafka: KafkaSettings) -> Config:
    """Settings of the processor's producers: idempotent, every acknowledgement, small waits, bounded queues."""
    return common_config(kafka) | {
        "enable.idempotence": True,
        "acks": "all",
        "linger.ms": 0,
        "retry.backoff.ms": 5,  # a transaction that starts right behind another is asked to wait: not 100 ms
        "queue.buffering.max.messages": 100_000,
        "queue.buffering.max.kbytes": kafka.producer_queue_kb,
        "message.max.bytes": 2_000_000,
        "delivery.report.only.error": True,
    }


class _Producing:
    """What both deliveries share: handing records over, with back-pressure from the client's own queue."""

    _producer: Producer

    def __init__(self, kafka: KafkaSettings, step: Step) -> None:
        self._kafka = kafka
        self._timeout_s = kafka.request_timeout_ms / 1000
        self._step = step
        self._undelivered: Code | None = None
        self._undelivered_to: str | None = None

    def publish(self, records: Iterable[Outgoing]) -> None:
        produce, failed = self._producer.produce, self._failed
        for record in records:
            try:
                if record.headers or record.timestamp_ms or record.partition is not None:
                    self._produce(record)
                else:
                    produce(record.topic, record.value, record.key, on_delivery=failed)
            except BufferError:
                self._produce_when_there_is_room(record)
        self._producer.poll(0)
        self._step("after_produce")

    def _produce(self, record: Outgoing) -> None:
        options: dict[str, Any] = {}
        if record.headers:
            options["headers"] = record.headers
        if record.timestamp_ms:
            options["timestamp"] = record.timestamp_ms
        if record.partition is not None:
            options["partition"] = record.partition
        self._producer.produce(record.topic, record.value, record.key, on_delivery=self._failed, **options)

    def _produce_when_there_is_room(self, record: Outgoing) -> None:
        deadline = time.monotonic() + self._timeout_s
        while True:
            if time.monotonic() > deadline:
                raise ProducerLost("the producer's queue stays full: the brokers do not keep up")
            self._producer.poll(0.05)
            try:
                self._produce(record)
            except BufferError:
                continue
            return

    def close(self) -> None:
        """Drop what was not committed. A transaction still open is left to the next producer with this id."""
        self._producer.purge()
        within(self._producer.close, CLOSE_LIMIT_S)

    def _failed(self, error: Code | None, message: Any) -> None:
        if self._undelivered is None and error is not None:
            self._undelivered, self._undelivered_to = error, message.topic()

    def _denied(self, error: Code | None = None) -> KafkaRefused | None:
        """What an ACL is missing for, if that is why a record was not delivered, or what `error` is about."""
        if self._undelivered and (denial := denied(self._kafka, self._undelivered, self._undelivered_to)):
            return denial
        return error and denied(self._kafka, error)

    def _flush(self) -> None:
        if self._producer.flush(self._timeout_s):
            raise ProducerLost("records were not acknowledged in time")
        self._step("after_flush")


class TransactionalPublisher(_Producing):
    """exactly_once: one transaction a batch, with the group's offsets in it."""

    def __init__(self, kafka: KafkaSettings, source: KafkaSource | None, step: Step = lambda _name: None) -> None:
        """Fence any earlier producer with the same transactional id. Raises KafkaUnavailable.

        Without a `source` only commits without spans are possible.
        """
        super().__init__(kafka, step)
        self._source = source
        self._open = False
        self._fenced_at: list[float] = []
        self._start()

    def publish(self, records: Iterable[Outgoing]) -> None:
        """See `Publisher`."""
        self._within(self._begin)
        self._within(lambda: super(TransactionalPublisher, self).publish(records))

    def commit(self, spans: Sequence[Span]) -> None:
        """Commit a batch.

        1. open a transaction if nothing was published
        2. add the spans' ends, under the group membership that read them: a worker that was replaced fails here;
           the records are on their way meanwhile
        3. wait until every record is acknowledged
        4. commit; a timeout leaves the outcome open, so the producer is replaced
        """
        self._within(self._begin)
        if spans:
            self._within(self._send_offsets, spans)
        self._within(self._flush)
        self._step("in_commit")
        self._within(self._commit_transaction)
        self._open = False
        self._step("after_commit")

    def renew(self) -> None:
        """See `Publisher`."""
        self.close()
        self._start()

    def close(self) -> None:
        """See `Publisher`."""
        self._bounded.close()
        super().close()

    def _start(self) -> None:
        self._undelivered = None
        self._open = False
        self._bounded = Bounded()
        self._producer = Producer(
            producer_config(self._kafka)
            | {
                "transactional.id": self._kafka.transactional_id,
                "transaction.timeout.ms": self._kafka.transaction_timeout_ms,
            }
        )
        try:
            self._producer.init_transactions(self._timeout_s)
        except KafkaException as exception:
            raise unavailable(self._kafka, exception) from exception

    def _begin(self) -> None:
        if not self._open:
            self._producer.begin_transaction()
            self._open = True

    def _send_offsets(self, spans: Sequence[Span]) -> None:
        """Add the offsets, in bounded time.

        librdkafka 2.16 forgets this call's time-out when the connection to the group's coordinator is lost under it,
        and then waits until some connection changes: maybe for ever (librdkafka issue 5456).
        """
        assert self._source is not None  # noqa: S101  nobody else has spans
        send = partial(
            self._producer.send_offsets_to_transaction,
            offsets_of(spans),
            self._source.group_metadata(),
            self._timeout_s,
        )
        try:
            self._bounded(send, self._timeout_s + OVERDUE_S)
        except TimeoutError:
            raise ProducerLost("the client did not come back from adding offsets to a transaction") from None

    def _commit_transaction(self) -> None:
        self._producer.commit_transaction(self._timeout_s)

    def _within(self, action: Callable[..., None], *arguments: Any) -> None:
        try:
            action(*arguments)
        except KafkaException as exception:
            self._settle(error_of(exception), exception)
        except SystemError as complaint:
            self._open = False
            self._settle_complaint(complaint)
        except ProducerLost:
            self._open = False
            raise
        except TransactionAborted:  # by the source: what was published must not ride on the next batch's commit
            self._abort()
            raise

    def _abort(self) -> None:
        try:
            self._producer.abort_transaction(self._timeout_s)
        except KafkaException as exception:
            raise ProducerLost(f"the transaction could not be aborted: {error_of(exception).str()}") from exception
        self._open = False

    def _settle(self, error: Code, cause: KafkaException) -> None:
        """Turn librdkafka's three kinds of transaction error into ours. Raises KafkaRefused where an ACL is missing."""
        if (denial := self._denied(error)) is not None:
            if error.txn_requires_abort():
                with suppress(ProducerLost):  # an open transaction ends by itself
                    self._abort()
            raise denial from cause
        if error.code() in _FENCED:
            self._note_fence()
            raise ProducerLost("the transactional id was taken over, or its transaction ran out of time") from cause
        if error.txn_requires_abort():
            self._abort()
            raise TransactionAborted(f"the transaction was aborted: {error.str()}") from cause
        raise ProducerLost(f"the transaction's outcome is unknown: {error.str()}") from cause

    def _settle_complaint(self, complaint: SystemError) -> None:
        """Find the fatal error behind the interpreter's complaint.

        confluent-kafka raises a fatal error from within `flush` and `poll`, and may call the logger with the exception
        already set, which loses it. The client tells it again to the next call.
        """
        try:
            self._producer.abort_transaction(self._timeout_s)
        except KafkaException as exception:
            self._settle(error_of(exception), exception)
        raise ProducerLost("the producer failed, and its error was lost") from complaint

    def _note_fence(self) -> None:
        now = time.monotonic()
        self._fenced_at = [at for at in self._fenced_at if now - at < FENCE_WINDOW_S] + [now]
        if len(self._fenced_at) >= FENCE_LIMIT:
            raise Fenced(
                f"another processor uses the transactional id {self._kafka.transactional_id}: "
                "give each replica its own kafka.transactional_id"
            )


class AcknowledgedPublisher(_Producing):
    """at_least_once: records acknowledged first, offsets committed after. A crash between the two repeats a batch."""

    def __init__(self, kafka: KafkaSettings, source: KafkaSource, step: Step) -> None:
        """Make the producer; it connects in the background."""
        super().__init__(kafka, step)
        self._source = source
        self._producer = Producer(producer_config(kafka))

    def publish(self, records: Iterable[Outgoing]) -> None:
        """See `Publisher`."""
        with _lost_when_fatal():
            super().publish(records)

    def commit(self, spans: Sequence[Span]) -> None:
        """See `Publisher`."""
        with _lost_when_fatal():
            self._flush()
        if (denial := self._denied()) is not None:
            raise denial
        if self._undelivered:
            raise ProducerLost(f"a record was not delivered: {self._undelivered.str()}")
        self._step("in_commit")
        if spans:
            try:
                self._source.commit(spans)
            except KafkaRefused:
                raise
            except KafkaUnavailable as error:
                raise TransactionAborted(f"the offsets were not committed: {error}") from error
        self._step("after_commit")

    def renew(self) -> None:
        """See `Publisher`."""
        self.close()
        self._undelivered = None
        self._producer = Producer(producer_config(self._kafka))


@contextmanager
def _lost_when_fatal() -> Iterator[None]:
    try:
        yield
    except KafkaException as exception:
        raise ProducerLost(f"the producer failed: {error_of(exception).str()}") from exception
    except SystemError as complaint:  # see `TransactionalPublisher._settle_complaint`
        raise ProducerLost("the producer failed, and its error was lost") from complaint
