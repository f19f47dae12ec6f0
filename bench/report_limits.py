"""The part of the report that says how far each stage is from its floor, as tables and a plot; see `bench.limits`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.limits import SERVER, STAGES
from bench.tables import number, table

PLOT: Final = "plots/limits.png"
WORKER_SIZE: Final = "512"  # the batches of a saturated worker are about so large
PAPER, INK, FLOOR, GAP, OTHER = "white", "#222222", "#4477aa", "#cc6677", "#bbbbbb"

Results = dict[str, Any]


def limits(section: Results, before: Results | None) -> list[str]:
    """Tables by batch size, the state before beside them, and a picture."""
    lines = [
        f"![What each stage costs above its floor, by batch size]({PLOT})",
        "",
        "In the plot \"all of it\" is the stages' medians one upon the other; the table's sum is the median of the "
        "rounds' own sums, which differs where a stage's rounds do.",
        "",
    ]
    lines += [
        "Microseconds of CPU a payment, median of the rounds; `floor` is the same bytes through the library alone, in "
        "the same round. `redis` is the server's CPU, the other rows are this process with all its threads.",
        "",
    ]
    for size, rounds in section["sizes"].items():
        earlier = None if before is None else before["sizes"].get(size)
        head = (
            "",
            "measured",
            "min",
            "max",
            "floor",
            "above it",
            "times",
            *(("before", "floor then") if earlier else ()),
        )
        lines += [f"Batches of {size}:", ""]
        lines += table(head, [_row(stage, rounds, earlier) for stage in (*STAGES, SERVER, "sum")])
        lines += [""]
    lines += [*_worker("Now", section), *(_worker("Before", before) if before else ()), ""]
    lines += ["What the floors are made of (median of the rounds):", ""]
    return [*lines, *_readings(section)]


def costs(rounds: Sequence[Results], stage: str, kind: str) -> list[float]:
    """Of every round what a stage cost, `measured` or `floor`; `sum` is that of all stages of the worker."""
    if stage == "sum":
        return [sum(each[kind][name] for name in STAGES) for each in rounds]
    return [float(each[kind][stage]) for each in rounds]


def _row(stage: str, rounds: Sequence[Results], earlier: Sequence[Results] | None) -> list[str]:
    measured, floor = costs(rounds, stage, "measured"), costs(rounds, stage, "floor")
    middle, least = median(measured), median(floor)
    times = number(median(cost / low for cost, low in zip(measured, floor, strict=True))) if least else "-"
    name = "**sum of the worker's**" if stage == "sum" else stage
    row = [name, number(middle), number(min(measured)), number(max(measured)), number(least), number(middle - least)]
    then = [number(median(costs(earlier, stage, kind))) for kind in ("measured", "floor")] if earlier else []
    return [*row, times, *then]


def _worker(when: str, section: Results) -> list[str]:
    found = section["workers"]
    whole = median(each["cpu_us_per_event"] for each in found)
    batch = median(each["mean_batch"] for each in found)
    rounds = section["sizes"].get(WORKER_SIZE)
    stages = (
        "" if rounds is None else f"; its stages at {WORKER_SIZE}: {number(median(costs(rounds, 'sum', 'measured')))}"
    )
    every = ", ".join(number(each["cpu_us_per_event"]) for each in found)
    return [
        f"- {when}: a saturated processor in a process of its own took {number(whole)} us of CPU a payment (all "
        f"rounds: {every}) in batches of {number(batch)}{stages}. The rest is its loop, its metrics, and threads that "
        f"wait for each other. {number(median(each['eps'] for each in found))} payments/s."
    ]


def _readings(section: Results) -> list[str]:
    names = {
        ("decode", None): "decode",
        ("score", None): "score",
        ("encode", None): "encode",
        ("exchange", "client_us"): "exchange with Redis, this process",
        ("exchange", "redis_us"): "exchange with Redis, the server",
    }
    sizes = section["sizes"]
    rows = []
    for (group, part), name in names.items():
        first = next(iter(sizes.values()))[0]["readings"][group]
        for what in first:
            found = [[each["readings"][group][what] for each in rounds] for rounds in sizes.values()]
            values = [median(each if part is None else each[part] for each in rounds) for rounds in found]
            rows.append([f"{name}: {what}", *map(number, values)])
    folds = [median(each["readings"]["fold"] for each in rounds) for rounds in sizes.values()]
    rows.append(["the compiled fold", *map(number, folds)])
    return table(("", *(f"batch {size}" for size in sizes)), rows)


def draw(section: Results, folder: Path) -> None:
    """The waterfall: each stage begins where the one before it ended, its floor below, what is above it on top."""
    sizes = section["sizes"]
    with mpl.rc_context({"font.size": 9, "text.color": INK, "axes.edgecolor": INK}):
        figure = Figure(figsize=(4.6 * len(sizes), 4.2), facecolor=PAPER, layout="constrained")
        axes: Sequence[Axes] = figure.subplots(1, len(sizes), squeeze=False)[0]
        for at, (size, rounds) in zip(axes, sizes.items(), strict=True):
            waterfall(at, rounds)
            at.set_title(f"batches of {size}")
        axes[0].set_ylabel("us of CPU a payment")
        axes[0].legend(loc="upper left", frameon=False)
        target = folder / PLOT
        target.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(target, dpi=110, metadata={"Software": ""})


def waterfall(at: Axes, rounds: Sequence[Results]) -> None:
    """Draw the stages of a batch size, what they come to, and Redis beside them."""
    below = least = 0.0
    for place, stage in enumerate(STAGES):
        cost, floor = median(costs(rounds, stage, "measured")), median(costs(rounds, stage, "floor"))
        _bar(at, place, below, cost, floor)
        below += cost
        least += floor
    _bar(at, len(STAGES), 0.0, below, least)  # as high as the stages that it sums: not the median of the rounds' sums
    _bar(at, len(STAGES) + 1, 0.0, *(median(costs(rounds, SERVER, kind)) for kind in ("measured", "floor")))
    at.axvline(len(STAGES) + 0.5, color=OTHER, linewidth=0.8)
    at.set_xticks(range(len(STAGES) + 2), [*STAGES, "all of it", "redis"], rotation=60, ha="right")
    at.spines[["top", "right"]].set_visible(False)
    at.margins(x=0.01)


def _bar(at: Axes, place: int, below: float, cost: float, floor: float) -> None:
    """A measurement may lie below its floor by chance: then there is no gap to be shown."""
    first = place == 0
    at.bar(place, min(cost, floor), bottom=below, color=FLOOR, width=0.8, label="floor" if first else None)
    gap = max(0.0, cost - floor)
    at.bar(place, gap, bottom=below + floor, color=GAP, width=0.8, label="above the floor" if first else None)
    at.annotate(number(cost), (place, below + cost), xytext=(0, 2), textcoords="offset points", ha="center", fontsize=7)
