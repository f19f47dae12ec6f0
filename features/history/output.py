"""The Parquet file of features: event_id, card_id, event_time, repeated, then one float32 column a feature.

A feature that is missing is NaN, never null: as models read it.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from features.catalog import Catalog
from features.history.chunks import PaymentChunk
from features.history.fields import Mask
from features.payment import PaymentReader

Table = npt.NDArray[np.float32]


IDENTITY: Final = (
    pa.field("event_id", pa.string(), nullable=False),
    pa.field("card_id", pa.string(), nullable=False),
    pa.field("event_time", pa.int64(), nullable=False),
)


def schema_of(catalog: Catalog) -> pa.Schema:
    """The columns of the output. Its metadata has the fingerprint of the catalog."""
    features = [pa.field(name, pa.float32(), nullable=False) for name in catalog.names]
    repeated = pa.field("repeated", pa.bool_(), nullable=False)
    return pa.schema([*IDENTITY, repeated, *features], {"fraudline.catalog": catalog.fingerprint})


def known_schema(catalog: Catalog) -> pa.Schema:
    """The columns of a payment's identity, and of the features of the payment alone."""
    names = [catalog.names[column] for column in catalog.payment_columns]
    return pa.schema([*IDENTITY, *(pa.field(name, pa.float32(), nullable=False) for name in names)])


def with_payment_features(chunk: PaymentChunk, catalog: Catalog) -> pa.RecordBatch:
    """A chunk's identity, and the features of the payments alone: see `known_schema`."""
    values = [pa.array(column) for column in np.ascontiguousarray(PaymentReader(catalog).read(chunk.batch).T)]
    return pa.RecordBatch.from_arrays([*chunk.identity.columns, *values], schema=known_schema(catalog))


def assembled(catalog: Catalog, known: pa.RecordBatch, repeated: Mask, table: Table) -> pa.RecordBatch:
    """Rows of the output, from what `with_payment_features` gave and (features, n) of the entities' features."""
    schema = schema_of(catalog)
    columns = [*known.columns[:3], pa.array(repeated)]
    columns += [
        known.column(feature.name) if feature.entity is None else pa.array(table[column])
        for column, feature in enumerate(catalog.features)
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def writer(path: Any, catalog: Catalog) -> pq.ParquetWriter:
    """Writes record batches of the output, each as a row group.

    Dictionaries of features would cost as much as a third of the whole work, and save a tenth of the file.
    """
    return pq.ParquetWriter(
        path, schema_of(catalog), compression="snappy", use_dictionary=["card_id"], write_statistics=["event_time"]
    )
