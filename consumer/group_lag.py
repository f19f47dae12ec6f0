"""How far the group is behind, partition by partition: what `fraudline lag` tells. Pure: the time is an argument."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Member:
    """A client in the group, and the partitions that it reads as (topic, partition)."""

    member_id: str
    client_id: str
    host: str
    owns: frozenset[tuple[str, int]]


@dataclass(frozen=True, slots=True)
class PartitionLag:
    """One partition.

    Attributes:
        low: the oldest offset that Kafka still holds.
        end: the offset behind the newest record.
        committed: where the group stands; None where it never committed: it begins at `low`.
        next_ms: the Kafka timestamp of the next record that is not decided; None where there is none.
        newest_ms: the newest Kafka timestamp in the partition; None where it is not known.
        is_told: whether the partition was read as far as that; what was not told in time counts as behind.
        held_back: whether what is next lies in a transaction that its producer has left open: nobody can read on.
    """

    topic: str
    partition: int
    low: int
    end: int
    committed: int | None
    next_ms: int | None = None
    newest_ms: int | None = None
    is_told: bool = True
    held_back: bool = False

    @property
    def start(self) -> int:
        """The next offset to be decided, if it is still there."""
        return max(self.low, self.low if self.committed is None else self.committed)

    @property
    def records(self) -> int:
        """Offsets that are not decided; the marks of producers' transactions count as records do."""
        return max(0, self.end - self.start)

    @property
    def lost(self) -> int:
        """Offsets below which records were deleted before the group decided them."""
        return 0 if self.committed is None else max(0, self.low - self.committed)

    @property
    def above_end(self) -> bool:
        """Whether the group stands above the end: the topic was made anew."""
        return self.committed is not None and self.committed > self.end

    def seconds(self, now_ms: float) -> float | None:
        """How long the next record waits, at `now_ms`; 0 where none does, None where it was not told."""
        if not self.is_told:
            return None
        return 0.0 if self.next_ms is None else max(0.0, (now_ms - self.next_ms) / 1_000)

    def seconds_behind_newest(self) -> float | None:
        """How much older the next record is than the newest one: what counts where timestamps are the producers'."""
        if not self.is_told or (self.next_ms is not None and self.newest_ms is None):
            return None
        if self.next_ms is None or self.newest_ms is None:
            return 0.0
        return max(0.0, (self.newest_ms - self.next_ms) / 1_000)


@dataclass(frozen=True, slots=True)
class GroupLag:
    """The group and all partitions of payments and labels. `missing` are topics that are not there."""

    group: str
    state: str
    members: Sequence[Member]
    partitions: Sequence[PartitionLag]
    missing: Sequence[str] = ()

    def owner(self, partition: PartitionLag) -> Member | None:
        """Who reads it."""
        at = (partition.topic, partition.partition)
        return next((member for member in self.members if at in member.owns), None)

    @property
    def records(self) -> int:
        """Of all partitions."""
        return sum(each.records for each in self.partitions)

    def seconds(self, now_ms: float) -> float | None:
        """Of the partition that waits longest; None where one was not told in time, or a topic is missing."""
        told = [each.seconds(now_ms) for each in self.partitions]
        if self.missing or any(each is None for each in told):
            return None
        return max((each for each in told if each is not None), default=0.0)

    def document(self, now_ms: float) -> dict[str, object]:
        """All of it as JSON has it."""
        return {
            "group": self.group,
            "state": self.state,
            "members": len(self.members),
            "records": self.records,
            "seconds": self.seconds(now_ms),
            "missing_topics": list(self.missing),
            "partitions": [self._row(each, now_ms) for each in self.partitions],
        }

    def _row(self, each: PartitionLag, now_ms: float) -> dict[str, object]:
        owner = self.owner(each)
        return {
            "topic": each.topic,
            "partition": each.partition,
            "committed": each.committed,
            "low": each.low,
            "end": each.end,
            "records": each.records,
            "seconds": each.seconds(now_ms),
            "seconds_behind_newest": each.seconds_behind_newest(),
            "deleted_before_decided": each.lost,
            "committed_above_end": each.above_end,
            "held_back": each.held_back,
            "owner": None
            if owner is None
            else {"client_id": owner.client_id, "host": owner.host, "member_id": owner.member_id},
        }
