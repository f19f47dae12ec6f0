"""Every setting: one frozen tree, read once at start from defaults, an optional TOML file and the environment.

The environment (`FRAUDLINE_<SECTION>__<NAME>`) wins over the file, the file over the default. A variable that is set
but empty counts as not set. Only `load` reads the environment; building a `Settings` by hand is pure. Wherever a secret
is expected, `<NAME>_FILE` (`<name>_file` in TOML) may name a file that holds it instead, as Kubernetes mounts secrets.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, Field, PrivateAttr, SecretStr, ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from consumer.settings_sections import (
    AuditSettings,
    ChallengerSettings,
    DashboardSettings,
    FeatureSettings,
    KafkaSettings,
    ModelSettings,
    ProcessingSettings,
    StoreSettings,
    TelemetrySettings,
    TopicSettings,
)
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
    without_user,
)
from features.errors import ConfigError

__all__ = [
    "KNOWN",
    "AuditSettings",
    "ChallengerSettings",
    "DashboardSettings",
    "FeatureSettings",
    "KafkaSettings",
    "ModelSettings",
    "ProcessingSettings",
    "Settings",
    "StoreSettings",
    "TelemetrySettings",
    "TopicSettings",
    "describe",
    "load",
]


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
    dashboard: DashboardSettings = Field(default_factory=DashboardSettings)
    audit: AuditSettings = Field(default_factory=AuditSettings)
    _origins: dict[str, str] = PrivateAttr(default_factory=dict)
    _files: dict[str, Path] = PrivateAttr(default_factory=dict)

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
    settings._files.update(gathered.secret_files)
    if path is not None:
        settings._files["settings"] = path
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
    shown = MASK if KNOWN.secret.get(dotted, True) else repr(without_user(str(value)))[:80]
    return f"{dotted} (from {gathered.origins.get(dotted, 'default')}) is {shown}: {reason}{_and_more(problems)}."


def _and_more(problems: list[Any]) -> str:
    more = len(problems) - 1
    return f" (and {more} more {'setting is' if more == 1 else 'settings are'} wrong)" if more else ""


def files_with_secrets(settings: Settings) -> dict[str, Path]:
    """The files that secrets lie in, by what they are for: secrets' own, keys, and a settings file that has any."""
    found = {name: path for name, path in settings._files.items() if name != "settings"}
    keys = {"kafka.ssl_key_file": settings.kafka.ssl_key_file, "store.tls_key_file": settings.store.tls_key_file}
    found |= {name: path for name, path in keys.items() if path is not None}
    if (file := settings._files.get("settings")) is not None and any(
        hidden and settings._origins.get(name) == str(file) for name, hidden in KNOWN.secret.items()
    ):
        found["settings"] = file
    return found


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
    return "" if value is None else without_user(str(value))
