"""What one form of a model is worth and what it costs: quality on payments, size, and time by itself and in a batch."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from models import evaluate
from models.dataset import Mask, Values
from models.edge.forest import read

BATCH: Final = 128
_SAMPLES: Final = 64
_ROUNDS: Final = 400
_LEAST_S: Final = 0.2

Scores = npt.NDArray[np.float32]
Predict = Callable[[Values], Scores]


@dataclass(frozen=True, slots=True)
class Judging:
    """The payments that forms are judged on: (n, columns), what they were, and what the original says of them."""

    values: Values
    fraud: Mask
    original: Scores


class Measured(msgspec.Struct, frozen=True):
    """One form of the model, on one engine.

    Attributes:
        form: `original`, or what was done to it.
        engine: `xgboost` or `compiled`.
        trees: how many.
        auc: area under the ROC curve on the judging payments.
        ap: average precision there.
        recall_at_precision_90: likewise.
        file_bytes: of the model file.
        memory_bytes: of the compiled form; None for XGBoost, which does not tell.
        one_row_us: median time of one row.
        batch_row_us: median time of a row in a batch of 128.
        cpu_s_per_million: CPU seconds for a million payments in such batches.
        largest_difference: to the original's scores by XGBoost, on the judging payments.
        bundle: where it was written.
    """

    form: str
    engine: str
    trees: int
    auc: float | None
    ap: float | None
    recall_at_precision_90: float | None
    file_bytes: int
    memory_bytes: int | None
    one_row_us: float
    batch_row_us: float
    cpu_s_per_million: float
    largest_difference: float
    bundle: str | None = None


def measured(
    form: str, engine: str, model: bytes, predict: Predict, judging: Judging, *, memory_bytes: int | None = None
) -> Measured:
    """Measure a model (UBJ) that `predict` scores by."""
    scores = predict(judging.values)
    one_row_us, batch_row_us, cpu_s = _timed(predict, judging.values)
    return Measured(
        form=form,
        engine=engine,
        trees=len(read(model).starts),
        auc=evaluate.roc_auc(judging.fraud, scores),
        ap=evaluate.average_precision(judging.fraud, scores),
        recall_at_precision_90=evaluate.recall_at_precision(judging.fraud, scores, 0.9),
        file_bytes=len(model),
        memory_bytes=memory_bytes,
        one_row_us=one_row_us,
        batch_row_us=batch_row_us,
        cpu_s_per_million=cpu_s,
        largest_difference=float(np.abs(scores - judging.original).max(initial=0)),
    )


def _timed(predict: Predict, values: Values) -> tuple[float, float, float]:
    """Median µs of one row, of a row among 128, and CPU seconds for a million rows in such batches."""
    sample = np.resize(values[: _SAMPLES * BATCH], (_SAMPLES * BATCH, values.shape[1]))
    ones = [np.ascontiguousarray(sample[k : k + 1]) for k in range(_SAMPLES)]
    batches = [np.ascontiguousarray(sample[k * BATCH : (k + 1) * BATCH]) for k in range(_SAMPLES)]
    medians = []
    for rows in (ones, batches):
        spent = []
        for k in range(_ROUNDS):
            begun = time.perf_counter_ns()
            predict(rows[k % _SAMPLES])
            spent.append(time.perf_counter_ns() - begun)
        medians.append(float(np.median(spent)) / 1_000)
    cpu, until, rounds = time.process_time(), time.perf_counter() + _LEAST_S, 0
    while time.perf_counter() < until:
        predict(batches[rounds % _SAMPLES])
        rounds += 1
    return medians[0], medians[1] / BATCH, (time.process_time() - cpu) / (rounds * BATCH) * 1e6
