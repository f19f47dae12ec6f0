"""A running processor takes a promotion, and refuses fifty bundles that are broken in fifty ways, under load."""

from __future__ import annotations

import json
import platform
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
import xgboost
from confluent_kafka import Producer

from consumer.model_loader import ModelLoader
from consumer.settings import ModelSettings, Settings
from consumer.telemetry import Telemetry
from features.catalog import DEFAULT
from models.bundle import Bundle
from models.manifest import MANIFEST, MODEL, NO_FEATURES, digest_of
from models.registry import Promotion, Registry, Standing
from tests.poison import payment
from tests.services.kafka import KafkaBroker
from tests.services.reader import ReadCommitted
from tests.services.redis import RedisServer
from tests.support.bundles import edit_manifest, make_bundle, replace_file
from tests.support.steadily import Steadily
from tests.test_bundle import BAD
from tests.test_end_to_end import DEADLINE_S, Plant, Worker, ask, counted, environment, label

RATE = 100  # payments a second
Damage = Callable[[Path], object]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Bundle]:
    folder = tmp_path_factory.mktemp("models")
    return make_bundle(folder / "one", version="1"), make_bundle(folder / "two", version="2", seed=2)


class Payments(Steadily):
    """Payments at a steady rate, until it is stopped."""

    def __init__(self, producer: Producer, topic: str) -> None:
        super().__init__(self._send, 0.1)
        self.producer, self.topic, self.sent = producer, topic, 0

    def stop(self) -> None:
        super().stop()
        assert self.producer.flush(DEADLINE_S) == 0

    def _send(self) -> None:
        for _ in range(RATE // 10):
            value = payment(event_id=f"evt-{self.sent}", card_id=f"card_{self.sent % 97}")
            self.producer.produce(self.topic, value, str(self.sent % 97).encode())
            self.sent += 1
        self.producer.poll(0)


@pytest.fixture
def registry(tmp_path: Path, sound: tuple[Bundle, Bundle]) -> Registry:
    registry = Registry(str(tmp_path / "registry"))
    registry.promote(sound[0].path, "champion", DEFAULT)
    return registry


@pytest.fixture
def plant(
    kafka: KafkaBroker,
    redis_server: RedisServer,
    topics: Callable[..., dict[str, str]],
    registry: Registry,
    unique: str,
) -> Iterator[Plant]:
    made = topics(payments=3, labels=1, decisions=2, alerts=1, dead_letters=1, journal=1, lists=1, shadow=1)
    settings = environment(kafka.bootstrap, redis_server.url, Path("nowhere"), unique, made)
    more = {"FRAUDLINE_MODEL__REGISTRY": registry.url, "FRAUDLINE_MODEL__POLL_S": "0.1"}
    plant = Plant(made, settings | more)
    yield plant
    for worker in plant.workers:
        worker.end()


@pytest.fixture
def load(plant: Plant, kafka: KafkaBroker) -> Iterator[Payments]:
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "enable.idempotence": True, "log_level": 0})
    with Payments(producer, plant.topics["payments"]) as load:
        yield load


def crash(bundle: Path) -> None:
    """A model whose loading ends the process, with a right digest."""
    booster = xgboost.Booster()
    booster.load_model(bytearray((bundle / MODEL).read_bytes()))
    document = msgspec.json.decode(bytes(booster.save_raw("json")))
    document["learner"]["gradient_booster"]["model"]["trees"][0]["left_children"][0] = 50_000_000
    booster.load_model(bytearray(msgspec.json.encode(document)))
    replace_file(bundle, MODEL, bytes(booster.save_raw("ubj")))


def swap_models(bundle: Path) -> None:
    main, second = ((bundle / name).read_bytes() for name in (MODEL, NO_FEATURES))
    replace_file(bundle, MODEL, second)
    replace_file(bundle, NO_FEATURES, main)


DAMAGES: list[tuple[str, Damage]] = [
    *((bad.name, bad.damage) for bad in BAD),
    ("a model that crashes whoever loads it", crash),
    ("models swapped for each other", swap_models),
    ("another name", lambda bundle: edit_manifest(bundle, name="../other")),
]
ROLES: list[bytes] = [
    b"",
    b"\xff\xfe",
    b'{"schema_version":99}',
    b'{"current":{"bundle":"../../etc","version":"1","digest":"%s","at_ms":1}}' % (b"0" * 64),
]


