"""The chart: what it renders, what it refuses, and that its values, schema, README and the settings tree agree."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Callable, Iterator, Mapping
from ipaddress import IPv4Network, IPv6Network
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from consumer import __version__
from consumer.settings import KNOWN, Settings, load

ROOT = Path(__file__).parents[1]
CHART = ROOT / "helm" / "fraudline"
SCENARIOS = sorted(path.name for path in CHART.glob("ci/*-values.yaml"))
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
MOUNTS = "/etc/fraudline"
GRACE_MARGIN_MS = 10_000

CHART_OWNED = {"kafka.transactional_id"}
OTHER_DEFAULT = {"kafka.brokers", "model.bundle", "telemetry.host", "telemetry.log_format", "dashboard.host"}
NARROWER = {  # where the chart allows less than the program, and why
    "kafka.brokers": {"pattern"},  # empty: not yet given
    "kafka.group_id": {"pattern", "maxLength"},  # $(...) is Kubernetes' syntax; a pod's name is put behind it
    "kafka.sasl_oauth_token_url": {"pattern"},  # empty: not set
    "model.bundle": {"format", "pattern"},  # a mount path is absolute
    "telemetry.host": {"minLength", "enum"},  # the kubelet must reach it
    "telemetry.port": {"minimum"},  # the OS must not choose, and the user is not root
    "dashboard.host": {"minLength", "enum"},
    "dashboard.port": {"minimum"},
}

Document = dict[str, Any]
Render = Callable[..., "Rendered"]


def find_helm() -> str | None:
    found = shutil.which("helm")
    if found is None and shutil.which("go"):
        done = subprocess.run(["go", "env", "GOPATH"], capture_output=True, text=True, check=False, timeout=60)
        found = shutil.which("helm", path=str(Path(done.stdout.strip()) / "bin"))
    return found


@pytest.fixture(scope="session")
def helm() -> str:
    found = find_helm()
    if found is None:
        reason = "NOT TESTED: helm was found neither on PATH nor in Go's bin directory; the chart is not checked."
        if os.environ.get("REQUIRE_HELM") == "1":
            pytest.fail(f"{reason} REQUIRE_HELM=1 forbids skipping.", pytrace=False)
        pytest.skip(f"{reason} Install it, or set REQUIRE_HELM=1 to make this a failure.")
    return found


class Rendered:
    """What `helm template` answered."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.text, self.error, self.refused = done.stdout, done.stderr, done.returncode != 0
        self.documents: list[Document] = [] if self.refused else list(yaml.safe_load_all(done.stdout))

    def one(self, kind: str) -> Document:
        [document] = [document for document in self.documents if document["kind"] == kind]
        return document

    @property
    def pod(self) -> Document:
        spec: Document = self.one("StatefulSet")["spec"]["template"]["spec"]
        return spec

    @property
    def container(self) -> Document:
        [container] = self.pod["containers"]
        assert isinstance(container, dict)
        return container

    @property
    def env(self) -> dict[str, Document]:
        return {variable["name"]: variable for variable in self.container["env"]}

    def volume(self, name: str) -> Document | None:
        return next((volume for volume in self.pod["volumes"] if volume["name"] == name), None)

    def mount(self, name: str) -> Document | None:
        return next((mount for mount in self.container["volumeMounts"] if mount["name"] == name), None)


@pytest.fixture
def render(helm: str, tmp_path: Path) -> Render:
    def template(changes: Mapping[str, Any] | None = None, *, scenario: str | None = "minimal-values.yaml") -> Rendered:
        own = tmp_path / "values.json"
        own.write_text(json.dumps(changes or {}))
        files = [*(["--values", str(CHART / "ci" / scenario)] if scenario else []), "--values", str(own)]
        command = [helm, "template", "rel", str(CHART), "--namespace", "ns", *files]
        return Rendered(subprocess.run(command, capture_output=True, text=True, check=False, timeout=60))

    return template


