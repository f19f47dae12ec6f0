"""What the alert page reads: the newest first on a broker in this process, and on real Kafka committed records only."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from consumer.audit import AuditEntry
from consumer.dashboard.compose import Dashboard
from consumer.dashboard.verdicts import Asked
from consumer.decode import Message
from consumer.kafka.embedded import PARTITIONS, EmbeddedBroker
from consumer.kafka.tail import TailReader
from consumer.kafka.verdicts import PaymentLookup
from consumer.records import Source
from consumer.settings import AuditSettings, DashboardSettings, KafkaSettings, Settings, TopicSettings
from features.errors import KafkaUnavailable
from features.event import Label, Payment
from tests.services.kafka import KafkaBroker
from tests.services.reader import ReadCommitted
from tests.support.page import NOW_MS, alert, decision, until

PATIENCE_S = 60.0
Topics = Callable[..., dict[str, str]]


@contextmanager
def tail(brokers: str, back: dict[str, int], **options: Any) -> Iterator[TailReader]:
    made = TailReader(KafkaSettings(brokers=brokers, group_id="page", transactional_id="page"), back, **options)
    try:
        yield made
    finally:
        made.close()


def read(made: TailReader, enough: Callable[[list[Message]], bool], patience_s: float = PATIENCE_S) -> list[Message]:
    """Poll until what has come is enough; an outage on the way is waited out."""
    found: list[Message] = []
    deadline = time.monotonic() + patience_s
    while not enough(found):
        assert time.monotonic() < deadline, f"only {len(found)} records came"
        try:
            found += made.poll(0.1)
        except KafkaUnavailable:
            continue
    return found


def produce(brokers: str, topic: str, values: list[bytes], partition: int | None = None) -> None:
    producer = Producer({"bootstrap.servers": brokers, "enable.idempotence": True})
    for value in values:
        producer.produce(topic, value, **({} if partition is None else {"partition": partition}))
    assert producer.flush(PATIENCE_S) == 0


def numbers(messages: list[Message], topic: str) -> list[int]:
    return [int(message.value() or b"") for message in messages if message.topic() == topic]


def test_the_newest_records_come_first_and_then_what_is_added() -> None:
    with EmbeddedBroker() as broker:
        broker.create("alerts", "decisions")
        for partition in range(PARTITIONS):
            produce(broker.brokers, "alerts", [b"%d" % number for number in range(50)], partition)
        with tail(broker.brokers, {"alerts": 5 * PARTITIONS, "decisions": 10}) as made:
            past = read(made, lambda _found: made.caught_up)
            assert sorted(numbers(past, "alerts")) == sorted(list(range(45, 50)) * PARTITIONS)
            produce(broker.brokers, "decisions", [b"7"])
            assert numbers(read(made, bool), "decisions") == [7]


def test_a_page_on_the_embedded_broker_shows_alerts_and_takes_verdicts() -> None:
    """Without the processor: alerts, decisions and a payment are put into the topics by hand."""
    with EmbeddedBroker() as broker:
        settings = Settings(
            kafka=KafkaSettings(brokers=broker.brokers, group_id="page", transactional_id="page"),
            dashboard=DashboardSettings(auth="none", port=0, verdicts=True),
        )
        broker.create(*settings.topics.model_dump().values())
        payment = Payment("e-1", NOW_MS, "tok_1", "m_12", 1_718, "GBP", ip="10.0.37.49", terminal_id="t_1")
        produce(broker.brokers, "payments", [msgspec.json.encode(payment)], 2)
        produce(broker.brokers, "alerts", [msgspec.json.encode(alert("e-1", source=Source("payments", 2, 0))), b"{"])
        page = Dashboard(settings)
        page.start()
        try:
            until(lambda: page.board.payment("e-1") and page.board.reading().unreadable["alert"])
            produce(broker.brokers, "decisions", [msgspec.json.encode(decision("e-2"))])
            until(lambda: page.board.payment("e-2"))
            known = page.board.payment("e-1")
            assert known is not None
            assert known.kept is not None
            assert PaymentLookup(settings)(known.kept.alert) == payment
            assert PaymentLookup(settings)(msgspec.structs.replace(known.kept.alert, event_id="another")) is None
        finally:
            page.close()


def transaction(brokers: str, name: str, topic: str, values: list[bytes], *, commit: bool) -> None:
    producer = Producer({"bootstrap.servers": brokers, "transactional.id": name})
    producer.init_transactions(PATIENCE_S)
    producer.begin_transaction()
    for value in values:
        producer.produce(topic, value)
    producer.flush(PATIENCE_S)
    if commit:
        producer.commit_transaction(PATIENCE_S)
    else:
        producer.abort_transaction(PATIENCE_S)


def test_what_was_aborted_is_never_read(kafka: KafkaBroker, topics: Topics, unique: str) -> None:
    topic = topics(alerts=1)["alerts"]
    for round_number in range(3):
        transaction(kafka.bootstrap, f"{unique}-a", topic, [b"%d" % (100 + round_number)], commit=False)
        transaction(kafka.bootstrap, f"{unique}-a", topic, [b"%d" % round_number], commit=True)
    with tail(kafka.bootstrap, {topic: 100}) as made:
        assert numbers(read(made, lambda _found: made.caught_up), topic) == [0, 1, 2]
        transaction(kafka.bootstrap, f"{unique}-a", topic, [b"103"], commit=False)
        transaction(kafka.bootstrap, f"{unique}-a", topic, [b"3"], commit=True)
        assert numbers(read(made, bool), topic) == [3]


def test_an_open_transaction_does_not_keep_the_page_empty(kafka: KafkaBroker, topics: Topics, unique: str) -> None:
    topic = topics(alerts=1)["alerts"]
    produce(kafka.bootstrap, topic, [b"1"])
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "transactional.id": unique})
    producer.init_transactions(PATIENCE_S)
    producer.begin_transaction()
    producer.produce(topic, b"2")
    producer.flush(PATIENCE_S)
    with tail(kafka.bootstrap, {topic: 100}) as made:
        assert numbers(read(made, lambda _found: made.caught_up), topic) == [1]
        producer.commit_transaction(PATIENCE_S)
        assert numbers(read(made, bool), topic) == [2]


def test_a_missing_topic_is_told_and_read_once_it_is_there(kafka: KafkaBroker, unique: str) -> None:
    with tail(kafka.bootstrap, {unique: 10}, refresh_s=0.2) as made:
        with pytest.raises(KafkaUnavailable, match=f"no topic {unique}"):
            made.poll(0.1)
        kafka.create_topics({unique: 1})
        produce(kafka.bootstrap, unique, [b"1"])
        assert numbers(read(made, bool), unique) == [1]


def test_a_topic_that_was_made_anew_and_one_with_more_partitions_are_followed(kafka: KafkaBroker, unique: str) -> None:
    kafka.create_topics({unique: 1})
    produce(kafka.bootstrap, unique, [b"%d" % number for number in range(20)])
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    with tail(kafka.bootstrap, {unique: 100}, refresh_s=0.2) as made:
        assert len(read(made, lambda found: len(found) == 20)) == 20
        admin.delete_topics([unique])[unique].result()
        until(lambda: unique not in admin.list_topics(timeout=5).topics)
        kafka.create_topics({unique: 2})
        produce(kafka.bootstrap, unique, [b"90"], 0)
        produce(kafka.bootstrap, unique, [b"91"], 1)
        assert sorted(numbers(read(made, lambda found: len(found) >= 2), unique)) == [90, 91]


@pytest.mark.faults
def test_the_page_says_since_when_the_brokers_are_away_and_goes_on_by_itself(unique: str) -> None:
    """A broker of its own is killed and started again: the port stays."""
    with KafkaBroker() as broker:
        names = TopicSettings(alerts=f"{unique}.alerts", decisions=f"{unique}.decisions")
        broker.create_topics({names.alerts: 1, names.decisions: 1})
        settings = Settings(
            kafka=KafkaSettings(brokers=broker.bootstrap, group_id="page", transactional_id="page"),
            topics=names,
            dashboard=DashboardSettings(auth="none", port=0),
        )
        page = Dashboard(settings)
        page.start()
        try:
            produce(broker.bootstrap, names.alerts, [msgspec.json.encode(alert("before"))])
            until(lambda: page.board.payment("before"))
            broker.kill()
            killed_ms = time.time() * 1_000
            until(lambda: page.board.reading().stale)
            heard_ms = page.board.reading().heard_ms
            assert heard_ms is not None
            assert heard_ms < killed_ms + 1_000
            broker.restart()
            produce(broker.bootstrap, names.alerts, [msgspec.json.encode(alert("after"))])
            until(lambda: page.board.payment("after"))
            assert not page.board.reading().stale
        finally:
            page.close()


def test_a_verdict_and_who_gave_it_lie_in_one_transaction(kafka: KafkaBroker, topics: Topics, unique: str) -> None:
    made = topics(payments=1, alerts=1, decisions=1, labels=1, audit=1)
    settings = Settings(
        kafka=KafkaSettings(brokers=kafka.bootstrap, group_id=unique, transactional_id=unique),
        topics=TopicSettings(**{name: made[name] for name in ("payments", "alerts", "decisions", "labels", "audit")}),
        dashboard=DashboardSettings(auth="none", port=0, verdicts=True),
        audit=AuditSettings(enabled=True),
    )
    payment = Payment("e-1", NOW_MS, "tok_1", "m_12", 1_718, "GBP", ip="10.0.37.49", terminal_id="t_1")
    produce(kafka.bootstrap, made["payments"], [msgspec.json.encode(payment)])
    source = Source(made["payments"], 0, 0)
    produce(kafka.bootstrap, made["alerts"], [msgspec.json.encode(alert("e-1", source=source))])
    page = Dashboard(settings)
    page.start()
    try:
        until(lambda: page.board.payment("e-1"))
        assert page.verdicts is not None
        given = page.verdicts.give_now(Asked("e-1", "fraud"), "ada")
        assert given.whole
        with ReadCommitted(kafka.bootstrap, [made["labels"], made["audit"]]) as witness:
            seen = witness.read_to_end()
    finally:
        page.close()
    [label] = [each for each in seen if each.topic == made["labels"]]
    assert label.key == b"tok_1"
    told = msgspec.json.decode(label.value or b"", type=Label)
    assert (told.label, told.source, told.ip, told.terminal_id) == ("fraud", "analyst", "10.0.37.49", "t_1")
    [entry] = [msgspec.json.decode(each.value or b"", type=AuditEntry) for each in seen if each.topic == made["audit"]]
    assert (entry.actor, entry.action, entry.subject, entry.outcome) == ("ada", "verdict.fraud", "e-1", "done")
