"""`python -m bench.peers.setup [NAME...]`: make the environments of peers, from their hashed requirements.

An environment that was made from the same requirements is left as it is.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bench.peers.catalog import PEERS, ROOT, Peer, named

STAMP: Final = ".requirements.sha256"


def ready(peer: Peer) -> bool:
    """Whether its environment is there and made from its present requirements."""
    if peer.at_home:
        return True
    stamp = peer.environment / STAMP
    return peer.python.exists() and stamp.exists() and stamp.read_text() == _digest(peer)


def make(peer: Peer) -> None:
    """Make its environment if it is not ready. Raises SystemExit when that can't be done."""
    if ready(peer):
        return
    if not peer.requirements.exists():
        message = (
            f"{peer.name} has no requirements.txt: compile it by `python -m bench.peers.setup --compile {peer.name}`."
        )
        raise SystemExit(message)
    print(f"making the environment of {peer.name}", flush=True)
    _uv(["venv", "--quiet", "--clear", "--python", sys.executable, str(peer.environment)])
    where = ["--python", str(peer.python), "--require-hashes"]
    # the lock is whole; a peer's overrides would have to be told again if dependencies were looked at
    _uv(["pip", "install", "--quiet", "--no-deps", *where, "--requirement", str(peer.requirements)])
    (peer.environment / STAMP).write_text(_digest(peer))


def lock(peer: Peer) -> None:
    """Compile `requirements.in` to `requirements.txt`, each package by version and hashes.

    A peer that runs our batch function gets the project's own dependencies too; what it shares with the project has the
    project's versions, unless its framework wants others (`own_pins`). Versions in a peer's `overrides.txt` go before
    those that its framework asks for.
    """
    sources = [peer.home / "requirements.in", *([ROOT / "pyproject.toml"] if peer.runs_ours else [])]
    constraint = [] if peer.own_pins else ["--constraint", "requirements.txt"]
    words = ["pip", "compile", "--quiet", "--python-version", "3.11", "--generate-hashes", "--no-emit-index-url"]
    words += ["--no-emit-find-links", "--no-header", "--no-annotate", *constraint]
    overrides = peer.home / "overrides.txt"
    if overrides.exists():
        words += ["--override", str(overrides.relative_to(ROOT))]
    words += ["--output-file", str(peer.requirements.relative_to(ROOT))]
    _uv([*words, *(str(source.relative_to(ROOT)) for source in sources)])


def _uv(words: Sequence[str]) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    done = subprocess.run([str(Path(sys.executable).with_name("uv")), *words], cwd=ROOT, env=environment, check=False)
    if done.returncode:
        message = f"`uv {' '.join(words)}` failed, see above."
        raise SystemExit(message)


def _digest(peer: Peer) -> str:
    return hashlib.sha256(peer.requirements.read_bytes()).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.peers.setup", description="Make the environments of peers.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(peer.name for peer in PEERS))
    parser.add_argument("--compile", action="store_true", help="only compile requirements.in to requirements.txt")
    args = parser.parse_args()
    for peer in [named(name) for name in args.names] or PEERS:
        (lock if args.compile else make)(peer)


if __name__ == "__main__":
    main()
