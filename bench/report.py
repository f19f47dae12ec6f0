"""Renders `results.json` as `RESULTS.md`: every run, the baseline beside it, and each target with a plain verdict."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any, Final

from bench.cause import MEANING
from bench.peers.report import peers
from bench.report_features import features, memory
from bench.report_growth import growth
from bench.report_history import history
from bench.report_limits import limits
from bench.report_models import models
from bench.report_quality import quality
from bench.report_soak import soak
from bench.tables import number, spread, table, verdict

Results = dict[str, Any]

CLIENT_TARGET_US: Final = 35.0
CLIENT_TARGET_BATCH: Final = "128"
CLIENT_STAGES: Final = ("decode", "enrich", "score", "decide", "explain")
STAGES: Final = (*CLIENT_STAGES, "encode")
EPS_TARGET: Final = 15.0
CPU_TARGET: Final = 25.0
P99_TARGETS_MS: Final = {1_000: 50.0, 2_000: 75.0}
P99_9_TARGET_MS: Final = 100.0
WITHIN_TARGET: Final = 0.999
QUIET_PERCENT: Final = 25.0
PROCESSES: Final = ("kafka", "redis", "worker", "loadgen", "reader", "other", "stolen")
PERCENTILES: Final = ("p50_ms", "p90_ms", "p99_ms", "p99_9_ms", "max_ms")
KINDS: Final = {
    "naive": "baseline",
    "exactly_once": "Fraudline, exactly_once",
    "at_least_once": "Fraudline, at_least_once",
}
_HOW_TO_READ: Final = (
    "Latency counts from when a payment was due on the schedule, for every payment of the window. `within 200 ms` is a "
    "share of all payments sent; a missing decision counts against it. CPU is percent of one core over the window; "
    "`other` is what else the machine did, `stolen` what its host took away."
)


def render(results: Results) -> str:
    """The whole report, as Markdown."""
    lines = [
        "# Results",
        "",
        "Rendered from `results.json` by `bench/report.py`; how to run and read the benches: [README.md](README.md).",
        "Targets are those of the project; a verdict is about the run shown and its machine.",
    ]
    for name, section in (("stages", _stages), ("saturation", _saturation), ("latency", _latency)):
        if name in results:
            lines += ["", *section(results[name])]
    for name, title, body in (
        ("features", "Features: what enrichment costs, and features offline", features),
        ("memory", "Memory: what entities take in Redis, and what coarse windows are off", memory),
        ("models", "Models: scoring, policy, reasons, and a promotion under load", models),
        ("history", "Asking a history: backtest and replay", history),
        ("growth", "Growth: what more of everything costs", growth),
    ):
        if name in results:
            lines += ["", f"## {title}", "", *_about(results[name]), *body(results[name])]
    if "limits" in results:
        title = "Limits: how close each stage is to its own floor"
        found, before = results["limits"], results.get("limits_before")
        lines += ["", f"## {title}", "", *_about(found), *limits(found, before)]
    if "peers" in results:
        lines += ["", "## Peers: other stream processors at the same work", "", *peers(results["peers"])]
    if "soak" in results:
        lines += ["", "## Soak: what grows over time", "", *_about(results["soak"]), *soak(results["soak"])]
    if "quality" in results:
        lines += ["", "## Quality: how well training finds fraud", "", *quality(results["quality"])]
    return "\n".join(lines) + "\n"


def _about(section: Results) -> list[str]:
    machine, prepared = section["machine"], section["prepared"]
    ours, theirs = prepared["model"], prepared["naive_model"]
    versions = ", ".join(
        f"{name} {version}" for name, version in machine.items() if name not in {"cpu", "cores", "memory_gib", "kernel"}
    )
    return [
        f"    {section['command']}",
        "",
        f"{section['date']}, commit {section['commit']}, {section['took_s']:.0f} s; load average before it "
        f"{section['load_before']}. {machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, "
        f"{machine['kernel']}; {versions}.",
        f"Fraudline's model has {prepared['features']} features, {ours['trees']} trees and {ours['leaves']:,} leaves; "
        f"the baseline's {prepared['naive_features']} features, {theirs['trees']} trees and {theirs['leaves']:,} "
        f"leaves. Entity logs are primed with {prepared['primed_payments']:,} payments.",
        "",
    ]


def _sum(stages: dict[str, float]) -> float:
    return sum(stages[stage] for stage in CLIENT_STAGES)


def _stages(section: Results) -> list[str]:
    sizes, naive = section["sizes"], section["naive"]
    at = sizes.get(CLIENT_TARGET_BATCH)
    totals = None if at is None else [_sum(each) for each in at["cpu_us"]]
    walls = None if at is None else [_sum(each) for each in at["wall_us"]]
    lines = ["## What a payment costs on the client, by stage", "", *_about(section)]
    lines += [
        verdict(
            "CPU of decode, enrich, score and decide (reasons of alerts included) at batch 128, median",
            None if totals is None else median(totals),
            CLIENT_TARGET_US,
            unit=" us a payment",
            at_most=True,
        )
    ]
    if walls:
        lines += [f"- The same in wall time, which includes waiting for Redis: {number(median(walls))} us."]
    cpu_us, wall_us = number(median(naive["cpu_us"])), number(median(naive["wall_us"]))
    lines += [
        f"- The baseline, one payment at a time (decode, counters, score): {cpu_us} us of CPU (all rounds: "
        f"{_all(naive['cpu_us'])}), {wall_us} us of wall time, and {number(naive['redis_us'])} us of Redis.",
        "",
        "Microseconds a payment, median of the rounds; `sum` is without `encode`; `explain`, the reasons of alerts, "
        "is a part of deciding.",
        "",
    ]
    head = ("batch", "clock", *STAGES, "sum", "sum min", "sum max", "Redis CPU", "alerts")
    lines += table(head, (row for size, entry in sizes.items() for row in _stage_rows(size, entry)))
    lines += ["", "Every round, CPU, without `encode`:", ""]
    lines += [f"- batch {size}: {_all([_sum(each) for each in entry['cpu_us']])}" for size, entry in sizes.items()]
    return lines


def _stage_rows(size: str, entry: Results) -> Iterable[list[str]]:
    for clock, key in (("CPU", "cpu_us"), ("wall", "wall_us")):
        rounds = entry[key]
        low, middle, high = spread([_sum(each) for each in rounds])
        rest = [number(entry["redis_us"]), f"{entry['alerts'] / entry['payments']:.1%}"] if clock == "CPU" else ["", ""]
        medians = [number(median(each[stage] for each in rounds)) for stage in STAGES]
        yield [size, clock, *medians, middle, low, high, *rest]


def _all(values: Iterable[float]) -> str:
    return ", ".join(number(value) for value in values)


def _saturation(section: Results) -> list[str]:
    runs, ratios = section["runs"], section["ratios"]
    lines = ["## Saturation: payments a second of a process that is alone with a full topic", "", *_about(section)]
    for kind, found in ratios.items():
        for what, target, text in (
            ("eps", EPS_TARGET, "payments a second"),
            ("eps_per_cpu_s", CPU_TARGET, "payments a CPU-second of the worker"),
        ):
            low, _, high = spread(found[what])
            aim = verdict(
                f"{KINDS[kind]}, {text} over the baseline's, median of the rounds",
                median(found[what]),
                target,
                unit=" times",
                at_most=False,
            )
            lines.append(f"{aim} Smallest {low}, largest {high}.")
    every = [run for found in runs.values() for run in found]
    if worst := max(_degraded(run.get("tiers", {})) for run in every):
        lines.append(f"- In a run {worst:.1%} of the payments were decided without the full tier: not comparable.")
    lines += ["", "Over the rounds:", ""]
    head = ("", "payments/s min", "median", "max", "a CPU-second min", "median", "max", "CPU us a payment", "batch")
    lines += table(head, (_saturation_row(kind, found) for kind, found in runs.items()))
    lines += ["", "Every run:", ""]
    lines += table(
        ("round", "", "payments", "wall s", "CPU s", "payments/s", "a CPU-second", "batch", "alerts", "tiers"),
        (_run_row(at, kind, found[at]) for at in range(section["rounds"]) for kind, found in runs.items()),
    )
    lines += ["", "Where Fraudline's wall time goes, share by stage, median of the rounds:", ""]
    ours = {kind: found for kind, found in runs.items() if kind != "naive"}
    stages = ("decode", "enrich", "score", "decide", "publish", "commit")
    lines += table(
        ("", *stages),
        (
            [
                KINDS[kind],
                *(f"{median(run['stage_s'][stage] / run['wall_s'] for run in found):.0%}" for stage in stages),
            ]
            for kind, found in ours.items()
        ),
    )
    return lines


def _saturation_row(kind: str, found: Sequence[Results]) -> list[str]:
    cost = number(median(run["cpu_us_per_event"] for run in found))
    rates = [*spread([run["eps"] for run in found]), *spread([run["eps_per_cpu_s"] for run in found])]
    return [KINDS[kind], *rates, cost, number(median(run.get("mean_batch", 1.0) for run in found))]


def _run_row(at: int, kind: str, run: Results) -> list[str]:
    numbers = [run["events"], run["wall_s"], run["cpu_s"], run["eps"], run["eps_per_cpu_s"], run.get("mean_batch", 1)]
    return [str(at + 1), KINDS[kind], *map(number, numbers), str(run["alerts"]), _tiers(run.get("tiers", {}))]


def _tiers(tiers: dict[str, int]) -> str:
    return ", ".join(f"{tier} {count:,}" for tier, count in tiers.items()) or "-"


def _latency(section: Results) -> list[str]:
    cells = section["cells"]
    lines = ["## Open loop: from when a payment was due to a read_committed reader", "", *_about(section)]
    by = {(cell["kind"], cell["rate"]): cell for cell in cells}
    for rate, target_ms in P99_TARGETS_MS.items():
        found = by.get(("exactly_once", rate))
        latency = found["latency"] if found else {}
        lines += [
            _at_most(rate, "p99", latency.get("p99_ms"), target_ms),
            _at_most(rate, "p99.9", latency.get("p99_9_ms"), P99_9_TARGET_MS),
            _share_verdict(rate, latency.get("within_200ms")),
        ]
    lines += ["", _HOW_TO_READ, f"{section['seconds']} s a cell, after {section['warm_up_s']} s of warm-up.", ""]
    head = ("", "rate", "p50 ms", "p90", "p99", "p99.9", "max", "within 200 ms", "sent", "missing", "duplicates")
    lines += table(head, map(_latency_row, cells))
    lines += ["", "What ran meanwhile:", ""]
    processes = (f"{name} %" for name in PROCESSES)
    lines += table(("", "rate", *processes, "batch", "generator's largest delay ms", "tiers"), map(_load_row, cells))
    loud = [cell for cell in cells if _foreign_percent(cell) >= QUIET_PERCENT]
    fell = [cell for cell in cells if cell["loadgen"]["fell_short"] or cell["loadgen"]["undelivered"]]
    poor = [cell for cell in cells if _degraded(cell["tiers"])]
    warnings = [*map(_fell_short, fell), *map(_not_quiet, loud), *map(_degraded_line, poor)]
    lines += ["", *warnings, *([""] if warnings else []), "The slowest payment of each cell:", ""]
    return [*lines, *(_slowest_line(cell) for cell in cells)]


def _at_most(rate: int, what: str, found_ms: float | None, target_ms: float) -> str:
    return verdict(f"exactly_once at {rate:,}/s, {what}", found_ms, target_ms, unit=" ms", at_most=True)


def _share_verdict(rate: int, within: float | None) -> str:
    aim = f"- exactly_once at {rate:,}/s, within 200 ms: at least 99.9 %."
    if within is None:
        return f"{aim} **Not measured.**"
    return f"{aim} Measured {within:.4%}: **{'met' if within >= WITHIN_TARGET else 'not met'}.**"


def _latency_row(cell: Results) -> list[str]:
    latency = cell["latency"]
    counts = [f"{latency[name]:,}" for name in ("count", "missing", "duplicates")]
    percentiles = [number(latency[name]) for name in PERCENTILES]
    return [KINDS[cell["kind"]], f"{cell['rate']:,}", *percentiles, f"{latency['within_200ms']:.3%}", *counts]


def _load_row(cell: Results) -> list[str]:
    cpu = [f"{cell['cpu_percent'].get(name, 0.0):.0f}" for name in PROCESSES]
    late, batch = number(cell["loadgen"]["max_late_ms"]), number(cell["mean_batch"])
    return [KINDS[cell["kind"]], f"{cell['rate']:,}", *cpu, batch, late, _tiers(cell["tiers"])]


def _fell_short(cell: Results) -> str:
    load = cell["loadgen"]
    achieved, undelivered = number(load["rate_achieved"]), f"{load['undelivered']:,}"
    return (
        f"- The load generator fell short at {cell['rate']:,}/s ({KINDS[cell['kind']]}): {achieved}/s achieved, "
        f"{undelivered} not delivered."
    )


def _degraded(tiers: dict[str, int]) -> float:
    """Share of payments that were decided by less than the full tier."""
    return 1 - tiers.get("full", 0) / sum(tiers.values()) if tiers else 0.0


def _degraded_line(cell: Results) -> str:
    return (
        f"- At {cell['rate']:,}/s ({KINDS[cell['kind']]}) {_degraded(cell['tiers']):.1%} of the payments were decided "
        "without the full tier: the store did not answer in its share of the budget. This row is not comparable."
    )


def _foreign_percent(cell: Results) -> float:
    """Percent of a core that was not this bench's to use."""
    return float(cell["cpu_percent"].get("other", 0.0) + cell["cpu_percent"].get("stolen", 0.0))


