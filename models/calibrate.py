"""Makes scores into probabilities, by a line through the log-odds that is then written into the trees themselves.

A calibrated model is a model like any other: no step is added to scoring, and explanations add up to what is published.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import xgboost

from models.dataset import Mask

Margins = npt.NDArray[np.float64]

_STEPS: Final = 50
_TINY: Final = 1e-9
STEEPEST: Final = 10.0


@dataclass(frozen=True, slots=True)
class Line:
    """Calibrated log-odds = `slope` x log-odds + `offset`. The slope is positive, so that no order changes."""

    slope: float = 1.0
    offset: float = 0.0


def calibrated(margins: Margins, fraud: Mask) -> Line:
    """The line of greatest likelihood; no change where that line would turn the order around, or is no line.

    Source: Platt, "Probabilistic outputs for support vector machines" (1999), with his smoothed targets; solved by
    Newton's method as in Lin, Lin and Weng, Machine Learning 68 (2007).

    Args:
        margins: (n,) log-odds that a model gave payments which it did not learn from.
        fraud: (n,) what they were.
    """
    positive, negative = int(fraud.sum()), int((~fraud).sum())
    if not positive or not negative or np.ptp(margins) == 0:
        return Line()
    target = np.where(fraud, (positive + 1) / (positive + 2), 1 / (negative + 2))
    place = np.array([1.0, 0.0])
    columns = np.stack([margins, np.ones_like(margins)])
    loss = _loss(place, columns, target)
    for _ in range(_STEPS):
        chance = 1 / (1 + np.exp(-(place @ columns)))
        gradient = columns @ (chance - target)
        hessian = (columns * (chance * (1 - chance))) @ columns.T + _TINY * np.eye(2)
        step, share = np.linalg.solve(hessian, gradient), 1.0
        while share > _TINY and _loss(place - share * step, columns, target) > loss:
            share /= 2
        place = place - share * step
        before, loss = loss, _loss(place, columns, target)
        if before - loss <= _TINY * abs(before):
            break
    slope, offset = place.tolist()
    return Line(slope, offset) if 0 < slope < STEEPEST else Line()


def _loss(place: Margins, columns: Margins, target: Margins) -> float:
    margin = place @ columns
    return float(np.sum(np.logaddexp(0, margin) - target * margin))


def with_line(model: bytes, line: Line) -> bytes:
    """The same trees, as UBJ, with the line in them: leaves times the slope, the offset in the base score.

    Args:
        model: a binary classifier as UBJ whose base score is 0.5, so that its trees alone make its log-odds.
        line: what to apply.
    """
    booster = xgboost.Booster({"nthread": 1})
    booster.load_model(bytearray(model))
    document = json.loads(bytes(booster.save_raw("json")))
    learner = document["learner"]
    base = float(str(learner["learner_model_param"]["base_score"]).strip("[]"))
    if base != 0.5:
        raise ValueError(f"the base score is {base}; it must be 0.5")
    for tree in learner["gradient_booster"]["model"]["trees"]:
        leaf = np.asarray(tree["left_children"]) == -1
        values = np.asarray(tree["split_conditions"], np.float32)
        values[leaf] *= np.float32(line.slope)
        tree["split_conditions"] = values.tolist()
        tree["base_weights"] = (np.asarray(tree["base_weights"], np.float32) * np.float32(line.slope)).tolist()
    learner["learner_model_param"]["base_score"] = f"[{1 / (1 + np.exp(-line.offset)):.9E}]"
    fresh = xgboost.Booster({"nthread": 1})
    fresh.load_model(bytearray(json.dumps(document).encode()))
    return bytes(fresh.save_raw("ubj"))
