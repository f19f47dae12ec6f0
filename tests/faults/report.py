"""What a run has to show: which fault, how often, which invariant, what came of it, and which test says so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.table import Table

HELD: Final = "held"
FAILED: Final = "the test failed"
CAUGHT: Final = "caught: "
SURVIVED: Final = "survived"


class Row(msgspec.Struct, frozen=True):
    """One case of one test: `result` is `held`, the number of violations, or for a mutant `caught` or `survived`.

    `test` is the test's node id without its parameters and the folder.
    """

    fault: str
    times: int
    invariant: str
    result: str
    test: str


class Run(msgspec.Struct, frozen=True):
    """All rows of a run, in the order of their files; `everything` says that it was one of every position.

    `failed` are the tests of which a case failed, whatever its rows say.
    """

    everything: bool
    date: str
    commit: str
    rows: list[Row]
    failed: list[str] = []

    def write(self, path: Path) -> None:
        """Keep it for machines."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self)) + b"\n")

    @classmethod
    def read(cls, path: Path) -> Run:
        """The run that was kept. Raises OSError, msgspec.DecodeError."""
        return msgspec.json.decode(path.read_bytes(), type=cls)


class Report:
    """What one test has to show; `keep` is told of each row, for a run in several processes."""

    def __init__(self, test: str, keep: Callable[[Row], None]) -> None:
        self._test, self._keep = test, keep

    def judged(self, fault: str, times: int, found: list[str], invariant: str = "1-3: once, equal, in order") -> None:
        """Note what a check found, and fail the test if it found anything."""
        result = HELD if not found else f"{len(found)} violations"
        self._keep(Row(fault, times, invariant, result, self._test))
        assert not found, f"{len(found)} violations:\n" + "\n".join(found[:20])

    def caught(self, mutant: str, times: int, found: list[str], sign: str) -> None:
        """Note that a mutant was caught by a violation that names `sign`; fail the test if it was not."""
        telling = [violation for violation in found if sign in violation]
        result = f"{CAUGHT}{len(telling)} violations" if telling else SURVIVED
        self._keep(Row(f"mutant: {mutant}", times, sign, result, self._test))
        assert telling, f"the mutant survived; other violations: {found[:20]}"


def show(rows: Sequence[Row], out: Any) -> None:
    """Print the table to a text file."""
    table = Table("fault", "times", "invariant", "result", title="Faults")
    for row in rows:
        table.add_row(row.fault, str(row.times), row.invariant, row.result)
    Console(file=out, width=120).print(table)