def tree(dotted: str, value: object) -> dict[str, Any]:
    """`("a.b", 1)` as `{"a": {"b": 1}}`."""
    for name in reversed(dotted.split(".")):
        value = {name: value}
    assert isinstance(value, dict)
    return value


def at(document: Any, dotted: str) -> Any:
    for name in dotted.split("."):
        document = document.get(name) if isinstance(document, dict) else None
    return document


def leaves(schema: Document, path: str = "") -> Iterator[tuple[str, Document]]:
    """Every value that a user may set: its dotted name and schema."""
    for name, child in schema["properties"].items():
        dotted = f"{path}.{name}".strip(".")
        if "properties" in child:
            yield from leaves(child, dotted)
        elif dotted != "global":
            yield dotted, child


def settings_in_the_pod(rendered: Rendered, root: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Load the settings as the pod would: its environment, its files, with /etc/fraudline moved to `root`."""
    for name in [name for name in os.environ if name.startswith("FRAUDLINE_")]:
        monkeypatch.delenv(name)
    for name, variable in rendered.env.items():
        if name.startswith("FRAUDLINE_"):
            value = variable["value"].replace(MOUNTS, str(root)).replace("$(POD_NAME)", "rel-fraudline-0")
            monkeypatch.setenv(name, value)
    files = {"config/fraudline.toml": rendered.one("ConfigMap")["data"]["fraudline.toml"].replace(MOUNTS, str(root))}
    if secrets := rendered.volume("secrets"):
        for source in secrets["projected"]["sources"]:
            for item in source["secret"]["items"]:
                files[f"secrets/{item['path']}"] = "redis://:hunter2@redis:6379/0\n"
    for directory in ("kafka-tls", "oauth-tls", "redis-tls", "trusted-keys"):
        if rendered.volume(directory):
            files |= {f"{directory}/{name}": "pem" for name in ("ca.crt", "tls.crt", "tls.key", "risk.pem")}
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return load()


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_each_scenario_lints(scenario: str, helm: str) -> None:
    command = [helm, "lint", "--strict", str(CHART), "--values", str(CHART / "ci" / scenario)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_each_scenario_is_a_pod_whose_settings_load(
    scenario: str, render: Render, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered = render(scenario=scenario)
    assert not rendered.refused, rendered.error
    given = yaml.safe_load((CHART / "ci" / scenario).read_text())["config"]
    loaded = settings_in_the_pod(rendered, tmp_path / "etc", monkeypatch)
    assert loaded.kafka.transactional_id == f"{loaded.kafka.group_id}-rel-fraudline-0"
    assert loaded.store.url.get_secret_value() == "redis://:hunter2@redis:6379/0"
    for section, settings in given.items():
        for name, value in settings.items():
            expected = json.loads(json.dumps(value).replace(MOUNTS, str(tmp_path / "etc")))
            assert plain(getattr(getattr(loaded, section), name)) == expected, f"{section}.{name}"


def test_every_setting_of_the_chart_arrives_in_the_program(
    render: Render, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is given a value that is not its default, except those that the scenario sets already."""
    scenario = yaml.safe_load((CHART / "ci" / "sasl-tls-values.yaml").read_text())["config"]
    changed: dict[str, dict[str, Any]] = {}
    for dotted, schema in leaves(SCHEMA["properties"]["config"]):
        section, name = dotted.split(".")
        if at(scenario, dotted) is None:
            changed.setdefault(section, {})[name] = another(at(VALUES["config"], dotted), schema)
    changed["processing"]["budget_ms"] = 300
    changed["store"]["shards"] = 16  # a cluster needs some
    changed["kafka"] = {k: v for k, v in changed["kafka"].items() if "oauth" not in k}  # the mechanism is another
    keys = tree("trustedKeys.existingConfigMap", "signers")
    rendered = render({"config": changed} | keys, scenario="sasl-tls-values.yaml")
    written = tomllib.loads(rendered.one("ConfigMap")["data"]["fraudline.toml"])
    assert all(written[section][name] == value for section, names in changed.items() for name, value in names.items())
    loaded = settings_in_the_pod(rendered, tmp_path / "etc", monkeypatch)
    for section, settings in changed.items():
        for name, value in settings.items():
            expected = json.loads(json.dumps(value).replace(MOUNTS, str(tmp_path / "etc")))
            assert plain(getattr(getattr(loaded, section), name)) == expected, f"{section}.{name}"


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
    lines = (CHART / "values.yaml").read_text().splitlines()
    bare = {"cpu", "memory"}  # what `requests` and `limits` are said to hold
    for before, line in pairwise(lines):
        if (match := re.match(r"\s*(\w+):", line)) and match[1] not in bare:
            assert before.lstrip().startswith("#"), f"values.yaml says nothing about: {line}"


LONG = "sha256:" + "0" * 64
TOLERATION = {"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}
AFFINITY = {
    "podAntiAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": [
            {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"a": "b"}}}
        ]
    }
}


