"""The sections of the settings: what may be set, to what, and what belongs together."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FilePath,
    IPvAnyNetwork,
    SecretStr,
    field_validator,
    model_validator,
)
from pydantic_settings import NoDecode

from consumer.settings_source import MASK, shown_url


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


def _words(value: object) -> object:
    """A list as an environment variable has it: `a, b`, in brackets or not."""
    if not isinstance(value, str):
        return value
    return tuple(part.strip() for part in value.strip("[]() ").split(",") if part.strip())


def _is_private(url: str) -> bool:
    """Whether what is sent there can't be read on the way: TLS, or this machine itself."""
    parts = urlsplit(url)
    return parts.scheme == "https" or parts.hostname in {"localhost", "127.0.0.1", "::1"}


Topic = Annotated[str, Field(pattern=r"^[a-zA-Z0-9._-]{1,249}$")]
Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\s{}]+$")]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class KafkaSettings(_Section):
    """How the brokers are reached, and the client's patience. Times are milliseconds."""

    brokers: Annotated[str, Field(pattern=r"^[^\s,@]+(,[^\s,@]+)*$")] = "localhost:9092"  # no user: it is shown
    group_id: Name = "fraudline"
    transactional_id: Name = Field(default_factory=lambda known: f"{known['group_id']}-{socket.gethostname()}")
    security_protocol: Annotated[Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"], BeforeValidator(_lower)] = (
        "plaintext"
    )
    sasl_mechanism: Annotated[
        Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] | None, BeforeValidator(_upper)
    ] = None
    sasl_username: str | None = None
    sasl_password: SecretStr | None = None
    sasl_oauth_token_url: Annotated[str, Field(pattern=r"^https?://[^\s/@]+(/\S*)?$")] | None = None
    sasl_oauth_client_id: str | None = None
    sasl_oauth_client_secret: SecretStr | None = None
    sasl_oauth_scope: str | None = None
    sasl_oauth_ca_file: FilePath | None = None
    ssl_ca_file: FilePath | None = None
    ssl_certificate_file: FilePath | None = None
    ssl_key_file: FilePath | None = None
    ssl_key_password: SecretStr | None = None
    transaction_timeout_ms: Annotated[int, Field(ge=5_000, le=60_000)] = 10_000
    session_timeout_ms: Annotated[int, Field(ge=1_000, le=300_000)] = 10_000
    max_poll_interval_ms: Annotated[int, Field(ge=1_000, le=3_600_000)] = 60_000
    request_timeout_ms: Annotated[int, Field(ge=1_000, le=300_000)] = 10_000
    fetch_wait_ms: Annotated[int, Field(ge=1, le=1_000)] = 5
    producer_queue_kb: Annotated[int, Field(ge=2_048, le=1_048_576)] = 65_536  # one record may have 2 MB

    @field_validator("transactional_id", mode="before")
    @classmethod
    def _default_transactional_id(cls, value: object, info: Any) -> object:
        return f"{info.data.get('group_id')}-{socket.gethostname()}" if value is None else value

    @model_validator(mode="after")
    def _whole(self) -> Self:
        passwords = ("sasl_username", "sasl_password")
        oauth = ("sasl_oauth_token_url", "sasl_oauth_client_id", "sasl_oauth_client_secret")
        oauth_too = ("sasl_oauth_scope", "sasl_oauth_ca_file")
        tls = ("ssl_ca_file", "ssl_certificate_file", "ssl_key_file", "ssl_key_password")
        protocol = self.security_protocol
        mechanism = self.sasl_mechanism
        needed, unused = (oauth, passwords) if mechanism == "OAUTHBEARER" else (passwords, (*oauth, *oauth_too))
        if protocol.startswith("sasl"):
            if missing := self._absent(("sasl_mechanism", *needed)):
                raise ValueError(f"security_protocol is {protocol!r}, which also needs {missing[0]}")
            if idle := self._present(unused):
                raise ValueError(
                    f"{idle[0]} is set but sasl_mechanism is {mechanism!r}, which has no use for it: unset it"
                )
        elif idle := self._present(("sasl_mechanism", *needed, *unused)):
            raise ValueError(f"{idle[0]} is set but security_protocol is {protocol!r}: use 'sasl_ssl', or unset it")
        if not protocol.endswith("ssl") and (idle := self._present(tls)):
            raise ValueError(f"{idle[0]} is set but security_protocol is {protocol!r}: use one with 'ssl', or unset it")
        if (self.ssl_certificate_file is None) != (self.ssl_key_file is None):
            raise ValueError("ssl_certificate_file and ssl_key_file belong together: set both or neither")
        if self.ssl_key_password is not None and self.ssl_key_file is None:
            raise ValueError("ssl_key_password is set without ssl_key_file")
        if self.sasl_oauth_token_url is not None and not _is_private(self.sasl_oauth_token_url):
            raise ValueError(
                "sasl_oauth_token_url begins with http://, which would send the client's secret in the clear: use https"
            )
        if self.max_poll_interval_ms < self.session_timeout_ms:
            raise ValueError("max_poll_interval_ms must be at least session_timeout_ms")
        return self

    def _present(self, names: tuple[str, ...]) -> list[str]:
        return [name for name in names if getattr(self, name) is not None]

    def _absent(self, names: tuple[str, ...]) -> list[str]:
        return [name for name in names if getattr(self, name) is None]


