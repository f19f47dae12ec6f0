"""The table of guards: kept as JSON from run to run, and rendered into `docs/faults.md`.

A run of some guards replaces the rows of those on the page and leaves the others. Guards that have no row, since they
were never taken away, or not since they were changed, are named above the table.
"""

from __future__ import annotations

import subprocess
import textwrap
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from tests.mutants.guard import Guard
from tests.mutants.runner import Found
from tests.mutants.verdict import counted
from tests.support.marks import between, put_between

BEGIN: Final = "<!-- guards: begin; written by python -m tests.mutants --write-docs -->"
END: Final = "<!-- guards: end -->"
_NOT_TRIED: Final = "Without a row yet: "
_HEAD: Final = ("| without | what is promised | in | seen by | result | of |", "|---|---|---|---|---|---|")


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


def rendered(row: Row) -> str:
    """A row in Markdown, with the commit and the day of its run."""
    return f"{cells(row.guard, row.promise, row.file, row.tests)} | {row.result} | {row.commit}, {row.date} |"


def cells(guard: str, promise: str, file: str, tests: Iterable[str]) -> str:
    """What a row says of its guard, before the result."""
    seen = "; ".join(f"`{_short(test)}`" for test in tests)
    return f"| {guard} | {promise} | `{file}` | {seen}"


def lines_on(page: str) -> list[str]:
    """The rows that a page has between its marks; none where it has none yet. Raises ValueError: no marks."""
    return [line for line in between(page, BEGIN, END).splitlines() if line.startswith("| ")][1:]


def not_tried_on(page: str) -> list[str]:
    """The names of the guards of which a page says that they have no row yet."""
    said = " ".join(between(page, BEGIN, END).split("\n\n")[0].split())
    names = said.partition(_NOT_TRIED)[2].removesuffix(".")
    return names.split("; ") if names else []


def write_docs(path: Path, rows: Iterable[Row], guards: Sequence[Guard]) -> None:
    """Put rows into the page, between its marks. Raises ValueError where they are not there."""
    lines = [*lines_on(path.read_text()), *map(rendered, rows)]  # of two of one guard the later one counts
    kept: dict[str, str] = {}
    for guard in guards:
        own = cells(guard.name, guard.promise, guard.file, guard.tests)
        for line in lines:
            if line.startswith(f"{own} | "):
                kept[guard.name] = line
    results = [line.split(" | ")[-2] for line in kept.values()]
    said = [f"{len(kept)} of {len(guards)} guards were taken away: {counted(results)}."]
    if missing := [guard.name for guard in guards if guard.name not in kept]:
        said += textwrap.wrap(f"{_NOT_TRIED}{'; '.join(missing)}.", 120)
    put_between(path, BEGIN, END, "\n".join([*said, "", *_HEAD, *kept.values()]))


def _short(test: str) -> str:
    """A node id without the folder of tests; a bar would end the table's cell."""
    return test.removeprefix("tests/").replace("|", "\\|")
