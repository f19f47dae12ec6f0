"""Scores: one number in (0, 1) for each payment, from the main model, a small one, or one that needs no state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
import structlog
import xgboost
from xgboost.core import XGBoostError

from features.errors import BundleError, ConfigError
from models.bundle import GOLDEN_TOLERANCE, Bundle
from models.edge.forest import Forest, ForestError, read
from models.edge.walk import Walker
from models.gpu import DeviceFailed, DeviceFull, GpuPredictor
from models.manifest import MODEL, NO_FEATURES, SMALL
from models.native import CpuPredictor

_LOG: Final = structlog.get_logger("score")
Values = npt.NDArray[np.float32]
Scores = npt.NDArray[np.float32]
_Predict = Callable[[Values], Scores]
TRIAL_ROWS: Final = 256
HOLES: Final = 0.1


class ScoringFailed(Exception):
    """A loaded model could not score a batch."""


class Scoring(Protocol):
    """The models of a bundle.

    Every verb takes values of all the bundle's features, (n, features) float32 with NaN where missing, and returns
    (n,) float32. A row's score does not depend on the rows beside it. One thread at a time.

    Attributes:
        has_small: whether `score_small` can be called.
        device: where the last call was scored, `cpu` or `cuda`.
    """

    @property
    def has_small(self) -> bool: ...  # noqa: D102  said above
    @property
    def device(self) -> str: ...  # noqa: D102

    def score(self, values: Values) -> Scores:
        """Scores by the main model. Raises ScoringFailed, and ValueError for another shape or type."""
        ...

    def score_small(self, values: Values) -> Scores:
        """Scores by the small model, which is quicker. Raises likewise."""
        ...

    def score_payment_only(self, values: Values) -> Scores:
        """Scores by the model of the payment's own columns; the other columns are not looked at. Raises likewise."""
        ...

    def warm_up(self) -> None:
        """Pay the costs of the first call now."""
        ...


