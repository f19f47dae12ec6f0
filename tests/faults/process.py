"""A worker's process as a test sees it: what it says can be awaited, its log be read, and it be signalled."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from tests.faults.worker import Spec

START_S = 40.0
DEADLINE_S = 60.0
ROOT = Path(__file__).parents[2]


class Worker:
    """One child process; what it says arrives on a thread, and can be awaited."""

    def __init__(self, spec: Spec, changed: threading.Condition, environment: Mapping[str, str]) -> None:
        """Start it; `changed` is notified of whatever it says, and shared by the workers of a scene.

        `environment` is added to this process's.
        """
        command = [sys.executable, "-m", "tests.faults.worker", "--spec", msgspec.json.encode(spec).decode()]
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed in `end`
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            cwd=ROOT,
            env=os.environ | environment,
        )
        self._said: list[str] = []
        self._changed = changed
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def said(self, word: str) -> list[str]:
        """All lines so far that begin with `word`."""
        with self._changed:
            return [line for line in self._said if line.split(" ", 1)[0] == word]

    def wait_for(self, word: str, *, times: int = 1, timeout_s: float = START_S) -> str:
        """Wait until it has said a line that begins with `word` so many times; returns the last of them."""

        def heard() -> bool:
            return len([line for line in self._said if line.split(" ", 1)[0] == word]) >= times or self.over

        with self._changed:
            self._changed.wait_for(heard, timeout_s)
        lines = self.said(word)
        assert len(lines) >= times, f"the worker never said {word!r}; {self.story()}"
        return lines[-1]

    def wait_stopped(self) -> None:
        """Wait until it has stopped itself."""
        self.wait_for("stopping", timeout_s=DEADLINE_S)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        assert self.process.poll() is None, self.story()

    def wait_inside(self, function: str, timeout_s: float = DEADLINE_S) -> None:
        """Wait until one of its threads is in a function of that name, asking again and again where they are."""

        def there() -> bool:
            self.send(signal.SIGUSR1)
            return any(line.endswith(f" in {function}") for line in self._log_lines())

        self.wait_until(there, f"it to be in {function}", timeout_s)

    def wait_until(self, holds: Callable[[], bool], what: str, timeout_s: float = DEADLINE_S) -> None:
        """Wait until something holds of which nobody tells, such as a line of its log."""
        deadline, pause = time.monotonic() + timeout_s, threading.Event()
        while not holds():
            assert time.monotonic() < deadline, f"waited {timeout_s} s for {what} in vain; {self.story()}"
            pause.wait(0.05)

    def go_on(self) -> None:
        """Let a loop that is stuck go on."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait_exit(self, timeout_s: float = DEADLINE_S) -> int:
        """Wait for its end; returns its exit status, negative for a signal."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the worker did not end in {timeout_s} s; {self.story()}") from None

    def drain(self) -> int:
        """Ask it to end in good order (SIGTERM); returns its exit status."""
        self.send(signal.SIGTERM)
        return self.wait_exit()

    def end(self) -> None:
        """Kill it if it still lives."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._listener.join()
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        self.log.close()

    def logged(self, event: str) -> list[dict[str, Any]]:
        """What its log says of such events by now."""
        lines = [json.loads(line) for line in self._log_lines() if line.startswith("{") and line.endswith("}")]
        return [line for line in lines if line["event"] == event]

    def story(self, lines: int = 60) -> str:
        """What it said and logged last, for a failed test."""
        tail = "\n".join(self._log_lines()[-lines:])
        return f"status {self.process.poll()}, it said {self._said}, its log ends with:\n{tail}"

    def _log_lines(self) -> list[str]:
        """Read without moving the place in the file, which is the child's too."""
        descriptor = self.log.fileno()
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode(errors="replace").splitlines()

    @property
    def over(self) -> bool:
        """Whether it has closed its output, as its end does."""
        return self._said[-1:] == ["closed"]

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._changed:
                self._said.append(line.strip())
                self._changed.notify_all()
        with self._changed:
            self._said.append("closed")
            self._changed.notify_all()
