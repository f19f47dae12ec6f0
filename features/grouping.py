"""The records of a batch by the entities that they are about: whom payments and labels name, and the keys of logs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Final

import numpy as np

from features.catalog import COUNTERPARTS, Entity
from features.event import Label, LabelBatch, Payment, PaymentBatch, Words, records_of

ID_FIELDS: Final[dict[Entity, str]] = {
    "card": "card_id",
    "account": "account_id",
    "merchant": "merchant_id",
    "terminal": "terminal_id",
    "device": "device_id",
    "ip": "ip",
}
"""Which field of a payment or label names each entity."""

_PREFIX: Final[dict[Entity, bytes]] = {
    "card": b"c:",
    "account": b"a:",
    "merchant": b"m:",
    "terminal": b"t:",
    "device": b"d:",
    "ip": b"i:",
}
_ID_OF: Final = {entity: attrgetter(name) for entity, name in ID_FIELDS.items()}


@dataclass(frozen=True, slots=True)
class Grouping:
    """The keys of one entity in a batch of m labels and n payments, and their records, by key, labels first."""

    keys: list[bytes]
    counts: Words  # (keys,) records of each
    records: Words  # (records, 6)
    rows: Words  # the payments that name the entity, by key, in log order
    bounds: Words  # (keys + 1,) which of `rows` belong to each key


def group(entity: Entity, batch: PaymentBatch, labels: LabelBatch | None) -> Grouping:
    """Group a batch by the entities of one kind that it names."""
    ids, records, before = ids_of(batch.payments, entity), payment_records(batch, entity), 0
    if labels is not None and len(labels):
        ids, before = [*ids_of(labels.labels, entity), *ids], len(labels)
        records = np.concatenate((labels.base, records))
    slot, names = numbered(ids)
    order = np.argsort(slot, kind="stable")[np.count_nonzero(slot < 0) :]
    counts = np.bincount(slot[order], minlength=len(names))
    rows, sizes = order, counts
    if before:
        rows = order[order >= before] - before
        sizes = np.bincount(slot[before:][rows], minlength=len(names))
    keys = [_PREFIX[entity] + name.encode() for name in names]
    return Grouping(keys, counts, records[order], rows, np.concatenate(([0], np.cumsum(sizes))))


def ids_of(records: Sequence[Payment] | Sequence[Label], entity: Entity) -> list[str | None]:
    """(n,) the entity that each payment or label names, None where it names none."""
    return list(map(_ID_OF[entity], records))


def numbered(ids: Iterable[str | None]) -> tuple[Words, list[str]]:
    """(n,) the number of each id in order of appearance, -1 where there is none; and the ids by number."""
    index: dict[str, int] = {}
    place = index.setdefault
    slots = [-1 if entity_id is None else place(entity_id, len(index)) for entity_id in ids]
    return np.fromiter(slots, np.int64, len(slots)), list(index)


def payment_records(batch: PaymentBatch, entity: Entity) -> Words:
    """(n, 6) the payments as records of one entity's logs."""
    first, second, third = (getattr(batch, name) for name in COUNTERPARTS[entity])
    return records_of(batch.base, first, second, third)
