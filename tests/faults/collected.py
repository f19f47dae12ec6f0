"""Which fault tests have something to show when everything is run; as a plugin it makes pytest say so.

Run by itself: collecting them in this process would import modules that ask for `FAULTS` when they are imported.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_SAID = "to show: "


def short(node: str) -> str:
    """A test's name in the table, from its node id: its file and function, whatever its parameters."""
    path, _, test = node.partition("::")
    return f"{Path(path).name}::{test.split('[')[0]}"


def pytest_collection_finish(session: pytest.Session) -> None:
    for item in session.items:
        if "report" in getattr(item, "fixturenames", ()):
            print(f"{_SAID}{short(item.nodeid)}")


def cases() -> Counter[str]:
    """How many cases each test has, in the order of the files."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-qq", "-p", "tests.faults.collected", "tests/faults"],
        cwd=ROOT, env=os.environ | {"FAULTS": "all"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2_000:] + done.stderr[-2_000:]
    return Counter(line.removeprefix(_SAID) for line in done.stdout.splitlines() if line.startswith(_SAID))
