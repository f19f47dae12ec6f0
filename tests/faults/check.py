"""The judge: is what a read_committed reader saw what the logs of payments and labels demand? It asserts nothing.

It shares no logic with the product. Records are decoded by `json`, the order of every shard is read from the journal,
features come from the naive folds of `tests.oracle` (see `timelines`), and a full decision's score is the checksum of
exactly those features.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from features.catalog import DEFAULT
from features.event import Label, Payment
from tests import oracle
from tests.faults.scoring import EXACT, PAYMENT_ONLY, decision_of, score_of
from tests.faults.timelines import At, Epoch, Folds, Sources, Timeline, Which, shards_of, timelines_of
from tests.services.reader import Seen

WITHOUT = "no_features"  # the tier
REQUIRED = {"event_id": str, "event_time": int, "card_id": str, "merchant_id": str}
REQUIRED_OF_PAYMENTS = REQUIRED | {"amount_minor": int, "currency": str}
REQUIRED_OF_LABELS = REQUIRED | {"label": str, "labelled_at": int, "source": str}


@dataclass(frozen=True, slots=True)
class Law:
    """What is demanded.

    Attributes:
        exactly_once: one outcome a record; otherwise at least one.
        equal_copies: copies of a decision are equal (at_least_once while the state does not regress).
        degrades: payments may be decided without features for a while, since the store was away; but the newest of each
            partition may not: by then the state is trusted again. Otherwise none may.
    """

    exactly_once: bool
    equal_copies: bool = True
    degrades: bool = False


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything there is: the source records, what was published for them, and the group's progress.

    Attributes:
        inputs: all payments and labels.
        labels_topic: the topic whose records are labels.
        committed: by topic and partition, like `ends`.
        shards: of the state.
    """

    inputs: Sequence[Seen]
    labels_topic: str
    decisions: Sequence[Seen]
    alerts: Sequence[Seen]
    dead_letters: Sequence[Seen]
    journal: Sequence[Seen]
    committed: dict[tuple[str, int], int]
    ends: dict[tuple[str, int], int]
    shards: int = 1

    def sources(self) -> Sources:
        """Every source record: the payment or label, or None where it is neither."""
        return {
            (record.topic, record.partition, record.offset): (
                _label(record) if record.topic == self.labels_topic else _payment(record)
            )
            for record in self.inputs
        }

    def epochs(self) -> dict[Which, Epoch]:
        """What the journal says, by shard and epoch, in the order in which it first names them."""
        found: dict[Which, Epoch] = {}
        for record in self.journal:
            entry = json.loads(record.value or b"")
            found.setdefault((entry["shard"], entry["epoch"]), Epoch()).take(entry)
        return found

    def timelines(self) -> tuple[list[Timeline], list[str]]:
        """The orders that the journal gives, in the order in which it first names them, and its contradictions."""
        return timelines_of(self.epochs())

    def lost(self) -> int:
        """How many records an epoch had numbered that the one after it did not take over: the state went back."""
        epochs = self.epochs()
        return sum(
            sequence >= epoch.since
            for (shard, _), epoch in epochs.items()
            if epoch.parent is not None and (shard, epoch.parent) in epochs
            for sequence, _ in epochs[shard, epoch.parent].entries
        )

    def unrecorded(self) -> int:
        """How many payments and labels a shard's newest timeline lacks, though a log of theirs lies there."""
        epochs = self.epochs()
        parents = {(shard, epoch.parent) for (shard, _), epoch in epochs.items()}
        newest = {each.shard: each for each in timelines_of(epochs)[0] if (each.shard, each.epoch) not in parents}
        known = {shard: timeline.sequence.keys() for shard, timeline in newest.items()}
        return sum(
            any(source not in known.get(shard, ()) for shard in shards_of(record, self.shards).values())
            for source, record in self.sources().items()
            if record is not None
        )


