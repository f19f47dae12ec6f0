"""Payments and labels into the logs of their entities, with the numbers that the journal gives them in their shards."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Final

import numpy as np
from xxhash import xxh3_64_intdigest

from consumer.certificate.compare import SAME_SHIFT, SHARD_SHIFT
from consumer.certificate.order import OffsetOrder, RecordedOrder
from consumer.order import UNKNOWN
from features.catalog import Entity
from features.event import LabelBatch, PaymentBatch, Words, source_id
from features.grouping import ids_of, key_of, payment_records
from features.history.recorded import RecordedLogs, place_words

GOLDEN: Final = 0x9E3779B97F4A7C15


class Recorder:
    """Adds batches of one partition at a time to logs.

    `doubts` tells, by entity and key of a log, from which number on a record may be missing from it.
    """

    def __init__(
        self, entities: Sequence[Entity], order: RecordedOrder | OffsetOrder, logs: RecordedLogs, shards: int
    ) -> None:
        """`entities` begin with cards."""
        self._entities, self._order, self._logs, self._shard_count = entities, order, logs, shards
        self.doubts: dict[Entity, dict[int, int]] = defaultdict(dict)

    def labels(self, batch: LabelBatch) -> None:
        """Add labels."""
        for entity in self._entities:
            self._add(entity, _keys(ids_of(batch.labels, entity), entity), batch, batch.base, labels=True)

    def payments(self, batch: PaymentBatch, first: int) -> Words:
        """Add payments, whose places begin with `first`.

        (n,) which entities they name; whose logs lie in the shard of their card's; and which that is.
        """
        n, entities = len(batch), np.zeros(len(batch), np.int64)
        places = np.arange(first, first + n)
        of_card: Words | None = None
        for bit, entity in enumerate(self._entities):
            keys = _keys(ids_of(batch.payments, entity), entity)
            shards = self._shards(keys)
            if of_card is None:  # cards come first
                of_card = shards
                entities |= shards << SHARD_SHIFT
            entities |= (keys != 0).astype(np.int64) << bit
            entities |= (shards == of_card).astype(np.int64) << (SAME_SHIFT + bit)
            self._add(entity, keys, batch, payment_records(batch, entity), places=places)
        return entities

    def _shards(self, keys: Words) -> Words:
        return (keys.view(np.uint64) % np.uint64(self._shard_count)).astype(np.int64)

    def _add(
        self,
        entity: Entity,
        keys: Words,
        batch: PaymentBatch | LabelBatch,
        records: Words,
        *,
        places: Words | None = None,
        labels: bool = False,
    ) -> None:
        """Add records to an entity's logs, in every branch that has them."""
        order, partition = self._order, int(batch.partition[0])
        source, shards = source_id(partition, labels=labels), self._shards(keys)
        for shard in np.unique(shards).tolist():
            rows = np.flatnonzero(shards == shard)
            for branch in range(order.branches(shard)):
                numbers, layers = order.places(shard, branch, source, batch.offset[rows])
                own = _of_branch(keys[rows], branch)
                lost = np.flatnonzero((numbers == UNKNOWN) & (own != 0))
                if lost.size:
                    self._doubt(entity, own[lost], order.lost_from(shard, branch, source, batch.offset[rows[lost]]))
                own[numbers == UNKNOWN] = 0
                some = records[rows]
                if places is not None:
                    some[:, 2] = place_words(places[rows], np.maximum(layers, 0), layers != UNKNOWN)
                self._logs.add(entity, own, numbers, some, labels=labels)

    def _doubt(self, entity: Entity, keys: Words, since: Words) -> None:
        """From these numbers on a record of these keys may be missing."""
        doubts = self.doubts[entity]
        for key, number in zip(keys.tolist(), since.tolist(), strict=True):
            if number != UNKNOWN:
                doubts[key] = min(doubts.get(key, number), number)


def _keys(ids: Sequence[str | None], entity: Entity) -> Words:
    """(n,) hashes of the entities' keys, by which shards are chosen too; 0 for none."""
    hashes = [0 if each is None else xxh3_64_intdigest(key_of(entity, each)) or 1 for each in ids]
    return np.array(hashes, np.uint64).view(np.int64)


def _of_branch(keys: Words, branch: int) -> Words:
    """Keys of logs of their own for what is only in a lost branch."""
    if branch == 0:
        return keys.copy()
    mixed = keys.view(np.uint64) ^ np.uint64(branch * GOLDEN & 0xFFFF_FFFF_FFFF_FFFF)
    return np.where(keys == 0, 0, np.where(mixed == 0, 1, mixed).astype(np.uint64).view(np.int64))
