"""`fraudline generate`: payments that never were, with fraud among them."""

# ruff: noqa: PLC0415  heavy imports stay inside the command
from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from consumer.cli_options import AsJson, ConfigFile, moment_ms
from consumer.cli_output import print_mapping, progress_bar
from features.errors import ConfigError


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
    late: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share that comes long after its time.")] = 0.0,
    duplicate: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share that is sent twice.")] = 0.0,
    malformed: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share that is no payment.")] = 0.0,
    fraud_rate: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share that is fraud.")] = 0.005,
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
