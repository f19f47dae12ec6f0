"""The processes of a bench: started, waited for, measured from outside, and ended whatever happens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, Self

import numpy as np
import psutil

SAMPLE_S: Final = 0.1
READY: Final = "ready"
END_DEADLINE_S: Final = 30.0


class BenchError(RuntimeError):
    """A process of a bench failed; the text ends with what it said."""


class Child:
    """`python -m MODULE ARGUMENTS...`, whose last line of output is one JSON object. Use as a context manager.

    Leaving ends the process if it still runs. `python` is another interpreter than this one; with `apart` the process
    leads a session of its own, by which what it starts is found again.
    """

    def __init__(
        self, module: str, arguments: Mapping[str, object], *, python: Path | None = None, apart: bool = False
    ) -> None:
        self._module, self._apart = module, apart
        words = [word for name, value in arguments.items() for word in (f"--{name}", str(value))]
        self._command = [str(python or sys.executable), "-m", module, *words]
        self._out: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  closed on leaving
        self._said: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id."""
        return self._running.pid

    def wait_ready(self, deadline_s: float = 60.0) -> None:
        """Return when it has said `ready` on standard error. Raises BenchError."""
        deadline = time.monotonic() + deadline_s
        while READY not in self._text(self._said).split():
            if self._running.poll() is not None:
                raise self._failed("ended before it was ready")
            if time.monotonic() > deadline:
                raise self._failed(f"was not ready in {deadline_s:.0f} s")
            time.sleep(0.02)

    def wait_end(self, deadline_s: float) -> bool:
        """Whether it ended by itself in time."""
        try:
            self._running.wait(deadline_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self._running.poll() is not None

    def said(self) -> str:
        """The end of what it wrote, on standard output and standard error."""
        return "\n".join(text[-2000:] for text in map(self._text, (self._out, self._said)) if text)

    def stop(self, deadline_s: float = END_DEADLINE_S) -> None:
        """Ask it to end (SIGTERM), and insist when it does not."""
        if self._running.poll() is None:
            self._running.terminate()
            if not self.wait_end(deadline_s):
                self._running.kill()
                self._running.wait()

    def result(self) -> dict[str, Any]:
        """The JSON object of its last line, once it has ended. Raises BenchError."""
        lines = self._text(self._out).splitlines()
        if self._running.poll() != 0 or not lines:
            raise self._failed(f"ended with status {self._running.poll()}")
        found: dict[str, Any] = json.loads(lines[-1])
        return found

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=self._said,
            start_new_session=self._apart,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._out.close()
        self._said.close()

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            message = f"{self._module} was not started."
            raise BenchError(message)
        return self._process

    def _failed(self, how: str) -> BenchError:
        return BenchError(f"{self._module} {how}; it said:\n{self._text(self._said)[-3000:]}")

    @staticmethod
    def _text(file: IO[bytes]) -> str:
        # not `read`, which would move the offset that the child writes at: both share it
        return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode(errors="replace")


@dataclass(frozen=True, slots=True)
class _Sample:
    at_ns: int
    used_s: dict[str, float]


class CpuWatch:
    """Samples the CPU time of processes and of the whole machine until it is left. Use as a context manager."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._processes = {name: psutil.Process(pid) for name, pid in pids.items()}
        self._samples: list[_Sample] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="cpu-watch")

    def add(self, name: str, pid: int) -> None:
        """Watch another process from now on."""
        self._processes = self._processes | {name: psutil.Process(pid)}

    def percent(self, start_ns: int, end_ns: int) -> dict[str, float]:
        """Percent of one core between two instants (`time.time_ns`) of each process, and of what ran besides.

        `other` is what the machine was busy with beyond these processes, `stolen` what a hypervisor took away.
        """
        names = dict.fromkeys(name for sample in self._samples for name in sample.used_s)
        used = {name: self._between(name, start_ns, end_ns) for name in names}
        busy = used.pop("machine")
        stolen = used.pop("stolen")
        return used | {"other": max(0.0, busy - sum(used.values())), "stolen": stolen}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _between(self, name: str, start_ns: int, end_ns: int) -> float:
        known = [(sample.at_ns, sample.used_s[name]) for sample in self._samples if name in sample.used_s]
        at, used = zip(*known, strict=True)
        first, last = np.interp([start_ns, end_ns], at, used)
        return float(last - first) / (end_ns - start_ns) * 1e11

    def _run(self) -> None:
        while not self._stopping.wait(SAMPLE_S):
            self._samples.append(self._sample())

    def _sample(self) -> _Sample:
        machine = psutil.cpu_times()
        stolen = float(getattr(machine, "steal", 0.0))
        idle = float(machine.idle) + float(getattr(machine, "iowait", 0.0))
        # guest time is part of user time
        guest = float(getattr(machine, "guest", 0.0)) + float(getattr(machine, "guest_nice", 0.0))
        used = {"machine": float(sum(machine)) - idle - stolen - guest, "stolen": stolen}
        for name, process in self._processes.items():
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            used[name] = times.user + times.system
        return _Sample(time.time_ns(), used)
