"""What a bundle says about itself, and reading a bundle's files without trusting them."""

from __future__ import annotations

import hashlib
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec

from features.errors import BundleError

SCHEMA_VERSION: Final = 1
MANIFEST: Final = "manifest.json"
MODEL: Final = "model.ubj"
NO_FEATURES: Final = "no_features.ubj"
SMALL: Final = "small.ubj"
POLICY: Final = "policy.toml"
GOLDEN: Final = "golden.json"
SIGNATURE: Final = "manifest.sig"  # beside them, once somebody signed
CONTENT: Final = (MODEL, NO_FEATURES, POLICY, GOLDEN)  # of every bundle
OPTIONAL: Final = (SMALL,)
MAX_BYTES: Final = {SIGNATURE: 4 << 10, MANIFEST: 4 << 20, POLICY: 1 << 20, GOLDEN: 16 << 20} | dict.fromkeys(
    (MODEL, NO_FEATURES, SMALL), 512 << 20
)
_PICKLE_SUFFIXES: Final = (".pkl", ".pickle", ".joblib", ".dill", ".pt", ".pth", ".sav")

Count = Annotated[int, msgspec.Meta(ge=0)]
Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
Name = Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class FileEntry(msgspec.Struct, frozen=True):
    """The size and SHA-256 of one file."""

    bytes: Count
    sha256: Sha256


class TrainingWindow(msgspec.Struct, frozen=True):
    """The event times of the rows that the trees were fitted to, in ms since the epoch, both included."""

    first_ms: int
    last_ms: int


class Histogram(msgspec.Struct, frozen=True):
    """How values were spread.

    Attributes:
        edges: (k,) rising.
        counts: (k + 1,) values below the first edge, from it on below the second, and so on.
        missing: values that were missing.
    """

    edges: tuple[float, ...]
    counts: tuple[Count, ...]
    missing: Count


class Reference(msgspec.Struct, frozen=True):
    """How features and scores were spread when the model was made: drift is measured from there.

    Attributes:
        features: of each feature, over the payments that were learned from.
        score: of the main model, over payments behind those, whose labels were not known yet.
    """

    features: dict[str, Histogram]
    score: Histogram


class Manifest(msgspec.Struct, frozen=True):
    """`manifest.json`. Later versions may add fields, which are ignored here.

    Attributes:
        created_ms: when it was made, in ms since the epoch.
        features: the columns of the main model, in order.
        no_features: the columns of the second model, in order: those computed from the payment alone.
        trees: the number of trees of each model file.
        metrics: what training measured; JSON values.
        files: every other file of the bundle.
        reference: None in bundles that are older than it.
    """

    schema_version: int
    name: Name
    version: Name
    created_ms: int
    features: tuple[str, ...]
    no_features: tuple[str, ...]
    catalog_fingerprint: Sha256
    libraries: dict[str, str]
    training_window: TrainingWindow
    trees: dict[str, Count]
    metrics: dict[str, Any]
    files: dict[str, FileEntry]
    reference: Reference | None = None

    @property
    def has_small(self) -> bool:
        """Whether there is a small model, for payments that the main one would answer too late."""
        return SMALL in self.files

    @property
    def content(self) -> tuple[str, ...]:
        """The names of its files."""
        return CONTENT + OPTIONAL * self.has_small

    @property
    def columns(self) -> dict[str, tuple[str, ...]]:
        """The columns of each model file."""
        found = {MODEL: self.features, NO_FEATURES: self.no_features}
        return found | {SMALL: self.features} if self.has_small else found


class _Version(msgspec.Struct):
    schema_version: int


def parse_manifest(data: bytes, where: Path) -> Manifest:
    """Read a manifest.

    Raises:
        BundleError: it is no manifest, of another version, or names files that a bundle can't have.
    """
    try:
        version = msgspec.json.decode(data, type=_Version).schema_version
        if version != SCHEMA_VERSION:
            raise BundleError(
                f"{where} has schema_version {version} and this Fraudline reads {SCHEMA_VERSION}; "
                "train the bundle again with this version."
            )
        manifest = msgspec.json.decode(data, type=Manifest)
        msgspec.json.decode(data)  # what it does not know counts for the digest, and has to be JSON too
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"{where} is not a bundle's manifest ({error}); train the bundle again.") from error
    for name in manifest.files:
        if name not in CONTENT + OPTIONAL:
            raise BundleError(f"{where} lists a file that no bundle has ({name[:80]!r}); train the bundle again.")
    for name in CONTENT:
        if name not in manifest.files:
            raise BundleError(f"{where} does not list {name}; train the bundle again.")
    return manifest


def digest_of(manifest: bytes) -> str:
    """SHA-256 over a manifest's canonical form: keys sorted, no blanks. It identifies the bundle."""
    return hashlib.sha256(msgspec.json.encode(msgspec.json.decode(manifest), order="sorted")).hexdigest()


def read_file(directory: int, name: str, where: Path) -> bytes:
    """Read a regular file of an open directory, through no link and up to its `MAX_BYTES`.

    Raises:
        BundleError: it is missing, unreadable, too large, a link or no regular file.
    """
    limit = MAX_BYTES[name]
    path = where / name
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except FileNotFoundError:
        raise BundleError(f"{path} is missing; copy the whole bundle, or train it again.") from None
    except OSError as error:
        _refuse_link(directory, name, path)
        raise BundleError(f"{path} can't be opened ({error.strerror}); check its permissions.") from error
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise BundleError(f"{path} is not a regular file; copy the bundle's real files there.")
        try:
            data = file.read(limit + 1)
        except OSError as error:
            raise BundleError(f"{path} can't be read ({error.strerror}); copy the bundle again.") from error
    if len(data) > limit:
        raise BundleError(f"{path} is larger than {limit:,} bytes; it can't be a bundle's, train the bundle again.")
    return data


def read_signature(directory: int, where: Path) -> bytes | None:
    """What lies beside the manifest as its signature; None where nothing does. Raises BundleError, as `read_file`."""
    return read_file(directory, SIGNATURE, where) if SIGNATURE in os.listdir(directory) else None


def refuse_pickles(directory: int, where: Path) -> None:
    """Refuse a bundle that holds a pickled model under any name: reading a pickle runs what its author wrote.

    Raises:
        BundleError: there is one.
    """
    for name in sorted(os.listdir(directory)):
        if name.lower().endswith(_PICKLE_SUFFIXES):
            raise BundleError(
                f"{where / name} is a pickled model, which can run any code and is never read; "
                "export the model as UBJ and remove that file."
            )


def check_model_bytes(data: bytes, path: Path) -> None:
    """Refuse bytes that are no UBJ model before anything parses them.

    Raises:
        BundleError: they begin like a pickle, a ZIP or anything but a UBJ object.
    """
    if data.startswith(b"{L"):
        return
    pickled = data[:1] in {b"\x80", b"(", b"c", b"]", b"}"} or data.startswith((b"PK", b"\x1f\x8b"))
    kind = "a pickled or packed model, which can run any code and is never read" if pickled else "not a UBJ model"
    raise BundleError(f"{path} is {kind}; export the model with XGBoost's save_model as .ubj.")


def _refuse_link(directory: int, name: str, path: Path) -> None:
    with suppress(OSError):
        if stat.S_ISLNK(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
            raise BundleError(f"{path} is a symbolic link; copy the file itself there.")
