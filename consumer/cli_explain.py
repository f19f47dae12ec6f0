"""`fraudline explain`: what became of one event, from which state, why, and whether a replay says the same."""

# ruff: noqa: PLC0415  heavy imports stay inside the commands, so that `fraudline --help` answers at once
from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from consumer.cli_options import (
    EXIT_OF,
    AsJson,
    CatalogName,
    ConfigFile,
    cores,
    moment_ms,
    refuse_no_text,
    refuse_no_token,
)
from consumer.cli_output import duration_ms, progress_bar, progress_stages
from features.errors import ConfigError

if TYPE_CHECKING:
    from consumer.certificate.certify import Asked
    from consumer.dossier import Dossier, Only, Sources, Standing
    from consumer.dossier_check import Checks
    from consumer.settings import Settings
    from consumer.streams import Stream

EXIT_WITHOUT_DECISION: Final = 1
ROLES: Final = ("decisions", "payments", "labels", "journal", "alerts", "dead_letters")
_Place = Annotated[str | None, typer.Option(metavar="TOPIC|FILE", help="Instead of the settings' topic.")]


def explain(
    event_id: Annotated[str, typer.Argument(metavar="EVENT_ID", help="The payment's event_id.")],
    *,
    card: Annotated[
        str | None, typer.Option(metavar="TOKEN", help="Its card_id: only the card's partition is searched.")
    ] = None,
    around: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="When it came (ISO 8601): only records of about then are searched."),
    ] = None,
    within: Annotated[str, typer.Option(metavar="TIME", help="How far from --around: 90m, 12h, 30d.")] = "1h",
    decisions: Annotated[
        str | None,
        typer.Option(metavar="TOPIC|FILE", help="Instead of the settings' topics: of these all that is given counts."),
    ] = None,
    payments: _Place = None,
    labels: _Place = None,
    journal: _Place = None,
    alerts: _Place = None,
    dead_letters: _Place = None,
    bundles: Annotated[
        list[Path] | None,
        typer.Option("--bundle", metavar="BUNDLE", help="A bundle that may have decided; repeatable."),
    ] = None,
    registry: Annotated[
        str | None, typer.Option(metavar="URL", help="Take it from a registry, by its digest (default: the settings').")
    ] = None,
    no_check: Annotated[
        bool, typer.Option("--no-check", help="Don't make the decision again: that reads the whole history.")
    ] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads (default: one a core).")] = None,
    memory_mb: Annotated[int, typer.Option(min=64, help="For what waits; what is more waits in files.")] = 1_024,
    catalog: CatalogName = "default",
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> int:
    """Say what was decided about an event, from which state and why; make it again, and compare.

    Exit status 0: a replay says the same; 3: something else; 4: that can't be verified; 1: there is no decision.
    """
    from consumer import logs, settings
    from consumer.decode import Decoder
    from consumer.dossier import Sources, find
    from consumer.explain_view import document, show

    logs.configure_command()
    loaded = settings.load(config)
    around_ms, within_ms = moment_ms(around, "--around"), duration_ms(within, "--within")
    places = _places(
        loaded, dict(zip(ROLES, (decisions, payments, labels, journal, alerts, dead_letters), strict=True))
    )
    decoder = Decoder(
        max_payment_bytes=loaded.processing.max_payment_bytes, max_future_ms=loaded.processing.max_future_ms
    )
    refuse_no_text(event_id, "EVENT_ID")
    refuse_no_token(card, "--card")
    with ExitStack() as stack:
        streams = {role: _opened(stack, places[role], loaded, role) for role in ROLES}
        of_decisions, of_payments = streams.pop("decisions"), streams.pop("payments")
        assert of_decisions is not None and of_payments is not None  # noqa: S101, PT018  `_places` saw to it
        sources = Sources(of_decisions, of_payments, **streams)

        def only(stream: Stream) -> Only | None:
            return None if around_ms is None else _then(stream, loaded, around_ms - within_ms, around_ms + within_ms)

        committed = _committed(of_payments, loaded)  # first: what is decided while we search is not lost
        with progress_bar("records", _size(sources)) as seen:
            found = find(event_id, sources, decoder, card=card, only=only, seen=seen)
        standing = None if found.decisions else _standing(found, sources, committed)
        checks = None
        if found.decisions and not no_check:
            asked = _asked(sources, loaded, bundles, registry, threads or cores(), memory_mb)
            checks = _checked(found, asked, catalog, sources.dead_letters)
    told = document(found, standing, checks)
    show(told, as_json=as_json)
    if standing is not None:
        return EXIT_WITHOUT_DECISION
    return 0 if checks is None else EXIT_OF[checks.verdict]


