"""The child process of the fault tests: the real processor, with a point at which it kills or stops itself.

    python -m tests.faults.worker --spec JSON

Standard output tells the parent what happens, a word first: `owns PARTITIONS`, `disowned`, `ready WHY`, `unready WHY`,
`stopping STEP` (then the fault happens), `clock SECONDS` (the wall clock has jumped so far), `error TEXT`. The exit
status is 0 after SIGTERM and a drain in time.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from consumer.app import Processor, check_store, stop_on_signals
from consumer.logs import configure
from consumer.model_loader import load_model
from consumer.prove.signals import follow_parent
from consumer.settings import Settings
from consumer.telemetry import Health, Telemetry
from features.enrich import Asked, Enricher
from features.errors import FraudlineError, StoreUnavailable
from features.event import LabelBatch, PaymentBatch
from features.redis_store import APPLY, RedisStore
from features.store import Source, Span
from tests.faults.scoring import model
from tests.mutants.state import WithoutLabels, WithoutOwnPrefix

JUMP_S = 60.0


class Fault(msgspec.Struct, frozen=True):
    """What happens at the `nth` pass of `step` (1 is the first).

    The process sends itself a signal, `KILL` or `STOP`; or its loop is stuck until there is a line on standard input
    (`STUCK`), while the threads of its clients go on.
    """

    step: str
    nth: int = 1
    signal: str = "KILL"


class Spec(msgspec.Struct, frozen=True):
    """What a worker is: its settings, its fault, and a component that lacks a guard (see `MUTANTS`).

    It decides with `bundle`, or else with the checksums of `tests.faults.scoring`.
    """

    settings: dict[str, dict[str, Any]]
    fault: Fault | None = None
    mutant: str = ""
    check_store: bool = True
    bundle: str = ""


class FaultPoint:
    """Counts the passes of one step, and is the fault."""

    def __init__(self, fault: Fault | None) -> None:
        self._fault = fault
        self._passes = 0

    def __call__(self, step: str) -> None:
        if self._fault is None or step != self._fault.step:
            return
        self._passes += 1
        if self._passes == self._fault.nth:
            say("stopping", step)
            if self._fault.signal == "STUCK":
                sys.stdin.readline()
                return
            os.kill(os.getpid(), signal.Signals[f"SIG{self._fault.signal}"])


class SpokenHealth(Health):
    """Tells the parent when readiness changes, which partitions the worker owns, and of jumps of the wall clock."""

    def __init__(self) -> None:
        super().__init__()
        self.owned: Callable[[], Sequence[Source]] = tuple
        self._told: tuple[int, ...] = ()
        self._ahead_s = time.time() - time.monotonic()

    def beat(self) -> None:
        ahead_s = time.time() - time.monotonic()
        if abs(ahead_s - self._ahead_s) > JUMP_S:
            say("clock", f"{ahead_s - self._ahead_s:+.0f}")
            self._ahead_s = ahead_s
        owned = tuple(number for _, number in self.owned())
        if owned != self._told:
            self._told = owned
            say("owns" if owned else "disowned", *map(str, owned))
        super().beat()

    def ready(self, ready: bool, why: str) -> None:
        if ready != self.readiness[0]:
            say("ready" if ready else "unready", why)
        super().ready(ready, why)


def without(text: str, *, replaced_by: str) -> str:
    """The apply script without one of its guards; it must be there to be taken out."""
    assert APPLY.count(text) == 1, text
    return APPLY.replace(text, replaced_by)


MUTANT_SCRIPTS = {
    "appends_again": lambda: without(
        "markers[i], fresh[span[2]] = marker, marker", replaced_by="markers[i], fresh[span[2]] = marker, -1"
    ),
    "skips_a_gap": lambda: without("if marker < span[3] then", replaced_by="if false then"),
}


class WithoutFeatures(Enricher):
    """Finds that the store does not answer, whatever it says."""

    def _ask(
        self, batch: PaymentBatch, spans: tuple[Span, ...], epochs: Sequence[int], labels: LabelBatch | None
    ) -> Asked:
        raise StoreUnavailable("it is not asked")


MUTANT_ENRICHERS = {"no_features": WithoutFeatures, "whole_log": WithoutOwnPrefix, "no_labels": WithoutLabels}


def say(*words: str) -> None:
    print(*words, flush=True)


def work(spec: Spec) -> int:
    settings = Settings.model_validate(spec.settings)
    store = RedisStore(
        settings.store.url.get_secret_value(),
        namespace=settings.store.namespace,
        timeout_ms=settings.store.timeout_ms,
        shards=settings.store.shards,
        cluster=settings.store.cluster,
        script=MUTANT_SCRIPTS.get(spec.mutant, lambda: APPLY)(),
    )
    try:
        if spec.check_store:
            check_store(store)
        health = SpokenHealth()
        processor = Processor(
            settings,
            model=load_model(Path(spec.bundle), device="cpu", threads=1) if spec.bundle else model(),
            store=store,
            telemetry=Telemetry(),
            health=health,
            step=FaultPoint(spec.fault),
            enricher=MUTANT_ENRICHERS.get(spec.mutant, Enricher),
        )
        health.owned = lambda: processor.source.owned
        stop_on_signals(processor.stop, settings.processing.drain_deadline_ms / 1000)
        try:
            processor.run()
        finally:
            processor.close()
    except FraudlineError as error:
        say("error", f"{type(error).__name__}: {error}")
        return 1
    return 0


def main() -> int:
    follow_parent(os.getppid())  # a test run that is killed leaves no worker behind
    faulthandler.register(signal.SIGUSR1)  # tells where it is, for whoever looks into one that hangs
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--spec", required=True)
    spec = msgspec.json.decode(arguments.parse_args().spec, type=Spec)
    configure("info", "json")
    return work(spec)


if __name__ == "__main__":
    sys.exit(main())
