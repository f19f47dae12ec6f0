"""`fraudline audit`: who changed what; and what other commands need to have a change of theirs recorded."""

# ruff: noqa: PLC0415  heavy imports stay inside the commands, so that `fraudline --help` answers at once
from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from consumer.cli_options import AsJson, ConfigFile, moment_ms, refuse_card_number
from consumer.cli_output import iso, print_json, print_table
from features.errors import ConfigError

if TYPE_CHECKING:
    from consumer.settings import Settings

app = typer.Typer(help="See who changed what.")

Actor = Annotated[
    str | None,
    typer.Option("--actor", metavar="WHO", help="Who does it, for the audit topic (default: user and machine)."),
]


@app.callback()
def _audit() -> None:
    pass


@app.command(name="list")
def list_entries(
    *,
    since: Annotated[str | None, typer.Option(metavar="TIME", help="From then on (ISO 8601).")] = None,
    action: Annotated[
        str | None, typer.Option(metavar="ACTION", help="Only these: model.promote, or all of model.")
    ] = None,
    actor: Annotated[str | None, typer.Option(metavar="WHO", help="Only what they did.")] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> int:
    """Show the audit topic, the oldest first; what was only intended has no outcome in it."""
    import msgspec

    from consumer import logs, settings
    from consumer.audit import AuditEntry, read_entries
    from consumer.streams import TopicStream

    logs.configure_command()
    _check_action(action)
    loaded = settings.load(config)
    from_ms = moment_ms(since, "--since") or 0
    found: dict[tuple[str, str], AuditEntry] = {}
    foreign = 0
    with closing(TopicStream(loaded.kafka, loaded.topics.audit)) as stream:
        for each in read_entries(stream):
            if isinstance(each, str):
                foreign += 1
            elif each.time >= from_ms and actor in (None, each.actor) and _is_of(each.action, action):
                found.setdefault((each.entry_id, each.outcome), each)
        gone = stream.gone()
    settled = {entry_id for entry_id, outcome in found if outcome != "intended"}
    shown = sorted(found.values(), key=lambda each: (each.time, each.outcome != "intended"))
    shown = [each for each in shown if each.outcome != "intended" or each.entry_id not in settled]
    for number, offset in gone.items():
        sys.stderr.write(f"what lay before offset {offset:,} of {loaded.topics.audit}/{number} is gone\n")
    if foreign:
        sys.stderr.write(f"{foreign:,} records of {loaded.topics.audit} are no audit records and were left out\n")
    if as_json:
        print_json([msgspec.to_builtins(each) for each in shown])
        return 0
    rows = [
        (iso(each.time), each.actor, each.action, each.subject, each.outcome,
         ", ".join(f"{name} {value}" for name, value in each.detail.items() if value is not None))
        for each in shown
    ]  # fmt: skip
    print_table("Changes", ("time", "who", "action", "what", "outcome", "detail"), rows, as_json=False)
    return 0


def _check_action(asked: str | None) -> None:
    """Refuse a word that no action has. Raises ConfigError."""
    from consumer.audit import ACTIONS

    if asked is not None and not any(_is_of(action, asked) for action in ACTIONS):
        raise ConfigError(f"--action is none of {', '.join(ACTIONS)}.")


def _is_of(action: str, asked: str | None) -> bool:
    return asked is None or action == asked or action.startswith(f"{asked}.")


@contextmanager
def recorded(
    config: Path | None,
    action: str,
    subject: str,
    *,
    actor: str | None,
    detail: Mapping[str, object] | None = None,
) -> Iterator[dict[str, Any]]:
    """Let a command change something inside, recorded as `consumer.audit.audited` does, if `audit.enabled`.

    What is put into the yielded mapping joins the record. Raises ConfigError for an `actor` that nothing records.
    """
    from consumer import logs, settings

    loaded = settings.load(config)
    if not is_audited(loaded, actor):
        yield {}
        return
    from consumer.audit import audited
    from consumer.kafka.audit import AuditWriter

    logs.configure_command()
    with (
        AuditWriter(loaded.kafka, loaded.topics.audit) as trail,
        audited(trail, action, subject, actor=actor, detail=detail) as more,
    ):
        yield more


def is_audited(loaded: Settings, actor: str | None) -> bool:
    """Whether changes are audited. Raises ConfigError for an `actor` that would be forgotten, or is unfit."""
    refuse_card_number(actor, "--actor")
    if actor is not None and not loaded.audit.enabled:
        raise ConfigError("--actor is for the audit topic, and audit.enabled is false: enable it, or leave it out.")
    return loaded.audit.enabled
