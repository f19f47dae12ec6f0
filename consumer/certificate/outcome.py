"""What a certificate says: counts, digests by partition, and the first differences."""

from __future__ import annotations

import hashlib
import math
import platform
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xgboost

from consumer import __version__
from consumer.certificate import told as t
from consumer.certificate.replayed import DEVICE, Remade
from consumer.records import alert_id
from features.event import Words
from models.policy import DECISIONS

EXAMPLES: Final = 20
_Example = tuple[int, str | None, str | None, str, Any, Any]  # offset, event, card, what, published, replayed

Mask = npt.NDArray[np.bool_]
Values = npt.NDArray[np.float32]


class Digest:
    """SHA-256 over rows of numbers, and over notes; the same however many of either come at a time."""

    def __init__(self) -> None:
        """Nothing yet."""
        self._rows, self._notes = hashlib.sha256(), hashlib.sha256()

    def add(self, rows: npt.NDArray[Any], notes: Iterable[tuple[int, str]] = ()) -> None:
        """Rows (n, ...), and notes on offsets: both by rising offset."""
        self._rows.update(np.ascontiguousarray(rows).tobytes())
        self._notes.update("".join(f"{offset} {note}\n" for offset, note in sorted(notes)).encode())

    def hexdigest(self) -> str:
        """Of both."""
        return hashlib.sha256(self._rows.digest() + self._notes.digest()).hexdigest()


@dataclass(slots=True)
class Partition:
    """What was found about one partition of the payments. Digests are SHA-256 over what was compared, by offset.

    Attributes:
        first, last: offsets of the first and the last decision that was compared; -1 for none.
        decisions: how many were compared.
        published, replayed: over offset, identity, score, decision, rules, the ids of alerts, and what else differs.
        features: over the replayed features of those that were decided with the state.
    """

    topic: str
    partition: int
    first: int = -1
    last: int = -1
    decisions: int = 0
    published: Digest = field(default_factory=Digest)
    replayed: Digest = field(default_factory=Digest)
    features: Any = field(default_factory=hashlib.sha256)

    def document(self) -> dict[str, Any]:
        """As JSON values."""
        plain = {name: getattr(self, name) for name in ("topic", "partition", "first", "last", "decisions")}
        return plain | {name: getattr(self, name).hexdigest() for name in ("published", "replayed", "features")}


@dataclass(frozen=True, slots=True)
class Span:
    """A run of payments of one partition, as they were read: their first place, and the offsets that it covers."""

    topic: str
    partition: int
    first: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Compared:
    """What the n decisions about a span's payments came out as, in the order of their offsets.

    Attributes:
        told: (n, told.WORDS) what was published.
        batch: of n rows, their payments.
        values: (n, features) as replayed.
        has_state: (n,) which were decided with features.
        remade: what they were made to.
        unverifiable: by why: (n,) which can't be compared.
        differs: by what: (n,) which differ in it.
        alerts_without_decision: offsets of alerts of payments that were approved, or have no decision.
        undecided: what became of payments without a decision.
        missing: offset, event and card of those that should have one.
    """

    span: Span
    told: Words
    batch: pa.RecordBatch
    values: Values
    has_state: Mask
    remade: Remade
    unverifiable: Mapping[str, Mask]
    differs: Mapping[str, Mask]
    alerts_without_decision: list[int]
    undecided: Mapping[str, int]
    missing: list[tuple[int, str, str]]


