"""The model bundle: a directory with two models, a policy, golden rows and a manifest that vouches for all of them.

`load` trusts nothing: it reads each file once into memory, and what was read is what is checked, scored and used.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from features.catalog import PROFILES
from features.errors import BundleError, ConfigError
from models import golden, policy
from models.manifest import (
    GOLDEN,
    MANIFEST,
    MODEL,
    NO_FEATURES,
    POLICY,
    SMALL,
    Manifest,
    check_model_bytes,
    digest_of,
    parse_manifest,
    read_file,
    read_signature,
    refuse_pickles,
)
from models.policy import Policy
from models.signature import ANYBODY, Trust

GOLDEN_TOLERANCE: Final = 1e-6
GOLDEN_TIMEOUT_S: Final = 60.0
GOLDEN_NICENESS: Final = 10  # payments are decided meanwhile

Values = npt.NDArray[np.float32]


class CatalogLike(Protocol):
    """What a bundle needs to know of the catalog; see `features.catalog.Catalog`."""

    @property
    def names(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def flags(self) -> dict[str, bool]: ...  # noqa: D102
    @property
    def fingerprint(self) -> str: ...  # noqa: D102
    @property
    def payment_columns(self) -> tuple[int, ...]: ...  # noqa: D102
    def only(self, names: tuple[str, ...]) -> CatalogLike: ...  # noqa: D102


class GoldenRows(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """`golden.json`: rows (null where missing) and the score that each model gave them when it was made."""

    inputs: tuple[tuple[float | None, ...], ...]
    model: tuple[float, ...]
    no_features: tuple[float, ...]
    small: tuple[float, ...] | None = None

    def matrix(self) -> Values:
        """(n, features) float32, NaN where missing."""
        return np.array([[np.nan if v is None else v for v in row] for row in self.inputs], np.float32)


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle that passed every check.

    Attributes:
        digest: SHA-256 of the canonical manifest, which covers every file.
        model: the main model as UBJ, over all of `manifest.features`.
        no_features: the second model as UBJ, over `payment_columns` of them.
        payment_columns: where the second model's columns lie in the main model's, in order.
        small: a model over all of `manifest.features` for payments that the main one would answer too late, if any.
        signed_by: the name of the key whose signature was checked; None where none was asked for.
    """

    path: Path
    manifest: Manifest
    digest: str
    policy: Policy
    model: bytes
    no_features: bytes
    payment_columns: tuple[int, ...]
    small: bytes | None = None
    signed_by: str | None = None

    @property
    def models(self) -> dict[str, bytes]:
        """Each model by the name of its file."""
        found = {MODEL: self.model, NO_FEATURES: self.no_features}
        return found if self.small is None else found | {SMALL: self.small}


class Content(NamedTuple):
    """A bundle's files as they were read: the manifest's bytes and what they say, the digest, every other file.

    `signature` is what lies beside the manifest, and `signed_by` whose it is, if that was asked.
    """

    raw: bytes
    manifest: Manifest
    digest: str
    files: dict[str, bytes]
    signature: bytes | None
    signed_by: str | None


def load(path: Path, catalog: CatalogLike, trust: Trust = ANYBODY) -> Bundle:
    """Read and verify a bundle.

    In order: it exists, its manifest is signed by somebody whom `trust` names, readable and of this version, no pickle
    lies in it, every file is the one that the manifest vouches for, it fits the catalog, its policy is valid, and both
    models score the golden rows as they did when they were made, in a process of their own.

    Args:
        path: the bundle's directory (a link to it will do; the files in it must be real).
        catalog: the features that can be computed; it may have more than the bundle names.
        trust: whose signature counts, and whether there has to be one.

    Raises:
        BundleError: any of these fails; the sentence names the file and the mend.
    """
    content = read_files(path, trust=trust)
    return checked(path, content, catalog)


def checked(path: Path, content: Content, catalog: CatalogLike) -> Bundle:
    """The bundle of these files, once they passed all that `load` looks at behind the manifest. Raises BundleError."""
    manifest, files = content.manifest, content.files
    catalog = _fitting(path, manifest, catalog)
    try:
        rules = policy.parse(files[POLICY].decode(), catalog.flags, where=str(path / POLICY))
    except UnicodeDecodeError as error:
        raise BundleError(f"{path / POLICY} is not UTF-8; train the bundle again.") from error
    except ConfigError as error:
        raise BundleError(str(error)) from error
    _check_golden(path, manifest, files, catalog.payment_columns)
    if manifest.has_small and "small" not in rules.thresholds:
        raise BundleError(
            f"{path / POLICY} has no [thresholds.small], which {SMALL} needs; add it with a `review` score."
        )
    return Bundle(
        path,
        manifest,
        content.digest,
        rules,
        files[MODEL],
        files[NO_FEATURES],
        catalog.payment_columns,
        files.get(SMALL),
        content.signed_by,
    )


