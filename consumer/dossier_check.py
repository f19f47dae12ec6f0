"""`fraudline explain`, second half: the decisions about one event made again, by the certificate's own code.

All of a history is read, and of it only what names one of the payment's entities is folded: a log depends on nothing
that is not about its entity.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import msgspec
import numpy as np

from consumer.certificate.certify import Asked, Certification
from consumer.certificate.outcome import Certificate, Compared
from consumer.certificate.refused import Refused, read_refused
from consumer.decode import Message
from consumer.dossier import ESCAPE, Dossier, needle
from consumer.lines import Line
from consumer.records import Alert, Decision, Source, alert_id
from consumer.streams import CHUNK, Stream
from features.catalog import Catalog
from features.errors import BundleError
from features.event import Payment
from features.grouping import ID_FIELDS
from models.bundle import Bundle
from models.explain import Explainer
from models.policy import DECISIONS

ROWS: Final = 1 << 16  # about so many payments are related to one
Progress = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class Check:
    """What one published decision came out as.

    Attributes:
        decision: the one that was published.
        verdict: `equal`, `different` or `unverifiable`.
        why: in what it differs, or why it can't be verified.
        replayed: decision, score and rules as they were made again; empty where nothing was.
        features: of each of the bundle's features the value, and what it added to the score in log-odds.
        constant: the log-odds of a payment of which nothing is known.
    """

    decision: Decision
    verdict: str
    why: tuple[str, ...]
    replayed: dict[str, Any] = field(default_factory=dict)
    features: tuple[tuple[str, float | None, float], ...] = ()
    constant: float = 0.0


@dataclass(frozen=True, slots=True)
class Checks:
    """Of every decision about an event, and where the same id came again for its card (partition, offset)."""

    checks: tuple[Check, ...]
    repetitions: tuple[tuple[int, int], ...] = ()

    @property
    def verdict(self) -> str:
        """`different` if any is, else `unverifiable` if any is, else `equal`."""
        known = {check.verdict for check in self.checks}
        return next((each for each in ("different", "unverifiable") if each in known), "equal")


def check(
    found: Dossier, asked: Asked, catalog: Catalog, progress: Progress, dead_letters: Stream | None = None
) -> Checks:
    """Make all decisions of a dossier again.

    Args:
        found: with at least one decision.
        asked: as for a certificate of everything.
        catalog: of which bundles may need a part.
        progress: is told a stage and its share.
        dead_letters: which tell what was refused; None for today's limits.

    Raises:
        ConfigError, KafkaUnavailable: as for a certificate.
    """
    decisions = [each.decision for each in found.decisions]
    if not found.payments:
        return Checks(tuple(Check(each, "unverifiable", ("payment_not_read",)) for each in decisions))
    sought = _entities(payment for _, payment in found.payments)
    payments = _Related(asked.payments, sought, needle(found.event_id))
    narrowed = replace(
        asked,
        decisions=_Few(asked.decisions, decisions),
        payments=payments,
        labels=None if asked.labels is None else _Related(asked.labels, sought),
        alerts=None if asked.alerts is None or not found.alerts else _Few(asked.alerts, found.alerts),
        refused=Refused() if dead_letters is None else _refused(dead_letters, asked.decisions, sought),
        memory_mb=max(asked.memory_mb // 4, 16),
    )
    compared: list[tuple[Compared, Catalog]] = []
    work = Certification(narrowed, catalog, progress, lambda one, of: compared.append((one, of)))
    try:
        certificate = work.run()
    except BundleError as error:
        if work.bundles:
            raise
        why = f"bundle_not_given: {error}"
        return Checks(tuple(Check(each, "unverifiable", (why,)) for each in decisions))
    made = _Made(certificate, compared, work.bundles, catalog, None if asked.alerts is None else found.alerts)
    own = {(each.source.partition, each.source.offset) for each in decisions}
    cards = {each.card_id for each in decisions}
    again = {
        (message.partition(), message.offset())
        for message in narrowed.refused.without(payments.noted, {each.source.topic for each in decisions})
        if _who(message) in {(found.event_id, card) for card in cards}
    }
    return Checks(tuple(made.check(each) for each in decisions), tuple(sorted(again - own)))


def _refused(letters: Stream, decisions: Stream, sought: Sequence[bytes]) -> Refused:
    """What was refused of that which names somebody who is sought, and was not decided all the same."""
    refused = read_refused(letters, lambda letter: bool(letter.cut) or _holds(letter.message.value(), sought))
    if not refused:
        return refused
    decode = msgspec.json.Decoder(_Decided).decode
    for _, values in decisions.values():
        for value in values:
            try:
                source = decode(value).source
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue  # what is no record of ours says nothing
            refused.release(source.topic, source.partition, source.offset)
    return refused


class _Decided(msgspec.Struct, frozen=True, gc=False):
    """Of a decision only what it is about."""

    source: Source


def _holds(value: bytes | None, sought: Sequence[bytes]) -> bool:
    """Whether bytes name one of them, or have escapes that may."""
    return value is not None and (ESCAPE in value or any(each in value for each in sought))


class _Made:
    """What was made again, to be looked up by decision."""

    def __init__(
        self,
        certificate: Certificate,
        compared: Sequence[tuple[Compared, Catalog]],
        bundles: dict[str, Bundle],
        whole: Catalog,
        alerts: Sequence[Alert] | None,
    ) -> None:
        self._alerted = None if alerts is None else {(each.alert_id, each.source) for each in alerts}
        self._packer, self._compared = certificate.packer, compared
        self._bundles, self._whole = bundles, whole

    def check(self, decision: Decision) -> Check:
        """Hold one decision to what it was made to."""
        key = self._packer.pack([decision])[0]
        for compared, catalog in self._compared:
            rows = np.flatnonzero((compared.told == key).all(axis=1))
            if rows.size:
                return self._checked(decision, compared, catalog, int(rows[0]))
        return Check(decision, "unverifiable", ("payment_not_read",))

    def _checked(self, decision: Decision, compared: Compared, catalog: Catalog, row: int) -> Check:
        lacks_alert = self._lacks_alert(decision)
        unclear = [why for why, mask in compared.unverifiable.items() if mask[row] and why != "alert_not_there"]
        what = [name for name, mask in compared.differs.items() if mask[row] and not (name == "alert" and lacks_alert)]
        if decision.source.offset in compared.alerts_without_decision:
            what.append("alert")
        if lacks_alert and not what:
            unclear.append("alert_not_there")
        verdict = "unverifiable" if unclear else "different" if what else "equal"
        remade, bundle = compared.remade, self._bundles.get(decision.digests.bundle)
        if bundle is None:
            return Check(decision, verdict, tuple(unclear or what))
        live, silent = self._packer.rules[int(remade.rules[row])]
        replayed = {
            "decision": DECISIONS[int(remade.decision[row])],
            "score": _number(float(remade.scores[row])),
            "rules": list(live),
            "shadow_rules": list(silent),
        }
        features, constant = self._features(decision, bundle, catalog, compared.values[row])
        return Check(decision, verdict, tuple(unclear or what), replayed, features, constant)

    def _lacks_alert(self, decision: Decision) -> bool:
        """Whether it asks for an alert, and of the alerts that were searched none is its own."""
        own = alert_id(decision.card_id, decision.event_id, decision.event_time)
        return (
            self._alerted is not None and decision.decision != "approve" and (own, decision.source) not in self._alerted
        )

    def _features(
        self, decision: Decision, bundle: Bundle, catalog: Catalog, values: np.ndarray[Any, np.dtype[np.float32]]
    ) -> tuple[tuple[tuple[str, float | None, float], ...], float]:
        names = bundle.manifest.features
        own = np.ascontiguousarray(values[[catalog.names.index(name) for name in names]][None, :])
        parts = Explainer(bundle, self._whole, threads=1).contributions(own, decision.tier)[0].tolist()
        features = [
            (name, _number(value), part) for name, value, part in zip(names, own[0].tolist(), parts[:-1], strict=True)
        ]
        return tuple(features), parts[-1]


def _who(message: Message) -> tuple[object, object]:
    """Event and card of a record, as far as it is one."""
    try:
        document = msgspec.json.decode(message.value() or b"")
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None, None
    return (document.get("event_id"), document.get("card_id")) if isinstance(document, dict) else (None, None)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _entities(payments: Iterator[Payment]) -> tuple[bytes, ...]:
    """The ids of everybody that payments name, as they stand in JSON."""
    ids = {getattr(payment, name) for payment in payments for name in ID_FIELDS.values()}
    return tuple(sorted(needle(each) for each in ids if each is not None))


class _Related:
    """Of a stream what may name one of some entities, and each partition's first record, which tells how old it is."""

    def __init__(self, inner: Stream, sought: Sequence[bytes], event: bytes | None = None) -> None:
        """`noted` are records that hold `event` too."""
        self._inner, self._sought, self._event = inner, sought, event
        self.noted: list[Message] = []

    @property
    def topic(self) -> str:
        return self._inner.topic

    @property
    def place(self) -> str:
        return self._inner.place

    def size(self) -> int:
        return min(self._inner.size(), ROWS)

    def begins(self, partition: int) -> int:
        return self._inner.begins(partition)

    def chunks(self) -> Iterator[list[Message]]:
        begun: set[int] = set()
        held: list[Message] = []
        for messages in self._inner.chunks():
            if held and (held[0].partition() != messages[0].partition() or len(held) >= CHUNK):
                yield held
                held = []
            if messages[0].partition() not in begun:
                begun.add(messages[0].partition())
                held += [each for each in messages if self._is_related(each) or each is messages[0]]
                continue
            held += [each for each in messages if self._is_related(each)]
        if held:
            yield held

    def values(self) -> Iterator[tuple[int, list[bytes]]]:
        for messages in self.chunks():
            yield messages[0].partition(), [value for message in messages if (value := message.value()) is not None]

    def close(self) -> None:
        """The inner one is closed by who opened it."""

    def _is_related(self, message: Message) -> bool:
        value = message.value()
        if value is None or not _holds(value, self._sought):
            return False
        if self._event is not None and self._event in value:
            self.noted.append(message)
        return True


class _Few:
    """A stream of some records of another one."""

    def __init__(self, inner: Stream, records: Sequence[Decision | Alert]) -> None:
        self._inner = inner
        self._lines = [
            Line(number, msgspec.json.encode(each), None, inner.topic) for number, each in enumerate(records)
        ]

    @property
    def topic(self) -> str:
        return self._inner.topic

    @property
    def place(self) -> str:
        return self._inner.place

    def size(self) -> int:
        return len(self._lines)

    def begins(self, _partition: int) -> int:
        return 1  # there is more of it than this

    def chunks(self) -> Iterator[list[Message]]:
        if self._lines:
            yield list(self._lines)

    def values(self) -> Iterator[tuple[int, list[bytes]]]:
        for messages in self.chunks():
            yield 0, [message.value() or b"" for message in messages]

    def close(self) -> None:
        """The inner one is closed by who opened it."""
