"""The composition root: the only place where clients are built and parts are joined."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from types import FrameType
from typing import Final

import structlog

from consumer.audit import PROCESSOR, new_entry
from consumer.decode import Decoder
from consumer.judge import LineUp, Model, Surroundings
from consumer.kafka.audit import BackgroundAudit
from consumer.kafka.client import within
from consumer.kafka.compacted import CompactedReader
from consumer.kafka.logreader import LogReader
from consumer.kafka.publisher import AcknowledgedPublisher, Publisher, Step, TransactionalPublisher
from consumer.kafka.rights import require_rights
from consumer.kafka.source import KafkaSource
from consumer.lists import ListsReader
from consumer.loop import Loop
from consumer.model_loader import ModelLoader
from consumer.pace import Pace
from consumer.pipeline import Pipeline
from consumer.publish import journal_records
from consumer.records import JournalEntry, ModelRef
from consumer.settings import Settings
from consumer.spotcheck import SpotCheck
from consumer.state import StateKeeper
from consumer.telemetry import Health, Telemetry, serve
from consumer.trust import trust_of
from features.catalog import Catalog
from features.enrich import Enricher
from features.errors import KafkaRefused, StoreUnavailable
from features.grouping import Grouper
from features.profiles import load_catalog
from features.redis_store import RedisStore, Tls
from features.store import StateStore
from features.warm import warm_up
from models.bundle import read_files
from models.gpu import cupy
from models.lists import Lists
from models.warm import warm_up as warm_up_models

_LOG: Final = structlog.get_logger("app")
_STOPPING: Final = (signal.SIGTERM, signal.SIGINT)


class Processor:
    """A composed processor: `run` it on the caller's thread, `stop` it from anywhere, `close` it."""

    def __init__(
        self,
        settings: Settings,
        *,
        model: Model | Callable[[], LineUp],
        store: StateStore,
        telemetry: Telemetry,
        health: Health,
        catalog: Catalog | None = None,
        lists: Callable[[], Lists | None] = lambda: None,
        step: Step = lambda _name: None,
        enricher: type[Enricher] = Enricher,
    ) -> None:
        """Connect to Kafka and join the parts. `lists` tells who is on them now.

        `model` judges, or whoever it says does now; `catalog` is all that such models may need (without it, what the
        first one needs). `step` is told of each step; the fault tests crash in it, and their mutants bring an
        `enricher` of their own.
        """
        kafka, topics, processing = settings.kafka, settings.topics, settings.processing
        self._health = health
        self._telemetry = telemetry
        self.source = KafkaSource(kafka, topics.payments, self._rebalanced, topics.labels)
        outputs = [topics.decisions, topics.alerts, topics.dead_letters, topics.journal]
        if settings.challenger.enabled:
            outputs.append(topics.shadow)
        if settings.audit.enabled:
            outputs.append(topics.audit)
        self.source.start(outputs)
        delivery = TransactionalPublisher if processing.delivery == "exactly_once" else AcknowledgedPublisher
        try:
            self._require_rights = partial(
                require_rights, kafka, read=(topics.payments, topics.labels), write=tuple(outputs)
            )
            self._require_rights()
            self.publisher: Publisher = delivery(kafka, self.source, step)
        except BaseException:
            self.source.close()  # or the group waits for this member, and the client's end for the group
            raise
        line_up = _always(LineUp(model)) if isinstance(model, Model) else model
        enrich = enricher(catalog or line_up().champion.catalog, store)
        decoder = Decoder(
            max_payment_bytes=processing.max_payment_bytes,
            max_future_ms=processing.max_future_ms,
            labels_topic=topics.labels,
        )
        self._log_reader = LogReader(kafka, topics.payments, topics.labels)
        pause = settings.store.outage == "pause"
        self.state = StateKeeper(
            payments=topics.payments,
            labels=topics.labels,
            store=store,
            enricher=enrich,
            decoder=decoder,
            log=self._log_reader,
            journal=self._publish_journal(topics.journal),
            telemetry=telemetry,
            allow_cold_state=settings.store.allow_cold_state,
            step=step,
        )
        self.pipeline = Pipeline(
            decoder=decoder,
            enricher=enrich,
            state=self.state,
            line_up=line_up,
            around=Surroundings(topics, lists, self.source.share),
            publisher=self.publisher,
            telemetry=telemetry,
            budget_ms=processing.budget_ms,
            pause_on_outage=pause,
            positions=self.source.positions,
            max_rejected_in_a_row=processing.max_rejected_in_a_row,
            step=step,
        )
        self._loop = Loop(
            source=self.source,
            publisher=self.publisher,
            pipeline=self.pipeline,
            state=self.state,
            pace=Pace(linger_ms=processing.linger_ms, budget_ms=processing.budget_ms),
            telemetry=telemetry,
            health=health,
            max_batch=processing.max_batch,
            pause_on_outage=pause,
            give_up_after_s=kafka.max_poll_interval_ms / 1000,
        )
        self._store = store

    def run(self) -> None:
        """Process until `stop`. Raises FraudlineError when going on would be wrong or pointless."""
        try:
            self._loop.run()
        except KafkaRefused:
            self._require_rights()  # says which topic it is about, which a refusal inside a transaction does not
            raise

    def stop(self) -> None:
        """Finish what is in flight and return from `run`."""
        self._loop.stop()

    def close(self) -> None:
        """Leave the group and release every client; none is waited for longer than a few seconds."""
        self._health.ready(False, "stopping")
        self.source.close()
        self.publisher.close()
        within(self._log_reader.close, 2.0)
        self._store.close()

    def _rebalanced(self, kind: str) -> None:
        self._telemetry.rebalances[kind].inc()

    def _publish_journal(self, topic: str) -> Callable[[Sequence[JournalEntry]], None]:
        def publish(entries: Sequence[JournalEntry]) -> None:
            if entries:
                self.publisher.publish(journal_records(topic, entries))
                self.publisher.commit(())

        return publish


