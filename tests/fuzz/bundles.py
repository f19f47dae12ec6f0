"""Bundles: manifests, UBJ by our own reader, and whole bundles whose files a forger has changed and vouched for."""

from __future__ import annotations

import math
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from features.catalog import DEFAULT
from features.errors import BundleError
from models.bundle import load
from models.edge.forest import ForestError, read
from models.edge.ubj import UbjError, parse
from models.edge.walk import Walker
from models.manifest import GOLDEN, MANIFEST, MODEL, NO_FEATURES, POLICY, Manifest, digest_of, parse_manifest
from tests.fuzz.target import one_sentence
from tests.support.bundles import make_bundle, replace_file

_FILES: Final = (MODEL, NO_FEATURES, POLICY, GOLDEN, MANIFEST)
_SIZES: Final = {"i": ">b", "U": ">B", "I": ">h", "l": ">i", "L": ">q", "d": ">f", "D": ">d"}
_LARGE: Final = 1e6


def check_manifest(data: bytes) -> None:
    """A manifest: one sentence, or what is the same again once it is written, with a digest that its layout leaves."""
    try:
        manifest = parse_manifest(data, Path("bundle/manifest.json"))
        digest = digest_of(data)
    except BundleError as error:
        one_sentence(error)
        return
    encoded = msgspec.json.encode(manifest)
    assert msgspec.json.decode(encoded, type=Manifest) == manifest
    assert digest == digest_of(b" " + msgspec.json.encode(msgspec.json.decode(data)))
    assert set(manifest.columns) <= set(manifest.files)


def check_ubj(data: bytes) -> None:
    """UBJ: read as a plain reader reads it, or refused as there; a forest walks as its trees say."""
    expected = _plainly(data)
    try:
        found = parse(data)
    except UbjError:
        assert expected is None, "refused, and the plain reader takes it"
        return
    assert expected is not None, "taken, and the plain reader takes it not"
    assert _same(found, expected[0]), "another document"
    try:
        forest = read(data)
    except ForestError:
        return
    rows = np.array([[np.nan] * len(forest.names), [0.0] * len(forest.names), [7.5] * len(forest.names)], np.float32)
    for row, score in zip(rows, Walker(forest)(rows).tolist(), strict=True):
        odds = _walked(expected[0], row)
        if abs(odds) < _LARGE:
            assert math.isclose(score, 1 / (1 + math.exp(-odds)) if odds > -80 else 0.0, abs_tol=1e-5)


def _walked(document: Any, row: Any) -> float:
    """The log-odds of one row, a node at a time; infinite where leaves are so large that float32 may not hold them."""
    learner = document["learner"]
    base = float(str(learner["learner_model_param"]["base_score"]).strip("[]"))
    odds = -math.log(1 / base - 1)
    for tree in learner["gradient_booster"]["model"]["trees"]:
        at = 0
        while (left := int(tree["left_children"][at])) != -1:
            value, bar = float(row[int(tree["split_indices"][at])]), float(np.float32(tree["split_conditions"][at]))
            goes_left = bool(tree["default_left"][at]) if math.isnan(value) else value < bar
            at = left if goes_left else int(tree["right_children"][at])
        leaf = float(np.float32(tree["split_conditions"][at]))
        odds = math.inf if abs(leaf) > _LARGE else odds + leaf
    return odds


def _plainly(data: bytes) -> tuple[Any] | None:
    """The document, read byte by byte with `struct`; None where there is none."""
    try:
        found, end = _value(data, 0, 0)
    except (struct.error, IndexError, ValueError, KeyError):
        return None
    return (found,) if end == len(data) else None


def _value(data: bytes, at: int, depth: int, mark: str = "") -> tuple[Any, int]:
    if not mark:
        mark, at = chr(data[at]), at + 1
    if depth > 64:
        raise ValueError
    if mark in _SIZES:
        return struct.unpack_from(_SIZES[mark], data, at)[0], at + struct.calcsize(_SIZES[mark])
    if mark == "S":
        return _text(data, at)
    if mark in "ZTF":
        return {"Z": None, "T": True, "F": False}[mark], at
    return _object(data, at, depth) if mark == "{" else _array(data, at, depth) if mark == "[" else _no()


def _no() -> Any:
    raise ValueError


def _count(data: bytes, at: int) -> tuple[int, int]:
    mark = chr(data[at])
    size, end = _value(data, at + 1, 0, mark) if mark in "iUIlL" else _no()
    return (size, end) if size >= 0 else _no()


def _text(data: bytes, at: int) -> tuple[str, int]:
    size, at = _count(data, at)
    return (data[at : at + size].decode(), at + size) if at + size <= len(data) else _no()


def _object(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    found = {}
    while data[at] != ord("}"):
        key, at = _text(data, at)
        found[key], at = _value(data, at, depth + 1)
    return found, at + 1


def _array(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    found: list[Any] = []
    if data[at] in b"$#":
        mark = chr(data[at + 1]) if data[at] == ord("$") else ""
        at += 2 if mark else 0
        if data[at] != ord("#") or (mark and mark not in _SIZES):
            raise ValueError
        size, at = _count(data, at + 1)
        if mark and size * struct.calcsize(_SIZES[mark]) > len(data) - at:
            raise ValueError
        for _ in range(size):
            each, at = _value(data, at, depth + 1, mark)
            found.append(each)
        return found, at
    while data[at] != ord("]"):
        each, at = _value(data, at, depth + 1)
        found.append(each)
    return found, at + 1


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray):
        return bool(np.array_equal(one.astype(np.float64), np.asarray(other, np.float64), equal_nan=True))
    if isinstance(one, dict):
        return list(one) == list(other) and all(_same(one[name], other[name]) for name in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_same, one, other))
    nothing = isinstance(one, float) and math.isnan(one) and math.isnan(other)
    return type(one) is type(other) and (one == other or nothing)


def check_bundle(data: bytes) -> None:
    """A bundle with changed bytes in one file, which the manifest vouches for: refused, or it scores as it did.

    The first byte says which file, then three bytes a change: where, as a share of the file, and what is put there.
    """
    if not data:
        return
    name = _FILES[data[0] % len(_FILES)]
    with _copy() as path:
        content = bytearray((path / name).read_bytes())
        for at in range(1, len(data) - 2, 3):
            content[int.from_bytes(data[at : at + 2], "big") * len(content) >> 16] = data[at + 2]
        if name == MANIFEST:
            (path / name).write_bytes(content)
        else:
            replace_file(path, name, bytes(content))
        try:
            bundle = load(path, DEFAULT)
        except BundleError as error:
            one_sentence(error)
            return
    assert bundle.digest == digest_of(content if name == MANIFEST else msgspec.json.encode(bundle.manifest))
    assert bundle.manifest.files[MODEL].bytes == len(bundle.model)


@cache
def _whole() -> dict[str, bytes]:
    """The files of a small bundle."""
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "bundle"
        make_bundle(made, trees=2)
        return {path.name: path.read_bytes() for path in made.iterdir()}


@contextmanager
def _copy() -> Iterator[Path]:
    files = _whole()
    with tempfile.TemporaryDirectory(prefix="fraudline-fuzz-") as folder:
        for name, data in files.items():
            (Path(folder) / name).write_bytes(data)
        yield Path(folder)
