"""`fraudline demo`: the whole processor in one process, on simulated payments, with nothing installed but Python."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from itertools import takewhile
from pathlib import Path
from typing import Final

import orjson
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from consumer.app import Processor
from consumer.dashboard.compose import Dashboard
from consumer.demo_view import LiveView, summary_table
from consumer.judge import Model
from consumer.kafka.demo_client import DemoReader, produce_at_rate
from consumer.kafka.embedded import EmbeddedBroker
from consumer.logs import configure
from consumer.model_loader import load_model
from consumer.score_card import ScoreCard, Summary
from consumer.settings import DashboardSettings, KafkaSettings, ProcessingSettings, Settings, TelemetrySettings
from consumer.simulator import Simulation, simulate, write
from consumer.telemetry import Health, Telemetry
from features.catalog import DAY_MS, DEFAULT
from features.errors import ConfigError, FraudlineError, KafkaUnavailable
from features.store import MemoryStore
from features.warm import warm_up
from models.train import TrainOptions, train
from models.warm import warm_up as warm_up_models

TRAINING_PAYMENTS: Final = 150_000
TRAINING_SEED_OFFSET: Final = 1_000_003  # the model never sees what is shown
SHOWN_DAYS_AGO: Final = 60
START_LIMIT_S: Final = 30.0
STALL_LIMIT_S: Final = 30.0
VIEW_INTERVAL_S: Final = 0.25
SERVED_PAYMENTS: Final = 500_000  # what is simulated at a time for those who look on
SERVED_RATE: Final = 50.0


def run_demo(
    *,
    payments: int,
    rate: float,
    seed: int,
    as_json: bool,
    serve: bool = False,
    port: int | None = None,
    told_to_stop: Callable[[], threading.Event] = threading.Event,
) -> int:
    """Train a model if there is none, decide `payments` simulated payments at `rate` a second; returns the exit code.

    Standard output gets a live view and a summary, or one JSON object. The alert page is served meanwhile (with
    `as_json` only if `serve`), at `port` (None: the usual one, or any where that is taken). With `serve` it stays
    up, and payments go on, until the event is set that `told_to_stop` gives: it is asked when that begins, so that a
    signal before it ends the demo at once. Raises FraudlineError.
    """
    configure(level="warning")
    console = Console(stderr=as_json)
    bundle = demo_bundle(seed, console)
    model = load_model(bundle, device="cpu", threads=1)
    warm_up()
    warm_up_models()
    today_ms = int(time.time() * 1000) // DAY_MS * DAY_MS
    history = simulate(Simulation(payments=payments, seed=seed, start_ms=today_ms - SHOWN_DAYS_AGO * DAY_MS))
    card = ScoreCard(history.fraud_event_ids)

    def tell(summary: Summary) -> None:
        if as_json:
            console.file.flush()
            os.write(1, orjson.dumps(summary.as_dict()) + b"\n")
        else:
            console.print(summary_table(summary))

    with ExitStack() as open_things:
        broker = open_things.enter_context(EmbeddedBroker())
        settings = _settings(broker.brokers)
        broker.create(*settings.topics.model_dump().values())
        page = open_things.enter_context(closing(_page(settings, port))) if serve or not as_json else None
        if page is not None:
            page.start()
            console.print(f"The alert page: {page.address}", highlight=False)
        run = open_things.enter_context(closing(_Run(settings, model, card, console)))
        summary = run.show(history.records(), payments, rate, quiet=as_json, stay=serve)
        tell(summary)
        if serve and page is not None:
            console.print(f"The alert page stays up: {page.address}", highlight=False)
            console.print(f"Payments go on at {SERVED_RATE:.0f} a second; Ctrl-C ends it.", highlight=False)
            run.go_on(_more(seed, today_ms), told_to_stop())
    return 0 if summary.decisions + summary.dead_letters >= payments else 1


def _page(settings: Settings, port: int | None) -> Dashboard:
    """The alert page, for this machine alone. Raises ConfigError: a port that was asked for is taken."""
    if port is not None:
        return Dashboard(_at(settings, port))
    try:
        return Dashboard(settings)
    except ConfigError:
        return Dashboard(_at(settings, 0))


def _at(settings: Settings, port: int) -> Settings:
    return settings.model_copy(update={"dashboard": settings.dashboard.model_copy(update={"port": port})})


def _more(seed: int, today_ms: int) -> Iterator[tuple[bytes, bytes, int]]:
    """Payments without end, a history after the other, each later than the one before and of other event ids."""
    start_ms = today_ms - SHOWN_DAYS_AGO * DAY_MS
    while True:
        seed += 1
        history = simulate(Simulation(payments=SERVED_PAYMENTS, seed=seed, start_ms=start_ms))
        yield from history.records()


def demo_bundle(seed: int, console: Console) -> Path:
    """The demo's model, trained on first use and kept in the user's cache for this catalog and seed."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fraudline"
    bundle = cache / f"demo-{DEFAULT.fingerprint[:12]}-{seed}"
    if (bundle / "manifest.json").exists():
        return bundle
    cache.mkdir(parents=True, exist_ok=True)
    if not console.is_terminal:  # which would see the bar move
        console.print("Training a model on simulated history, the first time only: about a minute.")
    with (
        tempfile.TemporaryDirectory(dir=cache) as scratch,
        Progress(TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=console) as progress,
    ):
        bar = progress.add_task("Simulating history to train on (first run only)", total=1.0)
        start_ms = int(time.time() * 1000) // DAY_MS * DAY_MS - 365 * DAY_MS
        simulation = Simulation(payments=TRAINING_PAYMENTS, seed=seed + TRAINING_SEED_OFFSET, start_ms=start_ms)
        folder = Path(scratch)
        write(simulation, folder)
        train(
            folder / "payments.jsonl",
            folder / "labels.jsonl",
            bundle,
            options=TrainOptions(seed=seed, windows=2, trees=100, learning_rate=0.2),  # a quick one
            progress=lambda what, share: progress.update(bar, description=f"Training: {what}", completed=share),
        )
    return bundle


