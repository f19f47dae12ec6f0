"""The command line: help for everything, JSON where asked for, one line and no traceback for a user's own mistake."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from consumer import __version__, cli, cli_options, settings
from consumer.cli_output import print_features
from consumer.simulator import LABELS_FILE, PAYMENTS_FILE, Simulation, write
from features.catalog import DEFAULT, HANDBOOK
from features.errors import BundleError, ConfigError, FraudlineError

COMMANDS = (
    *("run", "demo", "generate", "train", "score", "schemas"),
    *("config", "config show", "features", "features list", "features build"),
    *("state", "state rebuild", "state verify"),
    *("policy", "policy check", "policy apply", "policy explain", "policy lists", "policy lists add"),
    *("model", "model list", "model optimize", "shadow report", "drift report"),
)
ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _no_settings_around(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("FRAUDLINE_"):
            monkeypatch.delenv(name)


@pytest.fixture
def fraudline(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs a command in this process: its exit status, standard output and standard error."""

    def run(*arguments: str) -> tuple[int, str, str]:
        status = cli.exit_status(arguments)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


Run = Callable[..., tuple[int, str, str]]


def process(*arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", "from consumer.cli import main; main()", *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, fraudline: Run) -> None:
    status, out, err = fraudline(*command.split(), "--help")
    assert (status, err) == (0, "")
    assert f"fraudline {command}" in out


def test_help_is_what_no_arguments_get_and_names_every_command(fraudline: Run) -> None:
    status, out, _ = fraudline()
    assert status == 0
    assert all(command.split()[0] in out for command in COMMANDS)


def test_version(fraudline: Run) -> None:
    assert fraudline("--version") == (0, f"fraudline {__version__}\n", "")


def test_help_imports_nothing_heavy() -> None:
    heavy = ["numpy", "xgboost", "confluent_kafka", "redis", "msgspec", "pydantic", "structlog", "prometheus_client"]
    script = (
        "import sys; from consumer import cli; cli.exit_status(['--help'])\n"
        f"sys.exit(' '.join(name for name in {heavy!r} if name in sys.modules) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ("nonsense", "nonsense"),
        ("run --bad", "--bad"),
        ("config", "Missing command"),
        ("config show --config /nowhere.toml", "/nowhere.toml can't be read"),
        ("run --config /nowhere.toml", "/nowhere.toml can't be read"),
        ("generate --payments 10", "--out DIR or --topic NAME"),
        ("generate --payments 10 --out a --topic b", "--out DIR or --topic NAME"),
        ("generate --payments 10 --out a --labels-topic b", "--labels-topic belongs to --topic"),
        ("generate --payments none --out a", "--payments"),
        ("generate --payments 10 --out a --start yesterday", "--start is not an ISO 8601 time"),
        ("generate --payments 10 --out a --late 2", "--late"),
        ("generate --payments 10 --out a --start 1969-01-01", "start_ms"),
        ("schemas --out /proc/nowhere", "can't be written to /proc/nowhere"),
        ("train --payments a", "--labels"),
        ("train --payments a --labels b --out c --catalog defualt", "did you mean 'default'?"),
        ("features list --catalog handbok", "did you mean 'handbook'?"),
        ("train --payments a --labels b --out c --alert-budget 0.1 --alerts-per-day 4", "take each other's place"),
        ("train --payments a --labels b --out c --block-precision 0.8 --decline-cost 9", "take each other's place"),
        (
            "train --payments a --labels b --out c --device tpu",
            "'tpu' is not one of 'cpu', 'cuda'; see fraudline train",
        ),
        ("train --payments a --labels b --out c --leave-out card", "--leave-out card is no feature"),
        ("features build --payments a.jsonl --out ./a.jsonl", "a.jsonl is what is read"),
        ("score --bundle b --payments a.jsonl --out ./a.jsonl", "a.jsonl is what is read"),
        ("model list --registry /nowhere", "There is no registry at /nowhere"),
        ("score --bundle /nowhere --as-of never", "--as-of is not an ISO 8601 time"),
        ("score --bundle /nowhere --catalog handbok", "did you mean 'handbook'?"),
        ("score --bundle /nowhere --rejects /nowhere/x", "can't be written to /nowhere/x"),
        ("prove --out /proc/nowhere", "can't be written to /proc/nowhere"),
        ("prove --out /etc/passwd", "/etc/passwd, which is a file"),
    ],
)
def test_a_mistake_gets_one_line_and_status_2(arguments: str, part: str, fraudline: Run) -> None:
    status, out, err = fraudline(*arguments.split())
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert part in err


