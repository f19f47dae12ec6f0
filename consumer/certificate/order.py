"""The order in which the state's shards recorded everything, lost branches included: the order that a replay takes.

A shard's epochs are a tree: one that was renewed goes on from a number of its parent, and what the parent numbered from
there on was lost. Decisions that were made of what was lost are to be repeated too. So a *branch* is a path through the
tree that ends in an epoch with numbers of its own which no other has; every number has one branch that is its *home*.

A record may be recorded again after it was lost: then it has several numbers in its shard. Which of them, in the order
in which the journal tells them, is its *layer*: nearly always there is one, 0.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Iterable
from typing import Final

import numpy as np
import numpy.typing as npt

from consumer.order import UNKNOWN, lineage
from consumer.records import JournalEntry
from features.event import Words, source_id

MAX_LAYERS: Final = 15
START, END, SEQUENCE, EPOCH, LAYER = 0, 1, 2, 3, 4
COLUMNS: Final = 5
NEVER: Final = 1 << 62
_OF_LABELS: Final = range(source_id(0, labels=True), 1 << 16)

Layers = npt.NDArray[np.int64]
_Piece = tuple[int, int, int, int]  # start, end, sequence, epoch


class RecordedOrder:
    """What a journal tells, as arrays to look up many records at once."""

    def __init__(self, entries: Iterable[JournalEntry], payments_topic: str) -> None:
        """`entries` in the journal's order, as far as those of one shard go; what is of no payment is of a label."""
        runs: dict[tuple[int, int], array[int]] = defaultdict(lambda: array("q"))
        parents: dict[int, dict[int, tuple[int, int]]] = defaultdict(dict)
        for each in entries:
            if each.count:
                source = source_id(each.partition, labels=each.topic != payments_topic)
                runs[each.shard, source].extend((each.offset, each.offset + each.count, each.sequence, each.epoch))
            elif each.parent_epoch is not None and each.parent_sequence is not None:
                parents[each.shard][each.epoch] = (each.parent_epoch, each.parent_sequence)
        self.shards = frozenset(shard for shard, _ in runs)
        self.has_labels = any(source in _OF_LABELS for _, source in runs)
        self._layered: dict[tuple[int, int], list[Words]] = {}
        for shard in self.shards:
            of_shard = {source: some for (of, source), some in runs.items() if of == shard}
            for source, some in of_shard.items():
                self._layered[shard, source] = _layers(np.frombuffer(some, np.int64).reshape(-1, EPOCH + 1))
        self._branches = {shard: self._branches_of(shard, parents[shard]) for shard in self.shards}

    def branches(self, shard: int) -> int:
        """How many branches a shard has."""
        return len(self._branches.get(shard, ()))

    def places(self, shard: int, branch: int, source: int, offsets: Words) -> tuple[Words, Layers]:
        """(n,) the numbers of records of a source in a branch, UNKNOWN where it hasn't them; (n,) their layers.

        The layer is UNKNOWN where the number has another home: the record counts in this branch, and is not asked for.
        """
        return _found(self._branches[shard][branch].pieces.get(source), offsets)

    def layer_of(self, shard: int, source: int, offsets: Words, epochs: Words, sequences: Words) -> Layers:
        """(n,) in which layer records have these numbers in these epochs; UNKNOWN where the journal does not say so."""
        result = np.full(len(offsets), UNKNOWN, np.int64)
        for layer, pieces in enumerate(self._layered.get((shard, source), ())):
            at = np.maximum(np.searchsorted(pieces[:, START], offsets, side="right") - 1, 0)
            piece = pieces[at]
            same = (offsets >= piece[:, START]) & (offsets < piece[:, END]) & (epochs == piece[:, EPOCH])
            same &= sequences - piece[:, SEQUENCE] == offsets - piece[:, START]
            result[same & (result == UNKNOWN)] = layer if layer < MAX_LAYERS else UNKNOWN
        return result

    def lost_from(self, shard: int, branch: int, source: int, offsets: Words) -> Words:
        """(n,) of records that a branch has no numbers of: from which number on it may have them all the same.

        A partition's records were applied in the order of their offsets, each of them, and so are between the runs
        around them, if there are enough numbers that no run has. UNKNOWN where they are not in the state for certain.
        """
        known = self._branches[shard][branch]
        pieces, holes = known.pieces.get(source, np.zeros((0, COLUMNS), np.int64)), known.holes
        at = np.searchsorted(pieces[:, START], offsets, side="right") - 1
        before = np.concatenate((pieces, np.zeros((1, COLUMNS), np.int64)))[at]  # of -1: nothing
        after = before[:, SEQUENCE] + before[:, END] - before[:, START]
        until, next_start = (np.append(pieces[:, column], NEVER)[at + 1] for column in (SEQUENCE, START))
        first, last = np.searchsorted(holes[:, 0], after), np.searchsorted(holes[:, 1], until, side="right")
        lengths = np.concatenate(([0], np.cumsum(holes[:, 1] - holes[:, 0])))
        room = lengths[np.maximum(last, first)] - lengths[first]
        behind = np.where(next_start == NEVER, 0, next_start - offsets)  # itself and those up to the next run
        ahead = np.where(at < 0, 0, offsets - before[:, END] + 1)
        found = np.append(holes[:, 0], UNKNOWN)[first]
        return np.where((room > 0) & (behind <= room) & (ahead <= room), found, UNKNOWN)

    def beginnings(self) -> dict[int, int]:
        """Of each source the first offset that the journal tells of; 0 where first numbers are missing."""
        found: dict[int, int] = {}
        for branches in self._branches.values():
            for branch in branches:
                is_cut = len(branch.holes) > 0 and branch.holes[0, 0] == 0
                for source, pieces in branch.pieces.items():
                    first = 0 if is_cut else int(pieces[0, START])
                    found[source] = min(found.get(source, first), first)
        return found

    def _branches_of(self, shard: int, parents: dict[int, tuple[int, int]]) -> list[_Branch]:
        layered = {source: layers for (of, source), layers in self._layered.items() if of == shard}
        epochs = {int(epoch) for layers in layered.values() for each in layers for epoch in np.unique(each[:, EPOCH])}
        inherited: dict[int, int] = {}
        for parent, since in parents.values():
            inherited[parent] = max(inherited.get(parent, 0), since)
        cuts: dict[int, set[int]] = defaultdict(set)
        paths = {epoch: lineage(epoch, parents) for epoch in epochs | parents.keys()}
        for path in paths.values():
            for epoch, limit in path:
                if limit is not None:
                    cuts[epoch].add(limit)
        whole = {source: _cut(layers, cuts) for source, layers in layered.items()}
        heads = {epoch for epoch in paths if epoch not in inherited}  # nobody goes on from these
        heads |= {
            epoch
            for epoch, since in inherited.items()
            if any(((each[:, EPOCH] == epoch) & (each[:, SEQUENCE] >= since)).any() for each in whole.values())
        }
        taken = {source: np.zeros(len(pieces), np.bool_) for source, pieces in whole.items()}
        found = (
            _branch(paths[epoch], whole, taken)
            for epoch in sorted(heads, key=lambda epoch: (-len(paths[epoch]), epoch))
        )
        return [branch for branch in found if branch is not None]


