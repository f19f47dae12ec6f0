"""Fits gradient-boosted trees to a training part, as many as a validation part likes best."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xgboost

from models.dataset import Mask, Progress, Values


@dataclass(frozen=True, slots=True)
class TreeOptions:
    """How to grow trees. The same options, threads and data give the same bytes."""

    trees: int
    depth: int
    learning_rate: float
    early_stopping_rounds: int
    seed: int
    threads: int


def fit(
    train: tuple[Values, Mask],
    valid: tuple[Values, Mask],
    names: tuple[str, ...],
    options: TreeOptions,
    progress: Progress,
) -> bytes:
    """Fit a model and return it as UBJ, cut to its best number of trees.

    Args:
        train: (n, columns) float32 values, NaN where missing, and (n,) which of them are fraud.
        valid: the same, to stop by: the highest area under precision and recall.
        names: the columns; they are stored in the model.
        options: how to grow trees.
        progress: told after each tree.
    """
    common = {"max_bin": 1024, "nthread": options.threads, "feature_names": list(names)}
    train_matrix = xgboost.QuantileDMatrix(*train, **common)
    valid_matrix = xgboost.QuantileDMatrix(*valid, ref=train_matrix, **common)
    booster = xgboost.train(
        {
            "objective": "binary:logistic",
            "eval_metric": "aucpr",
            "tree_method": "hist",
            "max_bin": 1024,
            "base_score": 0.5,
            "max_depth": options.depth,
            "learning_rate": options.learning_rate,
            "subsample": 0.8,
            "colsample_bytree": 0.5,
            "seed": options.seed,
            "nthread": options.threads,
        },
        train_matrix,
        options.trees,
        evals=[(valid_matrix, "valid")],
        early_stopping_rounds=options.early_stopping_rounds,
        verbose_eval=False,
        callbacks=[_Watch(f"fitting trees on {len(names)} features", options.trees, progress)],
    )
    best = booster[: booster.best_iteration + 1]  # a predictor uses every tree that it finds; so keep the best only
    return bytes(best.save_raw("ubj"))


def score(model: bytes, values: Values) -> npt.NDArray[np.float32]:
    """(n,) scores of (n, columns) values, as the processor computes them."""
    booster = xgboost.Booster({"nthread": 1})
    booster.load_model(bytearray(model))
    if not len(values):
        return np.zeros(0, np.float32)
    scores: npt.NDArray[np.float32] = booster.inplace_predict(values)
    return scores


class _Watch(xgboost.callback.TrainingCallback):  # type: ignore[misc]  # xgboost ships no complete types
    """Tells the progress after each tree."""

    def __init__(self, text: str, trees: int, progress: Progress) -> None:
        super().__init__()
        self._text, self._trees, self._progress = text, trees, progress

    def after_iteration(self, model: object, epoch: int, evals_log: object) -> bool:  # noqa: ARG002  # its signature
        self._progress(self._text, (epoch + 1) / self._trees)
        return False
