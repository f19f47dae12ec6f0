"""What the chart refuses, and what it says."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest
import yaml

from tests.support.charts import CHART, KUBERNETES, MOUNTS, VALUES, Render, together, tree

CANARY = "hunter2-Zq9"
OAUTH = {
    "security_protocol": "sasl_ssl",
    "sasl_mechanism": "OAUTHBEARER",
    "sasl_oauth_token_url": "https://login.example/token",
    "sasl_oauth_client_id": "fraudline",
}
OAUTH_SECRET = tree("secrets.oauthClientSecret.existingSecret", "s")
ON_OAUTH = together({"config": {"kafka": OAUTH}}, OAUTH_SECRET)
SASL = {"security_protocol": "sasl_ssl", "sasl_mechanism": "PLAIN", "sasl_username": "u"}
PASSWORD = tree("secrets.saslPassword.existingSecret", "s")
IMAGE = {"existingClaim": "", "image": {"repository": "b", "tag": "1"}}
SSL = {"security_protocol": "ssl", "ssl_ca_file": "/usr/share/ca.crt"}
PAGE = tree("alertPage.enabled", True)
INGRESS = tree("alertPage.ingress", {"enabled": True, "host": "alerts.example"})
TOKEN = tree("secrets.dashboardToken.existingSecret", "t")
PROXY = {"auth": "proxy", "trusted_proxies": ["10.0.0.0/8"]}
MONITOR = tree("monitoring.serviceMonitor.enabled", True)


def gpu(count: object) -> dict[str, Any]:
    return {"resources": {"limits": {"nvidia.com/gpu": count}}}


def scaled(by: str, most: int) -> dict[str, Any]:
    return {"autoscaling": {"type": by, "maxReplicas": most}}


def policy(*names: str, **to: list[Any]) -> dict[str, Any]:
    anywhere = [{"ipBlock": {"cidr": "0.0.0.0/0"}}]
    return {"networkPolicy": {"enabled": True} | {each: {"to": to.get(each, anywhere)} for each in (*names, *to)}}


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
        (tree("podAnnotations", {"helm.sh/hook": "x"}), "invalid propertyName 'helm.sh/hook'"),
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
        (together(ON_OAUTH, tree("config.kafka.sasl_oauth_token_url", "http://a/b")), "in the clear: use https"),
        (tree("config.kafka.sasl_oauth_token_url", "x://login"), "/config/kafka/sasl_oauth_token_url"),
        (tree("config.kafka.sasl_oauth_scope", "kafka"), "sasl_oauth_scope is set but config.kafka.security_protocol"),
        (OAUTH_SECRET, "secrets.oauthClientSecret.existingSecret is set but config.kafka.security_protocol is plaint"),
        (
            together(tree("bundle", IMAGE), tree("bundle.subPath", "x")),
            "bundle.subPath belongs to bundle.existingClaim",
        ),
        (
            together({"config": {"kafka": SSL}}, tree("secrets.sslKeyPassword.existingSecret", "k")),
            "without config.kaf",
        ),
        (tree("config.model.signature", "required"), "also needs config.model.trusted_keys"),
        (tree("config.model.trusted_keys", [f"{MOUNTS}/trusted-keys/a.pem"]), "needs trustedKeys.existingConfigMap or"),
        ({"trustedKeys": {"existingConfigMap": "a", "existingSecret": "b"}}, "are both set: keep one of them"),
        (tree("secrets.kafkaTls.existingSecret", "t"), "is set but config.kafka.security_protocol is plaintext"),
        ({"config": {"kafka": {"security_protocol": "ssl", "ssl_key_file": "/k"}}}, "belong together"),
        ({"config": {"kafka": {"security_protocol": "ssl", "ssl_ca_file": f"{MOUNTS}/kafka-tls/ca"}}}, "which needs"),
        (tree("config.store.cluster", True), "needs config.store.shards of 3 or more"),
        (tree("config.store.tls_ca_file", f"{MOUNTS}/redis-tls/ca"), "which needs secrets.redisTls.existingSecret"),
        (tree("config.store.tls_key_file", "/k"), "config.store.tls_key_file belong together"),
        (tree("config.model.device", "cuda"), "also needs a GPU in resources.limits"),
        (tree("config.model.device", "cuda") | gpu("0"), "also needs a GPU in resources.limits"),
        (gpu(1), "resources.limits has nvidia.com/gpu but config.model.device is cpu: use cuda"),
        ({"resources": {"requests": {"nvidia.com/gpu": 1}}}, "which Kubernetes takes in resources.limits only"),
        (PAGE, "needs secrets.dashboardToken.existingSecret"),
        (together(PAGE, tree("config.dashboard.auth", "none")), "would show the alerts to anybody"),
        (together(PAGE, INGRESS, tree("config.dashboard.auth", "none")), "would show the alerts to anybody"),
        (together(PAGE, tree("config.dashboard.auth", "proxy")), "also needs config.dashboard.trusted_proxies"),
        (together(TOKEN, tree("config.dashboard", PROXY)), "is set but config.dashboard.auth is proxy: use token, or"),
        (together(PAGE, TOKEN, tree("alertPage.ingress.enabled", True)), "needs alertPage.ingress.host"),
        (INGRESS, "alertPage.ingress.enabled needs alertPage.enabled"),
        (together(PAGE, TOKEN, tree("alertPage.login.name", "p")), "alertPage.login.existingSecret belong together"),
        (tree("topicsJob.login.existingSecret", "p"), "topicsJob.login.name and topicsJob.login.existingSecret bel"),
        (tree("topicsJob.login", {"name": "n", "existingSecret": "p"}), "config.kafka.sasl_mechanism is not"),
        ({"replicaCount": 9, "topicsJob": {"enabled": True, "partitions": 8}}, "replicaCount is 9 but topicsJob.parti"),
        (together(tree("topicsJob", {"enabled": True, "partitions": 8}), scaled("hpa", 9)), "maxReplicas is 9 but"),
        (tree("topicsJob.overrides", ["retention"]), "/topicsJob/overrides/0"),
        (tree("autoscaling.type", "hpa"), "needs autoscaling.maxReplicas: the number of partitions of payments"),
        (tree("autoscaling.type", "keda"), "needs autoscaling.maxReplicas: the number of partitions of payments"),
        (tree("autoscaling.type", "both"), "/autoscaling/type"),
        (tree("autoscaling", {"hpa": {"enabled": True}}), "'enabled' not allowed"),
        (tree("autoscaling", {"type": "hpa", "minReplicas": 5, "maxReplicas": 4}), "must be at most autoscaling.maxR"),
        (together(scaled("hpa", 4), {"resources": {"requests": {"cpu": None}}}), "needs resources.requests.cpu"),
        (together(scaled("keda", 4), {"config": {"kafka": SSL}}), "reads certificates from secrets.kafkaTls alone"),
        (tree("networkPolicy.enabled", True), "networkPolicy.enabled needs networkPolicy.kafka.to"),
        (policy("kafka"), "networkPolicy.enabled needs networkPolicy.redis.to"),
        (policy("kafka", "redis", dns=[]), "networkPolicy.enabled needs networkPolicy.dns.to"),
        (policy("kafka", "redis") | tree("config.model.registry", "s3://m"), "needs networkPolicy.registry.to"),
        (
            together(policy("kafka", "redis"), {"config": {"kafka": OAUTH}}, OAUTH_SECRET),
            "needs networkPolicy.oauth.to",
        ),
        (together(policy("kafka", "redis"), MONITOR), "needs networkPolicy.metrics.from: where Prometheus is"),
        (together(policy("kafka", "redis"), PAGE, TOKEN, INGRESS), "needs networkPolicy.alertPage.from"),
        (together(policy("kafka", "redis"), PAGE, tree("config.dashboard", PROXY)), "networkPolicy.alertPage.from"),
        (tree("networkPolicy.kafka.to", [{"cidr": "10.0.0.0/8"}]), "'cidr' not allowed"),
        (tree("networkPolicy.kafka.to", [{}]), "/networkPolicy/kafka/to/0"),
        (tree("podDisruptionBudget.maxUnavailable", 0), "/podDisruptionBudget/maxUnavailable"),
        (tree("secrets.registry.existingSecret", "s"), "is set without config.model.registry"),
        (tree("config.dashboard.trusted_proxies", ["ingress"]), "/config/dashboard/trusted_proxies/0"),
        (tree("config.model.trusted_keys", ["risk.pem"]), "/config/model/trusted_keys/0"),
        (tree("fullnameOverride", "null"), "/fullnameOverride"),
        (
            tree("monitoring.serviceMonitor", {"interval": "1m", "scrapeTimeout": "61s"}),
            "must be at most monitoring.se",
        ),
        (tree("monitoring.serviceMonitor.interval", "15"), "/monitoring/serviceMonitor/interval"),
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


def test_a_release_whose_name_can_name_no_service_is_refused(helm: str) -> None:
    values = ["--values", str(CHART / "ci" / "minimal-values.yaml"), "--kube-version", KUBERNETES]

    def install(name: str, *more: str) -> subprocess.CompletedProcess[str]:
        command = [helm, "template", name, str(CHART), *values, *more]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    assert "2025-fraudline begins with a digit" in install("2025").stderr
    renamed = install("2025", "--set", "fullnameOverride=fraudline")
    assert renamed.returncode == 0
    assert {
        document["metadata"]["labels"]["app.kubernetes.io/instance"] for document in yaml.safe_load_all(renamed.stdout)
    } == {"2025"}


def test_a_release_that_reuses_the_values_of_an_older_chart_is_told_what_is_missing(render: Render) -> None:
    """`--reuse-values` hides the new chart's defaults: what was no value then is none now."""
    for name in ("autoscaling", "alertPage", "networkPolicy", "topicsJob", "monitoring", "podDisruptionBudget"):
        rendered = render({name: None})
        assert rendered.refused
        assert f"missing property '{name}'" in rendered.error


def test_a_file_of_every_value_of_the_chart_as_it_was_is_still_good(render: Render) -> None:
    new = {"updateStrategy", "podDisruptionBudget", "autoscaling", "alertPage", "topicsJob", "networkPolicy"}
    new |= {"trustedKeys", "tmpSizeLimit", "minReadySeconds", "runtimeClassName", "monitoring"}
    old = {name: value for name, value in VALUES.items() if name not in new}
    needed = [tree("config.kafka.brokers", "k:9092"), tree("secrets.redisUrl.existingSecret", "r")]
    rendered = render(together(old, *needed, tree("bundle.existingClaim", "b")), scenario=None)
    assert not rendered.refused, rendered.error
