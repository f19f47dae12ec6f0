"""The table of guards: kept as JSON from run to run, and rendered into `docs/faults.md`."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from tests.mutants.guard import Guard
from tests.mutants.runner import Found
from tests.mutants.verdict import CAUGHT
from tests.support.marks import put_between

BEGIN: Final = "<!-- guards: begin; written by python -m tests.mutants --write-docs -->"
END: Final = "<!-- guards: end -->"


class Row(msgspec.Struct, frozen=True):
    """One guard, what came of its absence, when, and at which commit."""

    guard: str
    promise: str
    file: str
    tests: tuple[str, ...]
    result: str
    by: tuple[str, ...]
    why: str
    seconds: float
    date: str
    commit: str


def revision(root: Path) -> str:
    """The commit of a checkout; with a plus where something in it was changed since."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True).stdout.strip()

    return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain") else "")


def kept(path: Path) -> list[Row]:
    """The rows of the runs before; none where there was no run, or its table is none that can be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[Row])
    except (OSError, msgspec.DecodeError):
        return []


def write_json(
    path: Path, found: Iterable[Found], before: Iterable[Row], guards: Sequence[Guard], commit: str
) -> list[Row]:
    """Keep a run's rows in the place of those before, in the order of the list; rows of guards that are gone go."""
    date = datetime.now(UTC).date().isoformat()
    rows = {row.guard: row for row in before}
    for each in found:
        guard, verdict = each.guard, each.verdict
        rows[guard.name] = Row(
            guard.name, guard.promise, guard.file, guard.tests, verdict.result, verdict.by, verdict.why, each.seconds,
            date, commit,
        )  # fmt: skip
    ordered = [rows[guard.name] for guard in guards if guard.name in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(ordered)) + b"\n")
    return ordered


def rendered(rows: Sequence[Row]) -> str:
    """The table in Markdown, with when and of which commit it is."""
    runs = sorted({(row.date, row.commit) for row in rows})
    when = ", ".join(f"{date} at {commit}" for date, commit in runs)
    caught = sum(row.result == CAUGHT for row in rows)
    lines = [
        f"{len(rows)} guards, {caught} caught. Run on {when}.",
        "",
        "| without | what is promised | in | seen by | result |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        seen = "; ".join(f"`{_short(test)}`" for test in row.tests)
        lines.append(f"| {row.guard} | {row.promise} | `{row.file}` | {seen} | {row.result} |")
    return "\n".join(lines)


def write_docs(path: Path, rows: Sequence[Row]) -> None:
    """Put the table between its marks. Raises ValueError where they are not there."""
    put_between(path, BEGIN, END, rendered(rows))


def _short(test: str) -> str:
    """A node id without the folder of tests; a bar would end the table's cell."""
    return test.removeprefix("tests/").replace("|", "\\|")
