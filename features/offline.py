"""Features of a history, by the code that computes them online: every log is folded whole, an entity at a time.

Here the history is held as objects, all at once; `features.history` does the same for files of any size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from features.catalog import DEFAULT, Catalog
from features.enrich import Mask
from features.event import UNIT_WORDS, Label, LabelBatch, Payment, PaymentBatch, Words, batch_of, labels_of
from features.grouping import ids_of, numbered, payment_records
from features.payment import PaymentReader
from features.reader import EntityReader, Values

_TOPIC: Final = "history"


@dataclass(frozen=True, slots=True)
class Offline:
    """Point-in-time features of n payments in log order.

    Attributes:
        values: (n, features) float32, NaN where missing.
        kept: (n,) False where an event id is repeated; production publishes no decision for those.
    """

    values: Values
    kept: Mask


def interleaved(payments: Iterable[Payment], labels: Iterable[Label]) -> Iterator[Payment | Label]:
    """A history in the order in which it became known: payments as given, labels by `labelled_at`.

    A label comes before the first payment whose event time is the same or later, and those of equal moments as given.
    """
    waiting = iter(sorted(labels, key=lambda label: label.labelled_at))
    label = next(waiting, None)
    for payment in payments:
        while label is not None and label.labelled_at <= payment.event_time:
            yield label
            label = next(waiting, None)
        yield payment
    if label is not None:
        yield label
    yield from waiting


def build(
    log: Iterable[Payment | Label], catalog: Catalog = DEFAULT, *, progress: Callable[[int], None] | None = None
) -> Offline:
    """Compute every payment's features from what precedes it in `log`, and itself.

    Args:
        log: n payments, and labels, in the order in which they became known.
        catalog: the features to compute.
        progress: told a number of payments now and then; n in all.
    """
    known = list(log)
    is_payment = np.fromiter([isinstance(each, Payment) for each in known], np.bool_, len(known))
    payments = [each for each in known if isinstance(each, Payment)]
    labels = [each for each in known if isinstance(each, Label)]
    n = len(payments)
    batch = batch_of(payments, topic=_TOPIC, partition=[0] * n, offset=range(n))
    known_labels = labels_of(labels, topic=_TOPIC, partition=[0] * len(labels), offset=range(len(labels)))
    values = np.full((n, len(catalog.features)), np.nan, np.float32)
    PaymentReader(catalog).fill(batch, values)
    kept = np.ones(n, np.bool_)
    told = 0
    for done, entity in enumerate(catalog.entities, start=1):
        reader = EntityReader(catalog, entity)
        rows, block, repeated = _read(reader, batch, known_labels, is_payment)
        values[rows[:, None], reader.columns] = block
        if entity == "card":
            kept[rows] = ~repeated
        if progress:
            progress(n * done // len(catalog.entities) - told)
            told = n * done // len(catalog.entities)
    return Offline(values, kept)


def _read(
    reader: EntityReader, batch: PaymentBatch, labels: LabelBatch, is_payment: Mask
) -> tuple[Words, Values, Mask]:
    """Which payments name the entity, by entity; their features, and whether each is repeated."""
    entity = reader.entity
    records = np.empty((is_payment.size, UNIT_WORDS), np.int64)
    records[is_payment], records[~is_payment] = payment_records(batch, entity), labels.base
    numbers, _ = numbered([*ids_of(batch.payments, entity), *ids_of(labels.labels, entity)])
    slot = np.empty(is_payment.size, np.int64)
    slot[is_payment], slot[~is_payment] = numbers[: len(batch)], numbers[len(batch) :]
    order = np.argsort(slot, kind="stable")[np.count_nonzero(slot < 0) :]
    sizes = np.bincount(slot[order])
    ends = np.cumsum(sizes)
    own = is_payment[order]
    block, repeated = reader.read_all(
        records[order], ends - sizes, ends, np.bincount(slot[order][own], minlength=sizes.size)
    )
    row_of = np.cumsum(is_payment) - 1
    return row_of[order[own]], block, repeated
