"""One proof, from the first topic to the last piece of evidence.

1. Refuse what is there already; make topics and marks.
2. Start the witness, a processor and the generator.
3. Warm up and measure, on one schedule; read the processor's counters.
4. Tell the processor to stop while payments come, and start the next one.
5. With faults: kill, stall and drain three processors under load, then remove the run's own state.
6. Stop everything, make the certificate, and gather the evidence.
7. Remove what was made, whatever happened before.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

from consumer.app import check_store, open_store
from consumer.kafka.admin import MARK
from consumer.kafka.logreader import LogReader
from consumer.prove.canaries import Search, secrets_of
from consumer.prove.certificate import certificate
from consumer.prove.evidence import Evidence, Section, Sent, read
from consumer.prove.faults import REPLICAS, inject_faults
from consumer.prove.history import Canaries, Record, history
from consumer.prove.measured import latency_of
from consumer.prove.names import PREFIX, Run, settings_of
from consumer.prove.plan import Asked, Part, enough_of, plan
from consumer.prove.processes import Generator, Watcher
from consumer.prove.replicas import Replicas
from consumer.prove.resources import Resources
from consumer.prove.signals import held_from_children, undisturbed
from consumer.prove.worker import until, while_moving
from consumer.settings import Settings, describe
from consumer.trust import trust_of
from features.profiles import load_catalog
from features.store import Source
from models.bundle import read_files

PATIENCE_S: Final = 180.0  # with a processor that decides nothing, though not everything is decided
READ_S: Final = 60.0
SENDING_S: Final = 120.0  # beyond the schedule
PAUSE_S: Final = 0.3
FIRST: Final = "a"
Tell = Callable[[str], None]


def prove(run: Run, real: Settings, asked: Asked, tell: Tell) -> Evidence:
    """Do it. `real` are the deployment's settings; `tell` is told what is being done.

    Raises FraudlineError: a server, the bundle or a setting can't be used. What was made is removed all the same.
    """
    settings = settings_of(run, real)
    if settings.model.registry is None:  # what a processor would find too, half a minute and seven topics later
        read_files(settings.model.bundle, trust=trust_of(settings.model))
    with closing(open_store(settings, load_catalog(settings.features.catalog))) as store:
        check_store(store)
    resources = Resources(run, settings)
    proof = Proof(run, settings, asked, resources, tell)
    evidence = None
    try:
        with undisturbed(later=True):  # or something could be made and not be noted
            resources.make(real.topics.payments, processors=len(REPLICAS) if asked.faults else 1)
        evidence = proof.run(describe(real), secrets_of(real))
    finally:
        with undisturbed():
            proof.close()
            if resources.has_begun:
                tell("removing what was made")
            removal = resources.remove()
            resources.close()
            if why := [*removal.problems, *(f"{what} is left" for what in removal.left)]:
                tell(f"not everything could be removed ({'; '.join(why)}): try fraudline prove --clean {run.run}")
    evidence.removal = removal
    return evidence


def _clock_offset_ns() -> int:
    """The clock that latency is told by, against one that nobody can set: both are slewed alike."""
    return time.time_ns() - time.monotonic_ns()


class Proof:
    """The steps between making and removing."""

    def __init__(self, run: Run, settings: Settings, asked: Asked, resources: Resources, tell: Tell) -> None:
        """Nothing is started yet."""
        self._settings, self._asked, self._resources, self._tell = settings, asked, resources, tell
        self._plan, self._canaries = plan(asked), Canaries.of(run.run)
        self._rng = random.Random(asked.seed)  # noqa: S311  faults come at random, and may be repeated
        self._replicas = Replicas(run, settings, asked.config)
        self._open = ExitStack()
        self._sent: list[Sent] = []
        self._pages: list[str] = []
        self._folder = Path(
            self._open.enter_context(tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True))
        )
        self._outputs = [getattr(settings.topics, role) for role in ("decisions", "alerts", "dead_letters", "journal")]

    def run(self, shown: list[tuple[str, str, str]], secrets: list[str]) -> Evidence:
        """All of it; `shown` are the deployment's settings as people see them. Raises FraudlineError."""
        settings, asked = self._settings, self._asked
        self._begin()
        catalog = load_catalog(settings.features.catalog)
        evidence = Evidence(
            delivery=settings.processing.delivery,
            budget_ms=settings.processing.budget_ms,
            secrets=len(secrets),
            label_features=sum(each.group.endswith(".labels") for each in catalog.features),
        )
        offset_ns = _clock_offset_ns()
        self._measure()
        evidence.clock_set_ms = (_clock_offset_ns() - offset_ns) / 1e6
        evidence.counted = self._counted()
        evidence.left_at_drain = self._drain()
        if asked.faults:
            session_s = settings.kafka.session_timeout_ms / 1_000
            with self._load(self._plan.faults, "faults"):
                evidence.stalls = inject_faults(self._replicas, self._rng, asked.kills, session_s, self._tell)
            self._settle(has_faults=True)
        self._tell("making all decisions again, from the logs")
        evidence.certificate, evidence.why_no_certificate = certificate(settings)
        if evidence.certificate is not None and evidence.label_features:
            self._tell("making them again as if there were no labels")
            changed, evidence.why_no_count = certificate(settings, with_labels=False)
            evidence.changed_by_labels = None if changed is None else changed["different"]
        if asked.faults:
            evidence.lost_keys, evidence.flushed_ns = self._flush()
            self._settle(has_faults=True)
            evidence.after_flush, evidence.why_not_after_flush = certificate(settings)
        self._replicas.reap()
        self._pages += [worker.page("/metrics") for worker in self._replicas.workers.values()]
        self._replicas.drain_all()
        self._gather(evidence, Search(self._canaries, secrets))
        for text in (f"{name} {value} {origin}" for name, value, origin in shown):
            search = Search(self._canaries, secrets)
            search.look("settings", text, text.split(" ", 1)[0])
            evidence.shown += search.found
        return evidence

    def close(self) -> None:
        """End every process, and keep the processors' logs. Never raises."""
        self._replicas.close()
        self._open.close()
        for number, worker in enumerate(self._replicas.all, start=1):
            text = "".join(f"{line}\n" for line in worker.log)
            try:
                (self._asked.out / f"processor-{number}-{worker.replica}.log").write_text(text, "utf-8")
            except OSError as error:
                self._tell(f"the log of processor {worker.replica} can't be kept: {error.strerror}")

    def _begin(self) -> None:
        settings, topics = self._settings, self._settings.topics
        self._tell("starting a processor, and who watches it")
        processing = settings.processing
        self._records = history(
            self._plan.records,
            seed=self._asked.seed,
            now_ms=int(time.time() * 1_000),
            canaries=self._canaries,
            max_payment_bytes=processing.max_payment_bytes,
            max_future_ms=processing.max_future_ms,
        )
        named = {"payments": topics.payments, "labels": topics.labels}
        outgoing = [(named[each.role], each.key, each.value) for each in self._records[: self._plan.records]]
        with held_from_children():
            self._watcher = Watcher(settings.kafka, self._outputs, self._folder / "seen")
            self._open.callback(self._watcher.close)
            self._generator = Generator(settings.kafka, outgoing)
            self._open.callback(self._generator.close)
        self._replicas.start(FIRST)
        self._watcher.wait_ready()
        self._generator.wait_ready()
        for role in ("payments", "labels"):
            mark = Record("payments" if role == "payments" else "labels", MARK.encode(), None, "empty")
            self._sent.append(Sent(mark, "mark", 0, 0, 0, 0))

    def _measure(self) -> None:
        part, asked = self._plan.scheduled, self._asked
        self._tell(f"{asked.warm_up_s:g} s of warm-up, then {asked.seconds:g} s at {asked.rate:,.0f} records/s")
        self._generator.begin(part.first, part.count, part.rate)
        self._took(part, "measured")
        self._settle()

    def _took(self, part: Part, section: Section) -> None:
        """Note where the records of a part landed. Raises FraudlineError."""
        rows = self._generator.rows(part.seconds + SENDING_S)
        records = self._records[part.first : part.first + len(rows)]
        for number, (record, row) in enumerate(zip(records, rows.tolist(), strict=True)):
            named: Section = "warm-up" if section == "measured" and number < self._plan.warm_up else section
            self._sent.append(Sent(record, named, *row))

    def _counted(self) -> dict[str, float]:
        """Totals of the first processor's counters, over their labels."""
        page = self._replicas.workers[FIRST].page("/metrics")
        self._pages.append(page)
        totals: dict[str, float] = {}
        for family in text_string_to_metric_families(page):
            for sample in family.samples:
                totals[sample.name] = totals.get(sample.name, 0.0) + sample.value
        return totals

    def _drain(self) -> int:
        """SIGTERM while payments come; how many of them were left to the next processor."""
        part, topics = self._plan.drain, self._settings.topics
        self._tell(f"SIGTERM while {part.rate:,.0f} records/s come")
        before = self._watcher.count(topics.decisions)
        with self._load(part, "drain"):
            self._watcher.wait_count(before + 1, [topics.decisions], part.seconds)
            self._replicas.drain(FIRST)
        committed, ends = self._resources.admin.progress(
            self._settings.kafka.group_id, (topics.payments, topics.labels)
        )
        self._replicas.start(FIRST)
        self._settle()
        return sum(end - max(committed.get(at, 0), 0) for at, end in ends.items())

    @contextmanager
    def _load(self, part: Part, section: Section) -> Iterator[None]:
        """Records of a part come while the block runs."""
        self._generator.begin(part.first, part.count, part.rate)
        yield
        self._generator.stop()
        self._took(part, section)

    def _flush(self) -> tuple[int, int]:
        """Remove the run's own state, mark aside; payments come until features are back. How many keys, and when in ns.

        Nothing is on its way when it is removed: what is found by a scan and then removed would else leave the logs
        that came between, which no server that loses its data does.
        """
        self._tell("the run's own keys are removed from Redis, and payments come")
        lost = self._resources.keys.delete_state()
        removed_ns, before = time.time_ns(), self._watcher.with_features()
        with self._load(self._plan.flush, "flush"):
            enough, limit_s = before + enough_of(self._plan.flush), self._plan.flush.seconds
            back = until(lambda: self._watcher.with_features() > enough, limit_s, PAUSE_S)
        self._tell("features are back" if back else f"features did not come back in {limit_s:.0f} s")
        return lost, removed_ns

    def _settle(self, *, has_faults: bool = False) -> None:
        """Wait until everything that was sent is committed, and nobody's transaction is open.

        Raises FraudlineError, also where a processor ends by itself and the next one does too; not if `has_faults`:
        then that is what was to be found out.
        """
        topics = self._settings.topics
        group, read = self._settings.kafka.group_id, (topics.payments, topics.labels)

        def look() -> tuple[dict[Source, int], dict[Source, int]]:
            dead = self._replicas.reap()
            for name in dead:  # it says why in its log, and the report says that it did
                self._replicas.begin(name)
                if has_faults:
                    self._replicas.gets_to_work(name)  # or that is in the report as well
                else:
                    self._replicas.workers[name].wait_ready()
            return self._resources.admin.progress(group, read)

        if not while_moving(look, PATIENCE_S, PAUSE_S):
            self._tell(f"nothing more was decided for {PATIENCE_S:.0f} s, and not everything is")
        with closing(LogReader(self._settings.kafka, topics.decisions)) as reader:
            until(
                lambda: {at: each.high for at, each in reader.extents().items()} == dict(reader.written_ends()),
                PATIENCE_S,
                PAUSE_S,
            )

    def _gather(self, evidence: Evidence, search: Search) -> None:
        """Everything that is to be judged."""
        settings, topics = self._settings, self._settings.topics
        self._tell("reading what was published")
        ends = self._watcher.read_to_end(READ_S)
        decided_to = sum(end for (topic, _), end in ends.items() if topic == topics.decisions)
        evidence.marks = decided_to - self._watcher.count(topics.decisions)
        told = read(self._watcher.seen(), topics)
        evidence.sent = self._sent
        evidence.decisions, evidence.alerts = told.decisions, told.alerts
        evidence.letters, evidence.journal, evidence.garbled = told.letters, told.journal, told.garbled
        evidence.workers = self._replicas.ended
        evidence.kills = sum(each.told == "kill" for each in evidence.workers)
        evidence.committed, evidence.ends = self._resources.admin.progress(
            settings.kafka.group_id, (topics.payments, topics.labels)
        )
        search.look_at_records(self._watcher.seen(), topics)
        for worker in self._replicas.all:
            for number, line in enumerate(worker.log, start=1):
                search.look("log lines", line, f"line {number} of the log of processor {worker.replica}")
        for page in self._pages:
            search.look("pages of metrics", page, "a page of metrics")
        values = [each.record.value or b"" for each in self._sent]
        evidence.laid = {
            "card numbers": sum(self._canaries.card_number.encode() in value for value in values),
            "secrets": sum(self._canaries.secret.encode() in value for value in values),
        }
        evidence.leaks, evidence.looked_at = search.found, dict(search.looked_at)
        evidence.latency = latency_of(evidence, self._asked.rate, self._replicas.all[0].log)
