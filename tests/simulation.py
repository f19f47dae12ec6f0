"""Random histories of workers that crash, stall and lose their store, and the invariants that must hold after each.

The enricher, the state keeper, the decoder and the stores are the real ones. A history is a function of its seed.
Invariants, after everything is healthy again and drained:

1. every record has exactly one visible outcome (exactly_once) or at least one (at_least_once);
2. the state holds every partition in order and without a gap, and once lost it is not used before it has caught up
   with what was committed; the features of every decision that had any equal the naive fold of the payments in the
   order recorded by the state that it saw, as does every verdict on a repeated event id; what is journaled is what was
   recorded, and a stamp names one payment;
3. decisions of a partition become visible in offset order, and the committed offset is the end of the log.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from consumer.decode import Decoder, in_log_order
from consumer.journal import entries
from consumer.records import JournalEntry
from consumer.state import StateKeeper
from consumer.telemetry import Telemetry
from features.catalog import Catalog
from features.enrich import Enriched, Enricher
from features.event import Payment, PaymentBatch
from features.store import Span
from tests.simulation_invariants import FEATURES, violations
from tests.simulation_model import TOPIC, Backend, CatchUpLog, Line, ModelKafka, Outcome, Sent, Timeline, Truth

DRAIN_STEPS = 3_000
_TELEMETRY = Telemetry()  # building one is dearer than a whole history


@dataclass(frozen=True)
class Plan:
    """What a history is allowed to do."""

    seed: int
    exactly_once: bool = True
    pause: bool = False
    regressions: bool = False

    @classmethod
    def of(cls, seed: int) -> Plan:
        """Every kind in turn: both deliveries, both outage policies, a store that goes back in time or not."""
        return cls(seed, exactly_once=seed % 4 != 1, pause=seed % 3 == 0, regressions=seed % 2 == 0)


class Worker:
    """One processor: what it knows of its partitions, and the batch in its hands, a step at a time."""

    def __init__(self, world: World, number: int) -> None:
        self._world, self.number = world, number
        self.line = Line(world.backend.connect(), world.truth, lambda: world.fault(number))
        enricher = world.make_enricher(Catalog(FEATURES, world.keep), self.line)
        self._decoder = Decoder(max_payment_bytes=10_000, max_future_ms=10**12)
        self.keeper = StateKeeper(
            topic=TOPIC,
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
        self.position: dict[int, int] = {}
        self._committed: dict[int, int] = {}
        self.turn: Iterator[str] | None = None

    def assigned(self, partitions: set[int]) -> None:
        """Keep what was ours already, unless we were thought dead; begin at the committed offset of what is new."""
        kafka = self._world.kafka
        if not self.is_member:
            self.position.clear()
            self._committed.clear()
        self._generation, self.is_member = kafka.generation, True
        for known in (self.position, self._committed):
            for partition in set(known) - partitions:
                del known[partition]
            for partition in partitions - set(known):
                known[partition] = kafka.committed.get(partition, 0)

    def step(self) -> None:
        """Go one step further with the batch in hand, or take one."""
        self.turn = self.turn or self._turn()
        if next(self.turn, None) is None:
            self.turn = None

    def _turn(self) -> Iterator[str]:
        world, pause = self._world, self._world.plan.pause
        if not self.keeper.ready and not self.keeper.recover(world.clock() + world.rng.choice([0.003, 0.02])) and pause:
            return
        messages = self._poll()
        if not messages:
            return
        yield "polled"
        last = {message.partition(): message.offset() for message in messages}
        spans = tuple(
            Span(TOPIC, partition, self.position[partition], offset + 1, self._committed[partition])
            for partition, offset in last.items()
        )
        batch = self._decoder.decode(messages).batch
        enriched = self.keeper.enrich(batch, spans, patience_s=0.05)
        if enriched is None and pause:
            self._rewind()
            return
        yield "applied"
        outcomes = self._outcomes(messages, batch, enriched)
        if not world.plan.exactly_once:
            world.kafka.visible += outcomes
            outcomes = []
        yield "produced"
        known = world.commit(self._generation, spans, outcomes)
        yield "committed"
        if not known:
            self._rewind()
            return
        for span in spans:
            self.position[span.partition] = self._committed[span.partition] = span.end

    def _poll(self) -> list[Sent]:
        rng, kafka = self._world.rng, self._world.kafka
        partitions = [partition for partition in self.position if rng.random() < 0.7]
        return in_log_order(  # type: ignore[return-value]  # it gives back what it was given
            [
                sent
                for p in partitions
                for sent in kafka.read(p, self.position[p], rng.randint(1, self._world.max_batch))
            ]
        )

    def _rewind(self) -> None:
        """The outcome is unknown or the batch was given up: join again if we were fenced, and go back."""
        if self._generation != self._world.kafka.generation:
            self._world.join(self)
            return
        for partition in self.position:
            self.position[partition] = self._committed[partition] = self._world.kafka.committed.get(partition, 0)

    def _outcomes(self, messages: Sequence[Sent], batch: PaymentBatch, enriched: Enriched | None) -> list[Outcome]:
        outcomes = [Outcome(sent.at, "dead") for sent in messages if sent.payment is None]
        places = list(zip(batch.partition.tolist(), batch.offset.tolist(), strict=True))
        if enriched is None:
            return outcomes + [Outcome(at, "decision") for at in places]
        self._journal(entries(batch, enriched, (Span(TOPIC, 0, 0, 0, 0),)))
        for row, at in enumerate(places):
            if not enriched.stale[row]:
                stamp = (int(enriched.epoch[row]), int(enriched.sequence[row]))
                kind = "duplicate" if enriched.repeated[row] else "decision"
                outcomes.append(Outcome(at, kind, stamp, tuple(enriched.values[row].tolist()), self.line.timeline))
        return outcomes

    def _journal(self, runs: Sequence[JournalEntry]) -> None:
        order = self.line.timeline.order
        for run in runs:
            for i in range(run.count):
                if order[run.partition, run.offset + i] != (run.epoch, run.sequence + i):
                    self._world.truth.wrong.append("a journaled order is not the recorded one")


class World:
    """One history."""

    def __init__(
        self, plan: Plan, make_backend: Callable[[int], Backend], make_enricher: Callable[..., Enricher]
    ) -> None:
        self.plan, self.make_enricher = plan, make_enricher
        self.rng = rng = random.Random(plan.seed)
        self.keep, self.max_batch = rng.randint(2, 6), rng.choice([1, 3, 8])
        self.backend = make_backend(self.keep)
        self.kafka = ModelKafka(_payments(rng, partitions=rng.randint(1, 3), count=rng.randint(15, 45)))
        self.truth = Truth()
        self.restored = False
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
        """What happens to a worker's call on its way: nothing, lost before it arrives, or after."""
        if number in self._cut:
            return "before"
        return self.rng.choice(["before", "after"]) if self.rng.random() < self._faults else ""

    def commit(self, generation: int, spans: Sequence[Span], outcomes: Sequence[Outcome]) -> bool:
        """Whether the worker may go on; it may also be aborted, or be left without an answer."""
        luck = self.rng.random() if self._faults else 1.0
        return luck >= 0.05 and self.kafka.commit(generation, spans, outcomes) and luck >= 0.1

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
        return self.truth.wrong + violations(self.kafka, self.keep, self.plan.exactly_once, self.restored)

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
        """Flush the store, take a copy of it, or put the copy back; a restart breaks every connection."""
        choice = self.rng.choice(["copy", "copy", "restore", "flush", "flush"])
        if choice == "copy":
            self._snapshot = (self.backend.snapshot(), Timeline(self.truth.timeline.order))
        elif choice == "restore" and self._snapshot:
            self.restored = True
            self.backend.restore(self._snapshot[0])
            self.backend.sever()
            self.truth.timeline = Timeline(self._snapshot[1].order, self.kafka.committed)
        elif choice == "flush":
            self.backend.flush()
            self.truth.timeline = Timeline(owed=self.kafka.committed)

    def _rebalance(self, members: Sequence[Worker]) -> None:
        """A new generation. A member with a batch in hand keeps what it has: it is not asked before it polls."""
        kafka, rng = self.kafka, self.rng
        kafka.generation += 1
        mine: dict[int, set[int]] = {member.number: set() for member in members}
        for partition in range(len(kafka.log)):
            owner = next((m for m in members if m.turn and m.is_member and partition in m.position), None)
            mine[(owner or rng.choice(members)).number].add(partition)
        for member in members:
            member.assigned(mine[member.number])


