"""`fraudline prove` on a real Kafka and a real Redis: what it makes, what it says, and that nothing of it is left."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jsonschema
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AclBinding
from redis import Redis

from consumer.cli import exit_status
from consumer.kafka.admin import MARK, KafkaAdmin
from consumer.kafka.source import KafkaSource
from consumer.prove.certificate import certificate
from consumer.prove.names import PREFIX, Run, settings_of
from consumer.prove.plan import Asked
from consumer.prove.report import schema
from consumer.prove.resources import Resources, clean
from consumer.prove.run import prove
from consumer.settings import Settings, TopicSettings, load
from consumer.settings_source import variable
from consumer.topics import Options, declared
from features.catalog import DEFAULT
from features.errors import FraudlineError, KafkaRefused
from tests.faults.conftest import EVERYTHING
from tests.services.kafka import KafkaBroker
from tests.services.kafka_secure import PASSWORD, USER, SecureKafkaBroker, binding
from tests.services.redis import RedisServer
from tests.support.bundles import make_bundle
from tests.test_redis_security import PASSWORD as REDIS_PASSWORD
from tests.test_redis_security import documented_rules, permit

OTHER = Run("ba9876543210")
DEADLINE_S = 120.0
COMMAND = (sys.executable, "-c", "from consumer.cli import main; main()", "prove")
ROOT = Path(__file__).parents[1]
NOT_TESTED = {"offline", "idle", "missing"}  # by any proof
DOCUMENT = ROOT / "docs" / "prove.md"


@dataclass(slots=True)
class Plant:
    """A deployment of the user's, with things of others beside it."""

    kafka: KafkaBroker
    redis: Redis
    unique: str
    folder: Path

    @property
    def run(self) -> Run:
        """A run of this test's own."""
        return Run(self.unique[1:])

    def topics(self) -> set[str]:
        """All but Kafka's own, which come when they are needed."""
        return {name for name in self.kafka.admin.list_topics(timeout=10).topics if not name.startswith("__")}

    def keys(self) -> set[bytes]:
        return set(self.redis.keys("*"))

    def left(self) -> list[str]:
        """Whatever has the prefix of a proof."""
        groups = self.kafka.admin.list_consumer_groups().result(10).valid
        names = [*self.topics(), *(each.group_id for each in groups), *(key.decode() for key in self.keys())]
        return sorted(name for name in names if name.startswith(PREFIX))

    def theirs(self) -> TopicSettings:
        """Names of others."""
        return TopicSettings(**{role: f"{self.unique}.theirs.{role}" for role in TopicSettings.model_fields})

    def settings(self) -> Settings:
        return load()

    def asked(self) -> Asked:
        return Asked(config=None, rate=100.0, seconds=1.0, faults=False, kills=1, seed=1, out=self.folder)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("prove") / "bundle", noise=0.4, block=0.8).path


@pytest.fixture
def plant(
    kafka: KafkaBroker,
    redis_server: RedisServer,
    bundle: Path,
    unique: str,
    tmp_path: Path,
    topics: Callable[..., dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Plant]:
    """The budget is a large one: here it is not judged how fast this machine is."""
    made = topics(payments=2, decisions=2)
    given = {
        "kafka.brokers": kafka.bootstrap,
        "kafka.session_timeout_ms": 3_000,
        "store.url": redis_server.url,
        "store.timeout_ms": 1_000,
        "store.namespace": unique,
        "processing.budget_ms": 60_000,
        "model.bundle": bundle,
        "topics.payments": made["payments"],
        "topics.decisions": made["decisions"],
    }
    for name, value in given.items():
        monkeypatch.setenv(variable(name), str(value))
    with closing(redis_server.client()) as client:
        client.set(f"{unique}:kept", "theirs")
        stage = Plant(kafka, client, unique, tmp_path)
        yield stage
        admin = KafkaAdmin(stage.settings().kafka)
        admin.delete_topics(name for name in stage.topics() if name.startswith(PREFIX))
        for key in client.scan_iter(f"{PREFIX}*"):
            client.delete(key)
        for group in stage.left():  # its broker is other tests' too
            admin.delete_group(group)
        client.delete(f"{unique}:kept")


def produce(kafka: KafkaBroker, topic: str, mark: str | None, value: bytes | None = None) -> None:
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "log_level": 0})
    headers = [] if mark is None else [(MARK, mark.encode())]
    producer.produce(topic, value, b"key", partition=0, headers=headers)
    assert producer.flush(30) == 0
    producer.close()


