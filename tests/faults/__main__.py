"""`python -m tests.faults --write-docs`: put the rows of the last run of everything into docs/faults.md."""

from __future__ import annotations

import sys
from typing import Annotated

import msgspec
import typer

from tests.faults.collected import ROOT, cases
from tests.faults.report import Run, show
from tests.faults.table import write_docs

KEPT = ROOT / ".cache" / "faults.json"
DOCS = ROOT / "docs" / "faults.md"


def main(
    write: Annotated[bool, typer.Option("--write-docs", help="Write the rows into docs/faults.md.")] = False,
) -> None:
    """Show the table of the last run, and write it into the documentation if asked to."""
    try:
        run = Run.read(KEPT)
    except (OSError, msgspec.DecodeError) as error:
        _refuse(f"{KEPT} has no run that can be read ({error}); run FAULTS=all pytest -m faults first.")
    show(run.rows, sys.stdout)
    if not write:
        return
    if not run.everything:
        _refuse(f"{KEPT} is of a run of some positions only; run FAULTS=all pytest -m faults, all or some tests of it.")
    lines = write_docs(DOCS, run, cases())
    print(f"{DOCS} has {len(lines)} rows, of which {len(run.rows)} cases were run.")


def _refuse(why: str) -> None:
    typer.echo(f"error: {why}", err=True)
    raise typer.Exit(1)


if __name__ == "__main__":
    sys.exit(typer.run(main))
