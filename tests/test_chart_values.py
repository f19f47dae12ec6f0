"""The chart's values, each set when given and left out when not."""

from __future__ import annotations

import socket
import tomllib
from collections.abc import Mapping
from typing import Any

import pytest

from consumer.settings import KafkaSettings
from tests.support.charts import CHART, MOUNTS, Render, at, environment, tree

GRACE_MARGIN_MS = 10_000


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
    assert kinds == {"ConfigMap", "Service", "StatefulSet", "PodDisruptionBudget", "Pod"}


def test_a_smaller_pod_has_the_processors_account_unless_it_is_given_its_own(render: Render) -> None:
    def account(changes: Mapping[str, Any], scenario: str) -> tuple[str, str]:
        rendered = render(changes, scenario=scenario)
        pod = rendered.pod_of("Job", "rel-fraudline-topics")
        settings = tomllib.loads(rendered.one("ConfigMap", "rel-fraudline-topics")["data"]["fraudline.toml"])
        user = settings["kafka"].get("sasl_username") or settings["kafka"]["sasl_oauth_client_id"]
        return user, at(pod, "volumes.1.projected.sources.0.secret.name")

    none = tree("topicsJob.login", {"name": "", "existingSecret": ""})
    own = tree("topicsJob.login", {"name": "admin", "existingSecret": "admins"})
    for scenario, user, secret in (
        ("topics-job-values.yaml", "fraudline", "fraudline-kafka"),
        ("everything-values.yaml", "fraudline", "fraudline-oauth"),
    ):
        assert account(none, scenario) == (user, secret)
        assert account(own, scenario) == ("admin", "admins")


@pytest.mark.parametrize("drain_ms", [100, 20_000, 20_001, 600_000])
def test_the_grace_period_is_longer_than_the_drain(drain_ms: int, render: Render) -> None:
    grace_s = render(tree("config.processing.drain_deadline_ms", drain_ms)).pod["terminationGracePeriodSeconds"]
    assert drain_ms + GRACE_MARGIN_MS <= grace_s * 1_000 < drain_ms + GRACE_MARGIN_MS + 1_000


def test_a_changed_setting_rolls_the_pods_and_a_changed_replica_count_does_not(render: Render) -> None:
    def template(changes: Mapping[str, Any] | None = None) -> object:
        return render(changes).one("StatefulSet")["spec"]["template"]

    assert template() == template(tree("replicaCount", 4))
    assert template() != template(tree("config.processing.max_batch", 4))


def test_the_topics_job_says_who_it_is_where_that_is_recorded(render: Render) -> None:
    def words(audited: bool) -> list[str]:
        changes = tree("config.audit.enabled", audited)
        pod = render(changes, scenario="topics-job-values.yaml").pod_of("Job", "rel-fraudline-topics")
        found: list[str] = at(pod, "containers.0.args")
        return found

    assert set(words(audited=True)) - set(words(audited=False)) == {"--actor=helm:ns/rel:1"}


def test_who_writes_to_the_audit_topic_has_transactional_ids_of_its_own(render: Render) -> None:
    rendered = render(scenario="everything-values.yaml")
    assert rendered.env["FRAUDLINE_KAFKA__TRANSACTIONAL_ID"]["value"] == "fraudline-prod-$(POD_NAME)"
    others = {"Deployment": "rel-fraudline-alert-page", "Job": "rel-fraudline-topics"}
    for kind, name in others.items():
        told = environment(rendered.pod_of(kind, name))
        assert not [variable for variable in told if "TRANSACTIONAL_ID" in variable]
        assert "transactional_id" not in rendered.one("ConfigMap", name)["data"]["fraudline.toml"]
    # so it is the group and the pod's name, which begins with that of its object
    assert KafkaSettings(group_id="g").transactional_id == f"g-{socket.gethostname()}"
    readme = (CHART / "README.md").read_text()
    assert all(f"`GROUP-NAME{name.removeprefix('rel-fraudline')}`" in readme for name in others.values())


def test_a_page_setting_rolls_the_page_alone(render: Render) -> None:
    def templates(changes: Mapping[str, Any] | None = None) -> tuple[object, object]:
        pods = render(changes, scenario="alert-page-token-values.yaml").pods()
        return pods["StatefulSet/rel-fraudline"], pods["Deployment/rel-fraudline-alert-page"]

    before, after = templates(), templates(tree("config.dashboard.keep_alerts", 500))
    assert before[0] == after[0]
    assert before[1] != after[1]