def run(settings: Settings) -> int:
    """Run the processor until SIGTERM or SIGINT; returns the exit code. Raises FraudlineError."""
    catalog = load_catalog(settings.features.catalog)
    telemetry, health = Telemetry(), Health(stale_after_s=settings.kafka.max_poll_interval_ms / 1000)
    # compiling takes most of a minute the first time: a forged bundle, no GPU, Redis or Kafka is told before it
    if not settings.model.registry:
        read_files(settings.model.bundle, trust=trust_of(settings.model))
    if settings.model.device == "cuda":
        cupy()
    store = open_store(settings, catalog)
    check_store(store)
    with ExitStack() as at_last, ExitStack() as at_end:
        lists = ListsReader(CompactedReader(settings.kafka, settings.topics.lists), telemetry)
        at_end.callback(lists.stop)
        lists.start()
        _LOG.info("starting", step="the model is tried, and what computes is compiled where that was not done before")
        audit = BackgroundAudit(settings.kafka, settings.topics.audit) if settings.audit.enabled else None
        if audit is not None:
            at_end.callback(audit.stop)
        models = ModelLoader(settings, catalog, telemetry, _untold if audit is None else partial(_rolled_back, audit))
        at_end.callback(models.stop)
        warm_up()
        warm_up_models()
        champion = models.current().champion
        first = champion.reference
        telemetry.model(name=first.name, version=first.version, digest=first.digest, device=champion.device)
        server = serve(telemetry, health, settings.telemetry.host, settings.telemetry.port)
        at_last.callback(server.close)  # probes are answered to the end
        processor = Processor(
            settings,
            model=models.current,
            catalog=catalog,
            store=store,
            telemetry=telemetry,
            health=health,
            lists=lists.current,
        )
        stop_on_signals(processor.stop, settings.processing.drain_deadline_ms / 1000)
        models.start()
        _LOG.info(
            "started",
            model=first.version,
            digest=first.digest,
            signed_by=models.current().champion.signed_by,
            delivery=settings.processing.delivery,
            port=server.port,
        )
        gc.collect()
        gc.freeze()  # what lives for ever need not be looked at again, in pauses that payments would feel
        try:
            with checking(settings, catalog, telemetry):
                processor.run()
        finally:
            processor.close()
    _LOG.info("stopped")
    return 0


