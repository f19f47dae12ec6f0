"""A span of payments: which features its decisions saw, what they come out as, and in what that differs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from consumer.certificate import alerts as a
from consumer.certificate import told as t
from consumer.certificate.order import OffsetOrder, RecordedOrder
from consumer.certificate.outcome import Compared, Span
from consumer.certificate.replayed import Remade, Remaker
from consumer.order import UNKNOWN
from features.catalog import Catalog, Entity
from features.event import Words, source_id
from features.history.recorded import DOUBTFUL, LAYER_SHIFT, Cells, RecordedLogs

SAME_SHIFT: Final = 8  # of a payment's word of entities: whom it names, and whose logs lie in the shard of its card's
SHARD_SHIFT: Final = 16  # which shard that is
LAYERS: Final = (DOUBTFUL >> LAYER_SHIFT) - 1

Mask = npt.NDArray[np.bool_]
Values = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Scope:
    """Which decisions are looked at.

    Attributes:
        decided, alerted: of each partition of payments up to where all decisions, and alerts, are there.
        from_ms, to_ms: event times.
        incomplete_until_ms: decisions about payments of this time or earlier may have seen what is no longer there.
    """

    decided: Mapping[int, t.Reach]
    alerted: Mapping[int, t.Reach]
    from_ms: int
    to_ms: int
    incomplete_until_ms: int


class Comparison:
    """Compares span by span; from several threads."""

    def __init__(
        self,
        order: RecordedOrder | OffsetOrder,
        logs: RecordedLogs,
        catalog: Catalog,
        remaker: Remaker,
        scope: Scope,
    ) -> None:
        """`logs` are folded."""
        self._order, self._logs, self._catalog = order, logs, catalog
        self._remaker, self._scope = remaker, scope

    def compare(self, part: int, span: Span, batch: pa.RecordBatch, told: Words, alerts: Words | None) -> Compared:
        """The decisions about one span's payments, `batch`; `alerts` about them, if they are to be compared too."""
        told = told[np.lexsort((*told.T[::-1], told[:, t.OFFSET]))]
        offsets = np.asarray(batch.column("offset"))
        at = np.minimum(np.searchsorted(offsets, told[:, t.OFFSET]), len(offsets) - 1)
        there = offsets[at] == told[:, t.OFFSET]
        has_state = told[:, t.SHARD] != t.NO_STATE
        cells = {entity: self._logs.cells(entity, part) for entity in self._catalog.entities}
        values = np.full((len(told), len(self._catalog.names)), np.nan, np.float32)
        repeated, unknown, doubtful = (np.zeros(len(told), np.bool_) for _ in range(3))
        layers = self._layers(span, told)
        unknown[has_state & (layers == UNKNOWN)] = True
        for layer in np.unique(layers[has_state & there & ~unknown]).tolist():
            rows = np.flatnonzero((layers == layer) & has_state & there)
            table = self._table(cells, batch, layer)
            values[rows] = table.values[:, at[rows]].T
            repeated[rows], unknown[rows] = table.repeated[at[rows]], table.unknown[at[rows]]
            doubtful[rows] = table.doubtful[at[rows]]
        for column in self._catalog.payment_columns:
            values[there, column] = np.asarray(batch.column(self._catalog.names[column]))[at[there]]
        own = batch.take(pa.array(at))
        elsewhere = has_state & there & (np.asarray(own.column("entities")) >> SHARD_SHIFT != told[:, t.SHARD])
        remade = self._remaker.remake(told, own, values)
        event_time = np.asarray(own.column("event_time"))
        unverifiable = {
            "bundle_not_given": remade.unknown,
            "order_not_published": (unknown | doubtful) & ~elsewhere,
            "history_incomplete": has_state & (event_time <= self._scope.incomplete_until_ms),
        }
        same = there & (np.asarray(own.column("identity")) == told[:, t.IDENTITY])
        differs = {"payment": ~same, "shard": elsewhere, "repeated": repeated, **remade.differs}
        lonely: list[int] = []
        if alerts is not None:
            unverifiable["alert_not_there"] = self._beyond_alerts(span.partition, told)
            unclear = np.logical_or.reduce(list(unverifiable.values()))
            differs["alert"], lonely = _alerts(told, remade, alerts, unclear)
            lonely = [offset for offset in lonely if self._is_decided(span.partition, np.array([offset])).all()]
        undecided, missing = self._undecided(span, batch, offsets, told, cells)
        return Compared(
            span, told, own, values, has_state, remade, unverifiable, differs, lonely, undecided, missing
        )  # fmt: skip

    def _layers(self, span: Span, told: Words) -> Words:
        """(n,) which of the numbers of their payments decisions were made with."""
        result = np.full(len(told), UNKNOWN, np.int64)
        for shard in np.unique(told[:, t.SHARD]).tolist():
            if shard != t.NO_STATE:
                rows = told[:, t.SHARD] == shard
                some = told[rows]
                result[rows] = self._order.layer_of(
                    shard, source_id(span.partition), some[:, t.OFFSET], some[:, t.EPOCH], some[:, t.SEQUENCE]
                )
        return result

    def _table(self, cells: Mapping[Entity, Cells], batch: pa.RecordBatch, layer: int) -> _Table:
        """Logs in the card's shard are read with the numbers of that layer, others with the first that they have."""
        n, entities = len(batch), np.asarray(batch.column("entities"))
        values = np.full((len(self._catalog.names), n), np.nan, np.float32)
        repeated, unknown, doubtful = (np.zeros(n, np.bool_) for _ in range(3))
        for bit, (entity, every) in enumerate(cells.items()):
            beside_card = entities >> (SAME_SHIFT + bit) & 1 == 1
            wanted = np.where(beside_card, layer, 0)
            some = every[(every[:, 1] >> LAYER_SHIFT & LAYERS) == wanted[every[:, 0]]]
            self._logs.fill(values, entity, some, repeated)
            found = np.zeros(n, np.bool_)
            found[some[:, 0]] = True
            several = np.bincount(every[:, 0], minlength=n) > 1
            unknown |= (entities >> bit & 1 == 1) & (~found | (several & ~beside_card))
            doubtful[some[some[:, 1] & DOUBTFUL != 0, 0]] = True
        return _Table(values, repeated, unknown, doubtful)

    def _undecided(
        self, span: Span, batch: pa.RecordBatch, offsets: Words, told: Words, cells: Mapping[Entity, Cells]
    ) -> tuple[Counter[str], list[tuple[int, str, str]]]:
        """What became of payments without a decision; those that should have one."""
        scope = self._scope
        time = np.asarray(batch.column("event_time"))
        due = self._is_decided(span.partition, offsets) & (time >= scope.from_ms) & (time < scope.to_ms)
        due &= ~np.isin(offsets, told[:, t.OFFSET])
        if not due.any():
            return Counter(), []
        recorded, repeated, doubtful = (np.zeros(len(offsets), np.bool_) for _ in range(3))
        of_card = cells["card"]
        recorded[of_card[:, 0]] = True
        repeated[of_card[of_card[:, 1] & 1 == 1, 0]] = True
        doubtful[of_card[of_card[:, 1] & DOUBTFUL != 0, 0]] = True
        doubtful |= ~recorded | (time <= scope.incomplete_until_ms) | (span.partition not in scope.decided)
        missing = np.flatnonzero(due & ~repeated & ~doubtful)
        counted = Counter(
            repeated=int((due & repeated & ~doubtful).sum()),
            unverifiable=int((due & doubtful).sum()),
            undecided=len(missing),
        )
        names = [batch.column(name).take(pa.array(missing)).to_pylist() for name in ("event_id", "card_id")]
        return counted, list(zip(offsets[missing].tolist(), *names, strict=True))

    def _beyond_alerts(self, partition: int, told: Words) -> Mask:
        """(n,) whose alerts would be where none of the alerts that are there reach."""
        due, reach = told[:, t.DECISION] > 0, self._scope.alerted.get(partition)
        if reach is None:
            return due
        return due & ((told[:, t.OFFSET] < reach.first) | (told[:, t.OFFSET] > max(reach.lasts.values())))

    def _is_decided(self, partition: int, offsets: Words) -> Mask:
        """(n,) which offsets lie where all decisions about a partition are there; all where there is none."""
        reach = self._scope.decided.get(partition)
        if reach is None:
            return np.ones(len(offsets), np.bool_)
        return (offsets >= reach.first) & (offsets <= reach.last)