@dataclass(slots=True)
class Certificate:
    """What came out.

    Attributes:
        packer: numbered what the decisions say.
        decisions: how many there were.
        results: of them, how many are `equal`, `different`, `unverifiable`.
        differences: of those that differ, in what; one may differ in several things.
        unverifiable: of those, why.
        published_again: decisions that were published twice, word for word, as `at_least_once` allows.
        near, flipped: scores inside the band, and decisions that differ for that alone.
        payments: what became of those that have no decision.
        unread_alerts: alerts of payments that were not read.
        refused: how many `payments` and `labels` were left out, since the dead letters tell that they were refused.
        examples: the first differences, by partition and offset.
        flips: the first of those.
        bundles: digests of those that were replayed.
    """

    packer: t.Packer
    decisions: int = 0
    results: Counter[str] = field(default_factory=Counter)
    differences: Counter[str] = field(default_factory=Counter)
    unverifiable: Counter[str] = field(default_factory=Counter)
    published_again: int = 0
    near: int = 0
    flipped: int = 0
    payments: Counter[str] = field(default_factory=Counter)
    unread_alerts: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    examples: list[dict[str, Any]] = field(default_factory=list)
    flips: list[dict[str, Any]] = field(default_factory=list)
    bundles: list[str] = field(default_factory=list)
    _partitions: dict[tuple[str, int], Partition] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """`different` if anything is; else `unverifiable` if anything is; else `equal`."""
        if self.differences:
            return "different"
        unclear = self.results["unverifiable"] or self.payments["unverifiable"] or self.unread_alerts
        return "unverifiable" if unclear else "equal"

    @property
    def partitions(self) -> list[Partition]:
        """By topic and number."""
        return [self._partitions[key] for key in sorted(self._partitions)]

    def document(self) -> dict[str, Any]:
        """All of it, as JSON values."""
        return {
            "verdict": self.verdict,
            "decisions": self.decisions,
            **{name: self.results[name] for name in ("equal", "different", "unverifiable")},
            "differences": dict(self.differences),
            "why_unverifiable": dict(self.unverifiable),
            "published_again": self.published_again,
            "scores_inside_band": self.near,
            "flipped_inside_band": self.flipped,
            "payments_without_decision": dict(self.payments),
            "alerts_of_payments_not_read": self.unread_alerts,
            "refused_as_told": {name: count for name, count in self.refused.items() if count},
            "partitions": [each.document() for each in self.partitions],
            "first_difference": self.examples[0] if self.examples else None,
            "examples": self.examples,
            "flips": self.flips,
            "bundles": self.bundles,
            "made_with": {
                "fraudline": __version__,
                "xgboost": xgboost.__version__,
                "numpy": np.__version__,
                "machine": platform.machine(),
                "device": DEVICE,
            },
        }

    def not_verified(self, why: str, count: int) -> None:
        """So many decisions can't be compared."""
        if count:
            self.unverifiable[why] += count
            self.results["unverifiable"] += count

    def alerts_not_read(self, count: int) -> None:
        """So many alerts are of payments that were not read."""
        self.unread_alerts += count

    def account(self, compared: Compared) -> None:
        """Count, and add to the digests: a partition's spans in the order of their offsets."""
        span, told, remade = compared.span, compared.told, compared.remade
        key = (span.topic, span.partition)
        to = self._partitions.setdefault(key, Partition(*key))
        self.payments.update({name: count for name, count in compared.undecided.items() if count})
        self.differences["undecided"] += len(compared.missing)
        self.differences["alert"] += len(compared.alerts_without_decision)
        examples: list[_Example] = [
            (offset, event_id, card_id, "undecided", None, "a decision")
            for offset, event_id, card_id in compared.missing[:EXAMPLES]
        ]
        examples += [
            (offset, None, None, "alert", "an alert", None) for offset in compared.alerts_without_decision[:EXAMPLES]
        ]
        again = np.zeros(len(told), np.bool_)
        again[1:] = (told[1:] == told[:-1]).all(axis=1)
        self.published_again += int(again.sum())
        left = ~again
        self.decisions += int(left.sum())
        for why, mask in compared.unverifiable.items():
            self.not_verified(why, int((mask & left).sum()))
            left &= ~mask
        different = np.zeros(len(told), np.bool_)
        for what, mask in compared.differs.items():
            here = mask & left
            if here.any():
                self.differences[what] += int(here.sum())
                different |= here
        self.results["different"] += int(different.sum())
        self.results["equal"] += int((left & ~different).sum())
        self.near += int((remade.near & left).sum())
        self.flipped += int((remade.flipped & left).sum())
        to.decisions += int(left.sum())
        examples += self._told(compared, np.flatnonzero(different)[:EXAMPLES])
        self._tell(span, examples, self.examples)
        self._tell(span, self._told(compared, np.flatnonzero(remade.flipped & left)[:EXAMPLES]), self.flips)
        notes = [(offset, "undecided") for offset, _, _ in compared.missing]
        notes += [(offset, "alert of nobody") for offset in compared.alerts_without_decision]
        notes += [(offset, "different") for offset in told[different, t.OFFSET].tolist()]  # in whatever it may be
        self._digest(compared, np.flatnonzero(left), to, notes)
        self.differences += Counter()  # without those that are none

    def _digest(
        self, compared: Compared, rows: npt.NDArray[np.intp], to: Partition, notes: list[tuple[int, str]]
    ) -> None:
        told, remade = compared.told[rows], compared.remade
        if len(told):
            to.first, to.last = int(told[0, t.OFFSET]) if to.first < 0 else to.first, int(told[-1, t.OFFSET])
        of_payments = np.asarray(compared.batch.column("identity"))[rows]
        ids = self._alert_ids(compared.batch, rows, (told[:, t.DECISION] > 0) | (remade.decision[rows] > 0))
        for digest, identity, scores, decision, rules, more in (
            (to.published, told[:, t.IDENTITY], t.floats(told, t.SCORE), told[:, t.DECISION], told[:, t.RULES], []),
            (to.replayed, of_payments, remade.scores[rows], remade.decision[rows], remade.rules[rows], notes),
        ):
            bits = _plain(scores).view(np.int32)
            fired = [
                (place, repr(self.packer.rules[rules[place]])) for place in np.flatnonzero(rules != t.QUIET).tolist()
            ]
            alerted = [(place, ids[place]) for place in np.flatnonzero(decision > 0).tolist()]
            said = [(int(told[place, t.OFFSET]), text) for place, text in (*fired, *alerted)]
            digest.add(np.column_stack((told[:, t.OFFSET], identity, bits, decision)).astype("<i8"), [*said, *more])
        to.features.update(_plain(compared.values[rows[compared.has_state[rows]]]).tobytes())

    def _alert_ids(self, batch: pa.RecordBatch, rows: npt.NDArray[np.intp], alerted: Mask) -> dict[int, str]:
        """By place in `rows`, of those that are not approved."""
        places = np.flatnonzero(alerted)
        some = batch.take(pa.array(rows[places]))
        columns = (some.column(name).to_pylist() for name in ("card_id", "event_id", "event_time"))
        return {
            place: alert_id(card, event, time)
            for place, card, event, time in zip(places.tolist(), *columns, strict=True)
        }

    def _told(self, compared: Compared, rows: npt.NDArray[np.intp]) -> list[_Example]:
        """These decisions, with both sides."""
        found: list[_Example] = []
        for row in rows.tolist():
            what = next((name for name, mask in compared.differs.items() if mask[row]), "score inside the band")
            event_id, card_id = (compared.batch.column(name)[row].as_py() for name in ("event_id", "card_id"))
            found.append((int(compared.told[row, t.OFFSET]), event_id, card_id, what, *self._sides(compared, row)))
        return found

    def _tell(self, span: Span, examples: list[_Example], to: list[dict[str, Any]]) -> None:
        """Add those that come first, as far as there is room."""
        for offset, event_id, card_id, what, published, replayed in sorted(examples, key=itemgetter(0)):
            if len(to) == EXAMPLES:
                return
            place = {"topic": span.topic, "partition": span.partition, "offset": offset}
            who = {"event_id": event_id, "card_id": card_id}
            to.append(place | who | {"what": what, "published": published, "replayed": replayed})

    def _sides(self, compared: Compared, row: int) -> tuple[dict[str, Any], dict[str, Any]]:
        told, remade, packer = compared.told[row : row + 1], compared.remade, self.packer
        case = packer.cases[int(told[0, t.CASE])]
        review, block, score = (_number(t.floats(told, column)[0]) for column in (t.REVIEW, t.BLOCK, t.SCORE))
        published = {
            "decision": DECISIONS[int(told[0, t.DECISION])],
            "score": score,
            "rules": packer.rules[int(told[0, t.RULES])],
            "tier": case.tier,
            "model": case.model,
            "review_threshold": review,
            "block_threshold": block,
        }
        replayed = {
            "decision": DECISIONS[int(remade.decision[row])],
            "score": _number(remade.scores[row]),
            "rules": packer.rules[int(remade.rules[row])],
        }
        return published, replayed


def _number(value: np.float32) -> float | None:
    return None if math.isnan(value) else float(value)


def _plain(values: Values) -> Values:
    """The same with one kind of NaN."""
    return np.where(np.isnan(values), np.float32(np.nan), values).astype("<f4")
