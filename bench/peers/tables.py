"""The tables of the report on peers."""

from __future__ import annotations

from typing import Any, Final

from bench.peers.catalog import EVERYBODY, FRAUDLINE
from bench.peers.entries import EXACTLY_ONCE, Found, Key, cells, in_short, middle, ratio, title_of
from bench.peers.results import Measurement
from bench.tables import number, table

_RATES: Final = ("eps", "eps_per_cpu_s")
_LATENCIES: Final = ("p50_ms", "p99_ms", "p99_9_ms", "max_ms")
_SATURATION_HEAD: Final = (
    "", "payments/s", "a CPU-second", "Fraudline over it, payments/s", "a CPU-second", "peak MiB", "processes",
    "lines of code",
)  # fmt: skip
_RUN_HEAD: Final = (
    "", "run", "decided", "in s", "payments/s", "a CPU-second", "its CPU", "broker", "Redis", "other", "stolen",
    "first decision after s",
)  # fmt: skip
_GAP_HEAD: Final = (
    "", "batching, payments/s", "a CPU-second", "our batch function over its own batches, payments/s", "a CPU-second",
    "Fraudline over our batch function in it, payments/s", "a CPU-second",
)  # fmt: skip
_LATENCY_HEAD: Final = (
    "", "payments/s", "p50", "p99", "p99.9", "max", "within 200 ms", "missing", "repeated", "its CPU", "other",
    "stolen", "peak MiB",
)  # fmt: skip
_KILLS_HEAD: Final = (
    "", "kills", "payments", "lost", "repeated", "contradicting", "of no payment", "wrong in Redis", "missing",
    "too many", "deciding again after s",
)  # fmt: skip
_KILLS: Final = (
    "`kill -9` of the whole process tree amid its work, started again with the same arguments, payments coming on. "
    "`lost` payments have no decision, `repeated` ones two or more that a `read_committed` reader sees, "
    "`contradicting` ones two that differ in score or verdict. What is kept in Redis is held against plain sums over "
    "the topic: `missing` and `too many` count payments over all keys that should have been counted, or should not "
    "again."
)


def saturation(found: Found) -> list[str]:
    """Medians and ratios, what gives what, and every run."""
    mine = found.get(EXACTLY_ONCE, {})
    rows, runs = [], []
    for key, each in found.items():
        own = each.get("saturation", {}).get("runs", [])
        if own:
            rows.append(_medians(key, each, mine))
        for at, run in enumerate(own, start=1):
            used = run["cpu_percent"]
            shown = [used["tree"], used["kafka"], used["redis"], _other(used), used["stolen"]]
            measured = [run["window_s"], run["eps"], run["eps_per_cpu_s"], *shown, run["first_decision_s"]]
            runs.append([title_of(key), str(at), f"{run['decided']:,}", *map(number, measured)])
    return [
        "![Payments a CPU-second](plots/peers-cpu.png)",
        "",
        "Medians of the runs; Fraudline's is exactly once.",
        "",
        *table(_SATURATION_HEAD, rows),
        "",
        "Which part gives what, each step over the one before it:",
        "",
        *table(_GAP_HEAD, _gaps(found)),
        "",
        "Every run; CPU in percent of one core:",
        "",
        *table(_RUN_HEAD, runs),
        *_failed(found, "saturation"),
    ]


def latency(found: Found) -> list[str]:
    """Every cell."""
    rows = []
    short = []
    for key, cell in cells(found):
        title, load = title_of(key), cell["loadgen"]
        counts = [f"{cell['within_200ms']:.2%}", f"{cell['missing']:,}", f"{cell['duplicates']:,}"]
        percent = cell["cpu_percent"]
        used = [number(each) for each in (percent["tree"], _other(percent), percent["stolen"], cell["peak_mib"])]
        rows.append([title, f"{cell['rate']:,}", *(milliseconds(cell[name]) for name in _LATENCIES), *counts, *used])
        if load["fell_short"] or load["undelivered"]:
            short.append(
                f"- The load generator fell short with {title} at {cell['rate']:,}/s: "
                f"{number(load['rate_achieved'])}/s, {number(load['max_late_ms'])} ms late at most, "
                f"{load['undelivered']:,} not delivered."
            )
    return [
        "![Latency against rate](plots/peers-latency.png)",
        "",
        "Milliseconds; `not in time` where so many decisions were missing. CPU in percent of one core; `other` is what "
        "ran beside the system, the services and the load, and `stolen` what the machine's host took away.",
        "",
        *table(_LATENCY_HEAD, rows),
        *(["", *short] if short else []),
        *_failed(found, "latency"),
    ]


def kills(found: Found) -> list[str]:
    """What each got wrong, beside what it promises."""
    rows = []
    for key, each in found.items():
        killed = each.get("kills", {})
        if "decisions" not in killed:
            continue
        decisions, kept = killed["decisions"], killed["kept"]
        counts = [f"{decisions[name]:,}" for name in ("payments", "lost", "repeated", "differing", "unknown")]
        off = [f"{kept['wrong']:,} of {kept['keys']:,} {kept['what']}", f"{kept['missing']:,}", f"{kept['excess']:,}"]
        back = ", ".join(number(each) for each in killed["back_s"])
        rows.append([title_of(key), str(killed["kills"]), *counts, *off, back])
    told = [f"- {peer.title}: {peer.delivery}." for peer in EVERYBODY if any(key[0] == peer.name for key in found)]
    return [_KILLS, "", *table(_KILLS_HEAD, rows), "", "What they promise:", "", *told, *_failed(found, "kills")]


def milliseconds(value: float | None) -> str:
    """A latency; one that is not known was not there in time."""
    return "not in time" if value is None else number(value)


def _other(percent: dict[str, float]) -> float:
    """What ran beside everything that was watched; the watch of the services does not know the system's own tree."""
    return max(0.0, percent["other"] - percent["tree"])


def _medians(key: Key, each: dict[str, Any], mine: dict[str, Any]) -> list[str]:
    runs = each["saturation"]["runs"]
    lines = "-" if key[0] == FRAUDLINE.name else str(each["saturation"]["lines"])
    return [
        title_of(key),
        *(number(middle(each, name)) for name in _RATES),
        *(_times(middle(mine, name), middle(each, name)) for name in _RATES),
        number(max(run["peak_mib"] for run in runs)),
        str(max(run["processes"] for run in runs)),
        lines,
    ]


def _gaps(found: Found) -> list[list[str]]:
    """By peer: what batching gives, what our batch function gives, and what the rest of Fraudline gives."""
    rows = []
    for peer in EVERYBODY:
        steps = [(peer.name, "per_event"), (peer.name, "own_batches"), (peer.name, "our_batches"), EXACTLY_ONCE]
        known = [found.get(key, {}) for key in steps]
        if peer is FRAUDLINE or not any(middle(each, "eps") for each in known[:3]):
            continue
        steps_up = list(zip(known[1:], known, strict=False))
        shown = [_times(middle(more, name), middle(less, name)) for more, less in steps_up for name in _RATES]
        if set(shown) != {"-"}:
            rows.append([peer.title, *shown])
    return rows


def _times(more: float | None, less: float | None) -> str:
    times = ratio(more, less)
    return "-" if times is None else f"{times:.2f}x" if times < 10 else f"{times:.1f}x"


def _failed(found: Found, what: Measurement) -> list[str]:
    """What each failed at, in a line."""
    told = [
        f"- {title_of(key)} failed: {in_short(each[what]['failed'])}"
        for key, each in found.items()
        if "failed" in each.get(what, {})
    ]
    return ["", *told] if told else []