def run(
    plan: Plan, make_backend: Callable[[int], Backend], make_enricher: Callable[..., Enricher] = Enricher
) -> list[str]:
    """Live through the history of this plan; the list of violated invariants, empty when all hold."""
    return World(plan, make_backend, make_enricher).run()


def _payments(rng: random.Random, *, partitions: int, count: int) -> list[list[Sent]]:
    """Cards that stay in their partition, merchants and devices that do not; late, repeated, broken records; holes."""
    log: list[list[Sent]] = [[] for _ in range(partitions)]
    next_offset = [rng.choice([0, 0, 3]) for _ in range(partitions)]
    ids: list[tuple[str, str]] = []
    now_ms = 1_750_000_000_000
    for number in range(count):
        now_ms += rng.choice([0, 1, 1_000, 3_600_000, 20_000_000, -7_200_000])
        card = f"card{rng.randrange(4)}"
        earlier = [event_id for other, event_id in ids if other == card]
        event_id = rng.choice(earlier) if earlier and rng.random() < 0.1 else f"e{number}"
        ids.append((card, event_id))
        partition = int(card[-1]) % partitions
        payment = Payment(
            event_id=event_id,
            event_time=now_ms,
            card_id=card,
            merchant_id=f"shop{rng.randrange(2)}",
            amount_minor=rng.randrange(1, 10_000),
            currency="EUR",
            device_id=rng.choice([None, "d0", "d1"]),
            country=rng.choice([None, "SE", "US"]),
        )
        log[partition].append(Sent((partition, next_offset[partition]), None if rng.random() < 0.04 else payment))
        next_offset[partition] += rng.choice([1, 1, 1, 1, 1, 2])
    return log
