"""A processor in this process, whose topics can be dumped: for what is to be said of its decisions afterwards."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from consumer.decode import Message
from consumer.judge import LineUp, Model, Surroundings
from consumer.model_loader import load_model
from consumer.pipeline import Pipeline
from consumer.publish import journal_records
from consumer.settings import TopicSettings
from consumer.state import StateKeeper
from consumer.telemetry import Telemetry
from features.catalog import DEFAULT
from features.enrich import Enricher
from features.store import MemoryStore, Source, Span, StateStore
from models.lists import Lists
from tests.support.doubles import LABELS, PAYMENTS, ListPublisher, MemoryLog, Partition, decoder

NOW_S = 1_800_000_000.0
TOPICS = TopicSettings()


class Killed(Exception):
    """The processor died here."""


@dataclass(slots=True)
class _Mortal(ListPublisher):
    """A publisher that can die before it commits, and after: then all is visible, and no offset is committed."""

    step: Callable[[str], None] = lambda _name: None

    def commit(self, spans: Sequence[Span]) -> None:
        self.step("before_commit")
        ListPublisher.commit(self, spans)
        self.step("after_commit")


@dataclass(slots=True)
class World:
    """Topics in memory, a store, and a processor that takes what it is told to.

    `partitions` are the values of the payments' partitions, `labels` those of the labels' one. `seen`: the features of
    every payment that was decided with the state, by partition and offset.
    """

    bundle: Path
    partitions: Sequence[Sequence[bytes | None]]
    labels: Sequence[bytes | None] = ()
    store: StateStore = field(default_factory=MemoryStore)
    lists: Lists | None = None
    is_live: bool = True
    max_payment_bytes: int = 65_536
    enricher: type[Enricher] = Enricher
    publisher: ListPublisher = field(init=False)
    log: MemoryLog = field(init=False)
    line_up: LineUp = field(init=False)
    dies_at: str = ""
    seen: dict[tuple[int, int], npt.NDArray[np.float32]] = field(default_factory=dict)
    now_s: float = NOW_S
    _models: dict[Path, Model] = field(default_factory=dict)
    _pipeline: Pipeline = field(init=False)
    _keeper: StateKeeper = field(init=False)

    def __post_init__(self) -> None:
        held: dict[Source, Partition] = {(PAYMENTS, number): Partition() for number in range(len(self.partitions))}
        held[LABELS, 0] = Partition()
        for number, values in enumerate(self.partitions):
            held[PAYMENTS, number].add(*values)
        held[LABELS, 0].add(*self.labels)
        self.log = MemoryLog(held)
        self.publisher = _Mortal(step=self._step)
        self.promote(self.bundle)
        self.start()

    def promote(self, bundle: Path) -> None:
        """From the next batch on another bundle decides."""
        if bundle not in self._models:
            self._models[bundle] = load_model(bundle, device="cpu", threads=1)
        self.line_up = LineUp(self._models[bundle])

    def start(self) -> None:
        """Start a processor, as after a crash: it knows what is committed, and no more."""
        self.publisher.renew()
        enricher = self.enricher(DEFAULT, self.store)
        self._keeper = StateKeeper(
            payments=PAYMENTS,
            labels=LABELS,
            store=self.store,
            enricher=enricher,
            decoder=decoder(self.max_payment_bytes),
            log=self.log,
            journal=lambda entries: self.publisher.visible.extend(journal_records(TOPICS.journal, entries)),
            telemetry=Telemetry(),
            clock=lambda: self.now_s,
        )
        self._pipeline = Pipeline(
            decoder=decoder(self.max_payment_bytes),
            enricher=enricher,
            state=self._keeper,
            line_up=lambda: self.line_up,
            around=Surroundings(
                TOPICS,
                lists=lambda: self.lists,
                is_live=self.is_live,
                clock=lambda: self.now_s,
                ticks=lambda: self.now_s,
            ),
            publisher=self.publisher,
            telemetry=Telemetry(),
            budget_ms=60_000,
            pause_on_outage=False,
            step=self._step,
        )

    def process(self, **counts: int) -> None:
        """The next so many records of each: `labels`, `p0`, `p1`, ...; committed, unless it dies."""
        messages: list[Message] = []
        spans: list[Span] = []
        sources: list[tuple[Source, int]] = [((LABELS, 0), counts.pop("labels", 0))]
        sources += [((PAYMENTS, int(name[1:])), count) for name, count in sorted(counts.items())]
        for source, count in sources:
            held = self.log.partitions[source]
            start = held.committed or 0
            end = min(start + count, held.high)
            if end == start:
                continue
            messages += [held.record(source, at) for at in range(start, end) if at in held.values]
            spans.append(Span(*source, start, end, start, labels=source[0] == LABELS))
        if not spans:
            return
        decided = self._pipeline.process(messages, tuple(spans))
        if decided.enriched is not None:
            places = zip(decided.batch.partition.tolist(), decided.batch.offset.tolist(), strict=True)
            for place, due, values in zip(places, decided.due.tolist(), decided.enriched.values, strict=True):
                if due:
                    self.seen[place] = values
        for span in spans:
            self.log.partitions[span.topic, span.partition].committed = span.end

    def kill_at(self, step: str, **counts: int) -> None:
        """Take these records, die at a step, and start again."""
        self.dies_at = step
        try:
            self.process(**counts)
            raise AssertionError(f"it never came to {step}")
        except Killed:
            self.dies_at = ""
        self.start()

    def drain(self, batch: int = 50) -> None:
        """Take all that is left."""
        names = ["labels", *(f"p{number}" for number in range(len(self.partitions)))]
        while any(each.committed != each.high for each in self.log.partitions.values() if each.high):
            self.process(**dict.fromkeys(names, batch))

    def dump(self, folder: Path) -> dict[str, Path]:
        """All topics as files: what is read as `kcat -J` writes it, what was published as its values."""
        folder.mkdir(parents=True, exist_ok=True)
        topics = {name: folder / f"{name}.jsonl" for name in ("payments", "labels", "decisions", "alerts", "journal")}
        for topic in (PAYMENTS, LABELS):
            lines = [
                json.dumps({"topic": topic, "partition": source[1], "offset": offset, "payload": _text(held, offset)})
                for source, held in self.log.partitions.items()
                for offset in range(held.low, held.high)
                if source[0] == topic
            ]
            topics[topic].write_text("".join(f"{line}\n" for line in lines))
        for role in ("decisions", "alerts", "journal"):
            values = self.publisher.values(getattr(TOPICS, role))
            topics[role].write_bytes(b"".join(value + b"\n" for value in values))
        return topics

    def dump_dead_letters(self, path: Path) -> Path:
        """The dead letters as `kcat -J` writes them, their headers included."""
        letters = [record for record in self.publisher.visible if record.topic == TOPICS.dead_letters]
        lines = [
            {
                "partition": 0,
                "offset": offset,
                "headers": [text for name, content in each.headers or () for text in (name, (content or b"").decode())],
                "payload": None if each.value is None else each.value.decode(errors="replace"),
            }
            for offset, each in enumerate(letters)
        ]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return path

    def features(self, partition: int) -> str:
        """SHA-256 over what the decisions of a partition were made of, by offset."""
        places = sorted(place for place in self.seen if place[0] == partition)
        rows = np.stack([self.seen[place] for place in places])
        return hashlib.sha256(np.where(np.isnan(rows), np.float32(np.nan), rows).astype("<f4").tobytes()).hexdigest()

    def _step(self, name: str) -> None:
        if name == self.dies_at:
            raise Killed(name)


def _text(held: Partition, offset: int) -> str | None:
    return held.values[offset].decode(errors="replace") if offset in held.values else None
