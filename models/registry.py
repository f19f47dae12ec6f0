"""The registry of models: bundles side by side, and for each role a small file that says which one holds.

    REGISTRY/bundles/<version>-<digest>/   whole bundles, never changed once they are there
    REGISTRY/champion.json                 which one decides, and which ones did before it
    REGISTRY/challenger.json               which one is tried beside it

A registry is a directory or anything that fsspec can reach (s3://, gs://, memory://). A bundle is copied whole before
the file of a role names it, and that file is replaced in one step: a reader finds the old state or the new one.
"""

from __future__ import annotations

import re
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from getpass import getuser
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

import fsspec
import msgspec

from features.errors import BundleError, ConfigError, RegistryUnavailable
from models.bundle import CatalogLike, load, read_files
from models.manifest import MANIFEST, MAX_BYTES, SIGNATURE, Manifest, Sha256, digest_of, parse_manifest
from models.signature import ANYBODY, Trust

SCHEMA_VERSION: Final = 1
Role = Literal["champion", "challenger"]
ROLES: Final[tuple[Role, ...]] = ("champion", "challenger")
BUNDLES: Final = "bundles"
REMEMBERED: Final = 50  # promotions of a role
ROLE_LIMIT_BYTES: Final = 1 << 20
DIGEST_SHOWN: Final = 12
DIGEST_LEAST: Final = 4  # digits that name a bundle
_FOLDER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_PASSWORD: Final = re.compile(r"(//[^/:@\s]*):\S*@")
_T = TypeVar("_T")

Folder = Annotated[str, msgspec.Meta(pattern=f"^{_FOLDER.pattern}$")]


class Promotion(msgspec.Struct, frozen=True):
    """A bundle was given a role: its folder below `bundles`, when (ms since the epoch) and by whom."""

    bundle: Folder
    version: str
    digest: Sha256
    at_ms: int
    by: str = ""


class Stopped(msgspec.Struct, frozen=True):
    """The canary of a challenger was rolled back: it decides nothing any more, and goes on in shadow."""

    digest: Sha256
    at_ms: int
    reason: str


class Standing(msgspec.Struct, frozen=True, omit_defaults=True):
    """`<role>.json`: who has a role (None for nobody), and who had it before, the newest first."""

    schema_version: int = SCHEMA_VERSION
    current: Promotion | None = None
    earlier: tuple[Promotion, ...] = ()
    stopped: Stopped | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """A bundle in the registry. `manifest` is None where it can't be read, and `problem` says why."""

    bundle: str
    manifest: Manifest | None
    digest: str
    roles: tuple[Role, ...]
    problem: str = ""


