"""Kafka over TLS, by every way in, as a user that may do no more than the documents say; and each way to be kept out.

One broker serves the whole file. Whoever is let in is the user `processor`, so ACLs are given and taken one test at a
time.
"""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trustme
from confluent_kafka import Producer
from confluent_kafka.admin import AclBinding, AclOperation, AlterConfigOpType, ConfigEntry, ConfigResource
from pydantic import SecretStr

from consumer.app import Processor
from consumer.group_lag import GroupLag
from consumer.judge import Model
from consumer.kafka.client import common_config
from consumer.kafka.compacted import CompactedReader
from consumer.kafka.group import GroupReader
from consumer.kafka.history import produce_history
from consumer.kafka.tail import TailReader
from consumer.kafka.topics import TopicAdmin
from consumer.kafka.verdicts import LabelWriter
from consumer.lists import ListsReader
from consumer.model_loader import load_model
from consumer.settings import KafkaSettings, ProcessingSettings, Settings, TopicSettings
from consumer.streams import TopicStream
from consumer.telemetry import Health, Telemetry
from consumer.topic_plan import Step
from features.errors import ConfigError, FraudlineError, KafkaRefused, KafkaUnavailable
from features.event import Label
from features.store import MemoryStore
from features.warm import warm_up
from tests.poison import payment
from tests.services.kafka_secure import PASSWORD, SECRET, USER, SecureKafkaBroker, binding
from tests.services.process import free_ports
from tests.services.reader import ReadCommitted, Seen
from tests.support.bundles import make_bundle

pytestmark = pytest.mark.kafka
WRONG = "wrong-Zq9canary"
CANARY = "Zq9canary"
DEADLINE_S = 90.0
GROUP, ID = "secured", "secured-tx"
TOPICS = TopicSettings(
    payments="s.payments",
    labels="s.labels",
    decisions="s.decisions",
    alerts="s.alerts",
    dead_letters="s.dlq",
    journal="s.journal",
    lists="s.lists",
    shadow="s.shadow",
    audit="s.audit",
)
OPERATIONS = Path(__file__).parents[1] / "docs" / "operations.md"


@pytest.fixture(scope="module")
def broker(secure_kafka: SecureKafkaBroker) -> SecureKafkaBroker:
    secure_kafka.create_topics({topic: 1 for _, topic in TOPICS})
    return secure_kafka


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    warm_up()  # as `fraudline run` does before it joins: compiling may take longer than a member may be silent
    bundle = make_bundle(tmp_path_factory.mktemp("model") / "bundle")
    return load_model(bundle.path, device="cpu", threads=1)


def documented(role: str) -> list[AclBinding]:
    """The ACLs of a role as the documents list them, for the names that are used here."""
    text = OPERATIONS.read_text()
    lines = re.findall(rf"^    kafka-acls .* --add --allow-principal User:{role} (.*)$", text, re.MULTILINE)
    assert lines, f"{OPERATIONS} lists no ACL of {role}"
    names = {"fraudline": GROUP} | {
        default: topic for (_, default), (_, topic) in zip(TopicSettings(), TOPICS, strict=True)
    }
    found = []
    for line in lines:
        words = line.split()
        prefixed = "--resource-pattern-type prefixed" in line
        operations = [words[at + 1] for at, word in enumerate(words) if word == "--operation"]
        for at, word in enumerate(words):
            if word not in {"--topic", "--group", "--transactional-id"}:
                continue
            name = words[at + 1]
            found += [binding(word[2:], _named(name, names), operation, prefixed=prefixed) for operation in operations]
    return found


def _named(name: str, names: dict[str, str]) -> str:
    """A topic of the documents, or the group with what stands behind it in other names."""
    return names[name] if name in names else name.replace("fraudline", GROUP, 1)


PROCESSOR = [(acl.restype.name.lower(), acl.name, acl.operation.name.lower()) for acl in documented("processor")]


@dataclass(slots=True)
class Running:
    """A processor on a thread of its own, and how it ended."""

    processor: Processor
    ended_with: list[BaseException] = field(default_factory=list)
    thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.processor.run()
        except BaseException as error:
            self.ended_with.append(error)

    def end(self) -> str:
        """Wait for it to end by itself; the line that says why."""
        self.thread.join(DEADLINE_S)
        assert not self.thread.is_alive(), "it went on"
        assert self.ended_with, "it ended without a cause"
        return line_of(self.ended_with[0])


