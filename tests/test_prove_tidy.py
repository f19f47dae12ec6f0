"""What could keep a proof from tidying up, or have it take what is somebody else's: on a real Kafka and Redis."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from consumer.cli import exit_status
from consumer.kafka.admin import KafkaAdmin
from consumer.prove.names import settings_of
from consumer.prove.processes import Watcher
from consumer.prove.resources import Resources
from consumer.prove.signals import undisturbed
from consumer.prove.worker import Worker, until, while_moving
from consumer.settings_source import variable
from consumer.topics import Options, declared
from features.catalog import DEFAULT
from features.errors import ConfigError, FraudlineError, KafkaRefused
from tests.faults.conftest import EVERYTHING
from tests.services.proxy import Api, KafkaProxy
from tests.test_prove import COMMAND, DEADLINE_S, OTHER, ROOT, Plant, bundle, plant, produce

__all__ = ["bundle", "plant"]

MEMBER = """
import sys
from consumer.kafka.source import KafkaSource
from consumer.settings import load
settings = load()
kafka = settings.kafka.model_copy(update={"group_id": sys.argv[1]})
source = KafkaSource(kafka, sys.argv[2], lambda _kind: None)
source.start([])
while not source.owned:
    source.poll(1, 0.1)
print("member", flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(not EVERYTHING, reason="one like it runs always; `make faults` runs it")
@pytest.mark.faults
def test_a_full_disk_does_not_keep_it_from_tidying_up(
    plant: Plant, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before, keys = plant.topics(), plant.keys()
    monkeypatch.setenv(variable("features.catalog"), "handbook")  # which the processor finds, and nobody before it
    out = tmp_path / "report"
    out.mkdir()
    (out / "processor-1-a.log").symlink_to("/dev/full")
    assert exit_status(["prove", f"--out={out}"]) == 1
    told = capsys.readouterr().err
    assert "No space left" in told
    assert "needs features that this catalog does not compute" in told.splitlines()[-1]
    assert (plant.left(), plant.topics(), plant.keys()) == ([], before, keys)


def test_a_listener_who_went_away_does_not_keep_it_from_tidying_up(
    plant: Plant, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before, keys = plant.topics(), plant.keys()
    monkeypatch.setenv(variable("features.catalog"), "handbook")  # which the processor finds, and nobody before it
    process = subprocess.Popen(
        [*COMMAND, f"--out={tmp_path / 'report'}"],
        cwd=ROOT, env=os.environ.copy(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        assert process.stderr is not None
        assert any("starting a processor" in line for line in process.stderr)
        assert plant.left() != []
        process.stderr.close()
        assert process.wait(DEADLINE_S) == 1
    assert (plant.left(), plant.topics(), plant.keys()) == ([], before, keys)


def test_what_the_witness_has_no_room_for_is_told(plant: Plant) -> None:
    topic = f"{plant.unique}.full"
    plant.kafka.create_topics({topic: 1})
    produce(plant.kafka, topic, None)
    watcher = Watcher(plant.settings().kafka, [topic], Path("/dev/full"))
    try:
        watcher.wait_ready()
        with pytest.raises(FraudlineError, match="No space left on device"):
            watcher.read_to_end(DEADLINE_S)
    finally:
        watcher.close()


@pytest.fixture
def interrupts() -> Iterator[None]:
    """SIGINT is Python's again: what runs in the background of a shell is started with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interrupts")
def test_ctrl_c_while_its_processes_start_shows_no_traceback(plant: Plant) -> None:
    """A terminal sends it to all of them."""
    before, keys = plant.topics(), plant.keys()
    process = subprocess.Popen(
        [*COMMAND, "--rate=50", "--seconds=60", f"--out={plant.folder}"],
        cwd=ROOT, env=os.environ.copy(), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        start_new_session=True,
    )  # fmt: skip
    watchdog = threading.Timer(DEADLINE_S, process.kill)
    watchdog.start()
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    try:
        assert process.stderr is not None
        told = []
        for line in process.stderr:
            told.append(line)
            if "starting a processor" in line:  # multiprocessing's tracker, and the witness
                assert until(lambda: len(children.read_text().split()) > 1, DEADLINE_S, 0.01)
                os.killpg(process.pid, signal.SIGINT)
        assert process.wait() == 130, told
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()
        if process.stderr is not None:
            process.stderr.close()
    assert "Traceback" not in "".join(told)
    assert (plant.left(), plant.topics(), plant.keys()) == ([], before, keys)


@pytest.mark.usefixtures("interrupts")
def test_a_signal_while_something_is_made_comes_once_it_is_noted() -> None:
    noted = []

    def make() -> None:
        with undisturbed(later=True):
            signal.raise_signal(signal.SIGINT)
            noted.append("made")

    with pytest.raises(KeyboardInterrupt):
        make()
    assert noted == ["made"]
    with undisturbed():
        signal.raise_signal(signal.SIGINT)  # is not needed any more


def test_a_group_goes_though_a_member_was_killed_a_session_ago(plant: Plant) -> None:
    """A broker keeps the member until its session is over, which may be longer than a request."""
    name = plant.run.prefix
    kafka = plant.settings().kafka.model_copy(update={"request_timeout_ms": 1_000})
    topic = plant.settings().topics.payments
    member = subprocess.Popen(
        [sys.executable, "-c", MEMBER, name, topic],
        cwd=ROOT, env=os.environ.copy(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with member:
        assert member.stdout is not None
        assert "member\n" in member.stdout  # behind what it logs
        member.kill()
    admin = KafkaAdmin(kafka)
    admin.delete_group(name)
    assert admin.group_state(name) is None


def test_a_topic_into_which_somebody_wrote_before_the_mark_is_left_alone(plant: Plant) -> None:
    admin = KafkaAdmin(plant.settings().kafka)
    wanted = [
        each
        for each in declared(plant.theirs(), DEFAULT, Options(), brokers=1, payments_partitions=1)
        if each.role in {"payments", "labels"}
    ]
    made: list[str] = []
    admin.create(wanted, made)
    produce(plant.kafka, wanted[0].name, None)
    with pytest.raises(KafkaRefused, match=f"{wanted[0].name} holds records that this run did not write"):
        admin.mark(made, plant.run.run)
    assert made == [wanted[1].name]
    admin.delete_topics(each.name for each in wanted)


def test_topics_of_which_nobody_heard_whether_they_were_made_are_removed(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable("kafka.request_timeout_ms"), "2000")
    with KafkaProxy(plant.kafka) as proxy:
        monkeypatch.setenv(variable("kafka.brokers"), proxy.bootstrap)
        with closing(Resources(plant.run, settings_of(plant.run, plant.settings()))) as resources:
            proxy.lose_answers(Api.CREATE_TOPICS, times=1_000)
            with pytest.raises(FraudlineError):
                resources.make(plant.settings().topics.payments, processors=1)
            assert proxy.lost(Api.CREATE_TOPICS)
            assert plant.left() != []
            removal = resources.remove()
    assert (removal.left, plant.left()) == ([], [])


def test_another_proof_that_ends_meanwhile_is_not_missed(plant: Plant) -> None:
    theirs = f"{plant.unique}.going"
    plant.kafka.create_topics({f"{OTHER.prefix}.payments": 1, theirs: 1})
    resources = Resources(plant.run, settings_of(plant.run, plant.settings()))
    with closing(resources):
        resources.make(plant.settings().topics.payments, processors=1)
        KafkaAdmin(plant.settings().kafka).delete_topics([f"{OTHER.prefix}.payments", theirs])
        removal = resources.remove()
    assert (removal.left, removal.problems, removal.lost) == ([], [], [theirs])


def test_a_package_of_the_folder_in_which_it_is_started_is_not_taken_for_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "consumer").mkdir()
    (tmp_path / "consumer" / "__init__.py").write_text("raise SystemExit(9)")
    monkeypatch.chdir(tmp_path)
    worker = Worker("a", os.environ | {"PYTHONPATH": str(ROOT)}, Path("/none/such.toml"))
    with closing(worker), pytest.raises(ConfigError, match=r"The settings file /none/such\.toml can't be read"):
        worker.wait_ready()


def test_keys_that_a_run_did_not_get_to_claim_are_not_removed(plant: Plant) -> None:
    key = f"{plant.run.prefix}:4:theirs"
    resources = Resources(plant.run, settings_of(plant.run, plant.settings()))
    with closing(resources):
        resources.has_begun = True  # and then somebody else had the mark
        plant.redis.set(key, "theirs")
        removal = resources.remove()
    assert plant.redis.get(key) == b"theirs"
    assert (removal.keys, removal.left) == (0, [f"keys of {plant.run.prefix}:"])


def test_a_slow_processor_is_waited_for_as_long_as_it_moves() -> None:
    steps = iter(range(40))
    assert while_moving(lambda: (next(steps), 30), limit_s=0.0, pause_s=0.001)
    assert not while_moving(lambda: (7, 30), limit_s=0.0, pause_s=0.001)
