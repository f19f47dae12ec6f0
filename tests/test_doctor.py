"""`fraudline doctor` on a real Kafka and a real Redis, sound ones and broken ones."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, OffsetSpec

from consumer.cli import exit_status
from consumer.doctor.surgery import Surgery
from consumer.kafka.publisher import TransactionalPublisher
from consumer.kafka.source import KafkaSource
from consumer.settings import KafkaSettings, TopicSettings
from consumer.settings_source import variable
from features.checkup import Finding, examine
from features.redis_store.store import prefixes
from models.manifest import MODEL
from tests.services.kafka import KafkaBroker
from tests.services.process import free_ports
from tests.services.reader import ReadCommitted
from tests.services.redis import RedisServer
from tests.services.redis_cluster import RedisCluster
from tests.support.bundles import make_bundle
from tests.test_redis_security import PASSWORD, documented_rules

OFF = {"settings.dashboard", "model.gpu", "kafka.clock", "redis.markers"}  # nothing is there to look at


@dataclass(slots=True)
class Ward:
    """A deployment that can be broken, and the doctor's findings."""

    topics: dict[str, str]
    unique: str
    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]
    status: int = 0

    def set(self, **settings: object) -> None:
        """Change settings: `store__url` is store.url."""
        for name, value in settings.items():
            self.monkeypatch.setenv(variable(name.replace("__", ".")), str(value))

    def run(self, *words: str) -> str:
        self.capsys.readouterr()
        self.status = exit_status(["doctor", *words])
        captured = self.capsys.readouterr()
        assert captured.err == ""
        return captured.out

    def examined(self) -> dict[str, dict[str, Any]]:
        found = {each["check"]: each for each in json.loads(self.run("--json"))}
        assert self.status == int(any(each["status"] == "fail" for each in found.values()))
        assert all(each["mend"] for each in found.values() if each["status"] in {"warn", "fail"})
        assert all(each["seen"] for each in found.values())
        return found

    def redis(self) -> dict[str, Finding]:
        """What is found of Redis alone."""
        with closing(Surgery(None)) as surgery:
            checks = [each for each in surgery.checks() if each.name.startswith(("settings.load", "redis."))]
            return {each.check: each for each in examine(checks) if each.check != "redis.markers"}

    def not_well(self) -> dict[str, str]:
        return {name: each["status"] for name, each in self.examined().items() if each["status"] in {"warn", "fail"}}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("doctor") / "bundle").path


