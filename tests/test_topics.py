"""`fraudline topics plan` and `apply`: the declaration, the plan as a pure function, and a real Kafka."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Sequence
from dataclasses import replace

import pytest
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource
from hypothesis import given
from hypothesis import strategies as st

from consumer.cli import exit_status
from consumer.kafka.embedded import EmbeddedBroker
from consumer.settings import Settings, TopicSettings
from consumer.settings_source import variable
from consumer.topic_plan import Found, Step, plan
from consumer.topics import (
    COPIES_WORD,
    PARTITIONS_WORD,
    RETENTIONS,
    Options,
    amount,
    declared,
    parse_overrides,
    reach_ms,
    used_roles,
)
from features.catalog import DAY_MS, DEFAULT, HANDBOOK, Catalog, Limits
from features.errors import ConfigError
from tests.services.kafka import KafkaBroker

TOPICS = TopicSettings()
ROLES = tuple(TopicSettings.model_fields)
REBUILT = ("payments", "labels", "journal")
DEFAULTS = {
    "cleanup.policy": "delete",
    "retention.ms": "604800000",
    "retention.bytes": "-1",
    "message.timestamp.type": "CreateTime",
    "max.message.bytes": "1048588",
    "min.insync.replicas": "1",
}


def wanted(options: Options = Options(), *, brokers: int = 3, payments: int | None = None) -> list:  # type: ignore[type-arg]  # noqa: B008
    return declared(TOPICS, DEFAULT, options, brokers=brokers, payments_partitions=payments)


def by_role(options: Options = Options(), **more: int) -> dict:  # type: ignore[type-arg]  # noqa: B008
    return {each.role: each for each in wanted(options, **more)}  # type: ignore[arg-type]


def carried_out(found: dict[str, Found], steps: Sequence[Step]) -> dict[str, Found]:
    """What a cluster that takes every step is like afterwards."""
    after = dict(found)
    for step in steps:
        if step.action == "create":
            after[step.topic] = Found(step.partitions, step.copies, step.copies, DEFAULTS | dict(step.settings))
        elif step.action == "add partitions":
            after[step.topic] = replace(after[step.topic], partitions=step.partitions)
        elif step.action == "set":
            settings = {**after[step.topic].settings, step.setting: step.wants}
            after[step.topic] = replace(after[step.topic], settings=settings)
    return after


numbers = st.sampled_from(["-1", "1000", "604800000", "3888000000", "99999999999"])
configs = st.fixed_dictionaries(
    {},
    optional={
        "cleanup.policy": st.sampled_from(["delete", "compact", "compact,delete", "delete, compact"]),
        "retention.ms": numbers,
        "retention.bytes": numbers,
        "message.timestamp.type": st.sampled_from(["CreateTime", "LogAppendTime"]),
        "max.message.bytes": st.sampled_from(["1000", "1048588", "9000000"]),
        "min.insync.replicas": st.sampled_from(["1", "2", "3"]),
    },
)


@st.composite
def topics_found(draw: st.DrawFn) -> dict[str, Found]:
    found = {}
    for _role, name in TOPICS:
        if draw(st.booleans()):
            copies = draw(st.integers(1, 3))
            found[name] = Found(draw(st.integers(1, 9)), copies, draw(st.integers(1, copies)), draw(configs))
    return found


def can_be_rebuilt(role: str, changes: dict[str, str]) -> bool:
    """Other overrides are refused."""
    return role not in REBUILT or int(changes.get("retention.ms", 38 * DAY_MS)) >= 38 * DAY_MS


options_given = st.builds(
    Options,
    partitions=st.none() | st.integers(1, 12),
    copies=st.none() | st.integers(1, 3),
    retention_ms=st.none() | st.integers(38 * DAY_MS, 90 * DAY_MS),
    overrides=st.dictionaries(
        st.sampled_from(ROLES),
        st.dictionaries(
            st.sampled_from(["retention.ms", "retention.bytes", "max.message.bytes", "compression.type", "partitions"]),
            st.sampled_from(["1000", "5", "99999999999"]),
            max_size=2,
        ),
        max_size=3,
    ).filter(lambda overrides: all(can_be_rebuilt(role, each) for role, each in overrides.items())),
)


@given(topics_found(), options_given, st.booleans())
def test_after_a_plan_is_carried_out_only_what_is_left_alone_is_left(
    found: dict[str, Found], options: Options, add_partitions: bool
) -> None:
    payments = found.get(TOPICS.payments)
    asked = wanted(options, payments=None if payments is None else payments.partitions)
    steps = plan(asked, found, add_partitions=add_partitions)
    after = plan(asked, carried_out(found, steps), add_partitions=add_partitions)
    assert [step for step in after if step.by_us] == []
    assert after == [step for step in steps if not step.by_us]


@given(topics_found(), options_given, st.booleans())
def test_nothing_is_ever_taken_away(found: dict[str, Found], options: Options, add_partitions: bool) -> None:
    steps = plan(wanted(options, payments=3), found, add_partitions=add_partitions)
    after = carried_out(found, steps)
    for name, was in found.items():
        now = after[name]
        for setting in RETENTIONS:
            if setting in was.settings:
                assert amount(now.settings[setting]) >= amount(was.settings[setting])
        policy = was.settings.get("cleanup.policy", "delete")
        if "delete" not in policy:
            assert "delete" not in now.settings["cleanup.policy"]
        assert now.partitions >= was.partitions
        if not add_partitions:
            assert now.partitions == was.partitions
        assert amount(now.settings.get("min.insync.replicas", "1")) <= max(
            was.in_step, amount(was.settings.get("min.insync.replicas", "1"))
        )


@given(topics_found(), options_given)
def test_what_is_left_alone_says_why_and_the_rest_does_not(found: dict[str, Found], options: Options) -> None:
    for step in plan(wanted(options, payments=3), found):
        assert bool(step.left) != step.by_us
        assert step.why


def test_the_state_can_be_rebuilt_from_what_is_kept() -> None:
    kept = {role: each.settings["retention.ms"] for role, each in by_role().items() if role != "lists"}
    for role in ("payments", "labels", "journal"):
        assert int(kept[role].value) == 45 * DAY_MS == reach_ms(DEFAULT) + 7 * DAY_MS
        assert kept[role].needed
    assert kept["audit"].value == "-1"


@pytest.mark.parametrize("catalog", [DEFAULT, HANDBOOK, Catalog(HANDBOOK.features, Limits(10, DAY_MS, DAY_MS, 10))])
def test_what_is_kept_covers_every_window_and_the_logs(catalog: Catalog) -> None:
    assert reach_ms(catalog) >= catalog.limits.horizon_ms
    assert all(reach_ms(catalog) >= each.window_ms + each.delay_ms for each in catalog.features)


def test_a_retention_below_the_windows_is_refused() -> None:
    with pytest.raises(ConfigError, match="38 days"):
        wanted(Options(retention_ms=37 * DAY_MS))


@pytest.mark.parametrize("role", REBUILT)
def test_a_retention_below_the_windows_is_refused_for_one_topic_too(role: str) -> None:
    with pytest.raises(ConfigError, match=f"{role} is shorter than .* 38 days"):
        wanted(Options(overrides={role: {"retention.ms": str(37 * DAY_MS)}}))
    wanted(Options(overrides={role: {"retention.ms": str(38 * DAY_MS)}, "alerts": {"retention.ms": "1000"}}))


def test_a_topic_with_its_own_copies_can_be_written() -> None:
    """So many have to be in step as suits the copies of this topic, not those of the others."""
    found = by_role(Options(overrides={"journal": {COPIES_WORD: "1"}, "alerts": {COPIES_WORD: "2"}}))
    in_step = {role: int(each.settings["min.insync.replicas"].value) for role, each in found.items()}
    assert (in_step["journal"], in_step["alerts"], in_step["payments"]) == (1, 1, 2)
    with pytest.raises(ConfigError, match=r"min\.insync\.replicas of alerts is above its 2 copies"):
        wanted(Options(overrides={"alerts": {COPIES_WORD: "2", "min.insync.replicas": "3"}}))


@pytest.mark.parametrize("option", ["--retention-days", "--outage-days"])
@pytest.mark.parametrize("days", ["inf", "nan"])
def test_days_are_a_number(capsys: pytest.CaptureFixture[str], option: str, days: str) -> None:
    assert exit_status(["topics", "plan", option, days]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert days == "nan" or "numbers of days" in line


def test_roles_have_what_they_need() -> None:
    found = by_role()
    assert set(found) == set(ROLES)
    assert {r for r, each in found.items() if each.settings["cleanup.policy"].value == "compact"} == {"lists"}
    stamped = {r for r, w in found.items() if w.settings.get("message.timestamp.type", DEFAULT_TYPE).value[0] == "L"}
    assert stamped == {"payments", "labels"}
    assert {role for role, each in found.items() if each.partitions == 1} == {"journal", "lists", "audit"}
    assert {each.copies for each in found.values()} == {3}
    assert {each.settings["min.insync.replicas"].value for each in found.values()} == {"2"}


DEFAULT_TYPE = by_role()["dead_letters"].settings["message.timestamp.type"]


def test_partitions_follow_those_that_payments_has() -> None:
    assert by_role(payments=5)["decisions"].partitions == 5
    assert by_role(Options(partitions=6), payments=5)["decisions"].partitions == 6
    assert by_role(Options(overrides={"labels": {"partitions": "2"}}), payments=5)["labels"].partitions == 2


@pytest.mark.parametrize("brokers", [1, 2, 3, 7])
def test_copies_follow_the_brokers(brokers: int) -> None:
    found = by_role(brokers=brokers)["payments"]
    assert found.copies == min(3, brokers)
    assert int(found.settings["min.insync.replicas"].value) == max(1, found.copies - 1)
    with pytest.raises(ConfigError, match="can't hold"):
        wanted(Options(copies=brokers + 1), brokers=brokers)


def test_a_topic_that_can_not_be_written_is_said() -> None:
    there = {name: Found(1, 1, 1, {"min.insync.replicas": "2"}) for _, name in TOPICS}
    steps = plan(wanted(Options(copies=1)), there)
    assert {step.action for step in steps} == {"leave alone"}
    assert all("every write is refused" in step.why for step in steps)


def test_more_partitions_come_only_when_they_are_asked_for_twice() -> None:
    there = {TOPICS.payments: Found(2, 3, 3, {})}
    asked = [each for each in wanted(Options(partitions=4)) if each.role == "payments"]
    [step] = plan(asked, there)
    assert (step.action, step.has, step.wants) == ("leave alone", "2", "4")
    assert "--add-partitions" in step.left
    [step] = plan(asked, there, add_partitions=True)
    assert (step.action, step.partitions) == ("add partitions", 4)
    assert plan([each for each in wanted(payments=2) if each.role == "payments"], there) == []
    assert plan([each for each in wanted(Options(partitions=1)) if each.role == "payments"], there) == []


@pytest.mark.parametrize("role", ["lists", "alerts"])
@pytest.mark.parametrize("name", RETENTIONS)
def test_no_retention_is_shortened_also_when_asked_for(role: str, name: str) -> None:
    there = {str(getattr(TOPICS, role)): Found(1, 3, 3, {name: "1000000000000"})}
    asked = [each for each in wanted(Options(overrides={role: {name: "1000"}})) if each.role == role]
    for step in plan(asked, there):
        assert (step.action, step.setting) == ("leave alone", name)
        assert "never shortened" in step.left
    longer = [each for each in wanted(Options(overrides={role: {name: "-1"}})) if each.role == role]
    assert [step.action for step in plan(longer, there)] == ["set"]


@pytest.mark.parametrize(
    ("word", "part"),
    [
        ("alerts", "is not ROLE.SETTING=VALUE"),
        ("alerts.retention.ms", "is not ROLE.SETTING=VALUE"),
        ("alerts.retention.ms=", "is not ROLE.SETTING=VALUE"),
        ("cats.retention.ms=1", "no topic of the role cats"),
        ("alerts.retention.ms=long", "whole number"),
        ("alerts.retention.ms=-2", "whole number"),
        ("alerts.partitions=0", "whole number"),
        ("payments.cleanup.policy=compact", "leave it out"),
    ],
)
def test_a_wrong_override_is_refused(word: str, part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        parse_overrides([word])


def test_overrides_are_by_role() -> None:
    words = ["alerts.retention.ms=604800000", "alerts.partitions=3", "journal.replication.factor=2"]
    found = parse_overrides(words)
    assert found == {
        "alerts": {"retention.ms": "604800000", PARTITIONS_WORD: "3"},
        "journal": {COPIES_WORD: "2"},
    }
    made = by_role(Options(overrides=found))
    assert made["alerts"].settings["retention.ms"].value == "604800000"
    assert (made["alerts"].partitions, made["journal"].copies) == (3, 2)


def test_topics_of_what_is_off_are_not_used() -> None:
    assert set(ROLES) - set(used_roles(Settings())) == {"shadow", "audit"}


@pytest.fixture
def named(kafka: KafkaBroker, unique: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Names that no topic has yet, as the settings give them."""
    names = {role: f"{unique}.{role}" for role in ROLES}
    monkeypatch.setenv(variable("kafka.brokers"), kafka.bootstrap)
    for role, name in names.items():
        monkeypatch.setenv(variable(f"topics.{role}"), name)
    return names


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, list[dict[str, object]]]:
    capsys.readouterr()
    status = exit_status(["topics", *words, "--json"])
    out = capsys.readouterr().out
    return status, json.loads(out) if out else []


