"""`fraudline state rebuild` and `fraudline state verify`, on a real Kafka and a real Redis."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from redis import Redis
from xxhash import xxh3_64_hexdigest

from consumer.cli import exit_status
from consumer.settings_source import variable
from consumer.simulator import LABELS_FILE, PAYMENTS_FILE, Simulation, write
from features.event import LAYOUT_VERSION, UNIT_BYTES
from tests.services.kafka import KafkaBroker
from tests.services.redis import RedisServer

DEADLINE_S = 60.0
PARTITIONS = 2
ALL = "100000"


@dataclass(slots=True)
class Deployment:
    """Payments and labels that a group has decided, and its empty state."""

    topics: dict[str, str]
    group: str
    client: Redis
    brokers: str
    ends: dict[tuple[str, int], int] = field(default_factory=dict)

    def produce(self, role: str, records: list[tuple[bytes, bytes, int]]) -> None:
        """Send (key, value, ms) records, and commit them for the group."""
        producer = Producer({"bootstrap.servers": self.brokers, "enable.idempotence": True, "log_level": 0})
        for key, value, time_ms in records:
            partition = crc32(key) % (PARTITIONS if role == "payments" else 1)
            producer.produce(self.topics[role], value, key, partition=partition, timestamp=time_ms)
            at = (self.topics[role], partition)
            self.ends[at] = self.ends.get(at, 0) + 1
        assert producer.flush(DEADLINE_S) == 0
        consumer = Consumer({"bootstrap.servers": self.brokers, "group.id": self.group, "log_level": 0})
        offsets = [TopicPartition(topic, partition, end) for (topic, partition), end in self.ends.items()]
        consumer.commit(offsets=offsets, asynchronous=False)
        consumer.close()

    def key(self, key: bytes) -> bytes:
        return f"{self.group}:{LAYOUT_VERSION}:{{s0}}:".encode() + key

    def logs(self) -> dict[bytes, bytes]:
        """All logs by key."""
        prefix = self.key(b"")
        keys = [key for key in self.client.scan_iter(prefix + b"*") if not key.endswith(b":meta")]
        return {key[len(prefix) :]: self.client.get(key) or b"" for key in keys}

    def put(self, key: bytes, log: bytes) -> None:
        self.client.set(self.key(key), log, keepttl=True)


@pytest.fixture
def deployment(
    kafka: KafkaBroker,
    redis_server: RedisServer,
    topics: Callable[..., dict[str, str]],
    unique: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Deployment]:
    made = topics(payments=PARTITIONS, labels=1, decisions=1, alerts=1, dead_letters=1, journal=1)
    settings = {
        "kafka.brokers": kafka.bootstrap,
        "kafka.group_id": unique,
        "store.url": redis_server.url,
        "store.namespace": unique,
        "store.timeout_ms": "1000",
        **{f"topics.{role}": topic for role, topic in made.items()},
    }
    for name, value in settings.items():
        monkeypatch.setenv(variable(name), value)
    with redis_server.client() as client:
        yield Deployment(made, unique, client, kafka.bootstrap)


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[bytes, bytes, int]]]:
    """A busy merchant or two, so that logs are compacted; late and repeated payments; labels."""
    folder = tmp_path_factory.mktemp("history")
    write(Simulation(payments=700, seed=3, customers=60, merchants=50, late=0.05, duplicate=0.02), folder)

    def rows(name: str, moment: str) -> list[tuple[bytes, bytes, int]]:
        lines = (folder / name).read_bytes().splitlines()
        return [(json.loads(line)["card_id"].encode(), line, json.loads(line)[moment]) for line in lines]

    payments = rows(PAYMENTS_FILE, "event_time")
    for number, (key, line, time_ms) in enumerate(payments):
        if number % 2:
            payments[number] = (key, json.dumps(json.loads(line) | {"merchant_id": "hot"}).encode(), time_ms)
    return {"payments": payments, "labels": rows(LABELS_FILE, "labelled_at")}


@pytest.fixture
def built(deployment: Deployment, history: dict[str, list[tuple[bytes, bytes, int]]]) -> Deployment:
    """With its state."""
    for role, records in history.items():
        deployment.produce(role, records)
    assert exit_status(["state", "rebuild", "--yes", "--json"]) == 0
    return deployment


def verified(capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, dict[str, Any]]:
    """The exit status and the document of a verification of all entities."""
    capsys.readouterr()
    status = exit_status(["state", "verify", "--sample", ALL, "--json", *more])
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return status, document


def test_what_is_rebuilt_is_what_kafka_holds(built: Deployment, capsys: pytest.CaptureFixture[str]) -> None:
    status, found = verified(capsys)
    assert found["mismatches"] == []
    assert status == 0
    assert found["entities"] == found["equal"] == len(built.logs())
    assert found["records"] == sum(built.ends.values())
    assert any(map(is_summary, built.logs().values())), "no log was compacted"


def test_a_rebuild_of_a_sound_state_gives_the_same_state(built: Deployment, capsys: pytest.CaptureFixture[str]) -> None:
    before = built.logs()
    assert exit_status(["state", "rebuild", "--yes"]) == 0
    assert built.logs().keys() == before.keys()
    assert verified(capsys)[0] == 0


def is_summary(log: bytes) -> bool:
    return log[14] == 3


def drop(log: bytes) -> bytes:
    return log[:-UNIT_BYTES]


def drop_first(log: bytes) -> bytes:
    return log[UNIT_BYTES:]


def repeat(log: bytes) -> bytes:
    return log + log[-UNIT_BYTES:]


def change(log: bytes) -> bytes:
    return log[:-40] + bytes([log[-40] ^ 1]) + log[-39:]


def swap(log: bytes) -> bytes:
    return log[: -2 * UNIT_BYTES] + log[-UNIT_BYTES:] + log[-2 * UNIT_BYTES : -UNIT_BYTES]


def change_bucket(log: bytes) -> bytes:
    """One more in the total of the first bucket of a summary."""
    at = UNIT_BYTES + 16
    return log[:at] + bytes([log[at] ^ 1]) + log[at + 1 :]


@pytest.mark.parametrize("damage", [drop, drop_first, repeat, change, swap, change_bucket])
def test_a_damaged_log_is_found_and_mended(
    built: Deployment, capsys: pytest.CaptureFixture[str], damage: Callable[[bytes], bytes]
) -> None:
    wants_summary = damage is change_bucket
    key, log = next(
        (key, log)
        for key, log in sorted(built.logs().items())
        if is_summary(log) == wants_summary and len(log) >= 3 * UNIT_BYTES
    )
    built.put(key, damage(log))
    status, found = verified(capsys)
    assert status == 1
    assert [each["key"] for each in found["mismatches"]] == [xxh3_64_hexdigest(key)]
    assert key.decode()[2:] not in json.dumps(found)
    assert exit_status(["state", "rebuild", "--yes"]) == 0
    assert verified(capsys)[0] == 0


def test_an_evicted_log_is_found(built: Deployment, capsys: pytest.CaptureFixture[str]) -> None:
    key = min(built.logs())
    built.client.delete(built.key(key))
    status, found = verified(capsys)
    assert status == 1
    assert [(each["key"], each["what"]) for each in found["mismatches"]] == [(xxh3_64_hexdigest(key), "it is gone")]


def test_a_sample_is_a_part_and_a_seed_chooses_it(built: Deployment, capsys: pytest.CaptureFixture[str]) -> None:
    status, found = verified(capsys, "--sample", "7")
    assert (status, found["entities"], found["equal"]) == (0, 7, 7)
    lost = [key for key in sorted(built.logs()) if key.startswith(b"c:")][:20]
    for key in lost:
        built.client.delete(built.key(key))
    hits = [verified(capsys, "--sample", "7", "--seed", str(seed))[1]["mismatched"] for seed in range(4)]
    assert len(set(hits)) > 1


def test_entities_whose_order_nobody_told_are_unverifiable(
    deployment: Deployment,
    history: dict[str, list[tuple[bytes, bytes, int]]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Decided without the state: it has not been caught up yet."""
    deployment.produce("payments", history["payments"][:50])
    status, found = verified(capsys)
    assert status == 4
    assert found["unverifiable"] == found["entities"] > 0


