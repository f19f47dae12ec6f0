"""Streams of news to browsers (server-sent events).

A stream is no queue but a place in the board. So a slow browser costs nothing and nothing waits for it: when it reads
again it gets the newest, and is told how many it missed.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, Final

import msgspec
from sse_starlette.event import ServerSentEvent

from consumer.dashboard.board import Board, News
from consumer.dashboard.gauges import Gauges
from consumer.dashboard.selection import Selection

AT_ONCE: Final = 100
GATHER_S: Final = 0.25
FIGURES_S: Final = 2.0
LIFE_S: Final = 3_600.0
FAR_BEHIND: Final = 5_000  # numbers: the list tells it better than a stream that seeks so far
RETRY_MS: Final = 2_000


class Streams:
    """The open streams of one page, at most `most`. All but `wake` and `close` belongs to the server's event loop."""

    def __init__(self, board: Board, gauges: Gauges, most: int) -> None:
        """Nothing is open yet."""
        self._board, self._gauges, self._most = board, gauges, most
        self._boot = secrets.token_hex(4)  # numbers begin anew with each start of the page
        self._open = 0
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed = asyncio.Event()
        self._waking = False
        self._closing = False
        self._figures: tuple[float, str] = (-FIGURES_S, "")

    @property
    def open(self) -> int:
        """How many there are."""
        return self._open

    def wake(self) -> None:
        """Something is new. Safe from any thread; never blocks."""
        with self._lock:
            if self._waking or self._loop is None:
                return
            self._waking = True
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._wake)

    def close(self) -> None:
        """End every stream soon. Safe from any thread."""
        self._closing = True
        self.wake()

    def enter(self) -> bool:
        """Take a place, if there is one; `follow` gives it back."""
        if self._open >= self._most or self._closing:
            self._gauges.streams_refused.inc()
            return False
        with self._lock:
            self._loop = asyncio.get_running_loop()
        self._open += 1
        self._gauges.streams.set(self._open)
        return True

    def leave(self) -> None:
        """Give a place back."""
        self._open -= 1
        self._gauges.streams.set(self._open)

    def start(self, last_id: str | None, after: int) -> int | None:
        """From which number on a stream tells: behind the last event that its browser has, else behind `after`.

        None if that event was told by an earlier start of this page, or too much came since: then it begins anew.
        """
        number = after
        if last_id:
            boot, _, text = last_id.partition("-")
            if boot != self._boot or not (text.isascii() and text.isdigit() and len(text) < 18):
                return None
            number = int(text)
        return number if number >= self._board.number - FAR_BEHIND else None

    async def follow(self, asked: Selection, number: int | None) -> AsyncIterator[ServerSentEvent]:
        """Tell what comes after a number, until the page is closed or the stream is an hour old."""
        if number is None:
            number = self._board.number
            yield self._event("reset", "{}", number)
        ends_s = time.monotonic() + LIFE_S
        told_s = -FIGURES_S
        while not self._closing and time.monotonic() < ends_s:
            changed = self._changed
            news = self._board.since(number, asked, AT_ONCE)
            number = news.number
            if news.alerts or news.labels:
                yield self._event("news", _news(news), number)
            now_s = time.monotonic()
            if now_s - told_s >= FIGURES_S:
                told_s = now_s
                yield self._event("figures", self.figures(), number)
            with suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), max(0.0, told_s + FIGURES_S - time.monotonic()))
                await asyncio.sleep(GATHER_S)

    def figures(self) -> str:
        """The figures as JSON, made anew at most every `FIGURES_S` seconds, whoever asks."""
        made_s, text = self._figures
        now_s = time.monotonic()
        if now_s - made_s >= FIGURES_S / 2:
            now_ms = int(time.time() * 1_000)
            document = self._board.figures(now_ms) | {"reading": self.reading(), "streams": self._open}
            text = msgspec.json.encode(document).decode()
            self._figures = (now_s, text)
        return text

    def reading(self) -> dict[str, Any]:
        """How the reading goes, as the page says it."""
        reading = self._board.reading()
        return {
            "loaded": reading.loaded,
            "stale": reading.stale,
            "heard_ms": reading.heard_ms,
            "unreadable": sum(reading.unreadable.values()),
        }

    def _wake(self) -> None:
        with self._lock:
            self._waking = False
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _event(self, name: str, data: str, number: int) -> ServerSentEvent:
        return ServerSentEvent(data, event=name, id=f"{self._boot}-{number}", retry=RETRY_MS)


def _news(news: News) -> str:
    return msgspec.json.encode(
        {
            "alerts": [msgspec.Raw(kept.line) for kept in news.alerts],
            "skipped": news.skipped,
            "labels": news.labels,
        }
    ).decode()
