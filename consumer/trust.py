"""Whose bundles count, as the settings say: every command that loads a bundle to use it asks here."""

from __future__ import annotations

from pathlib import Path

from consumer import settings
from consumer.settings_sections import ModelSettings
from features.errors import ConfigError
from models.signature import Trust, trust


def trust_of(model: ModelSettings) -> Trust:
    """What `model.signature` and `model.trusted_keys` ask for. Raises ConfigError for a file that is no public key."""
    try:
        return trust(model.trusted_keys, required=model.signature == "required")
    except ConfigError as error:
        raise ConfigError(f"model.trusted_keys: {error}") from None


def configured(config: Path | None = None) -> Trust:
    """The same, of the settings that hold for a command. Raises ConfigError."""
    return trust_of(settings.load(config).model)
