"""The processes of a soak: two workers of one group, a registry whose champion changes, the page and who reads it."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import IO, Any, Final

import msgspec
from confluent_kafka import Consumer, TopicPartition

from bench.prepare import PARTITIONS
from bench.processes import BenchError
from bench.stack import Names, Stack
from features.catalog import DEFAULT
from models.manifest import MANIFEST
from models.registry import Registry
from tests.services.process import free_ports

START_S: Final = 300.0
JOIN_S: Final = 120.0
LABEL_PARTITIONS: Final = 2  # with as many as payments have, one of two workers would get labels alone
END_S: Final = 40.0
VISIT_S: Final = 20.0
LOOK_S: Final = 5.0
POLL_S: Final = 2
_ASSIGNED: Final = re.compile(r"^fraudline_assigned_partitions (\S+)$", re.MULTILINE)
_TIER: Final = re.compile(r'^fraudline_decisions_total\{decision="\w+",tier="(\w+)"\} (\S+)$', re.MULTILINE)


class Scene:
    """All of them, started; `started` ends them."""

    def __init__(self, stack: Stack, names: Names, home: Path, started: ExitStack) -> None:
        self._stack, self._names, self._home, self._started = stack, names, home, started
        self._registry = Registry(str(home / "registry"))
        self._bundles = _two_bundles(stack.prepared.bundle, home)
        self._promoted = 0
        self._of_visitors = Counter[str]()
        self.promote()
        port, other, page = free_ports(3)
        self.metrics = f"http://127.0.0.1:{port}/metrics"
        self.collections = home / "collections"
        self._visitor_port = other
        self._logs: list[Path] = []
        self.worker = self._worker("resident", port, self.collections)
        self.page = self._start(
            "page", self._page_settings(page), "-c", "from consumer.cli import main; main()", "dashboard"
        )
        self._page_port = page
        self.news_seen = 0
        started.enter_context(self._looking())

    def await_ready(self) -> None:
        """Wait until the worker owns all partitions and the page is up. Raises BenchError."""
        deadline, pause = time.monotonic() + START_S, threading.Event()
        while not self._is_ready():
            for name, process in (("worker", self.worker), ("page", self.page)):
                if process.poll() is not None or time.monotonic() > deadline:
                    message = f"The {name} did not start; it said:\n{self._said()}"
                    raise BenchError(message)
            pause.wait(0.2)

    def promote(self) -> None:
        """Let the other bundle be the champion."""
        self._registry.promote(self._bundles[self._promoted % 2], "champion", DEFAULT)
        self._promoted += 1

    def rebalance(self) -> None:
        """A second worker comes, decides a while and is asked to go: partitions move twice. Raises BenchError."""
        visitor = self._worker("visitor", self._visitor_port, self._home / "collections-of-visitor")
        try:
            self._visit(visitor, f"http://127.0.0.1:{self._visitor_port}/metrics")
            wrong = dismiss("second worker", visitor)
        finally:
            _kill(visitor)
        if wrong:
            raise BenchError(wrong)

    def tiers(self) -> dict[str, int]:
        """Decisions by tier: of the resident worker, and of each second one until it was asked to go."""
        return dict(+(self._of_visitors + _tiers(self.metrics)))

    def _visit(self, visitor: subprocess.Popen[bytes], metrics: str) -> None:
        deadline, pause = time.monotonic() + JOIN_S, threading.Event()
        while not _owned(metrics):
            if visitor.poll() is not None or time.monotonic() > deadline:
                message = f"the second worker never got a partition; it said: {self._logs[-1].read_text()[-1_000:]!r}"
                raise BenchError(message)
            pause.wait(0.2)
        pause.wait(VISIT_S)
        self._of_visitors += _tiers(metrics)

    def committed(self) -> bool:
        """Whether all payments and labels are committed, at the latest in a while."""
        deadline, pause = time.monotonic() + END_S, threading.Event()
        options = {"bootstrap.servers": self._stack.kafka.bootstrap, "group.id": self._names.group}
        with closing(Consumer(options)) as consumer:
            counts = {"payments": PARTITIONS, "labels": LABEL_PARTITIONS}
            places = [TopicPartition(self._names.topics[role], at) for role in counts for at in range(counts[role])]
            while time.monotonic() < deadline:
                ends = [consumer.get_watermark_offsets(place, 10.0)[1] for place in places]
                if all(end in (0, at.offset) for at, end in zip(consumer.committed(places, 10.0), ends, strict=True)):
                    return True
                pause.wait(0.5)
        return False

    def end(self) -> list[str]:
        """End worker and page as a deployment does; returns what was wrong about it."""
        wrong = [dismiss("worker", self.worker), dismiss("page", self.page)]
        texts = {path.name: path.read_text() for path in self._logs}
        return [each for each in wrong if each] + [
            f"{name} has a traceback, which ends with {text.strip().splitlines()[-1][:200]!r}"
            for name, text in texts.items()
            if "Traceback" in text
        ]

    def _worker(self, name: str, port: int, collections: Path) -> subprocess.Popen[bytes]:
        settings = {
            "STORE__URL": self._stack.redis.url,
            "STORE__NAMESPACE": self._names.namespace,
            "KAFKA__TRANSACTIONAL_ID": f"{self._names.group}-{name}",
            "MODEL__REGISTRY": str(self._home / "registry"),
            "MODEL__POLL_S": str(POLL_S),
            "TELEMETRY__PORT": str(port),
        }
        return self._start(name, settings, "-m", "bench.soak_worker", str(collections))

    @staticmethod
    def _page_settings(port: int) -> dict[str, str]:
        return {"DASHBOARD__AUTH": "none", "DASHBOARD__PORT": str(port)}

    def _start(self, name: str, settings: Mapping[str, str], *arguments: str) -> subprocess.Popen[bytes]:
        common = {"KAFKA__BROKERS": self._stack.kafka.bootstrap, "KAFKA__GROUP_ID": self._names.group}
        common |= {f"TOPICS__{role.upper()}": topic for role, topic in self._names.topics.items()}
        outside = {key: value for key, value in os.environ.items() if not key.startswith("FRAUDLINE_")}
        environment = outside | {f"FRAUDLINE_{key}": value for key, value in (common | dict(settings)).items()}
        log = self._home / f"{name}-{len(self._logs)}.log"
        self._logs.append(log)
        file: IO[bytes] = self._started.enter_context(log.open("wb"))
        process = subprocess.Popen(
            [sys.executable, *arguments], env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file
        )
        self._started.callback(_kill, process)
        return process

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._page_port}/readyz", timeout=5):
                return _owned(self.metrics) == PARTITIONS
        except OSError:
            return False

    def _said(self) -> str:
        return "\n".join(path.read_text()[-1_500:] for path in self._logs)

    @contextmanager
    def _looking(self) -> Any:
        """An open page: its stream is read as it comes, its alerts are asked for again and again."""
        over = threading.Event()

        def look() -> None:
            while not over.wait(LOOK_S):
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{self._page_port}/api/alerts", timeout=10) as answer:
                        answer.read()
                except OSError:
                    continue

        def follow() -> None:
            while not over.wait(0.5):
                connection = http.client.HTTPConnection("127.0.0.1", self._page_port, timeout=30)
                try:
                    connection.request("GET", "/api/stream")
                    answer = connection.getresponse()
                    while not over.is_set() and (line := answer.readline()):
                        self.news_seen += line.startswith(b"event: news")
                except OSError:
                    continue
                finally:
                    connection.close()

        threads = [threading.Thread(target=each, daemon=True, name=f"soak-{each.__name__}") for each in (look, follow)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            over.set()


def _owned(metrics: str) -> int:
    """How many partitions of the payments a worker reads; 0 of one that does not answer yet."""
    try:
        with urllib.request.urlopen(metrics, timeout=5) as answer:
            found = _ASSIGNED.search(answer.read().decode())
    except OSError:
        return 0
    return int(float(found[1])) if found else 0


def _tiers(metrics: str) -> Counter[str]:
    """Decisions of a worker by tier."""
    with urllib.request.urlopen(metrics, timeout=10) as answer:
        found = _TIER.findall(answer.read().decode())
    counts = Counter[str]()
    for tier, count in found:
        counts[tier] += round(float(count))
    return counts


def _two_bundles(bundle: Path, home: Path) -> tuple[Path, Path]:
    """A bundle, and the same under another version."""
    other = home / "another"
    shutil.copytree(bundle, other)
    document = msgspec.json.decode((other / MANIFEST).read_bytes())
    (other / MANIFEST).write_bytes(msgspec.json.encode(document | {"version": "soak-2"}))
    return bundle, other


def dismiss(name: str, process: subprocess.Popen[bytes], within_s: float = END_S) -> str:
    """Ask a process to go, and kill it when it does not: what was wrong about its end, or nothing."""
    process.send_signal(signal.SIGTERM)
    try:
        status = process.wait(within_s)
    except subprocess.TimeoutExpired:
        _kill(process)
        return f"the {name} did not end in {within_s:g} s and was killed"
    return f"the {name} ended with status {status}" if status else ""


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
        process.wait()
