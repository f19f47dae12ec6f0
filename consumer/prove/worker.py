"""The deployment's own processor, `fraudline run`, as a child process: what it logs, and how it ends."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from features.errors import ConfigError, FraudlineError

START_S: Final = 120.0
PAGE_S: Final = 10.0
_ERROR: Final = "error: "
_EXIT_MISUSED: Final = 2
_OVERDUE: Final = '"event": "drain_deadline_passed"'


@dataclass(frozen=True, slots=True)
class Ended:
    """How a worker ended: what it was told (`drain`, `kill`, or nothing), and its exit status (negative: a signal).

    `is_overdue`: it ended itself, since finishing took longer than `processing.drain_deadline_ms`.
    `is_stuck`: it lived, was given no partition in time, and was killed for that.
    """

    replica: str
    told: str
    status: int
    is_overdue: bool = False
    is_stuck: bool = False


class Worker:
    """One `fraudline run`. Its log arrives on a thread, and is kept."""

    def __init__(self, replica: str, environment: Mapping[str, str], config: Path | None) -> None:
        """Start it. `replica` makes its transactional id: whoever starts after a kill under it takes its place."""
        self.replica = replica
        self.log: list[str] = []
        self._told, self._has_said_all = "", False
        self._changed = threading.Condition()
        named = [] if config is None else ["--config", str(config)]
        self._process = subprocess.Popen(  # noqa: S603  ourselves
            [sys.executable, "-P", "-m", "consumer.prove.child", str(os.getpid()), "run", *named],
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,  # a Ctrl-C is for the proof, which ends its workers in its own order
        )
        self._listener = threading.Thread(target=self._listen, daemon=True, name=f"log-{replica}")
        self._listener.start()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def lives(self) -> bool:
        """Whether it runs, or is stopped."""
        return self._process.poll() is None

    def wait_for(self, event: str, limit_s: float = START_S) -> dict[str, Any]:
        """The first log line of an event, waiting for it.

        Raises FraudlineError: it ended, with what it said, or did not come to it in time.
        """
        mark = f'"event": "{event}"'

        def logged() -> str | None:
            return next((line for line in self.log if mark in line), None)

        with self._changed:
            self._changed.wait_for(lambda: logged() is not None or self._has_said_all, limit_s)
            line = logged()
        if line is None:
            raise self._failure(f"said nothing of {event} in {limit_s:.0f} s")
        document: dict[str, Any] = json.loads(line)
        return document

    def wait_ready(self, limit_s: float = START_S) -> None:
        """Wait until it reads partitions. Raises FraudlineError."""
        self.wait_for("partitions_assigned", limit_s)

    def page(self, path: str) -> str:
        """What it serves, such as /metrics. Raises FraudlineError."""
        connection = http.client.HTTPConnection("127.0.0.1", int(self.wait_for("started")["port"]), timeout=PAGE_S)
        try:
            connection.request("GET", path)
            return connection.getresponse().read().decode()
        except (OSError, http.client.HTTPException):
            raise self._failure(f"did not serve {path}") from None
        finally:
            connection.close()

    def drain(self, limit_s: float) -> Ended:
        """Ask it to end in good order, and wait for that."""
        self.send(signal.SIGTERM, "drain")
        return self.ended(limit_s)

    def kill(self) -> Ended:
        """`kill -9`."""
        self.send(signal.SIGKILL, "kill")
        return self.ended()

    def give_up(self) -> Ended:
        """Kill it, since it does not get to work."""
        self.send(signal.SIGKILL)
        return replace(self.ended(), is_stuck=True)

    def send(self, number: signal.Signals, told: str = "") -> None:
        """Send it a signal; `told` is what that asks of it, if it is to end."""
        self._told = told or self._told
        self._process.send_signal(number)

    def ended(self, limit_s: float | None = None) -> Ended:
        """Wait for its end; one that takes too long is killed, which its status tells."""
        try:
            status = self._process.wait(limit_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        self._listener.join()
        return Ended(self.replica, self._told, status, any(_OVERDUE in line for line in self.log))

    def close(self) -> None:
        """End it at once, if it still lives, and release everything. Never raises."""
        if self.lives:
            self._process.kill()  # also where it is stopped
            self._process.wait()
        self._listener.join()
        if self._process.stderr is not None:
            self._process.stderr.close()

    def _status(self) -> int | None:
        """None while it lives; whoever has closed its log is about to end."""
        if self._has_said_all:
            with suppress(subprocess.TimeoutExpired):
                return self._process.wait(PAGE_S)
        return self._process.poll()

    def _failure(self, what: str) -> FraudlineError:
        status = self._status()
        said = next((line for line in reversed(self.log) if line.startswith(_ERROR)), None)
        if said is not None:  # the sentence that it would have said to whoever had started it
            kind = ConfigError if status == _EXIT_MISUSED else FraudlineError
            return kind(said.removeprefix(_ERROR))
        ended = "" if status is None else f" and ended with status {status}"
        return FraudlineError(f"the processor of the proof {what}{ended}; its log is in the report's folder.")

    def _listen(self) -> None:
        assert self._process.stderr is not None  # noqa: S101  it is a pipe
        for line in self._process.stderr:
            with self._changed:
                self.log.append(line.rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._has_said_all = True
            self._changed.notify_all()


def until(holds: Callable[[], bool], limit_s: float, pause_s: float = 0.1) -> bool:
    """Ask again and again, for what nobody tells by itself; whether it came to hold in time."""
    deadline_s = time.monotonic() + limit_s
    while not holds():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(pause_s)
    return True


def while_moving(look: Callable[[], tuple[object, object]], limit_s: float, pause_s: float) -> bool:
    """Look again and again until where it is (the first) is where it ends, or it has not moved for so long; which."""
    at, end = look()
    moved_s = time.monotonic()
    while at != end:
        time.sleep(pause_s)
        before, (at, end) = at, look()
        if at != before:
            moved_s = time.monotonic()
        elif time.monotonic() - moved_s > limit_s:
            return False
    return True
