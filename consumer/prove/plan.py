"""What is asked of a proof, and which records are sent in which of its sections."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

WARM_UP_S: Final = 5.0
DRAIN_RATE, DRAIN_S = 2_000.0, 20.0  # at most; it stops as soon as a processor has ended
FAULT_RATE: Final = 300.0
FAULTS_S, KILL_S = 120.0, 20.0  # of load that is at hand, and for each kill; it stops as soon as faults are through
FLUSH_S: Final = 60.0
FEW: Final = 100  # decisions with features, so that they are none of before the state was lost
FEW_SHARE: Final = 0.1  # of the records of the section, where it has few
MOST: Final = 2_000_000  # records: all of them are held in memory to be judged


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked.

    Attributes:
        config: the settings file that the processors get too; None for what FRAUDLINE_CONFIG names.
        rate: records a second of the measured section.
        seconds: how long it is.
        faults: whether processors are killed and stalled, and the state removed.
        kills: how often.
        seed: of the history and of the faults.
        out: where the report goes, an existing folder.
    """

    config: Path | None
    rate: float
    seconds: float
    faults: bool
    kills: int
    seed: int
    out: Path
    warm_up_s: float = WARM_UP_S


@dataclass(frozen=True, slots=True)
class Part:
    """Records [first, first + count), and how many of them a second."""

    first: int
    count: int
    rate: float

    @property
    def seconds(self) -> float:
        """How long it takes to send them as planned."""
        return self.count / self.rate


@dataclass(frozen=True, slots=True)
class Plan:
    """The sections, one after the other. `scheduled` is warm-up and measured section: a schedule without a gap."""

    warm_up: int
    scheduled: Part
    drain: Part
    faults: Part
    flush: Part

    @property
    def records(self) -> int:
        """How many records they need."""
        return self.flush.first + self.flush.count


def plan(asked: Asked) -> Plan:
    """The sections of what is asked."""
    warm_up = round(asked.rate * asked.warm_up_s)
    scheduled = Part(0, warm_up + round(asked.rate * asked.seconds), asked.rate)
    drain_rate, rate = min(DRAIN_RATE, asked.rate), min(FAULT_RATE, asked.rate)
    drain = Part(scheduled.count, round(drain_rate * DRAIN_S), drain_rate)
    faults_s = FAULTS_S + KILL_S * asked.kills
    faults = Part(drain.first + drain.count, round(rate * faults_s) if asked.faults else 0, rate)
    flush = Part(faults.first + faults.count, round(rate * FLUSH_S) if asked.faults else 0, rate)
    return Plan(warm_up, scheduled, drain, faults, flush)


def enough_of(flush: Part) -> int:
    """How many decisions with features say that they are back: so many can come at any rate."""
    return max(1, min(FEW, round(FEW_SHARE * flush.count)))