class Registry:
    """One registry. Every verb raises RegistryUnavailable when it can't be reached.

    Args:
        url: a directory, or a URL of fsspec. Credentials are the provider's own (its environment, its files).

    Raises:
        ConfigError: nothing here can reach such a URL.
        RegistryUnavailable: it does not answer, of the protocols that ask at once.
    """

    def __init__(self, url: str) -> None:
        self.url = _hidden(url)  # it is shown, and audited
        try:
            self._files, root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise ConfigError(
                f"The model registry {self.url} can't be reached from here ({error}); give a directory, or install the "
                "fsspec package of that protocol."
            ) from None
        except Exception as error:  # some protocols connect at once
            raise self._silent(error) from error
        self._root = root.rstrip("/")
        self._is_local = "file" in _protocols(self._files)

    def standing(self, role: Role) -> Standing:
        """Who has a role. Raises BundleError when its file is damaged."""
        data = self._asked(lambda: self._content(f"{role}.json", ROLE_LIMIT_BYTES))
        if data is None:
            return Standing()
        where = f"{self.url}/{role}.json"
        try:
            standing = msgspec.json.decode(data, type=Standing)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BundleError(f"{where} is damaged ({error}); promote a bundle again.") from None
        if standing.schema_version != SCHEMA_VERSION:
            raise BundleError(
                f"{where} has schema_version {standing.schema_version} and this Fraudline reads {SCHEMA_VERSION}; "
                "promote a bundle again with this version."
            )
        return standing

    @contextmanager
    def bundle(self, folder: str) -> Iterator[Path]:
        """A bundle's directory, to load it from: its own place here, or a copy of a remote one.

        Raises BundleError when a file of it is missing. Nothing else is checked.
        """
        if self._is_local:
            yield Path(self._root) / BUNDLES / folder
            return
        with tempfile.TemporaryDirectory(prefix="fraudline-bundle-") as copy:
            self._copy(folder, MANIFEST, Path(copy))
            for name in parse_manifest((Path(copy) / MANIFEST).read_bytes(), Path(folder) / MANIFEST).content:
                self._copy(folder, name, Path(copy))
            place = f"{BUNDLES}/{folder}/{SIGNATURE}"
            signature = self._asked(partial(self._content, place, MAX_BYTES[SIGNATURE]))
            if signature is not None:
                (Path(copy) / SIGNATURE).write_bytes(signature)
            yield Path(copy)

    def _copy(self, folder: str, name: str, to: Path) -> None:
        place = f"{BUNDLES}/{folder}/{name}"
        data = self._asked(partial(self._content, place, MAX_BYTES[name]))
        if data is None:
            raise BundleError(f"{self.url}/{place} is missing; promote the bundle again.")
        (to / name).write_bytes(data)

    def entries(self) -> list[Entry]:
        """All bundles, the newest first; those that can't be read come last.

        Files are there and as long as they should be, or that is the bundle's problem; what is in them isn't looked at.
        """
        if self._is_local and not Path(self._root).is_dir():
            raise ConfigError(f"There is no registry at {self.url}; give its place, or promote a bundle to make it.")
        roles = {role: self.standing(role).current for role in ROLES}
        found = []
        for bundle in self._asked(self._folders):
            holds = tuple(role for role, promotion in roles.items() if promotion and promotion.bundle == bundle)
            try:
                data = self._asked(partial(self._content, f"{BUNDLES}/{bundle}/{MANIFEST}", MAX_BYTES[MANIFEST]))
                if data is None:
                    raise BundleError(f"{MANIFEST} is missing")
                manifest = parse_manifest(data, Path(bundle) / MANIFEST)
            except BundleError as error:
                found.append(Entry(bundle, None, "", holds, str(error)))
            else:
                found.append(Entry(bundle, manifest, digest_of(data), holds, self._damage(bundle, manifest)))
        return sorted(found, key=lambda entry: (-(entry.manifest.created_ms if entry.manifest else 0), entry.bundle))

    def _damage(self, bundle: str, manifest: Manifest) -> str:
        """Which files of a bundle are missing or of another size than its manifest says."""
        there = self._asked(lambda: self._files.ls(f"{self._root}/{BUNDLES}/{bundle}", detail=True))
        sizes = {str(each["name"]).rsplit("/", 1)[-1]: each["size"] for each in there}
        wrong = [name for name, entry in manifest.files.items() if sizes.get(name) != entry.bytes]
        return f"{', '.join(wrong)} damaged; promote the bundle again" if wrong else ""

    def find(self, text: str) -> Entry:
        """The bundle of this folder, version, role or beginning of a digest. ConfigError for none, or several."""
        entries = self.entries()
        for found in (
            [entry for entry in entries if entry.bundle == text or text in entry.roles],
            [entry for entry in entries if entry.manifest is not None and entry.manifest.version == text],
            [entry for entry in entries if len(text) >= DIGEST_LEAST and entry.digest.startswith(text)],
        ):
            if len(found) == 1:
                return found[0]
            if found:
                names = ", ".join(entry.bundle for entry in found)
                raise ConfigError(
                    f"{text} names {len(found)} bundles of {self.url} ({names}); give one of these names."
                )
        raise ConfigError(f"{self.url} has no bundle {text}; fraudline model list shows those that it has.")

    def promote(
        self,
        path: Path,
        role: Role,
        catalog: CatalogLike,
        *,
        known: str | None = None,
        by: str | None = None,
        expected: str | None = None,
        trust: Trust = ANYBODY,
    ) -> Promotion:
        """Verify a bundle, copy it here, and give it a role.

        Args:
            path: the bundle's directory.
            role: the role.
            catalog: the features that can be computed where it will decide.
            known: the folder here that `path` is a copy of: nothing is copied.
            by: who does it; without it, who runs this process.
            expected: the digest that the bundle must have, if one is given.
            trust: whose signature counts, and whether there has to be one.

        Raises:
            BundleError: it is refused; nothing was changed.
        """
        bundle = load(path, catalog, trust)
        raw, manifest, digest, files, signature, _ = read_files(path, trust=trust)
        if digest != bundle.digest or expected not in (None, digest):
            raise BundleError(f"{path} was changed while it was verified; promote it again.")
        folder = known or f"{manifest.version}-{digest[:DIGEST_SHOWN]}"
        if known is None:
            more = {MANIFEST: raw} if signature is None else {SIGNATURE: signature, MANIFEST: raw}
            self._asked(lambda: self._store_all(f"{BUNDLES}/{folder}", files | more))
        promotion = Promotion(folder, manifest.version, digest, round(time.time() * 1_000), by or _user())
        before = self._standing_or_none(role)
        earlier = before.earlier
        if before.current is not None and before.current.digest != digest:
            earlier = (before.current, *before.earlier)
        self._set(role, Standing(current=promotion, earlier=earlier[:REMEMBERED]))
        return promotion

    def rollback(self, role: Role, *, by: str | None = None) -> Promotion:
        """Give a role back to the one that had it before, and say `by` whom. Raises ConfigError when nobody had."""
        before = self.standing(role)
        if not before.earlier:
            raise ConfigError(f"{self.url} remembers no earlier {role}; promote the one that you want.")
        last = before.earlier[0]
        promotion = Promotion(last.bundle, last.version, last.digest, round(time.time() * 1_000), by or _user())
        self._set(role, Standing(current=promotion, earlier=before.earlier[1:]))
        return promotion

    def withdraw(self, role: Role) -> Promotion:
        """Take a role from whoever has it. Raises ConfigError when nobody has."""
        before = self.standing(role)
        if before.current is None:
            raise ConfigError(f"{self.url} has no {role}.")
        self._set(role, Standing(earlier=(before.current, *before.earlier)[:REMEMBERED]))
        return before.current

    def stop(self, digest: str, reason: str) -> bool:
        """Say that the canary of this challenger is rolled back. Whether it still was the challenger."""
        before = self.standing("challenger")
        if before.current is None or before.current.digest != digest:
            return False
        if before.stopped is None or before.stopped.digest != digest or before.stopped.at_ms < before.current.at_ms:
            stopped = Stopped(digest, round(time.time() * 1_000), reason)
            self._set("challenger", msgspec.structs.replace(before, stopped=stopped))
        return True

    def _standing_or_none(self, role: Role) -> Standing:
        """What a promotion replaces: a damaged file is mended by it."""
        try:
            return self.standing(role)
        except BundleError:
            return Standing()

    def _set(self, role: Role, standing: Standing) -> None:
        self._asked(lambda: self._store(f"{role}.json", msgspec.json.format(msgspec.json.encode(standing))))

    def _folders(self) -> list[str]:
        self._files.invalidate_cache()
        try:
            names = self._files.ls(f"{self._root}/{BUNDLES}", detail=False)
        except FileNotFoundError:
            return []
        folders = [str(name).rstrip("/").rsplit("/", 1)[-1] for name in names]
        return sorted(name for name in folders if _FOLDER.fullmatch(name))

    def _content(self, name: str, limit: int) -> bytes | None:
        """A file's bytes; None where there is none."""
        try:
            data: bytes = self._files.cat_file(f"{self._root}/{name}", start=0, end=limit + 1)
        except FileNotFoundError:
            return None
        if len(data) > limit:
            raise BundleError(f"{self.url}/{name} is larger than {limit:,} bytes; it can't be a bundle's.")
        return data

    def _store_all(self, folder: str, files: dict[str, bytes]) -> None:
        for name, data in files.items():
            if self._content(f"{folder}/{name}", MAX_BYTES[name]) != data:
                self._store(f"{folder}/{name}", data)

    def _store(self, name: str, data: bytes) -> None:
        """Put a file in its place in one step: a rename, or the one request of an object store."""
        place = f"{self._root}/{name}"
        if not self._is_local:
            self._files.pipe_file(place, data)
            return
        self._files.makedirs(place.rsplit("/", 1)[0], exist_ok=True)
        beside = f"{place}.{uuid.uuid4().hex}"
        try:
            self._files.pipe_file(beside, data)
            Path(beside).replace(place)
        finally:
            Path(beside).unlink(missing_ok=True)

    def _asked(self, question: Callable[[], _T]) -> _T:
        """Ask, and say in our words what went wrong: each protocol has errors of its own."""
        try:
            return question()
        except (BundleError, ConfigError):
            raise
        except Exception as error:
            raise self._silent(error) from error

    def _silent(self, error: Exception) -> RegistryUnavailable:
        why = _hidden(getattr(error, "strerror", None) or f"{type(error).__name__}: {error}")
        return RegistryUnavailable(
            f"The model registry {self.url} does not answer ({why}); check its address and credentials."
        )


def _hidden(text: str) -> str:
    """A text without the passwords of the addresses in it."""
    return _PASSWORD.sub(r"\1:***@", text)


def _protocols(files: Any) -> tuple[str, ...]:
    protocol = files.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)


def _user() -> str:
    try:
        return getuser()
    except (OSError, KeyError):  # no name for this user id, as in many containers
        return ""
