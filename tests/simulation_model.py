"""The simulation's Kafka: topics of payments and of labels, a group with transactions, and the logs for catching up.

A model in plain Python. What it does not say is what the simulation does not depend on.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from consumer.decode import Message
from consumer.kafka.logreader import Extent
from features.event import Label, Payment
from features.store import Source, Span
from tests.simulation_truth import At, Stamp, Timeline

PAYMENTS = "payments"
LABELS = "labels"
MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS


@dataclass(frozen=True)
class Sent:
    """A record of either topic, as `consumer.decode.Message`; one without content is no JSON."""

    at: At
    record: Payment | Label | None
    time_ms: int = 0

    @property
    def source(self) -> Source:
        return self.at[:2]

    @property
    def keys(self) -> dict[str, bytes]:
        """The logs that it belongs into, by entity."""
        if self.record is None:
            return {}
        ids = {"card": self.record.card_id, "merchant": self.record.merchant_id, "device": self.record.device_id}
        return {entity: f"{entity[0]}:{name}".encode() for entity, name in ids.items() if name is not None}

    def topic(self) -> str:
        return self.at[0]

    def partition(self) -> int:
        return self.at[1]

    def offset(self) -> int:
        return self.at[2]

    def key(self) -> bytes | None:
        return None

    def value(self) -> bytes | None:
        return b"?" if self.record is None else msgspec.json.encode(self.record)

    def headers(self) -> list[tuple[str, bytes | None]] | None:
        return None

    def timestamp(self) -> tuple[int, int]:
        return 1, self.time_ms


@dataclass(frozen=True)
class Outcome:
    """What became of one record: `decision`, `duplicate`, `label` or `dead`.

    The stamp is that of the card's shard. A decision without a timeline had no features.
    """

    at: At
    kind: str
    stamp: Stamp | None = None
    values: tuple[float, ...] = ()
    timeline: Timeline | None = None


@dataclass
class ModelKafka:
    """Partitions, committed offsets, members with a generation, and what a read_committed reader sees."""

    log: dict[Source, list[Sent]]
    visible: list[Outcome] = field(default_factory=list)
    committed: dict[Source, int] = field(default_factory=dict)
    generation: int = 0

    def end(self, source: Source) -> int:
        return self.log[source][-1].offset() + 1 if self.log[source] else 0

    def read(self, source: Source, start: int, limit: int) -> list[Sent]:
        return [sent for sent in self.log[source] if sent.offset() >= start][:limit]

    def finished(self) -> bool:
        return all(self.committed.get(source, 0) == self.end(source) for source in self.log)

    def commit(self, generation: int, spans: Iterable[Span], outcomes: Sequence[Outcome] = ()) -> bool:
        """Offsets, and outcomes with them, or nothing at all: a member of an older generation is fenced."""
        if generation != self.generation:
            return False
        self.visible += outcomes
        self.committed.update({(span.topic, span.partition): span.end for span in spans})
        return True


class CatchUpLog:
    """`consumer.state.Log` over the model, a few records at a time."""

    def __init__(self, kafka: ModelKafka, rng: random.Random) -> None:
        self._kafka, self._rng = kafka, rng

    def extents(self) -> Mapping[Source, Extent]:
        kafka = self._kafka
        return {source: Extent(0, kafka.end(source), kafka.committed.get(source)) for source in kafka.log}

    def read(self, source: Source, start: int, end: int, limit: int, deadline_s: float) -> tuple[list[Message], int]:
        few = min(limit, self._rng.randint(1, 5))
        there: list[Message] = [sent for sent in self._kafka.read(source, start, limit) if sent.offset() < end]
        taken = there[:few]
        return taken, end if taken == there else taken[-1].offset() + 1


def topics(rng: random.Random, *, partitions: int, count: int) -> dict[Source, list[Sent]]:
    """Payments and what becomes known of some of them, in so many partitions of the payments.

    Cards stay in their partition, merchants and devices do not. Payments are late, repeated, broken; labels come for
    unknown payments, twice, and with another verdict; offsets have holes. Time leaps, so that much is forgotten.
    """
    labels = rng.choice([1, 1, 2])
    log: dict[Source, list[Sent]] = {(PAYMENTS, number): [] for number in range(partitions)}
    log |= {(LABELS, number): [] for number in range(labels)}
    next_offset = {source: rng.choice([0, 0, 3]) for source in log}
    known: list[Payment] = []
    now_ms = 1_750_000_000_000
    for number in range(count):
        now_ms += rng.choice([0, 1, 1_000, 3 * MINUTE_MS, HOUR_MS, 6 * HOUR_MS, 30 * HOUR_MS])
        payment = _payment(rng, number, now_ms, known)
        records: list[Payment | Label] = [payment]
        known.append(payment)
        if rng.random() < 0.4:
            records.append(_label(rng, rng.choice(known[-8:]), now_ms))
        for record in records:
            is_payment = isinstance(record, Payment)
            card = int(record.card_id[-1])
            source = (PAYMENTS, card % partitions) if is_payment else (LABELS, card % labels)
            broken = rng.random() < 0.04
            log[source].append(Sent((*source, next_offset[source]), None if broken else record, now_ms))
            next_offset[source] += rng.choice([1, 1, 1, 1, 1, 2])
    return log


def _payment(rng: random.Random, number: int, now_ms: int, known: Sequence[Payment]) -> Payment:
    card = f"card{rng.randrange(4)}"
    earlier = [payment.event_id for payment in known if payment.card_id == card]
    return Payment(
        event_id=rng.choice(earlier[-4:]) if earlier and rng.random() < 0.15 else f"e{number}",
        event_time=now_ms - rng.choice([0, 0, 0, 0, MINUTE_MS, 2 * HOUR_MS, 40 * HOUR_MS]),
        card_id=card,
        merchant_id=f"shop{rng.randrange(2)}",
        amount_minor=rng.randrange(1, 10_000),
        currency="EUR",
        device_id=rng.choice([None, "d0", "d1"]),
        country=rng.choice([None, "SE", "US"]),
    )


def _label(rng: random.Random, payment: Payment, now_ms: int) -> Label:
    return Label(
        event_id=rng.choice([payment.event_id] * 4 + ["unknown"]),
        card_id=payment.card_id,
        merchant_id=payment.merchant_id,
        event_time=payment.event_time,
        label="fraud" if rng.random() < 0.75 else "genuine",
        labelled_at=now_ms,
        source="issuer",
        device_id=rng.choice([None, payment.device_id]),
    )
