"""The baseline's features and model: counters of tumbling windows, the same in the live loop and in training."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import xgboost as xgb

ENTITIES: Final = ("card", "merchant", "device")
WINDOWS_S: Final = {"1h": 3_600, "24h": 86_400, "7d": 604_800, "30d": 2_592_000}

FEATURES: Final = (
    *(f"{entity}_{what}_{window}" for entity in ENTITIES for window in WINDOWS_S for what in ("count", "amount")),
    "amount_minor",
    "amount_over_card_mean_30d",
    "hour",
    "weekday",
)
"""What such counters can express: counts and sums of card, merchant and device in tumbling windows, what follows from
them by division, and the payment's own fields. They can't express an exact window, a maximum, a spread, distinct
merchants, the time since the last payment, a first time at a merchant, or the effect of a label."""

Row = npt.NDArray[np.float32]


def counter_keys(payment: Mapping[str, Any]) -> list[tuple[str, int] | None]:
    """The 12 counters of a payment as (Redis key, seconds to live), entity by entity; None where it has no device."""
    at_s = payment["event_time"] // 1000
    keys: list[tuple[str, int] | None] = []
    for entity in ENTITIES:
        ident = payment.get(f"{entity}_id")
        for window, seconds in WINDOWS_S.items():
            keys.append(None if ident is None else (f"{entity}:{ident}:{window}:{at_s // seconds}", seconds))
    return keys


def fill_row(row: Row, payment: Mapping[str, Any], counters: Sequence[float]) -> None:
    """Write the features of one payment into `row` (1, 28); `counters` are its 24 counts and sums, NaN where absent."""
    at_s, amount = payment["event_time"] // 1000, payment["amount_minor"]
    count_30d, sum_30d = counters[6], counters[7]
    row[0, : len(counters)] = counters
    row[0, len(counters) :] = (
        amount,
        amount * count_30d / sum_30d if sum_30d else 1.0,
        at_s // 3600 % 24,
        (at_s // 86_400 + 3) % 7,
    )


def fill_rows(rows: Row, payments: Sequence[Mapping[str, Any]], counters: Sequence[Sequence[float]]) -> None:
    """Write the features of n payments into `rows` (n, 28); `counters` are the 24 numbers of each, as of `fill_row`."""
    at_s = np.array([payment["event_time"] for payment in payments], np.int64) // 1000
    amount = np.array([payment["amount_minor"] for payment in payments], np.float64)
    known = np.array(counters, np.float64)
    wide = known.shape[1]
    count_30d, sum_30d = known[:, 6], known[:, 7]
    rows[:, :wide] = known
    rows[:, wide] = amount
    rows[:, wide + 1] = np.divide(amount * count_30d, sum_30d, out=np.ones_like(amount), where=sum_30d != 0)
    rows[:, wide + 2] = at_s // 3600 % 24
    rows[:, wide + 3] = (at_s // 86_400 + 3) % 7


def feature_rows(payments: Iterable[Mapping[str, Any]]) -> Row:
    """The features of payments in log order, shape (n, 28), by the counters that the live loop keeps in Redis."""
    totals: defaultdict[str, list[float]] = defaultdict(lambda: [0, 0])
    rows: list[Row] = []
    for payment in payments:
        counters: list[float] = []
        for key in counter_keys(payment):
            if key is None:
                counters += (np.nan, np.nan)
                continue
            total = totals[key[0]]
            total[0] += 1
            total[1] += payment["amount_minor"]
            counters += total
        row: Row = np.empty((1, len(FEATURES)), np.float32)
        fill_row(row, payment, counters)
        rows.append(row)
    return np.concatenate(rows)


def train_naive_model(path: Path, payments: Path, labels: Path, *, trees: int = 200, depth: int = 6) -> None:
    """Train the baseline's model on JSON Lines files of payments and labels, and save it as `path` (.ubj)."""
    fraud = {label["event_id"] for label in map(json.loads, _lines(labels)) if label["label"] == "fraud"}
    known = [json.loads(line) for line in _lines(payments)]
    outcomes = np.array([payment["event_id"] in fraud for payment in known])
    data = xgb.DMatrix(feature_rows(known), label=outcomes, feature_names=list(FEATURES))
    settings = {"objective": "binary:logistic", "tree_method": "hist", "max_depth": depth, "max_bin": 1024}
    xgb.train({**settings, "base_score": 0.5}, data, num_boost_round=trees).save_model(path)


def load_model(path: Path) -> xgb.Booster:
    """Load a model whose features are `FEATURES`, set to one thread.

    Raises:
        SystemExit: its features are others.
    """
    booster = xgb.Booster(model_file=path)
    if booster.feature_names != list(FEATURES):
        message = f"{path} was trained on other features; train it with bench.naive_model.train_naive_model."
        raise SystemExit(message)
    booster.set_param({"nthread": 1})
    return booster


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from file