@pytest.mark.parametrize(
    ("value", "given", "where", "expected", "otherwise"),
    [
        ("replicaCount", 5, "spec.replicas", 5, 1),
        ("image.registry", "r.example:5000", "image", f"r.example:5000/fraudline:{__version__}", None),
        ("image.tag", "9", "image", "fraudline:9", f"fraudline:{__version__}"),
        ("image.digest", LONG, "image", f"fraudline@{LONG}", None),
        ("image.pullPolicy", "Always", "imagePullPolicy", "Always", "IfNotPresent"),
        ("image.pullSecrets", [{"name": "s"}], "pod.imagePullSecrets", [{"name": "s"}], None),
        ("nodeSelector", {"gpu": "true"}, "pod.nodeSelector", {"gpu": "true"}, None),
        ("tolerations", [TOLERATION], "pod.tolerations", [TOLERATION], None),
        ("affinity", AFFINITY, "pod.affinity", AFFINITY, None),
        ("priorityClassName", "high", "pod.priorityClassName", "high", None),
        ("resources.limits.memory", "2Gi", "resources.limits.memory", "2Gi", "1Gi"),
        ("runAs.user", 1234, "pod.securityContext.runAsUser", 1234, 65532),
        ("runAs.user", None, "pod.securityContext.runAsUser", None, 65532),
        ("runAs.group", None, "pod.securityContext.fsGroup", None, 65532),
        ("serviceAccount.name", "mine", "pod.serviceAccountName", "mine", "rel-fraudline"),
        ("serviceAccount.create", False, "pod.serviceAccountName", "default", "rel-fraudline"),
        ("config.telemetry.port", 9999, "ports", [{"name": "metrics", "containerPort": 9999}], None),
        ("probes.startup.failureThreshold", 9, "startupProbe.failureThreshold", 9, 60),
        ("fullnameOverride", "other", "spec.serviceName", "other", "rel-fraudline"),
        ("podLabels", {"team": "risk"}, "template.metadata.labels.team", "risk", None),
        ("podAnnotations", {"team": "risk"}, "template.metadata.annotations.team", "risk", None),
    ],
)
def test_a_value_is_set_when_given_and_left_out_when_not(
    value: str, given: object, where: str, expected: object, otherwise: object, render: Render
) -> None:
    def look(rendered: Rendered) -> object:
        assert not rendered.refused, rendered.error
        spec = rendered.one("StatefulSet")["spec"]
        roots = {"spec": spec, "template": spec["template"], "pod": rendered.pod}
        root, _, rest = where.partition(".")
        return at(roots[root], rest) if root in roots else at(rendered.container, where)

    assert look(render(tree(value, given))) == expected
    if otherwise is not None:
        assert look(render()) == otherwise
    else:
        assert look(render()) != expected