@pytest.mark.parametrize("name", ["report.json", "report.html"])
def test_the_report_of_another_proof_is_not_written_over(name: str, fraudline: Run, tmp_path: Path) -> None:
    (tmp_path / name).write_text("of another run")
    status, _, err = fraudline("prove", "--out", str(tmp_path))
    assert (status, err.count("\n")) == (2, 1)
    assert f"There is a report in {tmp_path} already: give --out another folder." in err
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [(name, "of another run")]


def test_an_unknown_variable_is_a_mistake(fraudline: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAUDLINE_STORE__URI", "redis://:hunter2@h")
    status, _, err = fraudline("config", "show")
    assert status == 2
    assert "did you mean FRAUDLINE_STORE__URL?" in err
    assert "hunter2" not in err


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (ConfigError("a setting."), 2, "error: a setting.\n"),
        (BundleError("a bundle\nin two lines."), 1, "error: a bundle in two lines.\n"),
        (FraudlineError("anything."), 1, "error: anything.\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_how_a_command_ends_is_its_exit_status(
    error: BaseException, status: int, line: str, fraudline: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_path: Path | None) -> NoReturn:
        raise error

    monkeypatch.setattr(settings, "load", fail)
    assert fraudline("config", "show") == (status, "", line)


def test_a_bug_is_told_by_its_place_never_by_its_message(fraudline: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_path: Path | None) -> NoReturn:
        raise ValueError("4111111111111111")

    monkeypatch.setattr(settings, "load", fail)
    status, out, err = fraudline("config", "show")
    assert (status, out) == (1, "")
    assert err.startswith("error: unexpected ValueError in tests/test_cli.py:")
    assert "4111111111111111" not in err
    assert err.count("\n") == 1


def test_config_show_masks_secrets_in_table_and_json(fraudline: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAUDLINE_STORE__URL", "redis://:hunter2@redis:6379/0")
    status, table, _ = fraudline("config", "show")
    assert status == 0
    assert "redis://:********@redis:6379/0" in table
    status, text, _ = fraudline("config", "show", "--json")
    rows = {row["name"]: row for row in json.loads(text)}
    assert rows["store.url"]["origin"] == "FRAUDLINE_STORE__URL"
    assert rows["processing.budget_ms"] == {"name": "processing.budget_ms", "value": "200", "origin": "default"}
    assert "hunter2" not in table + text


def test_features_list_has_every_feature(fraudline: Run) -> None:
    _, text, _ = fraudline("features", "list", "--json")
    assert [row["name"] for row in json.loads(text)] == [feature.name for feature in DEFAULT.features]
    _, table, _ = fraudline("features", "list")
    lines = [line.strip() for line in table.splitlines()]
    assert all(any(f.name in line and line.endswith(f.help) for line in lines) for f in DEFAULT.features)


def test_features_list_says_of_each_what_it_is_over_what_and_what_stands_for_nothing(fraudline: Run) -> None:
    _, text, _ = fraudline("features", "list", "--catalog", "handbook", "--json")
    rows = {row["name"]: row for row in json.loads(text)}
    assert list(rows) == list(HANDBOOK.names)
    assert rows["TERMINAL_ID_RISK_30DAY_WINDOW"] == {
        "name": "TERMINAL_ID_RISK_30DAY_WINDOW",
        "entity": "terminal",
        "window": "30d, 7d ago",
        "type": "ratio",
        "default": "0",
        "help": "Share of known frauds in the 30 days that ended 7 days ago",
        "group": "handbook.terminal",
        "window_ms": 30 * 86_400_000,
        "delay_ms": 7 * 86_400_000,
    }
    assert (rows["TX_AMOUNT"]["entity"], rows["TX_AMOUNT"]["window"]) == ("payment", "")


@pytest.mark.parametrize("width", [80, 100, 109, 110, 120])
def test_features_list_fits_a_terminal_and_cuts_no_name(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    print_features(DEFAULT.features, as_json=False, width=width)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    words = {word for line in lines for word in line.replace(",", " ").split()}
    assert words >= set(DEFAULT.names) | {"terminal", "24h", "seconds", "missing"}
    assert words >= {word for feature in DEFAULT.features for word in feature.help.replace(",", " ").split()}


def test_schemas_go_to_standard_output_or_to_files(fraudline: Run, tmp_path: Path) -> None:
    status, text, _ = fraudline("schemas")
    assert status == 0
    printed = json.loads(text)
    assert fraudline("schemas", "--out", str(tmp_path / "schemas")) == (0, "", "")
    files = {path.name.removesuffix(".schema.json"): json.loads(path.read_text()) for path in tmp_path.rglob("*.json")}
    assert files == printed


def test_generate_writes_both_files_and_a_summary(fraudline: Run, tmp_path: Path) -> None:
    status, text, err = fraudline("generate", "--payments", "300", "--seed", "3", "--out", str(tmp_path), "--json")
    assert (status, err) == (0, "")
    assert json.loads(text)["payments"] == 300
    assert len((tmp_path / "payments.jsonl").read_text().splitlines()) == 300
    assert (tmp_path / "labels.jsonl").exists()
    status, table, _ = fraudline("generate", "--payments", "300", "--out", str(tmp_path), "--start", "2026-02-01")
    assert status == 0
    assert "fraud_share" in table


def test_a_time_without_an_offset_is_utc() -> None:
    assert cli_options.epoch_ms("2026-01-05T00:00:00", "--start") == 1_767_571_200_000
    assert cli_options.epoch_ms("2026-01-05T01:00:00.5+01:00", "--start") == 1_767_571_200_500


@pytest.mark.parametrize("command", ["features list", "features list --json", "config show", "--version"])
def test_a_reader_that_goes_away_gets_no_complaint(command: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    call = [sys.executable, "-c", "from consumer.cli import main; main()", *command.split()]
    done = subprocess.run(call, cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


def test_the_entry_point_exits_with_the_status() -> None:
    running = process("config", "show", "--config", "/nowhere.toml")
    out, err = running.communicate(timeout=60)
    assert (running.returncode, out) == (2, b"")
    assert err.count(b"\n") == 1
    assert b"Traceback" not in err


@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT], ids=lambda told: told.name)
def test_a_signal_that_meets_a_destructor_is_not_lost(told: signal.Signals) -> None:
    """Python ignores what a handler raises there; a training was seen to go on to its end."""
    code = f"""
import signal, time
from consumer import cli

class Fragile:
    def __del__(self):
        signal.raise_signal({int(told)})
        len(str(self))  # some line in which the handler is called

@cli.app.command("wait")
def wait():
    Fragile()
    time.sleep(5)

cli.main(["wait"])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False, timeout=50)
    assert (done.returncode, done.stdout, done.stderr) == (128 + told, b"", b"")


@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGHUP], ids=["SIGTERM", "SIGHUP"])
def test_a_training_that_is_told_to_stop_leaves_no_files_of_work(tmp_path: Path, told: signal.Signals) -> None:
    write(Simulation(payments=20_000, seed=3), tmp_path / "history")
    files = (
        "--payments",
        str(tmp_path / "history" / PAYMENTS_FILE),
        "--labels",
        str(tmp_path / "history" / LABELS_FILE),
    )
    training = process(
        "train", *files, "--out", str(tmp_path / "bundle"), "--trees", "10000", "--learning-rate", "0.001"
    )
    while not list(tmp_path.glob(".bundle.*/*")):
        assert training.poll() is None
        time.sleep(0.05)
    training.send_signal(told)
    _, err = training.communicate(timeout=60)
    assert (training.returncode, err) == (128 + told, b"")
    assert [each.name for each in tmp_path.iterdir()] == ["history"]
