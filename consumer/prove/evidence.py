"""What a proof has seen: every record that was sent, and everything that a `read_committed` reader was shown.

It shares no code with the pipeline but the record types: judges can be given made-up evidence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

import msgspec

from consumer.prove.history import Record
from consumer.prove.latency import Latency
from consumer.prove.processes import Seen
from consumer.prove.resources import Removal
from consumer.prove.worker import Ended
from consumer.records import Alert, Decision, JournalEntry
from consumer.settings import TopicSettings

Section = Literal["mark", "warm-up", "measured", "drain", "faults", "flush"]
CALM: Final[frozenset[Section]] = frozenset(("mark", "warm-up", "measured"))
"""Sections in which nothing is done to a processor or to Redis."""

FEATURED: Final = frozenset(("full", "small"))
"""The tiers of decisions that are made with the features of entities."""

At = tuple[str, int, int]
"""Role (`payments`, `labels`), partition and offset of a source record."""

_ERRORS: Final = "__connect.errors."
_REJECTED: Final = "fraudline.Rejected."


class Sent(NamedTuple):
    """A record that was sent, where it landed, when it was due (ns), and how late it was handed to the client."""

    record: Record
    section: Section
    partition: int
    offset: int
    due_ns: int
    late_ns: int

    @property
    def at(self) -> At:
        """Its place."""
        return self.record.role, self.partition, self.offset


class Decided(NamedTuple):
    """A decision, and where and when the witness saw it."""

    at: At
    place: tuple[int, int]
    key: bytes | None
    event_id: str
    card_id: str
    event_time: int
    decision: str
    score: float | None
    tier: str
    kafka_ms: int | None
    received_ns: int
    model: str = ""
    bundle: str = ""


class Alerted(NamedTuple):
    """An alert."""

    at: At
    alert_id: str
    event_id: str
    card_id: str
    event_time: int
    decision: str
    score: float | None
    tier: str
    reasons: int
    stage_ms: Mapping[str, float]


class Letter(NamedTuple):
    """A dead letter: what it is about, why, and the bytes that it holds."""

    at: At
    reason: str
    key: bytes | None
    value: bytes | None


class Numbered(NamedTuple):
    """Records [start, end) of a partition to which an entry of the journal gives numbers: the state took them."""

    role: str
    partition: int
    start: int
    end: int


@dataclass(slots=True)
class Evidence:
    """Everything that judges look at.

    Attributes:
        delivery: `exactly_once` or `at_least_once`.
        sent: all records, in the order sent; the marks of topics that are read are among them.
        decisions, alerts, letters, journal: what the witness saw, in the order in which it came.
        committed, ends: by topic and partition, at the end.
        marks: offsets of the decisions topic at which no reader sees a record: a transaction ended there, or what it
            held was never committed.
        garbled: places of records that are not what their topic is for.
        certificate: what `fraudline certify` says of all before the flush; None for none, for `why_no_certificate`.
        after_flush: what it says of all, after the flush; None for none, for `why_not_after_flush`.
        changed_by_labels: how many decisions before the flush would have been others without the labels, as a replay
            that leaves them out tells; None where none was made, for `why_no_count`.
        latency: of the measured section; None where nothing was measured.
        counted: totals of the first worker's counters when the measured section was decided; None where unknown.
        workers: how each worker ended.
        kills, stalls: what was done to workers; a stall is one in which others were given all partitions of the one
            that was stopped.
        left_at_drain: how many records were left to the next processor by one that was told to stop under load.
        flushed_ns: when the run's own keys were removed; None where they were not. `lost_keys`: how many.
        label_features: how many features of the catalog labels are in.
        laid: how many of the records sent hold a card number and a secret that must not be seen.
        clock_set_ms: by how much somebody set this machine's clock while latency was measured.
        leaks: where a canary or a secret was found; `looked_at` says in how many texts of which kind.
        shown: whether a secret stands in what `fraudline config show` prints.
        removal: what was left behind; None until everything was removed.
    """

    delivery: str
    budget_ms: int
    sent: list[Sent] = field(default_factory=list)
    decisions: list[Decided] = field(default_factory=list)
    alerts: list[Alerted] = field(default_factory=list)
    letters: list[Letter] = field(default_factory=list)
    journal: list[Numbered] = field(default_factory=list)
    committed: dict[tuple[str, int], int] = field(default_factory=dict)
    ends: dict[tuple[str, int], int] = field(default_factory=dict)
    marks: int = 0
    garbled: list[str] = field(default_factory=list)
    certificate: dict[str, Any] | None = None
    why_no_certificate: str = ""
    after_flush: dict[str, Any] | None = None
    why_not_after_flush: str = ""
    changed_by_labels: int | None = None
    why_no_count: str = ""
    latency: Latency | None = None
    counted: Mapping[str, float] | None = None
    workers: list[Ended] = field(default_factory=list)
    kills: int = 0
    stalls: int = 0
    left_at_drain: int = 0
    flushed_ns: int | None = None
    lost_keys: int = 0
    label_features: int = 0
    laid: Mapping[str, int] = field(default_factory=dict)
    clock_set_ms: float = 0.0
    leaks: list[str] = field(default_factory=list)
    looked_at: dict[str, int] = field(default_factory=dict)
    shown: list[str] = field(default_factory=list)
    secrets: int = 0
    removal: Removal | None = None

    @property
    def models(self) -> Mapping[tuple[str, str], int]:
        """How many decisions each model made, by its name and its bundle's digest."""
        return Counter((each.model, each.bundle) for each in self.decisions)

    @property
    def tiers(self) -> Mapping[Section, Counter[str]]:
        """How many decisions about payments of each section were made in which tier, in the order of the sections."""
        section_of = {each.at: each.section for each in self.sent}
        counts: dict[Section, Counter[str]] = {each.section: Counter() for each in self.sent}
        for each in self.decisions:
            if each.at in section_of:
                counts[section_of[each.at]][each.tier] += 1
        return {section: tiers for section, tiers in counts.items() if tiers}


