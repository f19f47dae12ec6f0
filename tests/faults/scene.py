"""A scene: topics, a namespace, workers that come and go, and a witness that reads everything from start to end."""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Self

import tomli_w
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from consumer.cli import exit_status
from consumer.kafka.logreader import LogReader
from consumer.settings import Settings
from tests.faults.check import Evidence, Law, unfeatured_newest, violations
from tests.faults.payments import LABEL_PARTITIONS, PARTITIONS, Record, history
from tests.faults.process import DEADLINE_S, Worker
from tests.faults.timelines import At
from tests.faults.worker import Fault, Spec
from tests.services.clock import Clock
from tests.services.kafka import KafkaBroker
from tests.services.proxy import KafkaProxy
from tests.services.reader import ReadCommitted, Seen
from tests.support.steadily import Steadily


class Scene:
    """Topics of its own on `kafka`, and settings for workers that share a group and a namespace."""

    def __init__(
        self,
        kafka: KafkaBroker,
        redis_url: str,
        name: str,
        *,
        delivery: str = "exactly_once",
        outage: str = "degrade",
        patience_ms: int = 5_000,
        store_timeout_ms: int = 250,
        shards: int = 1,
        degrades: bool = False,
        settings: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """Make the topics.

        `patience_ms` is the budget, of which a batch may wait a share for the store before it is degraded. With several
        `shards` the address is a cluster's. `degrades` says that the store is away for a while, and that payments may
        then be decided without features, where they don't have to wait for it. `settings`, by section, are added to
        those below or replace them.
        """
        self.kafka = kafka
        self.delivery = delivery
        self.topics = {
            role: f"{name}.{role}"
            for role in ("payments", "labels", "decisions", "alerts", "dead_letters", "lists", "journal")
        }
        counts = {"payments": PARTITIONS, "labels": LABEL_PARTITIONS, "decisions": 2}
        kafka.create_topics({topic: counts.get(role, 1) for role, topic in self.topics.items()})
        self.group = name
        self._settings: dict[str, dict[str, Any]] = {
            "kafka": {
                "brokers": kafka.bootstrap,
                "group_id": name,
                "session_timeout_ms": 1_500,
                "request_timeout_ms": 10_000,
                "transaction_timeout_ms": 5_000,
                "max_poll_interval_ms": 30_000,
            },
            "topics": self.topics,
            "store": {
                "url": redis_url,
                "namespace": name,
                "timeout_ms": store_timeout_ms,
                "outage": outage,
                "shards": shards,
                "cluster": shards > 1,
            },
            "processing": {"delivery": delivery, "max_batch": 20, "linger_ms": 2, "budget_ms": patience_ms},
        }
        for section, values in (settings or {}).items():
            self._settings[section] |= values
        self.outage, self.shards = outage, shards
        self.degrades = degrades and outage == "degrade"
        self.workers: list[Worker] = []
        self._changed = threading.Condition()
        self.produced = 0
        self._producer = Producer({"bootstrap.servers": kafka.bootstrap, "enable.idempotence": True, "log_level": 0})
        self._inputs = ReadCommitted(kafka.bootstrap, [self.topics["payments"], self.topics["labels"]])
        outputs = [self.topics[role] for role in ("decisions", "alerts", "dead_letters", "journal")]
        self.witness = ReadCommitted(kafka.bootstrap, outputs)
        self._offsets = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": name, "log_level": 0})

    def produce(self, records: Iterable[Record]) -> None:
        """Send records and wait until the broker has them."""
        for record in records:
            topic = self.topics["labels" if record.is_label else "payments"]
            self._producer.produce(topic, record.value, record.key, partition=record.partition)
            self.produced += 1
        assert self._producer.flush(DEADLINE_S) == 0

    def worker(
        self,
        replica: str = "a",
        *,
        fault: Fault | None = None,
        mutant: str = "",
        redis_url: str | None = None,
        bundle: Path | None = None,
        proxy: KafkaProxy | None = None,
        clock: Clock | None = None,
    ) -> Worker:
        """Start a worker; `replica` makes its transactional id. With another `redis_url` the store is not checked.

        Without a `bundle` it decides by checksums. It reaches Kafka through the `proxy`, and lives by the `clock`, if
        there are any.
        """
        settings = {section: dict(values) for section, values in self._settings.items()}
        settings["kafka"]["transactional_id"] = f"{self.group}-{replica}"
        if redis_url is not None:
            settings["store"]["url"] = redis_url
        if proxy is not None:
            settings["kafka"]["brokers"] = proxy.bootstrap
        spec = Spec(settings, fault, mutant, check_store=redis_url is None, bundle=str(bundle or ""))
        worker = Worker(spec, self._changed, clock.environment if clock else {})
        self.workers.append(worker)
        return worker

    def outcomes(self) -> int:
        """Decisions and dead letters that the witness has seen."""
        return len(self.witness.seen(self.topics["decisions"])) + len(self.witness.seen(self.topics["dead_letters"]))

    def wait_outcomes(self, count: int, timeout_s: float = DEADLINE_S) -> None:
        """Wait until the witness has seen so many decisions and dead letters."""
        wanted = (self.topics["decisions"], self.topics["dead_letters"])
        self._patiently(
            lambda: self.witness.wait_until(
                lambda seen: sum(record.topic in wanted for record in seen) >= count, timeout_s
            )
        )

    def wait_decision(self, tier: str, after: int = 0, timeout_s: float = DEADLINE_S) -> None:
        """Wait for a decision of a tier among those that the witness sees after its first `after` records."""
        mark, topic = f'"tier":"{tier}"'.encode(), self.topics["decisions"]

        def seen(records: Sequence[Seen]) -> bool:
            return any(record.topic == topic and mark in (record.value or b"") for record in records[after:])

        self._patiently(lambda: self.witness.wait_until(seen, timeout_s))

    def wait_committed(self, timeout_s: float = DEADLINE_S) -> None:
        """Wait until every record is committed, asking the broker again and again."""
        deadline, pause = time.monotonic() + timeout_s, threading.Event()
        while missing := self._unfinished():
            assert time.monotonic() < deadline, f"in {timeout_s} s not all was committed, {missing}: {self.stories()}"
            pause.wait(0.05)

    def wait_journaled(self, timeout_s: float = DEADLINE_S) -> None:
        """Wait until every shard's newest epoch has in its journal each payment and label that is to be in its logs."""
        deadline = time.monotonic() + timeout_s
        while missing := self.evidence(timeout_s).unrecorded():
            assert time.monotonic() < deadline, f"{missing} records have no order: {self.stories()}"

    def evidence(self, timeout_s: float = DEADLINE_S) -> Evidence:
        """All that can be read now."""
        inputs = self._inputs.read_to_end(timeout_s)
        seen = self.witness.read_to_end(timeout_s)
        by_role = {role: [record for record in seen if record.topic == topic] for role, topic in self.topics.items()}
        committed, ends = self._progress()
        return Evidence(
            inputs=inputs,
            labels_topic=self.topics["labels"],
            decisions=by_role["decisions"],
            alerts=by_role["alerts"],
            dead_letters=by_role["dead_letters"],
            journal=by_role["journal"],
            committed=committed,
            ends=ends,
            shards=self.shards,
        )

    def committed(self) -> dict[tuple[str, int], int]:
        """The group's offsets, by topic and partition, of those that hold anything."""
        return self._progress()[0]

    def ends(self) -> dict[tuple[str, int], int]:
        """Where those partitions end."""
        return self._progress()[1]

    def violations(self, *, copies: bool = True, exactly_once: bool | None = None) -> list[str]:
        """Judge what happened; see `Law`. By default duplicates are judged as the scene's delivery promises."""
        once = self.delivery == "exactly_once" if exactly_once is None else exactly_once
        return violations(self.evidence(), Law(exactly_once=once, equal_copies=copies, degrades=self.degrades))

    def wait_settled(self, timeout_s: float = DEADLINE_S) -> None:
        """Wait until no killed worker's transaction holds readers of the outputs back."""
        deadline, pause, kafka = time.monotonic() + timeout_s, threading.Event(), Settings(**self._settings).kafka
        for role in ("decisions", "alerts", "journal"):
            with closing(LogReader(kafka, self.topics[role])) as reader:
                while {source: each.high for source, each in reader.extents().items()} != reader.written_ends():
                    assert time.monotonic() < deadline, f"a transaction is open on {role}: {self.stories()}"
                    pause.wait(0.05)

    def certificate(self, *bundles: Path) -> dict[str, Any]:
        """What `fraudline certify` says of all that was decided, from the topics."""
        with tempfile.TemporaryDirectory() as folder:
            config, out = Path(folder) / "fraudline.toml", Path(folder) / "certificate.json"
            config.write_text(tomli_w.dumps(self._settings))
            given = [
                f"--{role}={self.topics[role]}" for role in ("decisions", "payments", "labels", "journal", "alerts")
            ]
            status = exit_status(
                ["certify", *given, *(f"--bundle={each}" for each in bundles), f"--config={config}", f"--out={out}"]
            )
            document: dict[str, Any] = json.loads(out.read_text())
        assert status == {"equal": 0, "different": 3, "unverifiable": 4}[document["verdict"]]
        return document

    def first_to_end(self, workers: Sequence[Worker], timeout_s: float = DEADLINE_S) -> Worker:
        """Wait until one of them ends."""
        with self._changed:
            self._changed.wait_for(lambda: any(worker.over for worker in workers), timeout_s)
        ended = [worker for worker in workers if worker.over]
        assert ended, f"no worker ended in {timeout_s} s: {self.stories()}"
        ended[0].wait_exit()
        return ended[0]

    def finish(self, *, recorded: bool = True) -> None:
        """Wait until all is committed, and all of it `recorded` in the state; then drain every worker that still lives.

        Each must end with status 0. If the store was away, all partitions have to come to be decided with features.
        """
        self.wait_committed()
        if self.degrades:
            self._wait_featured()
        if recorded:
            self.wait_journaled()
        for worker in self.workers:
            if worker.process.poll() is None:
                assert worker.drain() == 0, worker.story()

    def stories(self) -> str:
        return "\n".join(worker.story() for worker in self.workers)

    def close(self) -> None:
        for worker in self.workers:
            worker.end()
        self.witness.stop()
        self._inputs.stop()
        self._offsets.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _patiently(self, wait: Any) -> None:
        try:
            wait()
        except TimeoutError as error:
            raise AssertionError(f"{error}; {self.stories()}") from error

    def _wait_featured(self, timeout_s: float = DEADLINE_S) -> None:
        """Produce a little more, again and again, until the newest payment of each partition has features."""
        deadline = time.monotonic() + timeout_s
        while without := self._unfeatured():
            assert time.monotonic() < deadline, f"in {timeout_s} s {without} had no features: {self.stories()}"
            self.produce(history(10 * PARTITIONS, seed=self.produced, first=self.produced))
            self.wait_committed()

    def _unfeatured(self) -> list[At]:
        self.witness.read_to_end()
        return unfeatured_newest(self.witness.seen(self.topics["decisions"]))

    def _unfinished(self) -> str:
        """What is not committed yet; empty where all is."""
        try:
            committed, ends = self._progress()
        except KafkaException as error:  # an open transaction, or a broker on its way up
            return str(error)
        return "" if committed == ends else f"{committed} of {ends}"

    def _progress(self) -> tuple[dict[tuple[str, int], int], dict[tuple[str, int], int]]:
        """Committed offset and end of each partition, of either topic, that holds anything."""
        partitions = [TopicPartition(self.topics["payments"], number) for number in range(PARTITIONS)]
        partitions += [TopicPartition(self.topics["labels"], number) for number in range(LABEL_PARTITIONS)]
        committed = {(at.topic, at.partition): at.offset for at in self._offsets.committed(partitions, 10.0)}
        ends = {(at.topic, at.partition): self._offsets.get_watermark_offsets(at, 10.0)[1] for at in partitions}
        ends = {source: end for source, end in ends.items() if end}
        return {source: committed[source] for source in ends}, ends


class Load(Steadily):
    """Produces small runs of payments and labels until it is told to stop."""

    def __init__(self, stage: Scene) -> None:
        super().__init__(lambda: stage.produce(history(4, seed=stage.produced, first=stage.produced)), 0.02)
