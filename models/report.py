"""What training found, as plain numbers: curves, calibration, thresholds in alerts and money, importance, segments.

Everything is of the test window, which nothing was chosen on, unless it says otherwise. `models.report_html` draws it.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import xgboost

from models import evaluate
from models.dataset import DAY_MS, Dataset, Mask, Times
from models.fit import TREE_STEP
from models.train import Fitted, Judged, Trained

Scores = npt.NDArray[np.float32]

POINTS: Final = 200  # of a curve
BINS: Final = 20
CARDS_A_DAY: Final = (10, 50, 100)
ALERT_SHARES: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05)
TOP: Final = 25
SHAP_ROWS: Final = 2_000
MOST_SEGMENTS: Final = 12  # of one column: the largest


def report(trained: Trained, segments: tuple[str, ...] = ()) -> dict[str, Any]:
    """All figures of a training; JSON values.

    Args:
        trained: what `models.train.train` gave; its data must still be there.
        segments: columns of the payments by which the test window is also told apart.
    """
    full, data = trained.models["full"], trained.data
    test = full.judged[-1]
    days = (test.window.end_ms - test.window.start_ms) / DAY_MS
    money = data.amount_minor[test.rows]
    return {
        "metrics": trained.metrics,
        "windows": [_window(data, each, is_test=each is test) for each in full.judged],
        "test_days": days,
        "precision_recall": _precision_recall(test.fraud, test.scores),
        "roc": _roc(test.fraud, test.scores),
        "calibration": _calibration(test.fraud, test.scores),
        "histogram": _histogram(test.fraud, test.scores),
        "card_precision": {
            str(k): evaluate.card_precision_at(
                test.fraud, test.scores, data.card[test.rows], data.event_time[test.rows], k
            )
            for k in CARDS_A_DAY
        },
        "thresholds": _thresholds(test, money, days, full),
        "segments": _segments(trained, test, full, days, segments),
        "gain": _gain(full.model),
        "shap": _shap(full, data, test, trained.names["full"]),
        "trees": {"every": TREE_STEP, "average_precision": list(full.curve), "chosen": full.trees},
    }


def _window(data: Dataset, judged: Judged, *, is_test: bool) -> dict[str, Any]:
    return {
        "start_ms": judged.window.start_ms,
        "end_ms": judged.window.end_ms,
        "is_test": is_test,
        "learned": int(judged.window.learn.sum()),
        "payments": len(judged.rows),
        "fraud": int(judged.fraud.sum()),
        "average_precision": evaluate.average_precision(judged.fraud, judged.scores),
        "roc_auc": evaluate.roc_auc(judged.fraud, judged.scores),
        "recall_at_precision_90": evaluate.recall_at_precision(judged.fraud, judged.scores, 0.9),
        "fraud_minor": int(data.amount_minor[judged.rows][judged.fraud].sum()),
    }


def _thinned(*columns: npt.NDArray[Any]) -> list[list[float]]:
    """About `POINTS` points of a curve, its ends among them."""
    place = np.unique(np.linspace(0, len(columns[0]) - 1, POINTS).round().astype(int))
    return [np.asarray(column, np.float64)[place].tolist() for column in columns]


def _precision_recall(fraud: Mask, scores: Scores) -> dict[str, list[float]]:
    caught, flagged = evaluate.curve(fraud, scores)
    recall, precision = _thinned(caught / max(int(fraud.sum()), 1), caught / flagged)
    return {"recall": recall, "precision": precision}


def _roc(fraud: Mask, scores: Scores) -> dict[str, list[float]]:
    caught, flagged = evaluate.curve(fraud, scores)
    false_rate, true_rate = _thinned(
        (flagged - caught) / max(int((~fraud).sum()), 1), caught / max(int(fraud.sum()), 1)
    )
    return {"false_positive_rate": [0.0, *false_rate], "true_positive_rate": [0.0, *true_rate]}


def _calibration(fraud: Mask, scores: Scores) -> dict[str, list[float]]:
    """Mean score and share of fraud in bins of equal numbers of frauds: nearly all payments score next to nothing."""
    order = np.argsort(scores, kind="stable")
    told = np.cumsum(fraud[order])
    edges = np.searchsorted(told, np.linspace(0, told[-1], BINS // 2 + 1)[1:-1], side="right")
    parts = [part for part in np.split(order, edges) if len(part)]
    return {
        "score": [float(scores[part].mean()) for part in parts],
        "fraud": [float(fraud[part].mean()) for part in parts],
        "payments": [len(part) for part in parts],
    }


def _histogram(fraud: Mask, scores: Scores) -> dict[str, list[float]]:
    edges = np.linspace(0, 1, BINS + 1)
    return {
        "edges": edges.tolist(),
        "fraud": np.histogram(scores[fraud], edges)[0].tolist(),
        "genuine": np.histogram(scores[~fraud], edges)[0].tolist(),
    }


def _thresholds(test: Judged, money: Times, days: float, full: Fitted) -> list[dict[str, Any]]:
    """What thresholds for several alert budgets would do, the chosen one among them."""
    lost = int(money[test.fraud].sum())
    bars = [(evaluate.threshold_for_share(test.scores, share), False) for share in ALERT_SHARES]
    bars.append((full.thresholds.review, True))
    rows = []
    for bar, is_chosen in sorted(bars, reverse=True):
        at = evaluate.at_threshold(test.fraud, test.scores, bar)
        saved = int(money[test.fraud & (test.scores >= np.float32(bar))].sum())
        rows.append(
            at.to_dict()
            | {
                "chosen": is_chosen,
                "alerts_a_day": at.flagged / days,
                "saved_minor_a_day": saved / days,
                "saved_share": saved / lost if lost else None,
            }
        )
    return rows


def _segments(
    trained: Trained, test: Judged, full: Fitted, days: float, columns: tuple[str, ...]
) -> dict[str, list[dict[str, Any]]]:
    bands = evaluate.amount_bands(trained.data.amount_minor[test.rows])
    found = {"amount": _told_apart(test, full, days, *bands)}
    for name in columns:
        encoded = trained.data.columns[name].take(test.rows).dictionary_encode()
        words = [*map(str, encoded.dictionary.to_pylist()), "(none)"]
        found[name] = _told_apart(test, full, days, np.asarray(encoded.indices.fill_null(len(words) - 1)), words)
    return found


def _told_apart(
    test: Judged, full: Fitted, days: float, group: npt.NDArray[Any], names: list[str]
) -> list[dict[str, Any]]:
    sizes = np.bincount(group, minlength=len(names))
    largest = sorted(np.argsort(-sizes, kind="stable")[:MOST_SEGMENTS].tolist())
    rows = []
    for number in largest:
        here = group == number
        if not here.any():
            continue
        fraud, scores = test.fraud[here], test.scores[here]
        at = evaluate.at_threshold(fraud, scores, full.thresholds.review)
        rows.append(
            {
                "segment": names[number],
                "payments": len(fraud),
                "fraud": int(fraud.sum()),
                "average_precision": evaluate.average_precision(fraud, scores),
                "roc_auc": evaluate.roc_auc(fraud, scores),
                "alerts_a_day": at.flagged / days,
                "precision": at.precision,
                "recall": at.recall,
            }
        )
    return rows


def _gain(model: bytes) -> list[tuple[str, float]]:
    """Share of the whole gain of all splits, by feature."""
    booster = xgboost.Booster({"nthread": 1})
    booster.load_model(bytearray(model))
    gains: dict[str, float] = booster.get_score(importance_type="total_gain")
    total = sum(gains.values()) or 1.0
    ranked = sorted(gains.items(), key=lambda each: -each[1])[:TOP]
    return [(name, gain / total) for name, gain in ranked]


def _shap(full: Fitted, data: Dataset, test: Judged, names: tuple[str, ...]) -> list[tuple[str, float]]:
    """Mean size of a feature's part in the log-odds, over the payments that scored highest."""
    highest = test.rows[np.argsort(-test.scores, kind="stable")[:SHAP_ROWS]]
    booster = xgboost.Booster({"nthread": 1})
    booster.load_model(bytearray(full.model))
    matrix = xgboost.DMatrix(np.ascontiguousarray(data.values[np.sort(highest)]), feature_names=list(names))
    size = np.abs(booster.predict(matrix, pred_contribs=True)[:, :-1]).mean(axis=0)
    ranked = np.argsort(-size, kind="stable")[:TOP]
    return [(names[column], float(size[column])) for column in ranked]
