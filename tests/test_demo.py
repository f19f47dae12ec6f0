"""The demo: one command, nothing installed but Python, every payment decided once, and a summary that adds up."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE
from typing import Any

import httpx
import pytest
from rich.console import Console

from consumer.demo_view import LiveView, money
from consumer.score_card import ScoreCard
from features.currencies import CURRENCIES, exponent
from tests.support.page import until

ROOT = Path(__file__).parents[1]
DEADLINE_S = 110.0
COMMAND = [sys.executable, "-c", "from consumer.cli import main; main()", "demo"]
KEYS = {
    *("payments", "decisions", "alerts", "dead_letters", "duplicates", "p50_ms", "p99_ms", "within_budget"),
    *("throughput_eps", "precision", "recall", "tiers", "delivery"),
}


@dataclass(frozen=True, slots=True)
class Ran:
    status: int
    out: str
    err: str


def environment(cache: Path) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("FRAUDLINE_")}
    own.setdefault("NUMBA_CACHE_DIR", os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache"))
    return own | {"XDG_CACHE_HOME": str(cache)}


def demo(cache: Path, *arguments: str) -> Ran:
    done = subprocess.run(
        [*COMMAND, *arguments],
        cwd=ROOT,
        env=environment(cache),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def first(cache: Path) -> Ran:
    """The first run on a machine: it trains its model, then shows 2,000 payments."""
    return demo(cache, "--payments", "2000", "--rate", "1000", "--json")


def manifest(cache: Path) -> Path:
    (found,) = cache.glob("fraudline/*/manifest.json")
    return found


@pytest.mark.slow
def test_the_first_run_prints_one_json_object_and_every_payment_is_decided_once(first: Ran) -> None:
    assert first.status == 0, first.err
    assert first.out.count("\n") == 1
    summary: dict[str, Any] = json.loads(first.out)
    assert summary.keys() >= KEYS
    assert summary["payments"] == summary["decisions"] == 2_000
    assert summary["tiers"] == {"full": 2_000}
    assert summary["dead_letters"] == summary["duplicates"] == 0
    assert summary["delivery"] == "at_least_once"
    assert 0 < summary["p50_ms"] <= summary["p99_ms"]
    assert 0 <= summary["within_budget"] <= 1


@pytest.mark.slow
def test_the_counts_beside_precision_and_recall_add_up(first: Ran) -> None:
    summary = json.loads(first.out)
    caught, suspected = summary["frauds_caught"], summary["frauds_caught"] + summary["false_alarms"]
    assert summary["alerts"] == suspected > 0
    assert summary["precision"] == pytest.approx(caught / suspected, abs=1e-4)
    assert summary["recall"] == pytest.approx(caught / summary["frauds"], abs=1e-4)
    assert 0 < caught <= summary["frauds"]


@pytest.mark.slow
def test_the_first_run_trains_and_leaves_nothing_but_the_bundle(first: Ran, cache: Path) -> None:
    assert "Training" in first.err
    assert [path.parent for path in cache.rglob("manifest.json")] == [manifest(cache).parent]
    assert list((cache / "fraudline").iterdir()) == [manifest(cache).parent]


@pytest.mark.slow
def test_the_second_run_trains_nothing_and_ends_with_the_summary(first: Ran, cache: Path) -> None:
    made = manifest(cache).stat().st_mtime_ns
    second = demo(cache, "--payments", "300", "--rate", "1000")
    assert second.status == 0, second.err
    assert "Traceback" not in second.err
    assert "Training" not in second.out + second.err
    assert manifest(cache).stat().st_mtime_ns == made
    _, _, summary = second.out.partition("Summary")
    lines = {cells[1].strip(): cells[2].strip() for line in summary.splitlines() if len(cells := line.split("│")) == 4}
    assert (lines["payments"], lines["decisions"], lines["decided more than once"]) == ("300", "300", "0")
    assert lines["tiers"] == "full 300"
    assert lines["delivery"] == "at_least_once"
    assert second.out.rstrip().splitlines()[-1].startswith("└")
    assert re.search(r"^The alert page: http://127\.0\.0\.1:\d+/$", second.out, re.MULTILINE)


@pytest.mark.slow
def test_with_serve_the_page_stays_up_with_payments_until_it_is_told_to_end(first: Ran, cache: Path) -> None:
    arguments = ("--payments", "1500", "--rate", "1000", "--serve", "--port", "0", "--json")
    process = subprocess.Popen(
        [*COMMAND, *arguments], cwd=ROOT, env=environment(cache), stdout=PIPE, stderr=PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["decisions"] == 1_500
        told = "".join(process.stderr.readline() for _ in range(3))
        found = re.search(r"The alert page stays up: (\S+)", told)
        assert found, told
        assert "Ctrl-C" in told
        with httpx.Client(base_url=found[1], timeout=20, trust_env=False) as http:
            alerts = http.get("/api/alerts").json()["alerts"]
            assert alerts
            assert alerts[0]["reasons"]

            def decided() -> int:
                return sum(http.get("/api/figures").json()["decisions"].values())

            until(lambda: decided() > 1_500, "more payments")
            given = http.post(
                "/api/verdict",
                json={"event_id": alerts[0]["event_id"], "label": "fraud"},
                headers={"Sec-Fetch-Site": "same-origin"},
            )
            assert (given.status_code, given.json()["whole"]) == (200, True)
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE_S) == 0
        assert process.stdout.read() == ""
        assert "Traceback" not in process.stderr.read()
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_with_serve_a_signal_ends_the_show_too(first: Ran, cache: Path) -> None:
    """Of a show of hours nobody waits for the end."""
    arguments = ("--payments", "1000000", "--rate", "100", "--serve", "--port", "0", "--json")
    process = subprocess.Popen(
        [*COMMAND, *arguments], cwd=ROOT, env=environment(cache), stdout=PIPE, stderr=PIPE, text=True
    )
    try:
        assert process.stderr is not None
        assert "The alert page: " in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE_S) == 130
        assert "Traceback" not in process.stderr.read()
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("currency", "amount_minor", "shown"),
    [
        ("EUR", 1_234_567, "12,345.67 EUR"),
        ("JPY", 1_234_567, "1,234,567 JPY"),
        ("KWD", 1_234_567, "1,234.567 KWD"),
        ("CLF", 1_234_567, "123.4567 CLF"),
        ("USD", 5, "0.05 USD"),
    ],
)
def test_amounts_have_the_decimals_of_their_currency(currency: str, amount_minor: int, shown: str) -> None:
    assert money(amount_minor, currency) == shown


def test_exponents_are_those_of_iso_4217() -> None:
    by_exponent = {decimals: {c for c in CURRENCIES if exponent(c) == decimals} for decimals in range(5)}
    assert sorted(by_exponent[0]) == [
        *("BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG"),
        *("RWF", "UGX", "VND", "VUV", "XAF", "XOF", "XPF"),
    ]
    assert by_exponent[1] == set()
    assert by_exponent[3] == {"BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"}
    assert by_exponent[4] == {"CLF"}
    assert sum(map(len, by_exponent.values())) == len(CURRENCIES)


def test_a_view_that_is_not_wanted_writes_nothing() -> None:
    screen = io.StringIO()
    with LiveView(Console(file=screen), ScoreCard(frozenset()), 10, enabled=False) as view:
        view.refresh()
    assert screen.getvalue() == ""


def test_a_view_before_the_first_decision_shows_that_there_are_none() -> None:
    screen = io.StringIO()
    with LiveView(Console(file=screen, width=120), ScoreCard(frozenset()), 10, enabled=True) as view:
        view.refresh()
    assert "0 of 10 payments decided" in screen.getvalue()
    assert screen.getvalue().endswith("\n")
