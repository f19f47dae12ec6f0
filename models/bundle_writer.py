"""Makes a bundle: writes it beside its place, then swaps it in, so that no reader ever meets half of one."""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import xgboost

from features.errors import BundleError, ConfigError
from models import golden
from models.bundle import Bundle, CatalogLike, Content, GoldenRows, Values, checked, read_files
from models.manifest import (
    CONTENT,
    GOLDEN,
    MANIFEST,
    MODEL,
    NO_FEATURES,
    OPTIONAL,
    POLICY,
    SCHEMA_VERSION,
    SIGNATURE,
    SMALL,
    FileEntry,
    Manifest,
    Reference,
    TrainingWindow,
    digest_of,
)
from models.policy import Policy, parse, read_text
from models.signature import ANYBODY, Trust, private_key, signed


@dataclass(frozen=True, slots=True)
class Recipe:
    """What goes into a bundle.

    Attributes:
        model: the main model as UBJ, over all columns of the catalog.
        no_features: the second model as UBJ, over the catalog's payment columns.
        golden_rows: (n, features) float32 rows to score at every load, NaN where missing.
        window: the first and last event time in ms of the training rows.
        metrics: JSON values; no NaN.
        small: a model over all columns for payments that the main one would answer too late, as UBJ.
        reference: from where drift is measured.
    """

    name: str
    version: str
    created_ms: int
    model: bytes
    no_features: bytes
    policy: Policy
    golden_rows: Values
    window: tuple[int, int]
    metrics: Mapping[str, Any]
    small: bytes | None = None
    reference: Reference | None = None


def write(path: Path, recipe: Recipe, catalog: CatalogLike) -> Bundle:
    """Write a bundle to `path`, whole or not at all; a bundle that is already there is replaced.

    Everything is written beside `path` and forced to disk first. A new place is taken by one rename. An old bundle is
    moved aside just before, so for an instant a reader may find none; it never finds a mixture.

    Raises:
        ConfigError: `path` holds something that is no bundle, or can't be written.
    """
    check_place(path)
    bundle, files = _bake(path, recipe, catalog)
    _put(path, files)
    return bundle


def write_with_policy(
    bundle: Path,
    policy: Path,
    out: Path,
    catalog: CatalogLike,
    version: str | None = None,
    trust: Trust = ANYBODY,
) -> tuple[Bundle, bool]:
    """Write to `out` what a bundle holds, with another policy, which stays as it was written, comments included.

    Nobody has signed what comes of it. Returned is also whether somebody had signed the bundle.

    Args:
        bundle: its own policy may have been changed; all else must be as it was made.
        policy: a policy.toml; it may be the bundle's.
        out: as for `write`; it may be the bundle itself.
        catalog: the features that can be computed where it will decide.
        version: the new bundle's, if not the same.
        trust: whose signature counts on the bundle, and whether there has to be one.

    Raises:
        BundleError: the bundle can't be used.
        ConfigError: the policy can't be read or used, or `out` can't be written.
    """
    check_place(out)
    known = read_files(bundle, unsealed=POLICY, trust=trust)
    manifest, files = known.manifest, known.files
    told = read_text(policy)
    parse(told, catalog.flags, where=str(policy))
    files[POLICY] = text = told.encode()
    entries = manifest.files | {POLICY: FileEntry(len(text), hashlib.sha256(text).hexdigest())}
    manifest = msgspec.structs.replace(manifest, files=entries, version=version or manifest.version)
    raw = _pretty(manifest)
    made = checked(out, Content(raw, manifest, digest_of(raw), files, None, None), catalog)
    _put(out, files | {MANIFEST: raw})
    return made, known.signature is not None


def sign(bundle: Path, key: Path, password: str | None, expected: str | None = None) -> str:
    """Sign a bundle whose files are what its manifest vouches for; an older signature is replaced. The key's name.

    Raises:
        BundleError: the bundle is damaged, or not the one of the digest that is `expected`.
        ConfigError: the key can't be used, or the signature can't be written.
    """
    content = read_files(bundle)
    if expected not in (None, content.digest):
        raise BundleError(f"{bundle} was changed while it was looked at; sign it again.")
    signature = signed(content.raw, private_key(key, password))
    beside = bundle / f".{SIGNATURE}.{uuid.uuid4().hex}"
    try:
        try:
            _write_synced(beside, signature.encoded())
            beside.replace(bundle / SIGNATURE)
            _sync(bundle)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"{bundle / SIGNATURE} can't be written ({error.strerror}).") from error
    return signature.key


