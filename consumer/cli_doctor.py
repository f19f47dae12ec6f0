"""`fraudline doctor`: every check, what it saw, and how to mend it."""

# ruff: noqa: PLC0415  heavy imports stay inside the commands, so that `fraudline --help` answers at once
from __future__ import annotations

import sys
import textwrap
from contextlib import closing
from typing import TYPE_CHECKING

import typer

from consumer.cli_options import AsJson, ConfigFile
from consumer.cli_output import print_json

if TYPE_CHECKING:
    from features.checkup import Finding

EXIT_NOT_WELL = 1
_WIDTH = 118
_NAME_WIDTH = 16
_MARGIN = " " * (8 + _NAME_WIDTH)


def doctor(
    *,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> int:
    """Look at everything that a processor needs, and say how to mend what is not well; exit status 1 if anything is.

    Nothing is changed, and processors that run are not disturbed. Each check ends in bounded time.
    """
    from consumer import logs
    from consumer.doctor.surgery import Surgery
    from features.checkup import examine

    logs.configure("critical")  # what the clients complain of is told below, in our words
    found: list[Finding] = []
    with closing(Surgery(config)) as surgery:
        group = ""
        for finding in examine(surgery.checks()):
            found.append(finding)
            if as_json:
                continue
            if (begins := finding.check.partition(".")[0]) != group:
                typer.echo(f"{chr(10) if group else ''}{begins}")
                group = begins
            typer.echo(lines_of(finding))
            sys.stdout.flush()
    if as_json:
        print_json([{"check": f.check, "status": f.status, "seen": f.seen, "mend": f.mend or None} for f in found])
    else:
        typer.echo(f"\n{_summary(found)}")
    return EXIT_NOT_WELL if any(each.status == "fail" for each in found) else 0


def lines_of(finding: Finding) -> str:
    """A check as people read it: what was seen, and below it the mend."""
    name = finding.check.partition(".")[2]
    word = finding.status if finding.status != "fail" else "FAIL"
    head = f"  {word}  {name:<{_NAME_WIDTH}}"
    lines = _wrapped(finding.seen) + (_wrapped(f"-> {finding.mend}") if finding.mend else [])
    return head + f"\n{_MARGIN}".join(lines)


def _wrapped(text: str) -> list[str]:
    from consumer.masking import printable

    indent = "   " if text.startswith("-> ") else ""
    return textwrap.wrap(printable(text), _WIDTH - len(_MARGIN), break_long_words=False, subsequent_indent=indent)


def _summary(found: list[Finding]) -> str:
    counts = {status: sum(each.status == status for each in found) for status in ("pass", "warn", "fail", "skip")}
    return f"{counts['pass']} pass, {counts['warn']} warn, {counts['fail']} fail, {counts['skip']} not looked at"
