"""`fraudline score`: decide a stream of lines, a history in files, or a topic."""

# ruff: noqa: PLC0415  heavy imports stay inside the commands, so that `fraudline --help` answers at once
from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from consumer.cli_features import Engine
from consumer.cli_options import AsJson, CatalogName, ConfigFile, Mapped, columns_of, cores, moment_ms
from consumer.cli_output import print_mapping, progress_stages
from features.errors import ConfigError

if TYPE_CHECKING:
    from consumer.score_files import Asked, Summary, Work
    from consumer.settings import Settings
    from features.history.job import Progress

MEMORY_MB: Final = 1_024
FORMAT_SUFFIXES: Final = {"parquet": ".parquet", "csv": ".csv", "jsonl": ".jsonl"}


def score(
    *,
    bundle: Annotated[Path, typer.Option(metavar="BUNDLE", help="The model bundle.")],
    payments: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Decide these instead: Parquet, CSV or JSON lines in log order."),
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Labels, known from their labelled_at on.")
    ] = None,
    payments_topic: Annotated[str | None, typer.Option(metavar="TOPIC", help="Or the records of a topic.")] = None,
    labels_topic: Annotated[str | None, typer.Option(metavar="TOPIC", help="With --payments-topic.")] = None,
    since: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="Of --payments-topic: from this Kafka timestamp on.")
    ] = None,
    until: Annotated[str | None, typer.Option("--to", metavar="TIME", help="Likewise, until before this time.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where decisions go, .parquet, .csv or .jsonl; with Spark a folder."),
    ] = None,
    into: Annotated[str | None, typer.Option(metavar="TOPIC", help="Or the topic that they go to.")] = None,
    work: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Keep here what is done; a run that was stopped goes on from it."),
    ] = None,
    mapped: Mapped = None,
    rejects: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Where rows that are no record go, with the reason.",
        ),
    ] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave such rows out, and go on.")] = False,
    engine: Annotated[Engine, typer.Option(help="Work here, or on Spark.")] = Engine.LOCAL,
    spark_master: Annotated[str | None, typer.Option(metavar="URL", help="Spark's master, if it is not set.")] = None,
    spark_format: Annotated[str, typer.Option(metavar="NAME", help="With Spark: parquet, csv or jsonl.")] = "parquet",
    threads: Annotated[int | None, typer.Option(min=1, max=256, help="CPU threads (default: one a core).")] = None,
    memory_mb: Annotated[
        int | None, typer.Option(min=16, help="Memory for features (default: 1,024); the rest waits in files.")
    ] = None,
    as_of: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Of lines alone: payments after this time are future-dated."),
    ] = None,
    catalog: CatalogName = "default",
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> int:
    """Decide a whole history, from files or a topic, on all cores or on Spark; or lines as they come.

    Without --payments and --payments-topic: payments from standard input, one decision a line to standard output, from
    an empty state; no Kafka, no Redis.
    """
    if payments is None and payments_topic is None:
        needs = {
            "--out": out, "--into": into, "--labels-topic": labels_topic, "--from": since, "--to": until,
            "--work": work, "--map": mapped, "--skip-bad": skip_bad or None,
            "--engine": None if engine is Engine.LOCAL else engine, "--spark-master": spark_master,
            "--threads": threads, "--memory-mb": memory_mb, "--config": config, "--json": as_json or None,
        }  # fmt: skip
        if given := [name for name, value in needs.items() if value is not None]:
            raise ConfigError(f"Say what is decided: {given[0]} needs --payments or --payments-topic.")
        return _lines(bundle, labels, rejects, as_of, catalog)
    if as_of is not None:
        raise ConfigError("--as-of is for lines from standard input.")
    if engine is Engine.LOCAL and (spark_master is not None or spark_format != "parquet"):
        raise ConfigError("--spark-master and --spark-format need --engine spark.")
    _check(payments, payments_topic, labels, labels_topic, out, into, since, until, engine, work)
    from consumer import logs, settings

    logs.configure_command()
    task = _Task(
        bundle=bundle, payments=payments, labels=labels, payments_topic=payments_topic, labels_topic=labels_topic,
        since=since, until=until, out=out, into=into, work=work, mapped=mapped, rejects=rejects, skip_bad=skip_bad,
        threads=threads or cores(), memory_mb=memory_mb or MEMORY_MB, catalog=catalog, settings=settings.load(config),
    )  # fmt: skip
    with progress_stages() as progress:
        if engine is Engine.SPARK:
            if spark_format not in FORMAT_SUFFIXES:
                raise ConfigError(f"--spark-format {spark_format} is none of {', '.join(FORMAT_SUFFIXES)}.")
            summary = task.on_spark(spark_master, FORMAT_SUFFIXES[spark_format], progress)
        else:
            summary = task.here(progress)
    told = {name: value for name, value in asdict(summary).items() if value is not None}
    print_mapping(f"Scored {payments or payments_topic}", told, as_json=as_json)
    return 0


