"""Drift of the payments that this process decides: counts over sliding windows, and what is exported of them."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from consumer.metrics import FEATURE_PSI, MISSING_SHIFT, SCORE_PSI, Metric
from models.drift import WIDTH, Bins, Counts
from models.manifest import Reference

Values = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Window:
    """So many slots of so many seconds: what is older than all of them is forgotten, a slot at a time."""

    name: str
    slots: int
    slot_s: float


WINDOWS: Final = (Window("1h", 12, 300.0), Window("24h", 24, 3_600.0))


class Drift:
    """Counts what one model sees, from its reference's bins. Counted by one thread, read by any."""

    def __init__(self, digest: str, known: Reference, features: tuple[str, ...], clock: Callable[[], float]) -> None:
        """Begin with nothing; `clock` tells Unix time, `digest` the bundle."""
        self.digest, self.bins = digest, Bins(known, features)
        self._clock = clock
        self._lock = threading.Lock()
        shape = len(self.bins.names), WIDTH
        self._counts: dict[str, Counts] = {each.name: np.zeros((each.slots, *shape), np.int64) for each in WINDOWS}
        self._slot = {each.name: self._number(each) for each in WINDOWS}

    def count(self, scores: Values, values: Values) -> None:
        """Count n payments: (n,) scores and (n, features) values."""
        if not len(scores):
            return
        new = np.zeros((len(self.bins.names), WIDTH), np.int64)
        self.bins.count(scores, values, new)
        with self._lock:
            for window in WINDOWS:
                self._turn(window)
                self._counts[window.name][self._slot[window.name] % window.slots] += new

    def counts(self, window: Window) -> Counts:
        """(names, bins) what a window has seen."""
        with self._lock:
            self._turn(window)
            total: Counts = self._counts[window.name].sum(axis=0)
            return total

    def document(self) -> dict[str, Any]:
        """The counts of all windows, for `fraudline drift report`, which adds those of several processes."""
        return {
            "bundle": self.digest,
            "names": self.bins.names,
            "windows": {each.name: self.counts(each).tolist() for each in WINDOWS},
        }

    def _number(self, window: Window) -> int:
        return math.floor(self._clock() / window.slot_s)

    def _turn(self, window: Window) -> None:
        """Empty the slots that have come round since the last time."""
        last, now = self._slot[window.name], self._number(window)
        if now <= last:
            return  # a clock that was set back: what is counted now belongs to the newest slot
        for slot in range(max(last + 1, now - window.slots + 1), now + 1):
            self._counts[window.name][slot % window.slots] = 0
        self._slot[window.name] = now


class DriftCollector(Collector):
    """Exports the drift of whoever decides now; nothing for a bundle without a reference."""

    def __init__(self) -> None:
        """Nobody decides yet."""
        self.current: Drift | None = None

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """One sample a feature and window, where there are payments enough."""
        psi, missing, score = (_family(metric) for metric in (FEATURE_PSI, MISSING_SHIFT, SCORE_PSI))
        drift = self.current
        for window in WINDOWS if drift is not None else ():
            assert drift is not None  # noqa: S101  the line above
            counts = drift.counts(window)
            found, shifts = drift.bins.psi(counts).tolist(), drift.bins.missing_shift(counts).tolist()
            if not math.isnan(found[0]):
                score.add_metric([window.name], found[0])
            for name, index, shift in zip(drift.bins.names[1:], found[1:], shifts[1:], strict=True):
                if not math.isnan(index):
                    psi.add_metric([name, window.name], index)
                    missing.add_metric([name, window.name], shift)
        yield from (psi, missing, score)


def _family(metric: Metric) -> GaugeMetricFamily:
    return GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
