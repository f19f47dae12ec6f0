"""Prediction on a GPU: rows go through page-locked memory and device memory that are kept from batch to batch."""

from __future__ import annotations

import importlib
import json
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import xgboost
from xgboost.core import XGBoostError

from features.errors import ConfigError

Values = npt.NDArray[np.float32]
Scores = npt.NDArray[np.float32]

FIRST_ROWS: Final = 1_024
_FULL: Final = ("out of memory", "bad_alloc", "OutOfMemory")


class DeviceFull(Exception):
    """The device has no room for a batch."""


class NoRoom(ConfigError):
    """The device has no room for a model now."""


class DeviceFailed(Exception):
    """The device could not score a batch."""


class GpuPredictor:
    """Calls one booster with (n, columns) float32 matrices on the GPU. One thread at a time.

    Raises:
        ConfigError: there is no GPU that can be used; XGBoost itself would only warn, and use the CPU.
        NoRoom: it is full.
    """

    def __init__(self, booster: xgboost.Booster) -> None:
        """Move the booster, and take memory for `FIRST_ROWS` rows."""
        self._cupy = cupy()
        self._booster = on_gpu(booster)
        self._columns = int(booster.num_features())
        try:
            self._grow(FIRST_ROWS)
            scores = self._scored(FIRST_ROWS)
        except (MemoryError, XGBoostError, RuntimeError) as error:
            if isinstance(error, MemoryError) or any(sign in str(error) for sign in _FULL):
                raise NoRoom("The GPU has no room for the model; free it, or set model.device = cpu.") from error
            raise ConfigError(f"The GPU can't score ({error}); mend it, or set model.device = cpu.") from error
        if not isinstance(scores, self._cupy.ndarray):
            raise ConfigError("XGBoost scores on the CPU though it was told the GPU; set model.device = cpu.")

    def __call__(self, values: Values) -> Scores:
        """(n,) float32 probabilities, n > 0; NaN is missing.

        Raises:
            DeviceFull: there is no room; the CPU can score it.
            DeviceFailed: anything else.
        """
        rows = len(values)
        try:
            if rows > len(self._host):
                self._grow(max(rows, 2 * len(self._host)))
            self._host[:rows] = values
            self._device[:rows].set(self._host[:rows])
            scores = self._scored(rows)
            if not isinstance(scores, self._cupy.ndarray):
                raise DeviceFailed("XGBoost fell back to the CPU")
            scores.get(out=self._result[:rows])
            return self._result[:rows].copy()
        except MemoryError as error:  # CuPy's is one
            raise DeviceFull(f"the GPU has no room for {rows:,} rows") from error
        except (XGBoostError, RuntimeError) as error:  # CuPy's are RuntimeErrors
            if any(sign in str(error) for sign in _FULL):
                raise DeviceFull(f"the GPU has no room for {rows:,} rows") from error
            raise DeviceFailed("the GPU could not score a batch") from error

    def _scored(self, rows: int) -> Any:
        return self._booster.inplace_predict(self._device[:rows], validate_features=False)

    def _grow(self, rows: int) -> None:
        self._device = self._cupy.full((rows, self._columns), np.nan, np.float32)
        self._host = self._pinned((rows, self._columns))
        self._result = self._pinned((rows,))

    def _pinned(self, shape: tuple[int, ...]) -> Values:
        """Page-locked memory: the device reads it itself, without a copy in between."""
        count = int(np.prod(shape))
        memory = self._cupy.cuda.alloc_pinned_memory(count * 4)
        return np.frombuffer(memory, np.float32, count).reshape(shape)


def on_gpu(booster: xgboost.Booster) -> xgboost.Booster:
    """The booster, told to work on the GPU. Raises ConfigError where it did not take that."""
    cupy()
    booster.set_param({"device": "cuda"})
    used = json.loads(booster.save_config())["learner"]["generic_param"]["device"]
    if not used.startswith("cuda"):
        raise ConfigError("XGBoost did not take the GPU; install its CUDA build, or set model.device = cpu.")
    return booster


def cupy() -> Any:
    """CuPy, once a device and a CUDA build of XGBoost are known to be there. Raises ConfigError."""
    try:
        found = importlib.import_module("cupy")
    except ImportError as error:
        raise ConfigError(
            "model.device = cuda needs CuPy, which is not installed; install cupy-cuda12x, or set model.device = cpu."
        ) from error
    try:
        devices = int(found.cuda.runtime.getDeviceCount())
    except RuntimeError as error:
        raise ConfigError("No GPU answers here; check its driver, or set model.device = cpu.") from error
    if not devices:
        raise ConfigError("There is no GPU here; set model.device = cpu.")
    if not xgboost.build_info().get("USE_CUDA"):
        raise ConfigError("This XGBoost is built without CUDA; install its CUDA build, or set model.device = cpu.")
    return found
