"""Who vouches for a bundle: a detached Ed25519 signature over its manifest, which holds the digest of every file.

`manifest.sig` is one line of JSON: which key signed, and the signature over `CONTEXT` and the manifest's bytes. The
context keeps a signature that was made for anything else from being taken for a bundle's. A key is named by the SHA-256
of its public half (DER), as `openssl pkey -pubin -in KEY.pub.pem -outform der | sha256sum` prints it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from features.errors import BundleError, ConfigError
from models.manifest import MANIFEST, SIGNATURE, Sha256

CONTEXT: Final = b"fraudline bundle manifest, version 1\0"
PRIVATE_KEY: Final = "signing-key.pem"
PUBLIC_KEY: Final = "signing-key.pub.pem"
SHOWN: Final = 16  # digits of a key's name
_KEY_BYTES: Final = 16_384
_SIGN: Final = "sign it with `fraudline model sign`"


class Signature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`manifest.sig`: the name of the key, and what it made of the manifest, as hexadecimal digits."""

    schema_version: Annotated[int, msgspec.Meta(ge=1, le=1)]
    algorithm: Annotated[str, msgspec.Meta(pattern="^ed25519$")]
    key: Sha256
    signature: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{128}$")]

    def encoded(self) -> bytes:
        """The only form in which it counts."""
        return msgspec.json.encode(self) + b"\n"


@dataclass(frozen=True, slots=True)
class Trust:
    """Whose signature counts: public keys (32 bytes) under their names, and whether there has to be one."""

    keys: tuple[tuple[str, bytes], ...] = ()
    required: bool = False

    def check(self, path: Path, manifest: bytes, signature: bytes | None) -> str | None:
        """The name of the key that signed these bytes; None where nothing is asked.

        A signature that is there has to hold, also where none is required, once there are keys to hold it to.

        Raises:
            BundleError: it is missing, damaged, of somebody else, or of other bytes.
        """
        if not self.keys and not self.required:
            return None
        where = path / SIGNATURE
        if signature is None:
            if self.required:
                raise BundleError(f"{path} is not signed, and model.signature is 'required'; {_SIGN}.")
            return None
        told = _parsed(signature, where)
        if (key := dict(self.keys).get(told.key)) is None:
            known = ", ".join(name[:SHOWN] for name, _ in self.keys)
            raise BundleError(
                f"{where} is by the key {told.key[:SHOWN]}, which is not trusted here (those are: {known}); "
                "have it signed by one of them, or add that key to model.trusted_keys."
            )
        try:
            Ed25519PublicKey.from_public_bytes(key).verify(bytes.fromhex(told.signature), CONTEXT + manifest)
        except InvalidSignature:
            raise BundleError(
                f"{where} is no signature of this {MANIFEST}: the bundle was changed, or the signature is another's; "
                f"copy the bundle again, or, if you changed it, {_SIGN}."
            ) from None
        return told.key


ANYBODY: Final = Trust()
"""No keys are known, so that nothing is asked."""


def _parsed(data: bytes, where: Path) -> Signature:
    try:
        told = msgspec.json.decode(data, type=Signature)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        told = None
    if told is None or told.encoded() != data:
        raise BundleError(f"{where} is damaged, or no signature of this version; copy it again, or {_SIGN}.")
    return told


def trust(files: Iterable[Path], *, required: bool) -> Trust:
    """Trust the keys of these PEM files. Raises ConfigError for one that is no Ed25519 public key."""
    keys = {name_of(key): key for key in map(_public_key, files)}
    return Trust(tuple(keys.items()), required)


def name_of(public: bytes) -> str:
    """The name of a public key (32 bytes)."""
    key = Ed25519PublicKey.from_public_bytes(public)
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def _public_key(path: Path) -> bytes:
    data = _read(path)
    if b"PRIVATE KEY" in data:
        raise ConfigError(f"{path} holds a private key; give the public one, and keep that one secret.")
    try:
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError(f"{path} holds no Ed25519 public key in PEM; `fraudline model keygen` makes one.")
    return key.public_bytes_raw()


def private_key(path: Path, password: str | None) -> Ed25519PrivateKey:
    """The key in a PEM file. Raises ConfigError: it is none, or the password is missing, not needed or wrong."""
    data = _read(path)
    try:
        key = load_pem_private_key(data, None if password is None else password.encode())
    except TypeError:
        why = "is encrypted: give --password-file or --password-env" if password is None else "is not encrypted"
        raise ConfigError(f"{path} {why}.") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError(f"{path} holds no private key in PEM, or the password is wrong.") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{path} holds another key than an Ed25519 one; `fraudline model keygen` makes one.")
    return key


def signed(manifest: bytes, key: Ed25519PrivateKey) -> Signature:
    """A signature of a manifest's bytes."""
    name = name_of(key.public_key().public_bytes_raw())
    return Signature(1, "ed25519", name, key.sign(CONTEXT + manifest).hex())


def make_keys(folder: Path, password: str | None) -> str:
    """Make a key pair: `signing-key.pem`, which only its owner may read, and `signing-key.pub.pem`. The key's name.

    Raises:
        ConfigError: one is there already, or the folder can't be written.
    """
    key = Ed25519PrivateKey.generate()
    how: KeySerializationEncryption = NoEncryption() if password is None else BestAvailableEncryption(password.encode())
    public = key.public_key()
    files = (
        (folder / PRIVATE_KEY, 0o600, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, how)),
        (folder / PUBLIC_KEY, 0o644, public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)),
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, _, _ in files:
            if path.exists():
                raise ConfigError(f"{path} is there already, and a key is never written over; give another folder.")
        for path, mode, data in files:
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                file.write(data)
    except OSError as error:
        raise ConfigError(f"The keys can't be written to {folder} ({error.strerror}).") from None
    return name_of(public.public_bytes_raw())


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_KEY_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"The key {path} can't be read ({error.strerror}).") from None
    if len(data) > _KEY_BYTES:
        raise ConfigError(f"{path} is too large to be a key.")
    return data
