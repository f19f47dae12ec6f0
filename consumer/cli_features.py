"""`fraudline features build`: the features of a history, from files to a file."""

# ruff: noqa: PLC0415  heavy imports stay inside the commands, so that `fraudline --help` answers at once
from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from consumer.cli_options import Mapped, columns_of, cores
from consumer.cli_output import print_mapping, progress_stages


class Engine(StrEnum):
    """Where the folding is done."""

    LOCAL = "local"
    SPARK = "spark"


def build(
    *,
    payments: Annotated[
        Path, typer.Option(metavar="PATH", help="Parquet, CSV or JSON lines in log order; a file, or a folder of them.")
    ],
    labels: Annotated[Path | None, typer.Option(metavar="PATH", help="Likewise, in any order.")] = None,
    mapped: Mapped = None,
    out: Annotated[Path, typer.Option(metavar="PATH", help="The Parquet file to write; with Spark a folder of them.")],
    catalog: Annotated[
        str, typer.Option(metavar="NAME|FILE", help="Which features: a profile, or a TOML file.")
    ] = "default",
    engine: Annotated[Engine, typer.Option(help="Fold here, or on Spark.")] = Engine.LOCAL,
    memory_mb: Annotated[int, typer.Option(min=16, help="Memory for work; what is more waits in files.")] = 1_024,
    jobs: Annotated[int | None, typer.Option(min=1, max=256, help="Threads that fold (default: one a core).")] = None,
    spark_master: Annotated[str | None, typer.Option(metavar="URL", help="Spark's master, if it is not set.")] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out rows that are no record, and go on.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")] = False,
) -> int:
    """Compute the features of every payment of a history, from what was known at that point of it."""
    from consumer import logs
    from consumer.decode import looks_like_card_number
    from features.history import local
    from features.history.job import Job
    from features.profiles import load_catalog

    logs.configure_command()
    with progress_stages() as progress:
        job = Job(
            payments=payments,
            labels=labels,
            out=out,
            is_card_number=looks_like_card_number,
            catalog=load_catalog(catalog),
            memory_mb=memory_mb,
            jobs=jobs or cores(),
            skip_bad=skip_bad,
            progress=progress,
            mapped=columns_of(mapped),
        )
        if engine is Engine.SPARK:
            from features.history import spark

            outcome = spark.build(job, spark_master)
        else:
            outcome = local.build(job)
    print_mapping(f"Built {out}", asdict(outcome), as_json=as_json)
    return 0
