"""Enrich a micro-batch: append it to the entity logs, and compute every feature over each payment's own prefix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from features.catalog import ENTITY_OPS, PAYMENT_OPS, Catalog, Entity
from features.errors import StateBehind
from features.event import FLAG_DUPLICATE, PaymentBatch, sequences
from features.store import Append, Applied, Span, StateStore
from features.timeline import view_of
from features.windows import Floats, Ints, Logs, Subject, View, own_positions

_PREFIX: Final[dict[Entity, bytes]] = {"card": b"c:", "merchant": b"m:", "device": b"d:"}

Values = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Enriched:
    """What the store and the catalog say of a batch of n payments.

    Attributes:
        values: (n, features) float32, NaN where missing.
        epoch: (n,) epoch of the state that each payment was applied to.
        sequence: (n,) its sequence number in that epoch.
        repeated: (n,) True where the event id was already in the card's log: no decision is due.
        stale: (n,) True where another worker has already committed the payment: no decision is due.
        age_ms: (n,) event time less that of the newest earlier payment of the card; -1 where there is none.
    """

    values: Values
    epoch: Ints
    sequence: Ints
    repeated: Mask
    stale: Mask
    age_ms: Ints


@dataclass(frozen=True, slots=True)
class _Grouping:
    """The keys of one entity kind in a batch, and how the payments map to them."""

    keys: list[bytes]
    slot: Ints  # (n,) index of the key; -1 where the payment has no such entity
    rank_from_end: Ints  # (n,) place among the key's records in this batch, from the end
    counts: Ints  # (keys,)
    order: Ints  # payments that have the entity, grouped by key, in log order


def _group(prefix: bytes, ids: Sequence[str | None]) -> _Grouping:
    index: dict[str, int] = {}
    place = index.setdefault
    slots = [-1 if entity_id is None else place(entity_id, len(index)) for entity_id in ids]
    slot = np.fromiter(slots, np.int64, len(slots))
    order = np.argsort(slot, kind="stable")[np.count_nonzero(slot < 0) :]
    counts = np.bincount(slot[order], minlength=len(index))
    ends = np.cumsum(counts)
    rank = np.zeros(slot.size, np.int64)
    rank[order] = ends[slot[order]] - np.arange(order.size)
    return _Grouping([prefix + entity_id.encode() for entity_id in index], slot, rank, counts, order)


class Enricher:
    """Computes a catalog's features through a store. What each feature needs is settled once, here."""

    def __init__(self, catalog: Catalog, store: StateStore) -> None:
        """Compile the catalog: which operation fills which column from which entity and window."""
        self.catalog = catalog
        self._store = store
        self._payment_ops: list[tuple[int, Callable[[PaymentBatch], Floats]]] = []
        self._entity_ops: dict[Entity, list[tuple[int, Callable[[View, int], Floats], int]]] = {}
        self._windows: dict[Entity, tuple[int, ...]] = {
            entity: tuple(sorted({f.window_ms for f in catalog.features if f.entity == entity and f.window_ms}))
            for entity in catalog.entities
        }
        for column, feature in enumerate(catalog.features):
            if feature.entity is None:
                self._payment_ops.append((column, PAYMENT_OPS[feature.op]))
            elif feature.window_ms is not None:
                window = self._windows[feature.entity].index(feature.window_ms)
                self._entity_ops.setdefault(feature.entity, []).append((column, ENTITY_OPS[feature.op], window))

    def enrich(self, batch: PaymentBatch, spans: tuple[Span, ...], epoch: int) -> Enriched:
        """Apply a batch of n payments to the state and compute its features.

        `spans` covers every source partition of the batch. Raises StoreUnavailable and StateBehind as
        `StateStore.apply` does, and StateBehind when a payment that is not committed is missing from a log. The call
        may be repeated after any of them.
        """
        applied, groupings = self.apply(batch, spans, epoch)
        return self._features(batch, spans, applied, groupings)

    def apply(
        self, batch: PaymentBatch, spans: tuple[Span, ...], epoch: int
    ) -> tuple[Applied, dict[Entity, _Grouping]]:
        """Append the batch to the logs and return them; what `enrich` does first."""
        groupings = {entity: _group(_PREFIX[entity], _ids(batch, entity)) for entity in self.catalog.entities}
        append = Append(
            epoch=epoch,
            spans=spans,
            keys=[key for grouping in groupings.values() for key in grouping.keys],
            counts=[count for grouping in groupings.values() for count in grouping.counts.tolist()],
            heads=b"".join([batch.heads[grouping.order].tobytes() for grouping in groupings.values()]),
            cards=len(groupings["card"].keys),
            size=len(batch),
        )
        return self._store.apply(append), groupings

    def payment_only(self, batch: PaymentBatch) -> Values:
        """(n, features) float32: the features of the payments alone, NaN elsewhere; no store is asked."""
        values = np.full((len(batch), len(self.catalog.features)), np.nan, np.float32)
        for column, operation in self._payment_ops:
            values[:, column] = operation(batch)
        return values

    def _features(
        self, batch: PaymentBatch, spans: tuple[Span, ...], applied: Applied, groupings: dict[Entity, _Grouping]
    ) -> Enriched:
        n = len(batch)
        values = self.payment_only(batch)
        epoch, sequence = np.zeros(n, np.int64), np.full(n, -1, np.int64)
        repeated, stale = np.zeros(n, np.bool_), np.zeros(n, np.bool_)
        age_ms = np.full(n, -1, np.int64)
        floor_of = {span.partition: floor for span, floor in zip(spans, applied.floors, strict=True)}
        partition = batch.partition.astype(np.int64)
        for span, floor in zip(spans, applied.floors, strict=True):
            if floor > span.floor:  # what others have committed meanwhile; its logs may be trimmed too far for features
                stale |= (partition == span.partition) & (batch.offset >= span.floor) & (batch.offset < floor)
        at = 0
        for entity, grouping in groupings.items():
            logs = Logs.of(applied.logs[at : at + len(grouping.keys)])
            at += len(grouping.keys)
            rows = np.flatnonzero(grouping.slot >= 0)
            if not rows.size:
                continue
            own = own_positions(
                logs, grouping.slot[rows], grouping.rank_from_end[rows], partition[rows], batch.offset[rows]
            )
            missing = rows[own < 0]
            if missing.size:
                stale[missing] = self._committed(batch, missing, floor_of, entity)
                rows, own = rows[own >= 0], own[own >= 0]
                if not rows.size:
                    continue
            records = logs.records[own]
            if entity == "card":
                epoch[rows], sequence[rows] = records["epoch"], sequences(records)
                repeated[rows] = records["flags"] & FLAG_DUPLICATE != 0
            view = self._view(entity, logs, own, grouping.slot[rows], batch, rows)
            for column, operation, window in self._entity_ops.get(entity, ()):
                values[rows, column] = operation(view, window)
            if entity == "card":
                age_ms[rows] = np.where(view.last >= 0, np.minimum(view.since_last_ms, 1 << 62), -1)
        return Enriched(values, epoch, sequence, repeated, stale, age_ms)

    def _view(self, entity: Entity, logs: Logs, own: Ints, slot: Ints, batch: PaymentBatch, rows: Ints) -> View:
        subject = Subject(
            event_time=batch.event_time[rows],
            amount=batch.amount[rows],
            card=batch.heads["card"][rows],
            merchant=batch.merchant[rows],
            device=batch.device[rows],
            country=batch.country[rows],
        )
        return view_of(View(logs, own, slot, subject, self._windows[entity], self.catalog.keep))

    @staticmethod
    def _committed(batch: PaymentBatch, missing: Ints, floor_of: dict[int, int], entity: Entity) -> bool:
        for row in missing.tolist():
            source = (int(batch.partition[row]), int(batch.offset[row]))
            if source[1] >= floor_of[source[0]]:
                raise StateBehind(
                    f"the {entity} log has lost the record of {batch.topic}/{source[0]} offset {source[1]}, "
                    "which is not committed: the state went back in time"
                )
        return True


def _ids(batch: PaymentBatch, entity: Entity) -> list[str | None]:
    if entity == "card":
        return [payment.card_id for payment in batch.payments]
    if entity == "merchant":
        return [payment.merchant_id for payment in batch.payments]
    return [payment.device_id for payment in batch.payments]