def refusals(port: int) -> float:
    text = ask(port, "/metrics")[1]
    return next(
        float(line.split()[-1])
        for line in text.splitlines()
        if line.startswith('fraudline_model_swaps_total{result="refused"')
    )


def wait_for_refusals(worker: Worker, port: int, count: int) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while refusals(port) < count:
        assert worker.process.poll() is None, worker.lines
        assert time.monotonic() < deadline_s, f"{count} refusals never came"
        time.sleep(0.02)  # a scrape a time


def name(registry: Registry, folder: str, digest: str, at_ms: int) -> None:
    """Write the champion's file as a promotion does, without its checks."""
    registry._set("champion", Standing(current=Promotion(folder, "9", digest, at_ms)))


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_fifty_broken_bundles_under_load_are_refused_and_a_sound_one_is_taken(
    plant: Plant, kafka: KafkaBroker, registry: Registry, sound: tuple[Bundle, Bundle], load: Payments
) -> None:
    assert len(DAMAGES) + len(ROLES) >= 50
    bundles = Path(registry.url) / "bundles"
    champion = registry.standing("champion")
    assert champion.current is not None
    with ReadCommitted(kafka.bootstrap, [plant.topics["decisions"]]) as reader:
        worker = plant.start()
        port = worker.wait_for("started")["port"]
        count = 0
        for number, (_, damage) in enumerate(DAMAGES):
            folder = f"bad-{number}"
            shutil.copytree(sound[1].path, bundles / folder)
            damage(bundles / folder)
            digest = "0" * 64
            with suppress(OSError, ValueError, RecursionError):
                digest = digest_of((bundles / folder / MANIFEST).read_bytes())
            name(registry, folder, digest, number + 1)
            count += 1
            wait_for_refusals(worker, port, count)
        name(registry, champion.current.bundle, "1" * 64, 999)  # a sound one, but not the one that was promoted
        count += 1
        wait_for_refusals(worker, port, count)
        for content in ROLES:
            (Path(registry.url) / "champion.json").write_bytes(content)
            count += 1
            wait_for_refusals(worker, port, count)

        registry.promote(sound[1].path, "champion", DEFAULT)
        worker.wait_for("model_swapped")
        mark = load.sent
        reader.wait_until(lambda seen: len(seen) > mark, DEADLINE_S)
        load.stop()
        reader.wait_until(lambda seen: len(seen) >= load.sent, DEADLINE_S)
        seen = reader.read_to_end(DEADLINE_S)
        metrics = counted(ask(port, "/metrics")[1])

    assert worker.process.poll() is None
    decisions = [json.loads(record.value or b"") for record in seen]
    assert sorted(each["event_id"] for each in decisions) == sorted(f"evt-{n}" for n in range(load.sent))
    assert {each["model"] for each in decisions} == {"test@1", "test@2"}
    assert {each["tier"] for each in decisions} == {"full"}
    for partition in {record.partition for record in seen}:  # one never comes back once the other has decided
        models = [json.loads(record.value or b"")["model"] for record in seen if record.partition == partition]
        assert models == sorted(models)
    assert metrics["fraudline_model_swaps_total"] == count + 1
    assert {each["digests"]["bundle"] for each in decisions} == {bundle.digest for bundle in sound}
    refused = [json.loads(line) for line in worker.lines if '"event": "model_refused"' in line]
    assert len(refused) == count
    assert not any("Traceback" in line or "exception" in line for line in worker.lines)


@pytest.mark.faults
def test_a_worker_that_starts_after_a_bad_promotion_decides_with_the_one_before(
    plant: Plant, kafka: KafkaBroker, registry: Registry, sound: tuple[Bundle, Bundle], load: Payments
) -> None:
    folder = registry.promote(sound[1].path, "champion", DEFAULT).bundle
    (Path(registry.url) / "bundles" / folder / MODEL).write_bytes(b"{L")
    with ReadCommitted(kafka.bootstrap, [plant.topics["decisions"]]) as reader:
        worker = plant.start()
        assert worker.wait_for("model_refused")["bundle"] == folder
        worker.wait_for("partitions_assigned")  # or it has ended
        reader.wait_until(lambda seen: len(seen) >= 20, DEADLINE_S)
        seen = reader.read_to_end(DEADLINE_S)
    assert {json.loads(record.value or b"")["model"] for record in seen} == {"test@1"}
    assert load.sent >= 20


