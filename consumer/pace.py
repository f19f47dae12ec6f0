"""How long a batch waits for more payments: as load demands, inside its share of the budget, not at all when idle."""

from __future__ import annotations

from typing import Final

IDLE_LOAD: Final = 0.2  # below this share of time spent working, waiting would only add latency
FULL_LOAD: Final = 0.6  # from here on the whole linger pays
SMOOTHING: Final = 0.2
BUDGET_SHARE: Final = 0.25  # of the budget: a batch whose oldest payment is older than that waits no more


class Pace:
    """Decides the wait from the share of time that the loop was busy.

    Small batches cost a transaction each, so a loop that never waits is always busy. Waiting makes batches larger and
    the load smaller: the two settle where the load is between `IDLE_LOAD` and `FULL_LOAD`.
    """

    def __init__(self, *, linger_ms: int, budget_ms: int) -> None:
        """Wait at most `linger_ms`, and only while the batch's oldest payment is young."""
        self._linger_s = linger_ms / 1000
        self._limit_s = budget_ms / 1000 * BUDGET_SHARE
        self._load = 0.0

    def worked(self, busy_s: float, idle_s: float) -> None:
        """Note one turn of the loop: time spent on a batch, and time spent waiting for its first record."""
        total = busy_s + idle_s
        if total > 0:
            weight = min(1.0, SMOOTHING + total)  # long turns say more than short ones
            self._load += weight * (busy_s / total - self._load)

    def wait_s(self, oldest_age_s: float) -> float:
        """Seconds that a batch may still wait, given the age of its oldest payment."""
        wanted = self._linger_s * min(1.0, max(0.0, (self._load - IDLE_LOAD) / (FULL_LOAD - IDLE_LOAD)))
        return max(0.0, min(wanted, self._limit_s - oldest_age_s))
