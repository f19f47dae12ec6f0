"""`fraudline lag`, on a real Kafka; and what it concludes, from numbers."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from consumer.cli import exit_status
from consumer.group_lag import GroupLag, Member, PartitionLag
from consumer.kafka.source import KafkaSource
from consumer.settings import KafkaSettings
from consumer.settings_source import variable
from tests.services.kafka import KafkaBroker

DEADLINE_S = 30.0
COMMAND = (sys.executable, "-c", "from consumer.cli import main; main()", "lag")
offsets = st.integers(0, 50)


@given(offsets, offsets, st.none() | offsets)
def test_a_lag_counts_what_is_there_and_not_decided(low: int, more: int, committed: int | None) -> None:
    end = low + more
    lag = PartitionLag("t", 0, low, end, committed)
    undecided = [offset for offset in range(low, end) if committed is None or offset >= committed]
    assert lag.records == len(undecided)
    deleted = [] if committed is None else [offset for offset in range(low) if offset >= committed]
    assert lag.lost == len(deleted)
    assert lag.above_end == (committed is not None and committed > end)


def test_the_partition_that_waits_longest_counts() -> None:
    waiting = [PartitionLag("t", n, 0, 9, 3, next_ms=1_000 * n, newest_ms=9_000) for n in range(3)]
    group = GroupLag("g", "stable", [], waiting)
    assert group.seconds(10_000) == 10.0
    assert [each.seconds_behind_newest() for each in waiting] == [9.0, 8.0, 7.0]
    assert group.records == 18


@pytest.mark.parametrize(
    "group",
    [
        GroupLag("g", "stable", [], [PartitionLag("t", 0, 0, 9, 3, is_told=False)]),
        GroupLag("g", "stable", [], [], missing=["t"]),
    ],
)
def test_what_is_not_known_is_not_called_zero(group: GroupLag) -> None:
    assert group.seconds(10_000) is None


def test_an_owner_is_who_was_given_the_partition() -> None:
    member = Member("m-1", "c", "10.0.0.1", frozenset({("t", 1)}))
    group = GroupLag("g", "stable", [member], [PartitionLag("t", n, 0, 0, 0) for n in range(2)])
    assert [group.owner(each) for each in group.partitions] == [None, member]


@pytest.fixture
def names(
    kafka: KafkaBroker, topics: Callable[..., dict[str, str]], unique: str, monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    made = topics({"payments": 2, "labels": 1}, config={"message.timestamp.type": "LogAppendTime"})
    monkeypatch.setenv(variable("kafka.brokers"), kafka.bootstrap)
    monkeypatch.setenv(variable("kafka.group_id"), unique)
    monkeypatch.setenv(variable("kafka.transactional_id"), f"{unique}-0")
    for role, name in made.items():
        monkeypatch.setenv(variable(f"topics.{role}"), name)
    return made


def produce(kafka: KafkaBroker, topic: str, count: int, partition: int = 0) -> None:
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "log_level": 0})
    for _ in range(count):
        producer.produce(topic, b"not looked at", b"key", partition=partition)
    assert producer.flush(DEADLINE_S) == 0


def commit(kafka: KafkaBroker, group: str, topic: str, offset: int, partition: int = 0) -> None:
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": group, "log_level": 0})
    consumer.commit(offsets=[TopicPartition(topic, partition, offset)], asynchronous=False)
    consumer.close()


def told(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    capsys.readouterr()
    status = exit_status(["lag", "--json", *words])
    captured = capsys.readouterr()
    assert captured.out, captured.err
    document: dict[str, Any] = json.loads(captured.out)
    return status, document


def row(document: dict[str, Any], topic: str, partition: int = 0) -> dict[str, Any]:
    [found] = [each for each in document["partitions"] if (each["topic"], each["partition"]) == (topic, partition)]
    return dict(found)


def test_a_group_that_never_was(names: dict[str, str], kafka: KafkaBroker, capsys: pytest.CaptureFixture[str]) -> None:
    produce(kafka, names["payments"], 3)
    status, document = told(capsys)
    assert (status, document["state"], document["members"], document["records"]) == (0, "never seen", 0, 3)
    first = row(document, names["payments"])
    assert (first["committed"], first["end"], first["records"], first["owner"]) == (None, 3, 3, None)
    assert first["seconds"] >= 0
    quiet = row(document, names["labels"])
    assert (quiet["records"], quiet["seconds"], quiet["seconds_behind_newest"]) == (0, 0.0, 0.0)


def test_seconds_are_those_of_the_next_record_that_is_not_decided(
    names: dict[str, str], unique: str, kafka: KafkaBroker, capsys: pytest.CaptureFixture[str]
) -> None:
    produce(kafka, names["payments"], 3)
    middle_ms = time.time() * 1_000
    while time.time() * 1_000 < middle_ms + 300:
        time.sleep(0.05)
    produce(kafka, names["payments"], 2)
    commit(kafka, unique, names["payments"], 3)
    _, document = told(capsys)
    found = row(document, names["payments"])
    assert (found["committed"], found["records"]) == (3, 2)
    assert document["state"] == "empty"
    now_ms = time.time() * 1_000
    assert now_ms - found["seconds"] * 1_000 > middle_ms
    assert found["seconds_behind_newest"] <= found["seconds"]
    assert told(capsys, "--max-seconds", "3600")[0] == 0
    assert told(capsys, "--max-seconds", "0")[0] == 1
    commit(kafka, unique, names["payments"], 5)
    assert told(capsys, "--max-seconds", "0")[0] == 0


def test_records_deleted_under_the_commit(
    names: dict[str, str], unique: str, kafka: KafkaBroker, capsys: pytest.CaptureFixture[str]
) -> None:
    produce(kafka, names["payments"], 9)
    commit(kafka, unique, names["payments"], 2)
    [deleted] = kafka.admin.delete_records([TopicPartition(names["payments"], 0, 6)]).values()
    deleted.result(DEADLINE_S)
    found = row(told(capsys)[1], names["payments"])
    assert (found["low"], found["records"], found["deleted_before_decided"]) == (6, 3, 4)
    assert found["seconds"] >= 0
    assert exit_status(["lag"]) == 0
    assert "4 records were deleted before they were decided" in capsys.readouterr().out


def test_a_missing_topic_is_said(
    names: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(variable("topics.labels"), "not.there")
    status, document = told(capsys)
    assert (status, document["missing_topics"], document["seconds"]) == (0, ["not.there"], None)
    assert told(capsys, "--max-seconds", "9999")[0] == 1
    assert exit_status(["lag"]) == 0
    assert "There is no topic not.there" in capsys.readouterr().out


def test_who_reads_what(
    names: dict[str, str], unique: str, kafka: KafkaBroker, capsys: pytest.CaptureFixture[str]
) -> None:
    """A member is named, and looking does not make the group share out its partitions anew."""
    produce(kafka, names["payments"], 2)
    events: list[str] = []
    settings = KafkaSettings(brokers=kafka.bootstrap, group_id=unique, transactional_id="reader-7")
    source = KafkaSource(settings, names["payments"], events.append, names["labels"])
    source.start([])
    try:
        while len(source.owned) < 3:
            source.poll(10, 0.1)
        before = list(events)
        status, document = told(capsys)
        for _ in range(5):
            source.poll(10, 0.1)
        after = list(events)
    finally:
        source.close()
    assert (status, document["state"], document["members"]) == (0, "stable", 1)
    assert {each["owner"]["client_id"] for each in document["partitions"]} == {"reader-7"}
    assert {each["owner"]["host"] for each in document["partitions"]} == {"127.0.0.1"}
    assert after == before == ["assign"]


def test_marks_of_transactions_are_no_wait(
    names: dict[str, str], unique: str, kafka: KafkaBroker, capsys: pytest.CaptureFixture[str]
) -> None:
    """Behind the last committed record only marks lie: nothing waits there."""
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "transactional.id": f"{unique}-tx", "log_level": 0})
    producer.init_transactions(DEADLINE_S)
    producer.begin_transaction()
    producer.produce(names["payments"], b"v", b"k", partition=0)
    producer.commit_transaction(DEADLINE_S)
    commit(kafka, unique, names["payments"], 1)
    found = row(told(capsys)[1], names["payments"])
    assert (found["records"], found["seconds"]) == (1, 0.0)


def test_what_an_open_transaction_holds_back_waits(
    names: dict[str, str], unique: str, kafka: KafkaBroker, capsys: pytest.CaptureFixture[str]
) -> None:
    """A processor can't read on behind the first record of a transaction that its producer left open."""
    produce(kafka, names["payments"], 1)
    commit(kafka, unique, names["payments"], 1)
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "transactional.id": f"{unique}-tx", "log_level": 0})
    producer.init_transactions(DEADLINE_S)
    producer.begin_transaction()
    producer.produce(names["payments"], b"v", b"k", partition=0)
    assert producer.flush(DEADLINE_S) == 0
    produce(kafka, names["payments"], 1)
    found = row(told(capsys)[1], names["payments"])
    assert (found["records"], found["held_back"]) == (2, True)
    assert found["seconds"] > 0
    assert told(capsys, "--max-seconds", "0")[0] == 1
    assert exit_status(["lag"]) == 0
    assert "held back by an open transaction" in capsys.readouterr().out
    producer.abort_transaction(DEADLINE_S)
    found = row(told(capsys)[1], names["payments"])
    assert (found["records"], found["held_back"]) == (3, False)


