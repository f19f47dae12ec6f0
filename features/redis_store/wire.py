"""Calls and replies of `apply.lua` as Redis carries them."""

from __future__ import annotations

from typing import Any, Final

import msgspec
import numpy as np

from features.event import UNIT_BYTES
from features.store import Append, Applied, Run, packed_spans

_RUN: Final = 4  # numbers


def arguments(prefix: bytes, append: Append, idle_s: int) -> list[bytes]:
    """A call's number of keys, keys and arguments, as `apply.lua` wants them."""
    places = {key: place for place, key in enumerate(append.keys, start=2)}
    extra = [key for key in (*(each.key for each in append.replacements), *append.refresh) if key not in places]
    for key in extra:
        places.setdefault(key, len(places) + 2)
    others = list(places)[len(append.keys) :]
    replacements = [[places[each.key], each.cut] for each in append.replacements]
    return [
        str(1 + len(places)).encode(),
        prefix + b"meta",
        *[prefix + key for key in append.keys],
        *[prefix + key for key in others],
        str(append.epoch).encode(),
        packed_spans(append.spans),
        msgspec.msgpack.encode(append.counts),
        append.records.tobytes(),
        str(idle_s).encode(),
        msgspec.msgpack.encode(replacements),
        msgspec.msgpack.encode([places[key] for key in append.refresh]),
        str(len(others)).encode(),
        b"1" if append.all_floors else b"0",
        *[content for each in append.replacements for content in (each.first, each.summary)],
    ]


def applied(reply: list[Any]) -> Applied:
    """The reply to a call that was not refused."""
    logs: list[bytes] = reply[5]
    lengths = np.fromiter(map(len, logs), np.int64, len(logs)) // UNIT_BYTES
    runs = [_runs(packed) for packed in reply[4]]
    return Applied(b"".join(logs), lengths, reply[1] == 1, reply[2], reply[3], runs, _floors(reply[6]))


def _runs(packed: bytes) -> list[Run]:
    numbers = msgspec.msgpack.decode(packed)
    return [Run(*numbers[i : i + _RUN]) for i in range(0, len(numbers), _RUN)]


def _floors(flat: list[bytes]) -> dict[int, int]:
    """All floors by source id, from the hash of a shard."""
    held = dict(zip(flat[::2], flat[1::2], strict=True))
    return {int(value): int(held[b"f:" + name[2:]]) for name, value in held.items() if name[:2] == b"i:"}
