"""Enrich a micro-batch: append it to the entity logs, and compute every feature over each payment's own prefix."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_intdigest

from features.catalog import Catalog
from features.cells import EXTRAS, FOUND, REPEATED, SINCE_LAST, STATUS
from features.compaction import due, newly_of_period, summary
from features.errors import StateBehind, StoreError
from features.event import UNIT_BYTES, UNIT_WORDS, LabelBatch, PaymentBatch, Words
from features.grouping import Grouper, Grouping
from features.kernels import readable
from features.payment import PaymentReader
from features.reader import EntityReader, Values, limits_array
from features.store import Append, Applied, Replacement, Run, Span, StateStore
from features.units import NEVER

COMPACTIONS: Final = 64  # a call carries out at most so many: the script has to stay short
ALL_FLOORS_EVERY: Final = 64  # calls

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Recorded:
    """Offsets of one partition that a shard recorded in a run."""

    shard: int
    span: Span
    run: Run


@dataclass(frozen=True, slots=True)
class Enriched:
    """What the store and the catalog say of a batch of n payments.

    Attributes:
        values: (n, features) float32, NaN where missing.
        shard: (n,) the shard of each payment's card.
        epoch: (n,) epoch of that shard's state that the payment was applied to.
        sequence: (n,) its sequence number in that epoch; -1 where it is no longer known.
        repeated: (n,) True where the event id was already in the card's log: no decision is due.
        stale: (n,) True where another worker has already committed the payment: no decision is due.
        age_ms: (n,) event time less that of the newest earlier payment of the card; -1 where there is none.
        recorded: what was recorded where, clipped to the batch's spans, in every shard.
    """

    values: Values
    shard: Words
    epoch: Words
    sequence: Words
    repeated: Mask
    stale: Mask
    age_ms: Words
    recorded: list[Recorded] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Asked:
    """A batch, and what the store is asked for it."""

    batch: PaymentBatch
    spans: tuple[Span, ...]
    grouping: Grouping
    shard_of_key: Words | None
    appends: list[Append]


@dataclass(frozen=True, slots=True)
class _Answer:
    """What the store said of a batch, and the features in it."""

    applied: list[Applied]
    catalog: Catalog
    enriched: Enriched


@dataclass(slots=True)
class Sent:
    """A batch that the store is working on, or has answered for, if it was looked at."""

    asked: Asked
    reply: Callable[[], list[Applied]]
    enricher: Enricher
    found: _Answer | StoreError | None = None
    looked_ms: float = 0.0  # how long that took

    def look(self) -> None:
        """Take the answer and compute the features now; whoever receives them is told what came of it."""
        begun_s = time.perf_counter()
        try:
            applied = self.reply()
            self.found = _Answer(applied, self.enricher.catalog, self.enricher.computed(self.asked, applied))
        except StoreError as error:
            self.found = error
        self.looked_ms = (time.perf_counter() - begun_s) * 1_000


@dataclass(slots=True)
class _Upkeep:
    """What a shard's next call is to do besides."""

    replacements: list[Replacement] = field(default_factory=list)
    refresh: list[bytes] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Logs:
    """The logs of a batch's keys: key k of all entities is `words[starts[k]:ends[k]]`."""

    words: Words
    starts: Words
    ends: Words


