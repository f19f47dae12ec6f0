"""The command line: what a person types, turned into one call of the part that does it.

Heavy imports stay inside the commands, so that `fraudline --help` answers at once. An error of ours is one line on
standard error and exit status 2 (a setting, an argument or an input file) or 1 (anything else).
"""

# ruff: noqa: PLC0415  heavy imports stay inside the commands, see above
from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, NoReturn

import typer

from consumer import (
    __version__,
    cli_backtest,
    cli_certify,
    cli_drift,
    cli_features,
    cli_model,
    cli_policy,
    cli_replay,
    cli_score,
    cli_state,
)
from consumer.cli_options import AsJson, CatalogName, ConfigFile, Mapped, columns_of, moment_ms
from consumer.cli_output import (
    error_line,
    only_one,
    print_features,
    print_json,
    print_mapping,
    print_table,
    progress_bar,
    progress_stages,
)
from features.errors import ConfigError, FraudlineError

EXIT_FAILED: Final = 1
EXIT_MISUSED: Final = 2
EXIT_INTERRUPTED: Final = 130
EXIT_TERMINATED: Final = 143

app = typer.Typer(
    name="fraudline",
    help="Real-time fraud detection on Kafka: a decision for every payment, an alert for every suspicious one.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
config_app = typer.Typer(help="Look at the settings.")
features_app = typer.Typer(help="Look at the features.")
app.add_typer(config_app, name="config")
app.add_typer(features_app, name="features")
app.add_typer(cli_state.app, name="state")
app.add_typer(cli_policy.app, name="policy")
app.add_typer(cli_model.app, name="model")
app.add_typer(cli_model.shadow_app, name="shadow")
app.add_typer(cli_drift.app, name="drift")
features_app.command("build")(cli_features.build)
app.command("replay")(cli_replay.replay)
app.command("backtest")(cli_backtest.backtest)
app.command("certify")(cli_certify.certify)
app.command("score")(cli_score.score)


class Device(StrEnum):
    """Where a model computes."""

    CPU = "cpu"
    CUDA = "cuda"


Share = Annotated[float, typer.Option(min=0.0, max=1.0)]


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


@app.command()
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


@app.command()
def demo(
    *,
    payments: Annotated[int, typer.Option(min=1, help="How many payments to show.")] = 20_000,
    rate: Annotated[float, typer.Option(min=1, help="Payments a second.")] = 1_000.0,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, another world.")] = 7,
    as_json: AsJson = False,
) -> int:
    """Watch fraud being caught: simulated payments, an in-process broker, nothing to install."""
    from consumer import logs
    from consumer.demo import run_demo

    logs.configure_command()
    return run_demo(payments=payments, rate=rate, seed=seed, as_json=as_json)


@app.command()
def generate(
    *,
    payments: Annotated[int, typer.Option(min=1, help="How many payments.")],
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same payments.")] = 1,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Write payments.jsonl and labels.jsonl here.")] = None,
    topic: Annotated[
        str | None, typer.Option(help="Or produce the payments to this topic (brokers: --config).")
    ] = None,
    labels_topic: Annotated[
        str | None, typer.Option(metavar="TOPIC", help="With --topic: produce the labels to this topic, after them.")
    ] = None,
    config: ConfigFile = None,
    late: Share = 0.0,
    duplicate: Share = 0.0,
    malformed: Share = 0.0,
    fraud_rate: Share = 0.005,
    start: Annotated[str | None, typer.Option(metavar="TIME", help="First payment's time, ISO 8601.")] = None,
    as_json: AsJson = False,
) -> int:
    """Simulate payments, some of them fraud, and the labels that become known later."""
    if (out is None) == (topic is None):
        raise ConfigError("Say where the payments go: give either --out DIR or --topic NAME.")
    if labels_topic is not None and topic is None:
        raise ConfigError("--labels-topic belongs to --topic: with --out the labels are in the same folder.")
    from consumer import logs
    from consumer.simulator import MONDAY_MS, Simulation, simulate, write

    logs.configure_command()
    simulation = Simulation(
        payments=payments,
        seed=seed,
        start_ms=moment_ms(start, "--start") or MONDAY_MS,
        fraud_rate=fraud_rate,
        late=late,
        duplicate=duplicate,
        malformed=malformed,
    )
    with progress_bar("payments", simulation.records) as advance:
        if out is not None:
            summary = write(simulation, out, progress=advance)
        else:
            from consumer import settings
            from consumer.kafka.history import produce_history

            history, loaded = simulate(simulation), settings.load(config)
            sent = produce_history(loaded, str(topic), history.records(), advance)
            summary = history.summary | {"topic": topic, "sent": sent}
            if labels_topic is not None:
                labels = produce_history(loaded, labels_topic, history.labels(), lambda _count: None)
                summary |= {"labels_topic": labels_topic, "labels_sent": labels}
    print_mapping("Simulated", summary, as_json=as_json)
    return 0


