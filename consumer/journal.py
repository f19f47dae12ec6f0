"""The order in which records were applied, as runs: what a replay of shared entities follows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from consumer.records import JournalEntry
from features.enrich import Recorded
from features.store import Position, Run, Source


def entries(recorded: Sequence[Recorded]) -> list[JournalEntry]:
    """One entry for each run of a shard that a batch was recorded in."""
    return [_entry(each.shard, (each.span.topic, each.span.partition), each.run) for each in recorded]


def told_again(positions: Sequence[Position], committed: Mapping[Source, int]) -> list[JournalEntry]:
    """What is committed and was recorded last: who recorded it may have been killed before it could tell."""
    return [
        _entry(shard, source, run._replace(end=min(run.end, committed[source])))
        for shard, position in enumerate(positions)
        for source, runs in position.runs.items()
        for run in runs
        if run.start < committed.get(source, 0)
    ]


def _entry(shard: int, source: Source, run: Run) -> JournalEntry:
    topic, partition = source
    return JournalEntry(
        shard=shard,
        epoch=run.epoch,
        sequence=run.sequence,
        count=run.end - run.start,
        topic=topic,
        partition=partition,
        offset=run.start,
    )


def descent(shard: int, position: Position, topic: str) -> JournalEntry | None:
    """Which epoch a shard's state was inherited from; None when its epoch is the first."""
    if position.parent is None:
        return None
    epoch, sequence = position.parent
    return JournalEntry(
        shard=shard,
        epoch=position.epoch,
        sequence=sequence,
        count=0,
        topic=topic,
        partition=0,
        offset=0,
        parent_epoch=epoch,
        parent_sequence=sequence,
    )