def settings_of(kafka: KafkaBroker, topic: str) -> dict[str, str]:
    [future] = kafka.admin.describe_configs([ConfigResource(ConfigResource.Type.TOPIC, topic)]).values()
    return {entry.name: entry.value for entry in future.result(10).values()}


def test_apply_makes_what_lacks_and_then_nothing(
    named: dict[str, str], kafka: KafkaBroker, capsys: pytest.CaptureFixture[str]
) -> None:
    status, steps = said(capsys, "plan", "--partitions", "3")
    assert status == 3
    assert {(step["role"], step["action"]) for step in steps} == {(role, "create") for role in ROLES}
    assert said(capsys, "apply", "--yes", "--partitions", "3")[0] == 0
    assert said(capsys, "plan", "--partitions", "3") == (0, [])
    assert said(capsys, "apply", "--yes") == (0, [])
    known = kafka.admin.list_topics(timeout=10).topics
    assert {role: len(known[name].partitions) for role, name in named.items()} == {
        role: 1 if role in {"journal", "lists", "audit"} else 3 for role in ROLES
    }
    payments = settings_of(kafka, named["payments"])
    assert payments["message.timestamp.type"] == "LogAppendTime"
    assert payments["retention.ms"] == str(45 * DAY_MS)
    assert settings_of(kafka, named["lists"])["cleanup.policy"] == "compact"
    assert settings_of(kafka, named["audit"])["retention.ms"] == "-1"


