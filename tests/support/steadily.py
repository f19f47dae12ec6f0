"""Something that is done again and again while a test goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Self


class Steadily(threading.Thread):
    """Calls `act` on a thread of its own, `pause_s` after it came back, until it is stopped. A context manager."""

    def __init__(self, act: Callable[[], None], pause_s: float) -> None:
        super().__init__(name="steadily")
        self._act, self._pause_s = act, pause_s
        self._stopping = threading.Event()

    def run(self) -> None:
        while not self._stopping.wait(self._pause_s):
            self._act()

    def stop(self) -> None:
        """Return when the last call has come back."""
        self._stopping.set()
        self.join()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
