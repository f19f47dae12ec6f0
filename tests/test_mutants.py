"""The list of guards fits the tree, and its runner tells a mutant that is caught from one that survives."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from tests.mutants.guard import Guard, Rotten
from tests.mutants.guards import GUARDS
from tests.mutants.runner import ROOT, take_away, tracked
from tests.mutants.table import BEGIN, END, Row, cells, kept, lines_on, not_tried_on, rendered, write_docs, write_json
from tests.mutants.verdict import BROKEN, CAUGHT, SURVIVED

CHEAP = (  # in the order of the table; those whose tests compile nothing
    "refusing a gap, in memory",
    "the check digit",
    "who is too late either way keeps the main model",
    "masking card numbers in logs",
)
SHOP = """
def price(amount):
    if amount < 0:
        raise ValueError("no price is below 0")
    if amount > 100:
        amount = 100
    return amount
"""
CHECKS = """
import pytest
from shop import price

@pytest.fixture
def paid():
    return price(7)

def test_below_0_is_refused():
    with pytest.raises(ValueError, match="below 0"):
        price(-1)

@pytest.mark.parametrize("amount", [1, 200])
def test_a_price(amount):
    assert price(amount) <= 100

def test_nothing_of_it():
    assert True

def test_paid(paid):
    assert paid == 7

def test_red():
    assert price(1) == 2