def test_apply_mends_what_is_safe_and_says_what_it_left(
    named: dict[str, str], kafka: KafkaBroker, capsys: pytest.CaptureFixture[str]
) -> None:
    kafka.create_topics({named["payments"]: 2}, {"retention.ms": "1000000000", "cleanup.policy": "compact"})
    kafka.create_topics({named["labels"]: 1}, {"retention.ms": "-1"})
    kafka.create_topics({named["lists"]: 1}, {})
    status, steps = said(capsys, "apply", "--yes", "--partitions", "4")
    assert status == 0
    done = {(step["role"], step["setting"]): step for step in steps if step["action"] != "create"}
    assert {key for key, step in done.items() if step["action"] == "set"} == {
        ("payments", "retention.ms"),
        ("payments", "message.timestamp.type"),
        ("labels", "message.timestamp.type"),
        ("lists", "cleanup.policy"),
    }
    left = {key: step["left_because"] for key, step in done.items() if step["action"] == "leave alone"}
    assert set(left) == {("payments", "cleanup.policy"), ("payments", "partitions"), ("labels", "partitions")}
    payments = settings_of(kafka, named["payments"])
    assert (payments["retention.ms"], payments["cleanup.policy"]) == (str(45 * DAY_MS), "compact")
    assert settings_of(kafka, named["labels"])["retention.ms"] == "-1"
    assert settings_of(kafka, named["lists"])["cleanup.policy"] == "compact"
    assert len(kafka.admin.list_topics(timeout=10).topics[named["payments"]].partitions) == 2
    status, steps = said(capsys, "plan", "--partitions", "4")
    assert status == 3
    assert {step["action"] for step in steps} == {"leave alone"}
    assert said(capsys, "apply", "--yes", "--partitions", "4", "--add-partitions")[0] == 0
    assert len(kafka.admin.list_topics(timeout=10).topics[named["payments"]].partitions) == 4


