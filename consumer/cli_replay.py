"""`fraudline replay`: a history into a topic."""

# ruff: noqa: PLC0415  heavy imports stay inside the commands, so that `fraudline --help` answers at once
from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from consumer.cli_options import AsJson, ConfigFile, Mapped, columns_of, moment_ms
from consumer.cli_output import iso, print_mapping
from features.errors import ConfigError

if TYPE_CHECKING:
    from consumer.replay import Feed, Record, Replayed, Sink
    from consumer.settings import Settings


def replay(
    *,
    payments: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Parquet, CSV or JSON lines in log order; a file, or a folder of them."),
    ] = None,
    labels: Annotated[Path | None, typer.Option(metavar="PATH", help="Likewise, in any order.")] = None,
    payments_topic: Annotated[
        str | None, typer.Option(metavar="TOPIC", help="In place of files: the records of a topic.")
    ] = None,
    labels_topic: Annotated[
        str | None, typer.Option(metavar="TOPIC", help="With --payments-topic: labels, merged by their timestamps.")
    ] = None,
    offsets: Annotated[
        list[str] | None,
        typer.Option(metavar="PARTITION:FROM-TO", help="Of --payments-topic only these, as 0:1000-2000; repeatable."),
    ] = None,
    since: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="From this event time on; of a topic, Kafka timestamp.")
    ] = None,
    until: Annotated[str | None, typer.Option("--to", metavar="TIME", help="Until before this time.")] = None,
    into: Annotated[str | None, typer.Option(metavar="TOPIC", help="Where payments go.")] = None,
    labels_into: Annotated[str | None, typer.Option(metavar="TOPIC", help="Where labels go.")] = None,
    speed: Annotated[
        str, typer.Option(metavar="N|max", help="So many times as fast as it happened, 1 for its own pace.")
    ] = "max",
    keep_timestamps: Annotated[
        bool,
        typer.Option("--keep-timestamps", help="Kafka timestamps as they were; else a budget runs from the sending."),
    ] = False,
    checkpoint: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keep here how far it is; go on from it, if it is there.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read and check everything; send nothing.")] = False,
    mapped: Mapped = None,
    source_config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Settings of the cluster that --payments-topic is read from, if another."),
    ] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> int:
    """Send a history to a topic: as fast as it goes, at its own pace, or so many times as fast.

    It can be stopped, and goes on from its checkpoint.
    """
    from consumer import logs, settings
    from consumer.replay import Replay

    logs.configure_command()
    _check_ends(payments, payments_topic, labels, labels_topic, into, labels_into, dry_run=dry_run)
    loaded = settings.load(config)
    source = loaded if source_config is None else settings.load(source_config)
    read = {payments_topic, labels_topic} - {None}
    if source.kafka.brokers == loaded.kafka.brokers and (again := read & {into, labels_into}):
        raise ConfigError(f"{again.pop()} can't be replayed into itself: give another topic.")
    pace = _speed(speed)
    if payments is not None:
        if offsets or source_config is not None:
            raise ConfigError("--offsets and --source-config belong to --payments-topic.")
        feed = _files(payments, labels, mapped, since, until, loaded)
    else:
        if mapped:
            raise ConfigError("--map belongs to --payments.")
        feed = _topics(str(payments_topic), labels_topic, offsets, since, until, source)
    target: dict[str, Any] = {"into": into, "labels_into": labels_into, "brokers": loaded.kafka.brokers}
    sink: Sink = _Nowhere()
    if not dry_run:
        from consumer.kafka.replay import TopicSink

        sink = TopicSink(
            loaded.kafka, str(into), labels_into, keep_timestamps=keep_timestamps, is_paced=pace is not None
        )
    with _clock() as progress:
        running = Replay(
            feed,
            sink,
            speed=None if dry_run else pace,
            checkpoint=None if dry_run else checkpoint,
            target=target,
            progress=progress,
        )

        def stop(_number: int, _frame: object) -> None:
            if running.is_stopping:  # the second time: at once
                raise KeyboardInterrupt
            running.stop()

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop)
        done = running.run()
    print_mapping("Would send" if dry_run else f"Sent to {into}", _told(done, pace), as_json=as_json)
    if not done.is_complete:
        mend = "; it goes on with the same command" if checkpoint is not None else ""
        sys.stderr.write(f"stopped before the end; what was sent is acknowledged{mend}\n")
    return 0


