"""Random histories of workers that crash, stall and lose their store, and the invariants that must hold after each.

The enricher, the state keeper, the decoder and the stores are the real ones. A history is a function of its seed.
Invariants, after everything is healthy again and drained:

1. every record has exactly one visible outcome (exactly_once) or at least one (at_least_once);
2. every shard of the state holds every partition in order and without a gap, and once lost it is not used before it
   has caught up with what was committed; the features of every decision that had any equal the naive fold of the
   payments and labels in the order recorded by the shards that it saw, whatever was compacted meanwhile, as does every
   verdict on a repeated event id; what is journaled is what was recorded, a number names one record for ever, and the
   journal tells what each epoch was inherited from;
3. decisions of a partition become visible in offset order, and the committed offset is the end of the log.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from consumer.decode import Decoded, Decoder, in_log_order
from consumer.journal import entries
from consumer.records import JournalEntry
from consumer.state import StateKeeper
from consumer.telemetry import Telemetry
from features.catalog import Catalog, Limits
from features.compaction import summary
from features.enrich import Enriched, Enricher
from features.enrich import Sent as SentCall
from features.event import UNIT_BYTES, UNIT_WORDS
from features.reader import limits_array
from features.store import Append, Replacement, Source, Span
from features.units import first_record, has_summary, raw_of_summary
from tests.simulation_invariants import DAY_MS, FEATURES, violations
from tests.simulation_model import LABELS, PAYMENTS, CatchUpLog, ModelKafka, Outcome, Sent, topics
from tests.simulation_stores import Backend, Line
from tests.simulation_truth import Timeline, Truth, places_of, units_of

DRAIN_STEPS = 3_000
_TELEMETRY = Telemetry()  # building one is dearer than a whole history
MakeBackend = Callable[[int, Limits], Backend]


@dataclass(frozen=True)
class Plan:
    """What a history is allowed to do."""

    seed: int
    exactly_once: bool = True
    pause: bool = False
    regressions: bool = False
    shards: int = 1

    @classmethod
    def of(cls, seed: int) -> Plan:
        """Every kind in turn: both deliveries, both outage policies, a store that goes back in time or not, shards."""
        return cls(
            seed,
            exactly_once=seed % 4 != 1,
            pause=seed % 3 == 0,
            regressions=seed % 2 == 0,
            shards=3 if seed % 5 < 2 else 1,
        )


@dataclass(frozen=True)
class Taken:
    """A batch: what it is, as whom it was taken, and what the store was sent of it."""

    messages: Sequence[Sent]
    decoded: Decoded
    spans: tuple[Span, ...]
    generation: int
    turns: dict[Source, int]
    sent: SentCall | None = None


class Worker:
    """One processor: what it knows of its partitions, and the batches in its hands, a step at a time."""

    def __init__(self, world: World, number: int) -> None:
        self._world, self.number = world, number
        self.line = Line(world.backend, world.truth, lambda: world.fault(number), lambda: world.rng.random() < 0.5)
        enricher = world.make_enricher(Catalog(FEATURES, world.limits), self.line)
        self._decoder = Decoder(max_payment_bytes=10_000, max_future_ms=10**12, labels_topic=LABELS)
        self.keeper = StateKeeper(
            payments=PAYMENTS,
            labels=LABELS,
            store=self.line,
            enricher=enricher,
            decoder=self._decoder,
            log=CatchUpLog(world.kafka, world.rng),
            journal=self._journal,
            telemetry=_TELEMETRY,
            clock=world.clock,
        )
        self.is_member = False
        self._generation = -1
        self.position: dict[Source, int] = {}
        self._taken: dict[Source, int] = {}
        self._committed: dict[Source, int] = {}
        self._turns: dict[Source, int] = {}  # the generation in which each became ours
        self.turn: Iterator[str] | None = None

    def assigned(self, sources: set[Source]) -> None:
        """Keep what was ours already, unless we were thought dead; begin at the committed offset of what is new."""
        kafka = self._world.kafka
        if not self.is_member:
            for known in (self.position, self._taken, self._committed, self._turns):
                known.clear()
        self._generation, self.is_member = kafka.generation, True
        for source in sources - set(self._turns):
            self._turns[source] = kafka.generation
        for known in (self.position, self._taken, self._committed):
            for source in sources - set(known):
                known[source] = kafka.committed.get(source, 0)
        for known in (self.position, self._taken, self._committed, self._turns):
            for source in set(known) - sources:
                del known[source]

    def step(self) -> None:
        """Go one step further with the batch in hand, or take one."""
        self.turn = self.turn or self._turn()
        if next(self.turn, None) is None:
            self.turn = None

    def _turn(self) -> Iterator[str]:
        """Batches, as long as the store was sent the next one while the one before it was decided."""
        world, pause = self._world, self._world.plan.pause
        if not self.keeper.ready and not self.keeper.recover(world.clock() + world.rng.choice([0.003, 0.02])) and pause:
            return
        batch = self._take(self._poll())
        if batch is None:
            return
        yield "polled"
        while batch is not None:
            enriched = self.keeper.enrich(
                batch.decoded.batch, batch.spans, patience_s=0.05, labels=batch.decoded.labels, sent=batch.sent
            )
            if enriched is None and pause:
                self._rewind()
                return
            yield "applied"
            ahead = self._look_ahead()
            yield "sent" if ahead else "not ahead"
            outcomes = self._outcomes(batch.messages, batch.decoded, enriched)
            runs, timeline = [] if enriched is None else entries(enriched.recorded), self.line.timeline
            if not world.plan.exactly_once:
                world.kafka.visible += outcomes
                world.truth.journal(runs, timeline)
                outcomes = []
            yield "produced"
            if ahead is not None and ahead.sent is not None and world.rng.random() < 0.5:
                ahead.sent.look()
                yield "looked"
            known = self._commit(batch, outcomes, runs, timeline)
            yield "committed"
            if not known:
                if ahead is not None and ahead.sent is not None:
                    self.keeper.forget(ahead.sent)
                self._rewind()
                return
            batch = ahead

    def _look_ahead(self) -> Taken | None:
        """The next batch, sent to the store already. To poll for it is to be asked for partitions."""
        world = self._world
        if world.rng.random() < 0.5 or not self.keeper.ready:
            return None
        if self.is_member and world.rng.random() < 0.1:
            world.rebalance_under(self)
        ahead = self._take(self._poll())
        if ahead is None:
            return None
        return replace(ahead, sent=self.keeper.send(ahead.decoded.batch, ahead.spans, ahead.decoded.labels))

    def _commit(
        self, batch: Taken, outcomes: Sequence[Outcome], runs: Sequence[JournalEntry], timeline: Timeline
    ) -> bool:
        """Whether the batch was committed: under the membership that took it, or of each what is still ours."""
        world = self._world
        kept = [span for span in batch.spans if self._turns.get(source_of(span)) == batch.turns[source_of(span)]]
        if world.plan.exactly_once:
            known = world.commit(batch.generation, batch.spans, outcomes, lambda: world.truth.journal(runs, timeline))
        else:
            known = world.commit(self._generation, kept)
        if known:
            for span in kept:
                self.position[source_of(span)] = self._committed[source_of(span)] = span.end
        return known

    def _poll(self) -> list[Sent]:
        rng, kafka = self._world.rng, self._world.kafka
        sources = [source for source in sorted(self._taken) if rng.random() < 0.7]
        return in_log_order(  # type: ignore[return-value]  # it gives back what it was given
            [
                sent
                for source in sources
                for sent in kafka.read(source, self._taken[source], rng.randint(1, self._world.max_batch))
            ],
            LABELS,
        )

    def _take(self, messages: Sequence[Sent]) -> Taken | None:
        """What these records cover, in their order, and as whom we took it."""
        last = {message.source: message.offset() for message in messages}
        if not last:
            return None
        spans = tuple(
            Span(*source, self._taken[source], offset + 1, self._committed[source], labels=source[0] == LABELS)
            for source, offset in last.items()
        )
        for span in spans:
            self._taken[source_of(span)] = span.end
        return Taken(messages, self._decoder.decode(messages), spans, self._generation, dict(self._turns))

    def _rewind(self) -> None:
        """The outcome is unknown or the batch was given up: join again if we were fenced, and go back."""
        if self._generation != self._world.kafka.generation:
            self._world.join(self)
            return
        for source in self.position:
            start = self._world.kafka.committed.get(source, 0)
            self.position[source] = self._taken[source] = self._committed[source] = start

    def _outcomes(self, messages: Sequence[Sent], decoded: Decoded, enriched: Enriched | None) -> list[Outcome]:
        dead = {(each.message.topic(), each.message.partition(), each.message.offset()) for each in decoded.rejected}
        outcomes = [
            Outcome(sent.at, "dead" if sent.at in dead else "label")
            for sent in messages
            if sent.at in dead or sent.topic() == LABELS
        ]
        batch = decoded.batch
        places = [(PAYMENTS, *at) for at in zip(batch.partition.tolist(), batch.offset.tolist(), strict=True)]
        if enriched is None:
            return outcomes + [Outcome(at, "decision") for at in places]
        for row, at in enumerate(places):
            if not enriched.stale[row]:
                stamp = (int(enriched.shard[row]), int(enriched.epoch[row]), int(enriched.sequence[row]))
                kind = "duplicate" if enriched.repeated[row] else "decision"
                outcomes.append(Outcome(at, kind, stamp, tuple(enriched.values[row].tolist()), self.line.timeline))
        return outcomes

    def _journal(self, runs: Sequence[JournalEntry]) -> None:
        self._world.truth.journal(runs, self.line.timeline)


class World:
    """One history."""

    def __init__(self, plan: Plan, make_backend: MakeBackend, make_enricher: Callable[..., Enricher]) -> None:
        self.plan, self.make_enricher = plan, make_enricher
        self.rng = rng = random.Random(plan.seed)
        horizon_ms = rng.choice([1, 2, 4]) * DAY_MS
        self.limits = Limits(rng.randint(2, 6), horizon_ms, rng.choice([horizon_ms, DAY_MS // 2]), frauds=2)
        self.max_batch = rng.choice([1, 3, 8])
        self.backend = make_backend(plan.shards, self.limits)
        self.kafka = ModelKafka(topics(rng, partitions=rng.randint(1, 3), count=rng.randint(15, 40)))
        self.truth = Truth(Timeline([{} for _ in range(plan.shards)]))
        self._now_s = 0.0
        self._faults = 0.0
        self._cut: set[int] = set()
        self._snapshot: tuple[Any, Timeline] | None = None
        self.workers = [Worker(self, number) for number in range(rng.choice([1, 2, 3, 3]))]
        self._rebalance(self.workers)

    def clock(self) -> float:
        self._now_s += 0.001
        return self._now_s

    def fault(self, number: int) -> str:
        """What happens to a worker's call on its way: nothing, or it is lost before, after or while it arrives."""
        if number in self._cut:
            return "before"
        return self.rng.choice(["before", "between", "after"]) if self.rng.random() < self._faults else ""

    def commit(
        self,
        generation: int,
        spans: Sequence[Span],
        outcomes: Sequence[Outcome] = (),
        beside: Callable[[], None] = lambda: None,
    ) -> bool:
        """Whether the worker may go on; it may also be aborted, or be left without an answer.

        What becomes visible `beside` the outcomes does so with them.
        """
        luck = self.rng.random() if self._faults else 1.0
        if luck < 0.05 or not self.kafka.commit(generation, spans, outcomes):
            return False
        beside()
        return luck >= 0.1

    def rebalance_under(self, worker: Worker) -> None:
        """A rebalance in which a member that polls gives up partitions, the batch in its hands or not."""
        self._rebalance([other for other in self.workers if other.is_member], asked=worker)

    def join(self, worker: Worker) -> None:
        self._rebalance([other for other in self.workers if other.is_member or other is worker])

    def run(self) -> list[str]:
        """Live through trouble, then drain; give what is wrong afterwards."""
        self._faults = 0.05
        while not self.kafka.finished() and self.clock() < 400:
            self._now_s += 1.0
            self._event()
        self._faults = 0.0
        self._cut.clear()
        for _ in range(DRAIN_STEPS):
            if self.kafka.finished() and not any(worker.turn for worker in self.workers):
                break
            self._now_s += 1.0
            worker = self.rng.choice(self.workers)
            if not worker.is_member and worker.turn is None:
                self.join(worker)
            worker.step()
        return self.truth.wrong + violations(self.kafka, self.truth, self.limits, self.plan.exactly_once)

    def _event(self) -> None:
        rng, worker = self.rng, self.rng.choice(self.workers)
        luck = rng.random()
        if luck < 0.04:
            self._crash(worker)
        elif luck < 0.08:
            self._stall(worker)
        elif luck < 0.12:
            self._rebalance([other for other in self.workers if other.is_member])
        elif luck < 0.14:
            self.backend.sever()
        elif luck < 0.18:
            self._cut ^= {worker.number}
        elif luck < 0.19:
            self._cut = set() if self._cut else {other.number for other in self.workers}
        elif luck < 0.23 and self.plan.regressions:
            self._damage()
        elif luck < 0.28:
            self._compact()
        elif worker.is_member or worker.turn:
            worker.step()
        else:
            self.join(worker)

    def _crash(self, worker: Worker) -> None:
        worker.line.close()
        fresh = Worker(self, worker.number)
        self.workers[worker.number] = fresh
        self.join(fresh)

    def _stall(self, worker: Worker) -> None:
        """It misses its session: others take over; it wakes up later with its batch in hand."""
        rest = [other for other in self.workers if other.is_member and other is not worker]
        if rest:
            worker.is_member = False
            self._rebalance(rest)

    def _damage(self) -> None:
        """Lose all or one of the shards, take a copy, or put the copy back; a restart breaks every connection."""
        kafka, timeline = self.kafka, self.truth.timeline
        choice = self.rng.choice(["copy", "copy", "restore", "flush", "shard"])
        if choice == "copy":
            self._snapshot = (self.backend.snapshot(), Timeline(timeline.orders))
        elif choice == "restore" and self._snapshot:
            self.backend.restore(self._snapshot[0])
            self.backend.sever()
            owed = dict.fromkeys(range(self.plan.shards), kafka.committed)
            self.truth.timeline = Timeline(self._snapshot[1].orders, owed)
        elif choice in {"flush", "shard"}:
            shards = range(self.plan.shards)
            lost = set(shards) if choice == "flush" else {self.rng.choice(shards)}
            for shard in lost:
                self.backend.lose(shard)
            left = [{} if shard in lost else order for shard, order in enumerate(timeline.orders)]
            self.truth.timeline = Timeline(left, timeline.owed | dict.fromkeys(lost, kafka.committed))

    def _compact(self) -> None:
        """Merge a committed prefix of some log, whether it is worth it or not."""
        rng, views = self.rng, self.backend.look()
        shard = rng.randrange(len(views))
        if not views[shard].logs:
            return
        key = rng.choice(sorted(views[shard].logs))
        words = units_of(views[shard].logs[key])
        first = first_record(words, 0, len(words))
        least = first + raw_of_summary(words, 0) if has_summary(words, 0, len(words)) else first
        floors = views[shard].floors
        most = least
        for topic, partition, offset in places_of(words[least:].tobytes()):
            if offset >= floors.get((topic, partition), 0):
                break
            most += 1
        cut = rng.randint(least, most)
        if not cut:
            return
        replacement = Replacement(
            key, words[0].tobytes(), cut * UNIT_BYTES, summary(words[:cut], limits_array(self.limits)).tobytes()
        )
        nothing = np.zeros((0, UNIT_WORDS), np.int64)
        with closing(self.backend.connect()) as store:
            epochs = [position.epoch for position in store.positions()]
            store.apply([
                Append(epoch, (), [], [], nothing, [replacement] if number == shard else ())
                for number, epoch in enumerate(epochs)
            ])  # fmt: skip

    def _rebalance(self, members: Sequence[Worker], asked: Worker | None = None) -> None:
        """A new generation. A member with a batch in hand keeps what it has: it is not `asked` before it polls."""
        kafka, rng = self.kafka, self.rng
        kafka.generation += 1
        mine: dict[int, set[Source]] = {member.number: set() for member in members}
        for source in kafka.log:
            owner = next(
                (m for m in members if m is not asked and m.turn and m.is_member and source in m.position), None
            )
            mine[(owner or rng.choice(members)).number].add(source)
        for member in members:
            member.assigned(mine[member.number])


def source_of(span: Span) -> Source:
    return span.topic, span.partition


def run(plan: Plan, make_backend: MakeBackend, make_enricher: Callable[..., Enricher] = Enricher) -> list[str]:
    """Live through the history of this plan; the list of violated invariants, empty when all hold."""
    return World(plan, make_backend, make_enricher).run()
