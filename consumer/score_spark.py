"""`fraudline score --engine spark`: the same steps on Spark, for a history beyond one machine.

Features are built by `features.history.spark`, each range of the log a file; then each executor decides files of its
own with the function that one machine uses. Inputs, output and bundle must be reached under the same paths everywhere.
"""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

from consumer.score_files import Asked, Summary
from consumer.score_part import FORMATS, Model, parts_of, score_part
from features.catalog import Catalog
from features.errors import ConfigError
from features.history import spark
from features.history.job import Progress
from features.history.quarantine import Quarantine
from features.history.spark_tasks import SIZES, Sizes
from models.bundle import load


def score_spark(
    asked: Asked,
    catalog: Catalog,
    suffix: str = ".parquet",
    master: str | None = None,
    progress: Progress = lambda _stage, _share: None,
    sizes: Sizes = SIZES,
) -> Summary:
    """Write decisions into the folder `asked.out`: files in `suffix`'s format, whose order by name is that of the log.

    The folder's `_SUCCESS` appears when all is written.

    Raises:
        BundleError: the bundle can't be used.
        ConfigError: a file can't be read or has bad rows, or the output can't be written.
    """
    if suffix not in FORMATS:
        raise ConfigError(f"{suffix} is no format; there are {', '.join(FORMATS)}.")
    asked.check_places()
    bundle, out = load(asked.bundle, catalog, asked.trust), asked.out
    table = out.with_name(f".{out.name}-features")
    _require_empty(out, table)
    quarantine = None if asked.rejects is None else Quarantine(asked.rejects)
    try:
        job = asked.job(table, bundle, catalog, quarantine, lambda stage, share: progress(stage, 0.7 * share))
        built = spark.build(job, master, sizes)
        out.mkdir(parents=True, exist_ok=True)
        parts = parts_of(sorted(table.glob("part-*.parquet")), out.absolute(), suffix, 1, alone=True)
        progress("scoring", 0.7)
        model = Model(asked.bundle.absolute(), bundle.digest, catalog, asked.trust)
        counts = spark.on_each(spark.session(master), parts, partial(score_part, model=model))
    finally:
        shutil.rmtree(table, ignore_errors=True)
        if quarantine is not None:
            quarantine.close()
    (out / "_SUCCESS").touch()
    summary = Summary(built.payments, built.repeated, built.labels)
    summary.refused_payments, summary.refused_labels = built.refused_payments, built.refused_labels
    for each in counts:
        for name, count in each.items():
            setattr(summary, name, getattr(summary, name) + count)
    return summary


def _require_empty(out: Path, table: Path) -> None:
    if table.exists():
        raise ConfigError(f"{table} is there, of a run that was stopped; remove it.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} must be an empty folder, or not there yet.")
