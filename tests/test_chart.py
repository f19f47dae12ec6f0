"""The chart's values: schema, README and the settings tree agree, and every setting arrives in the pods."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Set
from ipaddress import IPv4Network, IPv6Network
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from confluent_kafka.admin import ConfigResource

from consumer import __version__, cli
from consumer.settings import KNOWN, Settings, load
from tests.services.kafka import KafkaBroker
from tests.support.charts import (
    CHART,
    MOUNTS,
    SCENARIOS,
    SCHEMA,
    VALUES,
    Document,
    Render,
    Rendered,
    at,
    environment,
    leaves,
    only_container,
    together,
    tree,
)

CHART_OWNED = {"kafka.transactional_id"}
OTHER_DEFAULT = {"kafka.brokers", "model.bundle", "telemetry.host", "telemetry.log_format", "dashboard.host"}
NARROWER = {  # where the chart allows less than the program, and why
    "kafka.brokers": {"pattern"},  # empty: not yet given
    "kafka.group_id": {"pattern", "maxLength"},  # $(...) is Kubernetes' syntax; a pod's name is put behind it
    "kafka.sasl_oauth_token_url": {"pattern"},  # empty: not set
    "model.trusted_keys": {"items"},  # so is theirs
    "dashboard.trusted_proxies": {"items"},  # Helm does not know the format
    "model.bundle": {"format", "pattern"},  # a mount path is absolute
    "telemetry.host": {"minLength", "enum"},  # the kubelet must reach it
    "telemetry.port": {"minimum"},  # the OS must not choose, and the user is not root
    "dashboard.host": {"minLength", "enum"},
    "dashboard.port": {"minimum"},
}


def settings_in_the_pod(
    rendered: Rendered, root: Path, monkeypatch: pytest.MonkeyPatch, pod: Document | None = None
) -> Settings:
    """Load the settings as a pod would, the processor's if none is given: its environment and files, under `root`."""
    pod = pod or rendered.pod
    for name in [name for name in os.environ if name.startswith("FRAUDLINE_")]:
        monkeypatch.delenv(name)
    for name, variable in environment(pod).items():
        if name.startswith("FRAUDLINE_"):
            value = variable["value"].replace(MOUNTS, str(root)).replace("$(POD_NAME)", "rel-fraudline-0")
            monkeypatch.setenv(name, value)
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    config = rendered.one("ConfigMap", volumes["config"]["configMap"]["name"])["data"]["fraudline.toml"]
    files = {"config/fraudline.toml": config.replace(MOUNTS, str(root))}
    if secrets := volumes.get("secrets"):
        for source in secrets["projected"]["sources"]:
            for item in source["secret"]["items"]:
                files[f"secrets/{item['path']}"] = "redis://:hunter2@redis:6379/0\n"
    for directory in ("kafka-tls", "oauth-tls", "redis-tls", "trusted-keys"):
        if directory in volumes:
            files |= {f"{directory}/{name}": "pem" for name in ("ca.crt", "tls.crt", "tls.key", "risk.pem")}
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return load()


def at_home(value: object, root: Path) -> Any:
    """A value as it is to arrive, with the files in it under `root`."""
    return json.loads(json.dumps(value).replace(MOUNTS, str(root)))


