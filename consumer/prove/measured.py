"""The latency of a run's measured section, with what the processor logged around its slowest payment."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final

import numpy as np

from consumer.prove.evidence import At, Decided, Evidence
from consumer.prove.latency import Latency, measure

BESIDE_S: Final = 2.0
EVENTS: Final = 8


def latency_of(evidence: Evidence, rate: float, log: Sequence[str]) -> Latency | None:
    """Of every payment of the measured section that was due a decision; None where there is none."""
    sent = [each for each in evidence.sent if each.section == "measured"]
    due = [each for each in sent if each.record.due == "decision"]
    if not due:
        return None
    first: dict[At, Decided] = {}
    for each in evidence.decisions:
        first.setdefault(each.at, each)
    own = [first.get(each.at) for each in due]
    found = measure(
        np.array([each.due_ns for each in due], np.int64),
        np.array([each.late_ns for each in due], np.int64),
        np.array([0 if each is None else each.received_ns for each in own], np.int64),
        np.array([0 if each is None else each.kafka_ms or 0 for each in own], np.int64),
        budget_ms=evidence.budget_ms,
        rate=rate,
        all_due_ns=np.array([each.due_ns for each in sent], np.int64),
        all_late_ns=np.array([each.late_ns for each in sent], np.int64),
    )
    if found.slowest is None:
        return found
    begun_ns = min(each.due_ns for each, decision in zip(due, own, strict=True) if decision is not None)
    at_ns = begun_ns + round(found.slowest.due_s * 1e9)
    slowest = next(
        each for each, decision in zip(due, own, strict=True) if decision is not None and abs(each.due_ns - at_ns) < 500
    )
    stages = next((each.stage_ms for each in evidence.alerts if each.at == slowest.at), None)
    return replace(
        found,
        slowest=replace(found.slowest, stage_ms=stages, events=_events(log, at_ns / 1e9, found.slowest.latency_ms)),
    )


def _events(log: Sequence[str], at_s: float, latency_ms: float) -> tuple[str, ...]:
    """What was logged from a while before the slowest payment was due until a while after it was decided."""
    found = []
    for line in log:
        try:
            told = json.loads(line)
            time_s = datetime.fromisoformat(told["timestamp"]).timestamp()
        except (ValueError, KeyError, TypeError):
            continue
        if at_s - BESIDE_S <= time_s <= at_s + latency_ms / 1_000 + BESIDE_S:
            found.append(str(told.get("event", "")))
    return tuple(found[:EVENTS])
