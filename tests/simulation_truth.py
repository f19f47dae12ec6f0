"""What the state really recorded, whoever got to know of it: read from the store after every call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from consumer.records import JournalEntry
from features.event import UNIT_WORDS, Words
from features.store import Run, Source
from features.units import first_record

At = tuple[str, int, int]  # topic, partition, offset
Stamp = tuple[int, int, int]  # shard, epoch, sequence
Order = dict[At, Stamp]  # of one shard, in the order of recording
OFFSETS = (1 << 48) - 1
LABELS_BIT = 1 << 15


@dataclass(frozen=True)
class View:
    """A look into one shard: some of its logs, its runs and its floors by source."""

    epoch: int
    logs: Mapping[bytes, bytes]
    runs: Mapping[Source, Sequence[Run]]
    floors: Mapping[Source, int]


def units_of(log: bytes) -> Words:
    """(units, 6)"""
    return np.frombuffer(log, np.int64).reshape(-1, UNIT_WORDS)


def places_of(log: bytes) -> list[At]:
    """The records that still lie by themselves in a log, in its order."""
    words = units_of(log)
    sources = words[first_record(words, 0, len(words)) :, 2].tolist()
    return [_place(word >> 48 & 0xFFFF, word & OFFSETS) for word in sources]


def _place(source: int, offset: int) -> At:
    return ("labels" if source & LABELS_BIT else "payments", source & ~LABELS_BIT, offset)


class Timeline:
    """What one uninterrupted life of the state recorded: in each shard each record's stamp, in the order of recording.

    A life that begins with lost state inherits what was left, and owes what was committed by then: offsets by source,
    exclusive, in the shards that lost something.
    """

    def __init__(self, inherited: Sequence[Order], owed: Mapping[int, Mapping[Source, int]] | None = None) -> None:
        self.orders: list[Order] = [dict(order) for order in inherited]
        self.inherited = [len(order) for order in inherited]
        self.owed = {shard: dict(offsets) for shard, offsets in (owed or {}).items()}


@dataclass
class Truth:
    """The timeline of now, what was journaled, and what was seen to be wrong on the way."""

    timeline: Timeline
    wrong: list[str] = field(default_factory=list)
    journaled: set[tuple[At, Stamp]] = field(default_factory=set)
    parents: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict)  # by shard and epoch

    def look(self, views: Sequence[View]) -> None:
        """Take note of the records that have come into these logs."""
        for shard, (view, order) in enumerate(zip(views, self.timeline.orders, strict=True)):
            new: Order = {}
            logs = [places_of(log) for log in view.logs.values()]
            for places in logs:
                if len(set(places)) != len(places):
                    self.wrong.append("a log holds a record twice")
                new |= {at: self._stamp(shard, view, at) for at in places if at not in order}
            order |= dict(sorted(new.items(), key=lambda item: item[1][2]))
            recorded = {at: place for place, at in enumerate(order)}
            if any(recorded[a] >= recorded[b] for places in logs for a, b in pairwise(places)):
                self.wrong.append("a log is not in the order of its numbers")

    def _stamp(self, shard: int, view: View, at: At) -> Stamp:
        topic, partition, offset = at
        for run in view.runs.get((topic, partition), ()):
            if run.start <= offset < run.end:
                return shard, run.epoch, run.sequence + offset - run.start
        self.wrong.append("a record was appended without a number")
        return shard, 0, -1

    def journal(self, entries: Sequence[JournalEntry], timeline: Timeline) -> None:
        """Take note of what a worker journals: it must be what was recorded in the life of the state that it saw."""
        for entry in entries:
            if entry.parent_epoch is not None and entry.parent_sequence is not None:
                self.parents[entry.shard, entry.epoch] = (entry.parent_epoch, entry.parent_sequence)
            for i in range(entry.count):
                at = (entry.topic, entry.partition, entry.offset + i)
                stamp = (entry.shard, entry.epoch, entry.sequence + i)
                self.journaled.add((at, stamp))
                if timeline.orders[entry.shard].get(at, stamp) != stamp:
                    self.wrong.append("a journaled order is not the recorded one")