@pytest.fixture
def ward(
    kafka: KafkaBroker,
    redis_server: RedisServer,
    bundle: Path,
    unique: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Ward:
    """Without topics yet."""
    names = {role: f"{unique}.{role}" for role in TopicSettings.model_fields}
    ward = Ward(names, unique, monkeypatch, capsys)
    ward.set(
        kafka__brokers=kafka.bootstrap,
        kafka__group_id=unique,
        kafka__transactional_id=f"{unique}-0",
        store__url=redis_server.url,
        store__namespace=unique,
        store__timeout_ms=150,
        model__bundle=bundle,
        telemetry__port=0,
        **{f"topics__{role}": name for role, name in names.items()},
    )
    return ward


@pytest.fixture
def sound(ward: Ward) -> Ward:
    assert exit_status(["topics", "apply", "--yes", "--partitions", "2"]) == 0
    return ward


def test_a_sound_deployment_passes(sound: Ward) -> None:
    found = sound.examined()
    assert {name: each["status"] for name, each in found.items() if each["status"] != "pass"} == dict.fromkeys(
        OFF, "skip"
    )
    assert sound.status == 0
    assert len(found) > 35


def test_people_read_groups_and_a_summary(sound: Ward) -> None:
    told = sound.run()
    groups = [line for line in told.splitlines() if line and not line.startswith(" ")]
    assert groups[:-1] == ["settings", "kafka", "topics", "redis", "model", "machine"]
    assert "0 warn, 0 fail" in groups[-1]
    assert max(map(len, told.splitlines())) <= 120


def test_nothing_is_left_that_a_reader_sees(sound: Ward, kafka: KafkaBroker, redis_server: RedisServer) -> None:
    names = list(sound.topics.values())
    with ReadCommitted(kafka.bootstrap, names) as reader:
        sound.examined()
        assert reader.read_to_end() == []
    with redis_server.client() as client:
        assert list(client.scan_iter(f"{sound.unique}*")) == []
    untouched = [TopicPartition(sound.topics[role], 0) for role in ("payments", "labels", "lists", "audit")]
    ends = kafka.admin.list_offsets(dict.fromkeys(untouched, OffsetSpec.latest()))
    assert [future.result(10).offset for future in ends.values()] == [0, 0, 0, 0]


def test_without_topics_each_is_named_and_the_rest_runs(ward: Ward) -> None:
    found = ward.examined()
    failed = {name for name, each in found.items() if each["status"] == "fail"}
    used = set(TopicSettings.model_fields) - {"audit", "shadow"}
    assert failed == {f"topics.{role}" for role in used}
    assert ward.topics["payments"] in found["topics.payments"]["seen"]
    assert "fraudline topics apply" in found["topics.payments"]["mend"]
    for name in ("redis.rights", "model.bundle", "kafka.transactions"):
        assert found[name]["status"] == "pass"


def test_without_topics_nothing_is_said_of_writing_them(ward: Ward) -> None:
    ward.set(processing__delivery="at_least_once")
    assert ward.examined()["kafka.write"]["status"] == "skip"


def test_a_wrong_setting_of_a_topic(sound: Ward, kafka: KafkaBroker) -> None:
    def set_of(role: str, name: str, value: str) -> None:
        entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ConfigResource.Type.TOPIC, sound.topics[role], incremental_configs=[entry])
        [future] = kafka.admin.incremental_alter_configs([resource]).values()
        future.result(10)

    set_of("payments", "retention.ms", "86400000")
    set_of("decisions", "retention.ms", "86400000")
    set_of("lists", "cleanup.policy", "delete")
    found = sound.examined()
    unwell = {name: each["status"] for name, each in found.items() if each["status"] in {"warn", "fail"}}
    assert unwell == {"topics.payments": "fail", "topics.decisions": "warn", "topics.lists": "fail"}
    assert "retention.ms 86400000" in found["topics.payments"]["seen"]


@pytest.fixture
def volatile() -> Iterator[RedisServer]:
    with RedisServer(config={"appendonly": "no", "maxmemory-policy": "allkeys-lru", "maxmemory": "4mb"}) as server:
        yield server


def test_a_redis_that_forgets(sound: Ward, volatile: RedisServer) -> None:
    sound.set(store__url=volatile.url)
    found = sound.examined()
    unwell = {name for name, each in found.items() if each["status"] == "fail"}
    assert unwell == {"redis.persistence", "redis.eviction"}
    assert found["redis.eviction"]["mend"] == "set maxmemory-policy noeviction"
    assert found["redis.persistence"]["mend"] == "set appendonly yes"
    with volatile.client() as client:
        client.replicaof("127.0.0.1", volatile.ports[0] + 1)
    found = sound.examined()
    assert found["redis.role"]["status"] == "fail"
    assert found["redis.role"]["mend"] == "point store.url at the primary"
    assert found["redis.rights"]["status"] == "skip"
    with volatile.client() as client:
        client.execute_command("REPLICAOF", "NO", "ONE")
        for number in range(4_000):
            client.set(str(number), "x" * 1_000)
    assert sound.examined()["redis.memory"]["status"] == "warn"


def test_without_redis_the_rest_runs(sound: Ward) -> None:
    port = free_ports(1)[0]
    sound.set(store__url=f"redis://user:{PASSWORD}@127.0.0.1:{port}/0")
    found = sound.examined()
    assert found["redis.reach"]["status"] == "fail"
    assert f"127.0.0.1:{port} can't be reached: connection refused" in found["redis.reach"]["seen"]
    skipped = {name for name, each in found.items() if each["status"] == "skip"}
    assert skipped - OFF == {name for name in found if name.startswith("redis.")} - {"redis.reach", "redis.markers"}
    assert found["kafka.write"]["status"] == "pass"


