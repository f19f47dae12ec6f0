"""How far behind a processor is, told at the moment of asking: a loop that is stuck can't tell it itself."""

from __future__ import annotations


class Lag:
    """The age of the newest decided payment, which grows while others wait. Written by one thread, read by any."""

    def __init__(self) -> None:
        """Nothing waits yet."""
        self._known: tuple[float, float] = (0.0, 0.0)  # the age, and when it was that
        self._is_waited_for = False

    def decided(self, age_s: float, now_s: float) -> None:
        """A batch was committed at `now_s`; its newest payment was `age_s` old then."""
        self._known = age_s, now_s

    def waiting(self, records: int, now_s: float) -> None:
        """So many records wait at `now_s`; with none, all is decided. Before the first batch, they wait from now on."""
        if not records or not self._known[1]:
            self._known = 0.0, now_s
        self._is_waited_for = records > 0

    def seconds(self, now_s: float) -> float:
        """The lag at `now_s`; 0 when nothing waits."""
        age_s, at_s = self._known
        return age_s + max(0.0, now_s - at_s) if self._is_waited_for else age_s
