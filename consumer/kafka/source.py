"""Payments and labels as a member of the group reads them: owned partitions, positions, and where to rewind to."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import structlog
from confluent_kafka import OFFSET_END, Consumer, KafkaException, TopicPartition
from confluent_kafka import KafkaError as Code

from consumer.decode import Message
from consumer.kafka.client import denied, error_of, group_config, require_topics, unavailable, within
from consumer.settings import KafkaSettings
from features.errors import KafkaUnavailable, TransactionAborted
from features.store import Source, Span

_LOG: Final = structlog.get_logger("kafka")
POLL_SLICE_S: Final = 0.1  # librdkafka does not notice signals while it waits
CLOSE_LIMIT_S: Final = 5.0
WAKE_LIMIT_S: Final = 0.1  # a broker that does not answer has nothing fetched either
_BEING_TAKEN_AWAY: Final = frozenset({Code._STATE, Code._PREV_IN_PROGRESS, Code._UNKNOWN_PARTITION})
_GENERATION: Final = slice(7, 11)  # of librdkafka's opaque group metadata: behind its magic "CGMDv2:"
_NO_GENERATION: Final = b"\xff\xff\xff\xff"


@dataclass(slots=True)
class _Owned:
    """A partition that is ours, for as long as it is without a break; offsets are the next one each."""

    position: int  # of what is not decided and committed
    committed: int
    taken: int  # of what is in no batch
    told: int = 0  # the floor that the state store has heard of
    end: int = 0  # where the log ended when we last came to its end: behind the marks of the producers' transactions


@dataclass(frozen=True, slots=True)
class Taken:
    """What a batch covers, and as whom we took it."""

    spans: tuple[Span, ...]
    membership: bytes
    owners: Mapping[Source, _Owned]


class KafkaSource:
    """Reads micro-batches. One call at a time, from any thread; rebalances happen inside `poll`, on the caller's.

    A batch's `Span.start` is where the last batch ended, so that holes in the log are covered; offsets are computed
    from what was processed, never asked from the client.
    """

    def __init__(
        self,
        kafka: KafkaSettings,
        payments_topic: str,
        on_rebalance: Callable[[str], None],
        labels_topic: str | None = None,
    ) -> None:
        """Connect lazily; `on_rebalance` is told `assign`, `revoke` or `lost`. There need not be labels."""
        self._kafka = kafka
        self._payments, self._labels = payments_topic, labels_topic
        self._topics = [payments_topic] if labels_topic is None else [payments_topic, labels_topic]
        self._on_rebalance = on_rebalance
        self._owned: dict[Source, _Owned] = {}
        self._arriving: list[TopicPartition] = []  # assigned to us, but we don't know yet where they start
        self._held = Taken((), b"", {})
        self._paused = False
        self._partitions = 0  # of payments
        self._consumer = Consumer(group_config(kafka) | {"enable.partition.eof": True})

    def start(self, topics: Iterable[str]) -> None:
        """Check that every topic exists, then join the group. Raises KafkaUnavailable."""
        known = require_topics(self._consumer, self._kafka, [*self._topics, *topics])
        self._partitions = known[self._payments]
        self._consumer.subscribe(self._topics, on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost)

    @property
    def owned(self) -> tuple[Source, ...]:
        """The partitions that are assigned to us now."""
        return tuple(self._owned)

    def poll(self, limit: int, wait_s: float) -> list[Message]:
        """Take up to `limit` records, waiting up to `wait_s` for that many. Raises KafkaError.

        Only records of partitions that are ours when the call returns are given.
        """
        try:
            messages = self._consumer.consume(limit, wait_s)
        except KafkaException as exception:
            raise unavailable(self._kafka, exception) from exception
        ours = [message for message in messages if self._is_ours(message)]
        if self._arriving:  # after that: what was read before a partition came back says nothing about its end
            self._welcome()
        return ours

    def still_owned(self, messages: Sequence[Message]) -> list[Message]:
        """Drop what a rebalance has taken away since it was read, or has made us read twice."""
        due = {source: owned.taken for source, owned in self._owned.items()}
        kept = []
        for message in messages:
            source, offset = (message.topic(), message.partition()), message.offset()
            if source in due and offset >= due[source]:
                due[source] = offset + 1
                kept.append(message)
        return kept

    def take(self, messages: Sequence[Message]) -> Taken:
        """Make a batch of what was polled last, behind those that were taken before; offsets rise in each partition.

        Its spans are in the order of `consumer.decode.in_log_order`. A partition without a record in it has a span when
        the store has not heard yet what is committed, or when a hole ends the log: the marks of a producer's
        transaction.
        """
        membership = self._consumer.consumer_group_metadata()
        ends = {(message.topic(), message.partition()): message.offset() + 1 for message in messages}
        spans = [
            Span(
                *source,
                owned.taken,
                max(ends.get(source, owned.taken), owned.end),
                owned.committed,
                labels=source[0] == self._labels,
            )
            for source, owned in self._owned.items()
            if source in ends or owned.told < owned.committed or owned.end > owned.taken
        ]
        for span in spans:
            self._owned[span.topic, span.partition].taken = span.end
        # the store numbers records span by span: as they lie in the batch, or the journal would tell another order
        ordered = tuple(sorted(spans, key=lambda span: (not span.labels, span.partition)))
        return Taken(ordered, membership, dict(self._owned))

    def hold(self, taken: Taken) -> None:
        """Whatever is committed from now on is of this batch, and under the membership that took it."""
        self._held = taken

    def still_holds(self) -> bool:
        """Whether all of the batch in hand has been ours without a break since it was taken."""
        return all(self._kept(span) for span in self._held.spans)

    def positions(self) -> Mapping[Source, int]:
        """Up to where (exclusive) each owned partition was decided, quiet ones included."""
        return {source: owned.position for source, owned in self._owned.items()}

    def share(self) -> float:
        """Which part of the partitions of payments is ours: of all payments, about that part."""
        owned = sum(topic == self._payments for topic, _ in self._owned)
        return owned / self._partitions if self._partitions else 1.0

    def committed(self, spans: Iterable[Span]) -> None:
        """Move on: these spans of the batch in hand are decided, published and committed."""
        for span in spans:
            if owned := self._kept(span):
                owned.position = owned.committed = span.end

    def told(self, spans: Iterable[Span]) -> None:
        """Note that the state store has heard these spans' floors."""
        for span in spans:
            owned = self._owned.get((span.topic, span.partition))
            if owned:
                owned.told = max(owned.told, span.floor)

    def rewind(self) -> None:
        """Go back to the committed offset of every owned partition, as the broker knows it.

        Raises KafkaUnavailable; then call it again before anything is polled. It does so as long as a partition does
        not hold that offset: of one that it can't read the client tells once, and reads nothing of it from then on.
        """
        partitions = [TopicPartition(*source) for source in self._owned]
        if not partitions:
            return
        try:
            known = self._committed(partitions)
        except KafkaException as exception:
            raise unavailable(self._kafka, exception) from exception
        for partition in known:
            owned = self._owned[partition.topic, partition.partition]
            if partition.offset >= 0:
                owned.committed = partition.offset
            owned.position = owned.taken = owned.committed
            owned.end = 0  # what lies before it has to be read again
            try:
                self._start_of(TopicPartition(partition.topic, partition.partition, owned.committed))
                self._consumer.seek(TopicPartition(partition.topic, partition.partition, owned.committed))
            except KafkaException as exception:
                if error_of(exception).code() not in _BEING_TAKEN_AWAY:
                    raise unavailable(self._kafka, exception) from exception

    def pause(self) -> None:
        """Stop fetching but stay in the group; `poll` then only serves rebalances."""
        if not self._paused:
            self._consumer.pause([TopicPartition(*source) for source in self._owned])
            self._paused = True

    def resume(self) -> None:
        """Fetch again."""
        if self._paused:
            self._consumer.resume([TopicPartition(*source) for source in self._owned])
            self._paused = False
            self._wake()

    def backlog(self) -> Mapping[int, int]:
        """Payments from our position to the end of each owned partition, as far as the client has heard."""
        return self._waiting(self._payments)

    def labels_lag_records(self) -> int:
        """Labels between our positions and the ends of the owned partitions, likewise."""
        return 0 if self._labels is None else sum(self._waiting(self._labels).values())

    def _waiting(self, topic: str) -> dict[int, int]:
        waiting = {}
        for source, owned in self._owned.items():
            if source[0] == topic:
                _, high = self._consumer.get_watermark_offsets(TopicPartition(*source), cached=True)
                waiting[source[1]] = max(0, high - owned.position) if high >= 0 else 0
        return waiting

    def group_metadata(self) -> bytes:
        """The membership under which the batch in hand was taken: what fences a worker that was replaced meanwhile.

        Raises TransactionAborted when there was none: the broker would take such offsets from anybody.
        """
        if self._held.membership[_GENERATION] == _NO_GENERATION:
            raise TransactionAborted("this worker is no member of the group at the moment")
        return self._held.membership

    def commit(self, spans: Iterable[Span]) -> None:
        """Commit offsets outside a transaction and wait; none of what was taken away meanwhile.

        Raises KafkaUnavailable.
        """
        offsets = offsets_of(span for span in spans if self._kept(span))
        if not offsets:
            return
        try:
            self._consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException as exception:
            raise unavailable(self._kafka, exception) from exception

    def close(self) -> None:
        """Leave the group; a broker that does not answer is not waited for."""
        within(self._consumer.close, CLOSE_LIMIT_S)

    def _kept(self, span: Span) -> _Owned | None:
        """The partition of a span, if it has been ours without a break since the batch was taken."""
        source = (span.topic, span.partition)
        owned = self._owned.get(source)
        return owned if owned is self._held.owners.get(source) else None

    def _is_ours(self, message: Any) -> bool:
        error = message.error()
        if error is None:
            owned = self._owned.get((message.topic(), message.partition()))
            return owned is not None and message.offset() >= owned.taken
        if error.code() == Code._PARTITION_EOF:
            owned = self._owned.get((message.topic(), message.partition()))
            if owned is not None:
                owned.end = message.offset()
            return False
        if error.code() in (Code._AUTO_OFFSET_RESET, Code.OFFSET_OUT_OF_RANGE):
            raise KafkaUnavailable(
                f"{message.topic()}/{message.partition()} no longer holds the offsets that are due: records were lost "
                "by retention; reset the group's offsets to go on"
            )
        if (denial := denied(self._kafka, error, message.topic())) is not None:
            raise denial
        raise KafkaUnavailable(f"Kafka at {self._kafka.brokers} refuses to be read: {error.str()}")

    def _wake(self) -> None:
        """Have what is ours fetched at once, after it was let rest: by `pause`, or by the client, in every rebalance.

        librdkafka's threads that fetch would notice when they look again: up to a second later, if nothing else is on
        its way. A question to the brokers is.
        """
        ends = [TopicPartition(*source, OFFSET_END) for source in self._owned]
        if ends:
            with suppress(KafkaException):
                self._consumer.offsets_for_times(ends, timeout=WAKE_LIMIT_S)

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._on_rebalance("assign")
        consumer.incremental_assign([])
        self._arriving += partitions  # `poll` looks up where they start: there it may fail, and be tried again
        self._wake()

    def _welcome(self) -> None:
        """Start reading the partitions that have arrived. Raises KafkaUnavailable; the next poll tries again."""
        try:
            starts = [self._start_of(known) for known in self._committed(self._arriving)]
            self._consumer.incremental_assign(starts)
        except KafkaException as exception:
            raise unavailable(self._kafka, exception) from exception
        self._arriving = []
        for start in starts:
            self._owned[start.topic, start.partition] = _Owned(start.offset, start.offset, start.offset)
        # the client remembers a pause over a rebalance
        (self._consumer.pause if self._paused else self._consumer.resume)(starts)
        self._wake()
        _LOG.info(
            "partitions_assigned", partitions={f"{start.topic}/{start.partition}": start.offset for start in starts}
        )

    def _committed(self, partitions: list[TopicPartition]) -> list[TopicPartition]:
        deadline = time.monotonic() + self._kafka.request_timeout_ms / 1000
        while True:
            try:
                known: list[TopicPartition] = self._consumer.committed(
                    partitions, timeout=max(0.1, deadline - time.monotonic())
                )
                broken = next((partition.error for partition in known if partition.error), None)
                if broken is None:
                    return known
                raise KafkaException(broken)
            except KafkaException as exception:
                # the last owner's transaction may still be open: its outcome decides where we start
                if time.monotonic() >= deadline or error_of(exception).fatal():
                    raise

    def _start_of(self, known: TopicPartition) -> TopicPartition:
        low, high = self._consumer.get_watermark_offsets(
            TopicPartition(known.topic, known.partition), timeout=self._kafka.request_timeout_ms / 1000
        )
        if known.offset < 0:
            return TopicPartition(known.topic, known.partition, low)
        if not low <= known.offset <= high:
            raise KafkaUnavailable(
                f"group {self._kafka.group_id} stands at offset {known.offset} of {known.topic}/{known.partition}, "
                f"which holds {low} to {high}: the topic was recreated or retention was too short; "
                "reset the group's offsets to go on"
            )
        return TopicPartition(known.topic, known.partition, known.offset)

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._drop("revoke", consumer, partitions)

    def _lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._drop("lost", consumer, partitions)

    def _drop(self, kind: str, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._on_rebalance(kind)
        gone = {(partition.topic, partition.partition) for partition in partitions}
        self._arriving = [each for each in self._arriving if (each.topic, each.partition) not in gone]
        held = [source for source in gone if self._owned.pop(source, None) is not None]
        # those that were arriving still are none of the client's: it refuses to give them back
        consumer.incremental_unassign([TopicPartition(*source) for source in held])
        self._wake()
        _LOG.info("partitions_dropped", kind=kind, partitions=sorted(f"{topic}/{number}" for topic, number in gone))


def offsets_of(spans: Iterable[Span]) -> list[TopicPartition]:
    """The offsets to commit once these spans are done; an empty span has none."""
    return [TopicPartition(span.topic, span.partition, span.end) for span in spans if span.end > span.start]
