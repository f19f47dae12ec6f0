"""The Parquet file of features: event_id, card_id, event_time, repeated, then one float32 column a feature.

Columns of the payments that were asked for lie behind event_time. A feature that is missing is NaN, never null: as
models read it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from features.catalog import Catalog
from features.event import Payment
from features.history.chunks import KEPT, PaymentChunk
from features.history.fields import Mask, fields_of
from features.payment import PaymentReader

Table = npt.NDArray[np.float32]


IDENTITY: Final = (
    pa.field("event_id", pa.string(), nullable=False),
    pa.field("card_id", pa.string(), nullable=False),
    pa.field("event_time", pa.int64(), nullable=False),
)


TEXTS: Final = frozenset(each.name for each in fields_of(Payment) if not each.is_whole)


def kept_fields(names: Sequence[str]) -> list[pa.Field]:
    """Columns of payments as the output has them: their names begin with `payment.`."""
    return [pa.field(KEPT + name, pa.string() if name in TEXTS else pa.int64()) for name in names]


def schema_of(catalog: Catalog, keep: Sequence[str] = ()) -> pa.Schema:
    """The columns of the output, with `keep` of the payments. Its metadata has the fingerprint of the catalog."""
    features = [pa.field(name, pa.float32(), nullable=False) for name in catalog.names]
    repeated = pa.field("repeated", pa.bool_(), nullable=False)
    return pa.schema([*IDENTITY, *kept_fields(keep), repeated, *features], {"fraudline.catalog": catalog.fingerprint})


def known_schema(catalog: Catalog, keep: Sequence[str] = ()) -> pa.Schema:
    """The columns of a payment's identity, `keep` of its others, and of the features of the payment alone."""
    names = [catalog.names[column] for column in catalog.payment_columns]
    features = [pa.field(name, pa.float32(), nullable=False) for name in names]
    return pa.schema([*IDENTITY, *kept_fields(keep), *features])


def with_payment_features(chunk: PaymentChunk, catalog: Catalog, keep: Sequence[str] = ()) -> pa.RecordBatch:
    """A chunk's identity, and the features of the payments alone: see `known_schema`."""
    values = [pa.array(column) for column in np.ascontiguousarray(PaymentReader(catalog).read(chunk.batch).T)]
    return pa.RecordBatch.from_arrays([*chunk.identity.columns, *values], schema=known_schema(catalog, keep))


def assembled(
    catalog: Catalog, known: pa.RecordBatch, repeated: Mask, table: Table, keep: Sequence[str] = ()
) -> pa.RecordBatch:
    """Rows of the output, from what `with_payment_features` gave and (features, n) of the entities' features."""
    schema = schema_of(catalog, keep)
    columns = [*known.columns[: len(IDENTITY) + len(keep)], pa.array(repeated)]
    columns += [
        known.column(feature.name) if feature.entity is None else pa.array(table[column])
        for column, feature in enumerate(catalog.features)
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def writer(path: Any, catalog: Catalog, keep: Sequence[str] = ()) -> pq.ParquetWriter:
    """Writes record batches of the output, each as a row group.

    Dictionaries of features would cost as much as a third of the whole work, and save a tenth of the file.
    """
    return pq.ParquetWriter(
        path,
        schema_of(catalog, keep),
        compression="snappy",
        use_dictionary=["card_id"],
        write_statistics=["event_time"],
    )
