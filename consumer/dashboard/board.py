"""What the page knows: the newest alerts, decisions to look up, labels, figures, and how the reading goes. Bounded."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, Literal

import msgspec

from consumer.dashboard import shown
from consumer.dashboard.figures import Figures
from consumer.dashboard.selection import Selection, words_of
from consumer.decode import looks_like_card_number
from consumer.records import Alert, Decision
from features.event import Label

Kind = Literal["alert", "decision", "label"]
KINDS: Final[tuple[Kind, ...]] = ("alert", "decision", "label")
RECENT_DECISIONS: Final = 20_000
NEWS_LABELS: Final = 1_000
_decode_alert: Final = msgspec.json.Decoder(Alert).decode
_decode_decision: Final = msgspec.json.Decoder(Decision).decode
_decode_label: Final = msgspec.json.Decoder(Label).decode


@dataclass(frozen=True, slots=True)
class Kept:
    """An alert that is kept: its number on this page, its Kafka timestamp in ms, and its line in a list as JSON."""

    number: int
    raised_ms: int
    alert: Alert
    line: bytes


@dataclass(frozen=True, slots=True)
class Told:
    """What a label says of a payment."""

    number: int
    event_id: str
    label: str
    source: str
    labelled_ms: int


@dataclass(frozen=True, slots=True)
class News:
    """What came after a number, oldest first: the alerts asked for, how many of them were passed over, and labels."""

    alerts: list[Kept]
    skipped: int
    labels: list[Told]
    number: int


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of one payment."""

    kept: Kept | None
    decision: Decision | None
    decided_at_ms: int
    label: Told | None


@dataclass(frozen=True, slots=True)
class Reading:
    """How the reading goes: whether the past was read, when records were last heard of, and what was counted."""

    loaded: bool
    heard_ms: int | None
    stale: bool
    records: dict[Kind, int]
    unreadable: dict[Kind, int]


