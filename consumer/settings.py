"""Every setting: one frozen tree, read once at start from defaults, an optional TOML file and the environment.

The environment (`FRAUDLINE_<SECTION>__<NAME>`) wins over the file, the file over the default. A variable that is set
but empty counts as not set. Only `load` reads the environment; building a `Settings` by hand is pure. Wherever a secret
is expected, `<NAME>_FILE` (`<name>_file` in TOML) may name a file that holds it instead, as Kubernetes mounts secrets.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FilePath,
    PrivateAttr,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, EnvSettingsSource, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from consumer.settings_source import (
    CONFIG_VARIABLE,
    MASK,
    PREFIX,
    Gathered,
    Known,
    flatten,
    read_toml,
    refuse_unknown_variables,
    shown_url,
    variable,
)
from features.errors import ConfigError


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


Topic = Annotated[str, Field(pattern=r"^[a-zA-Z0-9._-]{1,249}$")]
Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\s{}]+$")]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class KafkaSettings(_Section):
    """How the brokers are reached, and the client's patience. Times are milliseconds."""

    brokers: Annotated[str, Field(pattern=r"^[^\s,]+(,[^\s,]+)*$")] = "localhost:9092"
    group_id: Name = "fraudline"
    transactional_id: Name = Field(default_factory=lambda known: f"{known['group_id']}-{socket.gethostname()}")
    security_protocol: Annotated[Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"], BeforeValidator(_lower)] = (
        "plaintext"
    )
    sasl_mechanism: Annotated[Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None, BeforeValidator(_upper)] = None
    sasl_username: str | None = None
    sasl_password: SecretStr | None = None
    ssl_ca_file: FilePath | None = None
    ssl_certificate_file: FilePath | None = None
    ssl_key_file: FilePath | None = None
    ssl_key_password: SecretStr | None = None
    transaction_timeout_ms: Annotated[int, Field(ge=5_000, le=60_000)] = 10_000
    session_timeout_ms: Annotated[int, Field(ge=1_000, le=300_000)] = 10_000
    max_poll_interval_ms: Annotated[int, Field(ge=1_000, le=3_600_000)] = 60_000
    request_timeout_ms: Annotated[int, Field(ge=1_000, le=300_000)] = 10_000
    fetch_wait_ms: Annotated[int, Field(ge=1, le=1_000)] = 5

    @field_validator("transactional_id", mode="before")
    @classmethod
    def _default_transactional_id(cls, value: object, info: Any) -> object:
        return f"{info.data.get('group_id')}-{socket.gethostname()}" if value is None else value

    @model_validator(mode="after")
    def _whole(self) -> Self:
        sasl = ("sasl_mechanism", "sasl_username", "sasl_password")
        tls = ("ssl_ca_file", "ssl_certificate_file", "ssl_key_file", "ssl_key_password")
        protocol = self.security_protocol
        if protocol.startswith("sasl") and (missing := self._absent(sasl)):
            raise ValueError(f"security_protocol is {protocol!r}, which also needs {missing[0]}")
        if not protocol.startswith("sasl") and (idle := self._present(sasl)):
            raise ValueError(f"{idle[0]} is set but security_protocol is {protocol!r}: use 'sasl_ssl', or unset it")
        if not protocol.endswith("ssl") and (idle := self._present(tls)):
            raise ValueError(f"{idle[0]} is set but security_protocol is {protocol!r}: use one with 'ssl', or unset it")
        if (self.ssl_certificate_file is None) != (self.ssl_key_file is None):
            raise ValueError("ssl_certificate_file and ssl_key_file belong together: set both or neither")
        if self.ssl_key_password is not None and self.ssl_key_file is None:
            raise ValueError("ssl_key_password is set without ssl_key_file")
        if self.max_poll_interval_ms < self.session_timeout_ms:
            raise ValueError("max_poll_interval_ms must be at least session_timeout_ms")
        return self

    def _present(self, names: tuple[str, ...]) -> list[str]:
        return [name for name in names if getattr(self, name) is not None]

    def _absent(self, names: tuple[str, ...]) -> list[str]:
        return [name for name in names if getattr(self, name) is None]


class TopicSettings(_Section):
    """The topics, all different: two read, four written for others, the processor's own journal, and the lists."""

    payments: Topic = "payments"
    labels: Topic = "labels"
    decisions: Topic = "decisions"
    alerts: Topic = "alerts"
    dead_letters: Topic = "payments.dlq"
    journal: Topic = "fraudline.journal"
    lists: Topic = "fraudline.lists"
    shadow: Topic = "fraudline.shadow"

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        seen: dict[str, str] = {}
        for role, topic in self:
            if topic in seen:
                raise ValueError(f"{seen[topic]} and {role} are both {topic!r}: give each its own topic")
            seen[topic] = role
        return self