def _not_quiet(cell: Results) -> str:
    return (
        f"- The machine was not quiet at {cell['rate']:,}/s ({KINDS[cell['kind']]}): {_foreign_percent(cell):.0f} % of "
        "a core went elsewhere; this row is worse than it should be."
    )


def _slowest_line(cell: Results) -> str:
    latency, slow = cell["latency"], cell["slowest"]
    start = f"- {KINDS[cell['kind']]} at {cell['rate']:,}/s: {number(latency['max_ms'])} ms"
    if latency["max_ms"] is None:
        return f"- {KINDS[cell['kind']]} at {cell['rate']:,}/s: no decision was received."
    start += f", due {number(latency['max_at_s'])} s into the window"
    if slow is None:
        return f"{start}; no trace."
    largest = slow["largest"]
    meant = f" ({MEANING[largest]})" if largest in MEANING else ""
    parts = sorted(slow["spent_ms"].items(), key=lambda part: -part[1])
    told = ", ".join(f"{name} {number(spent_ms)}" for name, spent_ms in parts if spent_ms >= 0.05)
    return (
        f"{start}. Mostly **{largest}**{meant}. In ms: {told}. Its batch had {slow['batch_size']:,} payments and took "
        f"{number(slow['batch_ms'])} ms; {slow['batches_before']} batches were in work while it waited, the longest "
        f"{number(slow['longest_before_ms'])} ms."
    )
