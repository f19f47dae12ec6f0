"""`fraudline shadow report`: the challenger against the champion, on the labels that have come.

Both judged the same payments, so every number is over the same rows. A payment counts as genuine when it was labelled
so, or when it is older than `mature_ms` and nobody called it fraud.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_intdigest

from consumer.decode import Message
from consumer.kafka.logreader import LogReader
from consumer.records import ShadowDecision, Verdict
from features.errors import ConfigError, KafkaUnavailable
from features.event import Label
from features.store import Source
from models.evaluate import average_precision, card_precision_at, recall_at_precision, roc_auc
from models.policy import DECISIONS

PATIENCE_S: Final = 60.0
AT_ONCE: Final = 10_000
CARDS_A_DAY: Final = 100
RESAMPLES: Final = 200
_decision: Final = msgspec.json.Decoder(ShadowDecision).decode
_label: Final = msgspec.json.Decoder(Label).decode

Mask = npt.NDArray[np.bool_]


@dataclass(slots=True)
class Judged:
    """Payments that one pair of bundles judged, in columns; a score is NaN where a model failed."""

    champion: str = ""
    challenger: str = ""
    event: array[int] = field(default_factory=lambda: array("Q"))
    card: array[int] = field(default_factory=lambda: array("Q"))
    event_time: array[int] = field(default_factory=lambda: array("q"))
    scores: tuple[array[float], array[float]] = field(default_factory=lambda: (array("f"), array("f")))
    decisions: tuple[array[int], array[int]] = field(default_factory=lambda: (array("B"), array("B")))
    by_challenger: array[int] = field(default_factory=lambda: array("B"))

    def add(self, record: ShadowDecision) -> None:
        """One more."""
        self.event.append(xxh3_64_intdigest(record.event_id.encode()))
        self.card.append(xxh3_64_intdigest(record.card_id.encode()))
        self.event_time.append(record.event_time)
        for place, verdict in enumerate((record.champion, record.challenger)):
            self.scores[place].append(float("nan") if verdict.score is None else verdict.score)
            self.decisions[place].append(DECISIONS.index(verdict.decision))
        self.by_challenger.append(record.decided_by == "challenger")


def _name(verdict: Verdict) -> str:
    return f"{verdict.model} ({verdict.digest[:12]})"


class Collector:
    """Takes records of both topics as they come, and keeps them by the pair of bundles that judged."""

    def __init__(self) -> None:
        """Nothing is known yet."""
        self.pairs: dict[tuple[str, str], Judged] = {}
        self.labels: dict[int, bool] = {}
        self.unusable = 0

    def shadow(self, value: bytes) -> None:
        """One record of the shadow topic."""
        try:
            record = _decision(value)
        except (msgspec.DecodeError, UnicodeDecodeError):
            self.unusable += 1
            return
        key = record.champion.digest, record.challenger.digest
        judged = self.pairs.get(key)
        if judged is None:
            judged = self.pairs[key] = Judged(_name(record.champion), _name(record.challenger))
        judged.add(record)

    def label(self, value: bytes) -> None:
        """One record of the labels topic; the last one about a payment counts."""
        try:
            record = _label(value)
        except (msgspec.DecodeError, UnicodeDecodeError):
            self.unusable += 1
            return
        self.labels[xxh3_64_intdigest(record.event_id.encode())] = record.label == "fraud"

    def newest(self) -> Judged:
        """The pair that judged last. Raises ConfigError when none did."""
        if not self.pairs:
            raise ConfigError(
                "The shadow topic is empty: set challenger.enabled, and fraudline model promote --role challenger."
            )
        return max(self.pairs.values(), key=lambda judged: max(judged.event_time))


def report(collector: Collector, mature_ms: int, seed: int = 0) -> dict[str, Any]:
    """What both made of the payments that the newest pair judged, as plain values.

    `ap_difference` has the challenger's average precision less the champion's, with a 95 % interval by a bootstrap over
    cards (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13): payments of a card go together.
    """
    judged = collector.newest()
    event = np.frombuffer(judged.event, np.uint64)
    order = np.unique(event[::-1], return_index=True)[1]
    rows = np.sort(len(event) - 1 - order)  # the last record of a payment: at least once means at times twice
    event, time_ms = event[rows], np.frombuffer(judged.event_time, np.int64)[rows]
    card = np.frombuffer(judged.card, np.uint64)[rows].astype(np.int64)
    told = [collector.labels.get(each) for each in event.tolist()]
    fraud = np.array([each is True for each in told], np.bool_)
    labelled = np.array([each is not None for each in told], np.bool_)
    known = labelled | (time_ms <= int(time_ms.max()) - mature_ms)
    scores = [np.frombuffer(each, np.float32)[rows] for each in judged.scores]
    decisions = [np.frombuffer(each, np.uint8)[rows] for each in judged.decisions]
    usable = known & ~np.isnan(scores[0]) & ~np.isnan(scores[1])
    days = max((int(time_ms.max()) - int(time_ms.min())) / 86_400_000, 1 / 24)
    table = {}
    for name, score, decision in zip(("champion", "challenger"), scores, decisions, strict=True):
        table[name] = _quality(fraud, usable, score, card, time_ms) | _alerts(fraud, known, decision, days)
        table[name]["not_scored"] = int(np.count_nonzero(np.isnan(score)))
    both = np.bincount(decisions[0] * len(DECISIONS) + decisions[1], minlength=len(DECISIONS) ** 2).tolist()
    return {
        "champion": judged.champion,
        "challenger": judged.challenger,
        "payments": len(rows),
        "days": round(days, 2),
        "known": int(np.count_nonzero(known)),
        "labelled": int(np.count_nonzero(labelled)),
        "fraud": int(np.count_nonzero(fraud)),
        "decided_by_challenger": int(np.count_nonzero(np.frombuffer(judged.by_challenger, np.uint8)[rows])),
        "unusable_records": collector.unusable,
        "quality": table,
        "ap_difference": _difference(fraud[usable], scores[0][usable], scores[1][usable], card[usable], seed),
        "decisions": {
            f"{old} to {new}": both[len(DECISIONS) * first + second]
            for first, old in enumerate(DECISIONS)
            for second, new in enumerate(DECISIONS)
        },
    }


def _quality(
    fraud: Mask,
    usable: Mask,
    scores: npt.NDArray[np.float32],
    card: npt.NDArray[np.int64],
    times: npt.NDArray[np.int64],
) -> dict[str, Any]:
    fraud, scores = fraud[usable], scores[usable]
    return {
        "ap": average_precision(fraud, scores),
        "auc": roc_auc(fraud, scores),
        "recall_at_precision_90": recall_at_precision(fraud, scores, 0.9),
        f"card_precision_{CARDS_A_DAY}": card_precision_at(fraud, scores, card[usable], times[usable], CARDS_A_DAY),
    }


def _alerts(fraud: Mask, known: Mask, decisions: npt.NDArray[np.uint8], days: float) -> dict[str, Any]:
    alert = decisions > 0
    judged, caught, total = int((alert & known).sum()), int((alert & fraud).sum()), int(fraud.sum())
    return {
        "alerts": int(alert.sum()),
        "alerts_per_day": round(float(alert.sum()) / days, 1),
        "blocks": int((decisions == len(DECISIONS) - 1).sum()),
        "precision": caught / judged if judged else None,
        "recall": caught / total if total else None,
    }


def _difference(
    fraud: Mask, old: npt.NDArray[np.float32], new: npt.NDArray[np.float32], card: npt.NDArray[np.int64], seed: int
) -> dict[str, float] | None:
    """The gain in average precision and its 95 % interval; None without fraud."""
    before, after = average_precision(fraud, old), average_precision(fraud, new)
    if before is None or after is None:
        return None
    _, group = np.unique(card, return_inverse=True)
    order = np.argsort(group, kind="stable")
    bounds = np.concatenate(([0], np.cumsum(np.bincount(group))))
    rng, gains = np.random.default_rng(seed), []
    for _ in range(RESAMPLES):
        picked = rng.integers(0, len(bounds) - 1, len(bounds) - 1)
        counts = bounds[picked + 1] - bounds[picked]
        starts = np.repeat(bounds[picked] - np.concatenate(([0], np.cumsum(counts)[:-1])), counts)
        rows = order[starts + np.arange(counts.sum())]
        one, other = average_precision(fraud[rows], old[rows]), average_precision(fraud[rows], new[rows])
        if one is not None and other is not None:
            gains.append(other - one)
    low, high = np.quantile(gains, (0.025, 0.975)) if gains else (after - before, after - before)
    return {"gain": after - before, "low": float(low), "high": float(high)}


def collect(log: LogReader, shadow_topic: str, progress: Callable[[float], None] = lambda _share: None) -> Collector:
    """Read both topics from their beginning to their present end. Raises KafkaUnavailable."""
    collector, extents = Collector(), log.extents()
    total = sum(extent.high - extent.low for extent in extents.values())
    done = 0
    for source, extent in extents.items():
        offset, deadline_s = extent.low, time.monotonic() + PATIENCE_S
        while offset < extent.high:
            messages, reached = log.read(source, offset, extent.high, AT_ONCE, time.monotonic() + 1.0)
            for message in messages:
                _take(collector, source, message, shadow_topic)
            if reached > offset:
                deadline_s = time.monotonic() + PATIENCE_S
            elif time.monotonic() > deadline_s:
                raise KafkaUnavailable(f"Kafka did not give all of {source[0]} in time")
            done += reached - offset
            offset = reached
            progress(done / max(total, 1))
    return collector


def _take(collector: Collector, source: Source, message: Message, shadow_topic: str) -> None:
    value = message.value()
    if value is None:
        return
    if source[0] == shadow_topic:
        collector.shadow(value)
    else:
        collector.label(value)
