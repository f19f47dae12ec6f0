"""Fits gradient-boosted trees, a chunk of rows at a time, so that the rows may be more than memory holds."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import xgboost

from features.errors import ConfigError
from models.dataset import CHUNK_ROWS, Mask, Progress, Values
from models.evaluate import average_precision

PATIENCE: Final = 100  # trees that made nothing better
TREE_STEP: Final = 10  # numbers of trees that are tried are multiples of it
BIN_BYTES: Final = 2  # that a quantised value takes with more than 256 bins


@dataclass(frozen=True, slots=True)
class TreeOptions:
    """How to grow trees. The same options, threads and data give the same bytes on the CPU."""

    trees: int
    depth: int
    learning_rate: float
    seed: int
    threads: int
    max_bin: int = 4_096
    min_child_weight: float = 1.0
    subsample: float = 0.8
    columns_per_tree: float = 0.5
    l2: float = 1.0
    device: Literal["cpu", "cuda"] = "cpu"

    def parameters(self) -> dict[str, Any]:
        """As XGBoost names them. Its defaults of 256 bins and an estimated base score blur rare fraud."""
        return {
            "objective": "binary:logistic",
            "tree_method": "hist",
            "max_bin": self.max_bin,
            "base_score": 0.5,
            "max_depth": self.depth,
            "learning_rate": self.learning_rate,
            "min_child_weight": self.min_child_weight,
            "subsample": self.subsample,
            "colsample_bytree": self.columns_per_tree,
            "lambda": self.l2,
            "seed": self.seed,
            "nthread": self.threads,
            "device": self.device,
            "disable_default_eval_metric": True,
        }


@dataclass(frozen=True, slots=True)
class Part:
    """Some rows of a dataset, the columns of one model, and what they were.

    Attributes:
        values: (n, all columns) float32, NaN where missing; it may be a mapped file.
        rows: (m,) which of its rows.
        columns: which of its columns.
        fraud: (m,) what they were.
        soft: (m,) float32, to learn in place of that: how probable fraud is.
        hidden: places among `columns` that are shown as missing, so that no tree can use them.
    """

    values: Values
    rows: npt.NDArray[np.int64]
    columns: npt.NDArray[np.int64]
    fraud: Mask
    soft: Values | None = None
    hidden: tuple[int, ...] = ()

    def chunk(self, start: int) -> Values:
        """The next `CHUNK_ROWS` rows from the `start`-th on."""
        shown = np.ascontiguousarray(self.values[self.rows[start : start + CHUNK_ROWS]][:, self.columns])
        shown[:, list(self.hidden)] = np.nan
        return shown


def fit(
    part: Part,
    names: tuple[str, ...],
    options: TreeOptions,
    progress: Progress,
    memory_mb: int,
    judge: Part | None = None,
) -> bytes:
    """Fit a model and return it as UBJ.

    Args:
        part: what to learn from.
        names: the columns; they are stored in the model.
        options: how to grow trees.
        progress: told after each tree.
        memory_mb: where the quantised rows would take more, they are kept in files.
        judge: rows by which to stop growing, once `PATIENCE` trees made nothing better; the model keeps them all.
    """
    with _room(part, names, memory_mb) as files:
        return _grown(part, names, options, progress, judge, files)  # the matrix is gone before its files are


def _grown(
    part: Part,
    names: tuple[str, ...],
    options: TreeOptions,
    progress: Progress,
    judge: Part | None,
    files: str | None,
) -> bytes:
    common = {"max_bin": options.max_bin, "nthread": options.threads}
    kind = xgboost.QuantileDMatrix if files is None else xgboost.ExtMemQuantileDMatrix
    matrix = _matrix(kind, _Chunks(part, names, files), **common)
    watched, parameters = [], options.parameters()
    callbacks: list[xgboost.callback.TrainingCallback] = [
        _Watch(f"fitting trees on {len(names)} features", options.trees, progress)
    ]
    if judge is not None and judge.fraud.any():
        callbacks.append(xgboost.callback.EarlyStopping(rounds=PATIENCE, metric_name="aucpr", maximize=True))
        watched.append((_matrix(xgboost.QuantileDMatrix, _Chunks(judge, names), ref=matrix, **common), "judge"))
        parameters["eval_metric"] = "aucpr"
    booster = xgboost.train(parameters, matrix, options.trees, evals=watched, verbose_eval=False, callbacks=callbacks)
    booster.set_attr(best_iteration=None, best_score=None)
    return bytes(booster.save_raw("ubj"))


def check_device(device: str) -> None:
    """Refuse a GPU that XGBoost does not find: it would warn, and use the CPU. Raises ConfigError."""
    if device == "cpu":
        return
    with xgboost.config_context(verbosity=0):
        matrix = xgboost.DMatrix(np.zeros((2, 1), np.float32), label=[0, 1])
        tried = xgboost.train({"device": device, "tree_method": "hist"}, matrix, 1)
    used = json.loads(tried.save_config())["learner"]["generic_param"]["device"]
    if not used.startswith(device):
        raise ConfigError("XGBoost finds no GPU here to grow trees on; mend its driver, or give --device cpu.")


def margins(model: bytes, part: Part, trees: int = 0) -> npt.NDArray[np.float64]:
    """(m,) log-odds of a part's rows, by the first `trees` of a model's trees; 0 for all of them."""
    booster = xgboost.Booster({"nthread": 1})
    booster.load_model(bytearray(model))
    end = min(trees, booster.num_boosted_rounds())
    found = [
        booster.inplace_predict(part.chunk(start), iteration_range=(0, end), predict_type="margin")
        for start in range(0, len(part.rows), CHUNK_ROWS)
    ]
    return np.concatenate([np.zeros(0), *found])


def precision_by_trees(model: bytes, part: Part, step: int) -> list[float]:
    """Average precision on a part's rows of the first `step` trees, of twice as many, and so on."""
    booster = xgboost.Booster({"nthread": 1})
    booster.load_model(bytearray(model))
    total, scores = int(booster.num_boosted_rounds()), np.zeros(len(part.rows))
    found = []
    for end in range(step, total + 1, step):
        for start in range(0, len(part.rows), CHUNK_ROWS):
            here = slice(start, start + CHUNK_ROWS)
            scores[here] += booster.inplace_predict(
                part.chunk(start), iteration_range=(end - step, end), predict_type="margin"
            )
        found.append(average_precision(part.fraud, scores.astype(np.float32)) or 0.0)
    return found


