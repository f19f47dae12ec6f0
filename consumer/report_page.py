"""Where `fraudline train` puts its report."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from features.errors import ConfigError
from models.facts import FIELDS
from models.report import report
from models.report_html import is_installed, render
from models.train import Trained


def report_writer(place: str | None, bundle: Path, title: str, segments: tuple[str, ...]) -> Callable[[Trained], None]:
    """What writes the report: a page, and the same figures as JSON beside it.

    Raises:
        ConfigError: the page can't be made here, or a segment is no field of a payment; before anything is trained.
    """
    for name in segments:
        if name not in FIELDS:
            raise ConfigError(f"--segment {name} is no field of a payment; there are {', '.join(FIELDS)}.")
    if place == "none":
        return lambda _trained: None
    page = bundle.with_name(f"{bundle.name}.report.html") if place is None else Path(place)
    if page.suffix != ".html":
        raise ConfigError("--report must end in .html, or be none.")
    if place is not None:
        check_drawing()
    elif not is_installed():
        sys.stderr.write("no report is written: it needs matplotlib and jinja2, the extra fraudline[train]\n")
        return lambda _trained: None

    def write(trained: Trained) -> None:
        figures = report(trained, segments)
        write_page(page, render(figures, title), figures)

    return write


def check_drawing() -> None:
    """Refuse where a page can't be drawn. Raises ConfigError."""
    if not is_installed():
        raise ConfigError("The report's page needs matplotlib and jinja2: install fraudline[train].")


def write_page(page: Path, text: str, figures: dict[str, Any]) -> None:
    """Write a page, and its figures as JSON beside it. Raises ConfigError."""
    try:
        page.write_text(text, "utf-8")
        page.with_suffix(".json").write_bytes(orjson.dumps(figures, option=orjson.OPT_INDENT_2))
    except OSError as error:
        raise ConfigError(f"The report can't be written to {page} ({error.strerror}).") from None
