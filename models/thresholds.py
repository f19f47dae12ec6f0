"""The threshold is a business choice: by an alert budget, by precision or by cost; for all payments, or by segment.

It is made on payments that the model did not learn from.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from models import evaluate
from models.dataset import DAY_MS, Dataset, Mask
from models.policy import Segment, Thresholds

if TYPE_CHECKING:
    from models.train import TrainOptions

Scores = npt.NDArray[np.float32]

LEAST_FLAGGED: Final = 10  # payments over which a precision is believed
LEAST_FRAUDS: Final = 20  # of a segment that gets thresholds of its own
NEVER: Final = 1.0


def chosen_thresholds(
    data: Dataset, rows: npt.NDArray[np.int64], fraud: Mask, scores: Scores, options: TrainOptions
) -> Thresholds:
    """Thresholds as the options ask for.

    Args:
        data: the payments.
        rows: (m,) which of them to choose on.
        fraud: (m,) what they were.
        scores: (m,) what a model that did not know them says.
        options: see `models.train.TrainOptions`.
    """
    review, block = _pair(data, rows, fraud, scores, options)
    segments = []
    field = options.segment_thresholds
    if field is not None:
        encoded = data.columns[field].take(rows).dictionary_encode()
        group = np.asarray(encoded.indices.fill_null(-1))
        for number, value in enumerate(encoded.dictionary.to_pylist()):
            here = group == number
            if int(fraud[here].sum()) >= LEAST_FRAUDS:
                own_review, own_block = _pair(data, rows[here], fraud[here], scores[here], options)
                quoted = "'" + value.replace("'", "''") + "'"
                segments.append(Segment(_name(field, value, number), f"{field} = {quoted}", own_review, own_block))
    return Thresholds(review, block, tuple(segments))


def _pair(
    data: Dataset, rows: npt.NDArray[np.int64], fraud: Mask, scores: Scores, options: TrainOptions
) -> tuple[float, float | None]:
    saved = np.where(fraud, data.amount_minor[rows], 0).astype(np.float64)
    review = _review(data, rows, fraud, scores, saved, options)
    if options.decline_cost_minor is not None:
        cost = np.where(fraud, 0.0, options.decline_cost_minor)
        block = evaluate.threshold_for_cost(scores, saved, cost)
    else:
        block = evaluate.threshold_for_precision(fraud, scores, options.block_precision, LEAST_FLAGGED)
    return review, None if block is None else max(block, review)


def _review(
    data: Dataset,
    rows: npt.NDArray[np.int64],
    fraud: Mask,
    scores: Scores,
    saved: npt.NDArray[np.float64],
    options: TrainOptions,
) -> float:
    if options.alert_cost_minor is not None:
        found = evaluate.threshold_for_cost(scores, saved, np.full(len(rows), options.alert_cost_minor))
        return NEVER if found is None else found
    if options.review_precision is not None:
        found = evaluate.threshold_for_precision(fraud, scores, options.review_precision, LEAST_FLAGGED)
        return NEVER if found is None else found
    share = options.alert_share
    if options.alerts_per_day is not None:
        times = data.event_time[rows]
        share = options.alerts_per_day * max((int(times.max()) - int(times.min())) / DAY_MS, 1e-9) / len(rows)
    return evaluate.threshold_for_share(scores, share)


def _name(field: str, value: str, number: int) -> str:
    """An id that people recognise, different for each value."""
    words = re.sub(r"[^a-z0-9]+", "_", value.lower()).strip("_")[:24]
    return f"{field}_{words or 'value'}_{number}"[:64]
