"""What a reader of decisions sees: latency of every event, duplicates, and how much fraud was caught."""

from __future__ import annotations

import threading
from collections import Counter, deque
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import msgspec
import numpy as np

from consumer.records import Alert, Decision

BUDGET_MS: Final = 200.0
RECENT: Final = 2_000
Kind = Literal["decision", "alert", "dead_letter"]


@dataclass(frozen=True, slots=True)
class Summary:
    """The result of a run; milliseconds are from produce to a consumer of decisions."""

    payments: int
    decisions: int
    alerts: int
    dead_letters: int
    duplicates: int
    p50_ms: float | None
    p99_ms: float | None
    max_ms: float | None
    within_budget: float | None
    throughput_eps: float
    precision: float | None
    recall: float | None
    frauds: int
    frauds_caught: int
    false_alarms: int
    tiers: dict[str, int]
    delivery: str

    def as_dict(self) -> dict[str, Any]:
        """As plain types."""
        return asdict(self)


class ScoreCard:
    """Collects; `sent` is called on the producer's thread, everything else on the reader's."""

    def __init__(self, frauds: frozenset[str]) -> None:
        """`frauds` are the event ids of true fraud."""
        self._frauds = frauds
        self._lock = threading.Lock()
        self._sent_ns: dict[bytes, int] = {}
        self._first_ns = self._last_ns = 0
        self._latency_ms: list[float] = []
        self._sources: Counter[tuple[int, int]] = Counter()
        self._tiers: Counter[str] = Counter()
        self._suspected: set[str] = set()
        self._alerts = self._dead_letters = 0
        self._decode = msgspec.json.Decoder(Decision).decode
        self._decode_alert = msgspec.json.Decoder(Alert).decode
        self.latest_alerts: deque[Alert] = deque(maxlen=8)

    @property
    def answered(self) -> int:
        """Payments with a decision or a dead letter."""
        return len(self._sources) + self._dead_letters

    @property
    def alerts_due(self) -> bool:
        """Whether an alert of a payment that was not approved has not come yet."""
        return self._alerts < len(self._suspected)

    def sent(self, event_id: bytes, sent_ns: int) -> None:
        """Note when a payment was produced (any monotonic clock, the one of `received`)."""
        with self._lock:
            self._first_ns = self._first_ns or sent_ns
            self._sent_ns[event_id] = sent_ns

    def received(self, kind: Kind, value: bytes, received_ns: int) -> None:
        """Note a record that the reader got."""
        if kind == "alert":
            self._alerts += 1
            self.latest_alerts.append(self._decode_alert(value))
            return
        self._last_ns = received_ns
        if kind == "dead_letter":
            self._dead_letters += 1
        else:
            self._decision(self._decode(value), received_ns)

    def _decision(self, decision: Decision, received_ns: int) -> None:
        self._sources[decision.source.partition, decision.source.offset] += 1
        self._tiers[decision.tier] += 1
        if decision.decision != "approve":
            self._suspected.add(decision.event_id)
        with self._lock:
            sent_ns = self._sent_ns.get(decision.event_id.encode())
        if sent_ns is not None:
            self._latency_ms.append((received_ns - sent_ns) / 1e6)

    def recent(self) -> tuple[float | None, float | None]:
        """p50 and p99 in ms of the newest decisions."""
        return _percentiles(self._latency_ms[-RECENT:])

    def rate(self) -> float:
        """Answered payments a second, from the first send to the last receipt."""
        took_s = (self._last_ns - self._first_ns) / 1e9
        return self.answered / took_s if took_s > 0 else 0.0

    def caught(self) -> tuple[int, int]:
        """True frauds among the payments not approved, and the others among them."""
        hits = len(self._suspected & self._frauds)
        return hits, len(self._suspected) - hits

    def summary(self, delivery: str) -> Summary:
        """Everything so far."""
        hits, false_alarms = self.caught()
        p50, p99 = _percentiles(self._latency_ms)
        latency = np.asarray(self._latency_ms)
        frauds = len(self._frauds)
        return Summary(
            payments=len(self._sent_ns),
            decisions=len(self._sources),
            alerts=self._alerts,
            dead_letters=self._dead_letters,
            duplicates=self._sources.total() - len(self._sources),
            p50_ms=p50,
            p99_ms=p99,
            max_ms=round(float(latency.max()), 2) if latency.size else None,
            within_budget=round(float(np.mean(latency <= BUDGET_MS)), 6) if latency.size else None,
            throughput_eps=round(self.rate(), 1),
            precision=round(hits / (hits + false_alarms), 4) if hits + false_alarms else None,
            recall=round(hits / frauds, 4) if frauds else None,
            frauds=frauds,
            frauds_caught=hits,
            false_alarms=false_alarms,
            tiers=dict(self._tiers),
            delivery=delivery,
        )


def _percentiles(latency_ms: list[float]) -> tuple[float | None, float | None]:
    if not latency_ms:
        return None, None
    p50, p99 = np.percentile(latency_ms, [50, 99])
    return round(float(p50), 2), round(float(p99), 2)
