"""What commands print: tables or JSON to standard output; progress and errors to standard error."""

# ruff: noqa: PLC0415  rich and orjson are imported when something is printed, so that `--help` answers at once
from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TextIO

from features.errors import ConfigError

if TYPE_CHECKING:
    from features.catalog import Feature

WIDTH_WITHOUT_TERMINAL: Final = 200
WIDE: Final = 110  # columns that a feature and its facts need on one line


def duration_ms(text: str, option: str) -> int:
    """A time that was typed, such as 90m, 12h or 30d, in milliseconds. Raises ConfigError."""
    matched = re.fullmatch(r"([1-9][0-9]{0,5})([mhd])", text)
    if not matched:
        raise ConfigError(f"{option} is not a time such as 90m, 12h or 30d.")
    return int(matched[1]) * {"m": 60_000, "h": 3_600_000, "d": 86_400_000}[matched[2]]


def iso(time_ms: int) -> str:
    """A time in ms as ISO 8601 in UTC, to the second."""
    try:
        return datetime.fromtimestamp(time_ms / 1_000, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):  # no time that a calendar has
        return f"{time_ms} ms"


def only_one(options: Mapping[str, object]) -> None:
    """Refuse options that say the same thing in several ways. Raises ConfigError."""
    given = [name for name, value in options.items() if value is not None]
    if len(given) > 1:
        raise ConfigError(f"{' and '.join(given)} take each other's place; give one of them.")


def error_line(text: str) -> None:
    """One line on standard error, in which nothing that came from a file or a record steers a terminal."""
    from consumer.masking import printable

    sys.stderr.write(f"error: {printable(' '.join(text.split()))}\n")


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

    from consumer.masking import printable

    def fit(cell: object) -> Text:
        """What came from elsewhere must not steer a terminal."""
        return Text("" if cell is None else "\n".join(map(printable, str(cell).split("\n"))))

    console = Console(width=None if sys.stdout.isatty() else WIDTH_WITHOUT_TERMINAL)
    console.print(fit(title), style="italic", soft_wrap=True)  # above a narrow table it would be cut to its width
    if not rows:
        console.print("none")
        return
    table = Table()
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*map(fit, row))
    console.print(table)


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
            yield f"{prefix}{name}", _plain_text(value)


def _plain_text(value: object) -> str:
    """A value as people write it, not as Python does."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain_text, value))
    return str(value)


def print_features(features: Sequence[Feature], *, as_json: bool, width: int | None = None) -> None:
    """Features in their order: a line each where that fits, else the facts below the sentence.

    `width` in characters is the terminal's unless it is given.
    """
    if as_json:
        print_json([_plain(feature) for feature in features])
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(width=width or (None if sys.stdout.isatty() else WIDTH_WITHOUT_TERMINAL))
    wide = console.width >= WIDE
    facts = ("entity", "window", "type", "default")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=f"{len(features)} features", title_justify="left")
    for column in ("name", *facts) if wide else ("name",):
        table.add_column(column, no_wrap=True)
    table.add_column("what it is", overflow="fold")
    for feature in features:
        known = {"entity": _entity(feature), "window": _window(feature), "type": feature.type}
        if wide:
            cells = [Text(text) for text in (feature.name, *known.values(), feature.default, feature.help)]
        else:
            below = ", ".join(filter(None, [*known.values(), f"default {feature.default}"]))
            cells = [Text(feature.name), Text.assemble(feature.help, "\n", (below, "dim"))]
        table.add_row(*cells)
    console.print(table)


def _plain(feature: Feature) -> dict[str, object]:
    return {
        "name": feature.name,
        "entity": _entity(feature),
        "window": _window(feature),
        "type": feature.type,
        "default": feature.default,
        "help": feature.help,
        "group": feature.group,
        "window_ms": feature.window_ms,
        "delay_ms": feature.delay_ms,
    }


def _entity(feature: Feature) -> str:
    return feature.entity or "payment"


def _window(feature: Feature) -> str:
    """A window as people write it: `5m`, `24h`, `30d`, `30d, 7d ago`; empty where there is none."""
    if not feature.window_ms:
        return ""
    return _span(feature.window_ms) + (f", {_span(feature.delay_ms)} ago" if feature.delay_ms else "")


def _span(ms: int) -> str:
    minutes = ms // 60_000
    if minutes % 1_440 == 0 and minutes > 1_440:
        return f"{minutes // 1_440}d"
    return f"{minutes // 60}h" if minutes % 60 == 0 else f"{minutes}m"


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
