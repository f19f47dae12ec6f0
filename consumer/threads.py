"""Work spread over threads: results in turn, and what is for one thread at a time."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Generic, TypeVar

_T = TypeVar("_T")
_R = TypeVar("_R")
_K = TypeVar("_K", bound=Hashable)


def in_turn(do: Callable[[_T], _R], items: Iterable[_T], threads: int) -> Iterator[_R]:
    """What is made of each item, in their order; at most twice as many are in hand as there are threads."""
    waiting, running = iter(items), deque[Future[_R]]()
    with ThreadPoolExecutor(threads) as pool:
        while True:
            running.extend(pool.submit(do, item) for item in islice(waiting, 2 * threads - len(running)))
            if not running:
                return
            yield running.popleft().result()


class PerThread(Generic[_K, _R]):
    """Things by key, of which every thread has its own, made when it first asks."""

    def __init__(self, make: Callable[[_K], _R]) -> None:
        """`make` gives one more of a key."""
        self._make, self._held = make, threading.local()

    def __getitem__(self, key: _K) -> _R:
        """This thread's."""
        held: dict[_K, _R] = self._held.__dict__.setdefault("held", {})
        if key not in held:
            held[key] = self._make(key)
        return held[key]
