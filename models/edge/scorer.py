"""A bundle where only numpy and numba are: its scores, and what its thresholds make of them.

Rules, lists and features need the whole product; a device on the edge brings the values of the features, or only those
of the payment itself.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from .forest import ForestError, read
from .walk import Scores, Values, Walker

SCHEMA_VERSION: Final = 1
TOLERANCE: Final = 1e-6
MOST_BYTES: Final = 512 << 20
_LARGEST: Final = float(np.finfo(np.float32).max)
_FILES: Final = ("model.ubj", "no_features.ubj", "policy.toml", "golden.json")
Decision = Literal["approve", "review", "block"]
_DECISIONS: Final[tuple[Decision, ...]] = ("approve", "review", "block")


class EdgeError(Exception):
    """A bundle or a row can't be used; the text is one sentence for people."""


@dataclass(frozen=True, slots=True)
class Tier:
    """One model of a bundle: its columns in order, its walker, and its thresholds."""

    names: tuple[str, ...]
    walk: Walker
    review: float
    block: float | None

    def score(self, values: Values) -> Scores:
        """(n,) float32 probabilities of (n, columns) float32 values, NaN where missing. Raises ValueError."""
        return self.walk(values)

    def decide(self, scores: Scores) -> list[Decision]:
        """What the thresholds make of n scores; segments, rules and lists have no say here."""
        bar = np.float32(np.nan if self.block is None else self.block)
        level = (scores >= np.float32(self.review)).astype(int)
        return [_DECISIONS[each] for each in np.where(scores >= bar, 2, level).tolist()]

    def row(self, values: Mapping[str, Any]) -> Values:
        """(1, columns) float32 of values by name; what is not named, or null, is missing.

        Raises:
            EdgeError: a name is no column, or a value no number.
        """
        if unknown := sorted(set(values) - set(self.names)):
            raise EdgeError(f"{unknown[0]!r} is no column of this model; leave it out.")
        for name, value in values.items():
            if value is not None and (type(value) not in {int, float} or not abs(value) <= _LARGEST):
                raise EdgeError(f"{name} is no finite number; give one, or null where it is missing.")
        known = (values.get(name) for name in self.names)
        return np.array([[np.nan if value is None else value for value in known]], np.float32)


@dataclass(frozen=True, slots=True)
class EdgeModel:
    """A verified bundle.

    Attributes:
        full: the main model.
        payment_only: the one that looks at the payment alone.
    """

    name: str
    version: str
    full: Tier
    payment_only: Tier


def load(path: Path) -> EdgeModel:
    """Read and verify a bundle.

    Every file is the one that the manifest vouches for, and both models give the golden rows the scores that XGBoost
    gave them, within 1e-6.

    Raises:
        EdgeError: it can't be used.
    """
    manifest = _json(path, "manifest.json", _read(path, "manifest.json"))
    try:
        if manifest["schema_version"] != SCHEMA_VERSION:
            raise EdgeError(f"{path} has schema_version {manifest['schema_version']}, and {SCHEMA_VERSION} is needed.")
        files = {name: _vouched(path, name, manifest["files"][name]) for name in _FILES}
        thresholds = tomllib.loads(files["policy.toml"].decode())["thresholds"]
        golden = _json(path, "golden.json", files["golden.json"])
        rows = np.array([[np.nan if v is None else v for v in row] for row in golden["inputs"]], np.float32)
        names, own = tuple(manifest["features"]), tuple(manifest["no_features"])
        full = _tier(path, files["model.ubj"], "model.ubj", names, thresholds["full"])
        second = _tier(path, files["no_features.ubj"], "no_features.ubj", own, thresholds["no_features"])
        _check(path, full, rows, golden["model"])
        _check(path, second, np.ascontiguousarray(rows[:, [names.index(name) for name in own]]), golden["no_features"])
        return EdgeModel(str(manifest["name"]), str(manifest["version"]), full, second)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise EdgeError(f"{path} is no bundle that can be read ({type(error).__name__}: {error}).") from error


def _read(path: Path, name: str) -> bytes:
    try:
        with (path / name).open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise EdgeError(f"{path / name} can't be read ({error.strerror}); give a bundle's directory.") from error
    if len(data) > MOST_BYTES:
        raise EdgeError(f"{path / name} is larger than {MOST_BYTES:,} bytes; it can't be a bundle's.")
    return data


def _json(path: Path, name: str, data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise EdgeError(f"{path / name} is not JSON; copy the bundle again.") from error
    if not isinstance(found, dict):
        raise EdgeError(f"{path / name} holds no object; copy the bundle again.")
    return found


def _vouched(path: Path, name: str, entry: dict[str, Any]) -> bytes:
    data = _read(path, name)
    if hashlib.sha256(data).hexdigest() != entry["sha256"]:
        raise EdgeError(f"{path / name} is not the file that the manifest vouches for; copy the bundle again.")
    return data


def _tier(path: Path, model: bytes, name: str, names: tuple[str, ...], thresholds: dict[str, Any]) -> Tier:
    try:
        forest = read(model)
    except ForestError as error:
        raise EdgeError(f"{path / name} can't be walked: {error}.") from error
    if forest.names != names:
        raise EdgeError(f"{path / name} has other columns than the manifest; train the bundle again.")
    block = thresholds.get("block")
    return Tier(names, Walker(forest), float(thresholds["review"]), None if block is None else float(block))


def _check(path: Path, tier: Tier, rows: npt.NDArray[np.float32], told: list[float]) -> None:
    found, expected = tier.score(rows).astype(np.float64), np.asarray(told, np.float64)
    if not len(expected) or found.shape != expected.shape or not np.all(np.abs(found - expected) <= TOLERANCE):
        raise EdgeError(f"{path} does not score its golden rows as XGBoost did when it was made; train it again.")
