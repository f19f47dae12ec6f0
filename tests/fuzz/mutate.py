"""Mutations that are drawn from a seed: the same inputs on every machine, with or without coverage to guide them."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Final

_TOKENS: Final = (
    *(b'"', b"'", b"\\", b"{", b"}", b"[", b"]", b":", b",", b"=", b"\n", b"\0", b" ", b"\xff", b"\xc0\xaf"),
    *(b"\xed\xa0\x80", b"\xef\xbb\xbf", rb"\ud800", rb"\u0000", "\u202e\U0001f600\u0130".encode()),
    *(b"null", b"true", b"false", b"NaN", b"Infinity", b"-Infinity", b"-0", b"1e400", b"1.5", b"''", b'""', b"{}"),
    *(b"-1", b"0", b"127", b"255", b"32768", b"2147483648", b"9007199254740993", b"9223372036854775807"),
    *(b"9223372036854775808", b"18446744073709551616", b"4111111111111111", b"9" * 60, b"[" * 70, b'{"a":' * 70),
)
_NUMBER: Final = re.compile(rb"-?\d+")
_Change = Callable[[bytes, random.Random], bytes]


class Mutator:
    """Makes inputs of a corpus. `words` are put in beside what breaks most formats."""

    def __init__(self, corpus: Sequence[bytes], words: Sequence[bytes] = (), most_bytes: int = 4_096) -> None:
        self._corpus, self._most_bytes = list(corpus) or [b""], most_bytes
        self._tokens = [*_TOKENS, *words, *words]
        self._changes: tuple[_Change, ...] = (
            *(_flip, _put, _cut, _double, _truncate, _number, _number, self._insert, self._insert, self._splice),
        )

    def inputs(self, seed: str, count: int) -> Iterator[bytes]:
        """`count` inputs, the same for the same seed."""
        rng = random.Random(seed)
        for _ in range(count):
            yield self.mutated(rng.choice(self._corpus), rng)

    def mutated(self, data: bytes, rng: random.Random) -> bytes:
        """The input after one to four changes."""
        for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4))):
            data = rng.choice(self._changes)(data, rng)
        return data[: self._most_bytes]

    def _insert(self, data: bytes, rng: random.Random) -> bytes:
        at = rng.randint(0, len(data))
        return data[:at] + rng.choice(self._tokens) + data[at + rng.choice((0, 0, 1, 3)) :]

    def _splice(self, data: bytes, rng: random.Random) -> bytes:
        other = rng.choice(self._corpus)
        return data[: rng.randint(0, len(data))] + other[rng.randint(0, len(other)) :]


def _flip(data: bytes, rng: random.Random) -> bytes:
    if not data:
        return data
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]


def _put(data: bytes, rng: random.Random) -> bytes:
    at = rng.randint(0, len(data))
    return data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]


def _range(data: bytes, rng: random.Random) -> tuple[int, int]:
    start = rng.randint(0, len(data))
    return start, min(len(data), start + rng.choice((1, 2, 4, 8, 16, 64)))


def _cut(data: bytes, rng: random.Random) -> bytes:
    start, end = _range(data, rng)
    return data[:start] + data[end:]


def _double(data: bytes, rng: random.Random) -> bytes:
    start, end = _range(data, rng)
    return data[:end] + data[start:end] * rng.choice((1, 1, 2, 40)) + data[end:]


def _truncate(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randint(0, len(data))]


def _number(data: bytes, rng: random.Random) -> bytes:
    """Another number in the place of one: at a limit, beyond it, or of another kind."""
    found = list(_NUMBER.finditer(data))
    if not found:
        return data
    place = rng.choice(found)
    number = int(place[0][:30])
    others = (0, -1, number + 1, number - 1, -number, number * 1_000, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64, 10**30)
    told = rng.choice((*(str(each).encode() for each in others), place[0] + b".5", place[0] + b"e9", b"0" + place[0]))
    return data[: place.start()] + told + data[place.end() :]
