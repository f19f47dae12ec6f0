"""`fraudline score --payments FILE --out FILE`: decide a whole history, at column speed, in bounded memory.

The features are those that every payment would have met online: labels are known from their `labelled_at` on, never
earlier. What production would not decide is left out: repeated payments, and rows that are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from consumer.columns import decisions_of, features_of, fields_of, rules_of
from consumer.decode import looks_like_card_number
from consumer.model_loader import load_model
from features.catalog import Catalog
from features.errors import ConfigError
from features.history import local
from features.history.files import check_output
from features.history.job import Job, Progress
from features.history.mapping import AS_NAMED, Columns
from models.policy import DECISIONS

ROWS: Final = 8_192  # scored at once
SCHEMA: Final = pa.schema(
    [
        pa.field("event_id", pa.string(), nullable=False),
        pa.field("card_id", pa.string(), nullable=False),
        pa.field("event_time", pa.int64(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),
        pa.field("decision", pa.string(), nullable=False),
        pa.field("rules", pa.list_(pa.string()), nullable=False),
        pa.field("model", pa.string(), nullable=False),
    ]
)


@dataclass(slots=True)
class Summary:
    """How many of what."""

    payments: int = 0
    repeated: int = 0
    labels: int = 0
    approve: int = 0
    review: int = 0
    block: int = 0
    refused_payments: dict[str, int] = field(default_factory=dict)
    refused_labels: dict[str, int] = field(default_factory=dict)


class _Out(Protocol):
    def write(self, rows: pa.RecordBatch) -> None: ...


def score_files(
    *,
    bundle: Path,
    payments: Path,
    labels: Path | None,
    out: Path,
    catalog: Catalog,
    threads: int = 1,
    memory_mb: int = 1_024,
    skip_bad: bool = False,
    progress: Progress = lambda _stage, _share: None,
    mapped: Columns = AS_NAMED,
) -> Summary:
    """Write a decision for every payment of a history to `out`, which appears when it is complete.

    Raises:
        BundleError: the bundle can't be used.
        ConfigError: a file can't be read or has bad rows, or the output can't be written.
    """
    if out.suffix not in (".jsonl", ".parquet"):
        raise ConfigError(f"{out} must end in .jsonl or .parquet.")
    check_output(out, payments, labels)
    model = load_model(bundle, device="cpu", threads=threads, catalog=catalog)
    policy, scorer = model.brain.policy, model.brain.scorer
    name = f"{model.reference.name}@{model.reference.version}"
    summary = Summary()
    with local.beside(out) as folder:
        table = folder / "features.parquet"
        job = Job(
            payments,
            labels,
            table,
            looks_like_card_number,
            catalog=model.catalog,
            memory_mb=memory_mb,
            jobs=threads,
            keep=tuple(sorted(policy.fields)),
            skip_bad=skip_bad,
            progress=lambda stage, share: progress(stage, 0.8 * share),
            mapped=mapped,
        )
        built = local.build(job)
        summary.payments, summary.labels, summary.repeated = built.payments, built.labels, built.repeated
        summary.refused_payments, summary.refused_labels = built.refused_payments, built.refused_labels
        with _writer(folder / "complete", out.suffix) as to, pq.ParquetFile(table) as file:
            done = 0
            for whole in file.iter_batches(ROWS):
                batch = whole.filter(pa.array(~np.asarray(whole.column("repeated"))))
                values = features_of(batch, model.catalog.names)
                scores = scorer.score(values)
                times = np.asarray(batch.column("event_time"))
                verdicts = policy.decide(scores, values, "full", fields=fields_of(batch), event_time=times)
                columns = [batch.column(column) for column in ("event_id", "card_id", "event_time")]
                columns += [pa.array(scores), decisions_of(verdicts.decision), rules_of(len(batch), verdicts.fired)]
                to.write(pa.RecordBatch.from_arrays([*columns, pa.array([name] * len(batch))], schema=SCHEMA))
                for decision, count in enumerate(np.bincount(verdicts.decision, minlength=len(DECISIONS)).tolist()):
                    setattr(summary, DECISIONS[decision], getattr(summary, DECISIONS[decision]) + count)
                done += len(whole)
                progress("scoring", 0.8 + 0.2 * done / max(built.payments, 1))
        (folder / "complete").replace(out)
    return summary


@contextmanager
def _writer(path: Path, suffix: str) -> Iterator[_Out]:
    if suffix == ".parquet":
        with pq.ParquetWriter(path, SCHEMA) as file:
            yield _Parquet(file)
    else:
        with path.open("wb") as lines:
            yield _Lines(lines.write)


@dataclass(frozen=True, slots=True)
class _Parquet:
    file: pq.ParquetWriter

    def write(self, rows: pa.RecordBatch) -> None:
        self.file.write_batch(rows)


@dataclass(frozen=True, slots=True)
class _Lines:
    put: Callable[[bytes], int]

    def write(self, rows: pa.RecordBatch) -> None:
        self.put(b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows.to_pylist()))
