"""Two pictures of the peers: payments a CPU-second, and latency against the rate."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.peers.catalog import FRAUDLINE
from bench.peers.entries import Found, Key, entries_of, middle, title_of
from bench.peers.results import Results

THROUGHPUT: Final = "peers-cpu.png"
LATENCY: Final = "peers-latency.png"
DPI: Final = 110
COLOURS: Final = {
    "per_event": "#b0b0b0",
    "exactly_once": "#8d8d9e",
    "own_batches": "#e0a33e",
    "our_batches": "#5aa469",
}
OURS: Final = {"exactly_once": "#0b3d91", "at_least_once": "#4a7fd4"}
STYLES: Final = {"per_event": ":", "exactly_once": (0, (1, 1, 4, 1)), "own_batches": "--", "our_batches": "-"}
OUR_STYLES: Final = {"exactly_once": "-", "at_least_once": "--"}
PERCENTILES: Final = {"p50_ms": "p50", "p99_ms": "p99", "p99_9_ms": "p99.9"}
CEILING_MS: Final = 30_000.0  # where a latency that nobody knows is drawn


def draw(results: Results, folder: Path) -> None:
    """Write both into `folder`, as far as there is something to show."""
    found = entries_of(results)
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in ((THROUGHPUT, throughput(found)), (LATENCY, latency(found))):
        if figure is not None:
            figure.savefig(folder / name, dpi=DPI, metadata={"Software": None})


def _colour(key: Key) -> str:
    peer, variant = key
    return (OURS if peer == FRAUDLINE.name else COLOURS).get(variant, "#777777")


def _style(key: Key) -> Any:
    peer, variant = key
    return (OUR_STYLES if peer == FRAUDLINE.name else STYLES).get(variant, "-.")


def throughput(found: Found) -> Figure | None:
    """A bar for each entry, the best on top; None where nothing was measured."""
    rates = {key: rate for key, each in found.items() if (rate := middle(each, "eps_per_cpu_s")) is not None}
    if not rates:
        return None
    order = sorted(rates, key=lambda key: rates[key])
    figure = Figure(figsize=(9, 1.2 + 0.34 * len(order)), layout="constrained")
    axes = figure.add_subplot()
    bars = axes.barh(
        [title_of(key) for key in order],
        [rates[key] for key in order],
        color=[_colour(key) for key in order],
    )
    axes.bar_label(bars, [f"{rates[key]:,.0f}" for key in order], padding=3, fontsize=8)
    axes.set_xscale("log")
    axes.set_xlim(min(rates.values()) / 2, max(rates.values()) * 3)
    axes.set_xlabel("payments a CPU-second of the whole process tree (log)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", which="major", alpha=0.3)
    axes.set_axisbelow(True)
    return figure


def latency(found: Found) -> Figure | None:
    """p50, p99 and p99.9 against the rate, a line for each entry; None where nothing was measured."""
    lines = {key: cells for key, each in found.items() if (cells := each.get("latency", {}).get("cells"))}
    if not lines:
        return None
    figure = Figure(figsize=(12, 5.5), layout="constrained")
    panels = figure.subplots(1, len(PERCENTILES), sharey=True)
    others = dict.fromkeys(peer for peer, _ in lines if peer != FRAUDLINE.name)
    colours = {peer: f"C{at}" for at, peer in enumerate(others)} | {FRAUDLINE.name: "black"}
    rates = sorted({cell["rate"] for cells in lines.values() for cell in cells})
    for axes, (name, title) in zip(panels, PERCENTILES.items(), strict=True):
        for key, cells in lines.items():
            known = [CEILING_MS if cell[name] is None else cell[name] for cell in cells]
            at, colour = [cell["rate"] for cell in cells], colours[key[0]]
            axes.plot(at, known, linestyle=_style(key), color=colour, marker="o", markersize=3)
        axes.set(xscale="log", yscale="log", title=title, xlabel="payments/s")
        axes.set_xticks(rates, [f"{rate:,}" for rate in rates], minor=False)
        axes.set_xticks([], minor=True)
        axes.axhline(200.0, color="#cc3333", linewidth=0.8)
        axes.axhline(CEILING_MS, color="#777777", linewidth=0.8, linestyle=(0, (1, 3)))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    panels[0].set_ylabel("ms (red: the budget of 200; dotted: not in time)")
    handles = [Line2D([], [], color=colours[key[0]], linestyle=_style(key)) for key in lines]
    figure.legend(
        handles, [title_of(key) for key in lines], loc="outside lower center", ncols=3, fontsize=8, frameon=False
    )
    return figure
