"""What Spark's tasks do when they build features: functions over Arrow record batches, which know nothing of Spark.

Two kinds of rows travel between tasks. A *record* is the entity's number, whether it is a payment, and the words of a
row of `tables`. A *value* is what one entity's log gives for one payment, as bytes of float32, under the payment's
place in the log; with `IDENTITY` for the entity it is the payment's identity and the features of the payment alone.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features.catalog import ENTITIES, Catalog
from features.errors import ConfigError
from features.event import Words
from features.grouping import payment_records
from features.history.chunks import IsCardNumber, PaymentChunk, label_chunk, payment_chunk
from features.history.entities import NO_ROWS, PartitionReader
from features.history.fields import Mask, Refusals, Refused
from features.history.files import Source
from features.history.output import IDENTITY as OF_PAYMENT
from features.history.output import assembled, kept_fields, known_schema, with_payment_features, writer
from features.history.tables import ROW_WORDS, by_partition, put, running_latest
from features.reader import Values

IDENTITY: Final = -1

WORDS: Final = tuple(f"w{i}" for i in range(ROW_WORDS))
ORDER: Final = ("entity", "payment", "w1", "w4")  # labels first; by moment, then as recorded
RECORDS: Final = pa.schema([("entity", pa.int32()), ("payment", pa.bool_()), *((word, pa.int64()) for word in WORDS)])
VALUES: Final = (
    pa.field("range", pa.int64()),
    pa.field("entity", pa.int32()),
    pa.field("place", pa.int64()),
    pa.field("repeated", pa.bool_()),
    pa.field("block", pa.binary()),
)


def values_schema(keep: Sequence[str]) -> pa.Schema:
    """The columns of values; those behind `VALUES` only identities have. A dot in a name means something to Spark."""
    own = [*OF_PAYMENT, *kept_fields(keep)]
    return pa.schema([*VALUES, *(pa.field(each.name.replace(".", "_"), each.type) for each in own)])


COUNTS: Final = pa.schema([("payments", pa.int64()), ("repeated", pa.int64())])

Batches = Iterator[pa.RecordBatch]


@dataclass(frozen=True, slots=True)
class Sizes:
    """How the work is cut: records that a task folds, about, and at a time; payments in a file of the output."""

    task_records: int = 1 << 20
    segment_rows: int = 1 << 18
    range_rows: int = 1 << 16


SIZES: Final = Sizes()


@dataclass(frozen=True, slots=True)
class Part:
    """What one task reads: a file or some of it; how many records of it lie before, and which latest event time."""

    source: Source
    before: int = 0
    latest: int = 0


@dataclass(frozen=True, slots=True)
class Survey:
    """What a part holds; `error` tells why it can't be read."""

    records: int
    latest: int
    refusals: Refusals
    error: str | None = None


def survey_payments(part: Part, is_card_number: IsCardNumber, *, rows: bool = False) -> Survey:
    """Count a part's payments, and find the latest event time; with `rows`, name those that are none."""
    refusals = Refusals(part.source.path, "payment", rows=Refused() if rows else None)
    records = latest = 0
    try:
        for chunk in _chunks(part, refusals, is_card_number):
            records += len(chunk.identity)
            latest = max(latest, int(chunk.batch.event_time.max()))
    except ConfigError as error:
        return Survey(records, latest, refusals, str(error))
    return Survey(records, latest, refusals)


def survey_labels(part: Part, is_card_number: IsCardNumber, *, rows: bool = False) -> Survey:
    """Count a part's labels; with `rows`, name those that are none."""
    refusals = Refusals(part.source.path, "label", rows=Refused() if rows else None)
    records = 0
    try:
        for piece in part.source.pieces(refusals, threads=False):
            records += len(label_chunk(piece, 0, refusals, is_card_number).base)
    except ConfigError as error:
        return Survey(records, 0, refusals, str(error))
    return Survey(records, 0, refusals)


def payment_rows(part: Part, catalog: Catalog, is_card_number: IsCardNumber) -> Batches:
    """The records of a part's payments."""
    latest = part.latest
    for chunk in _chunks(part, Refusals(part.source.path, "payment"), is_card_number):
        moments = running_latest(chunk.batch.event_time, latest)
        latest = int(moments[-1])
        for entity in catalog.entities:
            rows, _ = by_partition(chunk.keys[entity], moments, payment_records(chunk.batch, entity), 1)
            yield _record_batch(ENTITIES.index(entity), True, rows)