class Enricher:
    """Computes a catalog's features through a store. What each feature needs is settled once, here."""

    def __init__(self, catalog: Catalog, store: StateStore) -> None:
        """Compile the catalog: which operation fills which column from which entity and window."""
        self._store = store
        self._limits = limits_array(catalog.limits)
        self._grouper = Grouper(catalog.logged)
        self.catalog = catalog
        self.compute(catalog)
        self._floors = np.full(1 << 16, -1, np.int64)
        self._upkeep = [_Upkeep() for _ in range(store.shards)]
        self._upkeep_of: tuple[int, ...] = ()  # the epochs that it was planned in
        self._calls = 0

    def compute(self, catalog: Catalog) -> None:
        """From now on compute these features, over the same logs. Raises ValueError when they need others."""
        if (catalog.logged, catalog.limits) != (self.catalog.logged, self.catalog.limits):
            raise ValueError("the features of a running enricher may change, its logs and limits may not")
        self.catalog = catalog
        self._payments = PaymentReader(catalog)
        self._readers = [EntityReader(catalog, entity) for entity in catalog.logged]

    def enrich(
        self, batch: PaymentBatch, spans: tuple[Span, ...], epochs: Sequence[int], labels: LabelBatch | None = None
    ) -> Enriched:
        """Apply n payments, and labels before them, to the state and compute the payments' features.

        `spans` covers every source partition of the batch, in the order of its records (labels first, then by
        partition), since sequence numbers are drawn in that order; `epochs` has every shard's. Raises
        StoreUnavailable and StateBehind as `StateStore.apply` does, and StateBehind when a payment that is not
        committed is missing from a log. The call may be repeated after any of them.
        """
        asked = self._ask(batch, spans, epochs, labels)
        return self.computed(asked, self._store.apply(asked.appends))

    def send(
        self, batch: PaymentBatch, spans: tuple[Span, ...], epochs: Sequence[int], labels: LabelBatch | None = None
    ) -> Sent:
        """Begin `enrich`: the store works on the batch until `receive`, before which nothing else may be enriched."""
        asked = self._ask(batch, spans, epochs, labels)
        return Sent(asked, self._store.send(asked.appends), self)

    def receive(self, sent: Sent) -> Enriched:
        """What `enrich` gives, of a batch that was sent."""
        if sent.found is None:
            sent.look()
        assert sent.found is not None  # noqa: S101  `look` leaves nothing open
        if isinstance(sent.found, StoreError):
            raise sent.found
        if sent.found.catalog is not self.catalog:  # others judge now, by other features
            return self.computed(sent.asked, sent.found.applied)
        return sent.found.enriched

    def _ask(
        self, batch: PaymentBatch, spans: tuple[Span, ...], epochs: Sequence[int], labels: LabelBatch | None
    ) -> Asked:
        grouping = self._grouper.group(batch, labels)
        shard_of_key = self._shards_of(grouping.keys)
        return Asked(batch, spans, grouping, shard_of_key, self._appends(grouping, shard_of_key, spans, epochs))

    def computed(self, asked: Asked, applied: list[Applied]) -> Enriched:
        """The features of a batch in what the store answered last. Raises StateBehind as `enrich` does."""
        self._settle(asked.spans, applied)
        logs = _gather(applied, asked.shard_of_key)
        enriched = self._read(asked.batch, asked.spans, applied, asked.grouping, logs, asked.shard_of_key)
        enriched.recorded.extend(_recorded(asked.spans, applied))
        self._plan_upkeep(asked.grouping.keys, asked.appends, applied, logs, asked.shard_of_key)
        return enriched

    def payment_only(self, batch: PaymentBatch) -> Values:
        """(n, features) float32: the features of the payments alone, NaN elsewhere; no store is asked."""
        values = np.full((len(batch), len(self.catalog.features)), np.nan, np.float32)
        self._payments.fill(batch, values)
        return values

    def _shards_of(self, keys: list[bytes]) -> Words | None:
        """(keys,) the shard of each key; None when there is but one."""
        shards = self._store.shards
        return None if shards == 1 else np.array([shard_of(key, shards) for key in keys], np.int64)

    def _appends(
        self,
        grouping: Grouping,
        shard_of_key: Words | None,
        spans: tuple[Span, ...],
        epochs: Sequence[int],
    ) -> list[Append]:
        if self._upkeep_of != tuple(epochs):  # logs may lie otherwise now
            self._upkeep = [_Upkeep() for _ in self._upkeep]
        self._calls += 1
        all_floors = self._calls % ALL_FLOORS_EVERY == 1
        keys, counts, records = grouping.keys, grouping.counts, grouping.records
        appends = []
        for shard, (epoch, upkeep) in enumerate(zip(epochs, self._upkeep, strict=True)):
            own_keys, own_counts, own_records = keys, counts, records
            if shard_of_key is not None:
                here = shard_of_key == shard
                own_keys = [keys[place] for place in np.flatnonzero(here).tolist()]
                own_counts, own_records = counts[here], records[np.repeat(here, counts)]
            appends.append(
                Append(
                    epoch,
                    spans,
                    own_keys,
                    own_counts.tolist(),
                    own_records,
                    upkeep.replacements,
                    upkeep.refresh,
                    all_floors,
                )
            )
        return appends

    def _settle(self, spans: tuple[Span, ...], applied: list[Applied]) -> None:
        """The call came back: what it was to do besides is done, and its floors are in the store."""
        self._upkeep = [_Upkeep() for _ in self._upkeep]
        for each in applied:
            for source, floor in each.all_floors.items():
                self._floors[source] = max(self._floors[source], floor)
        for place, span in enumerate(spans):
            self._floors[span.source_id] = min(each.floors[place] for each in applied)

    def _plan_upkeep(
        self, keys: list[bytes], appends: list[Append], applied: list[Applied], logs: Logs, shard_of_key: Words | None
    ) -> None:
        """Which logs to compact, and which to keep alive, with the next call."""
        self._upkeep_of = tuple(append.epoch for append in appends)
        words = readable(logs.words)
        cuts = due(words, logs.starts, logs.ends, self._floors, self._limits)
        for place in np.flatnonzero(cuts > logs.starts).tolist()[:COMPACTIONS]:
            start, cut = int(logs.starts[place]), int(cuts[place])
            head = words[start:cut]
            shard = 0 if shard_of_key is None else int(shard_of_key[place])
            self._upkeep[shard].replacements.append(
                Replacement(
                    keys[place],
                    head[0].tobytes(),
                    UNIT_BYTES * len(head),
                    summary(head, self._limits).tobytes(),
                )
            )
        for place in np.flatnonzero(
            newly_of_period(words, logs.starts, logs.ends, _new(appends, applied, shard_of_key))
        ).tolist():
            shard = 0 if shard_of_key is None else int(shard_of_key[place])
            self._upkeep[shard].refresh.append(keys[place])

    def _read(
        self,
        batch: PaymentBatch,
        spans: tuple[Span, ...],
        applied: list[Applied],
        grouping: Grouping,
        logs: Logs,
        shard_of_key: Words | None,
    ) -> Enriched:
        n = len(batch)
        values = self.payment_only(batch)
        repeated, stale = np.zeros(n, np.bool_), self._stale(batch, spans, applied)
        age_ms, shard = np.full(n, -1, np.int64), np.zeros(n, np.int64)
        rows, sources = grouping.rows, batch.base[grouping.rows, 2]
        extra = np.zeros((rows.size, EXTRAS), np.int64)
        for reader, (first, end) in zip(self._readers, pairwise(grouping.first), strict=True):
            starts, ends, bounds = logs.starts[first:end], logs.ends[first:end], grouping.bounds[first : end + 1]
            if reader.entity in self.catalog.entities:
                reader.fill(logs.words, starts, ends, bounds, sources, values, rows, extra)
        if (lost := extra[:, STATUS] != FOUND).any():
            self._require_committed(batch, grouping, lost & ~stale[rows])
            stale[rows[lost]] = True
            extra[lost, REPEATED] = 0
        card = slice(0, grouping.bounds[grouping.first[1]])
        of_card = rows[card]
        repeated[of_card] = extra[card, REPEATED] == 1
        since = extra[card, SINCE_LAST]
        age_ms[of_card] = np.where((since < NEVER) & ~lost[card], since, -1)
        if shard_of_key is not None:
            shard[of_card] = np.repeat(
                shard_of_key[: grouping.first[1]], np.diff(grouping.bounds[: grouping.first[1] + 1])
            )
        epoch, sequence = _stamps(batch, spans, applied, shard)
        return Enriched(values, shard, epoch, sequence, repeated, stale, age_ms)

    @staticmethod
    def _stale(batch: PaymentBatch, spans: tuple[Span, ...], applied: list[Applied]) -> Mask:
        """What others have committed meanwhile; its logs may be compacted too far for features."""
        stale = np.zeros(len(batch), np.bool_)
        for place, span in enumerate(spans):
            floor = max(each.floors[place] for each in applied)
            if floor > span.floor and not span.labels:
                stale |= (batch.partition == span.partition) & (batch.offset >= span.floor) & (batch.offset < floor)
        return stale

    def _require_committed(self, batch: PaymentBatch, grouping: Grouping, lost: Mask) -> None:
        for place in np.flatnonzero(lost).tolist():
            row = grouping.rows[place]
            partition, offset = int(batch.partition[row]), int(batch.offset[row])
            if offset >= self._floors[partition]:
                first = np.searchsorted(grouping.bounds[grouping.first], place, side="right") - 1
                raise StateBehind(
                    f"the {self._readers[first].entity} log has lost the record of {batch.topic}/{partition} "
                    f"offset {offset}, which is not committed: the state went back in time"
                )