def documented_rights() -> list[AclBinding]:
    """What docs/prove.md says that the user needs on Kafka."""
    lines = re.findall(
        r"^    kafka-acls .* --add --allow-principal User:prove (.*)$", DOCUMENT.read_text(), re.MULTILINE
    )
    found = []
    for line in lines:
        words = line.split()
        assert "--resource-pattern-type prefixed" in line
        [(kind, name)] = [(word[2:], words[at + 1]) for at, word in enumerate(words) if words[at + 1 :][:1] == [PREFIX]]
        found += [
            binding(kind, name, words[at + 1], prefixed=True) for at, word in enumerate(words) if word == "--operation"
        ]
    assert len(found) > 7
    return found


@pytest.fixture
def secured(
    secure_kafka: SecureKafkaBroker,
    redis_server: RedisServer,
    bundle: Path,
    unique: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Plant]:
    """A deployment behind TLS, passwords and ACLs, whose user may do what docs/prove.md asks for and nothing else."""
    rules = [rule.replace("~*", f"~{PREFIX}*") for rule in documented_rules()]
    given = {
        "kafka.brokers": secure_kafka.brokers["sasl"],
        "kafka.security_protocol": "sasl_ssl",
        "kafka.ssl_ca_file": secure_kafka.ca_file,
        "kafka.sasl_mechanism": "SCRAM-SHA-256",
        "kafka.sasl_username": USER,
        "kafka.sasl_password": PASSWORD,
        "kafka.session_timeout_ms": 3_000,
        "store.url": redis_server.url.replace("//", f"//fraudline:{quote(REDIS_PASSWORD, safe='')}@"),
        "store.timeout_ms": 1_000,
        "processing.budget_ms": 60_000,
        "model.bundle": bundle,
    }
    for name, value in given.items():
        monkeypatch.setenv(variable(name), str(value))
    rights = documented_rights()
    secure_kafka.create_topics({f"{unique}.others": 1})
    secure_kafka.allow(rights)
    with closing(redis_server.client()) as client:
        permit(client, [*rules, "+dbsize"])
        client.set(f"{unique}:kept", "theirs")
        yield Plant(secure_kafka, client, unique, tmp_path)
        client.delete(f"{unique}:kept")
    secure_kafka.forbid(rights)


@pytest.mark.faults
def test_a_secured_deployment_holds_every_promise_through_faults_and_has_nothing_more_afterwards(
    secured: Plant, capsys: pytest.CaptureFixture[str]
) -> None:
    plant = secured
    before, keys = plant.topics(), plant.keys()
    words = ["--faults", "--kills=1", "--rate=100", "--seconds=2", f"--out={plant.folder}", "--json"]
    status = exit_status(["prove", *words])
    told = capsys.readouterr()
    report: dict[str, Any] = json.loads(told.out)
    wrong = [each for each in report["promises"] if each["verdict"] == "broken"]
    assert (status, wrong) == (0, []), told.err
    undecided = {each["id"]: each["evidence"] for each in report["promises"] if each["verdict"] != "held"}
    assert undecided.keys() == NOT_TESTED, undecided
    assert report["verdict"] == "held"
    assert json.loads((plant.folder / "report.json").read_text()) == report
    jsonschema.Draft202012Validator(schema()).validate(report)
    latency = report["latency"]
    assert latency["payments"] > 100
    assert latency["undecided"] == 0
    assert len(latency["by_second"]) >= 2
    figures = {each["id"]: each["figures"] for each in report["promises"]}
    assert figures["labels"]["decisions_changed"] > 0
    assert report["tiers"].keys() >= {"warm-up", "measured", "drain", "faults", "flush"}
    assert report["tiers"]["measured"]["full"] == latency["payments"]
    assert figures["outcome"]["kinds"].keys() >= {"payment", "hot", "duplicate", "malformed", "empty", "label"}
    page = (plant.folder / "report.html").read_text()
    assert page.count("<svg") == 2
    assert report["run"] in page
    assert not re.search(r"(?:src|href)=", page.partition("<svg")[0])  # it asks nobody
    written = "".join(path.read_text() for path in plant.folder.iterdir()) + told.out + told.err
    assert PASSWORD not in written
    assert REDIS_PASSWORD not in written
    assert (plant.left(), plant.topics(), plant.keys()) == ([], before, keys)
    assert plant.redis.get(f"{plant.unique}:kept") == b"theirs"


@pytest.mark.faults
@pytest.mark.skipif(not EVERYTHING, reason="one like it runs always; `make faults` runs it")
def test_every_promise_is_held_through_faults(plant: Plant, capsys: pytest.CaptureFixture[str]) -> None:
    before, keys = plant.topics(), plant.keys()
    words = ["--faults", "--kills=3", "--rate=100", "--seconds=2", f"--out={plant.folder}", "--json"]
    status = exit_status(["prove", *words])
    told = capsys.readouterr()
    report: dict[str, Any] = json.loads(told.out)
    wrong = [each for each in report["promises"] if each["verdict"] == "broken"]
    assert (status, wrong) == (0, []), told.err
    not_tested = {each["id"] for each in report["promises"] if each["verdict"] == "not tested"}
    assert not_tested == NOT_TESTED | {"settings"}
    assert (plant.left(), plant.topics(), plant.keys()) == ([], before, keys)


