"""XXH3 (64 bits) of every string of an Arrow array at once: what `xxhash.xxh3_64_intdigest` gives, without the strings.

Written after the specification in xxHash's `xxhash.h`, for keys of up to 128 bytes; the few longer ones (an id has up
to 128 characters) are left to the library.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from xxhash import xxh3_64_intdigest

from features.event import Words
from features.kernels import compiled

Bytes = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

_U: Final = np.uint64
_SECRET: Final = np.frombuffer(
    bytes.fromhex(
        "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671f"
        "cb79e64eccc0e578825ad07dccff7221b8084674f743248ee03590e6813a264c"
        "3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
        "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364"
    ),
    "<u8",
)
"""The first 128 bytes of XXH3's default secret, as little-endian words."""

_PRIME32_1: Final = _U(0x9E3779B1)
_PRIME64_1, _PRIME64_2, _PRIME64_3 = _U(0x9E3779B185EBCA87), _U(0xC2B2AE3D27D4EB4F), _U(0x165667B19E3779F9)
_MX1, _MX2 = _U(0x165667919E3779F9), _U(0x9FB21C651E98DF25)
_LOW: Final = _U(0xFFFFFFFF)
_EMPTY: Final = xxh3_64_intdigest(b"")
_LONGEST: Final = 128

_SHORT_FLIP: Final = (_SECRET[0] & _LOW) ^ (_SECRET[0] >> _U(32))
_MIDDLE_FLIP: Final = _SECRET[1] ^ _SECRET[2]
_LOW_FLIP, _HIGH_FLIP = _SECRET[3] ^ _SECRET[4], _SECRET[5] ^ _SECRET[6]

OK, ABSENT, TOO_SHORT_OR_LONG, LONG_KEY = 0, 1, 2, 3


@compiled
def _read32(data: Bytes, at: int) -> Any:
    return (
        _U(data[at]) | (_U(data[at + 1]) << _U(8)) | (_U(data[at + 2]) << _U(16)) | (_U(data[at + 3]) << _U(24))
    )  # fmt: skip


@compiled
def _read64(data: Bytes, at: int) -> Any:
    return _read32(data, at) | (_read32(data, at + 4) << _U(32))


@compiled
def _fold128(a: Any, b: Any) -> Any:
    """The upper half of a 128-bit product, xor its lower half."""
    a_low, a_high, b_low, b_high = a & _LOW, a >> _U(32), b & _LOW, b >> _U(32)
    low, cross = a_low * b_low, a_high * b_low
    middle = (low >> _U(32)) + (cross & _LOW) + a_low * b_high
    return (a_high * b_high + (cross >> _U(32)) + (middle >> _U(32))) ^ ((middle << _U(32)) | (low & _LOW))


@compiled
def _swapped(value: Any) -> Any:
    """The bytes of a word in the other order."""
    value = ((value & _U(0x00FF00FF00FF00FF)) << _U(8)) | ((value >> _U(8)) & _U(0x00FF00FF00FF00FF))
    value = ((value & _U(0x0000FFFF0000FFFF)) << _U(16)) | ((value >> _U(16)) & _U(0x0000FFFF0000FFFF))
    return (value << _U(32)) | (value >> _U(32))


@compiled
def _avalanche(value: Any) -> Any:
    value = (value ^ (value >> _U(37))) * _MX1
    return value ^ (value >> _U(32))


@compiled
def _up_to_3(data: Bytes, at: int, length: int) -> Any:
    first, middle, last = _U(data[at]), _U(data[at + (length >> 1)]), _U(data[at + length - 1])
    value = ((first << _U(16)) | (middle << _U(24)) | last | (_U(length) << _U(8))) ^ _SHORT_FLIP
    value = (value ^ (value >> _U(33))) * _PRIME64_2
    value = (value ^ (value >> _U(29))) * _PRIME64_3
    return value ^ (value >> _U(32))


@compiled
def _up_to_8(data: Bytes, at: int, length: int) -> Any:
    value = (_read32(data, at + length - 4) + (_read32(data, at) << _U(32))) ^ _MIDDLE_FLIP
    value ^= ((value << _U(49)) | (value >> _U(15))) ^ ((value << _U(24)) | (value >> _U(40)))
    value *= _MX2
    value ^= (value >> _U(35)) + _U(length)
    value *= _MX2
    return value ^ (value >> _U(28))