def line_of(error: BaseException) -> str:
    """An error's one line, in which there is no secret; nor in what it came from."""
    assert isinstance(error, FraudlineError), error
    assert "\n" not in str(error)
    assert CANARY not in str(error)
    return str(error)


@dataclass(slots=True)
class Secured:
    """The broker, who decides, and how clients come in."""

    broker: SecureKafkaBroker
    model: Model
    unique: str
    folder: Path

    def kafka(self, way: str = "SCRAM-SHA-256", **changes: Any) -> KafkaSettings:
        """How a client comes in by a mechanism, or `mutual`; as a worker's settings say it."""
        fields: dict[str, Any] = {
            "brokers": self.broker.brokers["sasl"],
            "group_id": GROUP,
            "transactional_id": f"{ID}-{self.unique}",
            "security_protocol": "sasl_ssl",
            "ssl_ca_file": self.broker.ca_file,
            "request_timeout_ms": 5_000,
            "session_timeout_ms": 6_000,
        }
        if way == "mutual":
            certificate, key = self.broker.client_certificate(self.folder)
            fields |= {"brokers": self.broker.brokers["mutual"], "security_protocol": "ssl"}
            fields |= {"ssl_certificate_file": certificate, "ssl_key_file": key}
        elif way == "OAUTHBEARER":
            fields |= {"sasl_mechanism": way, "sasl_oauth_token_url": self.broker.tokens.url}
            fields |= {"sasl_oauth_client_id": USER, "sasl_oauth_client_secret": SecretStr(SECRET)}
            fields |= {"sasl_oauth_ca_file": self.broker.ca_file, "sasl_oauth_scope": "payments"}
        else:
            fields |= {"sasl_mechanism": way, "sasl_username": USER, "sasl_password": SecretStr(PASSWORD)}
        return KafkaSettings(**{name: value for name, value in (fields | changes).items() if value is not None})

    def processor(self, kafka: KafkaSettings, delivery: str = "exactly_once") -> Processor:
        settings = Settings(kafka=kafka, topics=TOPICS, processing=ProcessingSettings(delivery=delivery))  # type: ignore[arg-type]
        lists = ListsReader(CompactedReader(kafka, TOPICS.lists), Telemetry())
        try:
            lists.start()
            made = Processor(
                settings,
                model=self.model,
                store=MemoryStore(),
                telemetry=Telemetry(),
                health=Health(stale_after_s=60),
                lists=lists.current,
            )
        except BaseException:
            lists.stop()
            raise
        made._lists = lists  # type: ignore[attr-defined]  # closed with it
        return made

    @contextmanager
    def running(self, kafka: KafkaSettings, delivery: str = "exactly_once") -> Iterator[Running]:
        processor = self.processor(kafka, delivery)
        running = Running(processor)
        try:
            yield running
        finally:
            processor.stop()
            running.thread.join(DEADLINE_S)
            processor.close()
            processor._lists.stop()  # type: ignore[attr-defined]
            assert not running.thread.is_alive()

    def pay(self, *names: str) -> None:
        """Payments, and a record that is none, from somebody with all rights."""
        producer = Producer({"bootstrap.servers": self.broker.bootstrap, "log_level": 0})
        for name in names:
            producer.produce(TOPICS.payments, payment(event_id=name, card_id=f"tok_{name}"), name.encode())
            producer.produce(TOPICS.payments, b"no payment", name.encode())
        assert producer.flush(DEADLINE_S) == 0
        producer.close()

    def decides(self, running: Running, name: str) -> None:
        with ReadCommitted(self.broker.bootstrap, [TOPICS.decisions]) as reader:
            self.pay(name)
            mark = f'"event_id":"{name}"'.encode()
            reader.wait_until(
                lambda seen: running.ended_with or any(mark in (record.value or b"") for record in seen), DEADLINE_S
            )
        assert not running.ended_with, running.ended_with

    def refused(self, kafka: KafkaSettings) -> str:
        """The line with which a processor does not start."""
        try:
            started = self.processor(kafka)
        except FraudlineError as error:
            return line_of(error)
        started.close()
        started._lists.stop()  # type: ignore[attr-defined]
        pytest.fail("it started")


@pytest.fixture
def secured(broker: SecureKafkaBroker, model: Model, unique: str, tmp_path: Path) -> Secured:
    return Secured(broker, model, unique, tmp_path)


@pytest.fixture
def permitted(broker: SecureKafkaBroker) -> Iterator[list[AclBinding]]:
    """What the documents say, and nothing more, while a test runs."""
    acls = documented("processor")
    broker.allow(acls)
    yield acls
    broker.forbid(acls)