"""


def guard(name: str, text: str, instead: str, *tests: str) -> Guard:
    return Guard(name, "", "shop.py", text, instead, tuple(f"checks/test_shop.py::{test}" for test in tests))


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    (tmp_path / "checks").mkdir()
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "checks" / "test_shop.py").write_text(CHECKS)
    (tmp_path / "conftest.py").write_text("")
    return tmp_path


FILES = ["shop.py", "conftest.py", "checks/test_shop.py"]


def test_a_mutant_is_caught_or_survives_or_nothing_can_be_said(shop: Path) -> None:
    tried = [
        guard("one case of two notices", "if amount > 100:", "if False:", "test_a_price"),
        guard("an error that never comes", "if amount < 0:", "if False:", "test_below_0_is_refused"),
        guard("nobody notices", "if amount > 100:", "if False:", "test_nothing_of_it"),
        guard("one of two notices", "if amount > 100:", "if False:", "test_a_price", "test_nothing_of_it"),
        guard("no Python", "if amount > 100:", "if amount >", "test_a_price"),
        guard("a slip", "if amount > 100:", "if amont > 100:", "test_a_price"),
        guard("no test fails but what it needs", "return amount", "raise AssertionError", "test_paid"),
        guard("a test that is not green", "if amount > 100:", "if False:", "test_red"),
    ]
    found = take_away(tried, root=shop, files=FILES, jobs=2)
    assert [each.guard for each in found] == tried
    assert [each.verdict.result for each in found] == [CAUGHT, CAUGHT, SURVIVED, SURVIVED, *[BROKEN] * 4]
    assert found[0].verdict.by == ("checks/test_shop.py::test_a_price[200]",)
    assert "test_nothing_of_it passes without it" in found[3].verdict.why
    assert "could not be collected" in found[4].verdict.why
    assert "failed in call with NameError" in found[5].verdict.why
    assert "failed in setup with AssertionError" in found[6].verdict.why
    assert "test_red fails as the tree is" in found[7].verdict.why
    assert (shop / "shop.py").read_text() == SHOP


def test_a_text_that_is_gone_or_there_twice_is_refused_before_anything_is_run(shop: Path) -> None:
    for text, count in (("if amount == 7:", 0), ("amount", 5)):
        with pytest.raises(Rotten, match=f"shop.py has the text {count} times"):
            take_away([guard("rotten", text, "", "test_a_price")], root=shop, files=FILES)


def test_every_guard_is_there_once_under_a_name_of_its_own() -> None:
    for each in GUARDS:
        assert each.without(ROOT) != (ROOT / each.file).read_text(), each.name
        assert not each.file.startswith("tests/"), each.name
        assert each.tests, each.name
    assert len({each.name for each in GUARDS}) == len(GUARDS) > 150


def test_every_test_that_is_named_is_there() -> None:
    """Pytest refuses to collect any as soon as one is not."""
    named = sorted({test for each in GUARDS for test in each.tests})
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-qq", *named],
        cwd=ROOT, env=os.environ | {"FAULTS": "all"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2_000:] + done.stderr[-2_000:]


@pytest.mark.slow
def test_guards_of_the_product_are_caught() -> None:
    found = take_away([each for each in GUARDS if each.name in CHEAP], files=tracked(ROOT))
    assert [(each.guard.name, each.verdict.result) for each in found] == [(name, CAUGHT) for name in CHEAP], found


def test_a_whole_tree_is_compiled_before_its_tests(shop: Path) -> None:
    """Else the first test of a copy would wait for what it needs, and fail."""
    for package in ("features", "models"):
        (shop / package).mkdir()
        (shop / package / "__init__.py").touch()
        (shop / package / "warm.py").write_text(f"open('{package}-is-warm', 'w').close()\n")
    (shop / "checks" / "test_shop.py").write_text(
        "from pathlib import Path\nfrom shop import price\n\ndef test_a_price():\n"
        "    assert all(Path(f'{package}-is-warm').exists() for package in ('features', 'models'))\n"
        "    assert price(7) == 7\n"
    )
    subprocess.run(["git", "init", "-q"], cwd=shop, check=True)
    (found,) = take_away([guard("a price", "return amount", "return 0", "test_a_price")], root=shop)
    assert found.verdict.result == CAUGHT, found.verdict.why


def test_the_table_is_kept_from_run_to_run(shop: Path) -> None:
    one, two = (guard(name, "if amount > 100:", "if False:", "test_a_price") for name in ("one", "two"))
    found = take_away([one, two], root=shop, files=FILES)
    table = shop / "cache" / "mutants.json"
    write_json(table, found[:1], kept(table), (one, two), "abc")
    rows = write_json(table, found[1:], kept(table), (one, two), "def")
    assert [(row.guard, row.commit) for row in rows] == [("one", "abc"), ("two", "def")]
    assert kept(table) == rows
    assert write_json(table, [], rows, (two,), "def") == rows[1:]


def test_a_run_replaces_its_own_rows_on_the_page_and_no_others(tmp_path: Path) -> None:
    one, two, three = (guard(name, "text", "", "test_a_price") for name in ("one", "two", "three"))
    docs = tmp_path / "faults.md"
    docs.write_text(f"before\n{BEGIN}\n{END}\nafter\n")
    first = [Row(each.name, "", each.file, each.tests, CAUGHT, (), "", 0.1, "2026-01-02", "abc") for each in (one, two)]
    write_docs(docs, first, (one, two, three))
    assert lines_on(docs.read_text()) == [rendered(row) for row in first]
    said = "2 of 3 guards were taken away: 2 caught, 0 survived, 0 broken.\nWithout a row yet: three."
    assert said in docs.read_text()
    again = msgspec.structs.replace(first[0], result=SURVIVED, commit="def")
    write_docs(docs, [again], (one, two, three))
    assert lines_on(docs.read_text()) == [rendered(again), rendered(first[1])]
    assert "2 of 3 guards were taken away: 1 caught, 1 survived, 0 broken." in docs.read_text()
    changed = guard("two", "text", "", "test_paid")
    write_docs(docs, [], (one, changed))
    assert lines_on(docs.read_text()) == [rendered(again)]
    assert "Without a row yet: two." in docs.read_text()
    assert docs.read_text().startswith("before\n")
    assert docs.read_text().endswith("\nafter\n")


def test_what_the_page_says_is_of_guards_as_they_are() -> None:
    """Each row is one of the list's, which was caught; what was changed since has to be run again."""
    page = (ROOT / "docs" / "faults.md").read_text()
    rows = lines_on(page)
    known = {f"{cells(each.name, each.promise, each.file, each.tests)} | {CAUGHT}": each.name for each in GUARDS}
    assert rows
    told = [row.rsplit(" | ", 1)[0] for row in rows]
    assert [row for row in told if row not in known] == [], "run python -m tests.mutants --write-docs"
    silent = [name for row, name in known.items() if row not in told]
    assert silent == not_tried_on(page), "run python -m tests.mutants --write-docs"


def test_a_text_that_no_guard_has_is_said_with_pytests_own_status() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.mutants", "-k", "no guard is called so"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 5
    assert "nothing was taken away" in done.stdout