def label_rows(part: Part, catalog: Catalog, is_card_number: IsCardNumber) -> Batches:
    """The records of a part's labels."""
    refusals, before = Refusals(part.source.path, "label"), part.before
    for piece in part.source.pieces(refusals, threads=False):
        chunk = label_chunk(piece, before, refusals, is_card_number)
        before += len(chunk.base)
        for entity in catalog.entities:
            rows, _ = by_partition(chunk.keys[entity], chunk.labelled_at, chunk.base, 1)
            yield _record_batch(ENTITIES.index(entity), False, rows)


def identity_rows(
    part: Part, catalog: Catalog, is_card_number: IsCardNumber, sizes: Sizes, keep: Sequence[str] = ()
) -> Batches:
    """Who a part's payments are, and what is known without any log, as values; with columns that are kept."""
    schema, fields = values_schema(keep), kept_fields(keep)
    for chunk in _chunks(part, Refusals(part.source.path, "payment"), is_card_number, fields):
        known = with_payment_features(chunk, catalog, keep)
        n, places = len(known), chunk.batch.offset
        alone = np.empty((n, known.num_columns - chunk.identity.num_columns), np.float32)
        for column in range(alone.shape[1]):
            alone[:, column] = known.column(chunk.identity.num_columns + column)
        yield _value_batch(IDENTITY, places, sizes.range_rows, alone, np.zeros(n, np.bool_), schema, chunk.identity)


def fold(batches: Batches, catalog: Catalog, sizes: Sizes, keep: Sequence[str] = ()) -> Batches:
    """Values of a partition's records, which come in `ORDER`."""
    schema = values_schema(keep)
    for number, runs in groupby(_runs(batches), key=lambda run: run[0]):
        reader = PartitionReader(catalog, ENTITIES[number], sizes.segment_rows)
        labels, payments = _labels_first((is_payment, rows) for _, is_payment, rows in runs)
        for places, values, repeated in reader.read(payments, labels):
            yield _value_batch(number, places, sizes.range_rows, values, repeated, schema)


def write_ranges(batches: Batches, catalog: Catalog, folder: Path, sizes: Sizes, keep: Sequence[str] = ()) -> Batches:
    """Write one file for each range, from values that come by range and entity. Gives a row of COUNTS for each."""
    for number, of_range in groupby(_by_range(batches), key=lambda batch: batch.column("range")[0].as_py()):
        known, table, repeated = _assembled_range(of_range, catalog, number * sizes.range_rows, keep)
        place = folder / f".{uuid.uuid4().hex}"
        with writer(place, catalog, keep) as file:
            file.write_batch(assembled(catalog, known, repeated, table, keep))
        place.rename(folder / f"part-{number:08d}.parquet")  # a task that is tried again writes the same
        yield pa.RecordBatch.from_pydict({"payments": [len(known)], "repeated": [int(repeated.sum())]}, COUNTS)


def _chunks(
    part: Part, refusals: Refusals, is_card_number: IsCardNumber, keep: Sequence[pa.Field] = ()
) -> Iterator[PaymentChunk]:
    before = part.before
    for piece in part.source.pieces(refusals, threads=False):
        chunk = payment_chunk(piece, before, refusals, is_card_number, keep)
        before += len(chunk.identity)
        if len(chunk.identity):
            yield chunk


def _record_batch(entity: int, is_payment: bool, rows: Words) -> pa.RecordBatch:
    n = len(rows)
    columns = [pa.array(np.full(n, entity, np.int32)), pa.array(np.full(n, is_payment))]
    columns += [pa.array(np.ascontiguousarray(rows[:, word])) for word in range(ROW_WORDS)]
    return pa.RecordBatch.from_arrays(columns, schema=RECORDS)