def read_files(path: Path, *, unsealed: str = "", trust: Trust = ANYBODY) -> Content:
    """Read a bundle's files and hold them to the manifest, but one, and that to its signature.

    Nothing of what they say is checked, and of a manifest whose signature does not hold nothing is read.

    Raises:
        BundleError: one is missing or not what the manifest vouches for, or nobody who is trusted signed it.
    """
    try:
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise BundleError(f"There is no model bundle at {path}; make one with `fraudline train`.") from None
    except NotADirectoryError:
        raise BundleError(f"{path} is a file, not a bundle's directory; give the directory.") from None
    except OSError as error:
        raise BundleError(f"The bundle {path} can't be opened ({error.strerror}); check its permissions.") from error
    try:
        raw = read_file(directory, MANIFEST, path)
        signature = read_signature(directory, path)
        signed_by = trust.check(path, raw, signature)
        manifest = parse_manifest(raw, path / MANIFEST)
        refuse_pickles(directory, path)
        files = {name: read_file(directory, name, path) for name in manifest.content}
    finally:
        os.close(directory)
    for name in manifest.columns:
        check_model_bytes(files[name], path / name)
    for name, data in files.items():
        entry = manifest.files[name]
        if name == unsealed:
            continue
        mend = "copy the bundle again"
        if name == POLICY:
            mend += ", or, if you changed it, put it into a bundle with `fraudline policy apply`"
        if len(data) != entry.bytes:
            raise BundleError(f"{path / name} has {len(data):,} bytes and the manifest says {entry.bytes:,}; {mend}.")
        if hashlib.sha256(data).hexdigest() != entry.sha256:
            raise BundleError(f"{path / name} is not the file that the manifest vouches for; {mend}.")
    return Content(raw, manifest, digest_of(raw), files, signature, signed_by)


def _fitting(path: Path, manifest: Manifest, catalog: CatalogLike) -> CatalogLike:
    """The part of the catalog that the bundle names, computed as it was when the bundle was made."""
    where = path / MANIFEST
    if missing := [name for name in manifest.features if name not in catalog.names]:
        raise BundleError(
            f"{where} needs features that this catalog does not compute ({_some(missing)}); "
            f"{_mend(manifest.features, missing, catalog)}"
        )
    used = catalog.only(manifest.features)
    if manifest.catalog_fingerprint != used.fingerprint:
        raise BundleError(
            f"{where} was made for features of the same names in another order or computed in another way; "
            "train the bundle again with this catalog."
        )
    if manifest.no_features != tuple(used.names[column] for column in used.payment_columns):
        raise BundleError(f"{where} names other payment features than the catalog; train the bundle again.")
    return used


def _mend(needed: Sequence[str], missing: Sequence[str], catalog: CatalogLike) -> str:
    """What to do about missing features: switch groups of the same profile on, take another profile, or train."""
    for profile, whole in PROFILES.items():
        if set(needed) <= set(whole.names):
            if set(catalog.names) <= set(whole.names):
                return f"switch on {', '.join(whole.groups_of(missing))} in the catalog file of the profile {profile}."
            return f"give it a catalog of the profile {profile}."
    return "train the bundle again with this catalog."


def _some(names: Sequence[str]) -> str:
    shown = sorted(name[:64] for name in names)
    return ", ".join(shown[:8]) + (f" and {len(shown) - 8} more" if len(shown) > 8 else "")


def _check_golden(path: Path, manifest: Manifest, files: dict[str, bytes], payment_columns: tuple[int, ...]) -> None:
    where = path / GOLDEN
    try:
        rows = msgspec.json.decode(files[GOLDEN], type=GoldenRows)
        values = rows.matrix()
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        raise BundleError(f"{where} holds no golden rows; train the bundle again.") from error
    if not len(values) or values.shape[1:] != (len(manifest.features),):
        raise BundleError(f"{where} does not have one value for each feature; train the bundle again.")
    narrow = np.ascontiguousarray(values[:, list(payment_columns)])
    told = {MODEL: rows.model, NO_FEATURES: rows.no_features, SMALL: rows.small or ()}
    answers = _score_apart(
        path, [(files[name], narrow if name == NO_FEATURES else values) for name in manifest.columns]
    )
    for (name, columns), answer in zip(manifest.columns.items(), answers, strict=True):
        if answer.names != columns or answer.columns != len(columns):
            raise BundleError(f"{path / name} has other columns than the manifest; train the bundle again.")
        if answer.trees != manifest.trees.get(name):
            raise BundleError(f"{path / name} has another number of trees than the manifest; train the bundle again.")
        scores = np.frombuffer(answer.scores, "<f4").astype(np.float64)
        expected = np.asarray(told[name], np.float64)
        if scores.shape != expected.shape or not np.all(np.abs(scores - expected) <= GOLDEN_TOLERANCE):
            raise BundleError(
                f"{path / name} does not score {GOLDEN} as it did when it was made (XGBoost "
                f"{manifest.libraries.get('xgboost', 'unknown')[:32]}); train the bundle again with this XGBoost."
            )


def _score_apart(path: Path, work: list[tuple[bytes, Values]]) -> list[golden.Response]:
    """Score rows in a child process: a corrupt model crashes that one."""
    requests = [
        msgspec.msgpack.encode(golden.Request(model, rows.astype("<f4").tobytes(), rows.shape[1]))
        for model, rows in work
    ]
    try:
        with subprocess.Popen(  # noqa: S603  # our own script, under our own interpreter
            [sys.executable, "-P", golden.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        ) as child:
            with suppress(OSError):  # it is over already
                os.setpriority(os.PRIO_PROCESS, child.pid, GOLDEN_NICENESS)
            try:
                answer, _ = child.communicate(msgspec.msgpack.encode(requests), GOLDEN_TIMEOUT_S)
            except BaseException:
                child.kill()
                raise
    except subprocess.TimeoutExpired as error:
        raise BundleError(
            f"The models of {path} did not score their golden rows within {GOLDEN_TIMEOUT_S:g} s; "
            "train the bundle again."
        ) from error
    except OSError as error:
        raise BundleError(
            f"The models of {path} can't be tried in a process of their own ({error.strerror}); free some memory."
        ) from error
    if child.returncode == 0:
        try:
            return msgspec.msgpack.decode(answer, type=list[golden.Response])
        except msgspec.DecodeError:
            pass
    died = f"signal {-child.returncode}" if child.returncode < 0 else f"exit code {child.returncode}"
    raise BundleError(
        f"A model of {path} is damaged, or made by an XGBoost that this one can't read: loading it in a process of its "
        f"own ended with {died}; train the bundle again."
    )