@pytest.mark.usefixtures("permitted")
@pytest.mark.parametrize("way", ["SCRAM-SHA-256", "SCRAM-SHA-512", "PLAIN", "OAUTHBEARER", "mutual"])
def test_payments_are_decided_by_every_way_in(secured: Secured, way: str) -> None:
    with secured.running(secured.kafka(way)) as running:
        secured.decides(running, f"{secured.unique}-1")


Changes = Callable[[Secured], dict[str, Any]]


def of_another_authority(secured: Secured) -> dict[str, Any]:
    (secured.folder / "other").mkdir()
    certificate, key = secured.broker.client_certificate(secured.folder / "other", trustme.CA())
    return {"ssl_certificate_file": certificate, "ssl_key_file": key}


def another_ca(secured: Secured) -> Path:
    path = secured.folder / "other-ca.pem"
    trustme.CA().cert_pem.write_to_path(str(path))
    return path


def at(listener: str) -> Changes:
    return lambda secured: {"brokers": secured.broker.brokers[listener]}


PLAINTEXT = dict.fromkeys(("sasl_mechanism", "sasl_username", "sasl_password", "ssl_ca_file"))
NO_CERTIFICATE = dict.fromkeys(("ssl_certificate_file", "ssl_key_file"))
KEPT_OUT: dict[str, tuple[str, Changes, tuple[str, ...]]] = {
    "wrong CA": ("PLAIN", lambda s: {"ssl_ca_file": another_ca(s)}, ("can't be trusted (", "kafka.ssl_ca_file")),
    "expired": ("PLAIN", at("expired"), ("certificate has expired", "dates")),
    "another host": ("PLAIN", at("elsewhere"), ("127.0.0.1", "not valid for", "names the hosts in kafka.brokers")),
    "wrong CA for mutual": ("mutual", lambda s: {"ssl_ca_file": another_ca(s)}, ("kafka.ssl_ca_file",)),
    "bad password, SCRAM-SHA-256": (
        "SCRAM-SHA-256",
        lambda _: {"sasl_password": SecretStr(WRONG)},
        ("refuses the user or the password", "kafka.sasl_password"),
    ),
    "bad password, SCRAM-SHA-512": (
        "SCRAM-SHA-512",
        lambda _: {"sasl_password": SecretStr(WRONG)},
        ("kafka.sasl_password",),
    ),
    "bad password, PLAIN": ("PLAIN", lambda _: {"sasl_password": SecretStr(WRONG)}, ("kafka.sasl_password",)),
    "unknown user": ("SCRAM-SHA-256", lambda _: {"sasl_username": "nobody"}, ("kafka.sasl_username",)),
    "unknown user, PLAIN": ("PLAIN", lambda _: {"sasl_username": "nobody"}, ("kafka.sasl_username",)),
    "wrong OAuth secret": (
        "OAUTHBEARER",
        lambda _: {"sasl_oauth_client_secret": SecretStr(WRONG)},
        ("gives no token", "kafka.sasl_oauth_client_secret"),
    ),
    "token endpoint down": (
        "OAUTHBEARER",
        lambda _: {"sasl_oauth_token_url": f"https://127.0.0.1:{free_ports(1)[0]}/token"},
        ("does not answer", "kafka.sasl_oauth_token_url"),
    ),
    "token endpoint untrusted": (
        "OAUTHBEARER",
        lambda s: {"sasl_oauth_ca_file": another_ca(s)},
        ("can't be trusted over TLS", "kafka.sasl_oauth_ca_file"),
    ),
    "no client certificate": ("mutual", lambda _: NO_CERTIFICATE, ("wants a client certificate: set kafka.ssl_cert",)),
    "client certificate of another authority": (
        "mutual",
        of_another_authority,
        ("does not trust our certificate", "kafka.ssl_certificate_file"),
    ),
    "plain text to TLS": (
        "PLAIN",
        lambda _: {**PLAINTEXT, "security_protocol": "plaintext"},
        ("speaks TLS", "kafka.security_protocol"),
    ),
    "SASL in plain text to TLS": (
        "PLAIN",
        lambda _: {"security_protocol": "sasl_plaintext", "ssl_ca_file": None},
        ("speaks TLS", "kafka.security_protocol"),
    ),
    "TLS to plain text": ("PLAIN", at("plaintext"), ("does not speak TLS", "kafka.security_protocol")),
    "no SASL where it is wanted": (
        "PLAIN",
        lambda _: {**PLAINTEXT, "security_protocol": "ssl", "ssl_ca_file": _.broker.ca_file},
        ("may want SASL", "kafka.security_protocol"),
    ),
    "SASL where there is none": (
        "mutual",
        lambda _: {
            "security_protocol": "sasl_ssl",
            "sasl_mechanism": "PLAIN",
            "sasl_username": USER,
            "sasl_password": SecretStr(PASSWORD),
        },
        ("does not take SASL PLAIN", "kafka.sasl_mechanism"),
    ),
}


