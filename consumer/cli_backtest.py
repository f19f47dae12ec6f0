"""`fraudline backtest`: models and policies against a history."""

# ruff: noqa: PLC0415  heavy imports stay inside the commands, so that `fraudline --help` answers at once
from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from consumer.cli_options import AsJson, CatalogName, ConfigFile, Mapped, columns_of, cores, moment_ms
from consumer.cli_output import duration_ms, print_json, print_mapping, print_table, progress_stages
from features.errors import ConfigError


def backtest(
    *,
    payments: Annotated[
        Path, typer.Option(metavar="PATH", help="Parquet, CSV or JSON lines in log order; a file, or a folder of them.")
    ],
    labels: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Labels, known from their labelled_at on; in any order.")
    ] = None,
    mapped: Mapped = None,
    variants: Annotated[
        list[str],
        typer.Option(
            "--variant", metavar="NAME=BUNDLE[,POLICY]", help="A bundle, maybe under another policy.toml; repeatable."
        ),
    ],
    decisions: Annotated[
        str | None,
        typer.Option(
            metavar="TOPIC|FILE", help="Also compare what production decided: its topic, a dump, or .parquet."
        ),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            metavar="FILE", help="A page, .html; its figures go into a .json and each payment into a .parquet."
        ),
    ],
    since: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="Judge payments of this time on (ISO 8601).")
    ] = None,
    until: Annotated[str | None, typer.Option("--to", metavar="TIME", help="Judge payments before this time.")] = None,
    mature: Annotated[
        str, typer.Option(metavar="TIME", help="A payment this old that nobody called fraud is genuine: 12h, 7d.")
    ] = "7d",
    segment: Annotated[
        list[str] | None, typer.Option(metavar="FIELD", help="Also tell payments apart by this field; repeatable.")
    ] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out rows that are no record, and go on.")] = False,
    resamples: Annotated[int, typer.Option(min=0, max=1_000, help="Of the bootstrap; 0 for no intervals.")] = 200,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads (default: one a core).")] = None,
    memory_mb: Annotated[int, typer.Option(min=16, help="Memory for features; what is more waits in files.")] = 1_024,
    catalog: CatalogName = "default",
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> int:
    """Decide a history again, with any number of models and policies, and hold them to what is known now."""
    from consumer import logs, settings
    from consumer.backtest import Asked, variant
    from consumer.backtest import backtest as run
    from consumer.report_page import check_drawing, write_page
    from consumer.streams import Stream, open_stream
    from consumer.trust import configured
    from features.profiles import load_catalog
    from models.backtest_page import render
    from models.facts import FIELDS

    logs.configure_command()
    if out.suffix != ".html":
        raise ConfigError("--out must end in .html.")
    for name in segment or []:
        if name not in FIELDS:
            raise ConfigError(f"--segment {name} is no field of a payment; there are {', '.join(FIELDS)}.")
    check_drawing()
    whole, trust = load_catalog(catalog), configured(config)
    with ExitStack() as stack:
        told: Path | Stream | None = None
        if decisions is not None and decisions.endswith(".parquet"):
            told = Path(decisions)
        elif decisions is not None:
            told = open_stream(decisions, settings.load(config).kafka)
            stack.callback(told.close)
        progress = stack.enter_context(progress_stages())
        asked = Asked(
            payments,
            labels,
            tuple(variant(text, whole, trust) for text in variants),
            told,
            from_ms=moment_ms(since, "--from"),
            to_ms=moment_ms(until, "--to"),
            mature_ms=duration_ms(mature, "--mature"),
            segments=tuple(dict.fromkeys(segment or [])),
            mapped=columns_of(mapped),
            skip_bad=skip_bad,
            memory_mb=memory_mb,
            threads=threads or cores(),
            resamples=resamples,
        )
        found = run(asked, whole, out.with_suffix(".parquet"), progress)
    write_page(out, render(found, f"Backtest of {payments.name}"), found)
    if as_json:
        print_json(found)
        return 0
    print_mapping(f"Backtest of {payments}", found["history"], as_json=False)
    names = list(found["measures"])
    rows = [(name, *(_shown(found["measures"][each][name]) for each in names)) for name in found["measures"][names[0]]]
    print_table(f"Measures; the page is {out}", ("", *names), rows, as_json=False)
    return 0


def _shown(told: dict[str, Any]) -> str:
    value, low, high = told["value"], told.get("low"), told.get("high")
    if value is None:
        return ""
    digits = 1 if abs(value) >= 10 else 4
    interval = "" if low is None or high is None else f" ({low:,.{digits}f} to {high:,.{digits}f})"
    return f"{value:,.{digits}f}{interval}"
