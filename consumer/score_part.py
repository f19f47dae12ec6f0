"""Decide a part of a table of features, and write what was decided: what every engine of `fraudline score` does."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from consumer.columns import decisions_of, features_of, fields_of, rules_of
from consumer.threads import PerThread
from features.catalog import Catalog
from features.errors import BundleError
from models.bundle import Bundle, load
from models.policy import DECISIONS
from models.score import Scorer
from models.signature import ANYBODY, Trust

ROWS: Final = 8_192  # scored at once
FORMATS: Final = (".parquet", ".csv", ".jsonl")
SCHEMA: Final = pa.schema(
    [
        pa.field("event_id", pa.string(), nullable=False),
        pa.field("card_id", pa.string(), nullable=False),
        pa.field("event_time", pa.int64(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),
        pa.field("decision", pa.string(), nullable=False),
        pa.field("rules", pa.list_(pa.string()), nullable=False),
        pa.field("shadow_rules", pa.list_(pa.string()), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("bundle", pa.string(), nullable=False),
        pa.field("policy", pa.string(), nullable=False),
    ]
)
_TEXTS: Final = pa.schema(
    [pa.field(each.name, pa.string()) if pa.types.is_list(each.type) else each for each in SCHEMA]
)


@dataclass(frozen=True, slots=True)
class Part:
    """Row groups of a table of features, and the file of its decisions, which stands `alone` or is to be joined."""

    table: Path
    groups: tuple[int, ...]
    out: Path
    alone: bool = False


@dataclass(frozen=True, slots=True)
class Model:
    """A bundle by its place and digest: workers of other processes load it themselves."""

    bundle: Path
    digest: str
    catalog: Catalog
    trust: Trust = ANYBODY


def parts_of(tables: Sequence[Path], folder: Path, suffix: str, groups: int, *, alone: bool = False) -> list[Part]:
    """Tables cut into parts of so many row groups, in order."""
    parts: list[Part] = []
    for table in tables:
        count = pq.read_metadata(table).num_row_groups
        for first in range(0, count, groups):
            some = tuple(range(first, min(first + groups, count)))
            parts.append(Part(table, some, folder / f"part-{len(parts):08d}{suffix}", alone))
    return parts


def score_part(part: Part, model: Model) -> dict[str, int]:
    """Write the decisions of a part, which appear when they are complete. How many of each there are."""
    bundle, scorer = _bundle(model), _scorers[model]
    manifest, policy = bundle.manifest, bundle.policy
    about = (f"{manifest.name}@{manifest.version}", bundle.digest, policy.digest)
    counts: Counter[str] = Counter()
    beside = part.out.with_name(f".{uuid.uuid4().hex}")  # Spark may try a task twice at once
    with pq.ParquetFile(part.table) as file, writer(beside, part.out.suffix, header=part.alone) as to:
        for whole in file.iter_batches(ROWS, row_groups=list(part.groups)):
            batch = whole.filter(pa.array(~np.asarray(whole.column("repeated"))))
            values = features_of(batch, manifest.features)
            scores = scorer.score(values)
            times = np.asarray(batch.column("event_time"))
            told = policy.decide(scores, values, "full", fields=fields_of(batch), event_time=times)
            n = len(batch)
            columns = [batch.column(column) for column in ("event_id", "card_id", "event_time")]
            columns += [
                pa.array(scores),
                decisions_of(told.decision),
                rules_of(n, told.fired),
                rules_of(n, told.shadow),
            ]
            columns += [pa.array([text] * n, pa.string()) for text in about]
            to.write(pa.RecordBatch.from_arrays(columns, schema=SCHEMA))
            for decision, count in enumerate(np.bincount(told.decision, minlength=len(DECISIONS)).tolist()):
                counts[DECISIONS[decision]] += count
    beside.replace(part.out)
    return dict(counts)


def joined(parts: Sequence[Path], out: Path, suffix: str) -> None:
    """One file of all parts, in order."""
    if suffix == ".parquet":
        with pq.ParquetWriter(out, SCHEMA) as to:
            for part in parts:
                with pq.ParquetFile(part) as file:
                    for batch in file.iter_batches(ROWS * 8):
                        to.write_batch(batch)
        return
    with out.open("wb") as to:
        if suffix == ".csv":
            to.write(_header())
        for part in parts:
            with part.open("rb") as file:
                while block := file.read(1 << 20):
                    to.write(block)


class _Out(Protocol):
    def write(self, rows: pa.RecordBatch) -> None: ...


@contextmanager
def writer(path: Path, suffix: str, *, header: bool) -> Iterator[_Out]:
    """Writes decisions in one of `FORMATS`; in CSV lists are words with spaces between them."""
    match suffix:
        case ".parquet":
            with pq.ParquetWriter(path, SCHEMA) as file:
                yield _Parquet(file)
        case ".csv":
            with pa_csv.CSVWriter(path, _TEXTS, write_options=pa_csv.WriteOptions(include_header=header)) as text:
                yield _Csv(text)
        case _:
            with path.open("wb") as lines:
                yield _Lines(lines)


@dataclass(frozen=True, slots=True)
class _Parquet:
    file: pq.ParquetWriter

    def write(self, rows: pa.RecordBatch) -> None:
        self.file.write_batch(rows)


@dataclass(frozen=True, slots=True)
class _Csv:
    file: pa_csv.CSVWriter

    def write(self, rows: pa.RecordBatch) -> None:
        columns = [pc.binary_join(each, " ") if pa.types.is_list(each.type) else each for each in rows.columns]
        self.file.write_batch(pa.RecordBatch.from_arrays(columns, schema=_TEXTS))


@dataclass(frozen=True, slots=True)
class _Lines:
    file: Any

    def write(self, rows: pa.RecordBatch) -> None:
        self.file.write(b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows.to_pylist()))


def _header() -> bytes:
    return (",".join(f'"{name}"' for name in SCHEMA.names) + "\n").encode()


@cache
def _bundle(model: Model) -> Bundle:
    found = load(model.bundle, model.catalog, model.trust)
    if found.digest != model.digest:
        raise BundleError(f"{model.bundle} was changed while it was used; start again.")
    return found


_scorers: Final = PerThread[Model, Scorer](lambda model: Scorer(_bundle(model), threads=1, compiled=True))
