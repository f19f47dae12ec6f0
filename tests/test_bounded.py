"""A call that does not come back is left behind, and what it was waited for is said."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from consumer.kafka.client import Bounded

LIMIT_S = 30.0


def test_calls_run_one_after_another_on_one_thread() -> None:
    bounded, seen = Bounded(), []
    for number in range(3):
        bounded(lambda n=number: seen.append((n, threading.get_ident())), LIMIT_S)  # type: ignore[misc]
    assert [number for number, _ in seen] == [0, 1, 2]
    assert len({thread for _, thread in seen} | {threading.get_ident()}) == 2
    bounded.close()


def test_what_a_call_raises_is_raised_and_the_next_one_runs() -> None:
    bounded, seen = Bounded(), []

    def fails() -> None:
        raise ValueError("refused")

    with pytest.raises(ValueError, match="refused"):
        bounded(fails, LIMIT_S)
    bounded(lambda: seen.append(1), LIMIT_S)
    assert seen == [1]
    bounded.close()


def test_a_call_that_does_not_end_is_waited_for_no_longer() -> None:
    bounded, may_end, ended = Bounded(), threading.Event(), threading.Event()

    def stuck() -> None:
        may_end.wait()
        ended.set()

    with pytest.raises(TimeoutError):
        bounded(stuck, 0.01)
    assert not ended.is_set()
    bounded.close()
    may_end.set()
    assert ended.wait(LIMIT_S)


def test_its_thread_ends_with_it() -> None:
    def ident(into: list[threading.Thread]) -> Callable[[], None]:
        return lambda: into.append(threading.current_thread())

    bounded, threads = Bounded(), list[threading.Thread]()
    bounded(ident(threads), LIMIT_S)
    bounded.close()
    threads[0].join(LIMIT_S)
    assert not threads[0].is_alive()
