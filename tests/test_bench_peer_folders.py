"""Every peer's folder is complete: declared, locked by hashes alone, and free of what is not its own."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from bench.peers.catalog import HERE, PEERS, ROOT, Peer, Variant
from bench.peers.payloads import payment_of

BY_NAME = pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
PIN = re.compile(r"^([a-z0-9][a-z0-9._-]*)==\S+", re.IGNORECASE)


def test_every_folder_is_declared_and_every_peer_has_one() -> None:
    assert {path.parent.name for path in HERE.glob("*/requirements.in")} == {peer.folder for peer in PEERS}
    assert len({peer.folder for peer in PEERS}) == len({peer.name for peer in PEERS}) == len(PEERS)


@BY_NAME
def test_every_variant_that_is_there_is_declared(peer: Peer) -> None:
    there = {path.stem for path in peer.home.glob("*.py")} & set(get_args(Variant))
    assert there == set(peer.variants)
    assert (peer.home / "__init__.py").exists()


@BY_NAME
def test_a_folder_is_not_taken_for_its_package(peer: Peer) -> None:
    """A module of the folder would hide the framework if it had its name and lay first on the path."""
    assert peer.folder not in _imports_of_others(peer.home)


@BY_NAME
def test_requirements_are_pins_with_hashes_and_nothing_else(peer: Peer) -> None:
    text = peer.requirements.read_text()
    blocks = re.split(r"\n(?=\S)", text.strip())
    pins = [block for block in blocks if not block.startswith("#")]
    for block in pins:
        assert PIN.match(block), block.splitlines()[0]
        assert "--hash=sha256:" in block, block.splitlines()[0]
    assert not re.search(r"://|--(extra-)?index-url|--find-links|--trusted-host| @ ", text)


@BY_NAME
def test_what_is_asked_for_is_locked(peer: Peer) -> None:
    asked = re.findall(
        r"^[a-z0-9][a-z0-9._-]*", (peer.home / "requirements.in").read_text(), re.IGNORECASE | re.MULTILINE
    )
    locked = {_normal(match[1]) for line in peer.requirements.read_text().splitlines() if (match := PIN.match(line))}
    assert {_normal(name) for name in asked} <= locked
    assert {"numpy", "redis", "xgboost"} <= {_normal(name) for name in asked}
    if peer.runs_ours:
        assert {"msgspec", "numba", "orjson"} <= locked


@BY_NAME
def test_only_our_batches_load_the_project(peer: Peer) -> None:
    """What a peer takes to start, and its memory, are its own unless it is given our batch function."""
    for variant in peer.variants:
        loaded = set(_loaded(f"bench.peers.{peer.folder}.{variant}"))
        ours = {name for name in loaded if name.split(".")[0] in {"consumer", "features", "models"}}
        assert bool(ours) == (variant == "our_batches"), f"{variant} loads {sorted(ours)}"


def test_a_payment_is_told_from_what_is_none() -> None:
    good = b'{"event_id":"e","event_time":1,"card_id":"c","merchant_id":"m","amount_minor":5,"device_id":null}'
    assert payment_of(good) == {
        "event_id": "e", "event_time": 1, "card_id": "c", "merchant_id": "m", "amount_minor": 5, "device_id": None,
    }  # fmt: skip
    for bad in (None, b"", b"{", b"[]", b'"e"', b"\xff", good.replace(b"5", b'"5"'), good.replace(b"card_id", b"card")):
        assert payment_of(bad) is None


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def _imports_of_others(home: Path) -> set[str]:
    return {name.split(".")[0] for path in home.glob("*.py") for name in _imports(path)} - {"bench"}


def _loaded(module: str, seen: set[str] | None = None) -> set[str]:
    """What importing a module of the project's loads, by name; other packages are not looked into."""
    seen = set() if seen is None else seen
    if module in seen:
        return seen
    seen.add(module)
    path = ROOT / Path(*module.split("."))
    source = path.with_suffix(".py") if path.with_suffix(".py").exists() else path / "__init__.py"
    if source.exists() and module.split(".", maxsplit=1)[0] == "bench":
        for name in _imports(source):
            _loaded(name, seen)
    return seen
