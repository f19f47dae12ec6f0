"""Prequential validation: learn from what was known at a moment, and be judged on the payments behind it; then move on.

A window is judged by a model that was fitted to the payments before it, those of the last `gap` left out, because
their labels may not have arrived, with no label that was not known when the window begins. Source: Gama, Sebastiao and
Rodrigues, "On evaluating stream learning algorithms", Machine Learning 90 (2013); with the delay of labels, Dal Pozzolo
et al., "Credit card fraud detection: a realistic modeling and a novel learning strategy", IEEE TNNLS 29 (2018).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from models.dataset import DAY_MS, Mask, Times

LONGEST_MS: Final = 7 * DAY_MS  # of a window
SHORT: Final = 3  # gaps
LEARNING_SHARES: Final = 3  # that the first window's training part has at least, counted in windows


@dataclass(frozen=True, slots=True)
class Window:
    """One step. Times in ms.

    Attributes:
        learn: (n,) the payments to learn from.
        judge: (n,) the payments to be judged on.
        known_ms: what was labelled before this may be learned.
        start_ms: the window's first moment.
        end_ms: the first moment behind it.
    """

    learn: Mask
    judge: Mask
    known_ms: int
    start_ms: int
    end_ms: int


@dataclass(frozen=True, slots=True)
class Plan:
    """How a history is used.

    Attributes:
        windows: from the oldest to the newest. The newest is the test, the others are for choosing.
        gap_ms: what is left out before each of them.
        learn: (n,) the payments that the final model learns from.
        known_ms: what was labelled before this counts, for learning and for judging.
    """

    windows: tuple[Window, ...]
    gap_ms: int
    learn: Mask
    known_ms: int


def plan(event_time: Times, *, start_ms: int, end_ms: int, gap_ms: int, windows: int) -> Plan:
    """Lay out the windows of n payments: equally long, one behind the other, the last one `gap_ms` before the end.

    Where the whole span is shorter than three gaps, the gaps before windows are a third of it; for labels of their
    learning parts to be there, those that were known at the end count, so such windows are judged too kindly.

    Args:
        event_time: (n,) n > 0.
        start_ms: older payments are not learned from.
        end_ms: the moment at which the model is made; payments and labels from then on are not looked at.
        gap_ms: how long labels take.
        windows: how many.
    """
    last_ms = min(end_ms - gap_ms, int(event_time.max()) + 1)
    first_ms = max(start_ms, int(event_time.min()))
    before_ms = min(gap_ms, max(last_ms - first_ms, 0) // SHORT)
    length = min((last_ms - first_ms - before_ms) // (windows + LEARNING_SHARES), LONGEST_MS)
    steps = []
    for number in range(windows if length > 0 else 0):
        start = last_ms - length * (windows - number)
        learn = (event_time >= first_ms) & (event_time < start - before_ms)
        judge = (event_time >= start) & (event_time < start + length)
        known_ms = start if before_ms == gap_ms else end_ms
        steps.append(Window(learn, judge, known_ms, start, start + length))
    return Plan(tuple(steps), before_ms, (event_time >= first_ms) & (event_time < last_ms), end_ms)
