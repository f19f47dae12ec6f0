"""What a model learns from: features of a history in log order, and what its labels said, and when.

The features are those of `features.history`: computed in files, so that a history may be larger than memory. They lie
in a file that is mapped, not read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from features.catalog import Catalog
from features.event import FLAG_FRAUD, FLAG_SHIFT, Label
from features.history import local
from features.history.chunks import KEPT, IsCardNumber, label_chunk
from features.history.fields import Refusals
from features.history.files import sources
from features.history.job import Job
from features.history.mapping import AS_NAMED, Columns
from features.history.xxh3 import hash_strings

Values = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Times = npt.NDArray[np.int64]
Progress = Callable[[str, float], None]  # what is being done, and the share that is done, 0 to 1

ALL_LABELS: Final = 2**62  # a time by which every label has arrived
DAY_MS: Final = 86_400_000
EVENT_WORD: Final = 3  # of a label's record: the hash of its event id
ID_BYTES: Final = 1 << 20  # more than an id may have
CHUNK_ROWS: Final = 65_536


@dataclass(frozen=True, slots=True)
class Dataset:
    """n distinct payments in log order.

    Attributes:
        values: (n, features) float32, NaN where missing, of what was known at each payment: labels included.
        event_time: (n,) ms.
        amount_minor: (n,) minor units.
        card: (n,) a hash of the card.
        label_row: (m,) which payment each label is about, labels in order of arrival.
        label_at: (m,) ms, when each label arrived, rising.
        label_fraud: (m,) what each label says.
        bad_payments: rows of the payments file that are no payment, or one that is never decided.
        bad_labels: rows of the labels file that are no label, or one that says what it could not know yet.
        repeated: payments left out because their event id had been seen.
        unmatched_labels: labels about no payment in the file: a label names its payment by event id and card.
        columns: by name, (n,) what the payments say in further columns that were asked for.
    """

    values: Values
    event_time: Times
    amount_minor: Times
    card: Times
    label_row: npt.NDArray[np.int64]
    label_at: Times
    label_fraud: Mask
    bad_payments: int
    bad_labels: int
    repeated: int
    unmatched_labels: int
    columns: dict[str, pa.Array] = field(default_factory=dict)

    def fraud_known_by(self, time_ms: int) -> Mask:
        """(n,) which payments the last label that arrived before `time_ms` calls fraud."""
        fraud = np.zeros(len(self.values), np.bool_)
        arrived = self.label_at < time_ms
        fraud[self.label_row[arrived]] = self.label_fraud[arrived]  # numpy keeps the last of repeated indices
        return fraud


def read(
    payments: Path,
    labels: Path | None,
    catalog: Catalog,
    folder: Path,
    progress: Progress,
    is_card_number: IsCardNumber = lambda _text: False,
    *,
    columns: Sequence[str] = (),
    memory_mb: int = 1_024,
    threads: int = 1,
    mapped: Columns = AS_NAMED,  # frozen
) -> Dataset:
    """Read both files (Parquet, CSV or JSON lines) and compute features in the order of the payments file.

    A label counts from its `labelled_at` on: it lies in the log before the first payment of that time or later. What
    production would refuse is left out: unknown currencies, card numbers in place of tokens (told by
    `is_card_number`), and labels that are older than their payment.

    Args:
        payments: a file in log order, or a folder of such files.
        labels: likewise, in any order; None for none.
        catalog: the features to compute.
        folder: an empty one, on a disk with room for 4 bytes a feature and payment, twice. What is returned uses it.
        progress: told what is being done.
        is_card_number: tells a card number from a token.
        columns: of the payments that the result shall have.
        memory_mb: for computing the features.
        threads: that fold.
        mapped: which columns of the files are which fields, where they have other names.

    Raises:
        ConfigError: a file is missing or can't be read.
    """
    table = folder / "features.parquet"
    job = Job(
        payments,
        labels,
        table,
        is_card_number,
        catalog=catalog,
        memory_mb=memory_mb,
        jobs=threads,
        keep=tuple(dict.fromkeys(["amount_minor", *columns])),
        skip_bad=True,
        progress=progress,
        mapped=mapped,
    )
    outcome = local.build(job)
    rows = _Rows(folder, outcome.payments - outcome.repeated, catalog)
    rows.read(table, columns)
    table.unlink()
    row, at, fraud = labels_about(labels, mapped, rows.event, rows.card, is_card_number)
    return Dataset(
        values=rows.values,
        event_time=rows.event_time,
        amount_minor=rows.amount_minor,
        card=rows.card,
        label_row=row,
        label_at=at,
        label_fraud=fraud,
        bad_payments=sum(outcome.refused_payments.values()),
        bad_labels=sum(outcome.refused_labels.values()),
        repeated=outcome.repeated,
        unmatched_labels=outcome.labels - len(row),
        columns=rows.columns,
    )


class _Rows:
    """The payments that are not repeated, from the file of features."""

    def __init__(self, folder: Path, n: int, catalog: Catalog) -> None:
        self._names = catalog.names
        shape = (n, len(catalog.names))
        self.values: Values = (
            np.lib.format.open_memmap(folder / "values.npy", "w+", np.float32, shape)
            if n
            else np.zeros(shape, np.float32)
        )
        self.event_time, self.amount_minor = np.empty(n, np.int64), np.empty(n, np.int64)
        self.event, self.card = np.empty(n, np.int64), np.empty(n, np.int64)
        self.columns: dict[str, pa.Array] = {}

    def read(self, table: Path, columns: Sequence[str]) -> None:
        parts: dict[str, list[pa.Array]] = {name: [] for name in columns}
        at = 0
        with pq.ParquetFile(table) as file:
            for whole in file.iter_batches(CHUNK_ROWS):
                batch = whole.filter(pa.array(~np.asarray(whole.column("repeated"))))
                here = slice(at, at + len(batch))
                at += len(batch)
                self.event_time[here] = batch.column("event_time")
                self.amount_minor[here] = batch.column(KEPT + "amount_minor")
                self.event[here], self.card[here] = hashed(batch.column("event_id")), hashed(batch.column("card_id"))
                for column, name in enumerate(self._names):
                    self.values[here, column] = batch.column(name)
                for name, some in parts.items():
                    some.append(batch.column(KEPT + name))
        self.columns = {name: pa.concat_arrays(some) for name, some in parts.items() if some}


def hashed(texts: pa.Array) -> Times:
    """(n,) a hash of each text."""
    return hash_strings(texts, 0, ID_BYTES)[0]


def labels_about(
    labels: Path | None, mapped: Columns, event: Times, card: Times, is_card_number: IsCardNumber
) -> tuple[npt.NDArray[np.int64], Times, Mask]:
    """Which payment each matching label is about, when it arrived, and what it says; in order of arrival.

    Args:
        labels: the file, or a folder of such files; None for none.
        mapped: which of its columns are which fields, where they have other names.
        event: (n,) the hash of each payment's event id.
        card: (n,) the hash of each payment's card.
        is_card_number: tells a card number from a token.
    """
    order = np.argsort(event, kind="stable")
    sorted_events = event[order]
    rows, moments, verdicts = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0, np.bool_)]
    for source in [] if labels is None else sources(labels, Label, mapped):
        refusals = Refusals(source.path, "label")
        for piece in source.pieces(refusals):
            chunk = label_chunk(piece, 0, refusals, is_card_number)
            named, its_card = chunk.base[:, EVENT_WORD], chunk.keys["card"]
            first, last = (np.searchsorted(sorted_events, named, side=side) for side in ("left", "right"))
            fraud = (chunk.base[:, 1] >> FLAG_SHIFT) & FLAG_FRAUD != 0
            for again in range(int((last - first).max(initial=0))):  # once, unless cards share an event id
                there = np.flatnonzero(first + again < last)
                row = order[first[there] + again]
                same = card[row] == its_card[there]
                rows.append(row[same])
                moments.append(chunk.labelled_at[there][same])
                verdicts.append(fraud[there][same])
    row, at, fraud = np.concatenate(rows), np.concatenate(moments), np.concatenate(verdicts)
    arrived = np.argsort(at, kind="stable")
    return row[arrived], at[arrived], fraud[arrived]