def test_without_brokers_the_rest_runs(ward: Ward) -> None:
    port = free_ports(1)[0]
    ward.set(kafka__brokers=f"127.0.0.1:{port},no.such.host.invalid:9092")
    found = ward.examined()
    assert found["kafka.reach"]["status"] == "fail"
    assert "connection refused" in found["kafka.reach"]["seen"]
    assert "its name is not known here" in found["kafka.reach"]["seen"]
    others = {name for name in found if name.startswith(("kafka.", "topics."))} - {"kafka.reach"}
    assert {found[name]["status"] for name in others} == {"skip"}
    assert found["redis.rights"]["status"] == "pass"


def test_a_broker_of_several_that_is_away(sound: Ward, kafka: KafkaBroker) -> None:
    sound.set(kafka__brokers=f"{kafka.bootstrap},127.0.0.1:{free_ports(1)[0]}")
    assert sound.not_well() == {"kafka.reach": "warn"}


def test_what_listens_but_is_no_broker(ward: Ward, redis_server: RedisServer) -> None:
    ward.set(kafka__brokers=f"127.0.0.1:{redis_server.ports[0]}", kafka__request_timeout_ms=1_000)
    found = ward.examined()
    assert found["kafka.reach"]["status"] == "pass"
    assert found["kafka.session"]["status"] == "fail"
    assert found["topics.payments"]["status"] == "skip"


def test_a_damaged_bundle(sound: Ward, bundle: Path, tmp_path: Path) -> None:
    broken = tmp_path / "bundle"
    shutil.copytree(bundle, broken)
    (broken / MODEL).write_bytes(b"{L" + b"\x00" * 100)
    sound.set(model__bundle=broken)
    found = sound.examined()
    assert {name for name, each in found.items() if each["status"] == "fail"} == {"model.bundle"}
    sound.set(model__bundle=tmp_path / "nowhere")
    assert "There is no model bundle" in sound.examined()["model.bundle"]["seen"]


def test_a_registry_without_a_champion(sound: Ward, bundle: Path, tmp_path: Path) -> None:
    registry = tmp_path / "registry"
    registry.mkdir()
    sound.set(model__registry=registry)
    assert "has no champion" in sound.examined()["model.bundle"]["seen"]
    assert exit_status(["model", "promote", str(bundle), "--registry", str(registry)]) == 0
    found = sound.examined()["model.bundle"]
    assert found["status"] == "pass"
    assert found["seen"].startswith("champion of")


def test_a_namespace_of_another_group(sound: Ward) -> None:
    assert exit_status(["state", "rebuild", "--yes"]) == 0
    assert sound.not_well() == {}
    sound.set(kafka__group_id=f"{sound.unique}-b")
    found = sound.examined()
    assert found["redis.namespace"]["status"] == "fail"
    assert f"group {sound.unique} reading" in found["redis.namespace"]["seen"]
    sound.set(kafka__group_id=sound.unique, features__catalog="handbook")
    found = sound.examined()
    assert "other limits, entities" in found["redis.namespace"]["seen"]


@pytest.mark.parametrize(
    ("lacking", "status"),
    [
        ("", "pass"),
        ("+append", "fail"),
        ("+eval", "fail"),
        ("+exec", "fail"),
        ("+del", "fail"),
        ("+scan", "warn"),
    ],
)
def test_rights_in_redis_are_tried(ward: Ward, redis_server: RedisServer, lacking: str, status: str) -> None:
    rules = [rule.replace("~*", f"~{ward.unique}:*") for rule in documented_rules() if rule != lacking]
    with redis_server.client() as client:
        client.execute_command("ACL", "SETUSER", ward.unique, "reset", "on", f">{PASSWORD}", *rules)
        ward.set(store__url=redis_server.url.replace("redis://", f"redis://{ward.unique}:{PASSWORD}@"))
        found = ward.redis()
        client.acl_deluser(ward.unique)
    rights = found.pop("redis.rights")
    assert {each.status for each in found.values()} == {"pass"}
    assert rights.status == status
    assert lacking.removeprefix("+") in rights.seen