def test_from_leaves_out_what_came_before(
    deployment: Deployment,
    history: dict[str, list[tuple[bytes, bytes, int]]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    payments = history["payments"]
    deployment.produce("payments", payments)
    middle_ms = sorted(time_ms for *_, time_ms in payments)[len(payments) // 2]
    when = datetime.fromtimestamp(middle_ms / 1000, UTC).isoformat()
    assert exit_status(["state", "rebuild", "--yes", "--json", "--from", when]) == 0
    told = json.loads(capsys.readouterr().out)
    assert 0 < told["records"] < len(payments)
    status, found = verified(capsys)
    assert status == 0
    assert found["equal"] > 0
    assert found["unverifiable"] > 0


@pytest.mark.parametrize(
    ("arguments", "status", "part"),
    [
        (("rebuild",), 2, "say --yes if that is meant"),
        (("rebuild", "--yes", "--from", "yesterday"), 2, "--from is not an ISO 8601 time"),
        (("verify", "--sample", "0"), 2, "see fraudline state"),
    ],
)
def test_a_mistake_is_one_line(
    deployment: Deployment,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    status: int,
    part: str,
) -> None:
    assert exit_status(["state", *arguments]) == status
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert part in errors[0]


@pytest.mark.parametrize("command", [("rebuild", "--yes"), ("verify",)])
def test_a_missing_topic_is_named(
    deployment: Deployment,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
) -> None:
    monkeypatch.setenv(variable("topics.payments"), "not.there")
    assert exit_status(["state", *command]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "has no topic not.there: create it" in line


def test_without_topics_nothing_is_emptied(
    built: Deployment, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = built.logs()
    monkeypatch.setenv(variable("topics.labels"), "not.there")
    assert exit_status(["state", "rebuild", "--yes"]) == 1
    assert built.logs() == before