def _lines(bundle: Path, labels: Path | None, rejects: Path | None, as_of: str | None, catalog: str) -> int:
    as_of_ms = moment_ms(as_of, "--as-of")
    try:
        rejects_to = nullcontext(None) if rejects is None else rejects.open("wb")
    except OSError as error:
        raise ConfigError(f"Rejected lines can't be written to {rejects} ({error.strerror}).") from None
    from consumer import logs
    from consumer.edge import score_stream
    from consumer.trust import configured
    from features.profiles import load_catalog

    logs.configure_command()
    with rejects_to as rejected:
        return score_stream(
            bundle=bundle,
            payments=sys.stdin.buffer,
            decisions=sys.stdout.buffer,
            rejects=rejected,
            labels=labels,
            as_of_ms=as_of_ms,
            catalog=load_catalog(catalog),
            trust=configured(),
        )


def _check(
    payments: Path | None,
    payments_topic: str | None,
    labels: Path | None,
    labels_topic: str | None,
    out: Path | None,
    into: str | None,
    since: str | None,
    until: str | None,
    engine: Engine,
    work: Path | None,
) -> None:
    """Refuse what does not say from where to where. Raises ConfigError."""
    of_topic = payments_topic is not None
    for is_wrong, says in (
        (of_topic and payments is not None, "Give either --payments or --payments-topic."),
        ((out is None) == (into is None), "Say where decisions go: give either --out FILE or --into TOPIC."),
        (labels_topic is not None and not of_topic, "--labels-topic belongs to --payments-topic."),
        (labels is not None and of_topic, "--labels belongs to --payments."),
        ((since or until) is not None and not of_topic, "--from and --to belong to --payments-topic."),
        (engine is Engine.SPARK and (of_topic or into is not None), "Spark reads and writes files only."),
        (engine is Engine.SPARK and work is not None, "--work is for one machine; Spark tries tasks again by itself."),
    ):
        if is_wrong:
            raise ConfigError(says)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    """A history to decide, as it was asked for."""

    bundle: Path
    payments: Path | None
    labels: Path | None
    payments_topic: str | None
    labels_topic: str | None
    since: str | None
    until: str | None
    out: Path | None
    into: str | None
    work: Path | None
    mapped: list[str] | None
    rejects: Path | None
    skip_bad: bool
    threads: int
    memory_mb: int
    catalog: str
    settings: Settings

    def on_spark(self, master: str | None, suffix: str, progress: Progress) -> Summary:
        from consumer.score_spark import score_spark
        from features.profiles import load_catalog

        assert self.payments is not None and self.out is not None  # noqa: S101, PT018  it was checked
        asked = self._asked(self.payments, self.labels, self.out)
        return score_spark(asked, load_catalog(self.catalog), suffix, master, progress)

    def here(self, progress: Progress) -> Summary:
        from consumer.score_files import score_files
        from features.profiles import load_catalog

        whole = load_catalog(self.catalog)
        with self._input(progress) as (payments, labels, work, refused):
            out = self.out or (work or Path(tempfile.gettempdir())) / "decisions.jsonl"
            asked = replace(self._asked(payments, labels, out), work=work)
            if self.into is None:
                return score_files(asked, whole, progress).with_refused(refused)
            asked = replace(asked, into=f"{self.settings.kafka.brokers}/{self.into}")
            from consumer.kafka.replay import TopicSink
            from consumer.score_topic import sent

            sink = TopicSink(self.settings.kafka, self.into, None, keep_timestamps=False, is_paced=False)

            def send(parts: list[Path], kept: Work) -> int:
                return sent(parts, kept, sink, progress)

            return score_files(asked, whole, progress, then=send).with_refused(refused)

    @contextmanager
    def _input(self, progress: Progress) -> Iterator[tuple[Path, Path | None, Path | None, dict[str, int]]]:
        """Files of payments and labels, where the work on them is kept, and what was refused on the way."""
        if self.payments is not None:
            yield self.payments, self.labels, self.work, {}
            return
        from consumer.kafka.replay import TopicFeed, ranges
        from consumer.score_files import Work
        from consumer.score_topic import Limits, spooled

        kafka, topics = self.settings.kafka, [str(self.payments_topic)]
        topics += [] if self.labels_topic is None else [self.labels_topic]
        from_ms = moment_ms(self.since, "--from")
        to_ms = moment_ms(self.until, "--to")
        about = {"brokers": kafka.brokers, "topics": topics, "from_ms": from_ms, "to_ms": to_ms}
        with ExitStack() as stack:
            place = self.work
            if place is None:
                place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fraudline-score-"))) / "work"
            work = Work(place, about)
            stack.callback(work.release)
            feed = TopicFeed(kafka, ranges(kafka, topics, from_ms, to_ms), self.labels_topic)
            limits = Limits(self.settings.processing.max_payment_bytes, self.settings.processing.max_future_ms)
            has_labels = self.labels_topic is not None
            payments, labels, refused = spooled(feed, work, limits, has_labels=has_labels, progress=progress)
            yield payments, labels, None if self.work is None else place / "decided", refused
            work.clear()

    def _asked(self, payments: Path, labels: Path | None, out: Path) -> Asked:
        from consumer.score_files import Asked
        from consumer.trust import trust_of

        return Asked(
            self.bundle,
            payments,
            labels,
            out,
            threads=self.threads,
            memory_mb=self.memory_mb,
            skip_bad=self.skip_bad,
            rejects=self.rejects,
            mapped=columns_of(self.mapped),
            trust=trust_of(self.settings.model),
        )