@pytest.mark.faults
@pytest.mark.usefixtures("permitted")
@pytest.mark.parametrize("why", KEPT_OUT)
def test_who_is_not_trusted_does_not_start_and_is_told_the_setting(secured: Secured, why: str) -> None:
    way, changes, parts = KEPT_OUT[why]
    line = secured.refused(secured.kafka(way, **changes(secured)))
    assert all(part in line for part in parts), line


def test_a_wrong_way_in_is_no_cause_for_another_client(secured: Secured, permitted: list[AclBinding]) -> None:
    """What one client heard is about its own settings."""
    assert permitted
    secured.refused(secured.kafka(sasl_password=SecretStr(WRONG)))
    [port] = free_ports(1)
    line = secured.refused(secured.kafka(brokers=f"127.0.0.1:{port}", request_timeout_ms=1_000))
    assert line == f"no Kafka broker answers at 127.0.0.1:{port}: check kafka.brokers and the network"


@pytest.mark.faults
@pytest.mark.parametrize("missing", PROCESSOR, ids=" ".join)
def test_each_acl_is_needed_to_start(
    secured: Secured, permitted: list[AclBinding], missing: tuple[str, str, str]
) -> None:
    [taken] = [acl for acl in permitted if (acl.restype.name.lower(), acl.name, acl.operation.name.lower()) == missing]
    secured.broker.forbid([taken])
    try:
        with secured.running(secured.kafka()) as running:
            line = running.end()  # the group is first asked for in the loop
    except KafkaUnavailable as error:
        line = line_of(error)
    assert missing[1].removesuffix(".") in line, line
    assert "docs/operations.md" in line


@pytest.mark.parametrize(("topic", "right"), [(TOPICS.alerts, "write"), (TOPICS.labels, "read")])
def test_a_topic_that_may_only_be_seen_is_told_at_the_start(
    secured: Secured, permitted: list[AclBinding], topic: str, right: str
) -> None:
    """Not with the first alert, or label, at night."""
    secured.broker.forbid([acl for acl in permitted if acl.name == topic])
    seen = [binding("topic", topic, "describe")]
    secured.broker.allow(seen)
    try:
        assert f"does not let this user {right} the topic {topic}" in secured.refused(secured.kafka())
    finally:
        secured.broker.forbid(seen)


def cut_off(secured: Secured, taken: AclBinding, delivery: str) -> tuple[BaseException, list[str]]:
    """With what a processor ends whose right is taken while it decides, and whose payments there were."""
    names = [f"{secured.unique}-1"]
    with secured.running(secured.kafka(), delivery) as running:
        secured.decides(running, names[0])
        secured.broker.forbid([taken])
        for number in range(2, 40):  # an alert is not raised by every payment, nor are lists read by the loop
            names.append(f"{secured.unique}-{number}")
            secured.pay(names[-1])
            running.thread.join(0.25)
            if running.ended_with:
                break
        line = running.end()
    assert "docs/operations.md" in line
    return running.ended_with[0], names


@pytest.mark.faults
@pytest.mark.parametrize("delivery", ["exactly_once", "at_least_once"])
@pytest.mark.parametrize("missing", PROCESSOR, ids=" ".join)
def test_an_acl_that_is_taken_away_ends_the_process(
    secured: Secured, permitted: list[AclBinding], missing: tuple[str, str, str], delivery: str
) -> None:
    if delivery == "at_least_once" and missing[0] == "transactional_id":
        pytest.skip("at_least_once has no transactions")
    [taken] = [acl for acl in permitted if (acl.restype.name.lower(), acl.name, acl.operation.name.lower()) == missing]
    error, _ = cut_off(secured, taken, delivery)
    assert isinstance(error, KafkaRefused)
    kind, name, _ = missing
    assert kind != "topic" or f"the topic {name}:" in line_of(error)