def assert_arrived(loaded: Settings, given: dict[str, Any], sections: Set[str], root: Path) -> None:
    """Each value that was given for these sections is the pod's, with the files in it under `root`."""
    for section in sections:
        for name, value in given[section].items():
            assert plain(getattr(getattr(loaded, section), name)) == at_home(value, root), f"{section}.{name}"


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_settings_of_each_scenario_load_in_the_processor(
    scenario: str, render: Render, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = yaml.safe_load((CHART / "ci" / scenario).read_text())["config"]
    loaded = settings_in_the_pod(render(scenario=scenario), tmp_path / "etc", monkeypatch)
    assert loaded.kafka.transactional_id == f"{loaded.kafka.group_id}-rel-fraudline-0"
    assert loaded.store.url.get_secret_value() == "redis://:hunter2@redis:6379/0"
    assert_arrived(loaded, given, given.keys() - {"dashboard"}, tmp_path / "etc")


def with_(value: str) -> pytest.MarkDecorator:
    """The scenarios that set a top-level value."""
    found = [name for name in SCENARIOS if value in yaml.safe_load((CHART / "ci" / name).read_text())]
    assert found
    return pytest.mark.parametrize("scenario", found)


def own_settings(scenario: str, value: str) -> dict[str, Any]:
    """The settings that a scenario gives, with the account in Kafka that one of the smaller pods has."""
    values = yaml.safe_load((CHART / "ci" / scenario).read_text())
    given: dict[str, Any] = values["config"]
    if name := at(values, f"{value}.login.name"):
        oauth = given["kafka"]["sasl_mechanism"] == "OAUTHBEARER"
        given["kafka"]["sasl_oauth_client_id" if oauth else "sasl_username"] = name
    return given


@with_("alertPage")
def test_the_settings_of_each_scenario_load_in_the_alert_page(
    scenario: str, render: Render, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered = render(scenario=scenario)
    page = rendered.pod_of("Deployment", "rel-fraudline-alert-page")
    given = own_settings(scenario, "alertPage")
    loaded = settings_in_the_pod(rendered, tmp_path / "etc", monkeypatch, page)
    assert (loaded.dashboard.token is None) == (loaded.dashboard.auth == "proxy")
    assert_arrived(
        loaded, given, given.keys() & {"kafka", "topics", "processing", "dashboard", "audit"}, tmp_path / "etc"
    )


@with_("topicsJob")
def test_the_settings_of_each_scenario_load_in_the_topics_job_and_its_words_are_the_commands(
    scenario: str, render: Render, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered = render(scenario=scenario)
    pod = rendered.pod_of("Job", "rel-fraudline-topics")
    given = own_settings(scenario, "topicsJob")
    loaded = settings_in_the_pod(rendered, tmp_path / "etc", monkeypatch, pod)
    assert_arrived(loaded, given, given.keys() & {"kafka", "topics", "features", "audit"}, tmp_path / "etc")
    assert understood(only_container(pod)["args"])["yes"] is True


def test_the_topics_job_makes_every_topic_as_the_values_say(
    render: Render, kafka: KafkaBroker, unique: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {role: f"{unique}.{role}" for role in VALUES["config"]["topics"]}
    job = {"enabled": True, "partitions": 3, "replicationFactor": 1, "overrides": ["alerts.retention.ms=604800000"]}
    config = {"kafka": {"brokers": kafka.bootstrap}, "topics": names, "audit": {"enabled": True}}
    rendered = render({"config": config, "topicsJob": job})
    pod = rendered.pod_of("Job", "rel-fraudline-topics")
    settings_in_the_pod(rendered, tmp_path / "etc", monkeypatch, pod)
    assert cli.exit_status(only_container(pod)["args"]) == 0
    known = kafka.admin.list_topics(timeout=10).topics
    assert {role: len(known[name].partitions) for role, name in names.items()} == {
        role: 1 if role in {"journal", "lists", "audit"} else 3 for role in names
    }
    asked = ConfigResource(ConfigResource.Type.TOPIC, names["alerts"])
    assert kafka.admin.describe_configs([asked])[asked].result(10)["retention.ms"].value == "604800000"


def test_what_the_containers_are_told_is_a_command_of_the_program(render: Render) -> None:
    pods = render(scenario="everything-values.yaml").pods()
    commands = {name: only_container(pod["spec"])["args"] for name, pod in pods.items()}
    for words in commands.values():
        understood(words)
    assert {words[0] for words in commands.values()} == {"run", "dashboard", "topics", "doctor"}


def understood(words: list[str]) -> dict[str, Any]:
    """What the program's own command line makes of a container's arguments; it refuses what it does not know."""
    command: Any = typer.main.get_command(cli.app)
    while hasattr(command, "commands"):
        name, *words = words
        command = command.commands[name]
    parsed: dict[str, Any] = command.make_context(name, words).params
    return parsed


def test_every_setting_of_the_chart_arrives_in_the_program(
    render: Render, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is given a value that is not its default, except those that the scenario sets already."""
    scenario = yaml.safe_load((CHART / "ci" / "sasl-tls-values.yaml").read_text())["config"]
    changed: dict[str, dict[str, Any]] = {}
    for dotted, schema in leaves(SCHEMA["properties"]["config"]):
        section, name = dotted.split(".")
        if at(scenario, dotted) is None and "oauth" not in name:  # the mechanism is another
            changed.setdefault(section, {})[name] = another(at(VALUES["config"], dotted), schema)
    changed["processing"]["budget_ms"] = 300
    changed["store"]["shards"] = 16  # a cluster needs some
    changed["dashboard"]["auth"] = "proxy"  # no page is installed for everybody
    needed = [
        tree("trustedKeys.existingConfigMap", "signers"),
        {"resources": {"limits": {"nvidia.com/gpu": 1}}},
        tree("alertPage.enabled", True),
    ]
    rendered = render(together({"config": changed}, *needed), scenario="sasl-tls-values.yaml")
    processor = settings_in_the_pod(rendered, tmp_path / "etc", monkeypatch)
    page = rendered.pod_of("Deployment", "rel-fraudline-alert-page")
    on_the_page = settings_in_the_pod(rendered, tmp_path / "page", monkeypatch, page)
    for section, settings in changed.items():
        for name, value in settings.items():
            at_work, root = (on_the_page, "page") if section == "dashboard" else (processor, "etc")
            arrived = plain(getattr(getattr(at_work, section), name))
            assert arrived == at_home(value, tmp_path / root), f"{section}.{name}"


def plain(value: object) -> object:
    """A setting as the chart's values have it."""
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path | IPv4Network | IPv6Network) else value


def another(default: object, schema: Document) -> object:
    if "enum" in schema:
        return next(value for value in schema["enum"] if value not in (default, ""))
    if isinstance(default, bool):
        return not default
    if isinstance(default, int):
        return default + 1
    if isinstance(default, float):
        return (default + schema["minimum"]) / 2
    if isinstance(default, list):
        formats = {"file-path": [f"{MOUNTS}/trusted-keys/risk.pem"], "ipvanynetwork": ["10.0.0.0/8"]}
        return formats.get(schema["items"].get("format"), [0.25, 0.5])
    return f"{default}-2"


def test_the_config_tree_is_the_settings_tree_less_what_is_secret_or_the_charts_own() -> None:
    allowed = {name for name, secret in KNOWN.secret.items() if not secret} - CHART_OWNED
    config = SCHEMA["properties"]["config"]
    assert {name for name, _ in leaves(config)} == allowed
    assert {f"{section}.{name}" for section, names in VALUES["config"].items() for name in names} == allowed
    program = Settings.model_json_schema()
    for dotted, schema in leaves(config):
        section, name = dotted.split(".")
        model = program["$defs"][program["properties"][section]["$ref"].rpartition("/")[2]]
        field = model["properties"][name]
        main, *optional = field.get("anyOf", [field])
        ours, theirs = dict(schema), {key: value for key, value in main.items() if key not in {"title", "default"}}
        del ours["description"]
        if optional:
            theirs.pop("format", None)
            if "enum" in ours:
                assert ours["enum"].pop(0) == ""
        narrower = NARROWER.get(dotted, set())
        assert {k: v for k, v in ours.items() if k not in narrower} == {
            k: v for k, v in theirs.items() if k not in narrower
        }, dotted
        if dotted not in OTHER_DEFAULT:
            assert at(VALUES["config"], dotted) == ("" if optional else field["default"]), dotted


def objects(schema: Any, path: str = "") -> Iterator[tuple[str, Document]]:
    if isinstance(schema, dict):
        if schema.get("type") == "object":
            yield path, schema
        for name, child in schema.items():
            yield from objects(child, f"{path}/{name}")


def test_the_schema_is_closed_everywhere() -> None:
    found = dict(objects(SCHEMA))
    assert len(found) > 20
    del found["/properties/global"]  # Helm's own, in every chart that is part of another
    for path, schema in found.items():
        assert schema["additionalProperties"] is False or schema["additionalProperties"]["type"], path


def test_every_value_is_described_in_values_schema_and_readme() -> None:
    rows = re.findall(r"^\| `([\w.]+)` \| `(.*)` \| (.+) \|$", (CHART / "README.md").read_text(), re.MULTILINE)
    assert rows == [(name, json.dumps(at(VALUES, name)), schema["description"]) for name, schema in leaves(SCHEMA)]
    names = {part for name, _ in leaves(SCHEMA) for part in name.split(".")}
    for before, line in pairwise((CHART / "values.yaml").read_text().splitlines()):
        if (match := re.match(r"\s*(\w+):", line)) and match[1] in names:
            assert before.lstrip().startswith("#"), f"values.yaml says nothing about: {line}"


@pytest.mark.parametrize("text", ['a"b\\c', "ünï</&>", "x # not a comment", "'''"])
def test_any_text_survives_the_way_into_the_settings(
    text: str, render: Render, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered = render(tree("config.kafka.sasl_username", text), scenario="sasl-tls-values.yaml")
    assert settings_in_the_pod(rendered, tmp_path / "etc", monkeypatch).kafka.sasl_username == text


def test_the_chart_has_the_programs_version() -> None:
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == __version__