def _gather(applied: list[Applied], shard_of_key: Words | None) -> Logs:
    """All shards' logs as one array, in the order of the keys of the batch."""
    if shard_of_key is None:
        return Logs(*applied[0].logs())
    starts, ends = np.empty(shard_of_key.size, np.int64), np.empty(shard_of_key.size, np.int64)
    parts, at = [np.empty((0, UNIT_WORDS), np.int64)], 0
    for shard, each in enumerate(applied):
        words, first, last = each.logs()
        here = shard_of_key == shard
        starts[here], ends[here] = first + at, last + at
        parts.append(words)
        at += len(words)
    return Logs(np.concatenate(parts), starts, ends)


def _new(appends: list[Append], applied: list[Applied], shard_of_key: Words | None) -> Words:
    """(keys,) how many records of each log are known to be new."""
    counts = [
        np.array(append.counts, np.int64) * (not each.partial) for append, each in zip(appends, applied, strict=True)
    ]
    if shard_of_key is None:
        return counts[0]
    new = np.empty(shard_of_key.size, np.int64)
    for shard, some in enumerate(counts):
        new[shard_of_key == shard] = some
    return new


def _stamps(batch: PaymentBatch, spans: tuple[Span, ...], applied: list[Applied], shard: Words) -> tuple[Words, Words]:
    """(n,), (n,) the epoch and sequence number of each payment in its card's shard."""
    epoch, sequence = np.zeros(len(batch), np.int64), np.full(len(batch), -1, np.int64)
    for number, each in enumerate(applied):
        for span, runs in zip(spans, each.runs, strict=True):
            for run in runs:
                if span.labels or run.end <= span.start or run.start >= span.end:
                    continue
                rows = (batch.partition == span.partition) & (batch.offset >= run.start) & (batch.offset < run.end)
                if len(applied) > 1:
                    rows &= shard == number
                epoch[rows] = run.epoch
                sequence[rows] = batch.offset[rows] - run.start + run.sequence
    return epoch, sequence


def _recorded(spans: tuple[Span, ...], applied: list[Applied]) -> list[Recorded]:
    """Every shard's, also where a batch has nothing for it: a number that nobody tells of may be a lost record's."""
    return [
        Recorded(shard, span, _clipped(run, span))
        for shard, each in enumerate(applied)
        for span, runs in zip(spans, each.runs, strict=True)
        for run in runs
        if run.end > span.start and run.start < span.end
    ]


def _clipped(run: Run, span: Span) -> Run:
    start = max(run.start, span.start)
    return Run(start, min(run.end, span.end), run.sequence + start - run.start, run.epoch)


def shard_of(key: bytes, shards: int) -> int:
    """The shard that holds an entity's log."""
    return xxh3_64_intdigest(key) % shards
