"""Samples processes and services once a second: memory, descriptors, threads, Redis, lag, collections of garbage."""

from __future__ import annotations

import re
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from math import nan
from pathlib import Path
from statistics import fmean
from typing import Any, Final, Self

import psutil
from redis import Redis

EVERY_S: Final = 1.0
MIB: Final = 1 << 20
_LAG: Final = re.compile(r"^fraudline_lag_records(?:\{[^}]*\})? (\S+)$", re.MULTILINE)


class Watch:
    """Keeps a row a second from when it is entered until it is left.

    A row has `at_s` (since it was entered) and what could be read: `NAME_rss_mib`, `NAME_uss_mib`, `NAME_files` and
    `NAME_threads` of each process, `redis_mib`, `redis_keys`, `lag`, `collections` and `collecting_s`.
    """

    def __init__(self, pids: Mapping[str, int], *, redis_url: str, metrics: str, collections: Path) -> None:
        """`metrics` is the address of a worker's metrics, `collections` a file of `bench.soak_worker`."""
        self._processes = {name: psutil.Process(pid) for name, pid in pids.items()}
        self._redis = Redis.from_url(redis_url)
        self._metrics, self._collections = metrics, collections
        self.rows: list[dict[str, float]] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="soak-watch")
        self._begun = 0.0

    def series(self, name: str) -> tuple[list[float], list[float]]:
        """Times in s and values of all rows that have it."""
        known = [(row["at_s"], row[name]) for row in self.rows if name in row]
        return [at for at, _ in known], [value for _, value in known]

    def by_minute(self, name: str) -> list[float]:
        """The mean of each minute that has a value of it, and of those between them; NaN without one."""
        minutes: dict[int, list[float]] = {}
        for at_s, value in zip(*self.series(name), strict=True):
            minutes.setdefault(int(at_s // 60), []).append(value)
        return [fmean(minutes.get(minute, [nan])) for minute in range(max(minutes, default=-1) + 1)]

    def __enter__(self) -> Self:
        self._begun = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()
        self._redis.close()

    def _run(self) -> None:
        due = self._begun
        while not self._stopping.wait(max(0.0, due - time.monotonic())):
            row = {"at_s": time.monotonic() - self._begun}
            for sample in (self._of_processes, self._of_redis, self._of_worker):
                with suppress(OSError, psutil.Error):  # what is away now is looked for again in a second
                    row |= sample()
            self.rows.append(row)
            due += EVERY_S

    def _of_processes(self) -> dict[str, float]:
        row: dict[str, float] = {}
        for name, process in self._processes.items():
            memory = process.memory_full_info()
            row |= {
                f"{name}_rss_mib": memory.rss / MIB,
                f"{name}_uss_mib": memory.uss / MIB,
                f"{name}_files": process.num_fds(),
                f"{name}_threads": process.num_threads(),
            }
        return row

    def _of_redis(self) -> dict[str, float]:
        info: dict[str, Any] = self._redis.info("memory")  # type: ignore[assignment]  # not awaitable here
        return {"redis_mib": info["used_memory"] / MIB, "redis_keys": float(self._redis.dbsize())}  # type: ignore[arg-type]

    def _of_worker(self) -> dict[str, float]:
        with urllib.request.urlopen(self._metrics, timeout=5) as answer:
            lag = sum(float(value) for value in _LAG.findall(answer.read().decode()))
        lines = self._collections.read_text().splitlines()
        count, spent_s = map(float, lines[-1].split()) if lines else (0.0, 0.0)
        return {"lag": lag, "collections": count, "collecting_s": spent_s}


class Calendar:
    """What happens beside the load, each at its interval: on a thread of its own, noted when it began."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.events: list[dict[str, Any]] = []
        self._clock, self._begun = clock, clock()
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self.failures: list[str] = []

    def every(self, interval_s: float, name: str, act: Callable[[], None]) -> None:
        """Call `act` each `interval_s` from now on."""

        def run() -> None:
            while not self._stopping.wait(interval_s):
                self.events.append({"at_s": round(self._clock() - self._begun, 1), "what": name})
                try:
                    act()
                except Exception as error:  # the report names it; the soak goes on
                    self.failures.append(f"{name}: {error}")

        thread = threading.Thread(target=run, daemon=True, name=f"soak-{name}")
        thread.start()
        self._threads.append(thread)

    def stop(self) -> None:
        """Begin nothing more, and wait for what has begun."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()
