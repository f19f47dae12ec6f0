"""Rows that are written in one order and read in another: kept in memory while there is room, else in files."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[Any]

_READ_AT_ONCE: Final = 4 << 20  # bytes: what is taken back comes in pieces of about this size


class Scratch:
    """The room that spills share: so many bytes of memory, then a folder. Spills may be filled by several threads."""

    def __init__(self, folder: Path, memory_bytes: int) -> None:
        """Use `folder`, which exists and is somebody else's to remove."""
        self._folder, self._memory_bytes = folder, memory_bytes
        self._spills: list[Spill] = []
        self._lock = threading.Lock()

    def spill(self, name: str, parts: int, columns: int, dtype: type[np.generic]) -> Spill:
        """A spill of rows of `columns` elements, in so many parts."""
        made = Spill(self._folder / name, parts, columns, np.dtype(dtype))
        self._spills.append(made)
        return made

    def add(self, spill: Spill, rows: Rows, bounds: npt.NDArray[np.int64]) -> None:
        """Add (n, columns) rows that lie by part: those of part p are `rows[bounds[p]:bounds[p + 1]]`."""
        if len(rows):
            with self._lock:
                spill.hold(rows, bounds)
                while sum(each.held_bytes for each in self._spills) > self._memory_bytes:
                    max(self._spills, key=lambda each: each.held_bytes).write()


class Spill:
    """Rows in parts. The rows of a part come back in the order in which they were added."""

    def __init__(self, path: Path, parts: int, columns: int, dtype: np.dtype[Any]) -> None:
        self.held_bytes = 0
        self._path, self.columns, self._dtype = path, columns, dtype
        self._held: list[tuple[Rows, npt.NDArray[np.int64]]] = []
        self._written: list[list[tuple[int, int]]] = [[] for _ in range(parts)]  # of each part: place and bytes
        self._end = 0

    def hold(self, rows: Rows, bounds: npt.NDArray[np.int64]) -> None:
        """Keep rows in memory."""
        self._held.append((rows, bounds))
        self.held_bytes += rows.nbytes

    def write(self) -> None:
        """Move what is in memory to the end of the file, by part."""
        with self._path.open("ab") as file:
            for part, places in enumerate(self._written):
                start = self._end
                for rows, bounds in self._held:
                    file.write(rows[bounds[part] : bounds[part + 1]].data)
                    self._end += int(bounds[part + 1] - bounds[part]) * rows.strides[0]
                if self._end > start:
                    places.append((start, self._end - start))
        self._held.clear()
        self.held_bytes = 0

    def pieces(self, part: int) -> Iterator[Rows]:
        """The rows of a part, some at a time. Nothing may be added any more."""
        if self._written[part]:
            with self._path.open("rb") as file:
                for start, size in self._written[part]:
                    file.seek(start)
                    yield from self._read(file, size)
        for rows, bounds in self._held:
            if bounds[part + 1] > bounds[part]:
                yield rows[bounds[part] : bounds[part + 1]]

    def part(self, part: int) -> Rows:
        """All rows of a part at once."""
        pieces = list(self.pieces(part))
        return np.concatenate(pieces) if pieces else np.empty((0, self.columns), self._dtype)

    def drop(self) -> None:
        """Forget all rows, and remove the file."""
        self._held.clear()
        self.held_bytes = 0
        self._path.unlink(missing_ok=True)

    def _read(self, file: Any, size: int) -> Iterator[Rows]:
        width = self.columns * self._dtype.itemsize
        at_once = max(_READ_AT_ONCE // width, 1) * width
        for start in range(0, size, at_once):
            read = np.fromfile(file, self._dtype, min(at_once, size - start) // self._dtype.itemsize)
            yield read.reshape(-1, self.columns)
