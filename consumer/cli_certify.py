"""`fraudline certify`: whether what was published is what a replay says."""

# ruff: noqa: PLC0415  heavy imports stay inside the commands, so that `fraudline --help` answers at once
from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from consumer.cli_options import EXIT_OF, AsJson, CatalogName, ConfigFile, cores, moment_ms
from consumer.cli_output import print_json, print_mapping, print_table, progress_stages
from features.errors import ConfigError

if TYPE_CHECKING:
    from consumer.certificate.outcome import Certificate

SHOWN: Final = (
    "decisions", "equal", "different", "unverifiable", "differences", "why_unverifiable", "published_again",
    "scores_inside_band", "flipped_inside_band", "payments_without_decision", "alerts_of_payments_not_read",
    "refused_as_told",
)  # fmt: skip


def certify(
    *,
    decisions: Annotated[
        str, typer.Option(metavar="TOPIC|FILE", help="What was decided: a topic, or a dump of one that ends in .jsonl.")
    ],
    payments: Annotated[str, typer.Option(metavar="TOPIC|FILE", help="What it was about, from the beginning.")],
    labels: Annotated[
        str | None, typer.Option(metavar="TOPIC|FILE", help="The labels, if the processor reads any.")
    ] = None,
    journal: Annotated[
        str | None,
        typer.Option(metavar="TOPIC|FILE", help="The order of everything; needed but for one partition and no labels."),
    ] = None,
    alerts: Annotated[
        str | None, typer.Option(metavar="TOPIC|FILE", help="Also compare the alerts, their reasons included.")
    ] = None,
    dead_letters: Annotated[
        str | None,
        typer.Option(metavar="TOPIC|FILE", help="Take what was refused from here, not from today's limits."),
    ] = None,
    bundles: Annotated[
        list[Path] | None, typer.Option("--bundle", metavar="BUNDLE", help="A bundle that decided; repeatable.")
    ] = None,
    registry: Annotated[
        str | None, typer.Option(metavar="URL", help="Take bundles from a registry, by their digests.")
    ] = None,
    since: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="Certify payments of this event time on (ISO 8601).")
    ] = None,
    until: Annotated[
        str | None, typer.Option("--to", metavar="TIME", help="Certify payments before this event time.")
    ] = None,
    tolerance: Annotated[
        float,
        typer.Option(min=0.0, max=1e-3, help="Of scores; 0 is to the bit, or 1e-5 for what a GPU scored."),
    ] = 0.0,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the certificate here, as JSON.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads (default: one a core).")] = None,
    memory_mb: Annotated[int, typer.Option(min=16, help="For what waits; what is more waits in files.")] = 1_024,
    catalog: CatalogName = "default",
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> int:
    """Replay decisions in the order in which they were made, and compare them with what was published.

    Exit status 0: all are equal; 3: some differ; 4: none differs, and some can't be verified; 1 and 2: no certificate.
    Without a journal the order is that of the offsets.
    """
    from consumer import logs, settings
    from consumer.certificate.certify import Asked, Certification
    from consumer.certificate.refused import Refused, read_refused
    from consumer.streams import Stream, open_stream
    from consumer.trust import trust_of
    from features.history.files import check_output
    from features.profiles import load_catalog

    logs.configure_command()
    if not bundles and registry is None:
        raise ConfigError("Say what decided: give --bundle BUNDLE, or --registry URL.")
    from_ms, to_ms = moment_ms(since, "--from"), moment_ms(until, "--to")
    if from_ms is not None and to_ms is not None and from_ms >= to_ms:
        raise ConfigError("--from must be earlier than --to.")
    if out is not None:
        if not out.absolute().parent.is_dir():
            raise ConfigError(f"The folder of {out} does not exist; make it first.")
        given = (decisions, payments, labels, journal, alerts, dead_letters)
        check_output(out, *(Path(each) for each in given if each is not None))
    loaded = settings.load(config)
    topics = loaded.topics
    with ExitStack() as stack:

        def stream(text: str | None, topic: str | None) -> Stream | None:
            if text is None:
                return None
            made = open_stream(text, loaded.kafka, topic)
            stack.callback(made.close)
            return made

        of_decisions, of_payments = stream(decisions, topics.decisions), stream(payments, topics.payments)
        assert of_decisions is not None and of_payments is not None  # noqa: S101, PT018  both are required
        of_labels, letters = stream(labels, topics.labels), stream(dead_letters, topics.dead_letters)
        progress = stack.enter_context(progress_stages())
        asked = Asked(
            decisions=of_decisions,
            payments=of_payments,
            labels=of_labels,
            journal=stream(journal, topics.journal),
            alerts=stream(alerts, topics.alerts),
            refused=Refused() if letters is None else read_refused(letters),
            bundles=tuple(bundles or ()),
            registry=registry,
            shards=loaded.store.shards,
            max_payment_bytes=loaded.processing.max_payment_bytes,
            max_future_ms=loaded.processing.max_future_ms,
            from_ms=from_ms,
            to_ms=to_ms,
            tolerance=tolerance,
            memory_mb=memory_mb,
            threads=threads or cores(),
            trust=trust_of(loaded.model),
        )
        found = Certification(asked, load_catalog(catalog), progress).run()
    document = found.document()
    if as_json:
        print_json(document)
    else:
        _show(found, document)
    if out is not None:
        _write(out, document)
    return EXIT_OF[found.verdict]


def _write(out: Path, document: dict[str, Any]) -> None:
    try:
        with out.open("w", encoding="utf-8") as file:
            print_json(document, file)
    except OSError as error:
        raise ConfigError(f"The certificate can't be written to {out} ({error.strerror}).") from None


def _show(found: Certificate, document: dict[str, Any]) -> None:
    rows = [
        (each["topic"], each["partition"], each["decisions"], each["published"][:16], each["replayed"][:16])
        for each in document["partitions"]
    ]
    print_table("Digests", ("topic", "partition", "decisions", "published", "replayed"), rows, as_json=False)
    if found.examples:
        rows = [
            (each["partition"], each["offset"], each["event_id"], each["what"], *(_side(each[one]) for one in _SIDES))
            for each in found.examples
        ]
        print_table("What differs, first", ("partition", "offset", "event", "what", *_SIDES), rows, as_json=False)
    told = {name: _plainly(document[name]) for name in SHOWN}
    print_mapping(f"The verdict: {found.verdict}", told, as_json=False)


_SIDES: Final = ("published", "replayed")
_BARS: Final = ("review_threshold", "block_threshold")


def _side(told: Any) -> str:
    """A decision in few words."""
    if not isinstance(told, dict):
        return told or "nothing"
    rules, shadow = told["rules"]
    fired = f" by {', '.join(rules)}" if rules else ""
    silent = f" (shadow: {', '.join(shadow)})" if shadow else ""
    score = "without a score" if told["score"] is None else f"{told['score']:.6f}"
    bars = ", ".join(f"{name} {told[name]:.4g}" for name in _BARS if told.get(name) is not None)
    return f"{told['decision']} {score}{fired}{silent}" + (f"; {bars}" if bars else "")


def _plainly(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return ", ".join(f"{name} {count}" for name, count in value.items() if count) or "none"
