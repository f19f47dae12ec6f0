"""Drift as figures and as a page: what a window's payments look like beside those that the model was made from."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import numpy as np

from features.catalog import Catalog
from features.errors import BundleError
from features.history.mapping import AS_NAMED, Columns
from models import dataset
from models.bundle import Bundle
from models.dataset import DAY_MS, Progress
from models.drift import NOTABLE, SEVERE, WIDTH, Bins, Counts
from models.manifest import MODEL
from models.native import CpuPredictor
from models.report_html import BLUE, GREY, environment, svg
from models.score import open_model

DRAWN: Final = 18  # features whose shares are drawn


def bins_of(bundle: Bundle) -> Bins:
    """What the bundle's drift is measured from. Raises BundleError for a bundle that does not have it."""
    known = bundle.manifest.reference
    if known is None:
        raise BundleError(f"{bundle.path} has no reference that drift is measured from; train it again.")
    return Bins(known, bundle.manifest.features)


def of_history(
    bundle: Bundle,
    payments: Path,
    labels: Path,
    catalog: Catalog,
    progress: Progress,
    is_card_number: Any,
    days: int,
    memory_mb: int,
    mapped: Columns = AS_NAMED,
) -> dict[str, Counts]:
    """The counts of each of the newest `days` days (UTC) of a history, the oldest first."""
    bins = bins_of(bundle)
    names = bundle.manifest.features
    predict = CpuPredictor(open_model(bundle.model, names, MODEL, threads=1))
    found: dict[str, Counts] = {}
    with tempfile.TemporaryDirectory(prefix="fraudline-drift-") as folder:
        data = dataset.read(
            payments,
            labels,
            catalog.only(names),
            Path(folder),
            progress,
            is_card_number,
            memory_mb=memory_mb,
            mapped=mapped,
        )
        day = data.event_time // DAY_MS
        for number in np.unique(day)[-days:].tolist():
            counts = np.zeros((len(bins.names), WIDTH), np.int64)
            rows = np.flatnonzero(day == number)
            for start in range(0, len(rows), dataset.CHUNK_ROWS):
                values = np.ascontiguousarray(data.values[rows[start : start + dataset.CHUNK_ROWS]])
                bins.count(predict(values), values, counts)
            found[datetime.fromtimestamp(number * DAY_MS / 1_000, UTC).date().isoformat()] = counts
    return found


def figures(bundle: Bundle, windows: Mapping[str, Counts]) -> dict[str, Any]:
    """Everything that the page shows, as JSON values; the score first, then features, the most moved first.

    Args:
        bundle: whose reference counts.
        windows: by name, the counts of each, as `Bins.count` makes them; the last is what is drawn.
    """
    bins = bins_of(bundle)
    psi = {name: bins.psi(counts).tolist() for name, counts in windows.items()}
    shift = {name: bins.missing_shift(counts).tolist() for name, counts in windows.items()}
    then = bins.shares(bins.then).tolist()
    now = {name: bins.shares(counts).tolist() for name, counts in windows.items()}
    rows = [
        {
            "name": name,
            "psi": {window: _finite(found[place]) for window, found in psi.items()},
            "missing_shift": {window: _finite(found[place]) for window, found in shift.items()},
            "edges": [edge for edge in bins.edges[place].tolist() if math.isfinite(edge)],
            "then": then[place],
            "now": {window: found[place] for window, found in now.items()},
        }
        for place, name in enumerate(bins.names)
    ]
    rows[1:] = sorted(rows[1:], key=lambda row: -max((each or 0.0 for each in row["psi"].values()), default=0.0))
    return {
        "bundle": {"name": bundle.manifest.name, "version": bundle.manifest.version, "digest": bundle.digest},
        "notable": NOTABLE,
        "severe": SEVERE,
        "windows": [{"name": name, "payments": int(counts[0].sum())} for name, counts in windows.items()],
        "rows": rows,
    }


def render(told: dict[str, Any], title: str) -> str:
    """The page: one HTML file with its plots inside."""
    template = environment().from_string(files("models").joinpath("drift.html.j2").read_text("utf-8"))
    last = told["windows"][-1]["name"]
    drawn = [(row["name"], svg(partial(_shares, row=row, window=last))) for row in told["rows"][:DRAWN]]
    days = svg(lambda axes: _days(axes, told), size=(10.0, 3.4)) if len(told["windows"]) > 3 else None
    return str(template.render(title=title, drawn=drawn, days=days, last=last, **told))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _shares(axes: Any, row: dict[str, Any], window: str) -> None:
    edges = row["edges"]
    labels = [f"< {edge:.4g}" for edge in edges] + [f"{edges[-1]:.4g} +" if edges else "any", "missing"]
    places = [*range(len(edges) + 1), WIDTH - 1]
    at = np.arange(len(places))
    axes.bar(at - 0.2, [row["then"][place] for place in places], 0.4, color=GREY, label="training")
    axes.bar(at + 0.2, [row["now"][window][place] for place in places], 0.4, color=BLUE, label=window)
    axes.set_xticks(at, labels, rotation=60, fontsize=7)
    axes.set(ylabel="share")
    axes.legend(frameon=False)


def _days(axes: Any, told: dict[str, Any]) -> None:
    names = [each["name"] for each in told["windows"]]
    for row in told["rows"][:6]:
        index = [row["psi"][name] for name in names]
        shown = [math.nan if value is None else value for value in index]
        axes.plot(names, shown, "o-", markersize=3, label=row["name"])
    axes.axhline(SEVERE, color=GREY, linestyle=":")
    axes.set(ylabel="PSI", ylim=(0, None))
    axes.tick_params(axis="x", labelrotation=60, labelsize=7)
    axes.legend(frameon=False, fontsize=7)
