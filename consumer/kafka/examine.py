"""Looks at Kafka as a processor would use it, check by check, and leaves nothing that a read_committed reader sees.

What is written are records in transactions that are aborted, under a transactional id of our own, and never to the
topics that a processor reads. Nobody's group is joined, and no offset is committed.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from confluent_kafka import OFFSET_END, Consumer, KafkaException, Producer, TopicCollection, TopicPartition
from confluent_kafka import KafkaError as Code
from confluent_kafka.admin import AdminClient

from consumer.kafka.client import cluster, common_config, error_of, group_config, unavailable, within
from consumer.kafka.publisher import producer_config
from consumer.settings import KafkaSettings
from features.checkup import Verdict, bad, doubtful, good, left_out, reached
from features.errors import KafkaUnavailable

ROLE: Final = "doctor"  # of the producer: none that runs is fenced, nor another doctor
PROBE: Final = b"a probe of fraudline doctor, in a transaction that is aborted"
CONNECT_LIMIT_S: Final = 3.0
CLOSE_LIMIT_S: Final = 3.0
OPEN_LIMIT_MS: Final = 5_000  # then the brokers end what a doctor who was killed left open; they look every 10 s
LATENCY_LIMIT_S: Final = 5.0
ROUNDS: Final = 20
DEFAULT_PORT: Final = 9092
_VERSION: Final = re.compile(r"ApiKey \S+ \((\d+)\) Versions \d+\.\.(\d+)")
_TXN_OFFSET_COMMIT: Final = 28
_NEEDED: Final = 3  # of TxnOffsetCommit: what fences a worker that was replaced, Kafka 2.5
_KNOWN: Final = ((78, 1, "4.1"), (83, 0, "4.0"), (80, 0, "3.9"), (68, 0, "3.7"), (60, 0, "2.8"), (28, 3, "2.5"))
"""Which request, in which version, came with which Kafka; the newest first."""


def addresses(brokers: str) -> list[tuple[str, int]]:
    """The brokers of `kafka.brokers`, as hosts and ports."""
    found = []
    for word in brokers.split(","):
        text = word.rpartition("://")[2]
        host, colon, port = text.rpartition(":")
        is_whole = bool(colon) and port.isdigit() and not (host.count(":") and not host.startswith("["))
        found.append((host.strip("[]"), int(port)) if is_whole else (text.strip("[]"), DEFAULT_PORT))
    return found


class KafkaExamination:
    """One deployment's Kafka. Every verb is bounded by a few times `kafka.request_timeout_ms`."""

    def __init__(self, kafka: KafkaSettings) -> None:
        """Nothing is opened yet."""
        self._kafka = kafka
        self._timeout_s = kafka.request_timeout_ms / 1_000
        self._log = _Listening()
        self._own_id = f"{kafka.transactional_id}-{ROLE}-{secrets.token_hex(4)}"
        self._admin: AdminClient | None = None
        self._brokers: list[tuple[str, int]] = []
        self._topics: Mapping[str, int] = {}

    def reach(self) -> Verdict:
        """Whether the bootstrap brokers take connections."""
        return _connections(addresses(self._kafka.brokers), "kafka.brokers")

    def session(self) -> Verdict:
        """TLS, who we are, and a first answer."""
        logger = logging.Logger("doctor", logging.DEBUG)
        logger.addHandler(self._log)
        try:
            self._admin = AdminClient(common_config(self._kafka) | {"debug": "feature", "logger": logger})
            found = cluster(self._admin, self._kafka)
        except KafkaException as exception:
            raise unavailable(self._kafka, exception) from exception
        self._admin.poll(0)
        self._brokers = [(each.host, each.port) for each in found.brokers.values()]
        self._topics = {name: len(each.partitions) for name, each in found.topics.items() if each.error is None}
        return good(f"{_count(len(self._brokers), 'broker')} told about the cluster, {self._way()}")

    def advertised(self) -> Verdict:
        """Whether every broker can be reached under the address by which it goes."""
        return _connections(self._brokers, "the brokers' advertised.listeners")

    def version(self) -> Verdict:
        """Whether the brokers know the requests that exactly-once is made of."""
        versions = self._log.versions
        if not versions:
            return doubtful("the brokers did not tell which requests they know", "use Kafka 2.5 or newer")
        if versions.get(_TXN_OFFSET_COMMIT, -1) < _NEEDED:
            return bad("the brokers are older than Kafka 2.5, and can't fence a replaced worker", "upgrade them")
        known = next(name for key, least, name in _KNOWN if versions.get(key, -1) >= least)
        return good(f"the brokers know the requests of Kafka {known} or newer")

    def read(self, topics: Sequence[str]) -> Verdict:
        """Whether these may be read: at their ends, where nothing comes."""
        there = [name for name in topics if name in self._topics]
        if not there:
            return left_out(f"there is none of {', '.join(topics)}")
        consumer = Consumer(group_config(self._kafka) | {"enable.partition.eof": True})
        try:
            refused, silent = _read_at_ends(consumer, {name: self._topics[name] for name in there}, self._timeout_s)
        finally:
            within(consumer.close, CLOSE_LIMIT_S)
        if refused:
            return bad(
                f"this user may not read {', '.join(sorted(refused))}", f"allow Read on {', '.join(sorted(refused))}"
            )
        if silent:
            return bad(f"nothing was told of {', '.join(sorted(silent))}", "see whether its partitions have leaders")
        return good(f"{', '.join(there)} may be read")

    def transactions(self) -> Verdict:
        """Whether an id of our own may be used. Those of processors are not touched."""
        begun = time.perf_counter()
        with self._producer() as producer:
            producer.begin_transaction()
            producer.abort_transaction(self._timeout_s)
            took_ms = (time.perf_counter() - begun) * 1_000
        return good(f"{self._own_id} was taken up in {took_ms:.0f} ms; the ids of processors are left alone")

    def write(self, topics: Sequence[str]) -> Verdict:
        """Whether these may be written: a record each, aborted."""
        there = [name for name in topics if name in self._topics]
        if not there:
            return left_out(f"there is none of {', '.join(topics)}")
        failed: dict[str, Code] = {}

        def delivered(error: Code | None, message: Any) -> None:
            if error is not None:
                failed[message.topic()] = error

        with self._producer() as producer:
            producer.begin_transaction()
            begun = time.perf_counter()
            for name in there:
                producer.produce(name, PROBE, ROLE.encode(), partition=0, on_delivery=delivered)
            left = producer.flush(self._timeout_s)
            took_ms = (time.perf_counter() - begun) * 1_000
            try:
                producer.abort_transaction(self._timeout_s)
            except KafkaException:
                if not failed:  # where no record was taken, there is nothing to abort
                    raise
        if failed or left:
            return self._not_taken(there, failed)
        return good(f"{', '.join(there)} took a record, in {took_ms:.0f} ms, which was then aborted")

    def _not_taken(self, topics: Sequence[str], failed: Mapping[str, Code]) -> Verdict:
        """One topic that may not be written fails the others too, and not always by its own name: so ask."""
        allowed = self.may(topics, "WRITE")
        if allowed.status == "fail":
            return allowed
        told = [f"{name} ({error.str()})" for name, error in failed.items()]
        return bad(
            f"records were not taken: {', '.join(told) or 'no acknowledgement came in time'}",
            "see that enough copies are in step (min.insync.replicas), and the brokers' logs",
        )

    def may(self, topics: Sequence[str], operation: str) -> Verdict:
        """Whether the brokers say that these may be used so; nothing is tried."""
        assert self._admin is not None  # noqa: S101  `session` comes first
        there = [name for name in topics if name in self._topics]
        if not there:
            return left_out(f"there is none of {', '.join(topics)}")
        asked = self._admin.describe_topics(
            TopicCollection(there), include_authorized_operations=True, request_timeout=self._timeout_s
        )
        try:
            found = {name: future.result(2 * self._timeout_s).authorized_operations for name, future in asked.items()}
        except KafkaException as exception:
            raise unavailable(self._kafka, exception) from exception
        lacking = sorted(n for n, each in found.items() if each and operation not in {o.name for o in each})
        if lacking:
            return bad(
                f"this user may not {operation.lower()} {', '.join(lacking)}",
                f"allow {operation.capitalize()} on {', '.join(lacking)}",
            )
        if untold := sorted(name for name, each in found.items() if not each):
            return doubtful(
                f"the brokers don't tell whether this user may {operation.lower()} {', '.join(untold)}",
                "see the ACLs: docs/operations.md lists those that are needed",
            )
        return good(f"the brokers say that this user may {operation.lower()} {', '.join(there)}; nothing was tried")

    def offsets(self, topic: str) -> Verdict:
        """Whether the group's offsets may be written: in a transaction that is aborted, of a topic without offsets."""
        if topic not in self._topics:
            return left_out(f"not tried, since there is no topic {topic}")
        consumer = Consumer(group_config(self._kafka))
        try:
            with self._producer() as producer:
                producer.begin_transaction()
                producer.send_offsets_to_transaction(
                    [TopicPartition(topic, 0, 0)], consumer.consumer_group_metadata(), self._timeout_s
                )
                producer.abort_transaction(self._timeout_s)
        except KafkaException as exception:
            if error_of(exception).code() in {Code.GROUP_AUTHORIZATION_FAILED, Code.TOPIC_AUTHORIZATION_FAILED}:
                return bad(
                    f"this user may not write the offsets of group {self._kafka.group_id}",
                    f"allow Read and Describe on group {self._kafka.group_id}",
                )
            raise unavailable(self._kafka, exception) from exception
        finally:
            within(consumer.close, CLOSE_LIMIT_S)
        return good(f"offsets of group {self._kafka.group_id} were taken in a transaction, which was then aborted")

    def latency(self, topic: str, budget_ms: int) -> Verdict:
        """Round trips to the brokers: metadata of one topic, which is the least that they answer."""
        assert self._admin is not None  # noqa: S101  `session` comes first
        times_ms = []
        for _ in range(ROUNDS):
            begun = time.perf_counter()
            try:
                self._admin.list_topics(topic, timeout=self._timeout_s)
            except KafkaException as exception:
                raise unavailable(self._kafka, exception) from exception
            times_ms.append((time.perf_counter() - begun) * 1_000)
            if sum(times_ms) > LATENCY_LIMIT_S * 1_000:
                break
        times_ms.sort()
        p50_ms, slowest_ms = times_ms[len(times_ms) // 2], times_ms[-1]
        seen = f"{len(times_ms)} round trips to a broker took {p50_ms:.1f} ms (p50) and {slowest_ms:.1f} ms (slowest)"
        if p50_ms > budget_ms / 10:
            mend = (
                f"a payment needs about four of them, of processing.budget_ms = {budget_ms}: bring the brokers nearer"
            )
            return doubtful(seen, mend)
        return good(seen)

    def close(self) -> None:
        """Nothing is waited for."""
        self._admin = None

    def _way(self) -> str:
        mechanism = self._kafka.sasl_mechanism
        who = f" as {self._kafka.sasl_username}" if self._kafka.sasl_username else ""
        return self._kafka.security_protocol.replace("_", " over ") + (f", {mechanism}{who}" if mechanism else "")

    @contextmanager
    def _producer(self) -> Iterator[Producer]:
        """A producer with an id of its own. Raises KafkaUnavailable."""
        producer = Producer(
            producer_config(self._kafka)
            | {
                "transactional.id": self._own_id,
                "transaction.timeout.ms": OPEN_LIMIT_MS,
                "message.timeout.ms": min(self._kafka.request_timeout_ms, OPEN_LIMIT_MS),
            }
        )
        try:
            producer.init_transactions(self._timeout_s)
            yield producer
        except KafkaException as exception:
            if error_of(exception).code() == Code.TRANSACTIONAL_ID_AUTHORIZATION_FAILED:
                raise KafkaUnavailable(
                    f"this user may not use the transactional id {self._own_id}: allow Describe and Write on all "
                    f"that begin with {self._kafka.transactional_id}"
                ) from exception
            if error_of(exception).code() in {Code.GROUP_AUTHORIZATION_FAILED, Code.TOPIC_AUTHORIZATION_FAILED}:
                raise
            raise unavailable(self._kafka, exception) from exception
        finally:
            producer.purge()
            within(producer.close, CLOSE_LIMIT_S)


class _Listening(logging.Handler):
    """Hears which requests the brokers know: the client tells it to nobody else."""

    def __init__(self) -> None:
        super().__init__()
        self.versions: dict[int, int] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Take a line that names a request and its versions."""
        found = _VERSION.search(record.getMessage())
        if found:
            key, newest = int(found[1]), int(found[2])
            self.versions[key] = min(newest, self.versions.get(key, newest))


def _connections(places: Sequence[tuple[str, int]], whose: str) -> Verdict:
    """Connect to each, and say which could not be reached and why."""
    why = {f"{host}:{port}": reached(host, port, CONNECT_LIMIT_S) for host, port in places}
    away = [f"{place} ({reason})" for place, reason in why.items() if reason is not None]
    if not away:
        return good(f"{', '.join(why)} take{'s' if len(why) == 1 else ''} connections")
    mend = f"start them, or correct {whose}, and the network on the way"
    seen = f"{len(away)} of {_count(len(why), 'broker')} can't be reached: {', '.join(away)}"
    return bad(seen, mend) if len(away) == len(why) else doubtful(seen, mend)


def _read_at_ends(consumer: Consumer, partitions: Mapping[str, int], limit_s: float) -> tuple[set[str], set[str]]:
    """Topics that may not be read, and those of which nothing came."""
    waiting = {(name, number) for name, count in partitions.items() for number in range(count)}
    consumer.assign([TopicPartition(name, number, OFFSET_END) for name, number in waiting])
    refused: set[str] = set()
    deadline_s = time.monotonic() + limit_s
    while waiting and time.monotonic() < deadline_s:
        message = consumer.poll(0.1)
        if message is None:
            continue
        error = message.error()
        if error is not None and error.code() == Code.TOPIC_AUTHORIZATION_FAILED:
            refused.add(message.topic())
            waiting = {each for each in waiting if each[0] != message.topic()}
        elif error is None or error.code() == Code._PARTITION_EOF:
            waiting.discard((message.topic(), message.partition()))
    consumer.unassign()
    return refused, {name for name, _ in waiting}


def _count(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
