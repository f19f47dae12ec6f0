"""Reads UBJSON as XGBoost writes it: big-endian, keys without a mark, arrays with a type or a count. Trusts nothing.

Source: the Universal Binary JSON specification, draft 12 (ubjson.org), and XGBoost's `include/xgboost/json_io.h`.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

_DEEPEST: Final = 64
_NUMBERS: Final[dict[bytes, np.dtype[Any]]] = {
    b"i": np.dtype(">i1"),
    b"U": np.dtype(">u1"),
    b"I": np.dtype(">i2"),
    b"l": np.dtype(">i4"),
    b"L": np.dtype(">i8"),
    b"d": np.dtype(">f4"),
    b"D": np.dtype(">f8"),
}
_WORDS: Final = {b"Z": None, b"T": True, b"F": False}


class UbjError(ValueError):
    """The bytes are not UBJSON, or end too early."""


def parse(data: bytes) -> Any:
    """One document. Arrays of one type of number come as numpy arrays; everything else as plain Python objects.

    Raises:
        UbjError: it is none.
    """
    reader = _Reader(data)
    found = reader.value(reader.take(1), 0)
    if reader.at != len(data):
        raise UbjError(f"{len(data) - reader.at:,} bytes follow the document")
    return found


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.at = 0
        self._data = data

    def take(self, count: int) -> bytes:
        if not 0 <= count <= len(self._data) - self.at:
            raise UbjError(f"it ends within the document, at byte {self.at:,}")
        self.at += count
        return self._data[self.at - count : self.at]

    def value(self, mark: bytes, depth: int) -> Any:
        if depth > _DEEPEST:
            raise UbjError("it is nested too deep")
        if mark == b"{":
            return self._object(depth)
        if mark == b"[":
            return self._array(depth)
        if mark == b"S":
            return self._text()
        if mark in _WORDS:
            return _WORDS[mark]
        if mark in _NUMBERS:
            return self._numbers(mark, 1)[0].item()
        raise UbjError(f"no value begins with {mark!r}, at byte {self.at:,}")

    def _object(self, depth: int) -> dict[str, Any]:
        found = {}
        while self._peek() != b"}":
            key = self._text()
            found[key] = self.value(self.take(1), depth + 1)
        self.take(1)
        return found

    def _array(self, depth: int) -> Any:
        if self._peek() == b"$":
            self.take(1)
            mark = self.take(1)
            if self.take(1) != b"#" or mark not in _NUMBERS:
                raise UbjError(f"an array has no type of number and no count, at byte {self.at:,}")
            return self._numbers(mark, self._count())
        if self._peek() == b"#":
            self.take(1)
            return [self.value(self.take(1), depth + 1) for _ in range(self._count())]
        found = []
        while self._peek() != b"]":
            found.append(self.value(self.take(1), depth + 1))
        self.take(1)
        return found

    def _numbers(self, mark: bytes, count: int) -> Any:
        kind = _NUMBERS[mark]
        return np.frombuffer(self.take(count * kind.itemsize), kind).astype(kind.newbyteorder("="))

    def _text(self) -> str:
        try:
            return self.take(self._count()).decode()
        except UnicodeDecodeError as error:
            raise UbjError(f"a text is not UTF-8, at byte {self.at:,}") from error

    def _count(self) -> int:
        mark = self.take(1)
        if mark not in {b"i", b"U", b"I", b"l", b"L"}:
            raise UbjError(f"a count is missing, at byte {self.at:,}")
        count = int.from_bytes(self.take(_NUMBERS[mark].itemsize), "big", signed=mark != b"U")
        if count < 0:
            raise UbjError(f"a count is negative, at byte {self.at:,}")
        return count

    def _peek(self) -> bytes:
        return self._data[self.at : self.at + 1] or self.take(1)
