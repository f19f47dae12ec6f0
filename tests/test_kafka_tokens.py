"""Tokens without a broker: whom the client believes when it asks for one, and what is said when it gets none."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import trustme
from confluent_kafka import Consumer, KafkaError
from pydantic import SecretStr

from consumer.kafka import client
from consumer.kafka.causes import sentence_of
from consumer.kafka.client import cluster, common_config, group_config
from consumer.settings import KafkaSettings
from features.errors import KafkaRefused, KafkaUnavailable
from tests.services.process import free_ports
from tests.services.tokens import TokenServer

SECRET = "secret-Zq9canary"


def settings(url: str, **changes: object) -> KafkaSettings:
    fields: dict[str, object] = {
        "brokers": f"127.0.0.1:{free_ports(1)[0]}",
        "security_protocol": "sasl_ssl",
        "sasl_mechanism": "OAUTHBEARER",
        "sasl_oauth_token_url": url,
        "sasl_oauth_client_id": "fraudline",
        "sasl_oauth_client_secret": SecretStr(SECRET),
        "request_timeout_ms": 1_000,
    }
    return KafkaSettings.model_validate(fields | changes)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def endpoint(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TokenServer]:
    with TokenServer({"fraudline": SECRET}, authority, tmp_path_factory.mktemp("tokens")) as server:
        yield server


def asked(kafka: KafkaSettings) -> str:
    """What is said by who asks brokers that are not there."""
    with closing(Consumer(group_config(kafka))) as consumer, pytest.raises(KafkaUnavailable) as caught:
        cluster(consumer, kafka)
    assert SECRET not in str(caught.value)
    return str(caught.value)


def test_without_a_file_the_machine_s_own_authorities_count(
    endpoint: TokenServer, authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever this machine has them: the library that the client comes with knows one place only."""
    kafka = settings(endpoint.url)
    own = tmp_path / "machine.pem"
    own.write_bytes(b"")
    authority.cert_pem.write_to_path(str(own))
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    before = endpoint.asked
    assert "can't be trusted over TLS: check kafka.sasl_oauth_ca_file" in asked(kafka)
    assert endpoint.asked == before
    monkeypatch.setenv("SSL_CERT_FILE", str(own))
    assert common_config(kafka)["https.ca.location"] == str(own)
    client.forget(kafka)
    assert "no Kafka broker answers" in asked(kafka)
    assert endpoint.asked > before


def test_a_machine_s_authorities_are_found_without_being_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    known = tmp_path / "bundle.pem"
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    monkeypatch.setattr(client, "AUTHORITIES", (str(known),))
    kafka = settings("https://idp.example/token")
    assert "https.ca.location" not in common_config(kafka)
    known.write_bytes(b"")
    assert common_config(kafka)["https.ca.location"] == str(known)


def test_an_endpoint_that_says_nothing_is_named_beside_the_brokers() -> None:
    """The client waits for it longer than a call may."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        kafka = settings(f"https://127.0.0.1:{mute.getsockname()[1]}/token?tenant={SECRET}")
        consumer = Consumer(group_config(kafka))
        with pytest.raises(KafkaUnavailable) as caught:
            cluster(consumer, kafka)
        said = str(caught.value)
    consumer.close()
    assert not isinstance(caught.value, KafkaRefused)
    assert kafka.brokers in said
    assert "/token does not: check kafka.brokers, kafka.sasl_oauth_token_url" in said
    assert SECRET not in said


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("SSL connection timeout", "does not answer"),
        ("Operation timed out after 20000 milliseconds", "does not answer"),
        ("Could not resolve host: idp.example", "does not answer"),
        ("SSL certificate problem: unable to get local issuer certificate", "can't be trusted over TLS"),
        ("error adding trust anchors from file: /etc/pki/tls/certs/ca-bundle.crt", "can't be trusted over TLS"),
        ("invalid_client", "gives no token"),
    ],
)
def test_each_failure_names_its_setting(text: str, says: str) -> None:
    kafka = settings("https://idp.example/token")
    error = KafkaError(KafkaError._AUTHENTICATION, f"Failed to acquire SASL OAUTHBEARER token: {text}")
    told = sentence_of(kafka, error)
    assert told is not None
    assert says in told
