"""Topics and a group that one run makes for itself and removes: seen, marked as its own, and deleted by that mark."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing
from typing import Any, Final

from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaException, Producer, TopicPartition
from confluent_kafka import KafkaError as Code
from confluent_kafka.admin import AdminClient, NewTopic

from consumer.kafka.client import cluster, common_config, denied, error_of, flush, group_config, unavailable
from consumer.settings import KafkaSettings
from consumer.topics import Wanted
from features.errors import KafkaRefused, KafkaUnavailable
from features.store import Source

MARK: Final = "fraudline.prove"
"""The header of a topic's first record that says which run made the topic; the record has no value."""

_GONE: Final = frozenset({Code.UNKNOWN_TOPIC_OR_PART, Code.GROUP_ID_NOT_FOUND})
_DENIED: Final = frozenset(
    {Code.TOPIC_AUTHORIZATION_FAILED, Code.GROUP_AUTHORIZATION_FAILED, Code.CLUSTER_AUTHORIZATION_FAILED}
)
_PAUSE_S: Final = 0.1
_BUSY: Final = frozenset({Code.NON_EMPTY_GROUP, Code.COORDINATOR_LOAD_IN_PROGRESS, Code.NOT_COORDINATOR})


class KafkaAdmin:
    """Every verb comes back within a few times `kafka.request_timeout_ms`, or raises KafkaUnavailable.

    But for `delete_group`, which waits for the end of its members' sessions too.
    """

    def __init__(self, kafka: KafkaSettings) -> None:
        """Connect lazily."""
        self._kafka = kafka
        self._timeout_s = kafka.request_timeout_ms / 1_000
        self._admin = AdminClient(common_config(kafka))

    def brokers(self) -> int:
        """How many there are."""
        return len(cluster(self._admin, self._kafka).brokers)

    def topics(self) -> Mapping[str, int]:
        """All topics that we may know of, with their partitions."""
        return {
            name: len(topic.partitions)
            for name, topic in cluster(self._admin, self._kafka).topics.items()
            if topic.error is None
        }

    def group_state(self, group: str) -> str | None:
        """`empty`, `stable` and so on; None where no broker knows of a group.

        Raises KafkaUnavailable, also where a single broker does not tell.
        """
        try:
            found = self._admin.list_consumer_groups(request_timeout=self._timeout_s).result(2 * self._timeout_s)
            if found.errors:  # it may be the very broker that knows the group
                raise found.errors[0]
        except KafkaException as exception:
            raise unavailable(self._kafka, exception) from exception
        except TimeoutError:
            raise self._silent() from None
        return next((each.state.name.lower() for each in found.valid if each.group_id == group), None)

    def create(self, wanted: Sequence[Wanted], made: list[str]) -> None:
        """Create topics, none of which may be there; `made` gets each that was, also when another one fails.

        One of which nobody knows whether it was is among them: it comes into being, or there is nothing to delete.
        Raises KafkaUnavailable, KafkaRefused.
        """
        new = [
            NewTopic(each.name, each.partitions, each.copies, config={n: s.value for n, s in each.settings.items()})
            for each in wanted
        ]
        asked = self._admin.create_topics(new, operation_timeout=self._timeout_s, request_timeout=self._timeout_s)
        first: KafkaUnavailable | None = None
        for name, future in asked.items():
            try:
                self._done(future, f"create topic {name}", f"Create on topic {name} (or on the cluster)")
                made.append(name)
            except KafkaRefused as error:  # it is somebody else's, or not allowed
                first = first or error
            except KafkaUnavailable as error:
                made.append(name)
                first = first or error
        if first is not None:
            raise first
        deadline_s = time.monotonic() + self._timeout_s
        while missing := {each.name for each in wanted} - self.topics().keys():
            if time.monotonic() > deadline_s:
                raise KafkaUnavailable(f"Kafka at {self._kafka.brokers} does not tell of {min(missing)} in time")
            time.sleep(_PAUSE_S)

    def mark(self, made: list[str], run: str) -> None:
        """Write the mark as the first record of each topic: an empty record in partition 0.

        Raises KafkaUnavailable, also where it is not the first: then somebody else has the topic too, and it is no
        longer among those made.
        """
        placed: dict[str, int] = {}
        failed: list[tuple[Code, str]] = []

        def delivered(error: Code | None, message: Any) -> None:
            if error is not None:
                failed.append((error, message.topic()))
            else:
                placed[message.topic()] = message.offset()

        producer = Producer(common_config(self._kafka) | {"enable.idempotence": True, "on_delivery": delivered})
        for topic in made:
            producer.produce(topic, None, MARK.encode(), partition=0, headers=[(MARK, run.encode())])
        left = flush(producer, self._timeout_s)
        for error, topic in failed:
            raise denied(self._kafka, error, topic) or KafkaUnavailable(
                f"Kafka at {self._kafka.brokers} did not take the first record of {topic}: {error.str()}"
            )
        if left:
            raise KafkaUnavailable(f"Kafka at {self._kafka.brokers} did not acknowledge {left} records in time")
        foreign = [topic for topic in made if placed[topic]]
        made[:] = [topic for topic in made if topic not in foreign]
        if foreign:
            raise KafkaRefused(f"{foreign[0]} holds records that this run did not write: it is left alone")

    def owners(self, topics: Iterable[str]) -> dict[str, str | None]:
        """Which run's mark each topic begins with; None for none."""
        owners: dict[str, str | None] = dict.fromkeys(topics)
        if not owners:
            return owners
        config = group_config(self._kafka) | {"enable.partition.eof": True, "fetch.min.bytes": 1}
        with closing(Consumer(config)) as consumer:
            try:
                lows = {
                    topic: consumer.get_watermark_offsets(TopicPartition(topic, 0), self._timeout_s)[0]
                    for topic in owners
                }
                consumer.assign([TopicPartition(topic, 0, low) for topic, low in lows.items()])
                waiting, deadline_s = set(owners), time.monotonic() + self._timeout_s
                while waiting:
                    message = consumer.poll(0.1)
                    if message is not None and message.topic() in waiting:
                        waiting.discard(message.topic())
                        owners[message.topic()] = self._owner(message)
                    elif time.monotonic() > deadline_s:
                        raise KafkaUnavailable(f"Kafka at {self._kafka.brokers} did not show {min(waiting)} in time")
            except KafkaException as exception:
                raise unavailable(self._kafka, exception) from exception
        return owners

    def _owner(self, message: Any) -> str | None:
        error = message.error()
        if error is not None:
            if error.code() == Code._PARTITION_EOF:
                return None
            raise KafkaException(error)
        held = dict(message.headers() or ()).get(MARK)
        return None if held is None or message.value() is not None else held.decode("utf-8", "replace")

    def delete_topics(self, topics: Iterable[str]) -> None:
        """Delete topics, and wait until the brokers no longer tell of them; one that is gone already is no error."""
        doomed = list(topics)
        if not doomed:
            return
        asked = self._admin.delete_topics(doomed, operation_timeout=self._timeout_s, request_timeout=self._timeout_s)
        for name, future in asked.items():
            self._done(future, f"delete topic {name}", f"Delete on topic {name}")
        deadline_s = time.monotonic() + self._timeout_s
        while left := set(doomed) & self.topics().keys():
            if time.monotonic() > deadline_s:
                raise KafkaUnavailable(f"Kafka at {self._kafka.brokers} still has {min(left)}: look at the brokers")
            time.sleep(_PAUSE_S)

    def delete_group(self, group: str) -> None:
        """Delete a group with its offsets, once its last member is gone; one that is not there is no error.

        A member that was killed is gone when its session is over.
        """
        deadline_s = time.monotonic() + self._timeout_s + self._kafka.session_timeout_ms / 1_000
        while True:
            asked = self._admin.delete_consumer_groups([group], request_timeout=self._timeout_s)[group]
            try:
                asked.result(2 * self._timeout_s)
            except KafkaException as exception:
                if error_of(exception).code() in _BUSY and time.monotonic() < deadline_s:
                    time.sleep(_PAUSE_S)
                    continue
                self._done(asked, f"delete the group {group}", f"Delete on group {group}")
            except TimeoutError:
                raise self._silent() from None
            return

    def progress(self, group: str, topics: Iterable[str]) -> tuple[dict[Source, int], dict[Source, int]]:
        """The group's committed offsets, -1 for none, and the ends of the topics' partitions that hold anything."""
        ends: dict[Source, int] = {}
        try:
            with closing(Consumer(group_config(self._kafka.model_copy(update={"group_id": group})))) as consumer:
                for topic, count in ((name, self.topics().get(name, 0)) for name in topics):
                    for number in range(count):
                        source = (topic, number)
                        _, high = consumer.get_watermark_offsets(TopicPartition(*source), self._timeout_s)
                        if high:
                            ends[source] = high
            asked = ConsumerGroupTopicPartitions(group, [TopicPartition(*each) for each in ends])
            [future] = self._admin.list_consumer_group_offsets([asked], request_timeout=self._timeout_s).values()
            found = future.result(2 * self._timeout_s).topic_partitions
        except KafkaException as exception:
            raise unavailable(self._kafka, exception) from exception
        except TimeoutError:
            raise self._silent() from None
        return {(each.topic, each.partition): each.offset for each in found}, ends

    def _done(self, future: Future[Any], verb: str, right: str) -> None:
        try:
            future.result(2 * self._timeout_s)
        except KafkaException as exception:
            error = error_of(exception)
            if error.code() in _GONE:
                return
            if error.code() == Code.TOPIC_ALREADY_EXISTS:
                raise KafkaRefused(f"Kafka at {self._kafka.brokers} can't {verb}: somebody else just made it") from None
            if error.code() in _DENIED:
                raise KafkaRefused(
                    f"Kafka at {self._kafka.brokers} does not let this user {verb}: allow {right}"
                ) from exception
            raise unavailable(self._kafka, exception) from exception
        except TimeoutError:
            raise self._silent() from None

    def _silent(self) -> KafkaUnavailable:
        return KafkaUnavailable(f"Kafka at {self._kafka.brokers} did not answer in time")