class Scorer:
    """Scores with a bundle's models on the CPU or on a GPU.

    A batch that the GPU has no room for is scored on the CPU; `device` then says so.

    Args:
        bundle: a bundle that `models.bundle.load` has verified.
        device: `cpu` or `cuda`.
        threads: CPU threads for one prediction. More than one makes small batches slower: 24 ms at the 99th percentile
            for one row, against 0.6 ms.
        compiled: on the CPU, walk the trees with code that is compiled on this machine, in place of XGBoost's: the same
            scores, and several times as fast. A model that can't be walked so, or gives other scores, is XGBoost's.
        on_gpu: what brings a model to the GPU; a test that has none brings another device.

    Raises:
        BundleError: a model does not have the manifest's columns.
        ConfigError: the device can't be used here.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        device: str = "cpu",
        threads: int = 1,
        compiled: bool = False,
        on_gpu: Callable[[xgboost.Booster], _Predict] = GpuPredictor,
    ) -> None:
        manifest = bundle.manifest
        if device not in {"cpu", "cuda"}:
            raise ConfigError("The model's device must be `cpu` or `cuda`; set model.device to one of them.")
        self.device = device
        self._device = device
        self._width = len(manifest.features)
        self._columns = np.asarray(bundle.payment_columns, np.intp)
        self._on_cpu: dict[str, _Predict] = {}
        for name, model in bundle.models.items():
            booster = open_model(model, manifest.columns[name], name, threads=threads)
            self._on_cpu[name] = on_cpu(booster, model, name, compiled=compiled)
        self._on_gpu = {
            name: on_gpu(open_model(model, manifest.columns[name], name, threads=threads))
            for name, model in bundle.models.items()
            if device == "cuda"
        }

    @property
    def has_small(self) -> bool:
        """See `Scoring`."""
        return SMALL in self._on_cpu

    def score(self, values: Values) -> Scores:
        """See `Scoring`."""
        return self._scored(MODEL, self._checked(values))

    def score_small(self, values: Values) -> Scores:
        """See `Scoring`."""
        return self._scored(SMALL, self._checked(values))

    def score_payment_only(self, values: Values) -> Scores:
        """See `Scoring`."""
        return self._scored(NO_FEATURES, self._checked(values).take(self._columns, axis=1))

    def warm_up(self) -> None:
        """See `Scoring`."""
        for rows in (1, 128):
            blank = np.full((rows, self._width), np.nan, np.float32)
            self.score(blank)
            self.score_payment_only(blank)
            if self.has_small:
                self.score_small(blank)

    def _scored(self, name: str, values: Values) -> Scores:
        if not len(values):
            return np.zeros(0, np.float32)
        self.device = self._device
        if self._device == "cuda":
            try:
                return self._on_gpu[name](values)
            except DeviceFull as error:
                _LOG.warning("scored_on_cpu", error=str(error), payments=len(values))
            except DeviceFailed as error:
                raise ScoringFailed(str(error)) from error
        self.device = "cpu"
        return self._on_cpu[name](values)

    def _checked(self, values: Values) -> Values:
        if values.ndim != 2 or values.shape[1] != self._width or values.dtype != np.float32:
            raise ValueError(f"float32 values of {self._width} columns are needed, not {values.dtype} {values.shape}")
        return values


@dataclass(frozen=True, slots=True)
class ConstantScorer:
    """Stands in for a `Scorer` where no model is at hand: every payment gets the same score."""

    full: float = 0.0
    payment_only: float = 0.0
    small: float | None = None
    device: str = "cpu"

    @property
    def has_small(self) -> bool:
        """See `Scoring`."""
        return self.small is not None

    def score(self, values: Values) -> Scores:
        """See `Scoring`."""
        return np.full(len(values), self.full, np.float32)

    def score_small(self, values: Values) -> Scores:
        """See `Scoring`."""
        return np.full(len(values), self.small, np.float32)

    def score_payment_only(self, values: Values) -> Scores:
        """See `Scoring`."""
        return np.full(len(values), self.payment_only, np.float32)

    def warm_up(self) -> None:
        """See `Scoring`."""


def open_model(model: bytes, names: tuple[str, ...], file: str, *, threads: int) -> xgboost.Booster:
    """Load verified UBJ bytes and hold their columns to the manifest's: nothing checks a matrix's order later.

    Raises:
        BundleError: the model has other columns.
    """
    booster = xgboost.Booster({"nthread": threads})
    booster.load_model(bytearray(model))
    booster.set_param({"nthread": threads})
    if tuple(booster.feature_names or ()) != names:
        raise BundleError(f"{file} has other columns than its manifest; train the bundle again.")
    return booster


def on_cpu(booster: xgboost.Booster, model: bytes, file: str, *, compiled: bool) -> Callable[[Values], Scores]:
    """What scores (n, columns) float32 rows by a model: compiled if that is asked for and possible, else XGBoost."""
    predict = _predicting(booster)
    return (_walking(model, file, predict) if compiled else None) or predict


def _predicting(booster: xgboost.Booster) -> _Predict:
    raw = CpuPredictor(booster)

    def predict(values: Values) -> Scores:
        try:
            return raw(values)
        except XGBoostError as error:
            raise ScoringFailed("XGBoost could not score a batch") from error

    return predict


def _walking(model: bytes, file: str, expected: _Predict) -> _Predict | None:
    """The same model compiled; None, and a line in the log, where it can't be or does not give the same scores."""
    try:
        forest = read(model)
    except ForestError as error:
        _LOG.info("not_compiled", model=file, why=str(error))
        return None
    walk, values = Walker(forest), _trial_rows(forest)
    difference = float(np.abs(walk(values) - expected(values)).max())
    if not difference <= GOLDEN_TOLERANCE:
        _LOG.warning("not_compiled", model=file, why=f"its scores differ by {difference:g}")
        return None
    return walk


def _trial_rows(forest: Forest) -> Values:
    """Rows of the model's own thresholds, where a difference would show, with holes; the same for the same model."""
    rng = np.random.default_rng(len(forest.thresholds))
    values = np.full((TRIAL_ROWS, len(forest.names)), np.nan, np.float32)
    for column in range(len(forest.names)):
        known = forest.thresholds[forest.bounds[column] : forest.bounds[column + 1]]
        if len(known):
            values[:, column] = rng.choice(known, TRIAL_ROWS)
    values[rng.random(values.shape) < HOLES] = np.nan
    return values
