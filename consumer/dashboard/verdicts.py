"""Analysts' verdicts: a label for a payment whose alert is kept, acknowledged by the brokers before it is told."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal, Protocol

import msgspec
import structlog

from consumer.dashboard.board import Board
from consumer.dashboard.gauges import Gauges
from consumer.records import Alert
from features.errors import FraudlineError
from features.event import MAX_EVENT_TIME_MS, Label, Payment

SOURCE: Final = "analyst"
MOST_WAITING: Final = 16
Word = Literal["fraud", "genuine"]
_LOG: Final = structlog.get_logger("dashboard")


class Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a page sends: a verdict on the payment of an alert."""

    event_id: str
    label: Word


@dataclass(frozen=True, slots=True)
class Given:
    """A verdict that the brokers have. `repeated`: they had it before. `whole`: the label names all that it can."""

    event_id: str
    label: str
    labelled_ms: int
    repeated: bool
    whole: bool


class Unknown(Exception):
    """There is no kept alert for this payment."""


class Writer(Protocol):
    """Where labels go."""

    def write(self, label: Label, actor: str) -> None:
        """Write a label that a person gave; returns when the brokers have it. Raises FraudlineError."""


def label_of(alert: Alert, word: Word, now_ms: int, payment: Payment | None, told_ms: int = 0) -> Label:
    """The label for an alert's payment; the payment, where it could be read, adds what the alert does not name.

    It is later than `told_ms`, when the label was given that it takes the place of: clocks may differ or stand.
    """
    labelled_ms = max(now_ms, alert.event_time, told_ms + 1)  # a payment may be dated a little ahead
    return Label(
        event_id=alert.event_id,
        card_id=alert.card_id,
        merchant_id=alert.merchant_id,
        event_time=alert.event_time,
        label=word,
        labelled_at=min(labelled_ms, MAX_EVENT_TIME_MS),
        source=SOURCE,
        account_id=alert.account_id,
        terminal_id=payment.terminal_id if payment else None,
        device_id=alert.device_id,
        ip=payment.ip if payment else None,
    )


class Verdicts:
    """Gives verdicts, one after the other. The same one again is answered, not written again."""

    def __init__(
        self,
        board: Board,
        writer: Writer,
        payment_of: Callable[[Alert], Payment | None],
        gauges: Gauges,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`payment_of` looks a payment up, and returns None where it is no longer there. `clock` tells Unix time."""
        self._board, self._writer, self._payment_of, self._gauges = board, writer, payment_of, gauges
        self._clock = clock
        self._lock = threading.Lock()
        # a thread of its own: verdicts that wait for Kafka take none from those who only look
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="dashboard-verdicts")
        self._waiting = 0

    async def give(self, asked: Asked, actor: str) -> Given:
        """Give a verdict. Raises Unknown, FraudlineError: then it may be tried again."""
        if self._waiting >= MOST_WAITING:
            raise FraudlineError("too many verdicts wait for Kafka")
        self._waiting += 1
        try:
            work = partial(self.give_now, asked, actor)
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """Give up those that wait; one that is being written is let end."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def give_now(self, asked: Asked, actor: str) -> Given:
        """The same, on the caller's thread, which waits for the brokers."""
        with self._lock:
            known = self._board.payment(asked.event_id)
            if known is None or known.kept is None:
                raise Unknown
            told = known.label
            if told is not None and told.label == asked.label and told.source == SOURCE:
                self._gauges.verdicts["repeated"].inc()
                return Given(asked.event_id, asked.label, told.labelled_ms, repeated=True, whole=True)
            alert = known.kept.alert
            payment = self._payment_of(alert)
            now_ms, told_ms = int(self._clock() * 1_000), told.labelled_ms if told else 0
            label = label_of(alert, asked.label, now_ms, payment, told_ms)
            try:
                self._writer.write(label, actor)
            except FraudlineError as error:
                self._gauges.verdicts["failed"].inc()
                _LOG.warning("verdict_not_written", error=str(error))
                raise
            self._gauges.verdicts["acknowledged"].inc()
            # the record itself comes back by the labels topic; until then this answers a repetition
            self._board.take("label", msgspec.json.encode(label), label.labelled_at)
            return Given(asked.event_id, asked.label, label.labelled_at, repeated=False, whole=payment is not None)
