"""Compile what models need and is not compiled yet, so that no start and no promotion has to wait for it."""

from __future__ import annotations

import numpy as np
import xgboost

from models.drift import Bins, histogram
from models.edge.forest import read
from models.edge.walk import Walker
from models.manifest import Reference
from models.shap import TreeShap
from models.shrink import quantized
from models.trees import Forest

_ROWS = 64


def warm_up() -> None:
    """Use every compiled function once: some seconds the first time on a machine, a moment from then on."""
    values = np.linspace(0, 1, _ROWS, dtype=np.float32)[:, None]
    options = {"objective": "binary:logistic", "max_depth": 2, "nthread": 1}
    matrix = xgboost.DMatrix(values, values[:, 0] > 0.5, feature_names=["x"])
    model = bytes(xgboost.train(options, matrix, 2).save_raw("ubj"))
    TreeShap(Forest(model))
    for each in (model, quantized(model, values)):
        Walker(read(each))
    bins = Bins(Reference({"x": histogram(values[:, 0])}, histogram(values[:, 0])), ["x"])
    bins.count(values[:, 0], values, np.zeros_like(bins.then))


if __name__ == "__main__":
    warm_up()