def _put(path: Path, files: Mapping[str, bytes]) -> None:
    """Put a bundle's files in their place; see `write`."""
    beside = path.parent / f".{path.name}.{uuid.uuid4().hex}"
    aside = beside.with_suffix(".old")
    try:
        try:
            beside.mkdir(mode=0o755)
            for name, data in files.items():
                _write_synced(beside / name, data)
            _sync(beside)
            if path.exists():
                path.rename(aside)
            try:
                beside.rename(path)
            except OSError:
                if aside.exists():
                    aside.rename(path)
                raise
            _sync(path.parent)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
            if path.exists():
                shutil.rmtree(aside, ignore_errors=True)
    except OSError as error:
        raise ConfigError(f"The bundle can't be written to {path} ({error.strerror}); {_MEND}.") from error


_MEND = "give a directory that you may write to and that has free space"


def check_place(path: Path) -> None:
    """Refuse a place that no bundle can be written to, before hours are spent on making one.

    Raises:
        ConfigError: it holds something else than a bundle, or its parent is missing or can't be written.
    """
    try:
        if path.is_symlink():
            raise ConfigError(f"{path} is a symbolic link; give the bundle's own place.")
        if path.exists():
            names = {entry.name for entry in path.iterdir()}
            if names and (MANIFEST not in names or names - {MANIFEST, SIGNATURE, *CONTENT, *OPTIONAL}):
                raise ConfigError(f"{path} is a directory with other things than a bundle in it; give another place.")
        if not path.parent.is_dir():
            raise ConfigError(f"The directory {path.parent} does not exist; make it first.")
    except OSError as error:
        raise ConfigError(f"The bundle can't be written to {path} ({error.strerror}); {_MEND}.") from error
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise ConfigError(f"The bundle can't be written to {path} (no permission); {_MEND}.")


def _bake(path: Path, recipe: Recipe, catalog: CatalogLike) -> tuple[Bundle, dict[str, bytes]]:
    rows, columns = recipe.golden_rows, list(catalog.payment_columns)
    models = {MODEL: recipe.model, NO_FEATURES: recipe.no_features}
    if recipe.small is not None:
        models[SMALL] = recipe.small
    told = {
        name: golden.score_rows(golden.Request(model, values.astype("<f4").tobytes(), values.shape[1]))
        for name, model in models.items()
        for values in [rows[:, columns] if name == NO_FEATURES else rows]
    }
    scores = {name: tuple(np.frombuffer(each.scores, "<f4").tolist()) for name, each in told.items()}
    content = {
        **models,
        POLICY: recipe.policy.to_toml().encode(),
        GOLDEN: _pretty(
            GoldenRows(
                inputs=tuple(tuple(None if np.isnan(v) else float(v) for v in row) for row in rows),
                model=scores[MODEL],
                no_features=scores[NO_FEATURES],
                small=scores.get(SMALL),
            )
        ),
    }
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        name=recipe.name,
        version=recipe.version,
        created_ms=recipe.created_ms,
        features=catalog.names,
        no_features=tuple(catalog.names[column] for column in columns),
        catalog_fingerprint=catalog.fingerprint,
        libraries={"fraudline": _own_version(), "numpy": np.__version__, "xgboost": xgboost.__version__},
        training_window=TrainingWindow(*recipe.window),
        trees={name: each.trees for name, each in told.items()},
        metrics=dict(recipe.metrics),
        files={name: FileEntry(len(data), hashlib.sha256(data).hexdigest()) for name, data in content.items()},
        reference=recipe.reference,
    )
    raw = _pretty(manifest)
    bundle = Bundle(
        path=path,
        manifest=manifest,
        digest=digest_of(raw),
        policy=recipe.policy,
        model=recipe.model,
        no_features=recipe.no_features,
        payment_columns=catalog.payment_columns,
        small=recipe.small,
    )
    return bundle, content | {MANIFEST: raw}


def _pretty(document: msgspec.Struct) -> bytes:
    return msgspec.json.format(msgspec.json.encode(document, order="sorted"), indent=1) + b"\n"


def _own_version() -> str:
    try:
        return metadata.version("fraudline")
    except metadata.PackageNotFoundError:  # run from a source tree that is not installed
        return "unknown"


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
