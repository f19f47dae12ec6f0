"""`fraudline run` as anybody starts it, which also writes once a second how often the garbage collector ran.

    python -m bench.soak_worker GC_FILE

A line is `COLLECTIONS SECONDS_SPENT` (of the oldest generation), the newest last.
"""

from __future__ import annotations

import gc
import sys
import threading
import time
from pathlib import Path

from consumer.cli import main as fraudline

EVERY_S = 1.0


class Collections:
    """Counts collections of the oldest generation and the time that they take."""

    def __init__(self) -> None:
        self.count = 0
        self.spent_s = 0.0
        self._begun_s = 0.0
        gc.callbacks.append(self._noted)

    def _noted(self, phase: str, info: dict[str, int]) -> None:
        if info["generation"] != 2:
            return
        if phase == "start":
            self._begun_s = time.perf_counter()
        else:
            self.count += 1
            self.spent_s += time.perf_counter() - self._begun_s

    def write(self, path: Path) -> None:
        """Write a line a second until this process ends."""
        pause = threading.Event()
        with path.open("w", buffering=1) as file:
            while not pause.wait(EVERY_S):
                file.write(f"{self.count} {self.spent_s:.6f}\n")


if __name__ == "__main__":
    threading.Thread(target=Collections().write, args=(Path(sys.argv[1]),), daemon=True, name="soak-gc").start()
    fraudline(["run"])
