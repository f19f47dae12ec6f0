"""What differs between two bundles, in the words that people compare them by."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from features.errors import BundleError
from models.bundle import read_files
from models.manifest import POLICY, Manifest

Row = tuple[str, Any, Any]

_METRICS = {"ap": "average_precision", "auc": "roc_auc"}


def metric(manifest: Manifest, name: str) -> float | None:
    """`ap` or `auc` of the main model as training measured it; None where it did not."""
    full = manifest.metrics.get("full")
    value = full.get(_METRICS[name]) if isinstance(full, Mapping) else None
    return value if isinstance(value, float) else None


def difference(old: Path, new: Path) -> list[Row]:
    """Names and both values of everything that is not the same; None where there is nothing.

    In order: the bundles themselves, features, what training was told and measured, libraries, the policy. Files are
    held to their manifests, and nothing more is checked. Raises BundleError.
    """
    (old_manifest, old_digest, old_policy), (new_manifest, new_digest, new_policy) = _read(old), _read(new)
    rows: list[Row] = [] if old_digest == new_digest else [("digest", old_digest, new_digest)]
    rows += _differences(_summary(old_manifest), _summary(new_manifest))
    rows += [("features", name, None) for name in old_manifest.features if name not in new_manifest.features]
    rows += [("features", None, name) for name in new_manifest.features if name not in old_manifest.features]
    for part in ("metrics", "libraries"):
        rows += _differences({part: getattr(old_manifest, part)}, {part: getattr(new_manifest, part)})
    return rows + _differences(_by_id(old_policy), _by_id(new_policy))


def _read(path: Path) -> tuple[Manifest, str, dict[str, Any]]:
    content = read_files(path)
    try:
        return content.manifest, content.digest, tomllib.loads(content.files[POLICY].decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BundleError(f"{path / POLICY} can't be read ({error}); train the bundle again.") from None


def _summary(manifest: Manifest) -> dict[str, Any]:
    window = manifest.training_window
    return {
        "name": manifest.name,
        "version": manifest.version,
        "made": _moment(manifest.created_ms),
        "trained_from": _moment(window.first_ms),
        "trained_to": _moment(window.last_ms),
        "trees": dict(manifest.trees),
        "catalog_fingerprint": manifest.catalog_fingerprint,
    }


def _by_id(policy: dict[str, Any]) -> dict[str, Any]:
    """Rules and segments by their names, so that their order says nothing."""
    named = {}
    for name, value in policy.items():
        if isinstance(value, list):
            named[name] = {str(each.get("id") or each.get("name")): each for each in value if isinstance(each, dict)}
        elif isinstance(value, dict):
            named[name] = _by_id(value)
        else:
            named[name] = value
    return {"policy": named} if "schema_version" in policy else named


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Row]:
    before, after = dict(_flat(old)), dict(_flat(new))
    names = [*before, *(name for name in after if name not in before)]
    return [
        (name, before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)
    ]  # None and a name that is not there are the same


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            yield f"{prefix}{name}", msgspec.json.encode(value).decode()
        else:
            yield f"{prefix}{name}", value


def _moment(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1_000, UTC).isoformat(timespec="seconds")
