"""Scores golden rows in a process of its own, because a corrupt UBJ file can crash the process that loads it.

Run as a script by `models.bundle`, with a `Request` in MessagePack on standard input; the answer is a `Response` on
standard output. It imports no other module of this project, so that it runs wherever the interpreter does.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterable

import msgspec
import numpy as np
import numpy.typing as npt
import xgboost

MAX_MEMORY_BYTES = 8 << 30


class Request(msgspec.Struct, frozen=True):
    """A model and the rows to score: (n, columns) float32 as little-endian bytes, NaN where missing."""

    model: bytes
    rows: bytes
    columns: int


class Response(msgspec.Struct, frozen=True):
    """What the model says of itself, and the scores of the rows as float32 bytes."""

    columns: int
    names: tuple[str, ...]
    trees: int
    scores: bytes


def score_rows(request: Request) -> Response:
    """Load the model and score the rows on one CPU thread. Whatever is wrong with the model, raises or crashes."""
    booster = xgboost.Booster({"nthread": 1})
    booster.load_model(bytearray(request.model))
    rows: npt.NDArray[np.float32] = np.frombuffer(request.rows, "<f4").reshape(-1, request.columns)
    scores = booster.inplace_predict(rows)
    return Response(
        columns=int(booster.num_features()),
        names=tuple(booster.feature_names or ()),
        trees=int(booster.num_boosted_rounds()),
        scores=np.asarray(scores, "<f4").tobytes(),
    )


def _limit() -> None:
    """A damaged length must end in an error, not in a swapping machine or a core dump."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = MAX_MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(MAX_MEMORY_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def main(requests: Iterable[bytes]) -> bytes:
    """Answer each request in turn."""
    return msgspec.msgpack.encode([score_rows(msgspec.msgpack.decode(one, type=Request)) for one in requests])


if __name__ == "__main__":
    _limit()
    sys.stdout.buffer.write(main(msgspec.msgpack.decode(sys.stdin.buffer.read(), type=list[bytes])))
