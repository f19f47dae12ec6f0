"""A real Apache Kafka that trusts nobody: TLS, SASL, client certificates, ACLs, all of them made for the test."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import trustme
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from tests.services.kafka import QUICK_START, KafkaBroker
from tests.services.tokens import AUDIENCE, TokenServer

_WAIT_S = 20.0
_MODULE = "org.apache.kafka.common.security"
_LISTENERS = ("PLAINTEXT", "CONTROLLER", "SASL", "MUTUAL", "EXPIRED", "ELSEWHERE")
PASSWORD, SECRET = "pw-Zq9canary", "secret-Zq9canary"  # for SCRAM and PLAIN; for the token endpoint
USER = "processor"  # whoever comes in, by whatever way, is this one
_SECURITY = {
    "PLAINTEXT": "PLAINTEXT",
    "CONTROLLER": "PLAINTEXT",
    "SASL": "SASL_SSL",
    "MUTUAL": "SSL",
    "EXPIRED": "SASL_SSL",
    "ELSEWHERE": "SASL_SSL",
}


class SecureKafkaBroker(KafkaBroker):
    """Listens in plain text for the test itself, whose rights are all, and with TLS for whom is to be tested.

    `brokers` names the listeners: `sasl` (SCRAM, PLAIN, OAUTHBEARER), `mutual` (client certificates), and two that are
    not to be trusted: `expired`, `elsewhere`. Who they let in may do what `allow` says and nothing else.
    """

    port_count = len(_LISTENERS)

    def __init__(self) -> None:
        super().__init__(java_options=QUICK_START)
        self.authority = trustme.CA()
        self.tokens = TokenServer({USER: SECRET}, self.authority, self.data)
        self._java_options = (
            *self._java_options,
            f"-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={self.tokens.keys.as_uri()}",
        )
        self.ca_file = self.data / "ca.pem"
        self.authority.cert_pem.write_to_path(str(self.ca_file))
        now = datetime.now(UTC)
        self._certificate("sound", "127.0.0.1")
        self._certificate("elsewhere", "kafka.example")
        self._certificate("expired", "127.0.0.1", not_before=now - timedelta(days=2), not_after=now - timedelta(days=1))

    @property
    def brokers(self) -> dict[str, str]:
        """Addresses for clients, by the listener's name in lower case."""
        return {name.lower(): f"127.0.0.1:{port}" for name, port in zip(_LISTENERS, self.ports, strict=True)}

    def prepare(self) -> None:
        at = dict(zip(_LISTENERS, self.ports, strict=True))
        self._config = {
            "listeners": ",".join(f"{name}://127.0.0.1:{port}" for name, port in at.items()),
            "advertised.listeners": ",".join(
                f"{name}://127.0.0.1:{port}" for name, port in at.items() if name != "CONTROLLER"
            ),
            "listener.security.protocol.map": ",".join(f"{name}:{kind}" for name, kind in _SECURITY.items()),
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
            "ssl.principal.mapping.rules": r"RULE:^(?:.*,)?CN=([^,]+).*$/$1/,DEFAULT",
            **{key: value for name in ("SASL", "EXPIRED", "ELSEWHERE") for key, value in self._sasl(name).items()},
            **self._keys("SASL", "sound"),
            **self._keys("MUTUAL", "sound"),
            **self._keys("EXPIRED", "expired"),
            **self._keys("ELSEWHERE", "elsewhere"),
            "listener.name.mutual.ssl.client.auth": "required",
            "listener.name.mutual.ssl.truststore.type": "PEM",
            "listener.name.mutual.ssl.truststore.location": str(self.ca_file),
        }
        super().prepare()

    def start(self) -> SecureKafkaBroker:  # type: ignore[override]
        super().start()
        for mechanism in (ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512):
            info = ScramCredentialInfo(mechanism, 4_096)
            change = UserScramCredentialUpsertion(USER, info, PASSWORD.encode())
            for future in self.admin.alter_user_scram_credentials([change]).values():
                future.result(_WAIT_S)
        return self

    def client_certificate(self, folder: Path, authority: trustme.CA | None = None) -> tuple[Path, Path]:
        """A client's certificate and its key, as files; of the broker's authority unless told."""
        made = (authority or self.authority).issue_cert("client.example", common_name=USER)
        certificate, key = folder / "client.pem", folder / "client-key.pem"
        certificate.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
        key.write_bytes(_pkcs8(made.private_key_pem.bytes()))
        return certificate, key

    def allow(self, acls: Sequence[AclBinding]) -> None:
        """Let the user do this too."""
        for future in self.admin.create_acls(list(acls)).values():
            future.result(_WAIT_S)

    def forbid(self, acls: Sequence[AclBinding]) -> None:
        """Take what was allowed away."""
        filters = [
            AclBindingFilter(
                acl.restype,
                acl.name,
                acl.resource_pattern_type,
                acl.principal,
                acl.host,
                acl.operation,
                acl.permission_type,
            )
            for acl in acls
        ]
        for future in self.admin.delete_acls(filters).values():
            future.result(_WAIT_S)

    def close(self) -> None:
        super().close()
        self.tokens.close()

    def _certificate(self, name: str, host: str, **validity: Any) -> None:
        made = self.authority.issue_cert(host, **validity)
        chain = b"".join(blob.bytes() for blob in made.cert_chain_pems)
        (self.data / f"{name}.pem").write_bytes(_pkcs8(made.private_key_pem.bytes()) + chain)

    def _keys(self, listener: str, certificate: str) -> Mapping[str, str]:
        prefix = f"listener.name.{listener.lower()}.ssl.keystore"
        return {f"{prefix}.type": "PEM", f"{prefix}.location": str(self.data / f"{certificate}.pem")}

    def _sasl(self, listener: str) -> Mapping[str, str]:
        prefix = f"listener.name.{listener.lower()}"
        bearer = f"{prefix}.oauthbearer"
        users = f'{_MODULE}.plain.PlainLoginModule required user_{USER}="{PASSWORD}";'
        scram = f"{_MODULE}.scram.ScramLoginModule required;"
        return {
            f"{prefix}.sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER",
            f"{prefix}.plain.sasl.jaas.config": users,
            f"{prefix}.scram-sha-256.sasl.jaas.config": scram,
            f"{prefix}.scram-sha-512.sasl.jaas.config": scram,
            f"{bearer}.sasl.jaas.config": f"{_MODULE}.oauthbearer.OAuthBearerLoginModule required;",
            f"{bearer}.sasl.server.callback.handler.class": (
                f"{_MODULE}.oauthbearer.OAuthBearerValidatorCallbackHandler"
            ),
            f"{bearer}.sasl.oauthbearer.jwks.endpoint.url": self.tokens.keys.as_uri(),
            f"{bearer}.sasl.oauthbearer.expected.audience": AUDIENCE,
        }


def binding(kind: str, name: str, operation: str, *, prefixed: bool = False, user: str = USER) -> AclBinding:
    """That the user may do something: `binding("topic", "payments", "read")`."""
    return AclBinding(
        {"topic": ResourceType.TOPIC, "group": ResourceType.GROUP, "cluster": ResourceType.BROKER,
         "transactional-id": ResourceType.TRANSACTIONAL_ID}[kind],
        name,
        ResourcePatternType.PREFIXED if prefixed else ResourcePatternType.LITERAL,
        f"User:{user}",
        "*",
        AclOperation[re.sub(r"(?<=[a-z])(?=[A-Z])", "_", operation).upper()],
        AclPermissionType.ALLOW,
    )  # fmt: skip


def _pkcs8(pem: bytes) -> bytes:
    """A private key as Kafka reads it."""
    key = load_pem_private_key(pem, None)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