def test_objects_and_volumes_come_and_go_with_their_values(render: Render) -> None:
    plain, full = render(), render(scenario="sasl-tls-values.yaml")
    assert "initContainers" not in plain.pod
    assert (plain.volume("bundle") or {})["persistentVolumeClaim"] == {
        "claimName": "fraudline-bundle",
        "readOnly": True,
    }
    [init] = full.pod["initContainers"]
    assert init["image"] == "registry.example/payments/fraud-bundle:2025-06-01"
    assert init["command"] == ["cp", "-R", "/bundle/.", "/copied/"]
    assert (full.volume("bundle") or {})["emptyDir"] == {}
    assert plain.volume("kafka-tls") is None
    assert plain.mount("kafka-tls") is None
    assert (full.mount("kafka-tls") or {})["mountPath"] == f"{MOUNTS}/kafka-tls"
    oauth = render(scenario="oauth-values.yaml")
    assert (oauth.volume("oauth-tls") or {})["secret"]["secretName"] == "login-ca"
    assert (oauth.mount("oauth-tls") or {})["mountPath"] == f"{MOUNTS}/oauth-tls"
    assert (oauth.volume("trusted-keys") or {})["configMap"]["name"] == "fraudline-signers"
    assert (oauth.mount("trusted-keys") or {})["mountPath"] == f"{MOUNTS}/trusted-keys"
    assert plain.volume("oauth-tls") is plain.mount("oauth-tls") is None
    assert plain.volume("trusted-keys") is plain.mount("trusted-keys") is None
    held = {"existingConfigMap": "", "existingSecret": "signers"}
    secret = render({"trustedKeys": held}, scenario="oauth-values.yaml").volume("trusted-keys") or {}
    assert secret["secret"]["secretName"] == "signers"
    assert plain.volume("redis-tls") is None
    assert plain.mount("redis-tls") is None
    cluster = render(scenario="redis-cluster-values.yaml")
    assert (cluster.mount("redis-tls") or {})["mountPath"] == f"{MOUNTS}/redis-tls"
    assert (cluster.volume("redis-tls") or {})["secret"]["secretName"] == "fraudline-redis-tls"
    assert {name for name in plain.env if name.endswith("_FILE")} == {"FRAUDLINE_STORE__URL_FILE"}
    assert len([name for name in full.env if name.endswith("_FILE")]) == 3
    registry = render(tree("bundle.existingClaim", "") | tree("config.model.registry", "s3://models"))
    assert registry.volume("bundle") is None
    assert registry.mount("bundle") is None
    assert "initContainers" not in registry.pod
    subpath = render(scenario="redis-outage-pause-values.yaml").mount("bundle") or {}
    assert subpath["subPath"] == "2025-06-01"
    assert "subPath" not in (plain.mount("bundle") or {})
    kinds = {document["kind"] for document in render(tree("serviceAccount.create", False)).documents}
    assert kinds == {"ConfigMap", "Service", "StatefulSet"}
    [spread] = full.pod["topologySpreadConstraints"]
    assert spread["labelSelector"] == full.one("StatefulSet")["spec"]["selector"]
    assert "topologySpreadConstraints" not in plain.pod


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_pod_is_confined_and_its_state_set_is_what_transactions_need(scenario: str, render: Render) -> None:
    rendered = render(scenario=scenario)
    stateful_set, service, pod = rendered.one("StatefulSet")["spec"], rendered.one("Service"), rendered.pod
    assert stateful_set["podManagementPolicy"] == "Parallel"
    assert stateful_set["serviceName"] == service["metadata"]["name"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == stateful_set["selector"]["matchLabels"]
    assert service["spec"]["selector"].items() <= stateful_set["template"]["metadata"]["labels"].items()
    assert rendered.env["POD_NAME"]["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.name"}}
    names = list(rendered.env)
    assert names.index("POD_NAME") < names.index("FRAUDLINE_KAFKA__TRANSACTIONAL_ID")  # else it is not expanded
    assert pod["automountServiceAccountToken"] is False
    assert rendered.one("ServiceAccount")["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in (*pod["containers"], *pod.get("initContainers", [])):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["requests"].keys() == {"cpu", "memory"}
    for name, path in {"startup": "/livez", "liveness": "/livez", "readiness": "/readyz"}.items():
        assert rendered.container[f"{name}Probe"]["httpGet"] == {"path": path, "port": "metrics"}
    read_only = {mount["name"]: mount.get("readOnly", False) for mount in rendered.container["volumeMounts"]}
    assert [name for name, fixed in read_only.items() if not fixed] == ["tmp"]


@pytest.mark.parametrize("drain_ms", [100, 20_000, 20_001, 600_000])
def test_the_grace_period_is_longer_than_the_drain(drain_ms: int, render: Render) -> None:
    grace_s = render(tree("config.processing.drain_deadline_ms", drain_ms)).pod["terminationGracePeriodSeconds"]
    assert drain_ms + GRACE_MARGIN_MS <= grace_s * 1_000 < drain_ms + GRACE_MARGIN_MS + 1_000


def test_a_changed_setting_rolls_the_pods_and_a_changed_replica_count_does_not(render: Render) -> None:
    def template(changes: Mapping[str, Any] | None = None) -> object:
        return render(changes).one("StatefulSet")["spec"]["template"]

    assert template() == template(tree("replicaCount", 4))
    assert template() != template(tree("config.processing.max_batch", 4))


@pytest.mark.parametrize("text", ['a"b\\c', "ünï</&>", "x # not a comment", "'''"])
def test_any_text_survives_the_way_into_the_settings(
    text: str, render: Render, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered = render(tree("config.kafka.sasl_username", text), scenario="sasl-tls-values.yaml")
    assert settings_in_the_pod(rendered, tmp_path / "etc", monkeypatch).kafka.sasl_username == text


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_no_secret_is_ever_in_what_is_rendered(scenario: str, render: Render) -> None:
    rendered = render(scenario=scenario)
    assert not [document for document in rendered.documents if document["kind"] == "Secret"]
    secrets = {name for name, secret in KNOWN.secret.items() if secret}
    config = rendered.one("ConfigMap")["data"]["fraudline.toml"]
    assert not [name for name in secrets if re.search(rf"^{name.partition('.')[2]}(_file)? =", config, re.MULTILINE)]
    assert all("_FILE" in name for name in rendered.env if re.search("PASSWORD|URL|SECRET|TOKEN", name))


CANARY = "hunter2-Zq9"
OAUTH = {
    "security_protocol": "sasl_ssl",
    "sasl_mechanism": "OAUTHBEARER",
    "sasl_oauth_token_url": "https://login.example/token",
    "sasl_oauth_client_id": "fraudline",
}
OAUTH_SECRET = tree("secrets.oauthClientSecret.existingSecret", "s")
SASL = {"security_protocol": "sasl_ssl", "sasl_mechanism": "PLAIN", "sasl_username": "u"}
PASSWORD = tree("secrets.saslPassword.existingSecret", "s")


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"replicas": 3}, "'replicas' not allowed"),
        (tree("config.store.url", CANARY), "'url' not allowed"),
        (tree("config.kafka.sasl_password", CANARY), "'sasl_password' not allowed"),
        (tree("secrets.redisUrl.value", CANARY), "'value' not allowed"),
        (tree("config.kafka.transactional_id", "x"), "'transactional_id' not allowed"),
        (tree("config.processing.max_batch", "many"), "/config/processing/max_batch"),
        (tree("config.processing.max_batch", 5_000), "/config/processing/max_batch"),
        (tree("config.processing.max_batch", None), "missing property 'max_batch'"),
        (tree("config.telemetry.host", "127.0.0.1"), "/config/telemetry/host"),
        (tree("runAs.user", 0), "/runAs/user"),
        (tree("podLabels", {"app.kubernetes.io/name": "x"}), "invalid propertyName 'app.kubernetes.io/name'"),
        (tree("tolerations", [{"kee": "x"}]), "'kee' not allowed"),
        (tree("config.kafka.brokers", ""), "config.kafka.brokers is empty"),
        (tree("secrets.redisUrl.existingSecret", ""), "secrets.redisUrl.existingSecret is empty"),
        (tree("bundle.existingClaim", ""), "The model bundle is missing"),
        (tree("config.challenger.enabled", True), "needs config.model.registry"),
        (tree("bundle.image", {"repository": "b", "tag": "1"}), "are both set"),
        ({"bundle": {"existingClaim": "", "image": {"repository": "b"}}}, "needs bundle.image.tag"),
        ({"config": {"kafka": SASL}}, "also needs secrets.saslPassword.existingSecret"),
        (tree("config.kafka.security_protocol", "sasl_ssl"), "also needs config.kafka.sasl_mechanism"),
        (tree("config.kafka.sasl_username", "u"), "sasl_username is set but config.kafka.security_protocol is plain"),
        ({"config": {"kafka": OAUTH}}, "also needs secrets.oauthClientSecret.existingSecret"),
        (
            {"config": {"kafka": OAUTH | {"sasl_oauth_client_id": ""}}} | OAUTH_SECRET,
            "needs config.kafka.sasl_oauth_cl",
        ),
        ({"config": {"kafka": OAUTH | {"sasl_username": "u"}}} | OAUTH_SECRET, "OAUTHBEARER, which has no use for it"),
        (
            {"config": {"kafka": OAUTH | {"sasl_oauth_ca_file": f"{MOUNTS}/oauth-tls/ca"}}} | OAUTH_SECRET,
            "oauth-tls, w",
        ),
        ({"config": {"kafka": SASL | {"sasl_oauth_scope": "k"}}} | PASSWORD, "PLAIN, which has no use for it: unset"),
        (tree("config.kafka.sasl_oauth_token_url", "x://login"), "/config/kafka/sasl_oauth_token_url"),
        (tree("config.kafka.sasl_oauth_scope", "kafka"), "sasl_oauth_scope is set but config.kafka.security_protocol"),
        (OAUTH_SECRET, "secrets.oauthClientSecret.existingSecret is set but config.kafka.security_protocol is plaint"),
        (tree("config.model.signature", "required"), "also needs config.model.trusted_keys"),
        (tree("config.model.trusted_keys", [f"{MOUNTS}/trusted-keys/a.pem"]), "needs trustedKeys.existingConfigMap or"),
        ({"trustedKeys": {"existingConfigMap": "a", "existingSecret": "b"}}, "are both set: keep one of them"),
        (tree("secrets.kafkaTls.existingSecret", "t"), "is set but config.kafka.security_protocol is plaintext"),
        ({"config": {"kafka": {"security_protocol": "ssl", "ssl_key_file": "/k"}}}, "belong together"),
        ({"config": {"kafka": {"security_protocol": "ssl", "ssl_ca_file": f"{MOUNTS}/kafka-tls/ca"}}}, "which needs"),
        (tree("config.store.cluster", True), "needs config.store.shards of 3 or more"),
        (tree("config.store.tls_ca_file", f"{MOUNTS}/redis-tls/ca"), "which needs secrets.redisTls.existingSecret"),
        (tree("config.store.tls_key_file", "/k"), "config.store.tls_key_file belong together"),
        (tree("config.kafka.max_poll_interval_ms", 5_000), "must be at least config.kafka.session_timeout_ms"),
        (tree("config.processing.linger_ms", 200), "must be below config.processing.budget_ms"),
        (tree("config.topics.alerts", "decisions"), "have the same name"),
    ],
)
def test_what_could_not_run_is_refused_with_its_reason(changes: dict[str, Any], part: str, render: Render) -> None:
    rendered = render(changes)
    assert rendered.refused
    assert part in rendered.error
    assert CANARY not in rendered.error


def test_the_default_values_alone_say_what_is_missing(render: Render) -> None:
    assert "config.kafka.brokers is empty" in render(scenario=None).error


def test_the_chart_has_the_programs_version() -> None:
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == __version__