def test_watching_goes_on_until_it_is_stopped(names: dict[str, str], kafka: KafkaBroker) -> None:
    """Each look is one line of JSON, the partition that was read once is read again, and Ctrl-C is no traceback."""
    produce(kafka, names["payments"], 2)
    words = [*COMMAND, "--json", "--watch", "0.5"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        looks = [json.loads(watching.stdout.readline()) for _ in range(3)]
        produce(kafka, names["payments"], 1)
        while (last := json.loads(watching.stdout.readline()))["records"] == 2:
            looks.append(last)
        watching.send_signal(signal.SIGINT)
        _, complaints = watching.communicate(timeout=DEADLINE_S)
    assert (watching.returncode, complaints) == (130, "")
    waits_s = [row(each, names["payments"])["seconds"] for each in looks]
    assert None not in waits_s
    assert waits_s == sorted(set(waits_s))
    assert last["records"] == 3


def test_watching_outlasts_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable("kafka.brokers"), "127.0.0.1:1")
    monkeypatch.setenv(variable("kafka.request_timeout_ms"), "1000")
    words = [*COMMAND, "--watch", "0.5"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watching:
        assert watching.stderr is not None
        told_of = [watching.stderr.readline() for _ in range(2)]
        watching.terminate()
        watching.communicate(timeout=DEADLINE_S)
    assert all("127.0.0.1:1" in line for line in told_of)


@pytest.mark.parametrize(
    "words",
    [("--watch", "inf"), ("--watch", "nan"), ("--max-seconds", "nan"), ("--watch", "5", "--max-seconds", "5")],
)
def test_what_makes_no_sense_is_refused(capsys: pytest.CaptureFixture[str], words: tuple[str, ...]) -> None:
    assert exit_status(["lag", *words]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_no_broker_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv(variable("kafka.brokers"), "127.0.0.1:1")
    monkeypatch.setenv(variable("kafka.request_timeout_ms"), "1000")
    assert exit_status(["lag"]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "127.0.0.1:1" in line
