"""`fraudline topics`: the topics that the settings name, with what each has to be set to."""

# ruff: noqa: PLC0415  heavy imports stay inside the commands, so that `fraudline --help` answers at once
from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from consumer.cli_audit import Actor, is_audited, recorded
from consumer.cli_options import AsJson, ConfigFile
from consumer.cli_output import print_json, print_table
from features.errors import ConfigError, KafkaUnavailable

if TYPE_CHECKING:
    from consumer.kafka.topics import TopicAdmin
    from consumer.settings import Settings
    from consumer.topic_plan import Step
    from consumer.topics import Options

EXIT_TO_DO = 3
SETTLE_TRIES = 40
SETTLE_S = 0.25


app = typer.Typer(help="See and make the topics, with the right settings.")

Partitions = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Of payments, labels, decisions, alerts, payments.dlq and shadow "
        "(default: as payments has, or 8); journal, lists and audit have one.",
    ),
]
Copies = Annotated[
    int | None,
    typer.Option("--replication-factor", min=1, help="Copies of each partition (default: 3, or all brokers)."),
]
RetentionDays = Annotated[
    float | None,
    typer.Option(min=0.0, help="How long records are kept (default: as long as features look back, and an outage)."),
]
OutageDays = Annotated[
    float, typer.Option(min=0.0, help="The longest that Redis may be away, and its state still be caught up.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="ROLE.SETTING=VALUE",
        help="For one topic: alerts.retention.ms=604800000, journal.partitions=4, lists.replication.factor=2.",
    ),
]
AddPartitions = Annotated[
    bool,
    typer.Option("--add-partitions", help="Also add partitions to topics that exist: the order of a card is lost."),
]


@app.command()
def plan(
    *,
    partitions: Partitions = None,
    replication_factor: Copies = None,
    retention_days: RetentionDays = None,
    outage_days: OutageDays = 7.0,
    overrides: Overrides = None,
    add_partitions: AddPartitions = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> int:
    """Show which topics lack, and which settings differ; exit status 3 if there are any."""
    options = _options(partitions, replication_factor, retention_days, outage_days, overrides)
    settings, admin = _open(config)
    steps = _steps(settings, admin, options, add_partitions=add_partitions)
    _show("Topics" if steps else "All topics are as they should be", steps, as_json=as_json)
    return EXIT_TO_DO if steps else 0


@app.command()
def apply(
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
    partitions: Partitions = None,
    replication_factor: Copies = None,
    retention_days: RetentionDays = None,
    outage_days: OutageDays = 7.0,
    overrides: Overrides = None,
    add_partitions: AddPartitions = False,
    actor: Actor = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> int:
    """Create the topics that lack and set what is safe to set; the rest is left alone, and it is said why.

    Nothing is deleted and no retention is shortened. It may be repeated, and run twice at once.
    """
    options = _options(partitions, replication_factor, retention_days, outage_days, overrides)
    settings, admin = _open(config)
    is_audited(settings, actor)
    steps = _steps(settings, admin, options, add_partitions=add_partitions)
    ours = [step for step in steps if step.by_us]
    if ours and not yes:
        if as_json or not sys.stdin.isatty():
            raise ConfigError(
                f"This changes {len(ours)} things on {settings.kafka.brokers}: say --yes if that is meant."
            )
        _show("To do", steps, as_json=False)
        typer.confirm(f"Do these {len(ours)} on {settings.kafka.brokers}?", abort=True, err=True)

    def look() -> list[Step]:
        return _steps(settings, admin, options, add_partitions=add_partitions)

    if ours:
        # first the audit topic, or nothing could be written of the others
        _carry_out(admin, lambda: [step for step in look() if step.role == "audit"])
        names = ", ".join(sorted({step.topic for step in ours}))
        with recorded(config, "topics.apply", names, actor=actor, detail={"changes": len(ours)}):
            _carry_out(admin, look)
    _show("Done" if ours else "There was nothing to do", steps, as_json=as_json)
    return 0


def _carry_out(admin: TopicAdmin, look: Callable[[], list[Step]]) -> None:
    """Do it, until it is seen: brokers hear of a change one after the other, and somebody else may be at it too.

    What is done is what was seen just before: a plan that waited for its answer may be old, and would shorten again
    what somebody has lengthened since.
    """
    for _ in range(SETTLE_TRIES):
        ours = [step for step in look() if step.by_us]
        if not ours:
            return
        admin.carry_out(ours)
        time.sleep(SETTLE_S)
    if ours := [step for step in look() if step.by_us]:
        raise KafkaUnavailable(f"{ours[0].topic} did not become what it was set to: look at the brokers, and repeat it")


def _options(
    partitions: int | None,
    copies: int | None,
    retention_days: float | None,
    outage_days: float,
    overrides: list[str] | None,
) -> Options:
    from consumer.topics import Options, parse_overrides
    from features.catalog import DAY_MS

    if not all(math.isfinite(days) for days in (retention_days or 0.0, outage_days)):
        raise ConfigError("--retention-days and --outage-days are numbers of days.")
    return Options(
        partitions=partitions,
        copies=copies,
        retention_ms=None if retention_days is None else round(retention_days * DAY_MS),
        outage_ms=round(outage_days * DAY_MS),
        overrides=parse_overrides(overrides or ()),
    )


def _open(config: Path | None) -> tuple[Settings, TopicAdmin]:
    from consumer import logs, settings
    from consumer.kafka.topics import TopicAdmin

    logs.configure_command()
    loaded = settings.load(config)
    return loaded, TopicAdmin(loaded.kafka)


def _steps(settings: Settings, admin: TopicAdmin, options: Options, *, add_partitions: bool) -> list[Step]:
    from consumer.topic_plan import plan
    from consumer.topics import declared
    from features.profiles import load_catalog

    there = admin.look([name for _, name in settings.topics])
    payments = there.found.get(settings.topics.payments)
    wanted = declared(
        settings.topics,
        load_catalog(settings.features.catalog),
        options,
        brokers=there.brokers,
        payments_partitions=None if payments is None else payments.partitions,
    )
    return plan(wanted, there.found, add_partitions=add_partitions)


def _show(title: str, steps: list[Step], *, as_json: bool) -> None:
    if as_json:
        print_json([_document(step) for step in steps])
        return
    if not steps:
        typer.echo(f"{title}.")
        return
    rows = [
        (
            step.topic,
            step.action,
            step.setting,
            "" if step.has is None else step.has,
            step.wants,
            f"{step.why}; {step.left}" if step.left else step.why,
        )
        for step in steps
    ]
    print_table(title, ("topic", "action", "setting", "is", "should be", "why"), rows, as_json=False)


def _document(step: Step) -> dict[str, object]:
    return {
        "topic": step.topic,
        "role": step.role,
        "action": step.action,
        "setting": step.setting or None,
        "is": step.has,
        "should_be": step.wants,
        "why": step.why,
        "left_because": step.left or None,
        "needed": step.needed,
        "settings": dict(step.settings),
    }
