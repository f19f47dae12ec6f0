"""What `fraudline run` can't work with, it refuses: one line, a status that is not 0, no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.faults.report import Report
from tests.services.kafka import KafkaBroker
from tests.services.process import free_ports
from tests.services.redis import RedisServer
from tests.support.bundles import make_bundle

ROLES = ("payments", "labels", "decisions", "alerts", "dead_letters", "lists", "journal")
Topics = Callable[..., dict[str, str]]
Run = Callable[..., str]


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("faults") / "bundle"
    make_bundle(path)
    return path


@pytest.fixture
def refused(kafka: KafkaBroker, redis_server: RedisServer, unique: str, bundle: Path, report: Report) -> Run:
    """Runs `fraudline run` with settings that differ by `**changes`; returns its one line."""

    def run(case: str, topics: Mapping[str, str], **changes: str) -> str:
        settings = {
            "KAFKA__BROKERS": kafka.bootstrap,
            "KAFKA__GROUP_ID": unique,
            "KAFKA__REQUEST_TIMEOUT_MS": "3000",
            "STORE__URL": redis_server.url,
            "STORE__NAMESPACE": unique,
            "MODEL__BUNDLE": str(bundle),
            "TELEMETRY__PORT": "0",
            **{f"TOPICS__{role.upper()}": topic for role, topic in topics.items()},
            **changes,
        }
        own = {name: value for name, value in os.environ.items() if not name.startswith("FRAUDLINE_")}
        done = subprocess.run(
            [sys.executable, "-c", "from consumer.cli import main; main()", "run"],
            env=own | {f"FRAUDLINE_{name}": value for name, value in settings.items()},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        found = [] if done.returncode > 0 else [f"the exit status is {done.returncode}"]
        found += [] if len(lines) == 1 and "Traceback" not in done.stderr else [f"it said:\n{done.stderr}"]
        report.judged(case, 1, found, "one error line, no traceback")
        return lines[0]

    return run


def test_a_missing_topic_is_named(refused: Run, topics: Topics) -> None:
    made = topics(dict.fromkeys(ROLES[:-1], 1))
    absent = made["payments"].replace("payments", "journal")
    line = refused("a topic is missing", {**made, "journal": absent})
    assert absent in line
    assert made["payments"] not in line


def test_an_unreachable_broker_is_named(refused: Run) -> None:
    (port,) = free_ports(1)
    assert f"127.0.0.1:{port}" in refused("Kafka can't be reached", {}, KAFKA__BROKERS=f"127.0.0.1:{port}")


def test_an_unreachable_redis_is_named_without_its_password(refused: Run) -> None:
    (port,) = free_ports(1)
    line = refused("Redis can't be reached", {}, STORE__URL=f"redis://:hidden@127.0.0.1:{port}/0")
    assert f"127.0.0.1:{port}" in line
    assert "hidden" not in line


@pytest.mark.parametrize(
    ("setting", "value"), [("maxmemory-policy", "allkeys-lru"), ("appendonly", "no")], ids=["evicting", "forgetful"]
)
def test_a_redis_that_could_lose_state_is_refused(refused: Run, setting: str, value: str) -> None:
    with RedisServer(config={setting: value}) as server:
        line = refused(f"Redis has {setting} {value}", {}, STORE__URL=server.url)
    assert setting in line


@pytest.mark.skipif(Path("/proc/driver/nvidia/version").exists(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_named(refused: Run) -> None:
    line = refused("model.device = cuda without a GPU", {}, MODEL__DEVICE="cuda")
    assert "model.device" in line