def _rolled_back(audit: BackgroundAudit, model: ModelRef, reason: str) -> None:
    detail = {"digest": model.digest, "reason": reason}
    subject = f"{model.name}@{model.version}"
    audit.put(new_entry("canary.rollback", subject, actor=PROCESSOR, outcome="done", detail=detail))


def _untold(_model: ModelRef, _reason: str) -> None:
    """Nobody audits."""


def _always(line_up: LineUp) -> Callable[[], LineUp]:
    return lambda: line_up


def open_store(settings: Settings, catalog: Catalog) -> RedisStore:
    """The store that the settings name, for the entities of a catalog; nothing is sent yet. Raises ConfigError."""
    store = settings.store
    return RedisStore(
        store.url.get_secret_value(),
        namespace=store.namespace,
        timeout_ms=store.timeout_ms,
        owner=store_owner(settings),
        limits=catalog.limits,
        entities=catalog.logged,
        shards=store.shards,
        cluster=store.cluster,
        tls=Tls(store.tls_ca_file, store.tls_certificate_file, store.tls_key_file),
    )


def store_owner(settings: Settings) -> str:
    """Whose a namespace of the store is: markers and floors are offsets of this group and topic."""
    return f"group {settings.kafka.group_id} reading {settings.topics.payments}"


@contextmanager
def checking(settings: Settings, catalog: Catalog, telemetry: Telemetry) -> Iterator[None]:
    """Look for committed records in the state now and then, on clients of its own."""
    if not settings.store.check_interval_s:
        yield
        return
    topics, processing = settings.topics, settings.processing
    store, log = open_store(settings, catalog), LogReader(settings.kafka, topics.payments, topics.labels)
    check = SpotCheck(
        store=store,
        log=log,
        decoder=Decoder(
            max_payment_bytes=processing.max_payment_bytes,
            max_future_ms=processing.max_future_ms,
            labels_topic=topics.labels,
        ),
        grouper=Grouper(catalog.logged),
        telemetry=telemetry,
        interval_s=settings.store.check_interval_s,
    )
    check.start()
    try:
        yield
    finally:
        check.stop()
        within(log.close, 2.0)
        store.close()


STORE_CHECK_TRIES: Final = 5


def check_store(store: StateStore) -> None:
    """Check the store at the start, with a few tries at one that does not answer. Raises StoreError."""
    for attempt in range(STORE_CHECK_TRIES):
        try:
            store.check()
        except StoreUnavailable:
            if attempt == STORE_CHECK_TRIES - 1:
                raise
            time.sleep(0.2 * (attempt + 1))
        else:
            return


def stop_on_signals(stop: Callable[[], None], deadline_s: float) -> None:
    """On SIGTERM or SIGINT call `stop`; if the process still lives `deadline_s` later, end it with exit code 1.

    Ending there loses nothing: what is not committed is read again by the next owner of its partition. The time runs
    from the signal on, also where the main thread is inside a client's call and Python can't call `stop`.
    """
    heard, told = os.pipe()
    os.set_blocking(told, False)

    def watch() -> None:
        while os.read(heard, 1)[0] not in _STOPPING:
            pass  # another signal that Python was asked to handle
        time.sleep(deadline_s)
        _LOG.error("drain_deadline_passed", seconds=deadline_s)
        os._exit(1)

    def handle(number: int, _frame: FrameType | None) -> None:
        _LOG.info("stopping", signal=signal.Signals(number).name)
        stop()

    signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    threading.Thread(target=watch, daemon=True, name="drain").start()
    for number in _STOPPING:
        signal.signal(number, handle)
