"""`python -m tests.mutants`: take each guard away, and say whether the tests caught it.

Exit status: 0 every mutant was caught, 1 one was not, 5 nothing was chosen, as pytest says it.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tests.mutants.guard import Guard, Rotten
from tests.mutants.guards import GUARDS
from tests.mutants.runner import ROOT, Found, take_away
from tests.mutants.table import kept, revision, write_docs, write_json
from tests.mutants.verdict import CAUGHT, counted

TABLE = ROOT / ".cache" / "mutants.json"
DOCS = ROOT / "docs" / "faults.md"


def main(
    only: Annotated[
        str, typer.Option("-k", help="Only guards in whose name, file or tests this text stands; several with `or`.")
    ] = "",
    jobs: Annotated[int, typer.Option(min=1, help="Guards that are tried at once, each in a copy of its own.")] = 1,
    write: Annotated[bool, typer.Option("--write-docs", help="Write the table into docs/faults.md as well.")] = False,
    table: Annotated[
        Path, typer.Option(help="Where the table is kept, and what it had before is gone on from.")
    ] = TABLE,
) -> None:
    """Take each guard of the product away, in a copy of the tree, and run the tests that must then fail."""
    wanted = only.lower().split(" or ")
    chosen = [guard for guard in GUARDS if any(text in _said(guard) for text in wanted)]
    if not chosen:
        typer.echo(f"No guard has {only!r} in its name, file or tests: nothing was taken away.")
        raise typer.Exit(5)
    console, lock, total = Console(soft_wrap=True, highlight=False), threading.Lock(), len(chosen)
    done: list[Found] = []
    commit = revision(ROOT)

    def tell(found: Found) -> None:
        with lock:
            done.append(found)
            write_json(table, [found], kept(table), GUARDS, commit)  # at once: a run takes long, and may be interrupted
            result = found.verdict.result
            style = "green" if result == CAUGHT else "red"
            console.print(f"{len(done):>4}/{total} [{style}]{result:<10}[/] {found.seconds:>6} s  {found.guard.name}")
            if found.verdict.why:
                console.print(f"     {found.verdict.why}", markup=False)

    try:
        found = take_away(chosen, jobs=jobs, tell=tell)
    except Rotten as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    if write:
        write_docs(DOCS, kept(table), GUARDS)
    results = [each.verdict.result for each in found]
    console.print(f"{total} guards were taken away: {counted(results)}; the table is in {table}.")
    raise typer.Exit(0 if results.count(CAUGHT) == total else 1)


def _said(guard: Guard) -> str:
    return f"{guard.name} {guard.file} {' '.join(guard.tests)}".lower()


if __name__ == "__main__":
    sys.exit(typer.run(main))