class TopicSettings(_Section):
    """The topics, all different: two read, four written for others, the processor's own journal, lists and audit."""

    payments: Topic = "payments"
    labels: Topic = "labels"
    decisions: Topic = "decisions"
    alerts: Topic = "alerts"
    dead_letters: Topic = "payments.dlq"
    journal: Topic = "fraudline.journal"
    lists: Topic = "fraudline.lists"
    shadow: Topic = "fraudline.shadow"
    audit: Topic = "fraudline.audit"

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        seen: dict[str, str] = {}
        for role, topic in self:
            if topic in seen:
                raise ValueError(f"{seen[topic]} and {role} are both {topic!r}: give each its own topic")
            seen[topic] = role
        return self


MIN_CLUSTER_SHARDS: Final = 3
MIN_TOKEN_CHARACTERS: Final = 16


class StoreSettings(_Section):
    """The state store, and what to do while it does not answer."""

    url: SecretStr = SecretStr("redis://localhost:6379/0")
    namespace: Name = "fraudline"
    timeout_ms: Annotated[int, Field(ge=5, le=1_000)] = 50
    cluster: bool = False
    shards: Annotated[int, Field(ge=1, le=1_024)] = 1
    tls_ca_file: FilePath | None = None
    tls_certificate_file: FilePath | None = None
    tls_key_file: FilePath | None = None
    outage: Annotated[Literal["degrade", "pause"], BeforeValidator(_lower)] = "degrade"
    allow_cold_state: bool = False
    check_interval_s: Annotated[int, Field(ge=0, le=86_400)] = 60

    @field_validator("url")
    @classmethod
    def _a_redis_url(cls, value: SecretStr) -> SecretStr:
        if shown_url(value.get_secret_value()) == MASK:
            raise ValueError("must look like redis://host:6379/0, rediss:// or unix:///path, its password %-encoded")
        return value

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.cluster and self.shards < MIN_CLUSTER_SHARDS:
            raise ValueError(
                f"cluster is on, which needs shards of {MIN_CLUSTER_SHARDS} or more: 16 are right for most, and their "
                "number is fixed for the life of a namespace"
            )
        if (self.tls_certificate_file is None) != (self.tls_key_file is None):
            raise ValueError("tls_certificate_file and tls_key_file belong together: set both or neither")
        return self


class ProcessingSettings(_Section):
    """The micro-batch, the budget of a payment and the limits of what is accepted."""

    delivery: Annotated[Literal["exactly_once", "at_least_once"], BeforeValidator(_lower)] = "exactly_once"
    budget_ms: Annotated[int, Field(ge=1, le=60_000)] = 200
    max_batch: Annotated[int, Field(ge=1, le=4_096)] = 512
    linger_ms: Annotated[int, Field(ge=0, le=1_000)] = 10
    max_future_ms: Annotated[int, Field(ge=0, le=86_400_000)] = 300_000
    max_payment_bytes: Annotated[int, Field(ge=256, le=1_048_576)] = 65_536
    max_rejected_in_a_row: Annotated[int, Field(ge=0)] = 10_000
    drain_deadline_ms: Annotated[int, Field(ge=100, le=600_000)] = 20_000

    @model_validator(mode="after")
    def _waits_inside_the_budget(self) -> Self:
        if self.linger_ms >= self.budget_ms:
            raise ValueError("linger_ms must be below budget_ms: a batch may wait only inside the budget")
        return self