def _check_ends(
    payments: Path | None,
    payments_topic: str | None,
    labels: Path | None,
    labels_topic: str | None,
    into: str | None,
    labels_into: str | None,
    *,
    dry_run: bool,
) -> None:
    """Refuse what does not say from where to where. Raises ConfigError."""
    has_labels = labels is not None or labels_topic is not None
    for is_wrong, says in (
        (
            (payments is None) == (payments_topic is None),
            "Say what is replayed: give either --payments PATH or --payments-topic TOPIC.",
        ),
        (into is None and not dry_run, "Say where payments go: give --into TOPIC, or --dry-run."),
        (
            has_labels and labels_into is None and not dry_run,
            "Say where labels go: give --labels-into TOPIC, or leave the labels out.",
        ),
        (labels_into is not None and not has_labels, "--labels-into needs --labels or --labels-topic."),
        (payments is not None and labels_topic is not None, "--labels-topic belongs to --payments-topic."),
        (payments is None and labels is not None, "--labels belongs to --payments."),
    ):
        if is_wrong:
            raise ConfigError(says)


class _Nowhere:
    """A sink for a dry run."""

    def send(self, records: Sequence[Record]) -> None:
        """Nothing is sent."""

    def poll(self) -> None:
        """Nothing comes back."""

    def flush(self) -> None:
        """Nothing is waited for."""


def _files(
    payments: Path,
    labels: Path | None,
    mapped: list[str] | None,
    since: str | None,
    until: str | None,
    loaded: Settings,
) -> Feed:
    from consumer.replay import FileFeed

    return FileFeed(
        payments,
        labels,
        columns_of(mapped),
        max_payment_bytes=loaded.processing.max_payment_bytes,
        from_ms=moment_ms(since, "--from"),
        to_ms=moment_ms(until, "--to"),
    )


def _topics(
    payments: str, labels: str | None, offsets: list[str] | None, since: str | None, until: str | None, source: Settings
) -> Feed:
    from consumer.kafka.replay import TopicFeed, ranges

    from_ms = moment_ms(since, "--from")
    to_ms = moment_ms(until, "--to")
    asked = {"topics": [payments, labels], "brokers": source.kafka.brokers, "from": since, "to": until}
    found = ranges(source.kafka, [payments] if labels is None else [payments, labels], from_ms, to_ms)
    if offsets:
        spans = dict(_span(text) for text in offsets)
        if len(spans) < len(offsets):
            raise ConfigError("--offsets names a partition twice; give one range of each.")
        held = {number: span for (topic, number), span in found.items() if topic == payments}
        for number, (start, end) in spans.items():
            if number not in held:
                raise ConfigError(f"--offsets {number}: {payments} has {len(held)} partitions, from 0 on.")
            low, high = held[number]
            if not low <= start <= end <= high:
                raise ConfigError(f"--offsets {number}:{start}-{end}: the topic has {low}-{high} of that partition.")
        found = {source: span for source, span in found.items() if source[0] != payments} | {
            (payments, number): span for number, span in spans.items()
        }
    return TopicFeed(source.kafka, found, labels, asked | {"offsets": sorted(offsets or [])})


def _span(text: str) -> tuple[int, tuple[int, int]]:
    try:
        number, span = text.split(":")
        start, end = span.split("-")
        return int(number), (int(start), int(end))
    except ValueError:
        raise ConfigError(f"--offsets {text} is not PARTITION:FROM-TO, as 0:1000-2000.") from None


def _speed(text: str) -> float | None:
    if text == "max":
        return None
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0 < speed < 1e9:
        raise ConfigError("--speed must be max, or a number above 0: 1 is the pace at which it happened.")
    return speed


def _told(done: Replayed, pace: float | None) -> dict[str, Any]:
    told = {name: value for name, value in asdict(done).items() if name not in ("first_ms", "last_ms")}
    for name, at_ms in (("first", done.first_ms), ("last", done.last_ms)):
        told[name] = None if at_ms is None else iso(at_ms)
    if pace is not None and done.first_ms is not None and done.last_ms is not None:
        told["at_this_speed_s"] = round((done.last_ms - done.first_ms) / 1_000 / pace, 1)
    return told


@contextmanager
def _clock() -> Iterator[Callable[[int, float], None]]:
    """A bar with the history's own clock, on standard error where that is a terminal."""
    from consumer.cli_output import progress_stages

    with progress_stages() as tell:
        yield lambda at_ms, share: tell(f"at {iso(at_ms)}", share)
