"""The part of the report that sets stream processors side by side: by which command, which verdicts; see `tables`."""

from __future__ import annotations

import math
from typing import Any, Final

from bench.peers.catalog import EVERYBODY, FRAUDLINE
from bench.peers.entries import EXACTLY_ONCE, Found, cells, entries_of, middle, ratio, title_of
from bench.peers.results import MEASUREMENTS, Results
from bench.peers.tables import kills, latency, milliseconds, saturation
from bench.tables import verdict

PER_EVENT_TARGET: Final = 20.0
PER_EVENT: Final = ("quix", "faust", "flink")  # one payment at a time
OWN_TARGET: Final = 2.0
OURS_TARGET: Final = 1.0
P99_RATE: Final = 2_000
P99_9_MS: Final = 100.0
VERSIONS: Final = ("python", "kafka", "redis-server", "java", "xgboost", "numpy")

_HOW_TO_READ: Final = (
    "Everybody reads the same topic of the same broker, writes JSON to topics of its own, keeps its state in the same "
    "Redis, and is watched from outside: rates come from the broker's timestamps of the decisions after a warm-up, "
    "CPU and memory are of the whole process tree (JVMs and children included; memory is PSS). One payment at a time "
    "and batches of its own keep 28 features in counters; Fraudline, and what is given its batch function, keep more "
    "than three times as many in entity logs, and explain their alerts. Both models have about 200 trees. Counters "
    "begin empty, entity logs as long as a running system's. What all counters share (`counters.py`, `payloads.py`, "
    "`naive_model.py`) is not among the lines of code, as is not Fraudline. From one "
    "payment at a time to batches of its own is what batching gives, the rest is Fraudline's. Latency counts from "
    "when a payment was due, for every payment of the window; one without a decision some seconds after the "
    "schedule's end is missing, and later than all others."
)


def peers(results: Results) -> list[str]:
    """Commands, verdicts, every run, and what was wrong after kills."""
    found = entries_of(results)
    lines = [*_occasions(results, found), *_verdicts(found), "", _HOW_TO_READ]
    for what, title, body in (
        ("saturation", "Alone with a full topic", saturation),
        ("latency", "Open loop", latency),
        ("kills", "After kills", kills),
    ):
        if any(what in each for each in found.values()):
            lines += ["", f"### {title}", "", *body(found)]
    return lines


def _occasions(results: Results, found: Found) -> list[str]:
    """By which commands, when and where, and what came of each."""
    lines: list[str] = []
    measured = [(key, what, each[what]) for key, each in found.items() for what in MEASUREMENTS if what in each]
    for name, occasion in sorted(results["occasions"].items()):
        own = [f"{what} of {title_of(key)}" for key, what, each in measured if each["occasion"] == name]
        shown = "all of it" if len(own) == len(measured) else "; ".join(own)
        machine, primed = occasion["machine"], occasion["prepared"]["primed_payments"]
        versions = ", ".join(f"{each} {machine[each]}" for each in VERSIONS)
        lines += [
            f"    {occasion['command']}",
            "",
            f"{occasion['date']}, commit {occasion['commit']}; load average before it {occasion['load_before']}: "
            f"{shown}. {machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, {machine['kernel']}; "
            f"{versions}. Entity logs are primed with {primed:,} payments.",
            "",
        ]
    versions_of = {key[0]: each["version"] for key, _, each in measured}
    names = [f"{each.package} {versions_of[each.name]}" for each in EVERYBODY if each.name in versions_of]
    return [*lines, f"Versions: {', '.join(names)}. One of them again: `python -m bench.peers.run --only NAME`.", ""]


def _verdicts(found: Found) -> list[str]:
    """The targets, each with what was measured."""
    mine = found.get(EXACTLY_ONCE, {})
    lines = []
    for name in PER_EVENT:
        key = (name, "per_event")
        times = ratio(middle(mine, "eps_per_cpu_s"), middle(found.get(key, {}), "eps_per_cpu_s"))
        what = f"Fraudline, exactly once, payments a CPU-second over those of {title_of(key)}"
        lines.append(verdict(what, times, PER_EVENT_TARGET, unit=" times", at_most=False))
    for variant, words, target in (
        ("own_batches", "the best peer in batches of its own", OWN_TARGET),
        ("our_batches", "the best peer in our batches", OURS_TARGET),
    ):
        known = {key: middle(each, "eps") or 0.0 for key, each in found.items() if key[1] == variant}
        best = max(known, key=lambda key: known[key], default=None)
        times = None if best is None else ratio(middle(mine, "eps"), known[best])
        told = "" if best is None else f" ({title_of(best)})"
        what = f"Fraudline, exactly once, payments a second at saturation over {words}{told}"
        lines.append(verdict(what, times, target, unit=" times", at_most=False, digits=2))
    at = dict(cells(found, P99_RATE)).get(EXACTLY_ONCE, {})
    what = f"Fraudline, exactly once, p99.9 at {P99_RATE:,}/s"
    tail = verdict(what, at.get("p99_9_ms"), P99_9_MS, unit=" ms", at_most=True)
    return [*lines, _p99_verdict(found), tail, _kills_verdict(mine.get("kills", {}))]


def _p99_verdict(found: Found) -> str:
    aim = f"- p99 at {P99_RATE:,}/s while exactly once: lower than every peer's."
    at = dict(cells(found, P99_RATE))
    mine = at.get(EXACTLY_ONCE)
    others = {key: cell for key, cell in at.items() if key[0] != FRAUDLINE.name}
    if mine is None or not others:
        return f"{aim} **Not measured.**"
    best = min(others, key=lambda key: _p99(others[key]))
    met = _p99(mine) < _p99(others[best])
    return (
        f"{aim} Measured {milliseconds(mine['p99_ms'])} ms, the best peer ({title_of(best)}) "
        f"{milliseconds(others[best]['p99_ms'])} ms: **{'met' if met else 'not met'}.**"
    )


def _kills_verdict(killed: dict[str, Any]) -> str:
    aim = "- Fraudline, exactly once, after `kill -9`: no payment lost, decided twice or miscounted."
    if "decisions" not in killed:
        return f"{aim} **Not measured.**"
    decisions, kept = killed["decisions"], killed["kept"]
    errors = {name: decisions[name] for name in ("lost", "repeated", "differing", "unknown")}
    errors[f"wrong {kept['what']}"] = kept["wrong"]
    said = ", ".join(f"{count:,} {name}" for name, count in errors.items() if count) or "no error"
    return (
        f"{aim} Measured {said} in {decisions['payments']:,} payments and {killed['kills']} kills: "
        f"**{'not met' if any(errors.values()) else 'met'}.**"
    )


def _p99(cell: dict[str, Any]) -> float:
    """In ms; what is not known was not there in time."""
    return math.inf if cell["p99_ms"] is None else float(cell["p99_ms"])
