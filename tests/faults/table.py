"""The table of faults in `docs/faults.md`: the rows of a run of everything, between marks.

The page is what is kept: a run of some tests replaces the rows of those, by test and fault, and leaves the others.
Tests that have no row yet are named above the table.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from tests.faults.report import CAUGHT, HELD, Row, Run
from tests.support.marks import between, put_between

BEGIN: Final = "<!-- faults: begin; written by python -m tests.faults --write-docs -->"
END: Final = "<!-- faults: end -->"
_NOT_RUN: Final = "Without a row yet: "
_HEAD: Final = ("| fault | runs | times | invariant | result | test |", "|---|---|---|---|---|---|")


class Line(msgspec.Struct, frozen=True):
    """A row of the page: what several cases of a test did under one name, together."""

    fault: str
    runs: int
    times: int
    invariant: str
    result: str
    test: str

    @property
    def good(self) -> bool:
        """Whether nothing was violated, or a mutant was caught."""
        return self.result == HELD or self.result.startswith(CAUGHT)

    def rendered(self) -> str:
        """As a row in Markdown."""
        cells = (self.fault, str(self.runs), str(self.times), self.invariant, self.result, f"`{self.test}`")
        return f"| {' | '.join(cells)} |"


def lines_of(rows: Iterable[Row]) -> list[Line]:
    """Rows of one test and name as one line, which says the worst of what came of them."""
    lines: dict[tuple[str, str], Line] = {}
    for row in rows:
        same = lines.get((row.test, row.fault))
        line = Line(row.fault, 1, row.times, row.invariant, row.result, row.test)
        if same is not None:
            worst = same if line.good else line
            line = Line(row.fault, same.runs + 1, same.times + row.times, row.invariant, worst.result, row.test)
        lines[row.test, row.fault] = line
    return list(lines.values())


def lines_on(page: str) -> list[Line]:
    """The lines that a page has between its marks; none where it has none yet. Raises ValueError: no marks."""
    rows = [line.strip("| ").split(" | ") for line in between(page, BEGIN, END).splitlines() if line.startswith("| ")]
    return [Line(row[0], int(row[1]), int(row[2]), row[3], row[4], row[5].strip("`")) for row in rows[1:]]


def merged(before: Sequence[Line], now: Sequence[Line], tests: Collection[str]) -> list[Line]:
    """Lines of now in the place of those before, in the order of files; lines of tests that are gone go."""
    lines = {(line.test, line.fault): line for line in before}
    lines |= {(line.test, line.fault): line for line in now}
    kept = [line for line in lines.values() if line.test in tests]
    places = {test: place for place, test in enumerate(tests)}
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
    if missing := [f"`{test}`" for test in cases if test not in {line.test for line in lines}]:
        said += f"\n{_NOT_RUN}{', '.join(missing)}."
    return "\n".join([said, "", *_HEAD, *(line.rendered() for line in lines)])


def not_run_on(page: str) -> list[str]:
    """The tests of which a page says that they were not run yet."""
    told = [line for line in between(page, BEGIN, END).splitlines() if line.startswith(_NOT_RUN)]
    return [test for line in told for test in re.findall(r"`([^`]+)`", line)]


def write_docs(path: Path, run: Run, cases: Mapping[str, int]) -> list[Line]:
    """Put a run's rows into the page; `cases` are those of each test that there is. Raises ValueError: no marks."""
    lines = merged(lines_on(path.read_text()), lines_of(run.rows), cases)
    put_between(path, BEGIN, END, rendered(lines, run, cases))
    return lines
