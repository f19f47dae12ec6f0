"""`fraudline dashboard` as a process: it serves, says in one sentence why it can't, and ends in good order."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from consumer.kafka.embedded import EmbeddedBroker
from tests.support.page import TOKEN, until

ROOT = Path(__file__).parents[1]
DEADLINE_S = 60.0


def command(**settings: str) -> tuple[list[str], dict[str, str]]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FRAUDLINE_")}
    given = {f"FRAUDLINE_{name.upper()}": value for name, value in settings.items()}
    return [sys.executable, "-c", "from consumer.cli import main; main()", "dashboard"], environment | given


def ends(*arguments: str, **settings: str) -> tuple[int, str]:
    """The status and the words of a command that is to end by itself."""
    words, environment = command(**settings)
    done = subprocess.run([*words, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True,
                          timeout=DEADLINE_S, check=False)  # fmt: skip
    assert done.stdout == ""
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("arguments", "settings", "sentence"),
    [
        ([], {}, "dashboard.auth is 'token', which also needs dashboard.token"),
        (
            ["--host", "0.0.0.0"],
            {"dashboard__auth": "none"},
            "dashboard.auth is 'none', which is for this machine alone",
        ),
        ([], {"dashboard__token": "short-canary"}, "token is shorter than 16 characters"),
        ([], {"dashboard__auth": "proxy"}, "auth is 'proxy', which also needs trusted_proxies"),
        (["--host", ""], {"dashboard__token": TOKEN}, "--host must name an address"),
        (["--host", "192.0.2.1"], {"dashboard__token": TOKEN}, "can't be served on 192.0.2.1:"),
    ],
)
def test_what_can_not_be_served_is_one_sentence(arguments: list[str], settings: dict[str, str], sentence: str) -> None:
    status, told = ends(*arguments, **settings)
    assert (status, told.count("\n")) == (2, 1)
    assert sentence in told
    assert "canary" not in told
    assert TOKEN not in told


def test_a_port_that_is_taken_is_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, told = ends("--port", str(port), dashboard__auth="none")
    assert status == 2
    assert told == (
        f"error: The alert page can't be served on 127.0.0.1:{port} (Address already in use): change dashboard.host or "
        "dashboard.port.\n"
    )


@pytest.fixture
def broker() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker() as made:
        made.create("alerts", "decisions")
        yield made


def test_it_serves_until_it_is_told_to_stop_and_its_log_holds_no_secret(broker: EmbeddedBroker, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(f"{TOKEN}\n")
    words, environment = command(dashboard__token_file=str(token), kafka__brokers=broker.brokers, dashboard__port="0",
                                 telemetry__log_format="json")  # fmt: skip
    log = tmp_path / "log"
    with log.open("wb") as errors:
        process = subprocess.Popen(words, cwd=ROOT, env=environment, stderr=errors, stdout=subprocess.DEVNULL)
    try:
        until(lambda: '"started"' in log.read_text() or process.poll() is not None, "the start")
        found = re.search(r'"address": "(http://127\.0\.0\.1:\d+/)"', log.read_text())
        assert found, log.read_text()
        with httpx.Client(base_url=found[1], timeout=20, trust_env=False) as http:
            until(lambda: http.get("/readyz").status_code == 200, "readiness")
            bearer = {"Authorization": f"Bearer {TOKEN}"}
            assert http.get("/api/alerts?text=canary-query", headers=bearer).status_code == 200
            assert http.get("/api/alerts", headers={"Authorization": "Bearer canary-token"}).status_code == 401
            with http.stream("GET", "/api/stream", headers=bearer) as stream:
                lines = stream.iter_lines()
                next(lines)
                process.send_signal(signal.SIGTERM)
                list(lines)
        assert process.wait(DEADLINE_S) == 0
    finally:
        process.kill()
        process.wait()
    told = log.read_text()
    assert '"stopped"' in told
    for secret in (TOKEN, "canary", "Traceback"):
        assert secret not in told


def test_it_waits_for_brokers_that_are_not_there_and_says_so(tmp_path: Path) -> None:
    words, environment = command(dashboard__auth="none", kafka__brokers="127.0.0.1:1", dashboard__port="0",
                                 kafka__request_timeout_ms="1000", telemetry__log_format="json")  # fmt: skip
    log = tmp_path / "log"
    with log.open("wb") as errors:
        process = subprocess.Popen(words, cwd=ROOT, env=environment, stderr=errors, stdout=subprocess.DEVNULL)
    try:
        until(lambda: "kafka_lost" in log.read_text() or process.poll() is not None, "the warning")
        found = re.search(r'"address": "(http://127\.0\.0\.1:\d+/)"', log.read_text())
        assert found, log.read_text()
        answer = httpx.get(f"{found[1]}readyz", trust_env=False)
        assert (answer.status_code, answer.text) == (503, "reading what was published before\n")
        assert httpx.get(f"{found[1]}livez", trust_env=False).status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 0
    finally:
        process.kill()
        process.wait()
