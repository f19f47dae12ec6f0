"""Build the features of a history on one machine, in memory that does not grow with it.

Three steps, each in one pass over its input:

1. Read payments and labels; write their records by entity and by partition of its ids (`Spill`).
2. Fold each partition of each entity; write the values by range of the log.
3. Put each range's values together, and write them as a row group.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
import pyarrow as pa

from features.catalog import Entity
from features.errors import ConfigError
from features.event import Label, Payment
from features.grouping import payment_records
from features.history.chunks import PaymentChunk, label_chunk, payment_chunk
from features.history.entities import PartitionReader
from features.history.files import Source, estimated_rows, sources
from features.history.job import Job, Outcome
from features.history.output import assembled, kept_fields, with_payment_features, writer
from features.history.spill import Scratch, Spill
from features.history.tables import ROW_WORDS, by_partition, by_range, put, running_latest

_T = TypeVar("_T")
PARTITION_ROWS: Final = 65_536  # so that a partition's records lie in the processor's cache
ROW_BYTES: Final = 700  # that folding a partition takes for each of its rows
MAX_PARTITIONS: Final = 8_192


def build(job: Job) -> Outcome:
    """Write the features of `job.payments` to `job.out`, a Parquet file, which appears when it is complete.

    Raises:
        ConfigError: an input can't be read or has bad rows, or the output can't be written.
    """
    with _built(job) as (built, folder):
        built.write(folder / "complete")
        (folder / "complete").replace(job.out)
    return built.outcome


@contextmanager
def streamed(job: Job) -> Iterator[tuple[Outcome, Iterator[pa.RecordBatch]]]:
    """The same rows, some thousand at a time, for what needs no file: beside `job.out` is only room for work.

    How many are repeated is known when all were taken. Raises ConfigError likewise.
    """
    with _built(job) as (built, _):
        yield built.outcome, built.batches()


@contextmanager
def _built(job: Job) -> Iterator[tuple[_Build, Path]]:
    """Everything but writing, and a folder beside the output."""
    payments = sources(job.payments, Payment, job.mapped)
    labels = [] if job.labels is None else sources(job.labels, Label, job.mapped)
    with beside(job.out) as folder:
        built = _Build(job, folder, sum(map(estimated_rows, payments)))
        built.read(labels, payments)
        built.fold()
        yield built, folder


@contextmanager
def beside(out: Path) -> Iterator[Path]:
    """A folder on the output's file system, for as long as it takes."""
    try:
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.absolute().parent) as folder:
            yield Path(folder)
    except OSError as error:
        raise ConfigError(f"{out} can't be written ({error.strerror}).") from None


