"""Trains a bundle: two models, thresholds for an alert budget, a few rules, and what they achieved on later payments.

What was chosen, on 200,000 simulated payments with 0.5 % fraud (average precision on the test part):

- Fraud is rare, and no class weight is used: `scale_pos_weight` 1 gave 0.70, 15 gave 0.69 and 200 gave 0.67, and
  unweighted scores stay probabilities.
- `max_bin` 1024 and `base_score` 0.5: XGBoost's defaults blur rare amounts and cost 0.05 to 0.08.
- Depth 5 and half of the columns a tree: depth 6 gains 0.01 and costs a third more a score and twice as much a reason.

Equal inputs and options give the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from features.catalog import DEFAULT, Catalog
from features.errors import ConfigError
from models import dataset, evaluate
from models.bundle_writer import Recipe, check_place, write
from models.dataset import ALL_LABELS, DAY_MS, Dataset, Mask, Progress, Split, Values
from models.fit import TreeOptions, fit, score
from models.policy import Policy, Thresholds
from models.starter_rules import starter_rules

Scores = npt.NDArray[np.float32]

MIN_TRAIN_FRAUDS: Final = 10
MIN_VALID_FRAUDS: Final = 3
_GOLDEN_SAMPLE: Final = 32
_NOT_METRICS: Final = frozenset({"name", "version", "created_ms"})
_STAGES: Final = {"features": (0.0, 0.6), "model": (0.6, 0.9), "no_features": (0.9, 0.98)}


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """How to train. Shares are of all payments.

    Attributes:
        alert_share: the alert budget: the share of payments that may be reviewed or blocked.
        block_precision: block only where this share of the blocked validation payments was fraud.
        label_gap_days: payments left out between the training and validation parts, for labels to arrive.
        trees: at most so many; early stopping on the validation part takes the best number.
        threads: CPU threads. On a machine that is busy otherwise, two were seen to take 60 s where one takes 10: the
            threads wait for each other, spinning.
        created_ms: when the bundle counts as made; None for the time of the newest payment, so that equal inputs give
            equal bytes.

    Raises:
        ConfigError: a value can't be used.
    """

    alert_share: float = 0.01
    block_precision: float = 0.9
    valid_share: float = 0.15
    test_share: float = 0.2
    label_gap_days: float = 7.0
    trees: int = 400
    depth: int = 5
    learning_rate: float = 0.1
    early_stopping_rounds: int = 40
    seed: int = 7
    threads: int = 1
    name: str = "fraudline"
    version: str = "1"
    created_ms: int | None = None

    def __post_init__(self) -> None:
        for name, least, most in (
            ("alert_share", 0.0, 1.0),
            ("block_precision", 0.0, 1.0),
            ("valid_share", 0.01, 0.5),
            ("test_share", 0.01, 0.45),
            ("label_gap_days", 0.0, 3_650.0),
            ("trees", 1, 10_000),
            ("depth", 1, 12),
            ("learning_rate", 0.001, 1.0),
            ("early_stopping_rounds", 1, 10_000),
            ("seed", 0, 2**31 - 1),
            ("threads", 1, 1_024),
        ):
            if not least <= getattr(self, name) <= most:  # NaN is refused too
                raise ConfigError(
                    f"Training's {name} must lie between {least:,} and {most:,}; give a value inside that range."
                )


def _silent(_stage: str, _share: float) -> None:
    """Progress that nobody watches."""


def train(
    payments: Path,
    labels: Path,
    out: Path,
    *,
    options: TrainOptions = TrainOptions(),  # frozen
    progress: Progress = _silent,
    catalog: Catalog = DEFAULT,
    is_card_number: Callable[[str], bool] = lambda _text: False,
) -> dict[str, Any]:
    """Train a bundle from a payments file in log order and a labels file, and write it to `out`.

    Lines that are no records are skipped and counted.

    Args:
        payments: JSON lines, one payment each.
        labels: JSON lines, one label each, in any order.
        out: the bundle's directory; a bundle that is there is replaced.
        options: how to train.
        progress: told what is being done and the share of all work that is done.
        catalog: the features.
        is_card_number: tells a card number from a token; records with one are skipped and counted too.

    Returns:
        The metrics that the manifest keeps: counts, and for each model average precision, ROC AUC, and precision and
        recall at its thresholds, on the test part.

    Raises:
        ConfigError: a file can't be read or written, there are too few payments or frauds to learn from, or the
            catalog has no feature of the payment alone.
    """
    check_place(out)
    if not catalog.payment_columns:
        raise ConfigError(
            "The catalog has no feature of the payment alone, which the model for outages needs; "
            "switch on its group payment."
        )
    data = dataset.read(payments, labels, catalog, _part_of(progress, "features"), is_card_number)
    parts = _split(data, options)
    known, truth = data.fraud_known_by(parts.cut_ms), data.fraud_known_by(ALL_LABELS)
    narrow = np.ascontiguousarray(data.values[:, list(catalog.payment_columns)])
    narrow_names = tuple(catalog.names[column] for column in catalog.payment_columns)
    trees = TreeOptions(
        options.trees,
        options.depth,
        options.learning_rate,
        options.early_stopping_rounds,
        options.seed,
        options.threads,
    )
    models: dict[str, bytes] = {}
    thresholds: dict[Any, Thresholds] = {}
    metrics: dict[str, Any] = _counts(data, parts, known, truth, options)
    for tier, stage, values, names in (
        ("full", "model", data.values, catalog.names),
        ("no_features", "no_features", narrow, narrow_names),
    ):
        model = fit(
            (values[parts.train], known[parts.train]),
            (values[parts.valid], truth[parts.valid]),
            names,
            trees,
            _part_of(progress, stage),
        )
        thresholds[tier] = _thresholds(truth[parts.valid], score(model, values[parts.valid]), options)
        metrics[tier] = _quality(truth[parts.test], score(model, values[parts.test]), thresholds[tier])
        models[tier] = model
    recipe = Recipe(
        name=options.name,
        version=options.version,
        created_ms=int(data.event_time.max()) if options.created_ms is None else options.created_ms,
        model=models["full"],
        no_features=models["no_features"],
        policy=Policy(catalog.names, thresholds, starter_rules(data.values[parts.train], catalog.names)),
        golden_rows=_golden_rows(data.values[parts.test]),
        window=(int(data.event_time[parts.train].min()), int(data.event_time[parts.train].max())),
        metrics=metrics,
    )
    written = write(out, recipe, catalog)
    metrics["trees"] = dict(written.manifest.trees)
    progress("done", 1.0)
    return metrics


def _part_of(progress: Progress, stage: str) -> Progress:
    """Progress of one stage as a share of all work."""
    start, end = _STAGES[stage]
    return lambda text, share: progress(text, start + (end - start) * share)


def _split(data: Dataset, options: TrainOptions) -> Split:
    if not len(data.values):
        raise ConfigError("The payments file holds no payment; give one JSON payment a line, in log order.")
    if not data.label_fraud.any():
        raise ConfigError("The labels file calls none of the payments fraud; give the labels of these payments.")
    parts = dataset.split(
        data.event_time,
        valid_share=options.valid_share,
        test_share=options.test_share,
        gap_ms=round(options.label_gap_days * DAY_MS),
    )
    known = int(data.fraud_known_by(parts.cut_ms)[parts.train].sum())
    later = int(data.fraud_known_by(ALL_LABELS)[parts.valid].sum())
    if known < MIN_TRAIN_FRAUDS or later < MIN_VALID_FRAUDS:
        raise ConfigError(
            f"There is too little to learn from: {int(parts.train.sum()):,} training payments with {known:,} known "
            f"frauds ({MIN_TRAIN_FRAUDS} needed) and {int(parts.valid.sum()):,} validation payments with {later:,} "
            f"({MIN_VALID_FRAUDS} needed); give more payments, or a smaller label_gap_days."
        )
    return parts


def _thresholds(fraud: Mask, scores: Scores, options: TrainOptions) -> Thresholds:
    """Review what the alert budget allows, and block where nearly all was fraud, over at least ten payments."""
    review = evaluate.threshold_for_share(scores, options.alert_share)
    block = evaluate.threshold_for_precision(fraud, scores, options.block_precision, least_flagged=10)
    return Thresholds(review, None if block is None else max(block, review))


def _quality(fraud: Mask, scores: Scores, thresholds: Thresholds) -> dict[str, Any]:
    blocked = thresholds.block
    return {
        "average_precision": evaluate.average_precision(fraud, scores),
        "roc_auc": evaluate.roc_auc(fraud, scores),
        "review": evaluate.at_threshold(fraud, scores, thresholds.review).to_dict(),
        "block": None if blocked is None else evaluate.at_threshold(fraud, scores, blocked).to_dict(),
    }


def _counts(data: Dataset, parts: Split, known: Mask, truth: Mask, options: TrainOptions) -> dict[str, Any]:
    return {
        "payments": len(data.values),
        "fraud": int(truth.sum()),
        "bad_payment_lines": data.bad_payments,
        "bad_label_lines": data.bad_labels,
        "repeated_payments": data.repeated,
        "unmatched_labels": data.unmatched_labels,
        "train": {"payments": int(parts.train.sum()), "fraud": int(known[parts.train].sum())},
        "valid": {"payments": int(parts.valid.sum()), "fraud": int(truth[parts.valid].sum())},
        "test": {"payments": int(parts.test.sum()), "fraud": int(truth[parts.test].sum())},
        "options": {name: value for name, value in asdict(options).items() if name not in _NOT_METRICS},
    }


def _golden_rows(values: Values) -> Values:
    """A sample of real rows, the same with every other column missing, and rows of nothing, zero and extremes."""
    sample = values[np.linspace(0, len(values) - 1, min(_GOLDEN_SAMPLE, len(values))).astype(int)]
    holes = sample.copy()
    holes[::2, ::2] = np.nan
    holes[1::2, 1::2] = np.nan
    corners = np.array([np.nan, 0.0, 1e12, -1e12], np.float32)
    return np.concatenate([sample, holes, np.repeat(corners[:, None], values.shape[1], axis=1)])
