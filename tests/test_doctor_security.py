"""`fraudline doctor` and `fraudline topics` as a user of a Kafka that trusts nobody: what is not allowed is named."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from confluent_kafka.admin import AclBinding

from consumer.cli import exit_status
from consumer.doctor.surgery import Surgery
from consumer.settings import TopicSettings
from consumer.settings_source import variable
from features.checkup import Finding, examine
from tests.services.kafka_secure import PASSWORD, USER, SecureKafkaBroker, binding

USED = [role for role in TopicSettings.model_fields if role not in {"audit", "shadow"}]
READ = ("payments", "labels", "lists")


@dataclass(slots=True)
class Patient:
    """A deployment whose user is `processor`; its topics are there, and it may do nothing yet."""

    broker: SecureKafkaBroker
    topics: dict[str, str]
    unique: str
    monkeypatch: pytest.MonkeyPatch

    def set(self, **settings: object) -> None:
        for name, value in settings.items():
            self.monkeypatch.setenv(variable(name.replace("__", ".")), str(value))

    def rights(self) -> dict[str, list[AclBinding]]:
        """What a processor needs, by what it is for."""
        return {
            "read": [binding("topic", self.topics[role], "read") for role in READ],
            "write": [binding("topic", self.topics[role], "write") for role in USED if role not in READ],
            "group": [binding("group", self.unique, "read")],
            "id": [binding("transactional-id", f"{self.unique}-", "write", prefixed=True)],
            "configs": [binding("topic", self.topics[role], "describe_configs") for role in USED],
        }

    @contextmanager
    def allowed(self, acls: Sequence[AclBinding]) -> Iterator[None]:
        self.broker.allow(acls)
        try:
            yield
        finally:
            self.broker.forbid(acls)

    def examined(self) -> dict[str, Finding]:
        """What is found of Kafka."""
        with_kafka = ("settings.load", "kafka.", "topics.")
        surgery = Surgery(None)
        try:
            return {each.check: each for each in examine(c for c in surgery.checks() if c.name.startswith(with_kafka))}
        finally:
            surgery.close()

    def without(self, *kinds: str) -> dict[str, Finding]:
        """The same, when rights of these kinds are missing."""
        with self.allowed([acl for kind, acls in self.rights().items() if kind not in kinds for acl in acls]):
            return self.examined()


@pytest.fixture
def patient(secure_kafka: SecureKafkaBroker, unique: str, monkeypatch: pytest.MonkeyPatch) -> Patient:
    names = {role: f"{unique}.{role}" for role in TopicSettings.model_fields}
    patient = Patient(secure_kafka, names, unique, monkeypatch)
    common = {"kafka__group_id": unique, "kafka__transactional_id": f"{unique}-0"}
    patient.set(**common, **{f"topics__{role}": name for role, name in names.items()})
    with monkeypatch.context() as admin:  # as the one who may do everything
        admin.setenv(variable("kafka.brokers"), secure_kafka.brokers["plaintext"])
        assert exit_status(["topics", "apply", "--yes", "--partitions", "1"]) == 0
    patient.set(
        kafka__brokers=secure_kafka.brokers["sasl"],
        kafka__security_protocol="sasl_ssl",
        kafka__sasl_mechanism="SCRAM-SHA-512",
        kafka__sasl_username=USER,
        kafka__sasl_password=PASSWORD,
        kafka__ssl_ca_file=secure_kafka.ca_file,
    )
    return patient


def failed(found: dict[str, Finding]) -> set[str]:
    return {name for name, each in found.items() if each.status == "fail"}


def test_with_the_rights_of_a_processor_all_is_well(patient: Patient) -> None:
    found = patient.without()
    assert {name for name, each in found.items() if each.status != "pass"} == {"kafka.clock"}
    assert "sasl over ssl, SCRAM-SHA-512 as processor" in found["kafka.session"].seen


def test_each_right_that_is_missing_is_named(patient: Patient) -> None:
    found = patient.without("read")
    assert failed(found) >= {f"topics.{role}" for role in READ}
    assert failed(found) >= {"kafka.group"}  # a topic that may not be seen is not said to be missing
    assert patient.topics["payments"] in found["kafka.group"].seen
    found = patient.without("write")
    assert failed(found) == {f"topics.{role}" for role in USED if role not in READ}
    found = patient.without("group")
    assert {"kafka.group", "kafka.offsets"} <= failed(found)
    assert patient.unique in found["kafka.offsets"].seen
    found = patient.without("id")
    assert failed(found) == {"kafka.transactions"}
    assert f"{patient.unique}-0-doctor" in found["kafka.transactions"].seen
    assert found["kafka.write"].status == found["kafka.offsets"].status == "skip"
    found = patient.without("configs")
    assert failed(found) == set()
    assert {found[f"topics.{role}"].status for role in USED} == {"warn"}
    assert "DescribeConfigs" in found["topics.payments"].mend


def test_what_may_be_seen_and_not_used(patient: Patient) -> None:
    """Describe alone shows a topic: only a try tells that it can't be read or written."""
    seen = [binding("topic", name, "describe") for name in patient.topics.values()]
    with patient.allowed(seen):
        found = patient.without("read", "write")
        assert {"kafka.read", "kafka.write"} <= failed(found)
        assert patient.topics["payments"] in found["kafka.read"].seen
        assert patient.topics["decisions"] in found["kafka.write"].seen
        patient.set(processing__delivery="at_least_once")
        found = patient.without("write")
        assert failed(found) == {"kafka.write"}
        assert patient.topics["decisions"] in found["kafka.write"].seen


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"kafka__sasl_password": "wr0ng-passw0rd"}, "refuses the user or the password"),
        ({"kafka__security_protocol": "ssl", "kafka__sasl_mechanism": ""}, ""),
    ],
)
def test_who_is_not_let_in_is_told_why(
    patient: Patient, capsys: pytest.CaptureFixture[str], changes: dict[str, str], part: str
) -> None:
    if not part:
        for name in ("username", "password"):
            patient.monkeypatch.delenv(variable(f"kafka.sasl_{name}"))
    patient.set(**changes, kafka__request_timeout_ms=3_000)
    capsys.readouterr()
    assert exit_status(["doctor", "--json"]) == 1
    told = capsys.readouterr()
    found: dict[str, dict[str, Any]] = {each["check"]: each for each in json.loads(told.out)}
    assert found["kafka.reach"]["status"] == "pass"
    assert found["kafka.session"]["status"] == "fail"
    assert part in found["kafka.session"]["seen"]
    assert "wr0ng" not in told.out + told.err
    assert found["topics.payments"]["status"] == "skip"