WRITTEN = [
    (TOPICS.dead_letters, "exactly_once"),
    (TOPICS.dead_letters, "at_least_once"),
    (TOPICS.decisions, "exactly_once"),
    (TOPICS.alerts, "exactly_once"),
    (TOPICS.journal, "exactly_once"),
]


@pytest.mark.faults
@pytest.mark.parametrize(("topic", "delivery"), WRITTEN)
def test_once_a_right_is_given_back_every_record_has_its_outcome(
    secured: Secured, permitted: list[AclBinding], topic: str, delivery: str
) -> None:
    """Each payment its decision and each bad record its dead letter, whether they came before, meanwhile or after."""
    rights = {(acl.name, acl.operation): acl for acl in permitted}
    taken = rights[topic, AclOperation.WRITE]
    _, names = cut_off(secured, taken, delivery)
    secured.broker.allow([taken])
    last = f"{secured.unique}-last"
    with (
        ReadCommitted(secured.broker.bootstrap, [TOPICS.decisions, TOPICS.dead_letters]) as reader,
        secured.running(secured.kafka(), delivery) as running,
    ):
        secured.pay(last)  # there is one partition: what came before it is over when it is
        reader.wait_until(
            lambda seen: running.ended_with or {outcome(record) for record in seen} >= due([last]), DEADLINE_S
        )
        assert not running.ended_with, running.ended_with
        found = Counter(map(outcome, reader.read_to_end(DEADLINE_S)))
    outcomes = {each: found[each] for each in due([*names, last])}
    if delivery == "exactly_once":
        assert set(outcomes.values()) == {1}, outcomes
    else:
        assert min(outcomes.values()) >= 1, outcomes


def due(names: list[str]) -> set[tuple[str, str]]:
    """The outcomes that payments and bad records of these names are to have."""
    return {(topic, name) for topic in (TOPICS.decisions, TOPICS.dead_letters) for name in names}


def outcome(record: Seen) -> tuple[str, str]:
    """Where it is published, and of which payment it is, or beside which payment the bad record came."""
    if record.topic == TOPICS.decisions:
        return record.topic, json.loads(record.value or b"")["event_id"]
    return record.topic, (record.key or b"").decode()


@pytest.mark.parametrize("right", ["describe", "write"])
def test_a_history_that_may_not_be_sent_is_refused(secured: Secured, right: str) -> None:
    """Without any right to write, the client fails for good, in the midst of it."""
    settings = Settings(kafka=secured.kafka(), topics=TOPICS)
    records = [(b"key", b"no payment", 0)] * 3_000
    acls = [binding("topic", TOPICS.shadow, right)]
    secured.broker.allow(acls)
    try:
        if right == "write":
            assert produce_history(settings, TOPICS.shadow, records, lambda _count: None) == len(records)
            return
        with pytest.raises(KafkaUnavailable) as caught:
            produce_history(settings, TOPICS.shadow, records, lambda _count: None)
        assert f"write the topic {TOPICS.shadow}: give it the ACLs" in line_of(caught.value)
    finally:
        secured.broker.forbid(acls)


def test_without_an_authorizer_nothing_is_asked_for(secured: Secured) -> None:
    """Whoever may do all needs no ACL of the list."""
    kafka = KafkaSettings(brokers=secured.broker.bootstrap, group_id=f"{GROUP}2", transactional_id=f"{ID}-plain")
    with secured.running(kafka) as running:
        secured.decides(running, f"{secured.unique}-1")


def lines_of(role: str) -> list[AclBinding]:
    """One of each: a right that is given for several topics is looked at with the first that makes use of it."""
    acls = [acl for acl in documented(role) if acl.operation != AclOperation.CREATE or acl.name == TOPICS.audit]
    return list({(acl.restype, acl.operation): acl for acl in reversed(acls)}.values())


@contextmanager
def allowed(broker: SecureKafkaBroker, role: str, but: AclBinding | None = None) -> Iterator[None]:
    """What the documents give a role, or all but one of it."""
    acls = [acl for acl in documented(role) if acl != but]
    broker.allow(acls)
    try:
        yield
    finally:
        broker.forbid(acls)


def certify_reads(secured: Secured) -> None:
    """All that a certificate takes from Kafka."""
    kafka = secured.kafka()
    for topic in (TOPICS.payments, TOPICS.labels, TOPICS.decisions, TOPICS.alerts, TOPICS.dead_letters, TOPICS.journal):
        stream = TopicStream(kafka, topic)
        try:
            for _ in stream.chunks():
                pass
        finally:
            stream.close()


