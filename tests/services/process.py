"""A server that the tests own: ready when started, killed or stalled on demand, and gone when the tests are gone."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

START_DEADLINE_S = 60.0
STOP_DEADLINE_S = 15.0
_ATTEMPTS = 4
_PORT_TAKEN = ("Address already in use", "BindException")

# The kernel kills the server when the thread that started it ends, so a crashed test run leaves nothing behind.
# A small program that sets this and then becomes the server is safe beside threads; `preexec_fn` is not.
_TIED_TO_PARENT = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the process that asked for this server has ended")
os.execvp(sys.argv[2], sys.argv[2:])
"""


class ServiceError(RuntimeError):
    """A server did not start, did not answer in time or ended by itself; the text ends with the tail of its log."""


def free_ports(count: int) -> list[int]:
    """Loopback ports that the OS says are free now; another process may still take one before the server does."""
    with ExitStack() as probes:
        sockets = [probes.enter_context(socket.socket()) for _ in range(count)]
        for probe in sockets:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in sockets]


class Service(ABC):
    """One server process with its own ports and data directory.

    `start`, `restart` and leaving `pause` return when the server answers. The thread that calls `start` or `restart`
    must live as long as the server does (on Linux the server is killed when it ends). Use as a context manager, or
    call `close`.
    """

    name: str
    port_count: int

    def __init__(self) -> None:
        self.data = Path(tempfile.mkdtemp(prefix=f"{self.name}-"))
        self.log = self.data / "server.log"
        self.ports: list[int] = []
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def prepare(self) -> None:
        """Write what the server needs in `data` for the present `ports`; runs before each first start."""

    @abstractmethod
    def command(self) -> Sequence[str]:
        """The command line that starts the server."""

    @abstractmethod
    def answers(self) -> bool:
        """Whether the server serves requests now; blocks at most about a second."""

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        if self._process is None:
            message = f"{self.name} is not running; start or restart it first."
            raise ServiceError(message)
        return self._process.pid

    def start(self) -> Self:
        """Start on fresh ports; take others when somebody was faster. Returns when the server answers."""
        for attempt in range(_ATTEMPTS):
            self.ports = free_ports(self.port_count)
            self.prepare()
            if self._launch(last_attempt=attempt == _ATTEMPTS - 1):
                break
        return self

    def restart(self) -> Self:
        """Start again on the same ports and data, stopping first if it runs. Returns when the server answers."""
        self.stop()
        for attempt in range(_ATTEMPTS):
            if self._launch(last_attempt=attempt == _ATTEMPTS - 1):
                break
        return self

    def stop(self) -> None:
        """End in good order (SIGTERM), or by force when that takes too long; ports and data stay for `restart`."""
        if self._process is None:
            return
        self._signal(signal.SIGCONT)
        self._signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self._process.wait()
        self._process = None

    def kill(self) -> None:
        """End at once (SIGKILL), as a crash would; ports and data stay for `restart`."""
        if self._process is not None:
            self._signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Stall (SIGSTOP): connections stay open and nothing is answered until `resume`."""
        os.killpg(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Go on after `pause`; returns when the server answers again."""
        os.killpg(self.pid, signal.SIGCONT)
        self._await_answer()

    def heal(self) -> None:
        """Undo what a failed test may have left: go on if paused, start again if ended."""
        if self._process is None or self._process.poll() is not None:
            self._process = None
            self.restart()
        else:
            self.resume()

    def close(self) -> None:
        """End the server and delete its data."""
        self.kill()
        shutil.rmtree(self.data, ignore_errors=True)

    def tail(self, lines: int = 30) -> str:
        """The last lines of the server's log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else ""

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_: object) -> None:
        self.close()

    def _launch(self, *, last_attempt: bool) -> bool:
        """Start the process and wait until it answers; False when its port was taken and another try is left."""
        command = list(self.command())
        if sys.platform == "linux":
            command = [sys.executable, "-I", "-S", "-c", _TIED_TO_PARENT, str(os.getpid()), *command]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.data, start_new_session=True
            )
        try:
            self._await_answer()
        except BaseException:
            self.kill()
            if last_attempt or not any(sign in self.tail(200) for sign in _PORT_TAKEN):
                raise
            return False
        return True

    def _await_answer(self) -> None:
        deadline = time.monotonic() + START_DEADLINE_S
        while not self.answers():
            if self._process is None or self._process.poll() is not None:
                message = f"{self.name} ended before it answered; its log ends with:\n{self.tail()}"
                raise ServiceError(message)
            if time.monotonic() > deadline:
                message = f"{self.name} did not answer in {START_DEADLINE_S:.0f} s; its log ends with:\n{self.tail()}"
                raise ServiceError(message)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, number)
