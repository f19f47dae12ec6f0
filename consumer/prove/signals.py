"""Signals that come at the wrong moment: while something is made that is not noted yet, or while all is removed."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def undisturbed(*, later: bool = False) -> Iterator[None]:
    """Leave signals aside while the block runs; `later`: the first of them comes when it is over."""
    came: list[int] = []
    before = {number: signal.signal(number, lambda told, _frame: came.append(told)) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if later and came:
            signal.raise_signal(came[0])


@contextmanager
def held_from_children() -> Iterator[None]:
    """Children that are started in the block get no signal until they say what they do with it."""
    with undisturbed(later=True):  # a thread that is not Python's may take one that is held from this thread alone
        held = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)
