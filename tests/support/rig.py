"""A state keeper over a store and logs in memory, and what its tests are written with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np

from consumer.decode import Message
from consumer.records import JournalEntry
from consumer.state import StateKeeper
from consumer.telemetry import Telemetry
from features.catalog import DEFAULT
from features.enrich import Enriched, Enricher
from features.event import Label, LabelBatch, PaymentBatch
from features.store import MemoryStore, Source, Span, StateStore
from tests.poison import VALID, payment
from tests.support.doubles import LABELS, PAYMENTS, MemoryLog, Partition, decoder

DECODER = decoder()
PATIENCE_S = 0.08
LONG_S = 1e6
P0, P1, P2 = ((PAYMENTS, number) for number in range(3))
L0 = (LABELS, 0)


@dataclass(slots=True)
class Clock:
    """Seconds that pass only when told. Who waits for them to pass by looking would do so for ever."""

    now_s: float = 1_000.0
    looks: int = 0

    def __call__(self) -> float:
        self.looks += 1
        assert self.looks < 50_000, "somebody waits for a clock that stands"
        return self.now_s


def values(count: int, first: int = 0) -> list[bytes]:
    """Payments of five cards at three merchants, one a minute."""
    return [
        payment(
            event_id=f"evt-{number}",
            card_id=f"tok_{number % 5}",
            merchant_id=f"m-{number % 3}",
            amount_minor=100 + number,
            event_time=VALID["event_time"] + 60_000 * number,
        )
        for number in range(first, first + count)
    ]


def labels(*numbers: int) -> list[bytes]:
    """Frauds: the payments that `values` gives at these places."""
    return [
        msgspec.json.encode(
            Label(
                event_id=f"evt-{number}",
                card_id=f"tok_{number % 5}",
                merchant_id=f"m-{number % 3}",
                event_time=VALID["event_time"] + 60_000 * number,
                label="fraud",
                labelled_at=VALID["event_time"] + 60_000 * number,
                source="issuer",
            )
        )
        for number in numbers
    ]


@dataclass(slots=True)
class Rig:
    """A keeper over a store and a log with partitions of the given sizes."""

    sizes: Sequence[int]
    store: StateStore = field(default_factory=MemoryStore)
    labels: Sequence[bytes] = ()
    allow_cold_state: bool = False
    clock: Clock = field(default_factory=Clock)
    patience_s: float = PATIENCE_S
    telemetry: Telemetry = field(default_factory=Telemetry)
    journal: list[JournalEntry] = field(default_factory=list)
    log: MemoryLog = field(init=False)
    keeper: StateKeeper = field(init=False)

    def __post_init__(self) -> None:
        partitions: dict[Source, Partition] = {}
        for number, size in enumerate(self.sizes):
            partitions[PAYMENTS, number] = Partition()
            partitions[PAYMENTS, number].add(*values(size, 10_000 * number))
        if self.labels:
            partitions[L0] = Partition()
            partitions[L0].add(*self.labels)
        self.log = MemoryLog(partitions)
        self.keeper = self.another()

    def another(self, step: Callable[[str], None] = lambda _name: None) -> StateKeeper:
        """A keeper of a worker that has just started, and tells `step` of its steps."""
        return StateKeeper(
            payments=PAYMENTS,
            labels=LABELS if self.labels else None,
            store=self.store,
            enricher=Enricher(DEFAULT, self.store),
            decoder=DECODER,
            log=self.log,
            journal=self.journal.extend,
            telemetry=self.telemetry,
            allow_cold_state=self.allow_cold_state,
            clock=self.clock,
            step=step,
        )

    def part(self, partition: int) -> Partition:
        """A partition of the payments."""
        return self.log.partitions[PAYMENTS, partition]

    def batch(
        self, partition: int, start: int, end: int, *, labelled: tuple[int, int] = (0, 0)
    ) -> tuple[PaymentBatch, tuple[Span, ...], LabelBatch]:
        """A part of a partition of the payments, and before it a part of the labels."""
        messages: list[Message] = []
        spans = []
        for source, first, last in ((L0, *labelled), ((PAYMENTS, partition), start, end)):
            if first == last:
                continue
            held = self.log.partitions[source]
            messages += [held.record(source, at) for at in range(first, last) if at in held.values]
            floor = held.low if held.committed is None else held.committed
            spans.append(Span(*source, first, last, floor, labels=source == L0))
        decoded = DECODER.decode(messages)
        return decoded.batch, tuple(spans), decoded.labels

    def enrich(
        self,
        partition: int,
        start: int,
        end: int,
        *,
        labelled: tuple[int, int] = (0, 0),
        keeper: StateKeeper | None = None,
    ) -> Enriched | None:
        """Enrich a part of the log."""
        batch, spans, some = self.batch(partition, start, end, labelled=labelled)
        return (keeper or self.keeper).enrich(batch, spans, self.patience_s, some)

    def decide(
        self,
        partition: int,
        start: int,
        end: int,
        *,
        labelled: tuple[int, int] = (0, 0),
        keeper: StateKeeper | None = None,
    ) -> Enriched | None:
        """Enrich a part of the log and commit it, as the processor does."""
        enriched = self.enrich(partition, start, end, labelled=labelled, keeper=keeper)
        self.part(partition).committed = end
        if labelled[1]:
            self.log.partitions[L0].committed = labelled[1]
        return enriched

    def markers(self) -> Mapping[Source, int]:
        """The markers, which are the same in all shards."""
        first, *others = [position.markers for position in self.store.positions()]
        assert all(markers == first for markers in others)
        return first

    def epochs(self) -> list[int]:
        return [position.epoch for position in self.store.positions()]

    def runs(self) -> list[tuple[Source, int, int]]:
        """What was journaled by the keeper, of all shards: source, offset and number of offsets."""
        return [((each.topic, each.partition), each.offset, each.count) for each in self.journal if each.count]

    def count(self, metric: str) -> float:
        return self.telemetry.registry.get_sample_value(metric) or 0.0


def same(first: Enriched | None, second: Enriched | None) -> None:
    assert first is not None
    assert second is not None
    np.testing.assert_array_equal(first.values, second.values)
    np.testing.assert_array_equal(first.repeated, second.repeated)
