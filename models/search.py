"""Looks for better training options, on the windows that are for choosing: the test window is never asked.

The search ends after a time or a number of trials; the same seed and number of trials find the same.
"""

# ruff: noqa: PLC0415  optuna is an extra
from __future__ import annotations

import dataclasses
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, Final, TypeVar

import numpy as np

from features.catalog import Catalog
from features.errors import ConfigError
from models.dataset import Dataset
from models.train import TrainOptions, choosing_models
from models.windows import Plan

DEPTHS: Final = (3, 8)
RANGES: Final[dict[str, tuple[float, float]]] = {
    "learning_rate": (0.02, 0.2),
    "min_child_weight": (0.5, 20.0),
    "subsample": (0.5, 1.0),
    "columns_per_tree": (0.2, 1.0),
    "l2": (0.1, 20.0),
}
WIDE: Final = 8  # a range of which the end is so many times the start is searched by its logarithm
_N = TypeVar("_N", int, float)
Told = Callable[[int, float], None]


def searcher(
    catalog: Catalog, *, minutes: float | None, trials: int | None, told: Told = lambda _trials, _best: None
) -> Callable[[Dataset, Plan, TrainOptions], TrainOptions]:
    """What `models.train.train` takes as `choose`.

    The first trial is the options as they are; what is found is never worse than they are, on those windows.

    Args:
        catalog: the features that the model will have.
        minutes: time to spend; None for as long as the trials take.
        trials: how many to make; None for as many as there is time for.
        told: after each trial: how many there were, and the best mean average precision.

    Raises:
        ConfigError: Optuna is not installed, or there is neither a time nor a number.
    """
    if find_spec("optuna") is None:
        raise ConfigError("A search needs Optuna: install fraudline[train].")
    if minutes is None and trials is None:
        raise ConfigError("A search needs an end: give it minutes or trials.")

    def choose(data: Dataset, steps: Plan, options: TrainOptions) -> TrainOptions:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        columns = np.arange(len(catalog.names))

        def tried(trial: Any) -> float:
            found: dict[str, Any] = {"depth": trial.suggest_int("depth", *_reaching(DEPTHS, options.depth))}
            for name, bounds in RANGES.items():
                low, high = _reaching(bounds, getattr(options, name))
                found[name] = trial.suggest_float(name, low, high, log=low > 0 and high / low > WIDE)
            here = dataclasses.replace(options, **found)
            _, curve = choosing_models(data, steps, columns, catalog.names, here, lambda _text, _share: None)
            return float(curve.max())

        study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=options.seed))
        study.enqueue_trial({name: getattr(options, name) for name in ("depth", *RANGES)}, skip_if_exists=True)
        study.optimize(
            tried,
            n_trials=trials,
            timeout=None if minutes is None else 60 * minutes,
            callbacks=[lambda study, trial: told(trial.number + 1, study.best_value)],
        )
        return dataclasses.replace(options, **study.best_params)

    return choose


def _reaching(bounds: tuple[_N, _N], given: _N) -> tuple[_N, _N]:
    """The range, widened to hold what the search begins with."""
    return min(bounds[0], given), max(bounds[1], given)