def _settings(brokers: str) -> Settings:
    return Settings(
        kafka=KafkaSettings(brokers=brokers, group_id="fraudline-demo", transactional_id="fraudline-demo"),
        processing=ProcessingSettings(delivery="at_least_once"),
        telemetry=TelemetrySettings(port=0),
        dashboard=DashboardSettings(auth="none", verdicts=True),
    )


class _Run:
    """One showing: the processor on a thread, the producer on another, the reader and the view on this one."""

    def __init__(self, settings: Settings, model: Model, card: ScoreCard, console: Console) -> None:
        self._settings, self._card, self._console = settings, card, console
        self._processor = Processor(
            settings,
            model=model,
            store=MemoryStore(),
            telemetry=Telemetry(),
            health=Health(),
        )
        self._failure: BaseException | None = None
        self._worker = threading.Thread(target=self._work, name="processor", daemon=True)
        self._reader = DemoReader(settings)

    def show(
        self, records: Iterable[tuple[bytes, bytes, int]], payments: int, rate: float, *, quiet: bool, stay: bool
    ) -> Summary:
        """Decide `payments` of the records and watch it; with `stay` the processor is there afterwards too."""
        self._worker.start()
        self._await_assignment(self._reader)
        producer = threading.Thread(
            target=self._produce, args=(records, rate, self._card.sent), name="producer", daemon=True
        )
        producer.start()
        with LiveView(self._console, self._card, payments, enabled=not quiet) as view:
            self._watch(self._reader, view, payments)
        producer.join(STALL_LIMIT_S)
        if stay:
            self._await_alerts(self._reader)
        else:
            self._stop()
        for kind, value, received_ns in self._reader.rest():  # the last alerts, and decisions that should not be there
            self._card.received(kind, value, received_ns)
        self._check()
        return self._card.summary(self._settings.processing.delivery)

    def go_on(self, records: Iterable[tuple[bytes, bytes, int]], stop: threading.Event) -> None:
        """Decide records for those who look at the page, until `stop` is set. Raises FraudlineError."""
        wanted = takewhile(lambda _record: not stop.is_set() and self._failure is None, records)
        self._produce(wanted, SERVED_RATE, lambda _event_id, _due_ns: None)
        self._check()

    def close(self) -> None:
        """Finish the batch in flight and release everything."""
        self._stop()
        self._processor.close()
        self._reader.close()

    def _stop(self) -> None:
        self._processor.stop()
        if self._worker.is_alive():
            self._worker.join(STALL_LIMIT_S)

    def _await_alerts(self, reader: DemoReader) -> None:
        """An alert comes a moment after its decision."""
        deadline = time.monotonic() + START_LIMIT_S
        while self._card.alerts_due and time.monotonic() < deadline:
            for kind, value, received_ns in reader.poll():
                self._card.received(kind, value, received_ns)

    def _watch(self, reader: DemoReader, view: LiveView, payments: int) -> None:
        progress_at = refreshed_at = time.monotonic()
        while self._card.answered < payments:
            self._check()
            before = self._card.answered
            for kind, value, received_ns in reader.poll():
                self._card.received(kind, value, received_ns)
            now = time.monotonic()
            if self._card.answered > before:
                progress_at = now
            elif now - progress_at > STALL_LIMIT_S:
                raise KafkaUnavailable(
                    f"the demo made no progress for {STALL_LIMIT_S:.0f} s: is the machine overloaded?"
                )
            if now - refreshed_at > VIEW_INTERVAL_S:
                view.refresh()
                refreshed_at = now
        view.refresh()

    def _await_assignment(self, reader: DemoReader) -> None:
        deadline = time.monotonic() + START_LIMIT_S
        while not self._processor.source.owned:
            self._check()
            reader.poll()
            if time.monotonic() > deadline:
                raise KafkaUnavailable(f"the embedded broker gave no partitions in {START_LIMIT_S:.0f} s")

    def _work(self) -> None:
        try:
            self._processor.run()
        except BaseException as error:
            self._failure = error

    def _produce(
        self, records: Iterable[tuple[bytes, bytes, int]], rate: float, sent: Callable[[bytes, int], None]
    ) -> None:
        try:
            produce_at_rate(self._settings, records, rate, sent)
        except BaseException as error:
            self._failure = error

    def _check(self) -> None:
        if self._failure is not None:
            raise (
                self._failure
                if isinstance(self._failure, FraudlineError)
                else FraudlineError(f"the demo stopped: {type(self._failure).__name__}: {self._failure}")
            ) from self._failure
