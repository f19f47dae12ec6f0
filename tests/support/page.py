"""An alert page for tests: a tail that is fed by hand, and a server with a board on a port of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec

from consumer.dashboard.compose import Dashboard
from consumer.decode import Message
from consumer.records import (
    Alert,
    Decision,
    Digests,
    Inputs,
    ModelRef,
    Source,
    StageTimes,
    State,
    alert_id,
)
from consumer.settings import DashboardSettings, KafkaSettings, Settings
from features.errors import FraudlineError, KafkaUnavailable
from features.event import Label, Payment
from models.clearing import Change, Clearing
from models.explain import Reason
from tests.poison import Record

NOW_MS = 1_769_773_830_000
TOKEN = "a-token-that-is-long-enough"
PATIENCE_S = 20.0
REASONS = (
    Reason("card_small_count_24h", 4.0, 2.8316, "card.small_count", "4 payments under 5.00 in 24 hours with this card"),
    Reason("is_foreign", 1.0, 0.8035, "payment.foreign", "The payment is not in the card's country"),
    Reason("device_since_last_s", None, -0.4, "device.since_last", "The first payment from this device"),
)


def alert(event_id: str = "e-1", **changes: Any) -> Alert:
    """An alert; `changes` are of its fields."""
    made = Alert(
        alert_id=alert_id("tok_1", event_id, NOW_MS),
        event_id=event_id,
        card_id="tok_1",
        merchant_id="m_12",
        event_time=NOW_MS,
        amount_minor=1_718,
        currency="GBP",
        source=Source("payments", 0, 50_495),
        decision="review",
        score=0.2084,
        tier="full",
        reasons=REASONS,
        rules=(),
        model=ModelRef("fraudline", "1", "d5" * 32),
        feature_age_ms=1_315_244,
        stage_ms=StageTimes(4.0, 1.0, 5.0, 1.0, 2.0),
        device_id="d_9",
        account_id="a_7",
        state=State(0, 2_784_897_521, 50_495),
        state_offsets=[Source("payments", 0, 50_560)],
        cleared_by=Clearing((Change("card_small_count_24h", 4.0, 2.0),), 0.0412),
    )
    return msgspec.structs.replace(made, **changes)


def decision(event_id: str = "e-1", **changes: Any) -> Decision:
    """A decision; `changes` are of its fields."""
    made = Decision(
        event_id=event_id,
        card_id="tok_1",
        event_time=NOW_MS,
        source=Source("payments", 0, 50_495),
        decision="approve",
        score=0.0007,
        tier="full",
        model="fraudline@1",
        digests=Digests("d5" * 32, "a3" * 32, "c1" * 32),
        state=State(0, 2_784_897_521, 50_495),
        inputs=Inputs("full", "cpu", 0.0051, 0.133),
    )
    return msgspec.structs.replace(made, **changes)


def now_ms() -> int:
    return int(time.time() * 1_000)


@dataclass(slots=True)
class HandFed:
    """A tail that gives what it was fed, or fails while `away`."""

    caught_up: bool = True
    away: bool = False
    closed: bool = False
    turns: int = 0
    _waiting: list[Message] = field(default_factory=list)
    _fed: threading.Condition = field(default_factory=threading.Condition)

    def feed(self, topic: str, *records: Any, at_ms: int | None = None) -> None:
        """Give records to the next poll; bytes go as they are."""
        stamp = (1, now_ms() if at_ms is None else at_ms)
        with self._fed:
            for record in records:
                value = record if isinstance(record, bytes) else msgspec.json.encode(record)
                self._waiting.append(Record(value, of_topic=topic, record_timestamp=stamp))
            self._fed.notify_all()

    def silent_s(self) -> float:
        return 0.0

    def poll(self, wait_s: float) -> list[Message]:
        with self._fed:
            self._fed.wait_for(lambda: bool(self._waiting), 0.02)
            self.turns += 1
            if self.away:
                raise KafkaUnavailable("no Kafka broker answers at secret-host:9092")
            taken, self._waiting = self._waiting, []
        return taken

    def close(self) -> None:
        self.closed = True


@dataclass(slots=True)
class ListWriter:
    """Keeps labels with who gave them, or fails while `away`; a write waits while `answers` is not set."""

    written: list[tuple[Label, str]] = field(default_factory=list)
    away: bool = False
    answers: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.answers.set()

    def write(self, label: Label, actor: str) -> None:
        assert self.answers.wait(PATIENCE_S)
        if self.away:
            raise FraudlineError("secret-host did not take it")
        self.written.append((label, actor))


@dataclass(slots=True)
class Page:
    """A served page and what feeds it."""

    dashboard: Dashboard
    tail: HandFed
    writer: ListWriter
    address: str

    def show(self, *alerts: Alert, at_ms: int | None = None) -> None:
        """Feed alerts, and wait until the board has them."""
        self.tail.feed("alerts", *alerts, at_ms=at_ms)
        self.wait(lambda: all(self.dashboard.board.payment(each.event_id) for each in alerts))

    def wait(self, holds: Callable[[], object]) -> None:
        until(holds)


def until(holds: Callable[[], object], what: str = "that") -> None:
    """Wait until something holds that another thread brings about."""
    deadline = time.monotonic() + PATIENCE_S
    pause = threading.Event()
    while not holds():
        assert time.monotonic() < deadline, f"{what} did not come about"
        pause.wait(0.01)


def page_settings(**page: Any) -> Settings:
    """Settings of a page on a free port, for anybody on this machine unless `page` says otherwise."""
    given = {"auth": "none", "port": 0, **page}
    return Settings(kafka=KafkaSettings(brokers="localhost:1"), dashboard=DashboardSettings.model_validate(given))


@contextmanager
def served(payment: Payment | None = None, **page: Any) -> Iterator[Page]:
    """A page that is served meanwhile."""
    tail, writer = HandFed(), ListWriter()
    made = Dashboard(page_settings(**page), tail=tail, writer=writer, payment_of=lambda _alert: payment)
    made.start()
    try:
        until(lambda: made.board.reading().loaded)
        yield Page(made, tail, writer, made.address)
    finally:
        made.close()
