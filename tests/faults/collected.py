"""Which tests there are when everything is run, and which have something to show; as a plugin it makes pytest say so.

Run by itself: collecting them in this process would import modules that ask for `FAULTS` when they are imported.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FAULTS = "tests/faults"
_THERE, _SAID, _MARKED = "there: ", "to show: ", "a fault: "


@dataclass(frozen=True, slots=True)
class Collected:
    """What pytest has found.

    Attributes:
        tests: the names of all tests, as `short` gives them.
        cases: how many cases each test has that has something to show, in the order of the files.
        marked: the names of those that `make faults` runs.
    """

    tests: frozenset[str]
    cases: Counter[str]
    marked: frozenset[str]


def short(node: str) -> str:
    """A test's name in the table, from its node id: its file and function, whatever its parameters."""
    path, _, test = node.partition("::")
    return f"{Path(path).name}::{test.split('[')[0]}"


def pytest_collection_finish(session: pytest.Session) -> None:
    for item in session.items:
        print(f"{_THERE}{short(item.nodeid)}")
        if "report" in getattr(item, "fixturenames", ()):
            print(f"{_SAID}{short(item.nodeid)}")
        if item.get_closest_marker("faults"):
            print(f"{_MARKED}{short(item.nodeid)}")


def collected(*beside: str) -> Collected:
    """What there is of tests of faults, and in these files."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-qq", "-p", "tests.faults.collected", FAULTS, *beside],
        cwd=ROOT, env=os.environ | {"FAULTS": "all"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2_000:] + done.stderr[-2_000:]
    lines = done.stdout.splitlines()
    there, said, marked = (
        [line.removeprefix(mark) for line in lines if line.startswith(mark)] for mark in (_THERE, _SAID, _MARKED)
    )
    return Collected(frozenset(there), Counter(said), frozenset(marked))


def cases() -> Counter[str]:
    """How many cases each test of faults has that has something to show, in the order of the files."""
    return collected().cases
