"""A history with known traps: what each record is, and so what has to become of it, is known when it is made.

The payments are the simulator's: late and out of order, sent twice, and damaged in every way that it knows. Laid
between them are payments of one hot card, payments dated in the future, records without value or too large, a card
number and a secret where none should be, and labels, some of them reversed later. The simulator's frauds come late in a
history, so some of the hot card's payments are labelled as fraud from the beginning on: in the features of its later
ones that has to show.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Final, Literal

from consumer.simulator import Simulation, simulate
from features.catalog import DAY_MS
from features.event import Label

Kind = Literal[
    "payment", "duplicate", "hot", "malformed", "future", "empty", "too large", "label", "reversal", "bad label"
]
DUE: Final[dict[Kind, str]] = {
    "payment": "decision",
    "hot": "decision",
    "duplicate": "duplicate",
    "malformed": "dead letter",
    "future": "dead letter",
    "empty": "dead letter",
    "too large": "dead letter",
    "label": "nothing",
    "reversal": "nothing",
    "bad label": "dead letter",
}
"""What has to become of a record. A duplicate is decided again only if the first was decided without the state."""

LATE, DUPLICATE, MALFORMED, FRAUD = 0.03, 0.02, 0.01, 0.01
HOT, FUTURE, EMPTY, TOO_LARGE, NUMBERED, TELLING = 0.05, 0.002, 0.001, 0.0005, 0.001, 0.02
REVERSED, BAD_LABEL = 0.2, 0.02  # of the labels
DAYS, AGE_DAYS = 30, 90  # that the payments span, and between the first of them and now: chargebacks come late
LABEL_DELAYS: Final = (50, 2_000)  # records between a payment and its label
HOT_LABELLED, HOT_DELAYS = 0.2, (20, 200)  # of the hot card's payments, and as soon as that
REPORTED_MS: Final = 3_600_000  # after the payment
HOT_CARD: Final = "card_hot"
LARGEST: Final = 900_000  # bytes that brokers take


@dataclass(frozen=True, slots=True)
class Record:
    """A record to be sent, and what it is. `event_id` is empty where there is none to be found in it."""

    role: Literal["payments", "labels"]
    key: bytes
    value: bytes | None
    kind: Kind
    event_id: str = ""

    @property
    def due(self) -> str:
        """See `DUE`."""
        return DUE[self.kind]


@dataclass(frozen=True, slots=True)
class Canaries:
    """What must never be seen in a log, a metric, an alert, a decision or a header: of one run alone."""

    card_number: str
    secret: str

    @classmethod
    def of(cls, run: str) -> Canaries:
        """Those of a run, the same each time; the number passes for a card's, in a range that no bank gives out."""
        rng = random.Random(run)  # noqa: S311  it is to be the same again
        digits = "999900" + "".join(str(rng.randrange(10)) for _ in range(9))
        doubled = [int(digit) * (2 - place % 2) for place, digit in enumerate(reversed(digits))]
        check = -sum(each - 9 if each > 9 else each for each in doubled) % 10
        return cls(f"{digits}{check}", f"canary-{rng.getrandbits(96):024x}")


