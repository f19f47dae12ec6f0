"""`fraudline run` as operators run it: a process, its environment, a real Kafka and a real Redis."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec
import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from prometheus_client.parser import text_string_to_metric_families

from consumer.kafka.compacted import put
from consumer.kafka.logreader import LogReader
from consumer.settings import KafkaSettings
from features.redis_store import RedisStore
from models.bundle import Bundle
from models.lists import ListEntry
from models.policy import Rule
from tests.poison import CARD_NUMBER, POISON, VALID, payment
from tests.services.kafka import KafkaBroker
from tests.services.process import free_ports
from tests.services.reader import ReadCommitted
from tests.services.redis import RedisServer
from tests.support.bundles import make_bundle

ROOT = Path(__file__).parents[1]
DEADLINE_S = 60.0
DRAIN_S = 20.0
CANARY = "tok_canary_7f3a"
COMMAND = (sys.executable, "-c", "from consumer.cli import main; main()", "run")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("run") / "bundle")


@dataclass(slots=True)
class Worker:
    """A running `fraudline run`; its log lines arrive on a thread."""

    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)
    listener: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self.listener = threading.Thread(target=self._listen, daemon=True)
        self.listener.start()

    def wait_for(self, event: str) -> dict[str, Any]:
        """Wait for a log line of this event."""
        mark = f'"event": "{event}"'

        def logged() -> list[str]:
            return [line for line in self.lines if mark in line]

        with self.changed:
            self.changed.wait_for(lambda: logged() or self.lines[-1:] == ["END"], DEADLINE_S)
            assert logged(), self.lines
            document: dict[str, Any] = json.loads(logged()[0])
        return document

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.listener.join()
        assert self.process.stderr is not None
        self.process.stderr.close()

    def _listen(self) -> None:
        assert self.process.stderr is not None
        for line in chain(iter(self.process.stderr.readline, ""), ["END"]):
            with self.changed:
                self.lines.append(line.rstrip("\n"))
                self.changed.notify_all()


@dataclass(slots=True)
class Plant:
    """Topics and settings of one deployment."""

    topics: dict[str, str]
    environment: dict[str, str]
    workers: list[Worker] = field(default_factory=list)

    def start(self, *arguments: str, **changes: str) -> Worker:
        process = subprocess.Popen(
            [*COMMAND, *arguments],
            cwd=ROOT,
            env=self.environment | changes,
            stderr=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self.workers.append(Worker(process))
        return self.workers[-1]

    def refused(self, **changes: str) -> str:
        """The one line with which it refuses to start."""
        done = subprocess.run(
            COMMAND,
            cwd=ROOT,
            env=self.environment | changes,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
        errors = [line for line in done.stderr.splitlines() if not line.startswith("{")]
        assert done.returncode in {1, 2}, done.stderr
        assert len(errors) == 1, done.stderr
        assert errors[0].startswith("error: "), done.stderr
        assert "Traceback" not in done.stderr
        assert done.stdout == ""
        return errors[0]


def environment(bootstrap: str, redis_url: str, bundle: Path, name: str, topics: dict[str, str]) -> dict[str, str]:
    settings = {
        "KAFKA__BROKERS": bootstrap,
        "KAFKA__GROUP_ID": name,
        "KAFKA__SESSION_TIMEOUT_MS": "6000",
        "KAFKA__REQUEST_TIMEOUT_MS": "10000",
        "STORE__URL": redis_url,
        "STORE__NAMESPACE": name,
        "STORE__TIMEOUT_MS": "1000",
        "MODEL__BUNDLE": str(bundle),
        "TELEMETRY__PORT": "0",
        "PROCESSING__BUDGET_MS": "5000",
        "PROCESSING__DRAIN_DEADLINE_MS": str(int(DRAIN_S * 1000)),
        **{f"TOPICS__{role.upper()}": topic for role, topic in topics.items()},
    }
    outside = {name: value for name, value in os.environ.items() if not name.startswith("FRAUDLINE_")}
    return outside | {f"FRAUDLINE_{name}": value for name, value in settings.items()}


@pytest.fixture
def plant(
    kafka: KafkaBroker, redis_server: RedisServer, topics: Callable[..., dict[str, str]], bundle: Bundle, unique: str
) -> Iterator[Plant]:
    made = topics(payments=3, labels=1, decisions=2, alerts=1, dead_letters=1, journal=1, lists=1)
    plant = Plant(made, environment(kafka.bootstrap, redis_server.url, bundle.path, unique, made))
    yield plant
    for worker in plant.workers:
        worker.end()


def produce(bootstrap: str, topic: str, values: list[bytes | None]) -> None:
    producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True, "log_level": 0})
    for number, value in enumerate(values):
        producer.produce(topic, value, b"key", partition=number % 3)
    assert producer.flush(DEADLINE_S) == 0
    producer.close()


def ask(port: int, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def counted(metrics: str) -> dict[str, float]:
    """Totals of the counters, over their labels."""
    totals: dict[str, float] = {}
    for family in text_string_to_metric_families(metrics):
        for sample in family.samples:
            totals[sample.name] = totals.get(sample.name, 0.0) + sample.value
    return totals


@pytest.mark.parametrize("delivery", ["exactly_once", "at_least_once"])
def test_payments_in_decisions_alerts_and_dead_letters_out(plant: Plant, kafka: KafkaBroker, delivery: str) -> None:
    good: list[bytes | None] = [
        payment(event_id=f"evt-{number}", card_id=f"{CANARY}_{number % 9}", amount_minor=1 + 977 * number)
        for number in range(120)
    ]
    bad: list[bytes | None] = [each.value for each in POISON]
    outputs = [plant.topics[role] for role in ("decisions", "alerts", "dead_letters", "journal")]
    with ReadCommitted(kafka.bootstrap, outputs) as reader:
        worker = plant.start(FRAUDLINE_PROCESSING__DELIVERY=delivery)
        port = worker.wait_for("started")["port"]
        produce(kafka.bootstrap, plant.topics["payments"], [*good, *bad])
        answers = {plant.topics["decisions"], plant.topics["dead_letters"]}
        reader.wait_until(lambda seen: sum(r.topic in answers for r in seen) >= len(good) + len(bad), DEADLINE_S)
        produce(kafka.bootstrap, plant.topics["payments"], [payment(event_id="evt-last", card_id=CANARY)])
        reader.wait_until(lambda seen: any(b"evt-last" in (r.value or b"") for r in seen), DEADLINE_S)

        assert ask(port, "/livez")[0] == 200
        assert ask(port, "/readyz") == (200, "ready\n")
        status, metrics = ask(port, "/metrics")
        assert status == 200

        worker.process.send_signal(signal.SIGTERM)
        assert worker.process.wait(DRAIN_S + 10.0) == 0, worker.lines
        seen = reader.read_to_end(DEADLINE_S)

    decisions = [json.loads(r.value or b"") for r in seen if r.topic == plant.topics["decisions"]]
    alerts = [json.loads(r.value or b"") for r in seen if r.topic == plant.topics["alerts"]]
    letters = [r for r in seen if r.topic == plant.topics["dead_letters"]]
    assert sorted(d["event_id"] for d in decisions) == sorted([f"evt-{n}" for n in range(120)] + ["evt-last"])
    assert {d["tier"] for d in decisions} == {"full"}
    assert {a["event_id"] for a in alerts} == {d["event_id"] for d in decisions if d["decision"] != "approve"}
    assert alerts
    assert sorted(letter.value or b"" for letter in letters) == sorted(value or b"" for value in bad)
    assert all(dict(letter.headers)["__connect.errors.stage"] == b"decode" for letter in letters)

    totals = counted(metrics)
    assert totals["fraudline_decisions_total"] >= 120
    assert totals["fraudline_rejected_total"] == len(bad)
    assert totals["fraudline_heartbeat_timestamp_seconds"] > 0
    assert CANARY not in metrics

    assert all(committed_of(plant, kafka)[plant.topics["payments"], number] for number in range(3))

    worker.listener.join(DEADLINE_S)
    lines = worker.lines[:-1]
    assert [json.loads(line)["event"] for line in lines][-1] == "stopped"
    assert not any(CANARY in line or CARD_NUMBER in line for line in lines)


def test_a_running_processor_hears_of_the_lists(plant: Plant, kafka: KafkaBroker) -> None:
    """What was on a list at the start is known to the first payment; what is added, without a restart."""
    settings = KafkaSettings(brokers=kafka.bootstrap, transactional_id="lists")
    decisions = plant.topics["decisions"]

    def name(card: str) -> None:
        entry = ListEntry("deny", "card", card)
        put(settings, plant.topics["lists"], {entry.key.encode(): msgspec.json.encode(entry)})

    name(f"{CANARY}_1")
    with ReadCommitted(kafka.bootstrap, [decisions]) as reader:
        worker = plant.start()
        port = worker.wait_for("started")["port"]
        sent = 0

        def pay(*cards: str) -> list[dict[str, Any]]:
            nonlocal sent
            values: list[bytes | None] = [
                payment(event_id=f"evt-{sent + number}", card_id=f"{CANARY}_{card}")
                for number, card in enumerate(cards)
            ]
            sent += len(cards)
            produce(kafka.bootstrap, plant.topics["payments"], values)
            reader.wait_until(lambda seen: len(seen) >= sent, DEADLINE_S)
            return [json.loads(record.value or b"") for record in reader.read_to_end(DEADLINE_S)][-len(cards) :]

        told = {each["card_id"]: each for each in pay("1", "2")}
        assert told[f"{CANARY}_1"]["decision"] == "block"
        assert told[f"{CANARY}_1"]["rules"] == ["list_deny"]
        assert told[f"{CANARY}_2"]["rules"] == []
        before = told[f"{CANARY}_2"]["inputs"]["lists_version"]
        assert before >= 1

        name(f"{CANARY}_2")
        deadline_s = time.monotonic() + DEADLINE_S
        while (last := pay("2")[0])["inputs"]["lists_version"] == before:
            assert time.monotonic() < deadline_s, "the change was never heard"
        assert (last["decision"], last["rules"]) == ("block", ["list_deny"])
        metrics = ask(port, "/metrics")[1]
        assert counted(metrics)["fraudline_rules_fired_total"] == 2
        assert CANARY not in metrics


def test_a_label_is_known_to_the_next_payment_of_its_card(plant: Plant, kafka: KafkaBroker, tmp_path: Path) -> None:
    rule = Rule("known_fraud", "card_frauds_30d >= 1", "block", "A payment of the card was reported as fraud.")
    bundle = make_bundle(tmp_path / "bundle", rules=(rule,))
    labels, decisions = plant.topics["labels"], plant.topics["decisions"]
    outputs = [plant.topics[role] for role in ("decisions", "alerts", "dead_letters", "journal")]
    with ReadCommitted(kafka.bootstrap, outputs) as reader:
        worker = plant.start(FRAUDLINE_MODEL__BUNDLE=str(bundle.path))
        port = worker.wait_for("started")["port"]

        def pay(*event_ids: str) -> None:
            values: list[bytes | None] = [payment(event_id=name, card_id=f"{CANARY}_{name[0]}") for name in event_ids]
            produce(kafka.bootstrap, plant.topics["payments"], values)
            wanted = [f'"event_id":"{name}"'.encode() for name in event_ids]
            reader.wait_until(
                lambda seen: all(
                    any(r.topic == decisions and mark in (r.value or b"") for r in seen) for mark in wanted
                ),
                DEADLINE_S,
            )

        def tell(value: bytes, topic: str, mark: str) -> None:
            """Send a label, and wait until there is what comes of it."""
            produce(kafka.bootstrap, labels, [value])
            reader.wait_until(
                lambda seen: any(r.topic == topic and mark.encode() in (r.value or b"") for r in seen), DEADLINE_S
            )

        pay("a1", "b1")
        tell(label("a1", "fraud"), plant.topics["journal"], f'"topic":"{labels}","partition":0,"offset":0')
        pay("a2", "b2")
        tell(label("a1", "maybe"), plant.topics["dead_letters"], "maybe")
        tell(label("a1", "genuine"), plant.topics["journal"], f'"topic":"{labels}","partition":0,"offset":2')
        pay("a3")
        _, metrics = ask(port, "/metrics")
        worker.process.send_signal(signal.SIGTERM)
        assert worker.process.wait(DRAIN_S + 10.0) == 0, worker.lines
        seen = reader.read_to_end(DEADLINE_S)

    decided = {(d := json.loads(r.value or b""))["event_id"]: d for r in seen if r.topic == decisions}
    alerts = {(a := json.loads(r.value or b""))["event_id"]: a for r in seen if r.topic == plant.topics["alerts"]}
    letters = [dict(r.headers) for r in seen if r.topic == plant.topics["dead_letters"]]
    assert sorted(decided) == ["a1", "a2", "a3", "b1", "b2"]
    assert {name for name, alert in alerts.items() if "known_fraud" in alert["rules"]} == {"a2"}
    assert decided["a2"]["decision"] == "block"
    assert {"topic": labels, "partition": 0, "offset": 1} in alerts["a2"]["state_offsets"]
    assert [letter["__connect.errors.topic"] for letter in letters] == [labels.encode()]
    assert 'fraudline_labels_total{label="fraud",source="chargeback"} 1.0' in metrics
    assert 'fraudline_labels_total{label="genuine",source="chargeback"} 1.0' in metrics
    assert counted(metrics)["fraudline_payments_total"] == len(decided)
    committed = [at for at in committed_of(plant, kafka).items() if at[0][0] == labels]
    assert committed == [((labels, 0), 3)]


def label(event_id: str, what: str) -> bytes:
    """What is known of a payment that `payment` made."""
    names = ("event_time", "merchant_id")
    fields: dict[str, Any] = {name: VALID[name] for name in names} | {
        "event_id": event_id,
        "card_id": f"{CANARY}_{event_id[0]}",
        "label": what,
        "labelled_at": VALID["event_time"] + 1,
        "source": "chargeback",
    }
    return json.dumps(fields).encode()


def committed_of(plant: Plant, kafka: KafkaBroker) -> dict[tuple[str, int], int | None]:
    """By topic and partition, of payments and labels; all of it must be committed."""
    log = LogReader(
        KafkaSettings(brokers=kafka.bootstrap, group_id=plant.environment["FRAUDLINE_KAFKA__GROUP_ID"]),
        plant.topics["payments"],
        plant.topics["labels"],
    )
    extents = log.extents()
    log.close()
    assert [extent.committed or 0 for extent in extents.values()] == [extent.high for extent in extents.values()]
    return {source: extent.committed for source, extent in extents.items()}


def test_a_second_run_goes_on_where_the_first_ended(plant: Plant, kafka: KafkaBroker) -> None:
    with ReadCommitted(kafka.bootstrap, [plant.topics["decisions"]]) as reader:
        for first in (0, 30):
            worker = plant.start()
            worker.wait_for("started")
            produce(
                kafka.bootstrap,
                plant.topics["payments"],
                [payment(event_id=f"evt-{number}") for number in range(first, first + 30)],
            )
            total = first + 30
            reader.wait_until(lambda seen: len(seen) >= total, DEADLINE_S)  # noqa: B023  it is called here
            worker.process.send_signal(signal.SIGTERM)
            assert worker.process.wait(DRAIN_S + 10.0) == 0, worker.lines
        decided = [json.loads(record.value or b"") for record in reader.read_to_end(DEADLINE_S)]
    assert sorted(d["event_id"] for d in decided) == sorted(f"evt-{number}" for number in range(60))
    assert len({d["state"]["epoch"] for d in decided}) == 1
    assert sorted(d["state"]["sequence"] for d in decided) == list(range(60))


def test_without_its_history_it_stops_and_goes_on_only_if_told_to(
    plant: Plant, kafka: KafkaBroker, redis_server: RedisServer
) -> None:
    payments = plant.topics["payments"]
    with ReadCommitted(kafka.bootstrap, [plant.topics["decisions"]]) as reader:
        worker = plant.start()
        worker.wait_for("started")
        produce(kafka.bootstrap, payments, [payment(event_id=f"evt-{number}") for number in range(30)])
        reader.wait_until(lambda seen: len(seen) >= 30, DEADLINE_S)
        worker.process.send_signal(signal.SIGTERM)
        assert worker.process.wait(DRAIN_S + 10.0) == 0, worker.lines
        redis_server.flush()
        group = plant.environment["FRAUDLINE_KAFKA__GROUP_ID"]
        store = RedisStore(
            redis_server.url, namespace=group, timeout_ms=1_000, owner=f"group {group} reading {payments}"
        )
        store.positions()
        store.adopt({(payments, number): 2 for number in range(3)})  # an old state, and a younger log
        store.close()
        admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
        for deleted in admin.delete_records([TopicPartition(payments, number, 5) for number in range(3)]).values():
            deleted.result(DEADLINE_S)
        line = plant.refused()
        assert "history is lost" in line
        assert "--allow-cold-state" in line
        worker = plant.start("--allow-cold-state")
        worker.wait_for("started")
        produce(kafka.bootstrap, payments, [payment(event_id="evt-30")])
        reader.wait_until(lambda seen: len(seen) >= 31, DEADLINE_S)


@pytest.mark.parametrize("role", ["payments", "labels", "decisions", "journal", "lists"])
def test_a_missing_topic_is_named(plant: Plant, role: str) -> None:
    line = plant.refused(**{f"FRAUDLINE_TOPICS__{role.upper()}": "not.there"})
    assert re.search(r"has no topic not\.there: create it", line)


def test_a_missing_bundle_is_named(plant: Plant, tmp_path: Path) -> None:
    assert f"There is no model bundle at {tmp_path / 'nothing'}" in plant.refused(
        FRAUDLINE_MODEL__BUNDLE=str(tmp_path / "nothing")
    )


def test_a_damaged_bundle_is_named(plant: Plant, bundle: Bundle, tmp_path: Path) -> None:
    shutil.copytree(bundle.path, tmp_path / "bundle")
    (tmp_path / "bundle" / "model.ubj").write_bytes(b"{L")
    assert "copy the bundle again" in plant.refused(FRAUDLINE_MODEL__BUNDLE=str(tmp_path / "bundle"))


def test_brokers_that_do_not_answer_are_named(plant: Plant) -> None:
    (port,) = free_ports(1)
    line = plant.refused(FRAUDLINE_KAFKA__BROKERS=f"127.0.0.1:{port}", FRAUDLINE_KAFKA__REQUEST_TIMEOUT_MS="2000")
    assert f"no Kafka broker answers at 127.0.0.1:{port}" in line


def test_a_redis_that_does_not_answer_is_named(plant: Plant) -> None:
    (port,) = free_ports(1)
    line = plant.refused(FRAUDLINE_STORE__URL=f"redis://:secret-canary@127.0.0.1:{port}/0")
    assert (
        f"Redis at 127.0.0.1:{port} did not answer in time or can't be reached: check store.url and the network" in line
    )
    assert "secret-canary" not in line


@pytest.mark.parametrize("missing", ["FRAUDLINE_KAFKA__BROKERS", "FRAUDLINE_STORE__URL"])
def test_a_backend_that_does_not_answer_is_named_before_anything_is_compiled(
    plant: Plant, tmp_path: Path, missing: str
) -> None:
    (port,) = free_ports(1)
    address = f"127.0.0.1:{port}" if "BROKERS" in missing else f"redis://127.0.0.1:{port}/0"
    cache = {"NUMBA_CACHE_DIR": str(tmp_path), "FRAUDLINE_KAFKA__REQUEST_TIMEOUT_MS": "2000"}
    assert f"127.0.0.1:{port}" in plant.refused(**{missing: address} | cache)
    assert not [*tmp_path.rglob("*.nb[ic]")]


@pytest.mark.parametrize(
    ("config", "mend"),
    [
        ({"maxmemory-policy": "allkeys-lru"}, "set maxmemory-policy noeviction"),
        ({"appendonly": "no"}, "set appendonly yes"),
    ],
)
def test_a_redis_that_could_lose_state_is_refused(plant: Plant, config: dict[str, str], mend: str) -> None:
    with RedisServer(config=config) as unsafe:
        line = plant.refused(FRAUDLINE_STORE__URL=unsafe.url)
    assert mend in line


def test_a_topic_that_was_recreated_is_refused(plant: Plant, redis_server: RedisServer) -> None:
    namespace = plant.environment["FRAUDLINE_STORE__NAMESPACE"]
    store = RedisStore(redis_server.url, namespace=namespace, timeout_ms=1_000)
    store.adopt({(plant.topics["payments"], 0): 1_000})
    store.close()
    assert "the topic was recreated; use another store.namespace" in plant.refused()


def test_the_doctor_disturbs_no_processor(plant: Plant, kafka: KafkaBroker) -> None:
    """While one runs: nobody is rebalanced or fenced, nothing is seen by a reader, and payments go on being decided."""
    outputs = [plant.topics[role] for role in ("decisions", "alerts", "dead_letters", "journal")]
    decisions = plant.topics["decisions"]

    def pay(reader: ReadCommitted, first: int) -> None:
        values: list[bytes | None] = [payment(event_id=f"evt-{number}") for number in range(first, first + 9)]
        produce(kafka.bootstrap, plant.topics["payments"], values)
        reader.wait_until(lambda seen: sum(r.topic == decisions for r in seen) >= first + 9, DEADLINE_S)

    with ReadCommitted(kafka.bootstrap, outputs) as reader:
        worker = plant.start()
        port = worker.wait_for("started")["port"]
        pay(reader, 0)
        before, lines = ask(port, "/metrics")[1], len(worker.lines)
        seen = len(reader.read_to_end(DEADLINE_S))
        done = subprocess.run(
            [*COMMAND[:-1], "doctor", "--json"],
            cwd=ROOT,
            env=plant.environment | {"FRAUDLINE_TELEMETRY__PORT": str(port)},
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
        assert len(reader.read_to_end(DEADLINE_S)) == seen
        pay(reader, 9)
        after = ask(port, "/metrics")[1]
        told = worker.lines[lines:]

    found = {each["check"]: each for each in json.loads(done.stdout)}
    tried = ("kafka.read", "kafka.transactions", "kafka.write", "kafka.offsets", "redis.rights", "redis.markers")
    assert {name: found[name]["status"] for name in tried} == dict.fromkeys(tried, "pass"), found
    assert "is stable" in found["kafka.group"]["seen"]
    assert found["machine.telemetry"]["seen"].endswith("says: ready")
    assert [line for line in told if "partitions_" in line or "error" in line] == []
    for name in ("fraudline_rebalances_total", "fraudline_state_regressions_total"):
        assert counted(after)[name] == counted(before)[name], name
    lost = [
        line for line in after.splitlines() if re.match(r'fraudline_transactions_total\{outcome="(?!committed)', line)
    ]
    assert lost
    assert all(line.endswith(" 0.0") for line in lost)
