"""The part of the report about growth: a table an axis, and all of them in one picture; see `bench.growth`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.growth_settings import AXES, FULL, SHARED_PARTITIONS, USUAL
from bench.tables import number, table, verdict

PLOT: Final = "plots/growth.png"
SECOND_PROCESS: Final = 1.7
CATCH_UP_S: Final = 60.0
CATCH_UP_RATE: Final = 2_000
PAPER, INK, SPEED, COST, TAIL = "white", "#222222", "#4477aa", "#228833", "#cc6677"

WORDS: Final = {
    "entities": "Entities: cards in Redis, of which payments come evenly",
    "partitions": "Partitions of the payments' topic",
    "catalog": "Features: a third, half, and all of the catalog",
    "trees": "Trees of the model",
    "hot card": "A hot card: percent of all payments that are its own (so one partition has them)",
    "hot merchant": "A hot merchant: percent of all payments that are made there",
}
SHOWN: Final = {"catalog": "features", "trees": "trees"}  # what is shown in place of the value that was asked for

Results = dict[str, Any]


def growth(section: Results) -> list[str]:
    """Verdicts, a table an axis, and a picture."""
    lines = [f"![Payments a second, payments a CPU-second and p99 against what grows]({PLOT})", ""]
    lines += [*_process_verdict(section["processes"]), *_backlog_verdict(section["backlog"]), ""]
    lines += [
        f"One thing grows at a time: else there are {USUAL['partitions']} partitions, all features and the usual "
        "trees. `payments/s` and `a CPU-second` are of one exactly_once processor that is alone with "
        f"{section['payments']:,} payments, p50 and p99 of an open loop at {section['rate']:,}/s. The row in *italics* "
        "is one run, shown in every table that it belongs to. Payments of a random card and payments at one place are "
        "unusual: they raise more alerts, whose reasons are a part of what they cost.",
        "",
    ]
    if section["skipped"]:
        left_out = ", ".join(f"{value:,}" for value in section["skipped"])
        lines += [f"There was no memory for {left_out} entities.", ""]
    for axis in AXES:
        found = on_axis(section["points"], axis)
        lines += [f"{WORDS[axis]}:", "", *table(_head(axis), [_row(axis, each) for each in found]), ""]
    return [*lines, *_process_lines(section["processes"]), "", *_backlog_lines(section["backlog"])]


def on_axis(points: Sequence[Results], axis: str) -> list[Results]:
    """The points of an axis in its order, with the usual one where it belongs."""
    usual = [each | {"value": USUAL[axis]} for each in points if each["axis"] is None and axis in USUAL]
    found = [*usual, *(each for each in points if each["axis"] == axis)]
    return sorted(found, key=lambda each: FULL[axis].index(each["value"]))


def shown(axis: str, point: Results) -> int:
    """The value on the axis: what there was, where that is not what was asked for."""
    return int(point[SHOWN.get(axis, "value")])


def _head(axis: str) -> Sequence[str]:
    return (
        axis,
        "payments/s",
        "a CPU-second",
        "CPU us a payment",
        "batch",
        "alerts",
        "p50 ms",
        "p99",
        "max",
        "missing",
    )


def _row(axis: str, point: Results) -> list[str]:
    run, latency = point["run"], point["cell"]["latency"]
    value = f"{shown(axis, point):,}"
    if point["axis"] is None:
        value = f"*{value}*"
    numbers = [run["eps"], run["eps_per_cpu_s"], run["cpu_us_per_event"], run["mean_batch"]]
    tail = [latency[name] for name in ("p50_ms", "p99_ms", "max_ms")]
    return [
        value,
        *map(number, numbers),
        f"{run['alerts'] / run['events']:.2%}",
        *map(number, tail),
        str(latency["missing"]),
    ]


def ratios(rounds: Sequence[Results]) -> dict[str, list[float]]:
    """Two processes over one, round by round, in wall time and by CPU-seconds, and two loops over one."""
    found = {what: [each["2"][what] / each["1"][what] for each in rounds] for what in ("eps", "eps_per_cpu_s")}
    return found | {"loops": [each["loops"] for each in rounds]}


def _process_verdict(rounds: Sequence[Results]) -> list[str]:
    """By CPU-seconds: broker, Redis and two processes don't fit on two cores."""
    found = ratios(rounds)
    aim = verdict(
        "two processes where each has a core: payments a CPU-second over one's, doubled, median of the rounds",
        2 * median(found["eps_per_cpu_s"]),
        SECOND_PROCESS,
        unit=" times",
        at_most=False,
    )
    return [
        f"{aim} In wall time {number(median(found['eps']))} times: broker and Redis share the cores. Two loops of "
        f"plain Python that share nothing did {number(median(found['loops']))} times what one did."
    ]


def _backlog_verdict(cases: Sequence[Results]) -> list[str]:
    return [_caught_up(case) for case in cases if case["rate"] == CATCH_UP_RATE]


def _caught_up(case: Results) -> str:
    what = f"catch-up after {case['outage_s']} s without a processor at {case['rate']:,}/s, payments still coming"
    if not case["under_load"]:
        return f"- {what}: at most {CATCH_UP_S:.0f} s. Not before the load had ended: **not met.**"
    return verdict(what, case["caught_up_s"], CATCH_UP_S, unit=" s", at_most=True)