def violations(evidence: Evidence, law: Law) -> list[str]:
    """Everything that is wrong, one sentence each; empty when all invariants hold."""
    sources = evidence.sources()
    timelines, found = evidence.timelines()
    decisions: dict[At, list[dict[str, Any]]] = defaultdict(list)
    for record in evidence.decisions:
        decision = json.loads(record.value or b"")
        decisions[_at(decision["source"])].append(decision)
    full = {source for source, copies in decisions.items() if any(copy["tier"] == "full" for copy in copies)}
    folds = Folds(timelines, sources, full, evidence.shards)
    letters = Counter(_letter_at(record) for record in evidence.dead_letters)
    found += _counted(sources, decisions, letters, folds, law)
    found += _dead_letters(evidence)
    found += [wrong for source in decisions for wrong in _decided(source, decisions[source], sources, folds, law)]
    found += [f"{source} was decided without features" for source in _without_features(evidence.decisions, law)]
    found += _alerts(evidence.alerts, decisions, sources, law)
    found += _ordered(evidence.decisions)
    if unrecorded := evidence.unrecorded():
        found.append(f"{unrecorded} payments and labels have no order in the newest epoch")
    if evidence.committed != evidence.ends:
        found.append(f"committed offsets {evidence.committed} are not the ends {evidence.ends}")
    return found


def unfeatured_newest(decisions: Iterable[Seen]) -> list[At]:
    """Of each partition the newest payment that is decided, where its last decision was made without features."""
    newest: dict[tuple[str, int], tuple[At, str]] = {}
    for record in decisions:
        decision = json.loads(record.value or b"")
        source = _at(decision["source"])
        if source[:2] not in newest or source >= newest[source[:2]][0]:
            newest[source[:2]] = source, decision["tier"]
    return [source for source, tier in newest.values() if tier == WITHOUT]


def _without_features(decisions: Sequence[Seen], law: Law) -> list[At]:
    if law.degrades:
        return unfeatured_newest(decisions)
    documents = [json.loads(record.value or b"") for record in decisions]
    return [_at(each["source"]) for each in documents if each["tier"] == WITHOUT]


def _counted(
    sources: Sources,
    decisions: dict[At, list[dict[str, Any]]],
    letters: Counter[At],
    folds: Folds,
    law: Law,
) -> Iterator[str]:
    """Invariant 1: a decision, a dead letter, or a repeated event id; of a label, nothing or a dead letter."""
    for source, record in sources.items():
        decided, rejected = len(decisions.get(source, ())), letters[source]
        if law.exactly_once and decided + rejected > 1:
            yield f"{source} has {decided} decisions and {rejected} dead letters"
        if record is None and (decided or not rejected):
            yield f"{source} is malformed and has {decided} decisions and {rejected} dead letters"
        if record is not None and rejected:
            yield f"{source} is well formed and has a dead letter"
        if isinstance(record, Label) and decided:
            yield f"{source} is a label and was decided"
        if isinstance(record, Payment) and not decided and not folds.repeats(source):
            yield f"{source} has no decision and is no repetition"
    yield from (f"{source} was decided and is not in the log" for source in decisions if source not in sources)
    yield from (f"{source} was rejected and is not in the log" for source in letters if source not in sources)


def _dead_letters(evidence: Evidence) -> Iterator[str]:
    originals = {(record.topic, record.partition, record.offset): record for record in evidence.inputs}
    for record in evidence.dead_letters:
        source = _letter_at(record)
        original = originals.get(source)
        if original and (record.key, record.value) != (original.key, original.value):
            yield f"the dead letter of {source} is not its record"


def _decided(
    source: At,
    copies: Sequence[dict[str, Any]],
    sources: Sources,
    folds: Folds,
    law: Law,
) -> Iterator[str]:
    """Invariant 2: what a payment's decisions say is what the fold says."""
    payment = sources.get(source)
    if not isinstance(payment, Payment):
        return
    if law.equal_copies and any(copy != copies[0] for copy in copies):
        yield f"{source} has decisions that differ"
    for copy in copies:
        told = (copy["event_id"], copy["card_id"], copy["event_time"])
        if told != (payment.event_id, payment.card_id, payment.event_time):
            yield f"{source} was decided as another payment"
        if copy["decision"] != decision_of(copy["score"] or 0.0):
            yield f"{source} has a decision that is not its score's"
        if copy["tier"] == "full":
            yield from _full(source, copy, folds)
        elif copy["tier"] != WITHOUT:
            yield f"{source} was decided in the tier {copy['tier']}"
        elif copy["score"] != score_of(PAYMENT_ONLY, _payment_row(payment)):
            yield f"{source} has a score without features of other values"


