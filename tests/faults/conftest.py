"""Fixtures of the fault tests, and the table at the end of the run."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.faults.collected import short
from tests.faults.report import Report, Row, Run, show
from tests.faults.scene import Scene
from tests.mutants.table import revision
from tests.services.clock import Clock
from tests.services.kafka import KafkaBroker
from tests.services.proxy import KafkaProxy
from tests.services.redis import RedisServer

EVERYTHING = os.environ.get("FAULTS") == "all"
"""Whether every position of every fault is to be run; otherwise a representative part."""

LIKE_ANOTHER = pytest.mark.skipif(not EVERYTHING, reason="one like it runs always; `make faults` runs it")

FAULT = "fault"
MakeScene = Callable[..., Scene]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "/faults/" in item.path.as_posix():
            item.add_marker("faults")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    done = [
        each for reports in terminalreporter.stats.values() for each in reports if isinstance(each, pytest.TestReport)
    ]
    told = [value for each in done for name, value in each.user_properties if name == FAULT and each.when == "call"]
    rows = [msgspec.convert(row, Row) for row in told]
    if rows:
        text = io.StringIO()
        show(rows, text)
        terminalreporter.write(f"\n{text.getvalue()}")
        failed = sorted({short(each.nodeid) for each in done if each.failed})
        date = datetime.now(UTC).date().isoformat()
        run = Run(EVERYTHING, date, revision(config.rootpath), rows, failed)
        run.write(config.rootpath / ".cache" / "faults.json")


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Report:
    properties = request.node.user_properties  # they reach the process that prints the table
    return Report(short(request.node.nodeid), lambda row: properties.append((FAULT, msgspec.to_builtins(row))))


@pytest.fixture
def scene(kafka: KafkaBroker, redis_server: RedisServer, unique: str) -> Iterator[MakeScene]:
    """Makes a scene of this test's own on the shared servers, or on another Redis; closed at the end."""
    with ExitStack() as stack:

        def make(redis_url: str | None = None, **options: Any) -> Scene:
            made = Scene(kafka, redis_url or redis_server.url, f"{unique}{len(scenes)}", **options)
            scenes.append(made)
            return stack.enter_context(made)

        scenes: list[Scene] = []
        yield make


@pytest.fixture
def kafka_proxy(kafka: KafkaBroker) -> Iterator[KafkaProxy]:
    """A way to the shared Kafka that can be cut or stuck."""
    with KafkaProxy(kafka) as way:
        yield way


@pytest.fixture
def wall_clock(tmp_path: Path) -> Clock:
    """A wall clock for workers that can be made to jump."""
    return Clock(tmp_path)