class Board:
    """Takes records on the reader's thread, answers on any. Numbers rise by one with each alert and label."""

    def __init__(self, keep_alerts: int, budget_ms: float) -> None:
        """Keep so many alerts, and the decisions and labels that belong to them."""
        self._keep = keep_alerts
        self._lock = threading.Lock()
        self._number = 0
        self._alerts: OrderedDict[str, Kept] = OrderedDict()
        self._by_event: dict[str, str] = {}
        self._flagged: OrderedDict[str, tuple[int, bytes]] = OrderedDict()
        self._recent: OrderedDict[str, tuple[int, bytes]] = OrderedDict()
        self._labels: OrderedDict[str, Told] = OrderedDict()
        self._news_labels: deque[Told] = deque(maxlen=NEWS_LABELS)
        self._words: Counter[str] = Counter()
        self._figures = Figures(budget_ms)
        self._records: Counter[Kind] = Counter()
        self._unreadable: Counter[Kind] = Counter()
        self._loaded, self._stale = False, True
        self._heard_ms: int | None = None

    def take(self, kind: Kind, value: bytes | None, at_ms: int, received_ms: int | None = None) -> None:
        """Take a record with its Kafka timestamp; `received_ms` is when it came, None for one of the past.

        What is no such record is counted, and nothing of it is kept.
        """
        takers: dict[Kind, Callable[[bytes, int, int | None], None]] = {
            "alert": self._alert, "decision": self._decision, "label": self._label
        }  # fmt: skip
        try:
            takers[kind](value or b"", at_ms, received_ms)
            failed = 0
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            failed = 1
        with self._lock:
            self._records[kind] += 1
            self._unreadable[kind] += failed

    def heard(self, now_ms: int, *, loaded: bool) -> None:
        """The brokers answered; `loaded` once the past was read."""
        with self._lock:
            self._heard_ms, self._stale, self._loaded = now_ms, False, loaded

    def lost(self) -> None:
        """The brokers don't answer: what is shown is as old as when they were last heard."""
        with self._lock:
            self._stale = True

    def reading(self) -> Reading:
        """How the reading goes."""
        with self._lock:
            records = {kind: self._records[kind] for kind in KINDS}
            unreadable = {kind: self._unreadable[kind] for kind in KINDS}
            return Reading(self._loaded, self._heard_ms, self._stale, records, unreadable)

    def newest(self, asked: Selection, limit: int, before: int | None = None) -> tuple[list[Kept], bool]:
        """Up to `limit` kept alerts that are asked for, newest first, and whether there are more.

        `before` leaves out those that have this number or a higher one.
        """
        with self._lock:
            everything = list(reversed(self._alerts.values()))
        older = (kept for kept in everything if before is None or kept.number < before)
        found = list(islice((kept for kept in older if asked.takes(kept.alert)), limit + 1))
        return found[:limit], len(found) > limit

    def since(self, number: int, asked: Selection, limit: int) -> News:
        """What came after a number; of more than `limit` alerts the newest."""
        found: list[Kept] = []
        skipped = 0
        with self._lock:
            for kept in reversed(self._alerts.values()):
                if kept.number <= number:
                    break
                if asked.takes(kept.alert):
                    found.append(kept)
            labels = [told for told in self._news_labels if told.number > number]
            last = self._number
        if len(found) > limit:
            skipped = len(found) - limit
            del found[limit:]
        return News(found[::-1], skipped, labels, last)

    @property
    def number(self) -> int:
        """The newest number."""
        return self._number

    def payment(self, event_id: str) -> Known | None:
        """What is known of a payment: its alert if it is kept, its decision if that or it is recent enough."""
        with self._lock:
            name = self._by_event.get(event_id)
            kept = self._alerts.get(name) if name is not None else None
            at_ms, value = self._flagged.get(event_id) or self._recent.get(event_id) or (0, b"")
            label = self._labels.get(event_id)
        if kept is None and not value:
            return None
        return Known(kept, _decode_decision(value) if value else None, at_ms, label)

    def label(self, event_id: str) -> Told | None:
        """The newest label of a payment."""
        with self._lock:
            return self._labels.get(event_id)

    def words(self, most: int) -> list[str]:
        """The commonest codes of reasons and ids of rules among the alerts that are kept."""
        with self._lock:
            return [word for word, count in self._words.most_common(most) if count > 0]

    def figures(self, now_ms: int) -> dict[str, Any]:
        """The figures at a time, ready for JSON."""
        with self._lock:
            return self._figures.document(now_ms)

    def _alert(self, value: bytes, at_ms: int, received_ms: int | None) -> None:
        alert = _decode_alert(value)
        _refuse_card_number(alert.card_id)
        with self._lock:
            if alert.alert_id in self._alerts:
                return
            self._number += 1
            kept = Kept(self._number, at_ms, alert, shown.line(self._number, at_ms, alert))
            self._alerts[alert.alert_id] = kept
            self._by_event[alert.event_id] = alert.alert_id
            self._words.update(words_of(alert))
            self._figures.alert(at_ms, alert, received_ms)
            if len(self._alerts) > self._keep:
                self._forget(self._alerts.popitem(last=False)[1].alert)

    def _forget(self, alert: Alert) -> None:
        if self._by_event.get(alert.event_id) == alert.alert_id:
            del self._by_event[alert.event_id]
            self._flagged.pop(alert.event_id, None)
            self._labels.pop(alert.event_id, None)
        self._words.subtract(words_of(alert))
        for word in words_of(alert):
            if self._words[word] <= 0:
                del self._words[word]

    def _decision(self, value: bytes, at_ms: int, _received_ms: int | None) -> None:
        decision = _decode_decision(value)
        _refuse_card_number(decision.card_id)
        with self._lock:
            self._figures.decision(at_ms, decision.decision, decision.tier, decision.kafka_time)
            if decision.decision != "approve":
                _put(self._flagged, decision.event_id, (at_ms, value), self._keep)
            _put(self._recent, decision.event_id, (at_ms, value), RECENT_DECISIONS)

    def _label(self, value: bytes, _at_ms: int, _received_ms: int | None) -> None:
        label = _decode_label(value)
        with self._lock:
            known = self._labels.get(label.event_id)
            older = known is not None and known.labelled_ms >= label.labelled_at  # also the same, come twice
            if label.event_id not in self._by_event or older:
                return
            self._number += 1
            told = Told(self._number, label.event_id, label.label, label.source, label.labelled_at)
            _put(self._labels, label.event_id, told, self._keep)
            self._news_labels.append(told)


def _refuse_card_number(card_id: str) -> None:
    """No processor writes one; whoever did, it is not for this page."""
    if looks_like_card_number(card_id or "-"):
        raise msgspec.DecodeError


def _put(table: OrderedDict[str, Any], key: str, value: Any, most: int) -> None:
    table[key] = value
    table.move_to_end(key)
    if len(table) > most:
        table.popitem(last=False)
