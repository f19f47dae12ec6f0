"""The table of a run: which fault, how often, which invariant, and what came of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Row:
    """One line: `result` is `held`, the number of violations, or for a mutant `caught`."""

    fault: str
    times: int
    invariant: str
    result: str


@dataclass(slots=True)
class Report:
    """What the tests of one run have to show. `keep` is told of each row, for a run in several processes."""

    rows: list[Row] = field(default_factory=list)
    keep: Callable[[Row], None] = lambda _row: None

    def judged(self, fault: str, times: int, found: list[str], invariant: str = "1-3: once, equal, in order") -> None:
        """Note what a check found, and fail the test if it found anything."""
        result = "held" if not found else f"{len(found)} violations"
        self._add(Row(fault, times, invariant, result))
        assert not found, f"{len(found)} violations:\n" + "\n".join(found[:20])

    def caught(self, mutant: str, times: int, found: list[str], sign: str) -> None:
        """Note that a mutant was caught by a violation that names `sign`; fail the test if it was not."""
        telling = [violation for violation in found if sign in violation]
        result = f"caught: {len(telling)} violations" if telling else "NOT caught"
        self._add(Row(f"mutant: {mutant}", times, sign, result))
        assert telling, f"the mutant was not caught; other violations: {found[:20]}"

    def _add(self, row: Row) -> None:
        self.rows.append(row)
        self.keep(row)

    def write(self, path: Path) -> None:
        """Keep the table for machines."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps([asdict(row) for row in self.rows], indent=1) + "\n")

    def show(self, out: Any) -> None:
        """Print the table to a text file."""
        table = Table("fault", "times", "invariant", "result", title="Faults")
        for row in self.rows:
            table.add_row(row.fault, str(row.times), row.invariant, row.result)
        Console(file=out, width=120).print(table)
