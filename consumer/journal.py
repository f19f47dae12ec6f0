"""The order in which records were applied, as runs: what a replay of shared entities follows."""

from __future__ import annotations

from collections.abc import Sequence

from consumer.records import JournalEntry
from features.enrich import Recorded
from features.store import Position


def entries(recorded: Sequence[Recorded]) -> list[JournalEntry]:
    """One entry for each run of a shard that a batch was recorded in."""
    return [
        JournalEntry(
            shard=each.shard,
            epoch=each.run.epoch,
            sequence=each.run.sequence,
            count=each.run.end - each.run.start,
            topic=each.span.topic,
            partition=each.span.partition,
            offset=each.run.start,
        )
        for each in recorded
    ]


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
