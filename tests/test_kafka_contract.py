"""One contract for the embedded broker and for Apache Kafka: reading as a group, publishing, committing.

What the embedded broker can't do is an expected failure with its reason; should it learn it, the suite says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from consumer.decode import Message, in_log_order
from consumer.kafka.embedded import PARTITIONS, EmbeddedBroker
from consumer.kafka.logreader import LogReader
from consumer.kafka.publisher import AcknowledgedPublisher, Outgoing, Publisher, TransactionalPublisher
from consumer.kafka.rights import missing_rights
from consumer.kafka.source import KafkaSource, Taken
from consumer.settings import KafkaSettings
from features.errors import KafkaUnavailable, ProducerLost, TransactionAborted
from features.store import Span
from tests.services.kafka import KafkaBroker
from tests.services.proxy import Api, KafkaProxy
from tests.services.reader import ReadCommitted

REAL = pytest.param("kafka", marks=pytest.mark.kafka)
DEADLINE_S = 30.0
POLL_S = 0.05

EMBEDDED = pytest.param("embedded", marks=pytest.mark.slow)  # a join takes its broker 3 s

both = pytest.mark.parametrize("cluster", [EMBEDDED, REAL], indirect=True)
real = pytest.mark.parametrize("cluster", [REAL], indirect=True)


def only_real(reason: str) -> pytest.MarkDecorator:
    """On both, and expected to fail on the embedded broker."""
    embedded = pytest.param("embedded", marks=[pytest.mark.slow, pytest.mark.xfail(strict=True, reason=reason)])
    return pytest.mark.parametrize("cluster", [embedded, REAL], indirect=True)


@dataclass(slots=True)
class Cluster:
    """A broker with three topics of four partitions, and clients that are closed with the test."""

    settings: KafkaSettings
    payments: str
    labels: str
    decisions: str
    closing: ExitStack
    rebalances: list[str] = field(default_factory=list)

    def source(self, *, labels: bool = False) -> KafkaSource:
        source = KafkaSource(self.settings, self.payments, self.rebalances.append, self.labels if labels else None)
        self.closing.callback(source.close)
        return source

    def member(self, *, labels: bool = False) -> KafkaSource:
        """A source that has its partitions, of payments or of both."""
        source = self.source(labels=labels)
        source.start([self.decisions])
        until(lambda: len(source.owned) == (2 * PARTITIONS if labels else PARTITIONS), source)
        return source

    def publisher(
        self, kind: Callable[..., Publisher], source: KafkaSource | None = None, steps: list[str] | None = None
    ) -> Publisher:
        publisher = kind(self.settings, source or self.source(), [].append if steps is None else steps.append)
        self.closing.callback(publisher.close)
        return publisher

    def produce(self, count: int, partition: int = 0, topic: str | None = None) -> None:
        producer = Producer({"bootstrap.servers": self.settings.brokers, "log_level": 0})
        for number in range(count):
            producer.produce(topic or self.payments, b"%d" % number, partition=partition)
        assert producer.flush(DEADLINE_S) == 0
        producer.close()

    def reader(self, *, labels: bool = False) -> LogReader:
        reader = LogReader(self.settings, self.payments, self.labels if labels else None)
        self.closing.callback(reader.close)
        return reader

    def decided(self, at_least: int = 0) -> list[bytes | None]:
        """What a read_committed reader sees of the decisions, once there are so many."""
        with ReadCommitted(self.settings.brokers, [self.decisions]) as reader:
            reader.wait_until(lambda seen: len(seen) >= at_least, DEADLINE_S)
            return [record.value for record in reader.read_to_end(DEADLINE_S)]

    def await_record(self, topic: str) -> None:
        """Wait until a topic holds a record, committed or not."""
        asker = Consumer({"bootstrap.servers": self.settings.brokers, "group.id": "asker", "log_level": 0})
        deadline = time.monotonic() + DEADLINE_S
        partitions = [TopicPartition(topic, number) for number in range(PARTITIONS)]
        while not any(asker.get_watermark_offsets(each, timeout=DEADLINE_S)[1] for each in partitions):
            assert time.monotonic() < deadline, f"nothing was written to {topic}"
        asker.close()

    def committed(self) -> dict[int, int | None]:
        """Of the payments."""
        return {partition: extent.committed for (_, partition), extent in self.reader().extents().items()}

    def committed_of_both(self) -> dict[tuple[str, int], int | None]:
        """Of payments and labels, where anything is."""
        return {at: extent.committed for at, extent in self.reader(labels=True).extents().items() if extent.high}

    def sources(self, topic: str | None = None) -> set[tuple[str, int]]:
        """All partitions of a topic, payments unless told."""
        return {(topic or self.payments, partition) for partition in range(PARTITIONS)}


@pytest.fixture
def cluster(request: pytest.FixtureRequest, unique: str) -> Iterator[Cluster]:
    topics = [f"{unique}.payments", f"{unique}.labels", f"{unique}.decisions"]
    with ExitStack() as closing:
        if request.param == "embedded":
            broker = closing.enter_context(EmbeddedBroker())
            broker.create(*topics)
            brokers = broker.brokers
        else:
            kafka = request.getfixturevalue("kafka")
            kafka.create_topics(dict.fromkeys(topics, PARTITIONS))
            brokers = kafka.bootstrap
            _await_leaders(brokers, topics)
        settings = KafkaSettings(
            brokers=brokers,
            group_id=unique,
            transactional_id=unique,
            session_timeout_ms=6_000,  # the mock cluster's first join alone takes 3 s
            fetch_wait_ms=5,
            transaction_timeout_ms=10_000,
        )
        yield Cluster(settings, topics[0], topics[1], topics[2], closing.enter_context(ExitStack()))


def _await_leaders(brokers: str, topics: Sequence[str]) -> None:
    """Wait until every partition answers: its leader is known a moment before it knows itself."""
    asker = Consumer({"bootstrap.servers": brokers, "group.id": "asker", "log_level": 0})
    deadline = time.monotonic() + DEADLINE_S
    left = {(topic, partition) for topic in topics for partition in range(PARTITIONS)}
    while left:
        assert time.monotonic() < deadline, f"no leader answers for {sorted(left)}"
        for at in sorted(left):
            with suppress(KafkaException):
                asker.get_watermark_offsets(TopicPartition(*at), timeout=1.0)
                left.discard(at)
    asker.close()


def until(holds: Callable[[], object], *sources: KafkaSource) -> None:
    """Poll the sources, which read nothing meanwhile, until it holds."""
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline, "it never held"
        for source in sources:
            assert source.poll(1, POLL_S) == []


def take(source: KafkaSource, count: int) -> list[Message]:
    taken: list[Message] = []
    deadline = time.monotonic() + DEADLINE_S
    while len(taken) < count:
        assert time.monotonic() < deadline, f"{len(taken)} of {count} records came"
        taken += source.poll(count - len(taken), POLL_S)
    return sorted(taken, key=lambda message: (message.partition(), message.offset()))


def covered(source: KafkaSource, messages: Sequence[Message]) -> tuple[Span, ...]:
    """What a batch covers that is in hand from now on."""
    taken = source.take(messages)
    source.hold(taken)
    return taken.spans


def taken_and_shared(cluster: Cluster, first: KafkaSource) -> tuple[Taken, KafkaSource]:
    """A batch of all partitions, and the second member that was given half of them since it was taken."""
    for partition in range(PARTITIONS):
        cluster.produce(2, partition)
    batch = first.take(take(first, 2 * PARTITIONS))
    second = cluster.source()
    second.start([cluster.decisions])
    deadline = time.monotonic() + DEADLINE_S
    while not len(first.owned) == len(second.owned) == PARTITIONS // 2:
        assert time.monotonic() < deadline, (first.owned, second.owned)
        first.poll(100, POLL_S)
        second.poll(100, POLL_S)
    return batch, second


def regain(source: KafkaSource, count: int) -> None:
    """Poll until it owns so many partitions."""
    deadline = time.monotonic() + DEADLINE_S
    while len(source.owned) < count:
        assert time.monotonic() < deadline, source.owned
        source.poll(100, POLL_S)


def origins(messages: Sequence[Message]) -> set[tuple[str, int]]:
    return {(message.topic(), message.partition()) for message in messages}


def offsets(messages: Sequence[Message]) -> list[tuple[int, int]]:
    return [(message.partition(), message.offset()) for message in messages]


def outgoing(cluster: Cluster, *values: bytes) -> list[Outgoing]:
    return [Outgoing(cluster.decisions, b"key", value, [("h", b"1"), ("none", None)]) for value in values]


@both
def test_a_source_reads_on_where_the_last_batch_ended_and_rewinds_to_what_is_committed(cluster: Cluster) -> None:
    source = cluster.member()
    assert set(source.owned) == cluster.sources()
    assert cluster.rebalances == ["assign"]
    cluster.produce(10)
    cluster.produce(3, partition=2)

    first = take(source, 13)
    spans = covered(source, first)
    assert set(spans) == {Span(cluster.payments, 0, 0, 10, 0), Span(cluster.payments, 2, 0, 3, 0)}
    source.commit(spans)
    source.committed(spans)
    assert cluster.committed() == {0: 10, 1: None, 2: 3, 3: None}

    cluster.produce(5)
    second = take(source, 5)
    idle = Span(cluster.payments, 2, 3, 3, 3)  # nothing new in it, but the store has not heard of its floor
    assert set(covered(source, second)) == {Span(cluster.payments, 0, 10, 15, 10), idle}
    source.told([idle])
    source.rewind()
    again = take(source, 5)
    assert offsets(again) == offsets(second) == [(0, offset) for offset in range(10, 15)]
    assert sum(source.backlog().values()) == 5
    spans = covered(source, again)
    assert spans == (Span(cluster.payments, 0, 10, 15, 10),)
    source.committed(spans)
    assert sum(source.backlog().values()) == 0
    source.rewind()  # what was never committed to the broker is read again, whatever we believed
    assert offsets(take(source, 5)) == offsets(second)


@both
def test_a_batch_may_be_taken_before_the_one_in_front_of_it_is_committed(cluster: Cluster) -> None:
    source = cluster.member()
    cluster.produce(10)
    messages = take(source, 10)
    first, second = source.take(messages[:4]), source.take(messages[4:])
    assert first.spans == (Span(cluster.payments, 0, 0, 4, 0),)
    assert second.spans == (Span(cluster.payments, 0, 4, 10, 0),)
    assert source.still_owned(messages) == []
    assert source.positions()[cluster.payments, 0] == 0  # none of it is decided
    source.hold(first)
    source.commit(first.spans)
    source.committed(first.spans)
    assert (source.positions()[cluster.payments, 0], cluster.committed()[0]) == (4, 4)
    source.rewind()  # the second is given up
    again = take(source, 6)
    assert offsets(again) == [(0, offset) for offset in range(4, 10)]
    assert source.take(again).spans == (Span(cluster.payments, 0, 4, 10, 4),)


@both
def test_what_was_taken_away_since_a_batch_was_taken_is_not_committed_with_it(cluster: Cluster) -> None:
    first = cluster.member()
    batch, second = taken_and_shared(cluster, first)
    kept, gone = set(first.owned), cluster.sources() - set(first.owned)
    first.hold(batch)
    assert not first.still_holds()
    first.commit(batch.spans)
    first.committed(batch.spans)
    committed = cluster.committed()
    assert {(cluster.payments, number) for number, offset in committed.items() if offset} == kept
    second.close()
    regain(first, PARTITIONS)
    first.commit(batch.spans)  # what came back is not what was taken
    first.committed(batch.spans)
    assert {(cluster.payments, number) for number, offset in cluster.committed().items() if offset} == kept
    assert {source for source, position in first.positions().items() if not position} == gone


@only_real("the mock cluster lets a member commit under a membership that is over")
def test_a_batch_is_committed_under_the_membership_that_took_it(cluster: Cluster) -> None:
    first = cluster.member()
    publisher = cluster.publisher(TransactionalPublisher, first)
    batch, _ = taken_and_shared(cluster, first)
    first.take([])  # as the next batch is: it knows the membership that it is now
    first.hold(batch)
    publisher.publish(outgoing(cluster, b"1"))
    with pytest.raises(TransactionAborted):
        publisher.commit(batch.spans)
    assert set(cluster.committed().values()) == {None}


@both
def test_a_source_gives_nothing_twice_while_it_is_not_rewound(cluster: Cluster) -> None:
    source = cluster.member()
    cluster.produce(4)
    messages = take(source, 4)
    assert source.still_owned(messages + messages) == messages
    source.committed(covered(source, messages))
    assert source.still_owned(messages) == []


@both
def test_a_paused_source_stays_a_member_and_reads_nothing(cluster: Cluster) -> None:
    source = cluster.member()
    source.pause()
    cluster.produce(3)
    for _ in range(10):
        assert source.poll(10, POLL_S) == []
    source.resume()
    assert offsets(take(source, 3)) == [(0, 0), (0, 1), (0, 2)]


def joined(cluster: Cluster, first: KafkaSource) -> KafkaSource:
    """A second member, once both have their half."""
    second = cluster.source()
    second.start([cluster.decisions])
    until(lambda: len(first.owned) == len(second.owned) == PARTITIONS // 2, first, second)
    return second


@real
def test_what_a_member_keeps_is_asked_for_at_once_after_a_rebalance(cluster: Cluster, kafka: KafkaBroker) -> None:
    """The client lets it rest meanwhile, and but for a question to the broker fetches again up to a second later."""
    with KafkaProxy(kafka) as proxy:
        direct = cluster.settings
        cluster.settings = direct.model_copy(update={"brokers": proxy.bootstrap})
        first = cluster.member()
        cluster.settings = direct
        before = proxy.asked(Api.LIST_OFFSETS)
        joined(cluster, first)
        assert proxy.asked(Api.LIST_OFFSETS) > before
        first.close()


@real
def test_partitions_that_are_taken_away_while_they_arrive_are_let_go(cluster: Cluster, kafka: KafkaBroker) -> None:
    """Where they start could not be asked when they came; another member has joined before it can be."""
    with KafkaProxy(kafka) as proxy:
        direct = cluster.settings
        cluster.settings = direct.model_copy(update={"brokers": proxy.bootstrap, "request_timeout_ms": 1_000})
        first = cluster.source()
        first.start([cluster.decisions])
        cluster.settings = direct
        proxy.lose_answers(Api.OFFSET_FETCH, times=1_000)
        with pytest.raises(KafkaUnavailable):
            until(lambda: first.owned, first)
        assert first.owned == ()
        proxy.lose_answers(Api.OFFSET_FETCH, times=0)
        second = cluster.source()
        second.start([cluster.decisions])
        asked = proxy.asked(Api.SYNC_GROUP)
        until(lambda: proxy.asked(Api.SYNC_GROUP) > asked, second)  # the first has to give half of them back
        until(lambda: len(first.owned) == len(second.owned) == PARTITIONS // 2, second, first)
        first.close()


@real
def test_members_hear_of_each_other_soon_however_long_they_may_be_silent(cluster: Cluster) -> None:
    patience_ms = 10 * round(DEADLINE_S * 1_000)
    cluster.settings = cluster.settings.model_copy(
        update={"session_timeout_ms": patience_ms, "max_poll_interval_ms": patience_ms}
    )
    joined(cluster, cluster.member())


@both
def test_a_second_member_gets_its_half_without_stopping_the_first(cluster: Cluster) -> None:
    first = cluster.member()
    for partition in range(PARTITIONS):
        cluster.produce(2, partition)
    held = take(first, 2 * PARTITIONS)

    second = cluster.source()
    second.start([cluster.decisions])
    counts: set[int] = set()

    def split() -> bool:
        counts.add(len(first.owned))
        return len(first.owned) == len(second.owned) == PARTITIONS // 2

    deadline = time.monotonic() + DEADLINE_S
    taken: list[Message] = []
    while not split():
        assert time.monotonic() < deadline, (first.owned, second.owned)
        first.poll(100, POLL_S)
        taken += second.poll(100, POLL_S)
    assert counts == {PARTITIONS, PARTITIONS // 2}  # what it keeps, it never let go
    assert set(first.owned) | set(second.owned) == cluster.sources()

    kept = first.still_owned(held)
    assert origins(kept) == set(first.owned)
    taken += take(second, PARTITIONS - len(taken)) if len(taken) < PARTITIONS else []
    assert origins(taken) == set(second.owned)

    second.close()
    regain(first, PARTITIONS)
    assert "revoke" in cluster.rebalances
    assert "lost" not in cluster.rebalances


@both
@pytest.mark.parametrize("kind", [AcknowledgedPublisher, TransactionalPublisher])
def test_what_is_published_is_seen_after_the_commit(cluster: Cluster, kind: Callable[..., Publisher]) -> None:
    steps: list[str] = []
    publisher = cluster.publisher(kind, steps=steps)
    publisher.publish(outgoing(cluster, b"1", b"2"))
    publisher.publish(outgoing(cluster, b"3"))
    publisher.commit(())
    assert cluster.decided(3) == [b"1", b"2", b"3"]
    assert steps == ["after_produce", "after_produce", "after_flush", "in_commit", "after_commit"]


@both
def test_acknowledged_records_come_with_their_offsets(cluster: Cluster) -> None:
    source = cluster.member()
    publisher = cluster.publisher(AcknowledgedPublisher, source)
    cluster.produce(4, partition=1)
    spans = covered(source, take(source, 4))
    publisher.publish(outgoing(cluster, b"1"))
    publisher.commit(spans)
    assert cluster.committed()[1] == 4
    assert cluster.decided(1) == [b"1"]


@only_real("the mock cluster drops the offsets of a transaction")
def test_a_transaction_carries_its_offsets(cluster: Cluster) -> None:
    source = cluster.member()
    publisher = cluster.publisher(TransactionalPublisher, source)
    cluster.produce(4, partition=1)
    spans = covered(source, take(source, 4))
    publisher.publish(outgoing(cluster, b"1"))
    publisher.commit(spans)
    source.committed(spans)
    assert cluster.committed()[1] == 4
    source.rewind()
    assert source.poll(1, POLL_S) == []
    assert cluster.decided(1) == [b"1"]


@only_real("the mock cluster shows aborted records to read_committed readers")
def test_what_was_not_committed_is_never_seen(cluster: Cluster) -> None:
    publisher = cluster.publisher(TransactionalPublisher)
    publisher.publish(outgoing(cluster, b"lost"))
    cluster.await_record(cluster.decisions)
    with ReadCommitted(cluster.settings.brokers, [cluster.decisions]) as reader:
        publisher.renew()  # which settles what the former producer left open
        publisher.publish(outgoing(cluster, b"kept"))
        publisher.commit(())
        reader.wait_until(len, DEADLINE_S)
        assert [record.value for record in reader.read_to_end(DEADLINE_S)] == [b"kept"]


@pytest.mark.filterwarnings(  # closing a fenced producer raises on the thread that closes it
    "ignore::pytest.PytestUnhandledThreadExceptionWarning"
)
@only_real("the mock cluster lets a producer commit whose transactional id was taken over")
def test_a_producer_that_was_replaced_can_not_commit(cluster: Cluster) -> None:
    stale = cluster.publisher(TransactionalPublisher)
    stale.publish(outgoing(cluster, b"stale"))
    fresh = cluster.publisher(TransactionalPublisher)
    fresh.publish(outgoing(cluster, b"fresh"))
    fresh.commit(())
    with pytest.raises(ProducerLost):
        stale.commit(())
    assert cluster.decided(1) == [b"fresh"]


@only_real("the mock cluster's marks of transactions have no checksum")
def test_the_log_reader_reaches_the_end_over_the_marks_of_transactions(cluster: Cluster) -> None:
    producer = Producer(
        {"bootstrap.servers": cluster.settings.brokers, "transactional.id": f"{cluster.payments}-x", "log_level": 0}
    )
    producer.init_transactions(DEADLINE_S)
    for number in range(3):
        producer.begin_transaction()
        producer.produce(cluster.payments, b"%d" % number, partition=1)
        producer.commit_transaction(DEADLINE_S)
    producer.close()
    reader = cluster.reader()
    extents = reader.extents()
    assert set(extents) == cluster.sources()
    end = extents[cluster.payments, 1].high
    values: list[bytes | None] = []
    reached = 0
    deadline = time.monotonic() + DEADLINE_S
    while reached < end:
        assert time.monotonic() < deadline, f"it stands at {reached} of {end}"
        messages, reached = reader.read((cluster.payments, 1), reached, end, 2, time.monotonic() + POLL_S)
        values += [message.value() for message in messages]
    assert values == [b"0", b"1", b"2"]


@pytest.mark.parametrize("cluster", [REAL], indirect=True)  # the mock cluster shows aborted records at times
def test_what_a_worker_without_membership_published_never_rides_on_a_later_commit(cluster: Cluster) -> None:
    source = cluster.source()
    covered(source, ())  # it never joined
    publisher = cluster.publisher(TransactionalPublisher, source)
    publisher.publish(outgoing(cluster, b"of no member"))
    with pytest.raises(TransactionAborted):
        publisher.commit((Span(cluster.payments, 0, 0, 1, 0),))
    publisher.publish(outgoing(cluster, b"later"))
    publisher.commit(())
    assert cluster.decided(1) == [b"later"]


class Dies(Exception):
    """In the middle of a commit, once the offsets are in the transaction."""


@pytest.mark.parametrize("cluster", [REAL], indirect=True)  # the mock cluster has no offsets that wait for an outcome
def test_a_member_waits_for_the_outcome_of_a_dead_owners_transaction(cluster: Cluster) -> None:
    """Which the broker aborts once its time is over; until then nobody can say where the next owner starts."""

    def die(step: str) -> None:
        if step == "in_commit":
            raise Dies

    owner = cluster.member()
    cluster.produce(3, partition=1)
    spans = covered(owner, take(owner, 3))
    settings = cluster.settings.model_copy(update={"transaction_timeout_ms": 5_000})
    publisher = TransactionalPublisher(settings, owner, die)
    cluster.closing.callback(publisher.close)
    publisher.publish(outgoing(cluster, b"of the dead"))
    with pytest.raises(Dies):
        publisher.commit(spans)
    owner.close()
    heir = cluster.source()
    heir.start([cluster.decisions])
    assert offsets(take(heir, 3)) == [(1, 0), (1, 1), (1, 2)]  # no poll failed meanwhile


@only_real("the mock cluster's marks of transactions have no checksum")
def test_a_source_commits_past_the_marks_of_transactions(cluster: Cluster) -> None:
    source = cluster.member()
    producer = Producer(
        {"bootstrap.servers": cluster.settings.brokers, "transactional.id": f"{cluster.payments}-y", "log_level": 0}
    )
    producer.init_transactions(DEADLINE_S)
    producer.begin_transaction()
    for number in range(3):
        producer.produce(cluster.payments, b"%d" % number, partition=1)
    producer.commit_transaction(DEADLINE_S)
    producer.close()

    messages = take(source, 3)
    source.committed(covered(source, messages))
    until(lambda: [span.end for span in covered(source, ())] == [4], source)  # three records and a mark
    source.commit(covered(source, ()))
    source.committed(covered(source, ()))
    assert sum(source.backlog().values()) == 0
    source.rewind()
    assert source.poll(1, POLL_S) == []


@pytest.mark.parametrize("cluster", [REAL], indirect=True)  # the mock cluster shows aborted records at times
def test_what_a_producer_aborted_is_never_read_as_a_payment(cluster: Cluster) -> None:
    source = cluster.member()
    producer = Producer(
        {"bootstrap.servers": cluster.settings.brokers, "transactional.id": f"{cluster.payments}-z", "log_level": 0}
    )
    producer.init_transactions(DEADLINE_S)
    for value, end in ((b"aborted", producer.abort_transaction), (b"committed", producer.commit_transaction)):
        producer.begin_transaction()
        producer.produce(cluster.payments, value, partition=1)
        assert producer.flush(DEADLINE_S) == 0
        end(DEADLINE_S)
    producer.close()
    assert [message.value() for message in take(source, 1)] == [b"committed"]
    reader = cluster.reader()
    messages, _ = reader.read((cluster.payments, 1), 0, 3, 1, time.monotonic() + DEADLINE_S)
    assert [message.value() for message in messages] == [b"committed"]


@pytest.mark.parametrize("cluster", [REAL], indirect=True)  # the mock cluster keeps no offsets that it lacks
def test_offsets_that_the_topic_does_not_hold_are_refused(cluster: Cluster) -> None:
    """As after the topic was made anew, or its retention was too short: nothing is skipped in silence."""
    cluster.produce(3, partition=1)
    committer = Consumer({"bootstrap.servers": cluster.settings.brokers, "group.id": cluster.settings.group_id})
    committer.commit(offsets=[TopicPartition(cluster.payments, 1, 9)], asynchronous=False)
    committer.close()
    source = cluster.source()
    source.start([cluster.decisions])
    with pytest.raises(KafkaUnavailable, match=r"stands at offset 9 of .*, which holds 0 to 3: .*reset the group"):
        until(lambda: source.owned, source)


@both
def test_a_topic_that_is_not_there_is_named(cluster: Cluster) -> None:
    with pytest.raises(KafkaUnavailable, match=r"has no topic .*nothing\.here: create it"):
        cluster.source().start([cluster.decisions, f"{cluster.payments}.nothing.here"])


@both
def test_where_everything_is_allowed_no_right_is_missing(cluster: Cluster) -> None:
    assert missing_rights(cluster.settings, {cluster.payments: "read", cluster.decisions: "write"}) == []


@both
def test_labels_are_read_beside_payments_and_rewound_with_them(cluster: Cluster) -> None:
    source = cluster.member(labels=True)
    assert set(source.owned) == cluster.sources() | cluster.sources(cluster.labels)
    cluster.produce(2, partition=1)
    cluster.produce(3, partition=1, topic=cluster.labels)
    messages = take(source, 5)
    assert source.still_owned(messages + messages) == messages
    spans = covered(source, messages)
    assert spans == (Span(cluster.labels, 1, 0, 3, 0, labels=True), Span(cluster.payments, 1, 0, 2, 0))
    assert (sum(source.backlog().values()), source.labels_lag_records()) == (2, 3)

    source.commit(spans[:1])
    source.committed(spans[:1])
    assert (sum(source.backlog().values()), source.labels_lag_records()) == (2, 0)
    source.rewind()
    again = take(source, 2)
    assert origins(again) == {(cluster.payments, 1)}
    assert covered(source, again) == (
        Span(cluster.labels, 1, 3, 3, 3, labels=True),  # the store has not heard of its floor
        Span(cluster.payments, 1, 0, 2, 0),
    )
    assert cluster.committed_of_both() == {(cluster.labels, 1): 3, (cluster.payments, 1): None}


@both
def test_a_paused_source_reads_no_labels_either(cluster: Cluster) -> None:
    source = cluster.member(labels=True)
    source.pause()
    cluster.produce(3, topic=cluster.labels)
    for _ in range(10):
        assert source.poll(10, POLL_S) == []
    source.resume()
    assert origins(take(source, 3)) == {(cluster.labels, 0)}


@only_real("the mock cluster drops the offsets of a transaction")
def test_a_transaction_carries_the_offsets_of_both_topics_or_of_none(cluster: Cluster) -> None:
    source = cluster.member(labels=True)
    cluster.produce(4, partition=1)
    cluster.produce(2, topic=cluster.labels)
    spans = covered(source, take(source, 6))

    failures: list[str] = []

    def fail_once(step: str) -> None:
        if step == "in_commit" and not failures:
            failures.append(step)
            raise InterruptedError

    publisher = TransactionalPublisher(cluster.settings, source, fail_once)
    cluster.closing.callback(publisher.close)
    with pytest.raises(InterruptedError):
        publisher.commit(spans)
    publisher.renew()  # which settles what the former producer left open
    assert cluster.committed_of_both() == {(cluster.labels, 0): None, (cluster.payments, 1): None}

    source.rewind()
    assert covered(source, take(source, 6)) == spans
    publisher.commit(spans)
    assert cluster.committed_of_both() == {(cluster.labels, 0): 2, (cluster.payments, 1): 4}


@both
def test_partitions_of_payments_and_labels_with_one_number_are_revoked_apart(cluster: Cluster) -> None:
    first = cluster.member(labels=True)
    for partition in range(PARTITIONS):
        cluster.produce(2, partition)
        cluster.produce(2, partition, cluster.labels)
    held = take(first, 4 * PARTITIONS)
    everything = cluster.sources() | cluster.sources(cluster.labels)
    assert origins(held) == everything

    second = cluster.source(labels=True)
    second.start([cluster.decisions])
    taken: list[Message] = []
    deadline = time.monotonic() + DEADLINE_S
    while not len(first.owned) == len(second.owned) == PARTITIONS:
        assert time.monotonic() < deadline, (first.owned, second.owned)
        first.poll(100, POLL_S)
        taken += second.poll(100, POLL_S)
    assert set(first.owned) | set(second.owned) == everything
    kept = first.still_owned(held)
    assert origins(kept) == set(first.owned)
    assert {(span.topic, span.partition) for span in covered(first, kept)} == set(first.owned)
    taken += take(second, 2 * PARTITIONS - len(taken)) if len(taken) < 2 * PARTITIONS else []
    assert origins(taken) == set(second.owned)

    second.close()
    regain(first, 2 * PARTITIONS)
    # in whatever order they came back, spans lie as the batch does: labels first, then by partition
    ordered = [(message.topic(), message.partition()) for message in in_log_order(held, cluster.labels)]
    assert [(span.topic, span.partition) for span in covered(first, held)] == list(dict.fromkeys(ordered))


@both
def test_the_log_reader_reads_labels_too(cluster: Cluster) -> None:
    cluster.produce(1, partition=2)
    cluster.produce(3, partition=2, topic=cluster.labels)
    reader = cluster.reader(labels=True)
    extents = reader.extents()
    assert set(extents) == cluster.sources() | cluster.sources(cluster.labels)
    for source, count in (((cluster.labels, 2), 3), ((cluster.payments, 2), 1)):
        assert extents[source].high == count
        messages: list[Message] = []
        reached, deadline = 0, time.monotonic() + DEADLINE_S
        while reached < count:
            assert time.monotonic() < deadline, f"it stands at {reached} of {source}"
            some, reached = reader.read(source, reached, count, 2, time.monotonic() + POLL_S)
            messages += some
        assert origins(messages) == {source}
        assert [message.offset() for message in messages] == list(range(count))
