"""Why the slowest payment was slow: its time from due to received, divided among what the worker did meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypedDict

import msgspec
import numpy.typing as npt

WAITING: Final = "waiting"
DELIVERY: Final = "delivery"
BETWEEN: Final = "between stages"
MEANING: Final = {
    WAITING: "it had not reached the worker's hands, or its batch was waiting for more, while no batch was in work",
    DELIVERY: "the commit had returned, and the reader had not got the decision yet",
    BETWEEN: "the worker was in a batch but in none of its stages: accounting, or not running at all",
}


class Batch(msgspec.Struct, frozen=True):
    """One line of the worker's trace."""

    begun_ns: int
    took_ms: float
    size: int
    tier: str
    spans: list[tuple[int, int, int]]
    stage_ms: dict[str, float]

    @property
    def ended_ns(self) -> int:
        """When its commit had returned and was accounted for."""
        return self.begun_ns + round(self.took_ms * 1e6)

    def holds(self, partition: int, offset: int) -> bool:
        """Whether a payment is in it."""
        return any(part == partition and start <= offset < end for part, start, end in self.spans)


@dataclass(frozen=True, slots=True)
class Event:
    """One payment: where it lies, when it was due and when its decision was received."""

    partition: int
    offset: int
    due_ns: int
    received_ns: int


class Breakdown(TypedDict):
    """Milliseconds of the slowest payment; `spent_ms` adds up to `latency_ms`.

    `spent_ms` is by `STAGE (before)` for batches before its own, by `STAGE` for its own, `waiting`, `between stages`
    and `delivery`. `largest` is the name of the largest part.
    """

    latency_ms: float
    batch_size: int
    batch_ms: float
    batches_before: int
    longest_before_ms: float
    spent_ms: dict[str, float]
    largest: str


def read_trace(path: Path) -> list[Batch]:
    """The batches of a worker's trace, in order."""
    decode = msgspec.json.Decoder(Batch).decode
    with path.open("rb") as file:
        return [decode(line) for line in file]


def slowest(sent: npt.NDArray[Any], received: npt.NDArray[Any]) -> Event | None:
    """The payment of `sent` whose first decision came latest after it was due; None when there was none at all."""
    due = {
        (partition, offset): at
        for partition, offset, at in zip(
            sent["partition"].tolist(), sent["offset"].tolist(), sent["intended_ns"].tolist(), strict=True
        )
    }
    worst: Event | None = None
    for partition, offset, at in received.tolist():
        due_ns = due.pop((partition, offset), None)  # popped: only the first decision counts
        if due_ns is not None and (worst is None or at - due_ns > worst.received_ns - worst.due_ns):
            worst = Event(partition, offset, due_ns, at)
    return worst


def breakdown(event: Event, batches: Sequence[Batch]) -> Breakdown | None:
    """Divide the event's time; None when no batch of the trace holds it."""
    own = next((batch for batch in batches if batch.holds(event.partition, event.offset)), None)
    if own is None:
        return None
    before = [batch for batch in batches if batch.begun_ns < own.begun_ns and batch.ended_ns > event.due_ns]
    spent: dict[str, float] = {}
    busy_ms = 0.0
    for batch in before:
        overlap_ms = (batch.ended_ns - max(batch.begun_ns, event.due_ns)) / 1e6
        _divide(batch, overlap_ms, " (before)", spent)
        busy_ms += overlap_ms
    _divide(own, own.took_ms, "", spent)
    spent[WAITING] = max(0.0, (own.begun_ns - event.due_ns) / 1e6 - busy_ms)
    spent[DELIVERY] = max(0.0, (event.received_ns - own.ended_ns) / 1e6)
    return Breakdown(
        latency_ms=(event.received_ns - event.due_ns) / 1e6,
        batch_size=own.size,
        batch_ms=own.took_ms,
        batches_before=len(before),
        longest_before_ms=max((batch.took_ms for batch in before), default=0.0),
        spent_ms=spent,
        largest=max(spent, key=lambda name: spent[name]),
    )


def _divide(batch: Batch, of_ms: float, suffix: str, spent: dict[str, float]) -> None:
    """Give `of_ms` of a batch's time to its stages; of the part that overlaps, the latest stages come first."""
    left_ms = of_ms
    outside_ms = max(0.0, batch.took_ms - sum(batch.stage_ms.values()))
    for name, took_ms in ((BETWEEN, outside_ms), *reversed(batch.stage_ms.items())):
        share_ms = min(left_ms, took_ms)
        left_ms -= share_ms
        key = name if name == BETWEEN else name + suffix
        spent[key] = spent.get(key, 0.0) + share_ms
    # rounding may leave a few microseconds
    spent[BETWEEN] = spent.get(BETWEEN, 0.0) + left_ms