def test_a_wrong_password_is_said_and_not_shown(sound: Ward, redis_server: RedisServer) -> None:
    wrong = "n0t-the-passw0rd"
    sound.set(store__url=redis_server.url.replace("redis://", f"redis://nobody:{wrong}@"))
    text = sound.run("--json")
    found = {each["check"]: each for each in json.loads(text)}
    assert found["redis.session"]["status"] == "fail"
    assert "refuses this user" in found["redis.session"]["seen"]
    assert wrong not in text


def test_a_cluster(ward: Ward, redis_cluster: RedisCluster) -> None:
    ward.set(store__url=redis_cluster.url, store__cluster="true", store__shards=16, store__timeout_ms=190)
    found = ward.redis()
    assert found["redis.cluster"].seen.startswith("3 primaries for 16 shards, 16,384 of 16,384")
    assert {each.status for each in found.values()} == {"pass"}
    ward.set(store__cluster="false", store__shards=1)
    found = ward.redis()
    assert found["redis.cluster"].status == "fail"
    assert "set store.cluster" in found["redis.cluster"].mend


def test_one_server_that_should_be_a_cluster(ward: Ward) -> None:
    ward.set(store__cluster="true", store__shards=16)
    found = ward.redis()
    assert found["redis.session"].status == "fail"
    assert "unset store.cluster" in found["redis.session"].seen


def test_processors_that_go_on_meanwhile_are_not_in_the_way(
    sound: Ward, kafka: KafkaBroker, redis_server: RedisServer
) -> None:
    """What they decide between two looks is no sign of a topic that was made anew; and they are not disturbed."""
    assert exit_status(["state", "rebuild", "--yes"]) == 0
    events: list[str] = []
    settings = KafkaSettings(brokers=kafka.bootstrap, group_id=sound.unique, transactional_id=f"{sound.unique}-0")
    source = KafkaSource(settings, sound.topics["payments"], events.append, sound.topics["labels"])
    source.start([])
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "log_level": 0})
    try:
        while len(source.owned) < 4:
            source.poll(10, 0.1)
        publisher = TransactionalPublisher(settings, source)
        found: dict[str, Finding] = {}
        with closing(Surgery(None)) as surgery:
            for each in examine(surgery.checks()):
                found[each.check] = each
                if each.check == "kafka.group":
                    producer.produce(sound.topics["payments"], b"v", b"k", partition=0)
                    assert producer.flush(10) == 0
                    while not (messages := source.poll(10, 0.1)):
                        pass
                    taken = source.take(messages)
                    source.hold(taken)
                    publisher.commit(taken.spans)
                    [prefix] = prefixes(sound.unique, 1)
                    with redis_server.client() as client:
                        client.hset(prefix + b"meta", f"m:{sound.topics['payments']}:0", "1")
        publisher.close()
        rebalances = list(events)
    finally:
        source.close()
    assert found["redis.markers"].status == "pass", found["redis.markers"]
    assert {name for name, each in found.items() if each.status == "fail"} == set()
    assert rebalances == ["assign"]


def test_at_least_once_writes_nothing(sound: Ward, kafka: KafkaBroker) -> None:
    sound.set(processing__delivery="at_least_once")
    found = sound.examined()
    assert found["kafka.write"]["status"] in {"pass", "warn"}  # a broker without ACLs has nothing to tell
    assert "kafka.transactions" not in found
    place = TopicPartition(sound.topics["decisions"], 0)
    [future] = kafka.admin.list_offsets({place: OffsetSpec.latest()}).values()
    assert future.result(10).offset == 0


def test_no_doctor_is_in_the_way_of_another(sound: Ward) -> None:
    """Who takes up an id shuts out who has it; so each has one of its own, which a prefixed ACL covers."""
    begins = f"{sound.unique}-0-doctor-"
    found = [sound.examined()["kafka.transactions"]["seen"].split()[0] for _ in range(2)]
    assert all(each.startswith(begins) for each in found)
    assert found[0] != found[1]


def test_two_doctors_at_once(sound: Ward) -> None:
    codes: list[int] = []
    jobs = [threading.Thread(target=lambda: codes.append(exit_status(["doctor", "--json"]))) for _ in range(2)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert codes == [0, 0], sound.capsys.readouterr().out
