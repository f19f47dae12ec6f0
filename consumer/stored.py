"""Reads logs from the store as they are, without recording anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from features.enrich import shard_of
from features.errors import StateBehind
from features.event import UNIT_WORDS, Words
from features.store import Append, Position, StateStore

TRIES: Final = 5


def stored(store: StateStore, keys: Sequence[bytes]) -> tuple[list[Position], Mapping[bytes, Words]]:
    """Where the shards stand, and the logs of some keys, each of shape (units, 6). Raises StoreError."""
    for attempt in range(TRIES):
        positions = store.positions()
        by_shard: list[list[bytes]] = [[] for _ in positions]
        for key in keys:
            by_shard[shard_of(key, len(positions))].append(key)
        nothing = np.empty((0, UNIT_WORDS), np.int64)
        appends = [
            Append(position.epoch, (), own, [0] * len(own), nothing)
            for position, own in zip(positions, by_shard, strict=True)
        ]
        try:
            applied = store.apply(appends)
        except StateBehind:
            if attempt == TRIES - 1:
                raise
            continue
        logs: dict[bytes, Words] = {}
        for own, each in zip(by_shard, applied, strict=True):
            words, starts, ends = each.logs()
            logs |= {key: words[a:b] for key, a, b in zip(own, starts.tolist(), ends.tolist(), strict=True)}
        return positions, logs
    raise AssertionError
