"""The real processor in a process of its own, until so many payments are decided, none came for a while, or SIGTERM.

Its interval is that of `bench.naive`: from when the first payment is in hand to when the last decision is delivered,
which is the end of its commit here; CPU time is that of all threads, librdkafka's included. With `--trace` it writes a
JSON line a batch: when it began, how long it took, its size and tier, the offsets it covers and the time of each stage.

Run `python -m bench.worker --help`; it says `ready` on standard error when it owns partitions and trusts its state, and
prints one JSON line at the end.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import orjson

from bench.stack import Names
from consumer import logs
from consumer.app import Processor, check_store, stop_on_signals
from consumer.decode import Message
from consumer.metrics import OUTCOMES, STAGES
from consumer.model_loader import load_model
from consumer.pipeline import Begun
from consumer.publish import Decided
from consumer.settings import (
    KafkaSettings,
    ModelSettings,
    ProcessingSettings,
    Settings,
    StoreSettings,
    TelemetrySettings,
    TopicSettings,
)
from consumer.telemetry import Health, Telemetry, serve
from features.redis_store import RedisStore
from features.store import Span

WATCH_S: Final = 0.05


@dataclass(slots=True)
class Meter:
    """Counts what goes through a processor, and notes its interval."""

    max_events: int
    trace: BinaryIO | None
    events: int = 0
    batches: int = 0
    alerts: int = 0
    tiers: Counter[str] = field(default_factory=Counter)
    first_ns: int = 0
    first_cpu_s: float = 0.0
    last_ns: int = field(default_factory=time.monotonic_ns)
    last_cpu_s: float = 0.0

    def attach(self, processor: Processor) -> None:
        """Watch the processor's source until its first payment, and every batch of its pipeline.

        The two methods are wrapped on their objects, as the processor has no need for such hooks of its own.
        """
        source, pipeline = processor.source, processor.pipeline
        poll, finish = source.poll, pipeline.finish

        def first_poll(limit: int, wait_s: float) -> list[Message]:
            messages = poll(limit, wait_s)
            if messages:
                self.first_ns, self.first_cpu_s = time.monotonic_ns(), cpu_s()
                source.poll = poll  # type: ignore[method-assign]  # see above
            return messages

        def measured(begun: Begun, meanwhile: Callable[[], None]) -> Decided:
            # the time of one that was begun ahead begins when the one before it ends
            begun_ns = time.time_ns() if begun.is_ahead else round(begun.read_ms * 1e6)
            decided = finish(begun, meanwhile)
            found = begun.decoded
            self._note(begun_ns, len(found.batch) + len(found.labels) + len(found.rejected), begun.spans, decided)
            if self.events >= self.max_events:
                processor.stop()
            return decided

        source.poll = first_poll  # type: ignore[method-assign]
        pipeline.finish = measured  # type: ignore[method-assign]

    def _note(self, begun_ns: int, size: int, spans: tuple[Span, ...], decided: Decided) -> None:
        ended_ns = time.time_ns()
        self.last_ns, self.last_cpu_s = time.monotonic_ns(), cpu_s()
        self.events += size
        self.batches += 1
        self.alerts += int(np.count_nonzero(decided.verdicts.decision[decided.due]))
        self.tiers[decided.tier] += int(np.count_nonzero(decided.due))
        if self.trace:
            line = {
                "begun_ns": begun_ns,
                "took_ms": (ended_ns - begun_ns) / 1e6,
                "size": size,
                "tier": decided.tier,
                "spans": [[span.partition, span.start, span.end] for span in spans],
                "stage_ms": decided.stage_ms,
            }
            self.trace.write(orjson.dumps(line) + b"\n")

    def result(self, telemetry: Telemetry) -> dict[str, Any]:
        """What `bench.naive` reports, and what only this processor has. Raises SystemExit when nothing came."""
        if not self.events:
            message = "No payment came; fill the topic first, or allow more time with --idle-exit-s."
            raise SystemExit(message)
        wall_s, used_s = (self.last_ns - self.first_ns) / 1e9, self.last_cpu_s - self.first_cpu_s
        value = telemetry.registry.get_sample_value
        return {
            "events": self.events,
            "alerts": self.alerts,
            "wall_s": wall_s,
            "cpu_s": used_s,
            "eps": self.events / wall_s,
            "eps_per_cpu_s": self.events / used_s,
            "cpu_us_per_event": used_s / self.events * 1e6,
            "batches": self.batches,
            "mean_batch": self.events / self.batches,
            "tiers": dict(self.tiers),
            "stage_s": {stage: value("fraudline_stage_seconds_sum", {"stage": stage}) for stage in STAGES},
            "transactions": {
                outcome: int(value("fraudline_transactions_total", {"outcome": outcome}) or 0) for outcome in OUTCOMES
            },
        }


def cpu_s() -> float:
    """User and system CPU time of this process with all its threads, in seconds."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


