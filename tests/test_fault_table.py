"""The table of faults on its page is one of every test that there is, and what a run brings replaces what it ran."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec
import pytest

from tests.faults.__main__ import DOCS
from tests.faults.collected import FAULTS, ROOT, Collected, collected
from tests.faults.report import Report, Row, Run
from tests.faults.table import (
    BEGIN,
    END,
    Line,
    lines_of,
    lines_on,
    named_on,
    not_run_on,
    rendered,
    runs_of,
    suite_on,
    write_docs,
)

STALLS, KILLS, GONE = "test_a.py::test_stalls", "test_b.py::test_kills", "test_b.py::test_gone"


def row(fault: str, test: str, *, times: int = 1, result: str = "held") -> Row:
    return Row(fault, times, "1-3", result, test)


def run(*rows: Row) -> Run:
    return Run(everything=True, date="2026-01-02", commit="abc", rows=list(rows))


def test_cases_under_one_name_are_one_line_that_says_the_worst() -> None:
    told = lines_of(run(row("killed", KILLS, times=3), row("killed", KILLS, times=4, result="2 violations"),
                        row("killed", KILLS), row("killed", STALLS)))  # fmt: skip
    assert told == [
        Line("killed", 3, 8, "1-3", "2 violations", "abc", KILLS),
        Line("killed", 1, 1, "1-3", "held", "abc", STALLS),
    ]
    assert [line.good for line in told] == [False, True]


def test_a_run_replaces_its_own_rows_on_the_page_and_no_others(tmp_path: Path) -> None:
    page = tmp_path / "faults.md"
    page.write_text(f"before\n{BEGIN}\n{END}\nafter\n")
    first = run(row("killed", KILLS), row("gone", GONE), row("mutant: no lock", KILLS, result="caught: 7 violations"))
    write_docs(page, first, {STALLS: 1, KILLS: 3, GONE: 1})
    assert not_run_on(page.read_text()) == [STALLS]
    assert f"Not every case of: `{KILLS}` (2 of 3)." in page.read_text()
    again = run(row("stalled", STALLS), row("killed", KILLS, times=5))
    lines = write_docs(page, again, cases := {STALLS: 2, KILLS: 2})
    assert [(line.fault, line.times) for line in lines] == [("stalled", 1), ("killed", 5), ("mutant: no lock", 1)]
    assert lines_on(page.read_text()) == lines
    assert not_run_on(page.read_text()) == []
    assert page.read_text() == f"before\n{BEGIN}\n{rendered(lines, again, cases)}\n{END}\nafter\n"
    said = "2 faults, all held; mutants caught: 1. Cases run: 3 of 4. Last run on 2026-01-02 at abc, of 2 cases."
    assert said in page.read_text()


def test_a_fault_that_got_another_name_is_told_once(tmp_path: Path) -> None:
    """Once all cases of its test were run; while some were not, one of them may still have the old name."""
    page = tmp_path / "faults.md"
    page.write_text(f"{BEGIN}\n{END}\n")
    cases = {STALLS: 1, KILLS: 2}
    write_docs(page, run(row("killed", KILLS), row("killed twice", KILLS), row("stalled", STALLS)), cases)
    lines = write_docs(page, run(row("killed once", KILLS), row("stuck", STALLS)), cases)
    assert [line.fault for line in lines] == ["stuck", "killed", "killed twice", "killed once"]
    lines = write_docs(page, run(row("killed once", KILLS), row("killed again", KILLS)), cases)
    assert [line.fault for line in lines] == ["stuck", "killed once", "killed again"]


def test_a_test_that_failed_is_not_told_as_held(tmp_path: Path) -> None:
    """Whatever its rows said before it failed, in this run or in one before."""
    page = tmp_path / "faults.md"
    page.write_text(f"{BEGIN}\n{END}\n")
    write_docs(page, run(row("killed", KILLS), row("stalled", STALLS)), {STALLS: 1, KILLS: 1})
    failed = msgspec.structs.replace(run(row("killed", KILLS)), failed=[KILLS, STALLS])
    lines = write_docs(page, failed, {STALLS: 1, KILLS: 1})
    assert [(line.test, line.result, line.good) for line in lines] == [(KILLS, "the test failed", False)]
    assert not_run_on(page.read_text()) == [STALLS]
    assert "1 NOT held" in page.read_text()


def test_a_run_is_kept_as_it_was(tmp_path: Path) -> None:
    made, told = tmp_path / "cache" / "faults.json", list[Row]()
    report = Report(KILLS, told.append)
    report.judged("killed", 2, [])
    report.caught("no lock", 1, ["has 2 decisions", "other"], "decisions")
    with pytest.raises(AssertionError, match="1 violations"):
        report.judged("stalled", 1, ["it is lost"])
    with pytest.raises(AssertionError, match="survived"):
        report.caught("no order", 1, ["other"], "decisions")
    assert [each.result for each in told] == ["held", "caught: 1 violations", "1 violations", "survived"]
    run(*told).write(made)
    assert Run.read(made) == run(*told)


def test_a_name_alone_is_of_the_file_before_it() -> None:
    page = "`faults/test_a.py::test_one[x y]` and `::test_two`, `tests/test_b.py::TestIt::test_three`; `::FLAG` | `x`"
    assert named_on(page) == {"test_a.py::test_one", "test_a.py::test_two", "test_b.py::test_three", "test_b.py::FLAG"}
    assert named_on("`::test_of_no_file`") == {"::test_of_no_file"}


def test_the_suite_is_what_rows_name_and_not_what_guards_name() -> None:
    rows = "see `test_d.py::test_five`\n| x | `test_a.py::test_one`, `::test_two` and `faults/test_b.py` |\n"
    page = f"{rows}\n## Guards taken away\n| `test_c.py::test_four` |"
    assert suite_on(page) == ({"test_a.py::test_one", "test_a.py::test_two"}, {"test_b.py"})


@pytest.fixture(scope="module")
def there() -> Collected:
    """The tests of faults, and those of all files of which the page names a test."""
    page = DOCS.read_text()
    files = {name.partition("::")[0] for name in named_on(page)} | suite_on(page)[1]
    beside = sorted(file for file in files if not (ROOT / FAULTS / file).exists())
    return collected(*(f"tests/{file}" for file in beside))


@pytest.mark.slow
def test_every_test_that_the_page_names_is_there(there: Collected) -> None:
    assert named_on(DOCS.read_text()) - without_classes(there.tests) == set()


@pytest.mark.slow
def test_every_row_is_of_the_suite_wherever_it_lies(there: Collected) -> None:
    """And what only a guard names is not: the mark comes from the page."""
    named, files = suite_on(DOCS.read_text())
    marked = without_classes(there.marked)
    assert named - marked == set()
    assert {name for name in without_classes(there.tests) if name.partition("::")[0] in files} <= marked
    assert "test_score.py::test_a_gpu_without_room_is_told_from_one_that_fails" in marked
    elsewhere = without_classes(there.tests) - marked
    assert elsewhere & (named_on(DOCS.read_text()) - named), "guards have tests that are no faults"


def without_classes(names: Iterable[str]) -> set[str]:
    """As the page has them: a file and a function."""
    return {f"{name.partition('::')[0]}::{name.rpartition('::')[2]}" for name in names}


@pytest.mark.slow
def test_the_page_has_every_fault_test_or_says_that_it_was_not_run(there: Collected) -> None:
    """A test that was made, renamed or given fewer cases since has to be told: python -m tests.faults --write-docs."""
    page = DOCS.read_text()
    lines = lines_on(page)
    runs = runs_of(lines)
    assert runs.keys() | set(not_run_on(page)) == there.cases.keys()
    assert {test: count for test, count in runs.items() if count > there.cases[test]} == {}
    assert [line for line in lines if not line.good] == []
    assert lines
