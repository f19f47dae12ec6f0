"""Compiled loops: how a function of this package becomes machine code, and where that is kept.

numba compiles at first use, which takes some seconds, and keeps the result in a cache. The cache's folder is named by
the text of everything that is compiled here, since numba itself looks at a function's own file only. Where it lies:
`NUMBA_CACHE_DIR` if set (an image ships it filled), else the user's cache folder. A folder that can't be written is
copied to a temporary one, for this process alone.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Final, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

_F = TypeVar("_F", bound=Callable[..., object])
_S = TypeVar("_S", bound=np.generic)

_SOURCES: Final = (
    "event.py", "kernels.py", "units.py", "fold.py", "cells.py", "values.py", "compaction.py", "folding.py",
    "payment.py", "layout.py", "history/tables.py", "history/xxh3.py",
)  # fmt: skip

Table = npt.NDArray[np.int64]


def _folder() -> Path:
    digest = hashlib.sha256(b"".join(files("features").joinpath(name).read_bytes() for name in _SOURCES)).hexdigest()
    home = os.environ.get("NUMBA_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111  it never raises
    place = Path(home) / "fraudline-kernels" / digest[:16]
    try:
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place):
            return place
    except OSError:
        own = Path(tempfile.mkdtemp(prefix="fraudline-kernels-"))
        atexit.register(shutil.rmtree, own, ignore_errors=True)
        if place.is_dir():
            shutil.copytree(place, own, dirs_exist_ok=True)
        return own


numba.config.CACHE_DIR = str(_folder())  # type: ignore[attr-defined]  # set when numba is imported


def compiled(function: _F) -> _F:
    """Compile a function of integers, floats and arrays at first use; it may hold no object and call nothing else."""
    return _jit(function, _nrt=True)  # said here, since a function else takes it from whoever calls it first


def borrowing(function: _F) -> _F:
    """The same for a function that makes no array: it uses those of its caller, and counts no references.

    numba else counts them, atomically, wherever an array is named, which cost more than all the work of a fold. The
    option has no public name (numba issue 2345).
    """
    return _jit(function, forceinline=True, _nrt=False)


def inlined(function: _F) -> _F:
    """A part of each of its callers, whatever they are: for what is called once a record or a value."""
    return _jit(function, inline="always")


def readable(array: npt.NDArray[_S]) -> npt.NDArray[_S]:
    """A view that can't be written: one type for compiled code, whether it came as bytes or as an own array.

    Else a function is compiled twice, and a warm-up with the one kind leaves the other to the first batch.
    """
    view = array.view()
    view.flags.writeable = False
    return view


def _jit(function: _F, **options: object) -> _F:
    decorate = cast("Callable[..., Callable[[_F], _F]]", numba.njit)  # its types know no option beyond the public ones
    return decorate(cache=True, nogil=True, error_model="numpy", **options)(function)
