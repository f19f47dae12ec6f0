"""What commands print: tables or JSON to standard output; progress and errors to standard error."""

# ruff: noqa: PLC0415  rich and orjson are imported when something is printed, so that `--help` answers at once
from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, TextIO

WIDTH_WITHOUT_TERMINAL: Final = 200


def error_line(text: str) -> None:
    """One line on standard error."""
    sys.stderr.write(f"error: {' '.join(text.split())}\n")


def print_json(document: object, file: TextIO | None = None) -> None:
    """One indented JSON document; what is not finite becomes null."""
    import orjson

    options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY
    (sys.stdout if file is None else file).write(orjson.dumps(document, option=options).decode())


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], *, as_json: bool) -> None:
    """Rows as a table, or as a JSON array with one object a row."""
    if as_json:
        print_json([dict(zip(columns, row, strict=True)) for row in rows])
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
    Console(width=None if sys.stdout.isatty() else WIDTH_WITHOUT_TERMINAL).print(table)


def print_mapping(title: str, values: Mapping[str, Any], *, as_json: bool) -> None:
    """Names and values as a table, nested ones with dotted names; or the mapping as JSON."""
    if as_json:
        print_json(values)
    else:
        print_table(title, ("name", "value"), list(_flat(values)), as_json=False)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif isinstance(value, float):
            yield f"{prefix}{name}", f"{value:,.4f}"
        elif isinstance(value, int) and not isinstance(value, bool):
            yield f"{prefix}{name}", f"{value:,}"
        else:
            yield f"{prefix}{name}", str(value)


@contextmanager
def progress_bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on standard error where that is a terminal; the yielded function takes how many more are done."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=total)
        yield lambda more: progress.advance(task, more)


@contextmanager
def progress_stages() -> Iterator[Callable[[str, float], None]]:
    """As `progress_bar`, but the yielded function takes a stage's name and the share of all the work that is done."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("starting", total=1.0)
        yield lambda stage, share: progress.update(task, description=stage, completed=share)
