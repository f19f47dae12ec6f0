"""Reads alerts, decisions and labels into the board on a thread of its own, through any outage."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Final, Protocol

import structlog

from consumer.dashboard.board import Board, Kind
from consumer.decode import Message
from features.errors import KafkaUnavailable

POLL_S: Final = 0.2
RETRY_S: Final = 1.0
AHEAD_MS: Final = 60_000  # one record dated years ahead would push all others out of the figures
_LOG: Final = structlog.get_logger("dashboard")


class Tail(Protocol):
    """What follows topics from some way before their ends; see `consumer.kafka.tail.TailReader`."""

    @property
    def caught_up(self) -> bool:
        """Whether the past was read."""

    def silent_s(self) -> float:
        """Seconds since the brokers were last heard of."""

    def poll(self, wait_s: float) -> list[Message]:
        """What has come. Raises KafkaUnavailable."""

    def close(self) -> None:
        """Release the connection."""


class Feed:
    """Fills the board until `stop`; nobody who looks at the board can hold it up."""

    def __init__(
        self,
        tail: Tail,
        board: Board,
        kinds: Mapping[str, Kind],
        news: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`kinds` says by topic what its records are; `news` is called after something changed, and must not block.

        The tail is closed by `stop`. `clock` tells Unix time in seconds.
        """
        self._tail, self._board, self._kinds, self._news, self._clock = tail, board, kinds, news, clock
        self._past: list[tuple[int, Kind, bytes | None]] | None = []
        self._lost = False
        self.failure: Exception | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True, name="dashboard-feed")

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def stop(self) -> None:
        """End, and release the connection; may be called twice."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(2 * POLL_S + RETRY_S)
        self._tail.close()

    def _follow(self) -> None:
        while not self._stopping.is_set():
            try:
                self.turn()
            except KafkaUnavailable as error:
                if not self._lost:
                    _LOG.warning("kafka_lost", error=str(error))
                self._lost = True
                self._board.lost()
                self._news()
                self._stopping.wait(RETRY_S)
            except Exception as error:
                self._fail(error)
                return

    def _fail(self, error: Exception) -> None:
        """Nothing is read any more: say so, and leave it to the owner to end."""
        if self._stopping.is_set():
            return  # the tail was closed meanwhile
        self.failure = error
        _LOG.error("feed_failed", exc_info=error)
        self._board.lost()
        self._news()

    def turn(self) -> None:
        """Take what has come. Raises KafkaUnavailable."""
        messages = self._tail.poll(POLL_S)
        now_ms = int(self._clock() * 1_000)
        if self._past is None:
            for message in messages:
                at_ms = min(message.timestamp()[1], now_ms + AHEAD_MS)
                self._board.take(self._kinds[message.topic()], message.value(), at_ms, now_ms)
        else:
            self._gather(messages, now_ms)
        changed = bool(messages) or self._lost
        if self._lost:
            _LOG.info("kafka_found")
            self._lost = False
        self._board.heard(now_ms - int(self._tail.silent_s() * 1_000), loaded=self._past is None)
        if changed:
            self._news()

    def _gather(self, messages: list[Message], now_ms: int) -> None:
        """Put the past aside until all of it was read: partitions come one after the other, time does not."""
        assert self._past is not None  # noqa: S101  the caller looked
        for message in messages:
            at_ms = min(message.timestamp()[1], now_ms + AHEAD_MS)
            self._past.append((at_ms, self._kinds[message.topic()], message.value()))
        if self._tail.caught_up:
            for at_ms, kind, value in sorted(self._past, key=lambda each: each[0]):
                self._board.take(kind, value, at_ms)
            self._past = None
            self._news()
