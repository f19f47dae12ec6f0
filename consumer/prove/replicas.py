"""The processors of a proof: started, replaced, and told to stop; how each of them ended is noted."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from consumer.prove.names import Run, environment_of
from consumer.prove.signals import undisturbed
from consumer.prove.worker import START_S, Ended, Worker
from consumer.settings import Settings
from features.errors import FraudlineError

DRAIN_MARGIN_S = 10.0
_ASSIGNED = '"event": "partitions_assigned"'


class Replicas:
    """Replicas by name. Whoever starts under a name has its transactional id."""

    def __init__(self, run: Run, settings: Settings, config: Path | None) -> None:
        """Nobody works yet."""
        self._run, self._settings, self._config = run, settings, config
        self._drain_s = settings.processing.drain_deadline_ms / 1_000 + DRAIN_MARGIN_S
        self.workers: dict[str, Worker] = {}
        self.all: list[Worker] = []
        self.ended: list[Ended] = []

    def start(self, *replicas: str) -> None:
        """Start these, and wait until each reads partitions. Raises FraudlineError: one does not get there."""
        for name in replicas:
            self.begin(name)
        for name in replicas:
            self.workers[name].wait_ready()

    def begin(self, replica: str) -> Worker:
        """Start one, and go on."""
        environment = environment_of(self._run, self._settings, os.environ, replica)
        with undisturbed(later=True):  # or one could be started and not be known of
            worker = Worker(replica, environment, self._config)
            self.workers[replica] = worker
            self.all.append(worker)
        return worker

    def gets_to_work(self, replica: str, limit_s: float = START_S) -> bool:
        """Wait until it reads partitions; False where it ended by itself or had to be killed instead: that is noted."""
        try:
            self.workers[replica].wait_ready(limit_s)
        except FraudlineError:
            worker = self.workers.pop(replica)
            self.ended.append(worker.give_up() if worker.lives else worker.ended())
            return False
        return True

    def owners(self) -> dict[str, str]:
        """Which replica was the last to be given each partition."""
        return last_given((each.replica, each.log) for each in self.all)

    def kill(self, replica: str) -> None:
        """`kill -9`."""
        self.ended.append(self.workers.pop(replica).kill())

    def drain(self, replica: str) -> None:
        """SIGTERM, and wait for the end."""
        self.ended.append(self.workers.pop(replica).drain(self._drain_s))

    def drain_all(self) -> None:
        """Each of them."""
        for replica in sorted(self.workers):
            self.drain(replica)

    def reap(self) -> list[str]:
        """Names of replicas that have ended by themselves, which are no longer there then."""
        dead = [name for name, worker in self.workers.items() if not worker.lives]
        self.ended += [self.workers.pop(name).ended() for name in dead]
        return dead

    def close(self) -> None:
        """End everybody at once. Never raises."""
        for worker in self.all:
            worker.close()


def last_given(logs: Iterable[tuple[str, Iterable[str]]]) -> dict[str, str]:
    """Whose log tells last that it was given a partition, by partition; a log is one of a replica's."""
    given: dict[str, tuple[datetime, str]] = {}
    for replica, log in logs:
        for line in log:
            if _ASSIGNED in line:
                told: Mapping[str, Any] = json.loads(line)
                when = datetime.fromisoformat(told["timestamp"])
                for partition in told["partitions"]:
                    given[partition] = max(given.get(partition, (when, replica)), (when, replica))
    return {partition: replica for partition, (_, replica) in given.items()}
