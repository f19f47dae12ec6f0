"""The records of a batch by the entities that they are about: whom payments and labels name, and the keys of logs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Final

import numpy as np

from features.catalog import COUNTERPARTS, Entity
from features.event import Label, LabelBatch, Payment, PaymentBatch, Words, labels_of, set_counterparts
from features.layout import by_key

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
ENTITY_OF: Final = {prefix: entity for entity, prefix in _PREFIX.items()}
"""What kind of entity a key belongs to, by its first two bytes."""

_TAGS: Final = ("card", "merchant", "device", "ip")  # in the order of `features.layout`
NO_LABELS: Final = labels_of([], topic="", partition=[], offset=[])
_ID_OF: Final = {entity: attrgetter(name) for entity, name in ID_FIELDS.items()}


@dataclass(frozen=True, slots=True)
class Grouping:
    """The keys of a batch of m labels and n payments, entity by entity, and their records, by key, labels first.

    Attributes:
        keys: those of the first entity, of the second, and so on.
        first: (entities + 1,) where each entity's keys begin.
        counts: (keys,) records of each.
        records: (records, 6)
        rows: the payments that name each key, by key, in log order.
        bounds: (keys + 1,) which of `rows` belong to each key.
    """

    keys: list[bytes]
    first: list[int]
    counts: Words
    records: Words
    rows: Words
    bounds: Words


class Grouper:
    """Groups batches by the entities that they name: all kinds of them in one go, since a call of numpy has a price."""

    def __init__(self, entities: Sequence[Entity]) -> None:
        """Settle whom to group by, in order."""
        self._entities = tuple(entities)
        self._counterparts = np.array([[_TAGS.index(tag) for tag in COUNTERPARTS[e]] for e in entities], np.int64)

    def group(self, batch: PaymentBatch, labels: LabelBatch | None) -> Grouping:
        """Group labels and payments, none of which need name every entity."""
        known = NO_LABELS if labels is None else labels
        slots, keys, first = self._numbered(batch.payments, known.labels)
        counts, records, rows, bounds = by_key(
            np.fromiter(slots, np.int64, len(slots)),
            len(keys),
            known.base,
            batch.base,
            batch.card,
            batch.merchant,
            batch.device,
            batch.ip,
            self._counterparts,
        )
        return Grouping(keys, first, counts, records, rows, bounds)

    def _numbered(
        self, payments: Sequence[Payment], labels: Sequence[Label]
    ) -> tuple[list[int], list[bytes], list[int]]:
        """For every entity and record the number of its key, -1 where it names none; the keys by number."""
        slots: list[int] = []
        keys: list[bytes] = []
        first = [0]
        for entity in self._entities:
            of, prefix = _ID_OF[entity], _PREFIX[entity]
            ids = [*map(of, labels), *map(of, payments)]
            names = dict.fromkeys(ids)
            names.pop(None, None)
            number: dict[str | None, int] = dict(zip(names, range(len(keys), len(keys) + len(names)), strict=True))
            number[None] = -1
            slots += map(number.__getitem__, ids)
            keys += [prefix + name for name in map(str.encode, names)]
            first.append(len(keys))
        return slots, keys, first


def ids_of(records: Sequence[Payment] | Sequence[Label], entity: Entity) -> list[str | None]:
    """(n,) the entity that each payment or label names, None where it names none."""
    return list(map(_ID_OF[entity], records))


def key_of(entity: Entity, name: str) -> bytes:
    """The key of an entity's log."""
    return _PREFIX[entity] + name.encode()


def numbered(ids: Iterable[str | None]) -> tuple[Words, list[str]]:
    """(n,) the number of each id in order of appearance, -1 where there is none; and the ids by number."""
    index: dict[str, int] = {}
    place = index.setdefault
    slots = [-1 if entity_id is None else place(entity_id, len(index)) for entity_id in ids]
    return np.fromiter(slots, np.int64, len(slots)), list(index)


def payment_records(batch: PaymentBatch, entity: Entity) -> Words:
    """(n, 6) the payments as records of one entity's logs."""
    records = batch.base.copy()
    set_counterparts(records, *(getattr(batch, name) for name in COUNTERPARTS[entity]))
    return records