class _Build:
    def __init__(self, job: Job, folder: Path, rows: int) -> None:
        self.outcome = Outcome(features=len(job.catalog.features))
        self._job, self._catalog = job, job.catalog
        self._segment_rows, self._partitions = cuts(rows, job.memory_mb, job.jobs)
        self._scratch = Scratch(folder, (job.memory_mb << 20) // 2)
        self._records = self._row_spills("records")
        self._labels = self._row_spills("labels")
        self._values: dict[Entity, Spill] = {}
        self._identities = folder / "identities"
        self._firsts: list[int] = []  # of each range, the place of its first payment

    def _row_spills(self, what: str) -> dict[Entity, Spill]:
        return {
            entity: self._scratch.spill(f"{what}-{entity}", self._partitions, ROW_WORDS, np.int64)
            for entity in self._catalog.entities
        }

    def read(self, labels: list[Source], payments: list[Source]) -> None:
        """Step 1."""
        for source in labels:
            refusals = self._job.refusals(source.path, "label")
            for piece in source.pieces(refusals, threads=self._job.jobs > 1):
                chunk = label_chunk(piece, self.outcome.labels, refusals, self._job.is_card_number)
                for entity, spill in self._labels.items():
                    rows = by_partition(chunk.keys[entity], chunk.labelled_at, chunk.base, self._partitions)
                    self._scratch.add(spill, *rows)
                self.outcome.labels += len(chunk.base)
            self._job.settle(refusals, self.outcome)
        latest = 0
        identities: pa.RecordBatchStreamWriter | None = None
        for number, source in enumerate(payments):
            refusals, unread = (self._job.refusals(source.path, "payment") for _ in range(2))
            for piece in ahead(source.pieces(unread, threads=self._job.jobs > 1), self._job.jobs):
                self._job.progress("reading", 0.25 * (number + piece.share) / len(payments))
                payment_rows = payment_chunk(
                    piece, self.outcome.payments, refusals, self._job.is_card_number, kept_fields(self._job.keep)
                )
                if not len(payment_rows.identity):
                    continue
                latest = self._keep(payment_rows, latest)
                known = with_payment_features(payment_rows, self._catalog, self._job.keep)
                identities = identities or pa.ipc.new_stream(self._identities, known.schema)
                identities.write_batch(known)
            refusals.merge(unread)
            self._job.settle(refusals, self.outcome)
        if identities is not None:
            identities.close()

    def _keep(self, chunk: PaymentChunk, latest: int) -> int:
        moments = running_latest(chunk.batch.event_time, latest)
        for entity, spill in self._records.items():
            records = payment_records(chunk.batch, entity)
            self._scratch.add(spill, *by_partition(chunk.keys[entity], moments, records, self._partitions))
        self._firsts.append(chunk.first)
        self.outcome.payments += len(moments)
        return int(moments[-1])

    def fold(self) -> None:
        """Step 2."""
        entities = self._catalog.entities
        firsts = np.array(self._firsts or [0], np.int64)
        with ThreadPoolExecutor(self._job.jobs) as pool:
            for number, entity in enumerate(entities):
                reader = PartitionReader(self._catalog, entity, self._segment_rows)
                width = 2 + len(reader.reader.columns)
                values = self._scratch.spill(f"values-{entity}", len(firsts), width, np.int32)
                records, labels = self._records[entity], self._labels[entity]

                def fold_part(part: int, reader=reader, records=records, labels=labels, values=values) -> None:  # type: ignore[no-untyped-def]
                    for places, block, repeated in reader.read(records.pieces(part), labels.part(part)):
                        self._scratch.add(values, *by_range(places, firsts, block, repeated))

                for done, _ in enumerate(pool.map(fold_part, range(self._partitions)), start=1):
                    share = (number + done / self._partitions) / len(entities)
                    self._job.progress(f"computing {entity} features", 0.25 + 0.6 * share)
                records.drop()
                labels.drop()
                self._values[entity] = values

    def write(self, path: Path) -> None:
        """Step 3."""
        with writer(path, self._catalog, self._job.keep) as file:
            for number, batch in enumerate(self.batches(), start=1):
                file.write_batch(batch)
                self._job.progress("writing", 0.85 + 0.15 * number / len(self._firsts))

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The rows of the output, range by range."""
        for batch, repeated in ahead(self._ranges(), self._job.jobs) if self._firsts else ():
            self.outcome.repeated += repeated
            yield batch

    def _ranges(self) -> Iterator[tuple[pa.RecordBatch, int]]:
        """Each range's rows, and how many of them are repeated."""
        with pa.OSFile(str(self._identities)) as kept, pa.ipc.open_stream(kept) as identities:
            for number, known in enumerate(identities):
                table = np.full((len(self._catalog.features), len(known)), np.nan, np.float32)
                repeated = np.zeros(len(known), np.bool_)
                for entity, values in self._values.items():
                    columns = np.array(self._catalog.columns_of(entity), np.int64)
                    for cells in values.pieces(number):
                        put(cells, columns, table.view(np.int32), repeated, entity == "card")
                yield assembled(self._catalog, known, repeated, table, self._job.keep), int(repeated.sum())


def cuts(rows: int, memory_mb: int, jobs: int) -> tuple[int, int]:
    """Of a history of so many rows: how many a thread may fold at a time, and into how many partitions ids are cut."""
    segment_rows = max((memory_mb << 20) // 4 // ROW_BYTES // jobs, 4_096)
    return segment_rows, min(max(rows // min(PARTITION_ROWS, segment_rows // 2), 1), MAX_PARTITIONS)


def ahead(items: Iterator[_T], threads: int) -> Iterator[_T]:
    """The same, and with more than one thread the next is made while one is used."""
    if threads == 1:
        yield from items
        return
    with ThreadPoolExecutor(1) as pool:
        future: Future[_T | None] = pool.submit(next, items, None)
        while (item := future.result()) is not None:
            future = pool.submit(next, items, None)
            yield item
