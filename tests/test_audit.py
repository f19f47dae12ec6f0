"""The audit topic: no change without a record, on real Kafka; what is interrupted leaves its intention."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog

from consumer.audit import ACTIONS, AuditEntry, audited, new_entry
from consumer.cli import exit_status
from consumer.kafka.audit import WAITING, AuditWriter, BackgroundAudit
from consumer.kafka.publisher import Outgoing
from consumer.model_loader import ModelLoader
from consumer.records import ModelRef
from consumer.settings import ChallengerSettings, KafkaSettings, ModelSettings, Settings, TopicSettings
from consumer.settings_source import variable
from consumer.telemetry import Telemetry
from features.catalog import DEFAULT
from features.errors import ConfigError, KafkaUnavailable
from models.registry import Registry
from tests.documents import RECORDS
from tests.services.kafka import KafkaBroker
from tests.services.process import free_ports
from tests.services.reader import ReadCommitted
from tests.support.bundles import make_bundle

DEADLINE_S = 30.0


@dataclass(slots=True)
class Pages:
    """A trail in memory, which takes no more records than it has room for."""

    room: int = 1_000
    entries: list[AuditEntry] = field(default_factory=list)

    def write(self, entry: AuditEntry) -> None:
        if len(self.entries) >= self.room:
            raise KafkaUnavailable("no broker answers")
        self.entries.append(entry)

    def outcomes(self) -> list[str]:
        return [each.outcome for each in self.entries]


def test_a_change_is_announced_before_and_settled_after() -> None:
    trail = Pages()
    with audited(trail, "model.promote", "fraudline@3", actor="ada", detail={"role": "champion"}) as more:
        assert trail.outcomes() == ["intended"]
        more["bundle"] = "3-abc"
    one, other = trail.entries
    assert (one.entry_id, one.actor, one.detail) == (other.entry_id, "ada", {"role": "champion"})
    assert (other.outcome, other.detail) == ("done", {"role": "champion", "bundle": "3-abc"})
    assert "@" in other.origin


def test_what_can_not_be_announced_is_not_done() -> None:
    done = []
    with (
        pytest.raises(KafkaUnavailable, match=r"Nothing was changed, since it can't be audited"),
        audited(Pages(room=0), "model.promote", "m@1", actor=None),
    ):
        done.append(1)
    assert not done


def test_a_change_that_fails_says_so_and_a_bug_does_not_tell_its_message() -> None:
    trail = Pages()
    with pytest.raises(ConfigError, match="no"), audited(trail, "state.rebuild", "n", actor=None):
        raise ConfigError("no such place")
    with pytest.raises(ValueError, match="tok_secret"), audited(trail, "state.rebuild", "n", actor=None):
        raise ValueError("tok_secret")
    assert trail.outcomes() == ["intended", "failed"] * 2
    assert [each.detail for each in trail.entries[1::2]] == [{"error": "no such place"}, {"error": "ValueError"}]


def test_a_change_whose_outcome_can_not_be_told_is_said_to_be_made() -> None:
    with (
        pytest.raises(KafkaUnavailable, match="The change was made, and only its intention is in the audit topic"),
        audited(Pages(room=1), "model.promote", "m@1", actor=None),
    ):
        pass


def test_the_page_names_every_action() -> None:
    assert all(f"`{action}`" in RECORDS for action in ACTIONS)


def test_an_actor_that_nothing_records_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    Registry(str(tmp_path)).promote(make_bundle(tmp_path / "b").path, "champion", DEFAULT)
    words = ["model", "rollback", "--registry", str(tmp_path), "--actor", "ada"]
    assert exit_status(words) == 2
    assert "audit.enabled is false" in capsys.readouterr().err


@dataclass(frozen=True, slots=True)
class Place:
    """Topics of a test, and the settings that name them."""

    kafka: KafkaBroker
    audit: str
    lists: str
    variables: dict[str, str]

    def settings(self) -> KafkaSettings:
        return KafkaSettings(
            brokers=self.kafka.bootstrap, group_id=self.audit, transactional_id=self.audit, request_timeout_ms=10_000
        )

    def read(self) -> list[AuditEntry]:
        with ReadCommitted(self.kafka.bootstrap, [self.audit]) as reader:
            return [msgspec.json.decode(each.value or b"", type=AuditEntry) for each in reader.read_to_end()]


@pytest.fixture
def place(kafka: KafkaBroker, topics: Callable[..., dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> Place:
    made = topics(audit=1, lists=1)
    variables = {
        variable("kafka.brokers"): kafka.bootstrap,
        variable("kafka.transactional_id"): made["audit"],
        variable("topics.audit"): made["audit"],
        variable("topics.lists"): made["lists"],
        variable("audit.enabled"): "true",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return Place(kafka, made["audit"], made["lists"], variables)


def listed(capsys: pytest.CaptureFixture[str], *words: str) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert exit_status(["audit", "list", "--json", *words]) == 0
    found: list[dict[str, Any]] = msgspec.json.decode(capsys.readouterr().out)
    return found


def test_promotions_policies_and_lists_are_audited(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_status(["model", "keygen", "--out", str(tmp_path / "keys")]) == 0
    one, two = make_bundle(tmp_path / "one", version="1"), make_bundle(tmp_path / "two", version="2", seed=2)
    registry, changed = str(tmp_path / "registry"), str(tmp_path / "changed")
    for words in (
        ["model", "sign", str(one.path), "--key", str(tmp_path / "keys/signing-key.pem"), "--actor", "eve"],
        ["model", "promote", str(one.path), "--registry", registry, "--actor", "ada"],
        ["model", "promote", str(two.path), "--registry", registry],
        ["model", "rollback", "--registry", registry, "--actor", "bob"],
        ["policy", "apply", str(two.path / "policy.toml"), "--bundle", str(one.path), "--out", changed],
        ["policy", "lists", "add", "deny", "card", "tok_1", "--reason", "stolen", "--actor", "ada"],
        ["policy", "lists", "remove", "deny", "card", "tok_1"],
    ):
        assert exit_status(words) == 0, capsys.readouterr().err
    assert exit_status(["model", "promote", str(tmp_path), "--registry", registry]) != 0
    found = listed(capsys)
    assert [(each["action"], each["subject"], each["outcome"]) for each in found] == [
        ("model.sign", "test@1", "done"),
        ("model.promote", "test@1", "done"),
        ("model.promote", "test@2", "done"),
        ("model.rollback", "champion", "done"),
        ("policy.apply", changed, "done"),
        ("lists.put", "deny:card:tok_1", "done"),
        ("lists.remove", "deny:card:tok_1", "done"),
    ]
    assert found[0]["detail"]["digest"] == found[1]["detail"]["digest"] == one.digest == found[3]["detail"]["digest"]
    assert found[5]["detail"]["reason"] == "stolen"
    assert Registry(registry).standing("champion").current.by == "bob"  # type: ignore[union-attr]
    outcomes = [each.outcome for each in place.read()]
    assert outcomes == ["intended", "done"] * 5 + ["done"] * 2
    assert [each["actor"] for each in listed(capsys, "--actor", "ada")] == ["ada", "ada"]
    assert len(listed(capsys, "--action", "model")) == 4
    assert listed(capsys, "--since", "2100-01-01") == []
    assert exit_status(["audit", "list"]) == 0
    assert "deny:card:tok_1" in capsys.readouterr().out


def test_topics_are_made_and_that_is_audited_in_the_one_that_is_made_first(
    kafka: KafkaBroker, unique: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(variable("kafka.brokers"), kafka.bootstrap)
    monkeypatch.setenv(variable("audit.enabled"), "true")
    for role, _ in TopicSettings():
        monkeypatch.setenv(variable(f"topics.{role}"), f"{unique}.{role}")
    for _ in range(2):  # the second time there is nothing to do, and to tell
        assert exit_status(["topics", "apply", "--yes", "--actor", "ada"]) == 0, capsys.readouterr().err
    [entry] = listed(capsys)
    assert (entry["action"], entry["outcome"], entry["actor"]) == ("topics.apply", "done", "ada")
    assert f"{unique}.payments" in entry["subject"]


def test_nothing_is_changed_while_the_topic_can_not_be_written(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(variable("topics.audit"), "no-such-topic")
    bundle, registry = make_bundle(tmp_path / "one"), tmp_path / "registry"
    registry.mkdir()
    assert exit_status(["model", "promote", str(bundle.path), "--registry", str(registry)]) == 1
    assert "has no topic no-such-topic" in capsys.readouterr().err
    assert list(registry.iterdir()) == []
    assert exit_status(["policy", "lists", "add", "deny", "card", "tok_1"]) == 1
    with ReadCommitted(place.kafka.bootstrap, [place.lists]) as reader:
        assert reader.read_to_end() == []


def test_records_and_what_tells_of_them_are_seen_together_or_not_at_all(place: Place) -> None:
    entry = new_entry("lists.put", "deny:card:c", actor="ada", outcome="done")
    large = Outgoing(place.lists, b"k", b"x" * 1_500_000)  # more than the broker takes
    with AuditWriter(place.settings(), place.audit) as writer:
        with pytest.raises(KafkaUnavailable):
            writer.publish([large], entry)
        assert place.read() == []
        writer.publish([Outgoing(place.lists, b"k", b"v")], entry)
    with ReadCommitted(place.kafka.bootstrap, [place.audit, place.lists]) as reader:
        assert {each.topic: each.key for each in reader.read_to_end()} == {
            place.lists: b"k",
            place.audit: entry.entry_id.encode(),
        }


_DIES = """
import os, signal, sys
from pathlib import Path
import models.registry
from consumer.cli import exit_status
class Dying(models.registry.Registry):
    def _set(self, role, standing):
        os.kill(os.getpid(), signal.SIGKILL)
