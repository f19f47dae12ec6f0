"""The processors of a proof: started, replaced, and told to stop; how each of them ended is noted."""

from __future__ import annotations

import os
from pathlib import Path

from consumer.prove.names import Run, environment_of
from consumer.prove.signals import undisturbed
from consumer.prove.worker import Ended, Worker
from consumer.settings import Settings

DRAIN_MARGIN_S = 10.0


class Crew:
    """Replicas by name. Whoever starts under a name has its transactional id."""

    def __init__(self, run: Run, settings: Settings, config: Path | None) -> None:
        """Nobody works yet."""
        self._run, self._settings, self._config = run, settings, config
        self._drain_s = settings.processing.drain_deadline_ms / 1_000 + DRAIN_MARGIN_S
        self.replicas: dict[str, Worker] = {}
        self.all: list[Worker] = []
        self.ended: list[Ended] = []

    def start(self, *replicas: str) -> None:
        """Start these, and wait until each reads partitions. Raises FraudlineError: one does not get there."""
        for name in replicas:
            self.begin(name)
        for name in replicas:
            self.replicas[name].wait_ready()

    def begin(self, replica: str) -> Worker:
        """Start one, and go on."""
        environment = environment_of(self._run, self._settings, os.environ, replica)
        with undisturbed(later=True):  # or one could be started and not be known of
            worker = Worker(replica, environment, self._config)
            self.replicas[replica] = worker
            self.all.append(worker)
        return worker

    def kill(self, replica: str) -> None:
        """`kill -9`."""
        self.ended.append(self.replicas.pop(replica).kill())

    def drain(self, replica: str) -> None:
        """SIGTERM, and wait for the end."""
        self.ended.append(self.replicas.pop(replica).drain(self._drain_s))

    def drain_all(self) -> None:
        """Each of them."""
        for replica in sorted(self.replicas):
            self.drain(replica)

    def bury(self) -> list[str]:
        """Names of replicas that have ended by themselves, which are no longer there then."""
        dead = [name for name, worker in self.replicas.items() if not worker.lives]
        self.ended += [self.replicas.pop(name).ended() for name in dead]
        return dead

    def close(self) -> None:
        """End everybody at once. Never raises."""
        for worker in self.all:
            worker.close()
