"""What the journal says of every shard: the order of its epochs, and what the naive folds of the logs in it give.

An entity's log lies in one shard, and is folded in the order in which that shard recorded it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from xxhash import xxh3_64_intdigest

from features.catalog import DEFAULT
from features.event import Label, Payment
from tests import oracle
from tests.faults.scoring import EXACT

At = tuple[str, int, int]  # topic, partition and offset of a source record
Sources = Mapping[At, Payment | Label | None]
Which = tuple[int, int]  # shard and epoch

CARD = "card"
LOGGED = {entity: oracle.FIELDS[entity] for entity in DEFAULT.logged}
FEATURES = {
    entity: tuple(each.name for each in DEFAULT.features if each.name in EXACT and (each.entity or CARD) == entity)
    for entity in LOGGED
}
"""What is asked of each entity's logs; what the payment alone says, beside what its card's log says."""


def shard_of(entity: str, name: str, shards: int) -> int:
    """The shard that has an entity's log: a hash of the log's key decides."""
    return xxh3_64_intdigest(f"{entity[0]}:{name}".encode()) % shards


def shards_of(record: Payment | Label, shards: int) -> dict[str, int]:
    """The shards of the logs that a payment or a label belongs to, by entity."""
    named = {entity: getattr(record, of) for entity, of in LOGGED.items()}
    return {entity: shard_of(entity, name, shards) for entity, name in named.items() if name is not None}


@dataclass(slots=True)
class Timeline:
    """The order of one epoch of a shard as the journal gives it, what it inherited from another included."""

    shard: int
    epoch: int
    since: int  # the numbers below it are inherited
    at: dict[int, At] = field(default_factory=dict)  # by sequence number
    sequence: dict[At, int] = field(default_factory=dict)

    def add(self, sequence: int, source: At) -> bool:
        """Take one entry of the journal; False, and nothing is taken, if it contradicts another."""
        if self.at.get(sequence, source) != source or self.sequence.get(source, sequence) != sequence:
            return False
        self.at[sequence] = source
        self.sequence[source] = sequence
        return True

    def numbered(self, source: At) -> bool:
        """Whether the record was given its number in this epoch, and did not come with what was inherited."""
        return self.sequence.get(source, -1) >= self.since


@dataclass(slots=True)
class Epoch:
    """What the journal says of one epoch: which records it numbered, and of which epoch it took over the beginning."""

    entries: list[tuple[int, At]] = field(default_factory=list)
    parent: int | None = None
    since: int = 0  # the parent's numbers below it are the epoch's too

    def take(self, entry: dict[str, Any]) -> None:
        """Take what one record of the journal says."""
        if entry["parent_epoch"] is not None:  # of those without any records, the ones that tell where it comes from
            self.parent, self.since = entry["parent_epoch"], entry["parent_sequence"]
        for place in range(entry["count"]):
            source = (entry["topic"], entry["partition"], entry["offset"] + place)
            self.entries.append((entry["sequence"] + place, source))


def timelines_of(epochs: Mapping[Which, Epoch]) -> tuple[list[Timeline], list[str]]:
    """The orders that the journal gives, and where it contradicts itself.

    It does when two records have one number in a shard, or when one record was counted twice there: in an epoch, or
    again after it was inherited.
    """
    made, contradictions = dict[Which, Timeline](), list[str]()

    def timeline(shard: int, number: int) -> Timeline:
        if (shard, number) not in made:
            epoch = epochs.get((shard, number), Epoch())
            built = Timeline(shard, number, epoch.since)
            inherited = timeline(shard, epoch.parent).at if epoch.parent is not None else {}
            for sequence, source in [*((s, at) for s, at in inherited.items() if s < epoch.since), *epoch.entries]:
                if not built.add(sequence, source):
                    contradictions.append(f"the journal gives sequence {sequence} or {source} twice in shard {shard}")
            made[shard, number] = built
        return made[shard, number]

    return [timeline(*which) for which in epochs], contradictions


class Folds:
    """The naive folds of all timelines: which features each payment that was decided should have had.

    A decision tells the epoch of its card's shard. Of which epoch logs in other shards were, nothing tells: any in
    which the payment was given a number there will do.
    """

    def __init__(self, timelines: Collection[Timeline], sources: Sources, decided: Collection[At], shards: int) -> None:
        """Fold every log; features are those of payments that were `decided` with features."""
        self._lies = {at: shards_of(record, shards) for at, record in sources.items() if record is not None}
        self._timelines = {(timeline.shard, timeline.epoch): timeline for timeline in timelines}
        self._rows = {
            (which, entity): self._folded(timeline, entity, sources, decided)
            for which, timeline in self._timelines.items()
            for entity in FEATURES
        }

    def card_lies_in(self, source: At) -> int:
        """The shard of a payment's card."""
        return self._lies[source][CARD]

    def repeats(self, source: At) -> bool:
        """Whether a card's log says that the payment repeats another."""
        return any(self._rows[which, CARD].get(source) == {} for which in self._timelines)

    def of_card(self, which: Which, sequence: int, source: At) -> oracle.Row | None:
        """What its card's log says of a payment, in an epoch that gave it that number: nothing of a repetition."""
        timeline = self._timelines.get(which)
        if timeline is None or timeline.at.get(sequence) != source or not timeline.numbered(source):
            return None
        return self._rows[which, CARD].get(source)

    def rows(self, which: Which, source: At) -> Iterator[oracle.Row]:
        """All features that a payment may have had that was decided in this epoch of its card's shard."""
        parts = [self._parts(which, source, entity) for entity in self._lies[source]]
        for some in product(*parts):
            whole: oracle.Row = dict.fromkeys(EXACT)
            for part in some:
                whole |= part
            yield whole

    def _parts(self, which: Which, source: At, entity: str) -> list[oracle.Row]:
        """What one entity's log may have said of a payment."""
        shard = self._lies[source][entity]
        there = [which] if shard == which[0] else [each for each in self._timelines if each[0] == shard]
        found: list[oracle.Row] = []
        for each in there:
            row = self._rows[each, entity].get(source)
            if row is not None and row.keys() == set(FEATURES[entity]) and row not in found:
                found.append(row)
        return found

    def _folded(
        self, timeline: Timeline, entity: str, sources: Sources, decided: Collection[At]
    ) -> dict[At, oracle.Row]:
        """What the logs of one kind of entity in a shard say of the payments that its epoch numbered."""
        order = (timeline.at[sequence] for sequence in sorted(timeline.at))
        log = [
            (source, record)
            for source in order
            if (record := sources.get(source)) is not None and self._lies[source].get(entity) == timeline.shard
        ]
        only = {place for place, (source, _) in enumerate(log) if source in decided and timeline.numbered(source)}
        records = [record for _, record in log]
        rows = oracle.fold(records, DEFAULT, names=FEATURES[entity], only=only, whole_cards=entity == CARD)
        paid = [source for source, record in log if isinstance(record, Payment)]
        return dict(zip(paid, rows, strict=True))
