"""The command line: what a person types, turned into one call of the part that does it.

Heavy imports stay inside the commands, so that `fraudline --help` answers at once. An error of ours is one line on
standard error and exit status 2 (a setting, an argument or an input file) or 1 (anything else).
"""

# ruff: noqa: PLC0415  heavy imports stay inside the commands, see above
from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Final, NoReturn

import typer

from consumer import (
    __version__,
    cli_audit,
    cli_backtest,
    cli_certify,
    cli_dashboard,
    cli_dlq,
    cli_doctor,
    cli_drift,
    cli_explain,
    cli_features,
    cli_generate,
    cli_lag,
    cli_model,
    cli_policy,
    cli_prove,
    cli_replay,
    cli_score,
    cli_state,
    cli_topics,
    cli_train,
)
from consumer.cli_options import AsJson, CatalogName, ConfigFile
from consumer.cli_output import (
    error_line,
    print_features,
    print_json,
    print_table,
)
from features.errors import ConfigError, FraudlineError

EXIT_FAILED: Final = 1
EXIT_MISUSED: Final = 2
EXIT_INTERRUPTED: Final = 130
AGAIN_S: Final = 0.01  # until a signal whose exception was lost raises it again

app = typer.Typer(
    name="fraudline",
    help="Real-time fraud detection on Kafka: a decision for every payment, an alert for every suspicious one.",
    pretty_exceptions_enable=False,
)
config_app = typer.Typer(help="Look at the settings.")
features_app = typer.Typer(help="Look at the features.")
features_app.command("build")(cli_features.build)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fraudline {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def run(
    *,
    config: ConfigFile = None,
    allow_cold_state: Annotated[
        bool, typer.Option("--allow-cold-state", help="Go on, though Kafka no longer has all that the state lacks.")
    ] = False,
) -> int:
    """Decide payments from Kafka until told to stop (SIGTERM drains, then exits)."""
    from consumer import logs, settings

    loaded = settings.load(config)
    if allow_cold_state:
        store = loaded.store.model_copy(update={"allow_cold_state": True})
        loaded = loaded.model_copy(update={"store": store})
    logs.configure(loaded.telemetry.log_level, loaded.telemetry.log_format)
    from consumer.app import run as run_app

    return run_app(loaded)


def demo(
    *,
    payments: Annotated[int, typer.Option(min=1, help="How many payments to show.")] = 20_000,
    rate: Annotated[float, typer.Option(min=1, help="Payments a second.")] = 1_000.0,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, another world.")] = 7,
    serve: Annotated[
        bool, typer.Option("--serve", help="Afterwards go on, and keep the alert page up, until Ctrl-C.")
    ] = False,
    port: Annotated[
        int | None, typer.Option(min=0, max=65_535, help="The alert page's (default: 9465, or any if that is taken).")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Watch fraud being caught: simulated payments, an in-process broker, nothing to install."""
    import threading

    from consumer import logs
    from consumer.demo import run_demo

    def told_to_stop() -> threading.Event:
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda _number, _frame: stop.set())
        return stop

    logs.configure_command()
    return run_demo(
        payments=payments, rate=rate, seed=seed, as_json=as_json, serve=serve, port=port, told_to_stop=told_to_stop
    )


def schemas(
    *,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Write one file a record type here.")] = None,
) -> int:
    """Print the JSON Schemas of all records, or write them to a directory."""
    from consumer.records import json_schemas

    if out is None:
        print_json(json_schemas())
        return 0
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, schema in json_schemas().items():
            with (out / f"{name}.schema.json").open("w", encoding="utf-8") as file:
                print_json(schema, file)
    except OSError as error:
        raise ConfigError(f"The schemas can't be written to {out} ({error.strerror}).") from None
    return 0


@config_app.command("show")
def config_show(*, config: ConfigFile = None, as_json: AsJson = False) -> int:
    """Show every setting, its value (secrets masked) and where it came from."""
    from consumer import settings

    rows = settings.describe(settings.load(config))
    print_table("Settings", ("name", "value", "origin"), rows, as_json=as_json)
    return 0


@features_app.command("list")
def features_list(*, catalog: CatalogName = "default", as_json: AsJson = False) -> int:
    """List the features in the order of the model's columns."""
    from features.profiles import load_catalog

    print_features(load_catalog(catalog).features, as_json=as_json)
    return 0


_COMMANDS: Final[dict[str, dict[str, Callable[..., int] | typer.Typer]]] = {
    "Decide payments": {
        "run": run,
        "dashboard": cli_dashboard.dashboard,
        "demo": demo,
        "score": cli_score.score,
    },
    "First aid": {
        "doctor": cli_doctor.doctor,
        "lag": cli_lag.lag,
        "explain": cli_explain.explain,
        "dlq": cli_dlq.app,
        "state": cli_state.app,
        "certify": cli_certify.certify,
        "prove": cli_prove.prove,
        "audit": cli_audit.app,
    },
    "Models and policies": {
        "train": cli_train.train,
        "model": cli_model.app,
        "shadow": cli_model.shadow_app,
        "policy": cli_policy.app,
        "features": features_app,
        "drift": cli_drift.app,
        "backtest": cli_backtest.backtest,
    },
    "Setting up": {
        "config": config_app,
        "topics": cli_topics.app,
        "schemas": schemas,
        "generate": cli_generate.generate,
        "replay": cli_replay.replay,
    },
}
for _panel, _commands in _COMMANDS.items():
    for _name, _command in _commands.items():
        if isinstance(_command, typer.Typer):
            app.add_typer(_command, name=_name, rich_help_panel=_panel)
        else:
            app.command(_name, rich_help_panel=_panel)(_command)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The entry point: run one command and exit with its status."""
    signal.signal(signal.SIGTERM, _terminated)  # `run` and `replay` put handlers of their own in its place
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # `nohup` has it ignored
        signal.signal(signal.SIGHUP, _terminated)
    sys.unraisablehook = _ignored
    status = exit_status(sys.argv[1:] if arguments is None else arguments)
    sys.exit(status)


def _terminated(number: int, _frame: object) -> NoReturn:
    """Leave as after an exception, so that files of work go too; with the status that a shell gives such an end."""
    sys.exit(128 + number)


def _ignored(raised: sys.UnraisableHookArgs) -> None:
    """Hear of an exception that Python ignores, and raise it again a moment later if it is that of a signal.

    What a handler raises is lost where it interrupts a destructor or what a C library calls: XGBoost would train on.
    """
    error = raised.exc_value
    is_main = threading.current_thread() is threading.main_thread()
    if not (is_main and isinstance(error, SystemExit | KeyboardInterrupt)):
        sys.__unraisablehook__(raised)
        return

    def again(_number: int, _frame: object) -> NoReturn:
        raise error

    signal.signal(signal.SIGALRM, again)
    signal.setitimer(signal.ITIMER_REAL, AGAIN_S)


def exit_status(arguments: Sequence[str]) -> int:
    """Run one command; every way in which it can end becomes an exit status and at most one line."""
    try:
        result = app(args=list(arguments) or ["--help"], prog_name="fraudline", standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:
        _point_at_null(sys.stdout.fileno())
        return EXIT_FAILED  # as rich and typer do when they meet it first
    except (KeyboardInterrupt, typer.Abort):
        return EXIT_INTERRUPTED
    except ConfigError as error:
        error_line(str(error))
        return EXIT_MISUSED
    except FraudlineError as error:
        error_line(str(error))
        return EXIT_FAILED
    except Exception as error:
        return _other(error)
    return result if isinstance(result, int) else 0


def _other(error: Exception) -> int:
    """An argument that the parser refused, or a bug: its place is told, its message may quote a payload."""
    if hasattr(error, "format_message"):  # typer's own, whose classes moved between its versions
        command = getattr(getattr(error, "ctx", None), "command_path", "fraudline")
        error_line(f"{error.format_message().rstrip('.').replace('Value error, ', '')}; see {command} --help.")
        return EXIT_MISUSED
    from consumer.logs import places

    at = ", from ".join(reversed(places(error, innermost=4)))
    error_line(f"unexpected {type(error).__name__} in {at}; this is a bug of fraudline, please report this line.")
    return EXIT_FAILED


def _point_at_null(descriptor: int) -> None:
    """The reader went away: let the interpreter's own flush at exit find a place to write to."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)