def page_reads_and_writes(secured: Secured) -> None:
    """What the alert page does: it reads, and a verdict is written."""
    kafka = secured.kafka()
    tail = TailReader(kafka, dict.fromkeys((TOPICS.alerts, TOPICS.decisions, TOPICS.labels), 1_000_000))
    try:
        while not tail.caught_up:
            tail.poll(0.1)
    finally:
        tail.close()
    label = Label(f"{secured.unique}-1", "tok_1", "m-1", 1_700_000_000_000, "fraud", 1_700_000_000_001, "analyst")
    LabelWriter(Settings(kafka=kafka, topics=TOPICS)).write(label, "somebody")


def topics_are_made(secured: Secured) -> None:
    """One is missing, and one is set otherwise than it should be."""
    [gone] = secured.broker.admin.delete_topics([TOPICS.audit]).values()
    gone.result(DEADLINE_S)
    entry = ConfigEntry("message.timestamp.type", "CreateTime", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, TOPICS.payments, incremental_configs=[entry])
    [changed] = secured.broker.admin.incremental_alter_configs([resource]).values()
    changed.result(DEADLINE_S)
    admin = TopicAdmin(secured.kafka())
    names = [TOPICS.audit, TOPICS.payments]
    try:
        while TOPICS.audit in admin.look(names).found:
            pass
        made = Step("create", "audit", TOPICS.audit, "", None, "", "", partitions=1, copies=1)
        stamp = Step("set", "payments", TOPICS.payments, "message.timestamp.type", None, "LogAppendTime", "")
        admin.carry_out([made, stamp])
    finally:
        if TOPICS.audit not in secured.broker.admin.list_topics(timeout=10).topics:
            secured.broker.create_topics({TOPICS.audit: 1})


ROLES: dict[str, Callable[[Secured], None]] = {
    "certify": certify_reads,
    "dashboard": page_reads_and_writes,
    "topics": topics_are_made,
}


@pytest.mark.parametrize("role", ROLES)
def test_the_documented_acls_are_enough_and_each_is_needed(secured: Secured, role: str) -> None:
    """With none of a kind of rights less."""
    secured.pay(f"{secured.unique}-0")  # so that there is something to read
    with allowed(secured.broker, role):
        ROLES[role](secured)
    for acl in lines_of(role):
        with allowed(secured.broker, role, acl), pytest.raises(KafkaUnavailable) as caught:
            ROLES[role](secured)
        assert acl.name in line_of(caught.value), acl


def look(kafka: KafkaSettings) -> GroupLag:
    return GroupReader(kafka, [TOPICS.payments]).look()


@pytest.mark.parametrize("ask", [lambda kafka: TopicAdmin(kafka).look([TOPICS.payments]), look])
def test_admin_clients_tell_why_they_are_kept_out(secured: Secured, ask: Callable[[KafkaSettings], object]) -> None:
    with pytest.raises(KafkaRefused, match=r"kafka\.sasl_password"):
        ask(secured.kafka(sasl_password=SecretStr(WRONG)))
    with pytest.raises(KafkaRefused, match=r"kafka\.ssl_ca_file"):
        ask(secured.kafka(ssl_ca_file=another_ca(secured)))


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"ssl_ca_file": "junk"}, "kafka.ssl_ca_file names"),
        ({"ssl_certificate_file": "junk", "ssl_key_file": "junk"}, "no certificate and its key"),
        ({"ssl_certificate_file": "certificate", "ssl_key_file": "other key"}, "no certificate and its key"),
    ],
)
def test_files_that_are_no_certificates_are_refused(changes: dict[str, str], part: str, tmp_path: Path) -> None:
    authority = trustme.CA()
    files = {"junk": b"-----BEGIN JUNK-----\n"}
    files["certificate"] = authority.issue_cert("a.example").cert_chain_pems[0].bytes()
    files["other key"] = authority.issue_cert("b.example").private_key_pem.bytes()
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    kafka = KafkaSettings(security_protocol="ssl", **{key: tmp_path / name for key, name in changes.items()})
    with pytest.raises(ConfigError, match=part):
        common_config(kafka)


def test_verification_is_on_in_every_client(secured: Secured) -> None:
    for way in ("PLAIN", "OAUTHBEARER", "mutual"):
        config = common_config(secured.kafka(way))
        assert config["enable.ssl.certificate.verification"] is True
        assert config["ssl.endpoint.identification.algorithm"] == "https"
