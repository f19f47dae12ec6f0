"""A survey of the state while other workers go on: what moves between two reads is no sign of trouble."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from consumer.decode import Decoder, Message
from consumer.kafka.logreader import Extent
from consumer.state import StateKeeper
from consumer.telemetry import Telemetry
from features.catalog import DEFAULT
from features.enrich import Enricher
from features.event import UNIT_WORDS
from features.store import Append, MemoryStore, Position, Source, Span

TOPIC = "payments"


class Others:
    """Another worker that applies and commits ten records whenever somebody looks at the state or at the log."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.store.adopt({(TOPIC, 0): 0})
        self.end = 0

    def go_on(self) -> None:
        epoch = self.store.positions()[0].epoch
        span = Span(TOPIC, 0, self.end, self.end + 10, self.end)
        self.store.apply([Append(epoch, (span,), [], [], np.empty((0, UNIT_WORDS), np.int64))])
        self.end += 10


class BusyStore(MemoryStore):
    """Answers `positions` from the state that the others move on."""

    def __init__(self, others: Others, *, before: bool) -> None:
        super().__init__()
        self._others, self._before = others, before

    def positions(self) -> list[Position]:
        if self._before:
            self._others.go_on()
        return self._others.store.positions()


class BusyLog:
    """Answers `extents` after the others have gone on; nothing has to be read from it."""

    def __init__(self, others: Others, *, before: bool) -> None:
        self._others, self._before = others, before

    def extents(self) -> Mapping[Source, Extent]:
        if self._before:
            self._others.go_on()
        return {(TOPIC, 0): Extent(0, self._others.end, self._others.end)}

    def read(self, source: Source, start: int, end: int, limit: int, deadline_s: float) -> tuple[list[Message], int]:
        raise AssertionError("nothing is missing from the state")


@pytest.mark.parametrize("moves", ["store", "log"])
def test_a_state_that_others_move_on_during_the_survey_is_trusted(moves: str) -> None:
    others = Others()
    store = BusyStore(others, before=moves == "store")
    decoder = Decoder(max_payment_bytes=1_000, max_future_ms=1_000)
    keeper = StateKeeper(
        payments=TOPIC,
        labels=None,
        store=store,
        enricher=Enricher(DEFAULT, store),
        decoder=decoder,
        log=BusyLog(others, before=moves == "log"),
        journal=lambda _entries: None,
        telemetry=Telemetry(),
        clock=lambda: 0.0,
    )
    assert keeper.recover(0.0)