@contextmanager
def watching(meter: Meter, health: Health, stop: Callable[[], None], idle_exit_s: float) -> Iterator[None]:
    """Say `ready` once it is so, and stop when no batch was committed for `idle_exit_s`."""
    over = threading.Event()

    def watch() -> None:
        said = False
        while not over.wait(WATCH_S):
            if not said and health.readiness[0]:
                said = True
                print("ready", file=sys.stderr, flush=True)
            if time.monotonic_ns() - meter.last_ns > idle_exit_s * 1e9:
                stop()

    thread = threading.Thread(target=watch, daemon=True, name="bench-watch")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def settings_of(args: argparse.Namespace) -> Settings:
    """The defaults, but for addresses, names and what is compared."""
    names = Names(args.prefix)
    return Settings(
        kafka=KafkaSettings(
            brokers=args.brokers, group_id=names.group, transactional_id=f"{names.group}-{args.replica}"
        ),
        topics=TopicSettings(**names.topics),
        store=StoreSettings(url=args.redis, namespace=names.namespace),
        processing=ProcessingSettings(delivery=args.delivery),
        model=ModelSettings(bundle=args.bundle),
        telemetry=TelemetrySettings(port=0),
    )


def run(settings: Settings, meter: Meter, idle_exit_s: float) -> dict[str, Any]:
    """Run as `consumer.app.run` does, measured."""
    model = load_model(settings.model.bundle, device=settings.model.device, threads=settings.model.threads)
    url, namespace = settings.store.url.get_secret_value(), settings.store.namespace
    store = RedisStore(url, namespace=namespace, timeout_ms=settings.store.timeout_ms)
    check_store(store)
    telemetry, health = Telemetry(), Health()
    with closing(serve(telemetry, health, settings.telemetry.host, settings.telemetry.port)):
        processor = Processor(settings, model=model, store=store, telemetry=telemetry, health=health)
        with closing(processor):
            meter.attach(processor)
            stop_on_signals(processor.stop, settings.processing.drain_deadline_ms / 1000)
            gc.collect()
            gc.freeze()
            with watching(meter, health, processor.stop, idle_exit_s):
                processor.run()
    return meter.result(telemetry)


def main() -> None:
    parser = argparse.ArgumentParser(description="Run the real processor and say what it did.")
    parser.add_argument("--brokers", required=True)
    parser.add_argument("--redis", required=True, help="redis://HOST:PORT/DB")
    parser.add_argument("--prefix", required=True, help="of its topics, group and namespace; see bench.stack.Names")
    parser.add_argument("--bundle", required=True, type=Path)
    parser.add_argument("--delivery", required=True, choices=("exactly_once", "at_least_once"))
    parser.add_argument("--replica", type=int, default=0, help="its number among those that share the partitions")
    parser.add_argument("--max-events", type=int, default=1_000_000_000)
    parser.add_argument("--idle-exit-s", type=float, default=60.0)
    parser.add_argument("--trace", type=Path, metavar="FILE", help="write a line about each batch")
    args = parser.parse_args()
    logs.configure("warning", "json")
    settings = settings_of(args)
    if args.trace is None:
        result = run(settings, Meter(args.max_events, None), args.idle_exit_s)
    else:
        with args.trace.open("ab", buffering=1 << 20) as trace:
            result = run(settings, Meter(args.max_events, trace), args.idle_exit_s)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