@app.command()
def train(
    *,
    payments: Annotated[
        Path, typer.Option(metavar="PATH", help="Parquet, CSV or JSON lines in log order; a file, or a folder of them.")
    ],
    labels: Annotated[Path, typer.Option(metavar="PATH", help="Likewise, in any order.")],
    mapped: Mapped = None,
    out: Annotated[Path, typer.Option(metavar="BUNDLE", help="The directory that becomes the model bundle.")],
    alert_budget: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="Share of payments that may be stopped or reviewed (default: 0.01)."),
    ] = None,
    alerts_per_day: Annotated[
        float | None, typer.Option(min=0.0, help="In place of that share: so many alerts a day.")
    ] = None,
    review_precision: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="In place of a budget: this share of the alerts is fraud.")
    ] = None,
    alert_cost: Annotated[
        float | None, typer.Option(min=0.0, help="In place of a budget: what an alert costs, in minor units.")
    ] = None,
    block_precision: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="Block where this share of the blocked is fraud (default: 0.9)."),
    ] = None,
    decline_cost: Annotated[
        float | None, typer.Option(min=0.0, help="In place of that: what a good payment blocked costs, minor units.")
    ] = None,
    segment_thresholds: Annotated[
        str | None, typer.Option(metavar="FIELD", help="Thresholds of their own for the values of this field.")
    ] = None,
    since: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="Learn from payments of this time on (ISO 8601).")
    ] = None,
    until: Annotated[
        str | None,
        typer.Option("--to", metavar="TIME", help="Learn as at this time: nothing later is known, labels included."),
    ] = None,
    label_delay_days: Annotated[
        float, typer.Option(min=0.0, help="How long labels take: younger payments are not learned from.")
    ] = 7.0,
    windows: Annotated[int, typer.Option(min=2, help="Windows of validation; the newest is the test.")] = 3,
    trees: Annotated[int, typer.Option(min=10, help="At most so many; validation says how many are best.")] = 600,
    depth: Annotated[int, typer.Option(min=1, max=12, help="Of each tree.")] = 4,
    learning_rate: Annotated[float, typer.Option(min=0.001, max=1.0, help="Of each tree.")] = 0.03,
    min_child_weight: Annotated[float, typer.Option(min=0.0, help="Of a leaf: more is more cautious.")] = 1.0,
    subsample: Annotated[float, typer.Option(min=0.05, max=1.0, help="Share of the payments a tree.")] = 0.8,
    columns_per_tree: Annotated[float, typer.Option(min=0.05, max=1.0, help="Share of the features a tree.")] = 0.5,
    l2: Annotated[float, typer.Option(min=0.0, help="Regularisation of leaves.")] = 1.0,
    leave_out: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FEATURE|none",
            help="A feature that trees may not use; repeatable (default: merchant_mean_30d and merchant_count_7d).",
        ),
    ] = None,
    name: Annotated[str, typer.Option(help="The model's name.")] = "fraudline",
    model_version: Annotated[str, typer.Option(help="The model's version.")] = "1",
    device: Annotated[Device, typer.Option(help="Where trees are grown.")] = Device.CPU,
    memory_mb: Annotated[int, typer.Option(min=16, help="Memory for work; what is more waits in files.")] = 2_048,
    search_minutes: Annotated[
        float | None,
        typer.Option(min=0.0, help="Look for better options for so long (Optuna, extra fraudline\\[train])."),
    ] = None,
    search_trials: Annotated[
        int | None, typer.Option(min=1, help="Or so many times: the same number and seed find the same.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0)] = 7,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads; more than one pays on idle cores only.")] = 1,
    report: Annotated[
        str | None,
        typer.Option(metavar="FILE|none", help="The report, .html, with a .json beside it (default: by the bundle)."),
    ] = None,
    segment: Annotated[
        list[str] | None, typer.Option(metavar="FIELD", help="Also tell payments apart by this field; repeatable.")
    ] = None,
    catalog: CatalogName = "default",
    as_json: AsJson = False,
) -> int:
    """Train a model bundle from payments and labels, and print how good it is on later payments."""
    from consumer import logs
    from consumer.cli_train import report_writer
    from consumer.decode import looks_like_card_number
    from features.profiles import load_catalog
    from models.train import ALERT_SHARE, BLOCK_PRECISION, LEFT_OUT, TrainOptions
    from models.train import train as train_bundle

    logs.configure_command()
    only_one({"--alert-budget": alert_budget, "--alerts-per-day": alerts_per_day,
              "--review-precision": review_precision, "--alert-cost": alert_cost})  # fmt: skip
    only_one({"--block-precision": block_precision, "--decline-cost": decline_cost})
    options = TrainOptions(
        alert_share=ALERT_SHARE if alert_budget is None else alert_budget,
        alerts_per_day=alerts_per_day,
        review_precision=review_precision,
        alert_cost_minor=alert_cost,
        block_precision=BLOCK_PRECISION if block_precision is None else block_precision,
        decline_cost_minor=decline_cost,
        segment_thresholds=segment_thresholds,
        from_ms=moment_ms(since, "--from"),
        to_ms=moment_ms(until, "--to"),
        label_delay_days=label_delay_days,
        windows=windows,
        trees=trees,
        depth=depth,
        learning_rate=learning_rate,
        min_child_weight=min_child_weight,
        subsample=subsample,
        columns_per_tree=columns_per_tree,
        leave_out=LEFT_OUT if leave_out is None else tuple(name for name in leave_out if name != "none"),
        l2=l2,
        name=name,
        version=model_version,
        device=device.value,
        memory_mb=memory_mb,
        seed=seed,
        threads=threads,
    )
    chosen = load_catalog(catalog)
    segments = tuple(segment or ())
    write_report = report_writer(report, out, f"{name} {model_version}", segments)
    choose = None
    if search_minutes is not None or search_trials is not None:
        from models.search import searcher

        choose = searcher(chosen, minutes=search_minutes, trials=search_trials)
    with progress_stages() as advance:
        metrics = train_bundle(
            payments,
            labels,
            out,
            options=options,
            catalog=chosen,
            progress=advance,
            is_card_number=looks_like_card_number,
            choose=choose,
            report=write_report,
            segments=segments,
            mapped=columns_of(mapped),
        )
    for what, place in (("payment", payments), ("label", labels)):
        if bad := metrics[f"bad_{what}_lines"]:
            sys.stderr.write(f"{bad:,} rows of {place} are no {what} and were left out\n")
    print_mapping(f"Trained {out}", metrics, as_json=as_json)
    return 0


@app.command()
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


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The entry point: run one command and exit with its status."""
    signal.signal(signal.SIGTERM, _terminated)  # `run` and `replay` put handlers of their own in its place
    status = exit_status(sys.argv[1:] if arguments is None else arguments)
    sys.exit(status)


def _terminated(_number: int, _frame: object) -> NoReturn:
    """Leave as after an exception, so that files of work go too."""
    sys.exit(EXIT_TERMINATED)


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
