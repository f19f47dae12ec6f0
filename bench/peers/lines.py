"""Lines of code of a variant: its own files, without blank lines, comments and docstrings."""

from __future__ import annotations

import ast
import io
import tokenize
from pathlib import Path
from typing import Final

from bench.peers.catalog import Peer, Variant

_NO_CODE: Final = frozenset(
    {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
)


def count(source: str) -> int:
    """Lines with code on them; a docstring is none."""
    skipped = {line for start, end in _docstrings(ast.parse(source)) for line in range(start, end + 1)}
    code: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _NO_CODE:
            code |= set(range(token.start[0], token.end[0] + 1))
    return len(code - skipped)


def files_of(peer: Peer, variant: Variant) -> list[Path]:
    """The variant's module and what it imports, directly or not, from the peer's folder."""
    found: list[Path] = []
    waiting = [peer.home / f"{variant}.py"]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.append(path)
        for module in _imported(ast.parse(path.read_text()), f"bench.peers.{peer.folder}."):
            candidate = peer.home / f"{module.replace('.', '/')}.py"
            if candidate.exists():
                waiting.append(candidate)
    return sorted(found)


def lines_of(peer: Peer, variant: Variant) -> int:
    """Lines of code of a variant."""
    return sum(count(path.read_text()) for path in files_of(peer, variant))


def _docstrings(tree: ast.Module) -> list[tuple[int, int]]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                found.append((first.lineno, first.end_lineno or first.lineno))
    return found


def _imported(tree: ast.Module, prefix: str) -> list[str]:
    """Names of modules below `prefix` that it imports, without the prefix."""
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