def test_a_challenger_is_tried_on_real_topics_and_a_rollback_is_told_to_all(
    plant: Plant, kafka: KafkaBroker, registry: Registry, tmp_path: Path, load: Payments
) -> None:
    quiet = make_bundle(tmp_path / "quiet", version="1", review=1.0, block=None, rules=())
    greedy = make_bundle(tmp_path / "greedy", version="3", review=0.0, block=None, rules=())
    registry.promote(quiet.path, "champion", DEFAULT)
    registry.promote(greedy.path, "challenger", DEFAULT)
    trial = {"ENABLED": "true", "CANARY_SHARES": "0.5", "GUARD_MIN_PAYMENTS": "300"}
    topics = [plant.topics["decisions"], plant.topics["shadow"]]
    with ReadCommitted(kafka.bootstrap, topics) as reader:
        worker = plant.start(**{f"FRAUDLINE_CHALLENGER__{key}": value for key, value in trial.items()})
        worker.wait_for("canary_rolled_back")
        deadline_s = time.monotonic() + DEADLINE_S
        while (stopped := registry.standing("challenger").stopped) is None:
            assert time.monotonic() < deadline_s
            time.sleep(0.05)  # the registry is asked, as a processor would
        load.stop()
        reader.wait_until(lambda seen: len(seen) >= 2 * load.sent, DEADLINE_S)
        seen = reader.read_to_end(DEADLINE_S)
    assert stopped.digest == greedy.digest
    for number in range(0, load.sent, 10):
        told = label(f"evt-{number}", "fraud")
        load.producer.produce(plant.topics["labels"], told, b"key")
    assert load.producer.flush(DEADLINE_S) == 0
    command = [sys.executable, "-c", "from consumer.cli import main; main()", "shadow", "report", "--json"]
    done = subprocess.run(command, env=plant.environment, capture_output=True, timeout=DEADLINE_S, check=True)
    found = json.loads(done.stdout)
    assert (found["payments"], found["fraud"]) == (load.sent, len(range(0, load.sent, 10)))
    assert (found["champion"][:6], found["challenger"][:6]) == ("test@1", "test@3")
    assert found["quality"]["champion"]["alerts"] == 0
    assert found["quality"]["challenger"]["alerts"] == found["decisions"]["approve to review"] == load.sent
    assert 0 < found["decided_by_challenger"] < load.sent
    decided = {d["event_id"]: d for r in seen if r.topic == topics[0] for d in [json.loads(r.value or b"")]}
    shadow = {d["event_id"]: d for r in seen if r.topic == topics[1] for d in [json.loads(r.value or b"")]}
    assert len(seen) == 2 * load.sent
    assert decided.keys() == shadow.keys() == {f"evt-{n}" for n in range(load.sent)}
    assert {each["model"] for each in decided.values()} == {"test@1", "test@3"}
    for event_id, each in shadow.items():
        by = each[each["decided_by"]]
        assert (by["model"], by["decision"]) == (decided[event_id]["model"], decided[event_id]["decision"])


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="Only glibc can be asked to give memory back.")
def test_what_a_promotion_frees_is_given_back(registry: Registry, sound: tuple[Bundle, Bundle]) -> None:
    """The allocator keeps what is freed below something that is not, as a model's pieces are."""
    loader = ModelLoader(Settings(model=ModelSettings(registry=registry.url)), DEFAULT, Telemetry())
    loader.look()  # gives back what the first model's loading has freed
    pieces = [b"." * 100_000 for _ in range(1_000)]
    last = b"." * 100_000
    full = resident_bytes()
    registry.promote(sound[1].path, "champion", DEFAULT)
    loader.look()
    assert loader.current().champion.reference.version == "2"
    del pieces  # as the pipeline lets go of the model that gave way, a batch later
    assert resident_bytes() > full - 50_000_000
    loader.look()
    assert resident_bytes() < full - 50_000_000
    del last


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
