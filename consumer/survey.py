"""What a survey concludes: how the markers of all shards stand to the log and to what the group has committed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from consumer.kafka.logreader import Extent
from features.errors import StoreUnsuitable
from features.store import Position, Source, Span


@dataclass(frozen=True, slots=True)
class Standing:
    """How the state stands to the log. What counts is a source's lowest marker: an entity may lie in any shard.

    Attributes:
        committed: the offset of each source up to which the group has committed.
        markers: the lowest marker of each source.
        missing: where to begin the sources that some shard has no marker of.
        gone: where to go on with the sources whose marker lies below what Kafka still holds.
        behind: what to read again: from which offset to which.
        regressed: whether a marker that was there lies below what is committed.
    """

    committed: Mapping[Source, int]
    markers: Mapping[Source, int]
    missing: Mapping[Source, int]
    gone: Mapping[Source, int]
    behind: Mapping[Source, tuple[int, int]]
    regressed: bool

    def covers(self, spans: Sequence[Span]) -> bool:
        """Whether no marker is below the start of any of these spans."""
        return all(self.markers.get((span.topic, span.partition), -1) >= span.start for span in spans)


def standing(
    extents: Mapping[Source, Extent],
    positions: Sequence[Position],
    unsure: Mapping[Source, int],
    *,
    allow_cold_state: bool,
) -> Standing:
    """Compare every partition's markers with its committed offset.

    `unsure` has offsets from which records may be applied but not journaled: they are read again too. Raises
    StoreUnsuitable when records that the state lacks are no longer in Kafka, unless `allow_cold_state`.
    """
    due: dict[Source, int] = {}
    markers: dict[Source, int] = {}
    missing: dict[Source, int] = {}
    gone: dict[Source, int] = {}
    behind: dict[Source, tuple[int, int]] = {}
    regressed = False
    for source, extent in extents.items():
        known = [position.markers[source] for position in positions if source in position.markers]
        due[source] = committed = _committed(extent)
        regressed |= any(marker < committed for marker in known)
        if len(known) < len(positions):
            missing[source] = min(extent.low, committed)
            known.append(missing[source])
        marker = min(known)
        if marker < extent.low:
            if marker < committed and not allow_cold_state:
                topic, partition = source
                raise StoreUnsuitable(
                    f"the state of {topic}/{partition} ends at offset {marker} but Kafka holds it from "
                    f"{extent.low} only: history is lost; to go on without it say --allow-cold-state, or set "
                    "store.allow_cold_state"
                )
            marker = gone[source] = extent.low
        start = max(extent.low, min(marker, unsure.get(source, marker)))
        if start < committed:
            behind[source] = (start, committed)
        markers[source] = marker
    return Standing(due, markers, missing, gone, behind, regressed)


def ahead(extents: Mapping[Source, Extent], positions: Sequence[Position]) -> str:
    """Why the state can't be this log's and this group's, in one sentence; empty when it can."""
    for source, extent in extents.items():
        topic, partition = source
        marker = max(position.markers.get(source, 0) for position in positions)
        if marker > extent.high:
            return (
                f"the state has {topic}/{partition} up to offset {marker} but the log ends at {extent.high}: "
                "the topic was recreated; use another store.namespace"
            )
        floor = max(position.floors.get(source, 0) for position in positions)
        if floor > (committed := _committed(extent)):
            return (
                f"the state knows {topic}/{partition} as decided up to {floor} but the group stands at "
                f"{committed}: its offsets were reset; use another store.namespace to decide again"
            )
    return ""


def _committed(extent: Extent) -> int:
    return extent.low if extent.committed is None else extent.committed
