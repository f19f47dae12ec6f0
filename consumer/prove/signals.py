"""Signals that come at the wrong moment, while something is made or removed; and the one with which a child ends."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import Final

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PR_SET_PDEATHSIG: Final = 1


def follow_parent(parent: int) -> None:
    """Be killed when the parent process ends; where the system has no such thing, only the parent ends it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before that
            sys.exit(1)


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
    resource_tracker.ensure_running()  # with the first child it would be started in the block, and let signals through
    with undisturbed(later=True):  # a thread that is not Python's may take one that is held from this thread alone
        held = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)
