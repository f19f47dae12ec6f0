"""The processor's group as the brokers see it: its members, where it stands, and how far that is from the ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any, Final

from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka import KafkaError as Code
from confluent_kafka.admin import AdminClient, OffsetSpec

from consumer.group_lag import GroupLag, Member, PartitionLag
from consumer.kafka.client import check_hidden, cluster, common_config, error_of, group_config, unavailable, within
from consumer.settings import KafkaSettings
from features.errors import KafkaUnavailable

Source = tuple[str, int]
NEVER: Final = "never seen"
CLOSE_LIMIT_S: Final = 2.0
PAUSE_S: Final = 0.1
_DELETED_MEANWHILE: Final = frozenset({Code._AUTO_OFFSET_RESET, Code.OFFSET_OUT_OF_RANGE})
_MOVING: Final = frozenset({Code.NOT_COORDINATOR, Code.COORDINATOR_NOT_AVAILABLE, Code.COORDINATOR_LOAD_IN_PROGRESS})


class GroupReader:
    """Looks without joining: nobody is rebalanced, nothing is committed. Every verb is bounded in time."""

    def __init__(self, kafka: KafkaSettings, topics: Sequence[str]) -> None:
        """Connect lazily."""
        self._kafka, self._topics = kafka, topics
        self._timeout_s = kafka.request_timeout_ms / 1000
        self._admin = AdminClient(common_config(kafka))

    def look(self) -> GroupLag:
        """Where the group stands now. Raises KafkaUnavailable."""
        known = cluster(self._admin, self._kafka).topics
        try:
            state, members = self._described()
            there, missing = self._partitions(known)
            bounds = self._bounds(there)
            committed = self._committed(there)
            lags = [PartitionLag(*source, *bounds[source], committed.get(source)) for source in there]
            newest = self._newest(there)
            nexts = self._next([each for each in lags if each.records])
        except KafkaException as exception:
            raise unavailable(self._kafka, exception) from exception
        except TimeoutError as error:
            raise KafkaUnavailable(f"Kafka at {self._kafka.brokers} did not answer in time") from error
        told = []
        for each in lags:
            source = (each.topic, each.partition)
            known = nexts.get(source)
            told.append(
                replace(
                    each,
                    next_ms=None if known is None else known.time_ms,
                    newest_ms=newest.get(source),
                    is_told=not each.records or known is not None,
                    held_back=known is not None and known.is_held,
                )
            )
        return GroupLag(self._kafka.group_id, state, members, told, missing)

    def _described(self) -> tuple[str, list[Member]]:
        group = self._kafka.group_id
        try:
            found = self._coordinated(
                lambda: self._admin.describe_consumer_groups([group], request_timeout=self._timeout_s)[group]
            )
        except KafkaException as exception:
            if error_of(exception).code() == Code.GROUP_ID_NOT_FOUND:
                return NEVER, []
            raise
        state = found.state.name.lower().replace("_", " ")
        return (NEVER if state == "dead" else state), [_member(each) for each in found.members]

    def _coordinated(self, ask: Callable[[], Future[Any]]) -> Any:
        """What the group's coordinator says, once there is one: it moves with the brokers."""
        deadline_s = time.monotonic() + self._timeout_s
        while True:
            try:
                return ask().result(2 * self._timeout_s)
            except KafkaException as exception:
                if error_of(exception).code() not in _MOVING or time.monotonic() > deadline_s:
                    raise
            time.sleep(PAUSE_S)

    def _partitions(self, known: Mapping[str, Any]) -> tuple[list[Source], list[str]]:
        missing = [name for name in self._topics if name not in known or known[name].error is not None]
        for name in missing:
            check_hidden(self._admin, self._kafka, name)
        there = [
            (name, number) for name in self._topics if name not in missing for number in sorted(known[name].partitions)
        ]
        return there, missing

    def _bounds(self, sources: Sequence[Source]) -> dict[Source, tuple[int, int]]:
        lows = self._offsets(sources, OffsetSpec.earliest())
        ends = self._offsets(sources, OffsetSpec.latest())
        return {source: (lows[source].offset, ends[source].offset) for source in sources}

    def _newest(self, sources: Sequence[Source]) -> dict[Source, int]:
        """The newest timestamp of each partition; nothing of brokers that can't tell (before Kafka 3.0)."""
        try:
            found = self._offsets(sources, OffsetSpec.max_timestamp())
        except KafkaException:
            return {}
        return {source: each.timestamp for source, each in found.items() if each.timestamp >= 0}

    def _offsets(self, sources: Iterable[Source], spec: OffsetSpec) -> Mapping[Source, Any]:
        wanted = {TopicPartition(*source): spec for source in sources}
        if not wanted:
            return {}
        asked = self._admin.list_offsets(wanted, request_timeout=self._timeout_s)
        return {(at.topic, at.partition): future.result(2 * self._timeout_s) for at, future in asked.items()}

    def _committed(self, sources: Sequence[Source]) -> dict[Source, int]:
        if not sources:
            return {}
        asked = ConsumerGroupTopicPartitions(self._kafka.group_id, [TopicPartition(*each) for each in sources])
        found = self._coordinated(
            lambda: next(
                iter(self._admin.list_consumer_group_offsets([asked], request_timeout=self._timeout_s).values())
            )
        ).topic_partitions
        for each in found:
            if each.error is not None:
                raise KafkaException(each.error)
        return {(each.topic, each.partition): each.offset for each in found if each.offset >= 0}

    def _next(self, lags: Sequence[PartitionLag]) -> dict[Source, _Next]:
        """The first record from `start` on: the first committed one, else the first of a transaction that is open.

        What did not come in time has no entry. Values are never looked at.
        """
        found = self._first({(each.topic, each.partition): each.start for each in lags}, "read_committed")
        ends = {(each.topic, each.partition): each.end for each in lags}
        stops = {source: each.offset for source, each in found.items() if each.is_end and each.offset < ends[source]}
        opened = self._first(stops, "read_uncommitted")
        return found | {source: replace(each, is_held=not each.is_end) for source, each in opened.items()}

    def _first(self, starts: Mapping[Source, int], isolation: str) -> dict[Source, _Next]:
        """The first record of each partition from its offset on, or where reading ends without one."""
        found: dict[Source, _Next] = {}
        if not starts:
            return found
        waiting = set(starts)
        consumer = self._reader(isolation)
        try:
            consumer.assign([TopicPartition(*source, offset) for source, offset in starts.items()])
            deadline_s = time.monotonic() + self._timeout_s
            while waiting and time.monotonic() < deadline_s:
                message = consumer.poll(0.1)
                if message is None or (message.topic(), message.partition()) not in waiting:
                    continue
                source, error = (message.topic(), message.partition()), message.error()
                waiting.discard(source)
                consumer.pause([TopicPartition(*source)])
                if error is None:
                    found[source] = _Next(message.offset(), message.timestamp()[1])
                elif error.code() == Code._PARTITION_EOF:
                    found[source] = _Next(message.offset())
                elif error.code() not in _DELETED_MEANWHILE:
                    raise KafkaException(error)
        finally:
            within(consumer.close, CLOSE_LIMIT_S)
        return found

    def _reader(self, isolation: str) -> Consumer:
        """A consumer that fetches little: one record of each partition is wanted.

        It is a new one each time: a partition that was paused stays paused when it is assigned anew.
        """
        return Consumer(
            group_config(self._kafka)
            | {
                "isolation.level": isolation,
                "enable.partition.eof": True,
                "fetch.min.bytes": 1,
                "max.partition.fetch.bytes": 65_536,
                "queued.min.messages": 1,
            }
        )


@dataclass(frozen=True, slots=True)
class _Next:
    """What comes next: a record and its time, or an end and none."""

    offset: int
    time_ms: int | None = None
    is_held: bool = False

    @property
    def is_end(self) -> bool:
        return self.time_ms is None


def _member(found: Any) -> Member:
    partitions = found.assignment.topic_partitions if found.assignment else ()
    owns = frozenset((each.topic, each.partition) for each in partitions)
    return Member(found.member_id, found.client_id, found.host.lstrip("/"), owns)
