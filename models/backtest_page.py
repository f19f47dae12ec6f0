"""Draws a backtest: one HTML file with its plots inside, that needs nothing else and asks nobody."""

from __future__ import annotations

from functools import partial
from importlib.resources import files
from typing import Any, Final

from models.report_html import environment, svg

COLOURS: Final = ("#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#0891b2", "#be185d", "#64748b")
DRAWN: Final = (
    ("ap", "average precision"),
    ("auc", "area under ROC"),
    ("recall_at_precision_90", "recall at 90 % precision"),
    ("precision", "precision of alerts"),
    ("recall", "share of the frauds stopped"),
    ("recall_by_amount", "share of the fraud's money stopped"),
)
ROWS: Final = (
    ("ap", "average precision", "number", 3),
    ("auc", "area under ROC", "number", 3),
    ("recall_at_precision_90", "recall at 90 % precision", "share", 0),
    ("card_precision_100", "card precision at 100 a day", "number", 3),
    ("alerts_per_day", "alerts a day", "number", 1),
    ("blocks_per_day", "blocks a day", "number", 1),
    ("precision", "precision of alerts", "share", 0),
    ("false_positive_ratio", "good payments alerted for a fraud", "number", 2),
    ("recall", "share of the frauds stopped", "share", 0),
    ("recall_by_amount", "share of the fraud's money stopped", "share", 0),
    ("saved_minor_per_day", "money saved a day, minor units", "number", 0),
    ("declined_good_minor_per_day", "good payments blocked a day, minor units", "number", 0),
    ("cards_alerted", "defrauded cards that had an alert", "share", 0),
    ("hours_to_alert", "hours from a card's first fraud to its alert, median", "number", 1),
)


def render(figures: dict[str, Any], title: str) -> str:
    """The page of what `consumer.backtest.backtest` found."""
    template = environment().from_string(files("models").joinpath("backtest.html.j2").read_text("utf-8"))
    names = list(figures["measures"])
    colours = dict(zip(names, COLOURS * (len(names) // len(COLOURS) + 1), strict=False))
    plots = [(label, svg(partial(_intervals, figures=figures, measure=name, colours=colours))) for name, label in DRAWN]
    return str(template.render(title=title, names=names, rows=ROWS, plots=plots, **figures))


def _intervals(axes: Any, figures: dict[str, Any], measure: str, colours: dict[str, str]) -> None:
    """A measure of each variant, with its interval."""
    names = list(figures["measures"])
    for place, name in enumerate(reversed(names)):
        told = figures["measures"][name][measure]
        value, low, high = told["value"], told.get("low"), told.get("high")
        if value is None:
            continue
        if low is not None and high is not None:
            axes.plot([low, high], [place, place], color=colours[name], linewidth=2)
        axes.plot(value, place, "o", color=colours[name])
    axes.set_yticks(range(len(names)), list(reversed(names)))
    axes.set(ylim=(-0.7, len(names) - 0.3))
    axes.grid(axis="x", alpha=0.3)