models.registry.Registry = Dying
exit_status(sys.argv[1:])
"""


def test_who_dies_between_the_two_leaves_an_intention_and_no_change_without_one(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, registry = make_bundle(tmp_path / "one"), tmp_path / "registry"
    words = ["model", "promote", str(bundle.path), "--registry", str(registry), "--actor", "ada"]
    ended = subprocess.run([sys.executable, "-c", _DIES, *words], env=os.environ | place.variables, check=False)
    assert ended.returncode == -signal.SIGKILL
    [entry] = listed(capsys)
    assert (entry["outcome"], entry["subject"], entry["actor"]) == ("intended", "test@1", "ada")
    assert not (registry / "champion.json").exists()


def test_a_canary_s_rollback_is_audited_by_the_one_that_made_it(place: Place, tmp_path: Path) -> None:
    url = str(tmp_path / "registry")
    registry = Registry(url)
    registry.promote(make_bundle(tmp_path / "one").path, "champion", DEFAULT)
    promoted = registry.promote(make_bundle(tmp_path / "two", version="2", seed=2).path, "challenger", DEFAULT)
    heard: list[tuple[ModelRef, str]] = []
    settings = Settings(
        model=ModelSettings(registry=url), challenger=ChallengerSettings(enabled=True, canary_shares=(0.5,))
    )
    loaders = [ModelLoader(settings, DEFAULT, Telemetry(), lambda *told: heard.append(told)) for _ in range(2)]
    trial = loaders[0].current().challenger
    assert trial is not None
    trial.canary.stop("too many alerts")
    for _ in range(2):
        for loader in loaders:
            loader.look()
    assert [(model.version, model.digest, why) for model, why in heard] == [("2", promoted.digest, "too many alerts")]


def test_records_of_others_steer_no_terminal(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    entry = new_entry("model.promote", "m\x1b[2J@1", actor="[bold]ada", outcome="done")
    with AuditWriter(place.settings(), place.audit) as writer:
        writer.write(entry)
    assert exit_status(["audit", "list"]) == 0
    out = capsys.readouterr().out
    assert "m\\x1b[2J@1" in out
    assert "[bold]ada" in out


def test_a_thread_that_is_gone_stops_no_processor(place: Place) -> None:
    audit = BackgroundAudit(place.settings(), place.audit)
    entry = new_entry("canary.rollback", "m@1", actor="processor", outcome="done")
    audit.put(entry)
    audit.stop()
    audit.put(entry)


def test_audit_records_that_wait_are_bounded() -> None:
    """There is no broker: what can't be kept is told in the log, and memory is not filled with it."""
    brokers = f"127.0.0.1:{free_ports(1)[0]}"
    audit = BackgroundAudit(KafkaSettings(brokers=brokers, request_timeout_ms=1_000), "audit")
    entries = [new_entry("canary.rollback", f"m@{n}", actor="processor", outcome="done") for n in range(WAITING + 5)]
    with structlog.testing.capture_logs() as lines:
        for each in entries:
            audit.put(each)
        audit.stop()
    dropped = [line["entry_id"] for line in lines if line["event"] == "audit_record_dropped"]
    beyond = [each.entry_id for each in entries[WAITING:]]
    assert dropped == beyond + [each.entry_id for each in entries[:WAITING]]  # the others when it gave up, at the end


def test_a_processor_never_waits_for_the_audit_topic(place: Place) -> None:
    """It takes records while there is no topic, and writes them when there is one."""
    late = f"{place.audit}.late"
    audit = BackgroundAudit(place.settings(), late)
    entries = [new_entry("canary.rollback", f"m@{n}", actor="processor", outcome="done") for n in range(3)]
    putting = threading.Thread(target=lambda: [audit.put(each) for each in entries])
    putting.start()
    putting.join(DEADLINE_S)
    assert not putting.is_alive()
    place.kafka.create_topics({late: 1})
    with ReadCommitted(place.kafka.bootstrap, [late]) as reader:
        seen = reader.wait_until(lambda records: len(records) == len(entries), DEADLINE_S)
    assert [each.key for each in seen] == [each.entry_id.encode() for each in entries]
    audit.stop()