def _places(loaded: Settings, given: dict[str, str | None]) -> dict[str, str | None]:
    """Where each role's records are: the settings' topics, or only what was given. Raises ConfigError."""
    if not any(given.values()):
        return {role: getattr(loaded.topics, role) for role in ROLES}
    if missing := [role for role in ("decisions", "payments") if given[role] is None]:
        raise ConfigError(f"Also give --{missing[0]}: where some are not the settings' topics, none are.")
    return given


def _opened(stack: ExitStack, place: str | None, loaded: Settings, role: str) -> Stream | None:
    from consumer.streams import open_stream

    if place is None:
        return None
    stream = open_stream(place, loaded.kafka, getattr(loaded.topics, role))
    stack.callback(stream.close)
    return stream


def _then(stream: Stream, loaded: Settings, from_ms: int, to_ms: int) -> Only | None:
    from consumer.kafka.replay import ranges
    from consumer.streams import TopicStream

    if not isinstance(stream, TopicStream):
        return None
    known = ranges(loaded.kafka, [stream.topic], from_ms, to_ms)
    return {number: offsets for (_, number), offsets in known.items()}


def _size(sources: Sources) -> int:
    return sources.decisions.size() + (0 if sources.dead_letters is None else sources.dead_letters.size())


def _committed(payments: Stream, loaded: Settings) -> dict[int, int | None]:
    """Up to where the group has decided; empty where the payments are no topic."""
    from contextlib import closing

    from consumer.kafka.logreader import LogReader
    from consumer.streams import TopicStream

    if not isinstance(payments, TopicStream):
        return {}
    with closing(LogReader(loaded.kafka, payments.topic)) as log:
        return {number: extent.committed for (_, number), extent in log.extents().items()}


def _standing(found: Dossier, sources: Sources, committed: dict[int, int | None]) -> Standing:
    from consumer.dossier import standing
    from consumer.streams import TopicStream

    gone = sources.decisions.gone() if isinstance(sources.decisions, TopicStream) else {}
    return standing(found, committed, list(gone.values()))


def _asked(
    sources: Sources,
    loaded: Settings,
    bundles: list[Path] | None,
    registry: str | None,
    threads: int,
    memory_mb: int,
) -> Asked:
    from consumer.certificate.certify import Asked
    from consumer.trust import trust_of

    if not bundles and registry is None:
        registry = loaded.model.registry
        bundles = [] if registry else [loaded.model.bundle]
    return Asked(
        decisions=sources.decisions,
        payments=sources.payments,
        labels=sources.labels,
        journal=sources.journal,
        alerts=sources.alerts,
        bundles=tuple(bundles or ()),
        registry=registry,
        shards=loaded.store.shards,
        max_payment_bytes=loaded.processing.max_payment_bytes,
        max_future_ms=loaded.processing.max_future_ms,
        memory_mb=memory_mb,
        threads=threads,
        trust=trust_of(loaded.model),
    )


def _checked(found: Dossier, asked: Asked, catalog: str, dead_letters: Stream | None) -> Checks:
    from consumer.dossier_check import check
    from features.profiles import load_catalog

    with progress_stages() as progress:
        return check(found, asked, load_catalog(catalog), progress, dead_letters)
