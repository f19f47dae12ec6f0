"""Draws a training report: one HTML file with its plots inside, that needs nothing else and asks nobody."""

# ruff: noqa: PLC0415  what draws is imported when something is drawn: it is not installed everywhere

from __future__ import annotations

import io
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.resources import files
from importlib.util import find_spec
from typing import Any

WIDE, TALL = (5.2, 3.4), (5.2, 5.6)  # inches
BLUE, RED, GREY = "#2563eb", "#dc2626", "#94a3b8"


def is_installed() -> bool:
    """Whether what draws the page is there: the extra `train`."""
    return all(map(find_spec, ("jinja2", "matplotlib")))


def environment() -> Any:
    """Jinja with the filters that pages use, and matplotlib set to draw the same SVG for the same figures."""
    import jinja2
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "fraudline", "font.size": 9})
    mpl.rcParams.update({"axes.spines.top": False, "axes.spines.right": False})
    made = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    made.filters.update(
        number=lambda value, digits=0: "" if value is None else f"{value:,.{digits}f}",
        share=lambda value: "" if value is None else f"{value:.1%}",
        moment=lambda ms: datetime.fromtimestamp(ms / 1_000, UTC).strftime("%Y-%m-%d %H:%M"),
    )
    return made


def render(figures: dict[str, Any], title: str) -> str:
    """The page."""
    template = environment().from_string(files("models").joinpath("report.html.j2").read_text("utf-8"))
    plots = {
        "precision_recall": svg(lambda axes: _precision_recall(axes, figures)),
        "roc": svg(lambda axes: _roc(axes, figures)),
        "calibration": svg(lambda axes: _calibration(axes, figures)),
        "histogram": svg(lambda axes: _histogram(axes, figures)),
        "alerts": svg(lambda axes: _alerts(axes, figures)),
        "trees": svg(lambda axes: _trees(axes, figures)),
        "gain": svg(lambda axes: _bars(axes, figures["gain"], "share of the whole gain"), size=TALL),
        "shap": svg(lambda axes: _bars(axes, figures["shap"], "mean part in the log-odds, highest scores"), size=TALL),
    }
    return str(template.render(title=title, plots=plots, **figures))


def svg(draw: Callable[[Any], None], *, size: tuple[float, float] = WIDE) -> str:
    """An SVG element, the same for the same figures."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    draw(figure.add_subplot())
    held = io.StringIO()
    figure.savefig(held, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    text = held.getvalue()
    return text[text.index("<svg") :]


def _precision_recall(axes: Any, figures: dict[str, Any]) -> None:
    axes.plot(figures["precision_recall"]["recall"], figures["precision_recall"]["precision"], color=BLUE)
    for row in figures["thresholds"]:
        if row["chosen"] and row["precision"] is not None:
            axes.plot(row["recall"], row["precision"], "o", color=RED, label="review threshold")
            axes.legend(frameon=False)
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))


def _roc(axes: Any, figures: dict[str, Any]) -> None:
    axes.plot(figures["roc"]["false_positive_rate"], figures["roc"]["true_positive_rate"], color=BLUE)
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":")
    axes.set(xlabel="false positive rate", ylabel="true positive rate", xlim=(0, 1), ylim=(0, 1.02))


def _calibration(axes: Any, figures: dict[str, Any]) -> None:
    told = figures["calibration"]
    least = max(min([*told["score"], *[share for share in told["fraud"] if share > 0], 1.0]) / 2, 1e-6)
    axes.plot([least, 1], [least, 1], color=GREY, linestyle=":")
    axes.plot(told["score"], told["fraud"], "o-", color=BLUE)
    axes.set(xlabel="mean score", ylabel="share of fraud", xscale="log", yscale="log")


def _histogram(axes: Any, figures: dict[str, Any]) -> None:
    edges, width = figures["histogram"]["edges"][:-1], figures["histogram"]["edges"][1]
    axes.bar(edges, figures["histogram"]["genuine"], width, align="edge", color=GREY, label="genuine")
    axes.bar(edges, figures["histogram"]["fraud"], width, align="edge", color=RED, alpha=0.7, label="fraud")
    axes.set(xlabel="score", ylabel="payments", yscale="symlog", xlim=(0, 1))
    axes.legend(frameon=False)


def _alerts(axes: Any, figures: dict[str, Any]) -> None:
    rows = figures["thresholds"]
    axes.plot([row["alerts_a_day"] for row in rows], [row["saved_share"] or 0 for row in rows], "o-", color=BLUE)
    for row in rows:
        if row["chosen"]:
            axes.axvline(row["alerts_a_day"], color=RED, linestyle=":", label="review threshold")
            axes.legend(frameon=False, loc="lower right")
    axes.set(xlabel="alerts a day", ylabel="share of the fraud's money", ylim=(0, 1.02))


def _trees(axes: Any, figures: dict[str, Any]) -> None:
    told = figures["trees"]
    counts = [told["every"] * number for number in range(1, len(told["average_precision"]) + 1)]
    axes.plot(counts, told["average_precision"], color=BLUE)
    axes.axvline(told["chosen"], color=RED, linestyle=":")
    axes.set(xlabel="trees", ylabel="average precision")


def _bars(axes: Any, ranked: list[tuple[str, float]], label: str) -> None:
    names = [name for name, _ in reversed(ranked)]
    axes.barh(names, [size for _, size in reversed(ranked)], color=BLUE)
    axes.set(xlabel=label)
    axes.tick_params(axis="y", labelsize=7)
