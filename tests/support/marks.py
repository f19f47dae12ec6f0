"""Parts of a page that a command writes, between two marks."""

from __future__ import annotations

from pathlib import Path


def between(page: str, begin: str, end: str) -> str:
    """What a page has between its marks, without the line breaks around it. Raises ValueError where one is missing."""
    _, rest = page.split(begin)
    part, _ = rest.split(end)
    return part.strip("\n")


def put_between(path: Path, begin: str, end: str, text: str) -> None:
    """Put a text between the marks of a page. Raises ValueError where one is missing."""
    head, rest = path.read_text().split(begin)
    _, tail = rest.split(end)
    path.write_text(f"{head}{begin}\n{text}\n{end}{tail}")