class Told(NamedTuple):
    """What was published."""

    decisions: list[Decided]
    alerts: list[Alerted]
    letters: list[Letter]
    journal: list[Numbered]
    garbled: list[str]


def read(seen: Iterable[Seen], topics: TopicSettings) -> Told:
    """What the witness saw, as what it is, and the places of what is none; the marks of the topics are left out."""
    told = Told([], [], [], [], [])
    role_of = {topics.payments: "payments", topics.labels: "labels"}
    decode_decision, decode_alert = msgspec.json.Decoder(Decision).decode, msgspec.json.Decoder(Alert).decode
    decode_entry = msgspec.json.Decoder(JournalEntry).decode
    for each in seen:
        try:
            if each.topic == topics.dead_letters:
                if (letter := _letter(each, role_of)) is not None:
                    told.letters.append(letter)
            elif each.value is None:
                continue
            elif each.topic == topics.decisions:
                told.decisions.append(_decided(each, decode_decision(each.value), role_of))
            elif each.topic == topics.alerts:
                told.alerts.append(_alerted(decode_alert(each.value), role_of))
            elif each.topic == topics.journal:
                entry = decode_entry(each.value)
                if entry.count:  # else it tells where an epoch comes from
                    start, role = entry.offset, role_of.get(entry.topic, entry.topic)
                    told.journal.append(Numbered(role, entry.partition, start, start + entry.count))
        except (msgspec.DecodeError, UnicodeDecodeError, KeyError, ValueError):
            told.garbled.append(f"{each.topic}/{each.partition}/{each.offset}")
    return told


def _decided(seen: Seen, told: Decision, role_of: Mapping[str, str]) -> Decided:
    source = told.source
    return Decided(
        at=(role_of.get(source.topic, source.topic), source.partition, source.offset),
        place=(seen.partition, seen.offset),
        key=seen.key,
        event_id=told.event_id,
        card_id=told.card_id,
        event_time=told.event_time,
        decision=told.decision,
        score=told.score,
        tier=told.tier,
        kafka_ms=told.kafka_time,
        received_ns=seen.received_ns,
        model=told.model,
        bundle=told.digests.bundle,
    )


def _alerted(told: Alert, role_of: Mapping[str, str]) -> Alerted:
    source = told.source
    return Alerted(
        at=(role_of.get(source.topic, source.topic), source.partition, source.offset),
        alert_id=told.alert_id,
        event_id=told.event_id,
        card_id=told.card_id,
        event_time=told.event_time,
        decision=told.decision,
        score=told.score,
        tier=told.tier,
        reasons=len(told.reasons),
        stage_ms=msgspec.structs.asdict(told.stage_ms),
    )


def _letter(seen: Seen, role_of: Mapping[str, str]) -> Letter | None:
    headers = {name: (content or b"").decode("utf-8", "replace") for name, content in seen.headers}
    if f"{_ERRORS}topic" not in headers:
        return None  # the topic's mark
    topic = headers[f"{_ERRORS}topic"]
    at = (role_of.get(topic, topic), int(headers[f"{_ERRORS}partition"]), int(headers[f"{_ERRORS}offset"]))
    return Letter(at, headers[f"{_ERRORS}class.name"].removeprefix(_REJECTED), seen.key, seen.value)
