"""Which features a deployment computes: a built-in profile, or a catalog file that switches groups of one on.

profile = "default"
groups = ["payment", "card.volume", "merchant.labels"]

[limits]
duplicate_ms = 259_200_000  # recognise a repeated event id for three days
"""

from __future__ import annotations

import tomllib
from difflib import get_close_matches
from pathlib import Path

import msgspec

from features.catalog import PROFILES, Catalog, Limits
from features.errors import ConfigError
from features.reader import limits_array

_KEYS = {"profile", "groups", "limits"}


def load_catalog(name: str) -> Catalog:
    """The catalog that a profile's name or a file's path stands for.

    Raises:
        ConfigError: there is no such profile or file, or the file can't be used.
    """
    if name in PROFILES:
        return PROFILES[name]
    path = Path(name)
    try:
        declared = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        known = " and ".join(PROFILES)
        raise ConfigError(
            f"{name!r} is no catalog: give a profile ({known}) or the path of a catalog file"
            + _hint(name, list(PROFILES))
        ) from None
    except OSError as error:
        raise ConfigError(f"the catalog file {path} can't be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise ConfigError(f"the catalog file {path} is not UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"the catalog file {path} is not TOML: {error}") from None
    return _catalog(path, declared)


def _catalog(path: Path, declared: dict[str, object]) -> Catalog:
    if unknown := sorted(set(declared) - _KEYS):
        raise ConfigError(f"{path}: {unknown[0]!r} is unknown; a catalog file has `profile`, `groups` and `limits`")
    profile, groups = declared.get("profile", "default"), declared.get("groups")
    if not isinstance(profile, str) or profile not in PROFILES:
        raise ConfigError(f"{path}: profile must be one of {', '.join(PROFILES)}{_hint(str(profile), list(PROFILES))}")
    whole = PROFILES[profile]
    limits = _limits(path, declared.get("limits", {}), whole.limits)
    if groups is None:
        return whole if limits == whole.limits else Catalog(whole.features, limits)
    if not isinstance(groups, list) or not groups or not all(isinstance(group, str) for group in groups):
        raise ConfigError(f"{path}: groups must be a list of names of groups")
    for group in groups:
        if group not in whole.groups:
            hint = _hint(group, list(whole.groups))
            raise ConfigError(f"{path}: the profile {profile} has no group {group!r}{hint}; it has {_list(whole)}")
    return Catalog(tuple(feature for feature in whole.features if feature.group in groups), limits)


def _limits(path: Path, declared: object, default: Limits) -> Limits:
    try:
        limits = msgspec.convert(msgspec.to_builtins(default) | msgspec.convert(declared, dict[str, object]), Limits)
        limits_array(limits)
    except (msgspec.ValidationError, ValueError) as error:
        raise ConfigError(f"{path}: the limits can't be used: {str(error)[0].lower()}{str(error)[1:]}") from None
    return limits


def _hint(word: str, known: list[str]) -> str:
    near = get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _list(catalog: Catalog) -> str:
    return ", ".join(catalog.groups)