def test_a_topic_that_is_there_already_is_refused(plant: Plant) -> None:
    topic = f"{plant.run.prefix}.payments"
    plant.kafka.create_topics({topic: 1})
    before, keys = plant.topics(), plant.keys()
    with pytest.raises(FraudlineError, match=f"The topic {topic} is there already"):
        prove(plant.run, plant.settings(), plant.asked(), lambda _text: None)
    assert (plant.topics(), plant.keys()) == (before, keys)


def test_a_key_that_is_there_already_is_refused(plant: Plant) -> None:
    plant.redis.set(f"{plant.run.prefix}:4:other", "theirs")
    before = plant.topics()
    with pytest.raises(FraudlineError, match=f"A key that begins with {plant.run.prefix}: is there already"):
        prove(plant.run, plant.settings(), plant.asked(), lambda _text: None)
    assert plant.topics() == before
    assert plant.redis.get(f"{plant.run.prefix}:4:other") == b"theirs"


def test_a_proof_that_fails_says_why_in_a_sentence_and_leaves_nothing(
    plant: Plant, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before, keys = plant.topics(), plant.keys()
    monkeypatch.setenv(variable("features.catalog"), "handbook")
    assert exit_status(["prove", f"--out={tmp_path / 'report'}"]) == 1
    told = capsys.readouterr().err
    errors = [line for line in told.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "needs features that this catalog does not compute" in errors[0]
    assert "removing what was made" in told
    assert (plant.left(), plant.topics(), plant.keys()) == ([], before, keys)


def test_a_bundle_that_can_not_be_read_is_told_before_anything_is_made(
    plant: Plant, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(variable("model.bundle"), str(tmp_path / "none"))
    assert exit_status(["prove", f"--out={tmp_path / 'report'}"]) == 1
    [begun, error] = capsys.readouterr().err.splitlines()
    assert "its topics, group and keys begin with" in begun
    assert error == f"error: There is no model bundle at {tmp_path / 'none'}; make one with `fraudline train`."
    assert not (tmp_path / "report").exists()


def test_more_than_an_hour_is_refused(plant: Plant, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status(["prove", "--payments=100000", "--rate=1", f"--out={plant.folder / 'report'}"]) == 2
    assert "That takes 100,000 s at this rate: no more than 3,600 are measured." in capsys.readouterr().err
    assert not (plant.folder / "report").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--kills=30", "--kills has no effect without --faults: give both, or neither."),
        ("--payments=1000 --seconds=5", "--seconds has no effect beside --payments: leave one of them out."),
        *(
            (f"--clean=0123456789ab {option}", f"{option.partition('=')[0]} has no effect beside --clean: leave")
            for option in (
                "--bundle=there", "--rate=5", "--seconds=5", "--payments=1000", "--faults", "--kills=2", "--seed=1",
                "--out=there",
            )
        ),
    ],
)  # fmt: skip
def test_an_option_that_would_do_nothing_is_refused(words: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status(["prove", *words.split()]) == 2
    [error] = capsys.readouterr().err.splitlines()
    assert error.startswith(f"error: {said}")


def test_processors_that_are_to_be_killed_have_a_partition_each(plant: Plant) -> None:
    settings = settings_of(plant.run, plant.settings())
    with closing(Resources(plant.run, settings)) as resources:
        resources.make(plant.settings().topics.payments, processors=5)
        assert resources.admin.topics()[settings.topics.payments] == 5
        resources.remove()


def test_why_there_is_no_certificate_is_told_and_ends_nothing(plant: Plant) -> None:
    settings = settings_of(plant.run, plant.settings())  # of a run that has made no topic
    made, why = certificate(settings)
    assert made is None
    assert settings.topics.dead_letters in why


def test_what_was_never_begun_is_not_said_to_be_left(
    plant: Plant, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "report").mkdir()
    monkeypatch.setenv(variable("kafka.brokers"), "127.0.0.1:1")
    assert exit_status(["prove", f"--out={tmp_path / 'report'}"]) == 1
    [begun, error] = capsys.readouterr().err.splitlines()
    assert "its topics, group and keys begin with" in begun
    assert error.startswith("error: no Kafka broker answers at 127.0.0.1:1")
    assert (tmp_path / "report").is_dir()  # it was there before


def test_a_proof_that_is_interrupted_leaves_nothing(plant: Plant) -> None:
    before, keys = plant.topics(), plant.keys()
    process = subprocess.Popen(
        [*COMMAND, "--rate=50", "--seconds=60", f"--out={plant.folder}"],
        cwd=ROOT, env=os.environ.copy(), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    watchdog = threading.Timer(DEADLINE_S, process.kill)
    watchdog.start()
    try:
        assert process.stderr is not None
        told = []
        for line in process.stderr:
            told.append(line)
            if "of warm-up" in line:
                assert plant.left() != []
                process.send_signal(signal.SIGINT)
        assert process.wait() == 130, told
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()
        if process.stderr is not None:
            process.stderr.close()
    assert (plant.left(), plant.topics(), plant.keys()) == ([], before, keys)


def made(plant: Plant) -> Settings:
    """What a run that was killed has left."""
    settings = settings_of(plant.run, plant.settings())
    resources = Resources(plant.run, settings)
    resources.make(plant.settings().topics.payments, processors=1)
    resources.close()
    plant.redis.set(f"{plant.run.prefix}:4:{{s0}}:c", "a log")
    return settings


def test_what_a_killed_run_has_left_is_removed_by_its_id(plant: Plant, capsys: pytest.CaptureFixture[str]) -> None:
    before, keys = plant.topics(), plant.keys()
    made(plant)
    plant.kafka.create_topics({f"{OTHER.prefix}.payments": 1})
    assert len(plant.left()) == 7 + 1 + 2
    assert exit_status(["prove", "--clean", plant.run.run]) == 0
    assert plant.left() == [f"{OTHER.prefix}.payments"]
    assert plant.topics() == before | {f"{OTHER.prefix}.payments"}
    assert plant.keys() == keys
    capsys.readouterr()
    assert exit_status(["prove", "--clean", plant.run.prefix]) == 1
    assert OTHER.run in capsys.readouterr().err
    assert exit_status(["prove", "--clean", "../payments"]) == 2


@pytest.mark.parametrize("mark", ["none", "another run's", "this run's, on a record with a value"])
def test_what_has_not_the_mark_of_the_run_is_left_alone(
    plant: Plant, capsys: pytest.CaptureFixture[str], mark: str
) -> None:
    made(plant)
    foreign = f"{plant.run.prefix}.other"
    plant.kafka.create_topics({foreign: 1})
    run, value = {"none": (None, None), "another run's": (OTHER.run, None)}.get(mark, (plant.run.run, b"theirs"))
    produce(plant.kafka, foreign, run, value)
    plant.redis.set(f"{plant.run.prefix}:prove", OTHER.run)
    assert exit_status(["prove", "--clean", plant.run.run]) == 1
    assert foreign in capsys.readouterr().err
    assert plant.left() == [foreign, f"{plant.run.prefix}:4:{{s0}}:c", f"{plant.run.prefix}:prove"]
    assert plant.redis.get(f"{plant.run.prefix}:prove") == OTHER.run.encode()


def test_a_run_that_still_works_is_not_cleaned(plant: Plant) -> None:
    settings = made(plant)
    source = KafkaSource(settings.kafka, settings.topics.payments, lambda _kind: None)
    source.start([])
    try:
        while not source.owned:
            source.poll(1, 0.1)
        with pytest.raises(FraudlineError, match="still has a processor"):
            clean(plant.run, settings)
        assert len(plant.left()) == 7 + 1 + 2
    finally:
        source.close()


def test_keys_beyond_the_namespace_are_never_removed(plant: Plant) -> None:
    """Names that begin alike are others'."""
    near = [f"{plant.run.prefix}0:4:x", f"{plant.run.prefix}", f"x{plant.run.prefix}:4:x"]
    theirs = plant.keys() | {name.encode() for name in near}
    settings = made(plant)
    for name in near:
        plant.redis.set(name, "theirs")
    clean(plant.run, settings)
    assert plant.keys() == theirs
    plant.redis.delete(*near)


def test_a_topic_that_somebody_else_makes_at_the_same_time_is_not_taken(plant: Plant) -> None:
    """Between the look and the making, and between the making and the mark."""
    settings = plant.settings()
    admin = KafkaAdmin(settings.kafka)
    wanted = [
        each
        for each in declared(plant.theirs(), DEFAULT, Options(), brokers=1, payments_partitions=1)
        if each.role in {"payments", "labels"}
    ]
    plant.kafka.create_topics({wanted[0].name: 1})
    produce(plant.kafka, wanted[0].name, None)
    made: list[str] = []
    with pytest.raises(KafkaRefused, match="somebody else just made it"):
        admin.create(wanted, made)
    assert made == [wanted[1].name]
    with pytest.raises(KafkaRefused, match="did not write"):
        admin.mark([each.name for each in wanted], plant.run.run)
    admin.delete_topics(each.name for each in wanted)