def history(
    payments: int, *, seed: int, now_ms: int, canaries: Canaries, max_payment_bytes: int, max_future_ms: int
) -> list[Record]:
    """Records of so many payments in the order in which they are sent, traps on top: the same for the same arguments.

    Args:
        payments: of the simulator.
        seed: another seed, another history, with other event ids.
        now_ms: the present; all but what is dated in the future lies well before it.
        canaries: are laid out in it.
        max_payment_bytes: what is larger is refused.
        max_future_ms: what is dated later than that from its Kafka timestamp on is refused.
    """
    simulated = simulate(
        Simulation(
            payments=payments,
            seed=seed,
            days=DAYS,
            start_ms=now_ms // DAY_MS * DAY_MS - AGE_DAYS * DAY_MS,
            late=LATE,
            duplicate=DUPLICATE,
            malformed=MALFORMED,
            fraud_rate=FRAUD,
        )
    )
    rng = random.Random(seed)  # noqa: S311  the same
    places: dict[str, int] = {}  # of payments, by event id
    laid: list[tuple[float, Record]] = []
    rows, damage = simulated.row.tolist(), simulated.damage.tolist()
    for place, (key, value, _) in enumerate(simulated.records()):
        event_id = f"e{seed:x}-{rows[place]:x}"
        if damage[place]:
            laid.append((place, Record("payments", key, value, "malformed")))
        elif event_id in places:
            laid.append((place, Record("payments", key, value, "duplicate", event_id)))
        else:
            is_first = not places  # however short the history, canaries are to lie in it
            places[event_id] = place
            told = _with(value, note=canaries.secret) if rng.random() < TELLING or is_first else value
            laid.append((place, Record("payments", key, told, "payment", event_id)))
            laid += (
                (place + rng.random(), each)
                for each in _traps(rng, key, value, event_id, canaries, max_payment_bytes, now_ms + max_future_ms)
            )
            if is_first:
                laid.append((place, _numbered(key, value, event_id, canaries)))
    hot = {record.event_id: (int(place), record) for place, record in laid if record.kind == "hot"}
    chosen = [record for number, (_, record) in enumerate(hot.values()) if not number or rng.random() < HOT_LABELLED]
    places |= {event_id: place for event_id, (place, _) in hot.items()}
    end = len(laid)
    laid += _labels(rng, ((key, value) for key, value, _ in simulated.labels()), places, end, LABEL_DELAYS)
    laid += _labels(rng, map(_reported, chosen), places, end, HOT_DELAYS)
    laid.sort(key=itemgetter(0))
    return [record for _, record in laid]


def _traps(
    rng: random.Random, key: bytes, value: bytes, event_id: str, canaries: Canaries, largest: int, future_ms: int
) -> Iterator[Record]:
    """What is laid behind a payment, made of it."""
    if rng.random() < HOT:
        changed = _with(value, card_id=HOT_CARD, event_id=f"h{event_id}")
        yield Record("payments", HOT_CARD.encode(), changed, "hot", f"h{event_id}")
    if rng.random() < FUTURE:
        changed = _with(value, event_id=f"f{event_id}", event_time=future_ms + DAY_MS)
        yield Record("payments", key, changed, "future", f"f{event_id}")
    if rng.random() < EMPTY:
        yield Record("payments", key, None, "empty")
    if rng.random() < TOO_LARGE and largest < LARGEST:
        changed = _with(value, event_id=f"l{event_id}", note="x" * largest)
        yield Record("payments", key, changed, "too large", f"l{event_id}")
    if rng.random() < NUMBERED:
        yield _numbered(key, value, event_id, canaries)


def _numbered(key: bytes, value: bytes, event_id: str, canaries: Canaries) -> Record:
    changed = _with(value, event_id=f"n{event_id}", card_id=canaries.card_number, note=canaries.secret)
    return Record("payments", key, changed, "malformed", f"n{event_id}")


def _labels(
    rng: random.Random,
    drawn: Iterable[tuple[bytes, bytes]],
    places: Mapping[str, int],
    end: int,
    delays: tuple[int, int],
) -> Iterator[tuple[float, Record]]:
    """Each label a while behind its payment, whatever its own time: labels come when they come."""
    for key, value in drawn:
        label = json.loads(value)
        event_id = label["event_id"]
        later = places[event_id] + rng.randrange(*delays)
        place = min(later, max(end - 1, places[event_id])) + rng.random()
        if rng.random() < BAD_LABEL:
            yield place, Record("labels", key, _with(value, label="maybe"), "bad label", event_id)
            continue
        yield place, Record("labels", key, value, "label", event_id)
        if label["label"] == "fraud" and rng.random() < REVERSED:
            taken_back = _with(value, label="genuine", labelled_at=label["labelled_at"] + 1, source="analyst")
            yield place + rng.randrange(1, LABEL_DELAYS[0]), Record("labels", key, taken_back, "reversal", event_id)


def _reported(payment: Record) -> tuple[bytes, bytes]:
    """A label that calls a payment fraud, with its key."""
    held = json.loads(payment.value or b"{}")
    named = {name: held[name] for name in Label.__struct_fields__ if name in held}
    told = {"label": "fraud", "labelled_at": held["event_time"] + REPORTED_MS, "source": "chargeback"}
    return payment.key, json.dumps(named | told, separators=(",", ":")).encode()


def _with(value: bytes, **changes: Any) -> bytes:
    return json.dumps(json.loads(value) | changes, separators=(",", ":")).encode()
