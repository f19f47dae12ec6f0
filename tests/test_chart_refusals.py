"""What the chart refuses, and what it says."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.charts import MOUNTS, Render, tree

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
