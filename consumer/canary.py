"""The canary: for which cards a challenger decides, and when that ends by itself.

Every processor comes to the same share: it depends on the settings and on when the challenger was promoted. A card that
a share includes stays included when the share grows.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_intdigest

from consumer.settings import ChallengerSettings

Mask = npt.NDArray[np.bool_]
Decisions = npt.NDArray[np.uint8]

FEW: Final = 10  # alerts or blocks below which a ratio says little: the champion's are taken as so many
APPROVE, BLOCK = 0, 2


@dataclass(slots=True)
class _Counts:
    """Of the payments that both judged in one second."""

    second: int
    payments: int = 0
    failed: int = 0
    champion_alerts: int = 0
    challenger_alerts: int = 0
    champion_blocks: int = 0
    challenger_blocks: int = 0


class Canary:
    """One challenger's canary in one processor. `stop` may be called from any thread."""

    def __init__(self, options: ChallengerSettings, digest: str, promoted_ms: int) -> None:
        """Cards are chosen by a hash that the challenger's digest seeds: another one meets other cards first."""
        self.digest = digest
        self.promoted_ms = promoted_ms
        self._options = options
        self._seed = int(digest[:16], 16)
        self._window: deque[_Counts] = deque()
        self._lock = threading.Lock()
        self._stopped: str | None = None

    @property
    def stopped(self) -> str | None:
        """Why the challenger decides nothing any more; None while it may."""
        return self._stopped

    def stop(self, reason: str) -> bool:
        """End the canary for good. Whether it had not been ended before."""
        with self._lock:
            first = self._stopped is None
            if first:
                self._stopped = reason
        return first

    def share(self, now_s: float) -> float:
        """The share of cards now, 0 to 1."""
        shares = self._options.canary_shares
        if not shares or self._stopped is not None:
            return 0.0
        step = int(max(0.0, now_s - self.promoted_ms / 1_000) // self._options.canary_step_s)
        return shares[min(step, len(shares) - 1)]

    def chosen(self, cards: Sequence[str], share: float) -> Mask:
        """(n,) for which of these cards the challenger decides."""
        bar = round(share * 2**64)
        return np.fromiter((xxh3_64_intdigest(card.encode(), self._seed) < bar for card in cards), np.bool_, len(cards))

    def watch(self, champion: Decisions, challenger: Decisions, due: Mask, *, failed: bool, now_s: float) -> str | None:
        """Count a committed batch that both judged. The reason why the canary has to end, if there is one.

        Args:
            champion: (n,) its decisions, see `models.policy.DECISIONS`.
            challenger: (n,) likewise.
            due: (n,) which payments count.
            failed: the challenger's model could not score them.
            now_s: Unix time in seconds.
        """
        second = int(now_s)
        while self._window and self._window[0].second <= second - self._options.guard_window_s:
            self._window.popleft()
        if not self._window or self._window[-1].second != second:
            self._window.append(_Counts(second))
        counts = self._window[-1]
        payments = int(np.count_nonzero(due))
        counts.payments += payments
        counts.failed += payments if failed else 0
        counts.champion_alerts += int(np.count_nonzero(due & (champion > APPROVE)))
        counts.challenger_alerts += int(np.count_nonzero(due & (challenger > APPROVE)))
        counts.champion_blocks += int(np.count_nonzero(due & (champion == BLOCK)))
        counts.challenger_blocks += int(np.count_nonzero(due & (challenger == BLOCK)))
        return self._judged()

    def _judged(self) -> str | None:
        options = self._options

        def total(name: str) -> int:
            return sum(getattr(counts, name) for counts in self._window)

        payments = total("payments")
        if payments < options.guard_min_payments:
            return None
        if (failed := total("failed")) > options.max_failed_share * payments:
            return f"its model failed for {failed:,} of {payments:,} payments"
        for what, most in (("alerts", options.max_alert_ratio), ("blocks", options.max_block_ratio)):
            ours, theirs = total(f"challenger_{what}"), total(f"champion_{what}")
            if ours > most * max(theirs, FEW):
                return f"{ours:,} {what} where the champion had {theirs:,}, of {payments:,} payments"
        ours, theirs = total("challenger_alerts"), total("champion_alerts")
        if theirs >= FEW and ours < options.min_alert_ratio * theirs:
            return f"only {ours:,} alerts where the champion had {theirs:,}, of {payments:,} payments"
        return None