MIN_CLUSTER_SHARDS: Final = 3


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
    drain_deadline_ms: Annotated[int, Field(ge=100, le=600_000)] = 20_000

    @model_validator(mode="after")
    def _waits_inside_the_budget(self) -> Self:
        if self.linger_ms >= self.budget_ms:
            raise ValueError("linger_ms must be below budget_ms: a batch may wait only inside the budget")
        return self


class ModelSettings(_Section):
    """Which bundle scores, and on what. With a `registry` its champion does, and `bundle` is not looked at.

    `compiled` has the CPU score with code that is compiled at the start; else XGBoost itself does.
    """

    bundle: Path = Path("bundle")
    registry: str | None = None
    poll_s: Annotated[float, Field(ge=0.1, le=3_600)] = 2.0
    device: Annotated[Literal["cpu", "cuda"], BeforeValidator(_lower)] = "cpu"
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    compiled: bool = True


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
        if not isinstance(value, str):
            return value
        return tuple(part.strip() for part in value.strip("[]() ").split(",") if part.strip())

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


class Settings(BaseSettings):
    """The whole tree. `load` fills it from file and environment; the constructor looks at neither."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        env_ignore_empty=True,
    )

    kafka: KafkaSettings = Field(default_factory=KafkaSettings)
    topics: TopicSettings = Field(default_factory=TopicSettings)
    store: StoreSettings = Field(default_factory=StoreSettings)
    processing: ProcessingSettings = Field(default_factory=ProcessingSettings)
    model: ModelSettings = Field(default_factory=ModelSettings)
    challenger: ChallengerSettings = Field(default_factory=ChallengerSettings)
    features: FeatureSettings = Field(default_factory=FeatureSettings)
    telemetry: TelemetrySettings = Field(default_factory=TelemetrySettings)
    _origins: dict[str, str] = PrivateAttr(default_factory=dict)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003  the signature is the library's
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The constructor takes its arguments only; `load` brings the environment and the file."""
        return (init_settings,)


def load(path: Path | None = None) -> Settings:
    """Read the settings: defaults, then the TOML file at `path` (or `FRAUDLINE_CONFIG`), then the environment.

    Raises:
        ConfigError: a name is unknown or a value can't be used; one sentence, never with a secret in it.
    """
    refuse_unknown_variables(os.environ, KNOWN)
    if path is None and (named := os.environ.get(CONFIG_VARIABLE)):
        path = Path(named)
    gathered = Gathered()
    if path is not None:
        gathered.add(read_toml(path, KNOWN), KNOWN, lambda _dotted: str(path))
    gathered.add(flatten(EnvSettingsSource(Settings)()), KNOWN, variable)
    try:
        settings = Settings.model_validate(gathered.tree())
    except ValidationError as error:
        raise ConfigError(_sentence(error, gathered)) from None
    settings._origins.update(gathered.origins)
    return settings


def _known() -> Iterator[tuple[str, bool]]:
    for section, field in Settings.model_fields.items():
        model = field.annotation
        if isinstance(model, type) and issubclass(model, BaseModel):
            for name, leaf in model.model_fields.items():
                yield f"{section}.{name}", leaf.annotation in (SecretStr, SecretStr | None)


KNOWN: Final = Known(dict(_known()))
"""Every setting's dotted name, with whether it is a secret."""


def _sentence(error: ValidationError, gathered: Gathered) -> str:
    """The first thing that is wrong, in one sentence; a secret's value is never part of it."""
    found = error.errors(include_url=False, include_input=False)
    problems = [problem for problem in found if problem["type"] != "default_factory_not_called"]
    first = problems[0]
    dotted = ".".join(str(part) for part in first["loc"][:2])
    reason = str(first["ctx"]["error"]) if "error" in first.get("ctx", {}) else first["msg"]
    reason = reason[0].lower() + reason[1:].rstrip(".")
    if len(first["loc"]) < 2:
        return f"{dotted}.{reason}{_and_more(problems)}."
    value = gathered.values.get(dotted)
    shown = MASK if KNOWN.secret.get(dotted, True) else repr(str(value))[:80]
    return f"{dotted} (from {gathered.origins.get(dotted, 'default')}) is {shown}: {reason}{_and_more(problems)}."


def _and_more(problems: list[Any]) -> str:
    more = len(problems) - 1
    return f" (and {more} more {'setting is' if more == 1 else 'settings are'} wrong)" if more else ""


def describe(settings: Settings) -> list[tuple[str, str, str]]:
    """Every setting as (dotted name, value as it may be shown, where it came from), in the order of the tree."""
    rows = []
    for section, values in settings:
        for name, value in values:
            dotted = f"{section}.{name}"
            rows.append((dotted, _shown(dotted, value), settings._origins.get(dotted, "default")))
    return rows


def _shown(dotted: str, value: object) -> str:
    if isinstance(value, SecretStr):
        return shown_url(value.get_secret_value()) if dotted == "store.url" else MASK
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)
