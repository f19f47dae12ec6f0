"""Draws the report of a proof: one HTML file with its plots inside, that needs nothing else and asks nobody."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

import msgspec

from consumer.prove.evidence import CALM, FEATURED
from models.policy import TIERS
from models.report_html import BLUE, GREY, RED, environment, is_installed, svg

if TYPE_CHECKING:
    from consumer.prove.report import LatencyTable, Report

__all__ = ["is_installed", "render"]

SIZE: Final = (7.6, 3.4)  # inches
NINES: Final = (0, 50, 90, 99, 99.9, 99.99, 99.999, 99.9999)


def render(made: Report) -> str:
    """The page."""
    template = environment().from_string(files("consumer").joinpath("prove/report.html.j2").read_text("utf-8"))
    plots = []
    if (told := made.latency) is not None and told.curve:
        plots = [
            ("Every payment, by percentile", svg(lambda axes: _distribution(axes, told), size=SIZE)),
            ("Second by second", svg(lambda axes: _seconds(axes, told), size=SIZE)),
        ]
    shown = {
        "plots": plots,
        "tier_names": [each for each in TIERS if any(each in tiers for tiers in made.tiers.values())],
        "calm": CALM,
        "featured": FEATURED,
    }
    return str(template.render(**shown, **msgspec.to_builtins(made)))


def _distribution(axes: Any, told: LatencyTable) -> None:
    """Latency over the number of nines: the tail has as much room as the rest."""
    places = [1 / (1 - percent / 100) if percent < 100 else told.payments for percent, _ in told.curve]
    axes.step(places, [ms for _, ms in told.curve], where="post", color=BLUE)
    axes.axhline(told.budget_ms, color=RED, linestyle=":", label=f"budget, {told.budget_ms:,} ms")
    shown = [nine for nine in NINES if 1 / (1 - nine / 100) <= max(places)]
    axes.set_xscale("log")
    axes.set_xticks([1 / (1 - nine / 100) for nine in shown], [f"{nine:g} %" for nine in shown])
    axes.minorticks_off()
    axes.set(xlabel="share of the payments", xlim=(1, None))
    _in_ms(axes)
    axes.legend(frameon=False, loc="lower right")


def _seconds(axes: Any, told: LatencyTable) -> None:
    at = [row[0] for row in told.by_second]
    for place, (name, color) in enumerate((("p50", GREY), ("p99", BLUE), ("max", RED)), start=1):
        axes.plot(at, [row[place] for row in told.by_second], color=color, label=name, marker=".", markersize=4)
    axes.axhline(told.budget_ms, color=RED, linestyle=":")
    axes.set(xlabel="seconds since the first payment")
    _in_ms(axes)
    axes.legend(frameon=False, ncols=3)


def _in_ms(axes: Any) -> None:
    """A logarithmic axis with plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator  # noqa: PLC0415  it is not installed everywhere

    axes.set(ylabel="ms from due to decided", yscale="log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda ms, _place: f"{ms:,g}"))
    axes.yaxis.set_minor_formatter(FuncFormatter(lambda _ms, _place: ""))
    axes.grid(axis="y", alpha=0.3)