@contextmanager
def _room(part: Part, names: tuple[str, ...], memory_mb: int) -> Iterator[str | None]:
    """How the files of the quantised rows begin, where memory does not hold them."""
    if part.fraud.size * len(names) * BIN_BYTES <= memory_mb << 20:
        yield None
        return
    folder = Path(part.values.filename).parent if isinstance(part.values, np.memmap) and part.values.filename else None
    with TemporaryDirectory(dir=folder) as place:
        yield str(Path(place) / "rows")


def _matrix(kind: Callable[..., Any], chunks: _Chunks, **options: Any) -> Any:
    """A matrix of these chunks.

    XGBoost asks for them by a callback. What a signal's handler raises in one is dropped by ctypes, and XGBoost goes on
    with an answer that nobody gave: memory was corrupted. Handlers run in the main thread only, so another makes it.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="matrix") as other:
        try:
            return other.submit(kind, chunks, **options).result()
        except BaseException:
            chunks.end()
            raise


class _Chunks(xgboost.DataIter):  # type: ignore[misc]  # xgboost ships no complete types
    """A part's rows, for XGBoost to read as often as it likes."""

    def __init__(self, part: Part, names: tuple[str, ...], files: str | None = None) -> None:
        super().__init__(cache_prefix=files)
        self._part, self._names, self._at, self._is_wanted = part, list(names), 0, True

    def next(self, input_data: Callable[..., None]) -> bool:
        if self._at >= len(self._part.rows) or not self._is_wanted:
            return False
        told = self._part.fraud if self._part.soft is None else self._part.soft
        truth = told[self._at : self._at + CHUNK_ROWS]
        input_data(data=self._part.chunk(self._at), label=truth, feature_names=self._names)
        self._at += CHUNK_ROWS
        return True

    def reset(self) -> None:
        self._at = 0

    def end(self) -> None:
        """Give no more rows."""
        self._is_wanted = False


class _Watch(xgboost.callback.TrainingCallback):  # type: ignore[misc]
    """Tells the progress after each tree."""

    def __init__(self, text: str, trees: int, progress: Progress) -> None:
        super().__init__()
        self._text, self._trees, self._progress = text, trees, progress

    def after_iteration(self, model: object, epoch: int, evals_log: object) -> bool:  # noqa: ARG002  # its signature
        self._progress(self._text, (epoch + 1) / self._trees)
        return False