class OffsetOrder:
    """Where nothing was journaled: the only partition's payments are numbered by their offsets; there are no labels."""

    has_labels = False

    def __init__(self, source: int) -> None:
        """Of that source."""
        self._source = source

    def branches(self, _shard: int) -> int:
        """See `RecordedOrder`."""
        return 1

    def places(self, _shard: int, _branch: int, _source: int, offsets: Words) -> tuple[Words, Layers]:
        """See `RecordedOrder`."""
        return offsets, np.zeros(len(offsets), np.int64)

    def layer_of(self, _shard: int, _source: int, offsets: Words, _epochs: Words, sequences: Words) -> Layers:
        """See `RecordedOrder`: a state that began elsewhere has other numbers."""
        return np.where(sequences == offsets, 0, UNKNOWN)

    def lost_from(self, _shard: int, _branch: int, _source: int, offsets: Words) -> Words:
        """See `RecordedOrder`."""
        return np.full(len(offsets), UNKNOWN, np.int64)

    def beginnings(self) -> dict[int, int]:
        """See `RecordedOrder`."""
        return {self._source: 0}


class _Branch:
    """The runs of a path, by source and by rising offset, and the numbers between them that no run has: from, until."""

    def __init__(self, pieces: dict[int, Words]) -> None:
        self.pieces = pieces
        every = np.concatenate(list(pieces.values()))
        order = np.argsort(every[:, SEQUENCE])
        starts = every[order, SEQUENCE]
        ends = np.maximum.accumulate(starts + (every[:, END] - every[:, START])[order])
        ends = np.concatenate(([0], ends[:-1]))
        self.holes = np.column_stack((ends, starts))[starts > ends]