def test_what_was_lengthened_while_apply_waited_for_its_answer_stays(
    named: dict[str, str], kafka: KafkaBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    kafka.create_topics({named["payments"]: 1}, {"retention.ms": "1000000000"})

    class Person(io.StringIO):
        def isatty(self) -> bool:
            return True

        def readline(self, _size: int | None = -1, /) -> str:  # type: ignore[override]
            entry = ConfigEntry("retention.ms", "-1", incremental_operation=AlterConfigOpType.SET)
            resource = ConfigResource(ConfigResource.Type.TOPIC, named["payments"], incremental_configs=[entry])
            [future] = kafka.admin.incremental_alter_configs([resource]).values()
            future.result(10)
            return "y\n"

    monkeypatch.setattr("sys.stdin", Person())
    assert exit_status(["topics", "apply"]) == 0
    payments = settings_of(kafka, named["payments"])
    assert (payments["retention.ms"], payments["message.timestamp.type"]) == ("-1", "LogAppendTime")


def test_two_at_once_agree(named: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    statuses: list[int] = []
    jobs = [
        threading.Thread(target=lambda: statuses.append(exit_status(["topics", "apply", "--yes", "--json"])))
        for _ in range(3)
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert statuses == [0, 0, 0]
    assert said(capsys, "plan") == (0, [])


def test_without_yes_and_nobody_to_ask_nothing_is_made(
    named: dict[str, str], kafka: KafkaBroker, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_status(["topics", "apply"]) == 2
    assert "say --yes if that is meant" in capsys.readouterr().err
    assert not set(named.values()) & set(kafka.admin.list_topics(timeout=10).topics)


def test_what_the_broker_refuses_is_one_line(named: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status(["topics", "apply", "--yes", "--set", "alerts.compression.type=fast"]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert f"can't create topic {named['alerts']}" in line


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert exit_status(["topics", *words]) == 1
    [line] = capsys.readouterr().err.splitlines()
    return line


def test_the_embedded_broker_says_that_it_can_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(variable("kafka.request_timeout_ms"), "1000")
    with EmbeddedBroker() as broker:
        monkeypatch.setenv(variable("kafka.brokers"), broker.brokers)
        assert "the broker inside `fraudline demo` never has one" in refused(capsys, "plan")


def test_no_broker_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv(variable("kafka.request_timeout_ms"), "1000")
    monkeypatch.setenv(variable("kafka.brokers"), "127.0.0.1:1")
    assert "127.0.0.1:1" in refused(capsys, "plan")