def _full(source: At, decision: dict[str, Any], folds: Folds) -> Iterator[str]:
    state = decision["state"]
    shard, epoch, sequence = state["shard"], state["epoch"], state["sequence"]
    place = f"{sequence} of epoch {epoch} in shard {shard}"
    of_card = folds.of_card((shard, epoch), sequence, source)
    if shard != folds.card_lies_in(source):
        yield f"{source} was decided in shard {shard}, where its card's log does not lie"
    elif of_card is None:
        yield f"{source} was decided at {place}, which the journal does not give to it"
    elif not of_card:
        yield f"{source} is a repetition and was decided"
    elif not any(decision["score"] == score_of(EXACT, row) for row in folds.rows((shard, epoch), source)):
        yield f"{source} has other features than the folds at {place}"


def _alerts(
    alerts: Sequence[Seen], decisions: dict[At, list[dict[str, Any]]], sources: Sources, law: Law
) -> Iterator[str]:
    seen: Counter[At] = Counter()
    for record in alerts:
        alert = json.loads(record.value or b"")
        source = _at(alert["source"])
        seen[source] += 1
        payment = sources.get(source)
        if not isinstance(payment, Payment) or alert["alert_id"] != _alert_id(payment):
            yield f"{source} has an alert with another id"
        told = (alert["decision"], alert["score"], alert["tier"])
        if told not in [(copy["decision"], copy["score"], copy["tier"]) for copy in decisions.get(source, ())]:
            yield f"{source} has an alert that is not its decision's"
    for source, copies in decisions.items():
        due = sum(copy["decision"] != "approve" for copy in copies)
        if seen[source] != due if law.exactly_once else (due > 0) != (seen[source] > 0):
            yield f"{source} has {seen[source]} alerts, {due} are due"


def _ordered(decisions: Sequence[Seen]) -> Iterator[str]:
    """Invariant 3: the first decisions of a card's payments lie in the order of its payments."""
    newest: dict[bytes | None, int] = {}
    seen: set[At] = set()
    for record in sorted(decisions, key=lambda record: (record.partition, record.offset)):
        source = _at(json.loads(record.value or b"")["source"])
        if source in seen:
            continue
        seen.add(source)
        if newest.get(record.key, -1) > source[2]:
            yield f"the decision of {source} lies behind a later one of its card"
        newest[record.key] = source[2]


def _payment(record: Seen) -> Payment | None:
    """The payment in a record, judged as plainly as the history's malformed records allow; None if it is none."""
    fields = _fields(record, REQUIRED_OF_PAYMENTS)
    if fields is None or fields["amount_minor"] < 0 or fields["currency"] != "EUR":
        return None
    return None if fields["event_time"] > record.timestamp_ms + 300_000 else Payment(**fields)


def _label(record: Seen) -> Label | None:
    """The label in a record, judged as plainly."""
    fields = _fields(record, REQUIRED_OF_LABELS)
    if fields is None or fields["label"] not in {"fraud", "genuine"} or fields["event_time"] > fields["labelled_at"]:
        return None
    return Label(**fields)


def _fields(record: Seen, required: dict[str, type]) -> dict[str, Any] | None:
    try:
        fields = json.loads(record.value or b"")
    except ValueError:
        return None
    whole = isinstance(fields, dict) and all(type(fields.get(name)) is kind for name, kind in required.items())
    return fields if whole else None


def _payment_row(payment: Payment) -> oracle.Row:
    return oracle.fold([payment], DEFAULT, names=PAYMENT_ONLY)[0]


def _alert_id(payment: Payment) -> str:
    card, event = payment.card_id, payment.event_id
    text = f"{len(card)}:{card}{len(event)}:{event}{payment.event_time}"
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _at(source: dict[str, Any]) -> At:
    return source["topic"], source["partition"], source["offset"]


def _letter_at(record: Seen) -> At:
    headers = dict(record.headers)
    topic = (headers["__connect.errors.topic"] or b"").decode()
    return topic, int(headers["__connect.errors.partition"] or b""), int(headers["__connect.errors.offset"] or b"")
