"""The order in which a shard's present state was made, as the journal tells it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from consumer.records import JournalEntry
from features.event import OFFSET_BITS, OFFSET_MASK, Words, source_id
from features.store import Position

UNKNOWN = -1


class Order:
    """Where each record comes in the present epoch of its shard, what the epoch inherited included."""

    def __init__(
        self, entries: Iterable[JournalEntry], positions: Sequence[Position], labels_topic: str | None
    ) -> None:
        """`positions` are those of all shards now, `entries` the whole journal."""
        runs: dict[tuple[int, int], list[JournalEntry]] = defaultdict(list)
        parents: dict[tuple[int, int], tuple[int, int]] = {}
        for entry in entries:
            if entry.count:
                runs[entry.shard, entry.epoch].append(entry)
            elif entry.parent_epoch is not None and entry.parent_sequence is not None:
                parents[entry.shard, entry.epoch] = (entry.parent_epoch, entry.parent_sequence)
        self._runs: list[dict[int, Words]] = []
        for shard, position in enumerate(positions):
            chain = _chain(shard, position.epoch, runs, parents)
            by_source: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
            for entry, count in chain:
                source = source_id(entry.partition, labels=entry.topic == labels_topic)
                by_source[source].append((entry.offset, entry.offset + count, entry.sequence))
            self._runs.append({source: np.array(sorted(rows), np.int64) for source, rows in by_source.items()})

    def of(self, shard: int, records: Words) -> Words:
        """(n,) the sequence numbers of records (n, 6) in a shard; UNKNOWN where the journal gives none."""
        places = np.full(len(records), UNKNOWN, np.int64)
        sources, offsets = (records[:, 2] >> OFFSET_BITS) & 0xFFFF, records[:, 2] & OFFSET_MASK
        for source in np.unique(sources).tolist():
            runs = self._runs[shard].get(source)
            if runs is None:
                continue
            rows = np.flatnonzero(sources == source)
            run = runs[np.maximum(np.searchsorted(runs[:, 0], offsets[rows], side="right") - 1, 0)]
            within = (offsets[rows] >= run[:, 0]) & (offsets[rows] < run[:, 1])
            places[rows[within]] = (run[:, 2] + offsets[rows] - run[:, 0])[within]
        return places


def _chain(
    shard: int,
    epoch: int,
    runs: dict[tuple[int, int], list[JournalEntry]],
    parents: dict[tuple[int, int], tuple[int, int]],
) -> list[tuple[JournalEntry, int]]:
    """The runs of an epoch and of those that it descends from, each with how much of it was inherited."""
    found: list[tuple[JournalEntry, int]] = []
    for ancestor, limit in lineage(epoch, {child: parent for (of, child), parent in parents.items() if of == shard}):
        for entry in runs[shard, ancestor]:
            count = entry.count if limit is None else min(entry.count, limit - entry.sequence)
            if count > 0:
                found.append((entry, count))
    return found


def lineage(epoch: int, parents: Mapping[int, tuple[int, int]]) -> list[tuple[int, int | None]]:
    """An epoch of a shard and those that it descends from, each with the number below which it was inherited.

    `parents` are the shard's: of an epoch the one before it, and up to which number that is in it.
    """
    found: list[tuple[int, int | None]] = []
    limit, seen = None, set[int]()
    while epoch not in seen:
        seen.add(epoch)
        found.append((epoch, limit))
        if epoch not in parents:
            break
        epoch, since = parents[epoch]
        limit = since if limit is None else min(limit, since)
    return found