def _process_lines(rounds: Sequence[Results]) -> list[str]:
    rows = []
    for at, found in enumerate(rounds, start=1):
        for count in ("1", "2"):
            each = found[count]
            shares = " + ".join(f"{share:.0%}" for share in each["shares"])
            numbers = map(
                number, (each["wall_s"], each["cpu_s"], each["eps"], each["eps_per_cpu_s"], each["mean_batch"])
            )
            latency = each["cell"]["latency"]
            tail = [number(latency[name]) for name in ("p50_ms", "p99_ms", "max_ms")]
            rows.append([f"{at}", count, *numbers, shares, f"{found['loops']:.2f}", *tail, str(latency["missing"])])
    head = (
        "round",
        "processes",
        "wall s",
        "CPU s",
        "payments/s",
        "a CPU-second",
        "batch",
        "shares",
        "two loops to one",
        "p50 ms",
        "p99",
        "max",
        "missing",
    )
    return [
        f"Processes that share {SHARED_PARTITIONS} partitions and begin at the same instant, beside broker and Redis "
        "on the same cores; then in an open loop:",
        "",
        *table(head, rows),
    ]


def _backlog_lines(cases: Sequence[Results]) -> list[str]:
    rows = []
    for case in cases:
        caught = "not in time" if case["caught_up_s"] is None else number(case["caught_up_s"])
        if case["caught_up_s"] is not None and not case["under_load"]:
            caught += " (the load had ended)"
        numbers = [f"{case[name]:,}" for name in ("usual_lag", "lag_at_restart")]
        seconds = [number(case["ready_s"]), caught]
        rows.append([f"{case['rate']:,}", number(case["rate_achieved"]), str(case["outage_s"]), *numbers, *seconds])
    head = ("payments/s", "sent", "outage s", "usual lag", "lag at the restart", "start s", "caught up after s")
    return [
        "Backlog: the processor ends, payments go on coming, it starts again. `caught up` is from the restart, start "
        "included, until the lag is at most what it was at worst in the seconds before the outage, or one second of "
        "the load where that is less:",
        "",
        *table(head, rows),
    ]


def draw(section: Results, folder: Path) -> None:
    """A panel an axis: payments a second and a CPU-second on the left scale, p99 on the right; then the backlogs."""
    with mpl.rc_context({"font.size": 8, "text.color": INK, "axes.edgecolor": INK}):
        figure = Figure(figsize=(13, 8), facecolor=PAPER, layout="constrained")
        panels: list[Axes] = list(figure.subplots(2, 4).flat)
        for panel, axis in zip(panels, AXES, strict=False):
            _axis(panel, axis, on_axis(section["points"], axis))
        _bars(panels[len(AXES)], section["processes"])
        _lags(panels[len(AXES) + 1], section["backlog"])
        target = folder / PLOT
        target.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(target, dpi=110, metadata={"Software": ""})


def _axis(panel: Axes, axis: str, points: Sequence[Results]) -> None:
    places = range(len(points))
    panel.plot(places, [each["run"]["eps"] for each in points], "o-", color=SPEED, label="payments/s")
    panel.plot(places, [each["run"]["eps_per_cpu_s"] for each in points], "s-", color=COST, label="a CPU-second")
    panel.set_ylim(bottom=0)
    panel.set_xticks(places, [f"{shown(axis, each):,}" for each in points])
    panel.set_title(axis if "hot" not in axis else f"{axis}, percent")
    tail = panel.twinx()
    tail.plot(places, [each["cell"]["latency"]["p99_ms"] for each in points], "^--", color=TAIL, label="p99 ms (right)")
    tail.set_ylim(bottom=0)
    tail.tick_params(axis="y", colors=TAIL)
    if axis == AXES[0]:
        lines = [*panel.get_lines(), *tail.get_lines()]
        panel.legend(lines, [str(line.get_label()) for line in lines], loc="lower left", frameon=False)


def _bars(panel: Axes, rounds: Sequence[Results]) -> None:
    found = ratios(rounds)
    names = {"eps": "wall time", "eps_per_cpu_s": "CPU time", "loops": "two loops"}
    values = [median(found[what]) * (2 if what == "eps_per_cpu_s" else 1) for what in names]
    panel.bar(range(len(names)), values, color=(SPEED, COST, INK))
    panel.axhline(SECOND_PROCESS, color=TAIL, linestyle="--")
    panel.set_xticks(range(len(names)), list(names.values()))
    panel.set_title("two processes over one")


def _lags(panel: Axes, cases: Sequence[Results]) -> None:
    for case in cases:
        times, lags = zip(*case["samples"], strict=True)
        panel.plot(times, [max(1, lag) for lag in lags], label=f"{case['rate']:,}/s")
    panel.axvline(0, color=INK, linestyle=":")
    panel.set_yscale("log")
    panel.set_xlabel("s since the restart")
    panel.set_title("lag about an outage")
    panel.legend(frameon=False)
