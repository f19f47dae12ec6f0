"""A process with all that it started: what it uses, seen from outside, and its end."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Final, Self

import numpy as np
import psutil

CPU_EVERY_S: Final = 0.1
FAMILY_EVERY_S: Final = 0.5  # looking for new children reads the whole process table
MEMORY_EVERY_S: Final = 1.0  # and memory every page table of the family
LOOK_EVERY_S: Final = 0.02
KILL_DEADLINE_S: Final = 10.0


def family(pid: int) -> list[psutil.Process]:
    """The process, its descendants, and what lives in its session though its parent has ended."""
    found = {pid} if psutil.pid_exists(pid) else set()
    with suppress(psutil.NoSuchProcess):
        found |= {child.pid for child in psutil.Process(pid).children(recursive=True)}
    for other in psutil.pids():
        with suppress(ProcessLookupError, PermissionError):
            if os.getsid(other) == pid:
                found.add(other)
    return list(_alive(found))


def kill(pid: int) -> None:
    """End the whole family at once (SIGKILL), as when the machine is switched off; returns when it is gone.

    It is stopped first, so that nobody starts a child while the others are being killed.
    """
    deadline = time.monotonic() + KILL_DEADLINE_S
    while members := [each for each in family(pid) if _runs(each)]:
        for each in members:
            with suppress(psutil.NoSuchProcess):
                each.suspend()
        for each in family(pid):
            with suppress(psutil.NoSuchProcess):
                each.kill()
        time.sleep(LOOK_EVERY_S)  # not a wait for them: their status is their parents' to collect
        if time.monotonic() > deadline:
            message = f"The processes that {pid} started did not end in {KILL_DEADLINE_S:.0f} s after a SIGKILL."
            raise TimeoutError(message)


class TreeWatch:
    """Samples CPU time and memory of a family until it is left. Use as a context manager."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._used_s: dict[int, float] = {}  # by process; what has ended stays
        self._at_ns: list[int] = []
        self._total_s: list[float] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="tree-watch")
        self.peak_mib = 0.0
        self.processes = 0

    def cpu_s(self, start_ns: int, end_ns: int) -> float:
        """CPU seconds between two instants (`time.time_ns`), user and system."""
        first, last = np.interp([start_ns, end_ns], self._at_ns, self._total_s)
        return float(last - first)

    @property
    def total_s(self) -> float:
        """CPU seconds that the family had used when it was last looked at."""
        return self._total_s[-1] if self._total_s else 0.0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        members: list[psutil.Process] = []
        looked = weighed = -np.inf
        while True:
            now = time.monotonic()
            if now - looked >= FAMILY_EVERY_S:
                members, looked = family(self._pid), now
                self.processes = max(self.processes, len(members))
            self._sample(members)
            if now - weighed >= MEMORY_EVERY_S:
                self.peak_mib, weighed = max(self.peak_mib, sum(map(_pss_mib, members))), now
            if self._stopping.wait(CPU_EVERY_S):
                return

    def _sample(self, members: list[psutil.Process]) -> None:
        for each in members:
            with suppress(psutil.NoSuchProcess):
                times = each.cpu_times()
                self._used_s[each.pid] = times.user + times.system
        self._at_ns.append(time.time_ns())
        self._total_s.append(sum(self._used_s.values()))


def _alive(pids: set[int]) -> Iterator[psutil.Process]:
    for pid in sorted(pids):
        with suppress(psutil.NoSuchProcess):
            yield psutil.Process(pid)


def _runs(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    return False


def _pss_mib(process: psutil.Process) -> float:
    """Its own pages and its share of those that it has in common with others."""
    with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        return float(process.memory_full_info().pss) / 2**20
    return 0.0