class ModelSettings(_Section):
    """Which bundle scores, and on what. With a `registry` its champion does, and `bundle` is not looked at.

    `compiled` has the CPU score with code that is compiled at the start; else XGBoost itself does. With `signature`
    required, a bundle counts only if one of the `trusted_keys` (PEM files of Ed25519 public keys) signed it.
    """

    bundle: Path = Path("bundle")
    registry: str | None = None
    poll_s: Annotated[float, Field(ge=0.1, le=3_600)] = 2.0
    device: Annotated[Literal["cpu", "cuda"], BeforeValidator(_lower)] = "cpu"
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    compiled: bool = True
    signature: Annotated[Literal["optional", "required"], BeforeValidator(_lower)] = "optional"
    trusted_keys: Annotated[tuple[FilePath, ...], NoDecode] = ()

    @field_validator("trusted_keys", mode="before")
    @classmethod
    def _from_text(cls, value: object) -> object:
        return _words(value)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.signature == "required" and not self.trusted_keys:
            raise ValueError("signature is 'required', which also needs trusted_keys: the public keys that may sign")
        return self


class ChallengerSettings(_Section):
    """Whether the registry's challenger is tried, for which share of cards it decides, and what ends that.

    It holds `canary_shares[k]` from `canary_step_s * k` seconds after its promotion on; without shares it decides
    nothing. A ratio is its number over the champion's, of the same payments, in the last `guard_window_s` seconds.
    """

    enabled: bool = False
    canary_shares: Annotated[tuple[Annotated[float, Field(ge=0, le=1)], ...], NoDecode] = ()
    canary_step_s: Annotated[int, Field(ge=1, le=2_592_000)] = 3_600
    guard_window_s: Annotated[int, Field(ge=10, le=86_400)] = 600
    guard_min_payments: Annotated[int, Field(ge=1)] = 1_000
    max_alert_ratio: Annotated[float, Field(ge=1)] = 2.0
    min_alert_ratio: Annotated[float, Field(ge=0, le=1)] = 0.25
    max_block_ratio: Annotated[float, Field(ge=1)] = 2.0
    max_failed_share: Annotated[float, Field(ge=0, le=1)] = 0.01

    @field_validator("canary_shares", mode="before")
    @classmethod
    def _from_text(cls, value: object) -> object:
        return _words(value)

    @field_validator("canary_shares")
    @classmethod
    def _rising(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if list(value) != sorted(value):
            raise ValueError("must rise, as 0.01, 0.05, 0.25: a card never goes back to the champion but by a rollback")
        return value


class FeatureSettings(_Section):
    """Which features are computed: a built-in profile (`default`, `handbook`) or a catalog file (TOML)."""

    catalog: Annotated[str, Field(min_length=1)] = "default"


class TelemetrySettings(_Section):
    """Where metrics and probes are served (port 0: the OS chooses), and how logs look."""

    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 9464
    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)] = "info"
    log_format: Annotated[Literal["auto", "json", "console"], BeforeValidator(_lower)] = "auto"


class DashboardSettings(_Section):
    """Where the alert page is served (port 0: the OS chooses), to whom, and whether verdicts may be given on it.

    `auth` says how a reader proves who it is: `token`, or a header that a reverse proxy of `trusted_proxies` sets;
    `none` only where nobody else can reach the address.
    """

    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 9465
    auth: Annotated[Literal["none", "token", "proxy"], BeforeValidator(_lower)] = "token"
    token: SecretStr | None = None
    proxy_header: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,64}$")] = "X-Forwarded-User"
    trusted_proxies: Annotated[tuple[IPvAnyNetwork, ...], NoDecode] = ()
    verdicts: bool = False
    keep_alerts: Annotated[int, Field(ge=100, le=1_000_000)] = 10_000
    max_streams: Annotated[int, Field(ge=1, le=10_000)] = 200

    @field_validator("trusted_proxies", mode="before")
    @classmethod
    def _from_text(cls, value: object) -> object:
        return _words(value)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.token is not None and len(self.token.get_secret_value()) < MIN_TOKEN_CHARACTERS:
            raise ValueError(f"token is shorter than {MIN_TOKEN_CHARACTERS} characters: take a longer, random one")
        if self.auth == "proxy" and not self.trusted_proxies:
            raise ValueError("auth is 'proxy', which also needs trusted_proxies: whose header is believed")
        return self


class AuditSettings(_Section):
    """Whether promotions, changes of policy and lists, and verdicts are written to the topic `topics.audit`."""

    enabled: bool = False
