"""The plot of a soak: memory, Redis, descriptors, latency and lag over time, with what happened meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_COLOURS: Final = {"promotion": "tab:purple", "rebalance": "tab:red"}


def draw(document: dict[str, Any], rows: Sequence[dict[str, float]], path: Path) -> None:
    """Write the plot of one soak: `document` is what was judged, `rows` are the samples."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context({"font.size": 8, "axes.grid": True, "grid.alpha": 0.3, "axes.spines.top": False}):
        figure = Figure(figsize=(9, 11), layout="constrained")
        panels = figure.subplots(5, 1, sharex=True)
        _lines(panels[0], rows, {"worker_rss_mib": "worker, resident", "worker_uss_mib": "worker, its own"})
        _lines(panels[0], rows, {"page_rss_mib": "alert page, resident"})
        _lines(panels[1], rows, {"redis_mib": "Redis"})
        _lines(panels[2], rows, {"worker_files": "worker, descriptors", "worker_threads": "worker, threads"})
        _lines(panels[2], rows, {"page_files": "page, descriptors"})
        _lines(panels[4], rows, {"lag": "records not committed yet"})
        _keys(panels[1], rows)
        _latency(panels[3], document["by_minute"])
        names = ("memory, MiB", "Redis, MiB", "count", "latency, ms", "records")
        for panel, name in zip(panels, names, strict=True):
            _mark(panel, document)
            panel.set_ylabel(name)
            panel.legend(loc="lower left", bbox_to_anchor=(0.0, 0.98), frameon=False, ncols=7)
            panel.set_ylim(bottom=0 if panel is not panels[3] else None)
        panels[-1].set_xlabel("minutes")
        figure.suptitle(f"{document['minutes']:g} minutes at {document['rate']:,} payments/s", fontsize=10)
        figure.savefig(path, dpi=110)


def _lines(panel: Axes, rows: Sequence[dict[str, float]], names: dict[str, str]) -> None:
    for name, label in names.items():
        known = [(row["at_s"] / 60, row[name]) for row in rows if name in row]
        if known:
            panel.plot(*zip(*known, strict=True), label=label, linewidth=1)


def _keys(panel: Axes, rows: Sequence[dict[str, float]]) -> None:
    known = [(row["at_s"] / 60, row["redis_keys"] / 1_000) for row in rows if "redis_keys" in row]
    if known:
        other = panel.twinx()
        other.plot(*zip(*known, strict=True), color="tab:orange", linewidth=1)
        other.set_ylabel("keys, thousands", color="tab:orange")
        other.set_ylim(bottom=0)
        other.grid(visible=False)


def _latency(panel: Axes, minutes: Sequence[dict[str, float]]) -> None:
    middle = [number + 0.5 for number in range(len(minutes))]
    for name, label in (("p50_ms", "p50"), ("p99_ms", "p99"), ("p99_9_ms", "p99.9"), ("max_ms", "largest")):
        panel.plot(middle, [each[name] for each in minutes], label=label, marker=".", linewidth=1)
    panel.axhline(200, color="black", linestyle=":", linewidth=1)
    panel.set_yscale("log")


def _mark(panel: Axes, document: dict[str, Any]) -> None:
    """What is not judged is shaded; what happened is a line."""
    panel.axvspan(0, document["warm_up_s"] / 60, color="grey", alpha=0.12, linewidth=0)
    told = set[str]()
    for event in document["events"]:
        what = event["what"]
        label = f"_{what}" if what in told else what
        told.add(what)
        panel.axvline(event["at_s"] / 60, color=_COLOURS.get(what, "grey"), linewidth=0.7, linestyle="--", label=label)
