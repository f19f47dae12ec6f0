"""Settings from a file and from the environment: one sentence without a secret, or a tree that means what it shows."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from pydantic import SecretStr

from consumer.settings import KNOWN, Settings, describe, load
from consumer.settings_source import PREFIX, variable
from features.errors import ConfigError
from tests.fuzz.target import one_sentence, scratch

_CANARY: Final = "Zq9canary"  # seeds have it in their secrets
_PASSWORD: Final = re.compile(r"://[^:@/]*:([^@]+)@")


def check_toml(data: bytes) -> None:
    """A settings file."""
    with _environment({}):
        _check(scratch("fraudline.toml", data), _secrets_in(data))


def check_environment(data: bytes) -> None:
    """Lines NAME=VALUE are the environment."""
    given = {}
    for line in data.decode("utf-8", "replace").replace("\0", "").split("\n"):
        name, equals, value = line.partition("=")
        if equals and name.upper().startswith(PREFIX):
            given[name] = value
    dotted = {variable(name): name for name in KNOWN.secret}
    with _environment(given):
        _check(None, [each for name, value in given.items() for each in _secret(dotted.get(name, ""), value)])


def _check(path: Path | None, secrets: list[str]) -> None:
    try:
        settings = load(path)
    except ConfigError as error:
        text = one_sentence(error)
        assert not any(secret in text for secret in secrets), "a secret is told"
        return
    rows = describe(settings)
    assert len({name for name, _, _ in rows}) == len(rows) == len(KNOWN.secret)
    assert not any(secret in shown for secret in secrets for _, shown, _ in rows), "a secret is shown"
    assert not any(secret in repr(settings) for secret in secrets), "a secret is in the repr"
    assert _plain(Settings.model_validate(_plain(settings))) == _plain(settings)


def _plain(settings: Settings) -> dict[str, dict[str, Any]]:
    return {
        section: {
            name: value.get_secret_value() if isinstance(value, SecretStr) else value
            for name, value in getattr(settings, section)
        }
        for section in Settings.model_fields
    }


def _secrets_in(data: bytes) -> list[str]:
    try:
        sections = tomllib.loads(data.decode())
    except (ValueError, RecursionError):
        return []
    return [
        each
        for section, values in sections.items()
        if isinstance(values, dict)
        for name, value in values.items()
        for each in _secret(f"{section}.{name}", value)
    ]


def _secret(dotted: str, value: object) -> list[str]:
    """What of a setting must not be seen: a password, and of an address only that."""
    if not KNOWN.secret.get(dotted) or not isinstance(value, str):
        return []
    parts = _PASSWORD.findall(value) if dotted == "store.url" else [value]
    return [part for part in parts if _CANARY in part]


@contextmanager
def _environment(given: dict[str, str]) -> Iterator[None]:
    """Only these of our variables."""
    before = {name: value for name, value in os.environ.items() if name.upper().startswith(PREFIX)}
    for name in before:
        del os.environ[name]
    os.environ.update(given)
    try:
        yield
    finally:
        for name in given:
            os.environ.pop(name, None)
        os.environ.update(before)