@compiled
def _up_to_16(data: Bytes, at: int, length: int) -> Any:
    low, high = _read64(data, at) ^ _LOW_FLIP, _read64(data, at + length - 8) ^ _HIGH_FLIP
    return _avalanche(_U(length) + _swapped(low) + high + _fold128(low, high))


@compiled
def _up_to_128(data: Bytes, at: int, length: int) -> Any:
    total = _U(length) * _PRIME64_1
    for pair in range((length - 1) // 32 + 1):
        front, back, word = at + 16 * pair, at + length - 16 * (pair + 1), 4 * pair
        total += _fold128(_read64(data, front) ^ _SECRET[word], _read64(data, front + 8) ^ _SECRET[word + 1])
        total += _fold128(_read64(data, back) ^ _SECRET[word + 2], _read64(data, back + 8) ^ _SECRET[word + 3])
    return _avalanche(total)


@compiled
def _characters(data: Bytes, at: int, length: int) -> int:
    """How many characters some bytes of UTF-8 are: those that continue none."""
    count = 0
    for place in range(at, at + length):
        count += data[place] & 0xC0 != 0x80
    return count


@compiled
def _hash_key(data: Bytes, at: int, length: int) -> Any:
    """The hash of a key of at most 128 bytes."""
    if length > 16:
        return _up_to_128(data, at, length)
    if length > 8:
        return _up_to_16(data, at, length)
    if length > 3:
        return _up_to_8(data, at, length)
    return _up_to_3(data, at, length) if length > 0 else _U(_EMPTY)


@compiled
def _hash_all(
    offsets: npt.NDArray[np.int32], data: Bytes, present: Mask, least: int, most: int, hashes: Words, faults: Bytes
) -> None:
    """Fill `hashes` and `faults`; `present` is empty where all are."""
    for i in range(hashes.size):
        at, length = offsets[i], offsets[i + 1] - offsets[i]
        if present.size and not present[i]:
            faults[i] = ABSENT
        elif length < least or (length > most and _characters(data, at, length) > most):
            faults[i] = TOO_SHORT_OR_LONG
        elif length > _LONGEST:
            faults[i] = LONG_KEY
        else:
            hashes[i] = np.int64(_hash_key(data, at, length))


@compiled
def _suspect(offsets: npt.NDArray[np.int32], data: Bytes, suspects: Mask) -> None:
    for i in range(suspects.size):
        start, end = offsets[i], offsets[i + 1]
        digits, foreign = 0, False
        for at in range(start, end):
            digits += 48 <= data[at] <= 57
            foreign = foreign or data[at] >= 128
        suspects[i] = end > start and (foreign or (digits >= 12 and data[start] < 65 and data[end - 1] < 65))


def _raw(strings: pa.StringArray) -> tuple[npt.NDArray[np.int32], Bytes]:
    """The buffers of an array of at least one string: n + 1 offsets, and bytes."""
    _, offsets, data = strings.buffers()
    return (
        np.frombuffer(offsets, np.int32)[strings.offset : strings.offset + len(strings) + 1],
        np.frombuffer(data, np.uint8) if data is not None and data.size else _NO_BYTES,
    )


def hash_strings(strings: pa.StringArray, least: int, most: int) -> tuple[Words, Bytes]:
    """Hash n strings of `least` to `most` characters.

    Returns (n,) their hashes as int64, 0 for what is absent or has another length; and (n,) OK, ABSENT or
    TOO_SHORT_OR_LONG.
    """
    n = len(strings)
    hashes, faults = np.zeros(n, np.int64), np.zeros(n, np.uint8)
    if n:
        present = np.asarray(strings.is_valid()) if strings.null_count else _ALL
        _hash_all(*_raw(strings), present, least, most, hashes, faults)
    for row in np.flatnonzero(faults == LONG_KEY).tolist():
        digest = xxh3_64_intdigest(strings[row].as_py().encode())
        hashes[row], faults[row] = np.uint64(digest).astype(np.int64), OK
    return hashes, faults


def may_be_card_numbers(strings: pa.StringArray) -> Mask:
    """(n,) True for what a look is worth: a dozen digits and no letter at either end, or anything beyond ASCII."""
    suspects = np.zeros(len(strings), np.bool_)
    if len(strings):
        _suspect(*_raw(strings), suspects)
    return suspects


_NO_BYTES: Final = np.zeros(0, np.uint8)
_ALL: Final = np.zeros(0, np.bool_)