def _branch(
    path: list[tuple[int, int | None]], whole: dict[int, Words], taken: dict[int, npt.NDArray[np.bool_]]
) -> _Branch | None:
    """The branch of a path; None where earlier ones have all of it.

    What no earlier branch has taken has its home here, and is marked as taken.
    """
    pieces, has_own = {}, False
    for source, each in whole.items():
        here = np.zeros(len(each), np.bool_)
        for epoch, limit in path:
            of_epoch = each[:, EPOCH] == epoch
            if limit is not None:
                of_epoch &= each[:, SEQUENCE] < limit
            here |= of_epoch
        if not here.any():
            continue
        own = each[here]
        own[taken[source][here], LAYER] = UNKNOWN
        has_own = has_own or bool((here & ~taken[source]).any())
        taken[source] |= here
        pieces[source] = own[np.argsort(own[:, START], kind="stable")]
    return _Branch(pieces) if has_own else None


def _found(pieces: Words | None, offsets: Words) -> tuple[Words, Layers]:
    numbers, layers = np.full(len(offsets), UNKNOWN, np.int64), np.full(len(offsets), UNKNOWN, np.int64)
    if pieces is None:
        return numbers, layers
    at = np.maximum(np.searchsorted(pieces[:, START], offsets, side="right") - 1, 0)
    piece = pieces[at]
    within = (offsets >= piece[:, START]) & (offsets < piece[:, END])
    numbers[within] = (piece[:, SEQUENCE] + offsets - piece[:, START])[within]
    layers[within] = piece[within, LAYER]
    layers[layers >= MAX_LAYERS] = UNKNOWN  # so often nothing was recorded again, and if so it is not asked for
    return numbers, layers


def _layers(runs: Words) -> list[Words]:
    """The runs of a source (k, 4) by layer, without overlaps and by rising offset; what is told twice counts once."""
    order = np.argsort(runs[:, START], kind="stable")
    ends = np.maximum.accumulate(runs[order, END])
    begins = np.flatnonzero(np.append(True, runs[order[1:], START] >= ends[:-1]))  # of groups that overlap
    sizes = np.diff(np.append(begins, len(runs)))
    alone = runs[order[begins[sizes == 1]]]
    layers: list[list[_Piece]] = []
    for begin, size in zip(begins[sizes > 1].tolist(), sizes[sizes > 1].tolist(), strict=True):
        of_group = runs[np.sort(order[begin : begin + size])].tolist()  # as the journal tells them
        for layer, pieces in enumerate(_layered(list(dict.fromkeys(map(tuple, of_group))))):
            if layer == len(layers):
                layers.append([])
            layers[layer] += pieces
    found = [np.array(pieces, np.int64).reshape(-1, EPOCH + 1) for pieces in layers] or [alone[:0]]
    first = np.concatenate((alone, found[0]))
    return [first[np.argsort(first[:, START], kind="stable")], *found[1:]]


def _layered(runs: list[_Piece]) -> list[list[_Piece]]:
    layers: list[list[_Piece]] = []
    for run in runs:
        pieces = [run]
        for layer in layers:
            pieces = [left for piece in pieces for left in _laid(piece, layer)]
        if pieces:
            layers.append(pieces)
    return layers


def _laid(piece: _Piece, layer: list[_Piece]) -> list[_Piece]:
    """Put what there is room for into a layer, and give what others hold there, unless they say the same."""
    start, end, sequence, epoch = piece
    left: list[_Piece] = []
    place = max(bisect_left(layer, (start,)) - 1, 0)
    at = start
    new: list[_Piece] = []
    while at < end:
        while place < len(layer) and layer[place][1] <= at:
            place += 1
        held = layer[place] if place < len(layer) else None
        if held is None or held[0] >= end:
            new.append((at, end, sequence + at - start, epoch))
            break
        if held[0] > at:
            new.append((at, held[0], sequence + at - start, epoch))
            at = held[0]
            continue
        stop = min(end, held[1])
        if (held[3], held[2] - held[0]) != (epoch, sequence - start):
            left.append((at, stop, sequence + at - start, epoch))
        at = stop
    for each in new:
        insort(layer, each)
    return left


def _cut(layers: list[Words], cuts: dict[int, set[int]]) -> Words:
    """All layers' runs as one array (k, COLUMNS), cut where an epoch's heirs inherited no more."""
    every = np.concatenate([np.column_stack((each, np.full(len(each), layer))) for layer, each in enumerate(layers)])
    for epoch, limits in cuts.items():
        for limit in limits:
            ends = every[:, SEQUENCE] + every[:, END] - every[:, START]
            across = (every[:, EPOCH] == epoch) & (every[:, SEQUENCE] < limit) & (ends > limit)
            if across.any():
                rest = every[across]
                kept = limit - rest[:, SEQUENCE]
                every[across, END] = every[across, START] + kept
                rest[:, START] += kept
                rest[:, SEQUENCE] = limit
                every = np.concatenate((every, rest))
    return every
