"""The report of a proof: a JSON document of a fixed shape, and a page that shows it."""

from __future__ import annotations

import math
import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from inspect import cleandoc
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from consumer import __version__
from consumer.prove.evidence import Evidence
from consumer.prove.latency import Latency
from consumer.prove.names import Run
from consumer.prove.plan import Asked
from consumer.prove.promises import judged
from consumer.settings import Settings, describe
from features.errors import ConfigError

SCHEMA_VERSION: Final = 1
LIBRARIES: Final = ("confluent-kafka", "xgboost", "numpy", "redis", "hiredis", "msgspec", "orjson")
PAGE: Final = "report.html"
DOCUMENT: Final = "report.json"
REPLAY: Final = "replay"
Overall = Literal["held", "broken", "unverified"]


class JudgedPromise(msgspec.Struct, frozen=True):
    """A promise of README, in its words, and what became of it."""

    id: str
    sentence: str
    how: str
    verdict: Literal["held", "broken", "not tested"]
    evidence: str
    figures: dict[str, Any]
    examples: tuple[str, ...]


class SlowestPayment(msgspec.Struct, frozen=True):
    """The payment that waited longest, and where; the parts add up. See `consumer.prove.latency.Slowest`."""

    latency_ms: float
    due_s: float
    sending_ms: float
    appending_ms: float
    deciding_ms: float
    over_p99_9_beside: int
    stage_ms: dict[str, float] | None
    events: tuple[str, ...]


class LatencyTable(msgspec.Struct, frozen=True):
    """From when each payment was due to when a `read_committed` reader saw its decision. Times are ms."""

    budget_ms: int
    payments: int
    undecided: int
    percentiles_ms: dict[str, float | None]
    max_ms: float | None
    mean_ms: float | None
    within_budget: float
    rate_asked: float
    rate_sent: float
    generator_fell_short: bool
    sent_over_5ms_late: int
    slowest: SlowestPayment | None
    by_second: tuple[tuple[int, float, float, float], ...]
    curve: tuple[tuple[float, float], ...]


class ModelFacts(msgspec.Struct, frozen=True):
    """What decided."""

    model: str
    bundle: str
    decisions: int


class Setting(msgspec.Struct, frozen=True):
    """A setting of the deployment as people may see it, and where it came from."""

    name: str
    value: str
    origin: str


class Report(msgspec.Struct, frozen=True):
    """What `fraudline prove` found. `verdict` is the worst of the promises that were tested.

    It is `unverified` where none is broken, and the decisions could not be made again by a replay. `tiers` says, by
    section of the proof, how many decisions were made in which tier.
    """

    run: str
    began: str
    seconds: float
    verdict: Overall
    delivery: Literal["exactly_once", "at_least_once"]
    promises: tuple[JudgedPromise, ...]
    latency: LatencyTable | None
    tiers: dict[str, dict[str, int]]
    certificate: dict[str, Any] | None
    asked: dict[str, float | int | bool]
    models: tuple[ModelFacts, ...]
    versions: dict[str, str]
    machine: dict[str, str | int | float]
    settings: tuple[Setting, ...]
    schema_version: int = SCHEMA_VERSION


def report(
    run: Run,
    real: Settings,
    asked: Asked,
    evidence: Evidence,
    *,
    began_s: float,
    seconds: float,
    load_before: float,
) -> Report:
    """Judge the evidence, and say what it was made on. `load_before` is the machine's load average before it began."""
    promises = tuple(
        JudgedPromise(each.id, each.sentence, each.how, v.status, v.evidence, dict(v.figures), v.examples)
        for each, v in judged(evidence)
    )
    return Report(
        run=run.run,
        began=datetime.fromtimestamp(began_s, UTC).isoformat(timespec="seconds"),
        seconds=round(seconds, 1),
        verdict=_overall(promises),
        delivery=real.processing.delivery,
        promises=promises,
        latency=None if evidence.latency is None else _table(evidence.latency),
        tiers={section: dict(tiers) for section, tiers in evidence.tiers.items()},
        certificate=evidence.certificate,
        asked={
            "rate": asked.rate,
            "seconds": asked.seconds,
            "warm_up_s": asked.warm_up_s,
            "faults": asked.faults,
            "kills": asked.kills if asked.faults else 0,
            "seed": asked.seed,
        },
        models=tuple(ModelFacts(*who, count) for who, count in evidence.models.items()),
        versions={"fraudline": __version__, "python": platform.python_version(), **{n: version(n) for n in LIBRARIES}},
        machine=machine() | {"load_before": round(load_before, 2)},
        settings=tuple(Setting(*row) for row in describe(real)),
    )


def _overall(promises: tuple[JudgedPromise, ...]) -> Overall:
    if any(each.verdict == "broken" for each in promises):
        return "broken"
    is_replayed = any(each.id == REPLAY and each.verdict == "held" for each in promises)
    return "held" if is_replayed else "unverified"


def machine() -> dict[str, str | int | float]:
    """Facts of this machine, on which generator, processors and witness ran."""
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 0,
        "memory_gib": round(pages * size / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "load_at_the_end": round(os.getloadavg()[0], 2),
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _table(told: Latency) -> LatencyTable:
    slowest = told.slowest
    return LatencyTable(
        budget_ms=told.budget_ms,
        payments=told.payments,
        undecided=told.undecided,
        percentiles_ms={name: _finite(value) for name, value in told.percentiles.items()},
        max_ms=_finite(told.max_ms),
        mean_ms=_finite(told.mean_ms),
        within_budget=told.within_budget,
        rate_asked=told.rate_asked,
        rate_sent=told.rate_sent,
        generator_fell_short=told.fell_short,
        sent_over_5ms_late=told.late_over_5ms,
        slowest=None
        if slowest is None
        else SlowestPayment(
            slowest.latency_ms,
            slowest.due_s,
            slowest.sending_ms,
            slowest.appending_ms,
            slowest.deciding_ms,
            slowest.over_p99_9_beside,
            None if slowest.stage_ms is None else dict(slowest.stage_ms),
            slowest.events,
        ),
        by_second=told.by_second,
        curve=told.curve,
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of the document."""
    (_root,), definitions = msgspec.json.schema_components([Report], ref_template="#/$defs/{name}")
    body = definitions.pop("Report")
    for described in (body, *definitions.values()):
        described["description"] = cleandoc(described["description"])  # Python 3.13 strips it, earlier ones don't
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"fraudline/prove.v{SCHEMA_VERSION}.json",
        **body,
        "$defs": definitions,
    }


def write(made: Report, folder: Path) -> list[Path]:
    """Write the document, and the page where what draws it is installed; which files there are. Raises ConfigError."""
    from consumer.prove.page import is_installed, render  # noqa: PLC0415  what draws is not installed everywhere

    written = [folder / DOCUMENT]
    try:
        written[0].write_bytes(msgspec.json.format(msgspec.json.encode(made), indent=2))
        if is_installed():
            written.append(folder / PAGE)
            written[1].write_text(render(made), "utf-8")
    except OSError as error:
        raise ConfigError(f"The report can't be written to {folder} ({error.strerror}).") from None
    return written