def _value_batch(
    entity: int,
    places: Words,
    range_rows: int,
    values: Values,
    repeated: Mask,
    schema: pa.Schema,
    identity: pa.RecordBatch | None = None,
) -> pa.RecordBatch:
    n, width = len(places), values.shape[1] * values.itemsize
    offsets = np.arange(n + 1, dtype=np.int32) * np.int32(width)
    data = np.ascontiguousarray(values)
    block = pa.BinaryArray.from_buffers(pa.binary(), n, [None, pa.py_buffer(offsets), pa.py_buffer(data)])
    columns = [pa.array(places // range_rows), pa.array(np.full(n, entity, np.int32)), pa.array(places)]
    columns += [pa.array(repeated), block]
    nothing = [pa.nulls(n, each.type) for each in list(schema)[len(VALUES) :]]
    return pa.RecordBatch.from_arrays([*columns, *(nothing if identity is None else identity.columns)], schema=schema)


def _runs(batches: Batches) -> Iterator[tuple[int, bool, Words]]:
    """Records by runs of one entity's labels or payments."""
    for batch in batches:
        if not len(batch):
            continue
        entities, is_payment = np.asarray(batch.column("entity")), np.asarray(batch.column("payment"))
        rows = np.column_stack([np.asarray(batch.column(word)) for word in WORDS])
        changes = np.flatnonzero((np.diff(entities) != 0) | (is_payment[1:] != is_payment[:-1])) + 1
        for start, end in zip([0, *changes.tolist()], [*changes.tolist(), len(rows)], strict=True):
            yield int(entities[start]), bool(is_payment[start]), rows[start:end]


def _labels_first(runs: Iterator[tuple[bool, Words]]) -> tuple[Words, Iterable[Words]]:
    """All labels, which come before the payments, and the payments as they come."""
    labels = [NO_ROWS]
    for is_payment, rows in runs:
        if is_payment:
            return np.concatenate(labels), chain([rows], (more for _, more in runs))
        labels.append(rows)
    return np.concatenate(labels), []


def _by_range(batches: Batches) -> Batches:
    """The same rows in batches of one range and one entity."""
    for batch in batches:
        if not len(batch):
            continue
        ranges, entities = np.asarray(batch.column("range")), np.asarray(batch.column("entity"))
        changes = (np.flatnonzero((np.diff(ranges) != 0) | (np.diff(entities) != 0)) + 1).tolist()
        for start, end in zip([0, *changes], [*changes, len(batch)], strict=True):
            yield batch.slice(start, end - start)


def _assembled_range(
    batches: Batches, catalog: Catalog, first: int, keep: Sequence[str]
) -> tuple[pa.RecordBatch, npt.NDArray[np.float32], Mask]:
    """What is known of a range's payments, in order; all features (features, n); and which are repeated."""
    by_entity = groupby(batches, key=lambda batch: batch.column("entity")[0].as_py())
    _, identities = next(by_entity)  # IDENTITY is the least
    known = _identified(list(identities), catalog, keep)
    table = np.full((len(catalog.features), len(known)), np.nan, np.float32)
    repeated = np.zeros(len(known), np.bool_)
    for number, some in by_entity:
        entity = ENTITIES[number]
        columns = np.array(catalog.columns_of(entity), np.int64)
        for batch in some:
            places = np.asarray(batch.column("place")) - first
            cells = np.empty((len(batch), 2 + columns.size), np.int32)
            cells[:, 0], cells[:, 1] = places, np.asarray(batch.column("repeated"))
            cells[:, 2:] = _floats(batch.column("block"), columns.size).view(np.int32)
            put(cells, columns, table.view(np.int32), repeated, entity == "card")
    return known, table, repeated


def _identified(batches: list[pa.RecordBatch], catalog: Catalog, keep: Sequence[str]) -> pa.RecordBatch:
    """As `with_payment_features` gave it, in the order of the log."""
    rows = pa.Table.from_batches(batches).combine_chunks().sort_by("place").to_batches()[0]
    alone = _floats(rows.column("block"), len(catalog.payment_columns))
    columns = rows.columns[len(VALUES) :]
    columns += [pa.array(np.ascontiguousarray(alone[:, column])) for column in range(alone.shape[1])]
    return pa.RecordBatch.from_arrays(columns, schema=known_schema(catalog, keep))


def _floats(blocks: pa.BinaryArray, columns: int) -> Values:
    """(n, columns) of n blocks of bytes."""
    _, offsets, data = blocks.buffers()
    start = int(np.frombuffer(offsets, np.int32)[blocks.offset]) // 4
    return np.frombuffer(data, np.float32)[start : start + len(blocks) * columns].reshape(len(blocks), columns)
