"""Build the features of a history on Spark: the steps of `local`, each spread over the executors.

The files of the history and the output folder must be reached under the same paths by the driver and all executors. A
Parquet file is read by row groups; of other formats each file is one task, so a large history is better given as many.
Spark moves records to where their entity is folded, in the order of the log, and values to where their range of the log
is written; folding itself is `PartitionReader`, as on one machine.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, Final, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession

from features.errors import ConfigError
from features.event import Label, Payment
from features.history.fields import Refusals
from features.history.files import ROWS, Source, sources
from features.history.job import Job, Outcome
from features.history.spark_tasks import (
    ORDER,
    SIZES,
    WORDS,
    Batches,
    Part,
    Sizes,
    Survey,
    fold,
    identity_rows,
    label_rows,
    payment_rows,
    survey_labels,
    survey_payments,
    values_schema,
    write_ranges,
)

RECORDS_DDL: Final = "entity int, payment boolean, " + ", ".join(f"{word} bigint" for word in WORDS)
_DDL: Final = {
    pa.int32(): "int",
    pa.int64(): "bigint",
    pa.bool_(): "boolean",
    pa.binary(): "binary",
    pa.string(): "string",
}
_P = TypeVar("_P")
_R = TypeVar("_R")
COUNTS_DDL: Final = "payments bigint, repeated bigint"


def build(job: Job, master: str | None = None, sizes: Sizes = SIZES) -> Outcome:
    """Write the features of `job.payments` into the folder `job.out`: files whose order by name is that of the log.

    `job.memory_mb` and `job.jobs` are Spark's own affair. `master` is for a session that is not there yet. The folder's
    `_SUCCESS` appears when all is written.

    Raises:
        ConfigError: an input can't be read or has bad rows, or the output can't be written.
    """
    payments = [Part(part) for source in sources(job.payments, Payment, job.mapped) for part in _row_groups(source)]
    labels = [] if job.labels is None else [Part(source) for source in sources(job.labels, Label, job.mapped)]
    _make_folder(job.out)
    spark, outcome = session(master), Outcome(features=len(job.catalog.features))
    job.progress("reading", 0.0)
    told: dict[str, Any] = {"is_card_number": job.is_card_number, "rows": job.quarantine is not None}
    surveys = on_each(spark, labels, partial(survey_labels, **told))
    outcome.labels = sum(each.records for each in surveys)
    labels = _placed(labels, _settled(surveys, job, outcome))
    surveys = on_each(spark, payments, partial(survey_payments, **told))
    outcome.payments = sum(each.records for each in surveys)
    payments = _placed(payments, _settled(surveys, job, outcome))
    if outcome.payments:
        job.progress("computing and writing features", 0.25)
        outcome.repeated = _fold_and_write(spark, payments, labels, job, outcome.payments, sizes)
    (job.out / "_SUCCESS").touch()
    return outcome


def _fold_and_write(
    spark: SparkSession, payments: list[Part], labels: list[Part], job: Job, count: int, sizes: Sizes
) -> int:
    """Everything behind the survey; gives how many payments are repeated."""
    catalog, is_card_number = job.catalog, job.is_card_number
    read = partial(payment_rows, catalog=catalog, is_card_number=is_card_number)
    records = _from_each(spark, payments, read, RECORDS_DDL)
    if labels:
        read = partial(label_rows, catalog=catalog, is_card_number=is_card_number)
        records = records.union(_from_each(spark, labels, read, RECORDS_DDL))
    tasks = max(spark.sparkContext.defaultParallelism, count * len(catalog.entities) // sizes.task_records)
    logs = records.repartition(tasks, "entity", "w0").sortWithinPartitions(*ORDER)
    keep = job.keep
    ddl = ", ".join(f"`{each.name}` {_DDL[each.type]}" for each in values_schema(keep))
    values = logs.mapInArrow(partial(fold, catalog=catalog, sizes=sizes, keep=keep), ddl)
    identify = partial(identity_rows, catalog=catalog, is_card_number=is_card_number, sizes=sizes, keep=keep)
    values = values.union(_from_each(spark, payments, identify, ddl))
    files = max(1, min(tasks, count // sizes.range_rows))
    ranges = values.repartition(files, "range").sortWithinPartitions("range", "entity")
    write = partial(write_ranges, catalog=catalog, folder=job.out.absolute(), sizes=sizes, keep=keep)
    written = ranges.mapInArrow(write, COUNTS_DDL).collect()
    if (done := sum(row.payments for row in written)) != count:
        raise ConfigError(f"{job.payments} changed while it was read: {count:,} payments at first, then {done:,}.")
    return sum(row.repeated for row in written)


def on_each(spark: SparkSession, parts: Sequence[_P], do: Callable[[_P], _R]) -> list[_R]:
    """What a task makes of each part, in order."""
    found: list[_R] = spark.sparkContext.parallelize(parts, max(len(parts), 1)).map(do).collect()
    return found


def _from_each(spark: SparkSession, parts: list[Part], read: Callable[[Part], Batches], schema: str) -> DataFrame:
    """The rows that tasks read from the parts, one task a part."""

    def read_numbered(batches: Batches) -> Batches:
        for batch in batches:
            for number in batch.column(0).to_pylist():
                yield from read(parts[number])

    return spark.range(0, len(parts), 1, len(parts)).mapInArrow(read_numbered, schema)


def _settled(surveys: list[Survey], job: Job, outcome: Outcome) -> list[Survey]:
    """Raise ConfigError for what can't be read; count what was refused, by file."""
    for each in surveys:
        if each.error is not None:
            raise ConfigError(each.error)
    by_file: dict[Path, Refusals] = {}
    for each in surveys:
        known = by_file.setdefault(each.refusals.path, job.refusals(each.refusals.path, each.refusals.what))
        known.merge(each.refusals)
    for refusals in by_file.values():
        job.settle(refusals, outcome)
    return surveys


def _placed(parts: list[Part], surveys: list[Survey]) -> list[Part]:
    """The parts, knowing what lies before each."""
    before = [0, *accumulate(each.records for each in surveys)]
    latest = [0, *accumulate((each.latest for each in surveys), max)]
    return [dataclasses.replace(part, before=before[i], latest=latest[i]) for i, part in enumerate(parts)]


def _row_groups(source: Source) -> list[Source]:
    """A Parquet file by row groups; any other as it is."""
    if source.path.suffix.lower() != ".parquet":
        return [source]
    try:
        groups = pq.read_metadata(source.path).num_row_groups
    except (pa.ArrowException, OSError):
        return [source]  # reading it tells what is wrong
    return [dataclasses.replace(source, groups=(group,)) for group in range(groups)] or [source]


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()):
            raise ConfigError(f"{out} must be an empty folder, or not there yet.")
    except OSError as error:
        raise ConfigError(f"{out} can't be written ({error.strerror}).") from None


def session(master: str | None) -> SparkSession:
    """The session that is there, or a new one."""
    builder = SparkSession.builder.appName("fraudline features build")
    if SparkSession.getActiveSession() is None:
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # else workers are whatever python3 is
        builder = builder.config("spark.ui.showConsoleProgress", "false")
        builder = builder if master is None else builder.master(master)
    try:
        spark = builder.getOrCreate()
    except Exception as error:  # whatever a Java machine may say
        where = "" if master is None else f" at {master}"
        raise ConfigError(f"Spark{where} can't be used ({type(error).__name__}); see whether it runs.") from None
    spark.sparkContext.setLogLevel("ERROR")
    spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", str(ROWS))
    return spark
