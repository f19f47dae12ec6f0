"""`fraudline lag`: how far the group is behind."""

# ruff: noqa: PLC0415  heavy imports stay inside the commands, so that `fraudline --help` answers at once
from __future__ import annotations

import math
import sys
import time
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from consumer.cli_options import AsJson, ConfigFile
from consumer.cli_output import error_line, only_one, print_table
from features.errors import ConfigError, KafkaRefused, KafkaUnavailable

if TYPE_CHECKING:
    from consumer.group_lag import GroupLag, PartitionLag
    from consumer.kafka.group import GroupReader

EXIT_BEHIND = 1


def lag(
    *,
    max_seconds: Annotated[
        float | None,
        typer.Option(min=0.0, help="Exit with status 1 if a record waits longer, or if that can't be told."),
    ] = None,
    watch: Annotated[
        float | None, typer.Option(metavar="SECONDS", min=0.5, help="Tell again every so many seconds, until stopped.")
    ] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> int:
    """Show where the group stands in payments and labels, how far behind that is, and who reads what."""
    from consumer import logs, settings
    from consumer.kafka.group import GroupReader

    only_one({"--watch": watch, "--max-seconds": max_seconds})
    if not all(math.isfinite(each) for each in (watch, max_seconds) if each is not None):
        raise ConfigError("--watch and --max-seconds are numbers of seconds.")
    loaded = settings.load(config)
    logs.configure_command()
    reader = GroupReader(loaded.kafka, [loaded.topics.payments, loaded.topics.labels])
    if watch is not None:
        _watch(reader, watch, as_json=as_json)
    found, now_ms = reader.look(), time.time() * 1_000
    _show(found, now_ms, as_json=as_json, on_one_line=False)
    waits_s = found.seconds(now_ms)
    return EXIT_BEHIND if max_seconds is not None and (waits_s is None or waits_s > max_seconds) else 0


def _watch(reader: GroupReader, every_s: float, *, as_json: bool) -> NoReturn:
    """Tell again and again: also when brokers are away, since that is when it is watched."""
    while True:
        try:
            _show(reader.look(), time.time() * 1_000, as_json=as_json, on_one_line=True)
        except KafkaRefused:  # no patience cures that
            raise
        except KafkaUnavailable as error:
            error_line(str(error))
        sys.stdout.flush()
        time.sleep(every_s)


def _show(found: GroupLag, now_ms: float, *, as_json: bool, on_one_line: bool) -> None:
    if as_json:
        _print_document(found.document(now_ms), on_one_line=on_one_line)
        return
    title = f"Group {found.group}: {found.state}, {_count(len(found.members), 'member')}"
    columns = ("topic", "partition", "committed", "end", "records behind", "seconds behind", "read by", "remark")
    rows = [
        (
            each.topic,
            each.partition,
            "never" if each.committed is None else f"{each.committed:,}",
            f"{each.end:,}",
            f"{each.records:,}",
            _seconds(each.seconds(now_ms)),
            _owner(found, each),
            _remark(each),
        )
        for each in found.partitions
    ]
    if found.partitions:
        total = ("all", "", "", "", f"{found.records:,}", _seconds(found.seconds(now_ms)), "", "")
        print_table(title, columns, [*rows, total], as_json=False)
    else:
        typer.echo(title)
    for name in found.missing:
        typer.echo(f"There is no topic {name}: create it (fraudline topics apply), or mend the settings.")


def _print_document(document: dict[str, object], *, on_one_line: bool) -> None:
    import orjson

    options = orjson.OPT_APPEND_NEWLINE | (0 if on_one_line else orjson.OPT_INDENT_2)
    sys.stdout.write(orjson.dumps(document, option=options).decode())


def _owner(found: GroupLag, partition: PartitionLag) -> str:
    owner = found.owner(partition)
    return "nobody" if owner is None else f"{owner.client_id} at {owner.host}"


def _remark(partition: PartitionLag) -> str:
    if partition.lost:
        return f"{partition.lost:,} records were deleted before they were decided: reset the group's offsets"
    if partition.above_end:
        return "the group stands above the end: the topic was made anew"
    if partition.held_back:
        return "held back by an open transaction"
    return ""


def _seconds(seconds: float | None) -> str:
    return "not told" if seconds is None else f"{seconds:,.1f}"


def _count(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
