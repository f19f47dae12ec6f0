"""Where settings come from: reading the TOML file and the environment, unknown names, secrets kept in files."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from features.errors import ConfigError

PREFIX: Final = "FRAUDLINE_"
CONFIG_VARIABLE: Final = "FRAUDLINE_CONFIG"
SECRET_FILE_SUFFIX: Final = "_file"  # noqa: S105  the end of a name, not a secret
MAX_SECRET_BYTES: Final = 65_536
MASK: Final = "********"

_USER: Final = re.compile(r"(\w://)\S*@|(?<![^\s,])[^\s:/@]+:(?!//)[^\s,]*@")

# Kubernetes describes every Service to every pod; one called `fraudline` would otherwise look like wrong settings.
_SERVICE_LINK: Final = re.compile(r"FRAUDLINE_([A-Z0-9]+_)*(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9]+)*|PORT(_\d+_\w+)?)")


@dataclass(frozen=True, slots=True)
class Known:
    """The names that may be set: each setting's dotted name, and whether it is a secret."""

    secret: Mapping[str, bool]

    def names(self) -> list[str]:
        """Every dotted name, with the `_file` twin of each secret."""
        return [*self.secret, *(name + SECRET_FILE_SUFFIX for name, hidden in self.secret.items() if hidden)]

    def secret_of_file(self, dotted: str) -> str | None:
        """The secret that `dotted` names a file for, if it does."""
        secret = dotted.removesuffix(SECRET_FILE_SUFFIX)
        return secret if secret != dotted and self.secret.get(secret, False) else None


@dataclass(slots=True)
class Gathered:
    """Settings as found so far, by dotted name: what a later source adds wins over what an earlier one said."""

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    secret_files: dict[str, Path] = field(default_factory=dict)

    def add(self, found: Mapping[str, Any], known: Known, origin: Callable[[str], str]) -> None:
        """Lay one source over the others; a secret's file is read here.

        Raises:
            ConfigError: a secret is given twice in this source, or its file can't be read.
        """
        for dotted, value in found.items():
            secret = known.secret_of_file(dotted)
            if secret is None:
                self.values[dotted], self.origins[dotted] = value, origin(dotted)
                continue
            if secret in found:
                raise ConfigError(f"{secret} and {dotted} are both set (from {origin(dotted)}): keep one of them.")
            self.values[secret] = read_secret(Path(str(value)), dotted)
            self.secret_files[secret] = Path(str(value))
            self.origins[secret] = f"{value} ({origin(dotted)})"

    def tree(self) -> dict[str, dict[str, Any]]:
        """The values as sections, as the settings tree takes them."""
        sections: dict[str, dict[str, Any]] = {}
        for dotted, value in self.values.items():
            section, name = dotted.split(".", 1)
            sections.setdefault(section, {})[name] = value
        return sections


def variable(dotted: str) -> str:
    """The environment variable of a setting: `kafka.group_id` is `FRAUDLINE_KAFKA__GROUP_ID`."""
    return PREFIX + dotted.upper().replace(".", "__")


def flatten(sections: Mapping[str, Any]) -> dict[str, Any]:
    """`{"kafka": {"group_id": "x"}}` as `{"kafka.group_id": "x"}`."""
    return {f"{section}.{name}": value for section, values in sections.items() for name, value in values.items()}


def refuse_unknown_variables(environ: Iterable[str], known: Known) -> None:
    """Refuse a `FRAUDLINE_*` variable that no setting reads, so that a typing error is not silently a default.

    Raises:
        ConfigError: names the variable and the nearest known one.
    """
    allowed = {CONFIG_VARIABLE, *(variable(name) for name in known.names())}
    for name in sorted(environ):
        if name.upper().startswith(PREFIX) and name not in allowed and not _SERVICE_LINK.fullmatch(name):
            raise ConfigError(f"{name} is not a setting{_nearest(name.upper(), allowed)}: correct it or unset it.")


def read_toml(path: Path, known: Known) -> dict[str, Any]:
    """The settings in a TOML file, by dotted name.

    Raises:
        ConfigError: it can't be read, is not TOML, or holds an unknown name.
    """
    try:
        sections = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"The settings file {path} can't be read: {error.strerror or 'unknown error'}.") from None
    except UnicodeDecodeError:
        raise ConfigError(f"The settings file {path} is not UTF-8 text.") from None
    except tomllib.TOMLDecodeError as error:
        place = re.search(r"\(at (.*)\)", str(error))
        where = place.group(1) if place else "an unknown place"
        raise ConfigError(f"The settings file {path} is not valid TOML at {where}.") from None
    allowed = known.names()
    names = {name.partition(".")[0] for name in allowed}
    for section, values in sections.items():
        if not isinstance(values, dict) or section not in names:
            hint = _nearest(section, names)
            raise ConfigError(f"{section} in {path} is not a section of the settings{hint}: correct or remove it.")
    found = flatten(sections)
    for dotted in found:
        if dotted not in allowed:
            raise ConfigError(f"{dotted} in {path} is not a setting{_nearest(dotted, allowed)}: correct or remove it.")
    return found


def _nearest(name: str, allowed: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.5)
    return f" (did you mean {near[0]}?)" if near else ""


def read_secret(path: Path, dotted: str) -> str:
    """The text of a secret's file, less the line end that editors and `kubectl` leave behind. Raises ConfigError."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_SECRET_BYTES + 1)
        text = raw.decode("utf-8").rstrip("\r\n")
    except OSError as error:
        raise ConfigError(f"{dotted} names {path}, which can't be read: {error.strerror or 'unknown error'}.") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{dotted} names {path}, which is not UTF-8 text.") from None
    if not text or len(raw) > MAX_SECRET_BYTES:
        raise ConfigError(f"{dotted} names {path}, which is empty or longer than {MAX_SECRET_BYTES} bytes.")
    return text


def without_user(text: str) -> str:
    """`text`, and if it is an address with a user or a password, which such settings should not have, these masked."""
    return _USER.sub(lambda found: f"{found[1] or ''}{MASK}@", text)


def shown_url(url: str) -> str:
    """A Redis URL without its password and query; only the mask if it is not certain where the password ends."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return MASK
    rest = f"{parts.path}{parts.query}{parts.fragment}"
    local = parts.scheme == "unix" and bool(parts.path)
    if "@" in rest or parts.fragment or not (local or (parts.scheme in {"redis", "rediss"} and parts.hostname)):
        return MASK
    user = f"{parts.username or ''}:{MASK}@" if parts.password else f"{parts.username}@" if parts.username else ""
    host = parts.hostname or ""
    at = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{user}{at}{'' if port is None else f':{port}'}{parts.path}{'?…' if parts.query else ''}"
