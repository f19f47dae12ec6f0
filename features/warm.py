"""Compile what is not compiled yet, before the first payment would have to wait for it."""

from __future__ import annotations

import numpy as np

from features.catalog import DEFAULT
from features.compaction import due, newly_of_period, summary
from features.event import UNIT_WORDS, batch_of
from features.grouping import Grouper
from features.kernels import readable
from features.payment import PaymentReader
from features.reader import EntityReader, limits_array


def warm_up() -> None:
    """Use every compiled function once: most of a minute the first time on a machine, a moment from then on."""
    words = np.ones((1, UNIT_WORDS), np.int64)
    start, end, bounds, limits = np.array([0]), np.array([1]), np.array([0, 1]), limits_array(DEFAULT.limits)
    nothing = batch_of([], topic="", partition=[], offset=[])
    PaymentReader(DEFAULT).read(nothing)
    Grouper(DEFAULT.logged).group(nothing, None)
    EntityReader(DEFAULT, "card").read(words, start, end, bounds, words[:, 2].copy())
    words = readable(words)
    due(words, start, end, np.zeros(1 << 16, np.int64), limits)
    newly_of_period(words, start, end, end)
    summary(words, limits)


if __name__ == "__main__":
    warm_up()