def test_a_gpu_is_the_processors_alone(render: Render) -> None:
    rendered = render(scenario="gpu-values.yaml")
    assert rendered.container["resources"]["limits"]["nvidia.com/gpu"] == 1
    [init] = rendered.pod["initContainers"]
    assert init["resources"] == {"requests": {"cpu": "2", "memory": "4Gi"}, "limits": {"memory": "4Gi"}}
    assert rendered.env["CUPY_CACHE_DIR"]["value"] == "/tmp/cupy"
    assert "CUPY_CACHE_DIR" not in render().env


@pytest.mark.parametrize(("kubernetes", "policy"), [("1.26.0", None), ("1.27.0", "AlwaysAllow")])
def test_a_pod_that_is_not_ready_never_holds_up_a_drain_where_kubernetes_knows_how(
    kubernetes: str, policy: str | None, render: Render
) -> None:
    budget = render(kubernetes=kubernetes).one("PodDisruptionBudget")["spec"]
    assert budget.get("unhealthyPodEvictionPolicy") == policy


def keda(render: Render, scenario: str, changes: Mapping[str, Any] | None = None) -> tuple[Any, Any]:
    """The trigger's metadata, and how KEDA logs in: each parameter with the secret's name and key, or the value."""
    rendered = render(changes, scenario=scenario)
    [trigger] = rendered.one("ScaledObject")["spec"]["triggers"]
    if "authenticationRef" not in trigger:
        assert not rendered.all("TriggerAuthentication")
        return trigger["metadata"], {}
    found = rendered.one("TriggerAuthentication", trigger["authenticationRef"]["name"])["spec"]
    secrets = {each["parameter"]: (each["name"], each["key"]) for each in found["secretTargetRef"]}
    values = rendered.one("ConfigMap", "rel-fraudline-scaler")["data"] if "configMapTargetRef" in found else {}
    assert {each["parameter"] for each in found.get("configMapTargetRef", [])} == values.keys()
    return trigger["metadata"], secrets | values


def test_keda_reaches_kafka_as_the_processor_does(render: Render) -> None:
    metadata, login = keda(render, "keda-values.yaml")
    assert metadata == {
        "bootstrapServers": "kafka-0.example:9093,kafka-1.example:9093",
        "consumerGroup": "fraudline",
        "topic": "payments",
        "lagThreshold": "2000",
        "offsetResetPolicy": "earliest",
        "version": "2.5.0",
        "tls": "enable",
        "sasl": "scram_sha512",
    }
    assert login == {
        "username": "fraudline",
        "password": ("fraudline-kafka", "password"),
        "ca": ("fraudline-kafka-tls", "ca.crt"),
    }
    metadata, login = keda(render, "everything-values.yaml", tree("config.kafka.sasl_oauth_scope", "kafka audit"))
    assert (metadata["tls"], metadata["sasl"]) == ("enable", "oauthbearer")
    assert login == {
        "username": "fraudline",
        "password": ("fraudline-oauth", "client-secret"),
        "oauthTokenEndpointUri": "https://login.example:8443/realms/payments/protocol/openid-connect/token",
        "scopes": "kafka,audit",
        "ca": ("fraudline-kafka-tls", "ca.crt"),
        "cert": ("fraudline-kafka-tls", "tls.crt"),
        "key": ("fraudline-kafka-tls", "tls.key"),
        "keyPassword": ("fraudline-kafka", "key-password"),
    }
    metadata, login = keda(render, "hpa-values.yaml", tree("autoscaling.type", "keda"))
    assert not {"tls", "sasl"} & metadata.keys()
    assert login == {}


def test_down_is_slower_than_up(render: Render) -> None:
    behavior = render(scenario="hpa-values.yaml").one("HorizontalPodAutoscaler")["spec"]["behavior"]
    up, down = behavior["scaleUp"], behavior["scaleDown"]
    assert down["stabilizationWindowSeconds"] > up["stabilizationWindowSeconds"]
    assert [(each["type"], each["value"]) for each in down["policies"]] == [("Pods", 1)]


@pytest.mark.parametrize(
    ("brokers", "ports"),
    [("a:9093,b:9094,c:9093", [9093, 9094]), ("a", [9092]), ("[fd00::1]:9095,10.0.0.1:9096", [9095, 9096])],
)
def test_the_brokers_ports_are_those_that_are_let_through(brokers: str, ports: list[int], render: Render) -> None:
    changes = tree("config.kafka.brokers", brokers)
    kafka = render(changes, scenario="network-policy-values.yaml").one("NetworkPolicy")["spec"]["egress"][1]
    assert [each["port"] for each in kafka["ports"]] == ports
