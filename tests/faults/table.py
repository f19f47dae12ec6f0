"""The table of faults in `docs/faults.md`: the rows of a run of everything, between marks.

The page is what is kept: a run of some tests replaces the rows of those, by test and fault, and leaves the others.
Tests that have no row yet, or not for every case, are named above the table.
"""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from tests.faults.report import CAUGHT, FAILED, HELD, Run
from tests.support.marks import between, put_between

BEGIN: Final = "<!-- faults: begin; written by python -m tests.faults --write-docs -->"
END: Final = "<!-- faults: end -->"
_NOT_RUN: Final = "Without a row yet: "
_PART: Final = "Not every case of: "
_GUARDS: Final = "## Guards taken away"
_FILE: Final = re.compile(r"`(?:\w+/)*(test_\w+\.py)`")
_NAMED: Final = re.compile(r"`(?:(?:\w+/)*(test_\w+\.py))?(?:::\w+)*::(\w+)")
_HEAD: Final = ("| fault | runs | times | invariant | result | of | test |", "|---|---|---|---|---|---|---|")


class Line(msgspec.Struct, frozen=True):
    """A row of the page: what several cases of a test did under one name, together."""

    fault: str
    runs: int
    times: int
    invariant: str
    result: str
    commit: str
    test: str

    @property
    def good(self) -> bool:
        """Whether nothing was violated, or a mutant was caught."""
        return self.result == HELD or self.result.startswith(CAUGHT)

    def rendered(self) -> str:
        """As a row in Markdown."""
        cells = (
            self.fault,
            str(self.runs),
            str(self.times),
            self.invariant,
            self.result,
            self.commit,
            f"`{self.test}`",
        )
        return f"| {' | '.join(cells)} |"


def lines_of(run: Run) -> list[Line]:
    """Rows of one test and name as one line, which says the worst of what came of them."""
    lines: dict[tuple[str, str], Line] = {}
    for row in run.rows:
        same = lines.get((row.test, row.fault))
        result = FAILED if row.test in run.failed and row.result == HELD else row.result
        line = Line(row.fault, 1, row.times, row.invariant, result, run.commit, row.test)
        if same is not None:
            worst = same if line.good else line
            line = Line(
                row.fault, same.runs + 1, same.times + row.times, row.invariant, worst.result, run.commit, row.test
            )
        lines[row.test, row.fault] = line
    return list(lines.values())


def lines_on(page: str) -> list[Line]:
    """The lines that a page has between its marks; none where it has none yet. Raises ValueError: no marks."""
    rows = [line.strip("| ").split(" | ") for line in between(page, BEGIN, END).splitlines() if line.startswith("| ")]
    return [Line(row[0], int(row[1]), int(row[2]), *row[3:6], row[6].strip("`")) for row in rows[1:]]


def runs_of(lines: Iterable[Line]) -> Counter[str]:
    """How many cases of each test they tell of."""
    runs = Counter[str]()
    for line in lines:
        runs[line.test] += line.runs
    return runs


def merged(
    before: Sequence[Line], now: Sequence[Line], cases: Mapping[str, int], failed: Collection[str] = ()
) -> list[Line]:
    """Lines of now in the place of those before, in the order of files; lines of tests that are gone go.

    What was said before of a test that failed now, or of which all `cases` were run now, no longer counts.
    """
    runs = runs_of(now)
    over = {test for test, count in cases.items() if runs[test] >= count} | set(failed)
    lines = {(line.test, line.fault): line for line in before if line.test not in over}
    lines |= {(line.test, line.fault): line for line in now}
    kept = [line for line in lines.values() if line.test in cases]
    places = {test: place for place, test in enumerate(cases)}
    return sorted(kept, key=lambda line: places[line.test])


def rendered(lines: Sequence[Line], run: Run, cases: Mapping[str, int]) -> str:
    """The table in Markdown, with how much there is of it, what is missing, and where its last run was."""
    mutants = sum(line.result.startswith(CAUGHT) for line in lines)
    bad = sum(not line.good for line in lines)
    said = (
        f"{len(lines) - mutants} faults, "
        + (f"{bad} NOT held" if bad else "all held")
        + f"; mutants caught: {mutants}. "
    )
    said += f"Cases run: {sum(line.runs for line in lines)} of {sum(cases.values())}. "
    said += f"Last run on {run.date} at {run.commit}, of {len(run.rows)} cases."
    runs = runs_of(lines)
    missing = [f"`{test}`" for test in cases if not runs[test]]
    partly = [f"`{test}` ({runs[test]} of {count})" for test, count in cases.items() if 0 < runs[test] < count]
    told = [
        line
        for what, names in ((_NOT_RUN, missing), (_PART, partly))
        if names
        for line in ("", *textwrap.wrap(f"{what}{', '.join(names)}.", 120, break_long_words=False))
    ]
    return "\n".join([said, *told, "", *_HEAD, *(line.rendered() for line in lines)])


def not_run_on(page: str) -> list[str]:
    """The tests of which a page says that they were not run yet."""
    told = [part for part in between(page, BEGIN, END).split("\n\n") if part.startswith(_NOT_RUN)]
    return [test for part in told for test in re.findall(r"`([^`]+)`", part)]


def named_on(page: str) -> set[str]:
    """The tests that a page names, as `FILE::NAME`; a name alone is of the file before it."""
    found, file = set(), ""
    for path, name in _NAMED.findall(page):
        file = path or file
        found.add(f"{file}::{name}")
    return found


def suite_on(page: str) -> tuple[set[str], set[str]]:
    """The suite of faults: the tests that the rows of a page name, as `named_on` says them, and the files as a whole.

    Tests that only the table of guards names are not of it.
    """
    rows = "\n".join(line for line in page.partition(_GUARDS)[0].splitlines() if line.startswith("|"))
    return named_on(rows), set(_FILE.findall(rows))


def write_docs(path: Path, run: Run, cases: Mapping[str, int]) -> list[Line]:
    """Put a run's rows into the page; `cases` are those of each test that there is. Raises ValueError: no marks."""
    lines = merged(lines_on(path.read_text()), lines_of(run), cases, run.failed)
    put_between(path, BEGIN, END, rendered(lines, run, cases))
    return lines
