"""The decline limiter: a model or a rule gone wrong must not turn away half of all customers.

What would be blocked beyond the limit is reviewed instead. That depends on what else came in the same minute, so each
decision says when it was limited, and a replay takes it as given.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from models.policy import BLOCK, REVIEW, LimiterOptions

Mask = npt.NDArray[np.bool_]
WINDOW_S: Final = 60.0
FEW: Final = 100  # payments in the window below which a share says little: the share is taken of so many


@dataclass(frozen=True, slots=True)
class _Batch:
    at_s: float
    decided: int
    blocked: int


class Limiter:
    """Counts what was blocked in the last minute. One a processor; `hold` a batch, then `settle` it once committed."""

    def __init__(self, options: LimiterOptions | None, before: Limiter | None = None) -> None:
        """Without options nothing is limited. What `before` counted in the last minute is counted on."""
        self._options = options
        self._batches: deque[_Batch] = deque(() if before is None else before._batches)
        self._decided: int = 0 if before is None else before._decided
        self._blocked: int = 0 if before is None else before._blocked
        self._pending: _Batch | None = None

    def hold(self, decision: npt.NDArray[np.uint8], due: Mask, now_s: float) -> Mask | None:
        """Lower what is beyond the limit from block to review, in place, the last ones of a batch first.

        Args:
            decision: (n,) see `models.policy.DECISIONS`.
            due: (n,) which decisions will be published.
            now_s: a clock's seconds.

        Returns:
            (n,) which were lowered; None for none.
        """
        self._pending = None
        while self._batches and self._batches[0].at_s <= now_s - WINDOW_S:
            gone = self._batches.popleft()
            self._decided -= gone.decided
            self._blocked -= gone.blocked
        blocks, decided = np.flatnonzero(due & (decision == BLOCK)), int(np.count_nonzero(due))
        allowed = max(0, self._room(decided, len(blocks)))
        self._pending = _Batch(now_s, decided, min(len(blocks), allowed))
        if len(blocks) <= allowed:
            return None
        held = np.zeros(len(decision), np.bool_)
        held[blocks[allowed:]] = True
        decision[held] = REVIEW
        return held

    def settle(self) -> None:
        """The batch was committed; one that was not is held again when it comes again."""
        if self._pending is not None:
            self._batches.append(self._pending)
            self._decided += self._pending.decided
            self._blocked += self._pending.blocked
            self._pending = None

    def _room(self, decided: int, wanted: int) -> int:
        options, rooms = self._options, []
        if options is None:
            return wanted
        if options.max_blocks_per_minute is not None:
            rooms.append(options.max_blocks_per_minute)
        if options.max_block_share is not None:
            rooms.append(int(options.max_block_share * max(self._decided + decided, FEW)))
        return min(rooms, default=decided + self._blocked) - self._blocked