@dataclass(frozen=True, slots=True)
class _Table:
    """The values of a span's n payments with their numbers of one layer.

    Attributes:
        values: (features, n) float32.
        repeated: (n,)
        unknown: (n,) where the order of an entity's log was not published, or several were.
        doubtful: (n,) where something that came before may be missing.
    """

    values: Values
    repeated: Mask
    unknown: Mask
    doubtful: Mask


def _alerts(told: Words, remade: Remade, alerts: Words, unclear: Mask) -> tuple[Mask, list[int]]:
    """(n,) where the alert is another or missing; offsets of alerts that no decision asks for.

    With `at_least_once` a crash may come between a decision and its alert; then the payment is decided anew, maybe by
    another model, and it is that decision which has its alert. So of several decisions about a payment one is enough,
    and where one is `unclear` nothing can be said.
    """
    differs = np.zeros(len(told), np.bool_)
    due: dict[int, list[int]] = {}
    for row in np.flatnonzero(told[:, t.DECISION] > 0).tolist():
        due.setdefault(int(told[row, t.OFFSET]), []).append(row)
    found: dict[int, list[Words]] = {}
    for alert in alerts:
        found.setdefault(int(alert[a.OFFSET]), []).append(alert)
    for offset, rows in due.items():
        known = [[_is_of(alert, row, remade) for row in rows] for alert in found.get(offset, [])]
        if not unclear[rows].any() and (not known or not all(any(each) for each in known)):
            differs[rows] = True
    return differs, sorted(found.keys() - due.keys() - set(told[unclear, t.OFFSET].tolist()))


def _is_of(alert: Words, row: int, remade: Remade) -> bool:
    """Whether an alert is that of a decision."""
    if remade.loose[row]:
        return bool(alert[a.LOOSE] == remade.alerts[row, 2])
    return bool(alert[a.WHOLE] == remade.alerts[row, int(alert[a.UNEXPLAINED])])
