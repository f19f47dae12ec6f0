"""Keep the entity logs in step with the payments log: trust, doubt, and catching up.

The state is trusted while every call finds its markers where they should be. After any doubt (a reconnection, another
epoch, a marker below a batch's start) *every* partition of the topic is brought to the group's committed offset, by
re-reading the payments and applying them without publishing anything, before features are used again. Any worker may
do it, several at once too: the markers make it idempotent.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

import structlog

from consumer.decode import Decoder, Message
from consumer.journal import entries
from consumer.kafka.logreader import Extent
from consumer.records import JournalEntry
from consumer.telemetry import Telemetry
from features.enrich import Enriched, Enricher
from features.errors import KafkaUnavailable, StateAhead, StateBehind, StoreUnavailable, StoreUnsuitable
from features.event import PaymentBatch
from features.store import Position, Source, Span, StateStore

_LOG: Final = structlog.get_logger("state")
CHUNK: Final = 256  # records a catch-up call applies: it must fit the store's time-out
ROUNDS: Final = 4  # looks at the log before the state is trusted, if others keep it moving
RETRY_S: Final = (
    0.0,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
)  # waits between attempts; a lost connection may heal at once


class Log(Protocol):
    """The payments log, as far as catching up needs it; see `consumer.kafka.logreader.LogReader`."""

    def extents(self) -> Mapping[int, Extent]: ...  # noqa: D102
    def read(  # noqa: D102
        self, partition: int, start: int, end: int, limit: int, deadline_s: float
    ) -> tuple[list[Message], int]: ...


class StateKeeper:
    """Hands out features while the state can be trusted, and restores the trust when it is lost."""

    def __init__(
        self,
        *,
        topic: str,
        store: StateStore,
        enricher: Enricher,
        decoder: Decoder,
        log: Log,
        journal: Callable[[Sequence[JournalEntry]], None],
        telemetry: Telemetry,
        allow_cold_state: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is trusted yet: call `recover` until `ready`. `clock` gives seconds, monotonic."""
        self._topic, self._store, self._enricher, self._decoder = topic, store, enricher, decoder
        self._log, self._journal, self._telemetry = log, journal, telemetry
        self._allow_cold_state = allow_cold_state
        self._clock = clock
        self._epoch = 0
        self._behind: dict[int, tuple[int, int]] | None = None  # partition -> (marker, committed); None: not known
        self._rounds = 0  # surveys since the doubt
        self._unsure: dict[int, int] = {}  # partition -> offset from which payments may be applied but not journaled
        self._retry_at_s = 0.0
        self._failures = 0
        self.ready = False

    def enrich(self, batch: PaymentBatch, spans: tuple[Span, ...], patience_s: float) -> Enriched | None:
        """The batch's features, or None when the state can't be trusted and can't be restored in `patience_s`."""
        deadline = self._clock() + patience_s
        while self.ready or self.recover(deadline):
            try:
                return self._enricher.enrich(batch, spans, self._epoch)
            except StateBehind as error:
                self._doubt(str(error), regression=True)
            except StoreUnavailable as error:
                for span in spans:
                    self._unsure[span.partition] = min(span.start, self._unsure.get(span.partition, span.start))
                self._failed(error)
            if self._clock() >= deadline:
                return None
        return None

    def recover(self, deadline_s: float) -> bool:
        """Work on the state until `deadline_s` (monotonic) at the latest; True once it can be trusted.

        Raises:
            StateAhead: a marker lies above the end of the log.
            StoreUnsuitable: payments that the state lacks are no longer in Kafka, or the store is misconfigured.
        """
        while not self.ready and self._clock() >= self._retry_at_s:
            try:
                if self._behind is None:
                    self._survey()
                if not self._behind:
                    self._trust()
                    break
                self._catch_up(deadline_s)
            except StateBehind as error:
                self._doubt(str(error), regression=False)
            except (StoreUnavailable, KafkaUnavailable) as error:
                self._failed(error)
            if self._clock() >= deadline_s:
                break
        return self.ready

    def _survey(self) -> None:
        """Compare every partition's marker with its committed offset."""
        # in this order: others go on meanwhile, and a marker that is read later is never below what was committed
        extents = self._log.extents()
        position = self._store.position()
        self._epoch = position.epoch
        if self._ahead(extents, position):
            # others may have gone on between the two readings: only a newer look at the log can convict
            ahead = self._ahead(self._log.extents(), position)
            if ahead:
                raise StateAhead(ahead)
        adopt: dict[Source, int] = {}
        skip: dict[Source, int] = {}
        behind: dict[int, tuple[int, int]] = {}
        for partition, extent in extents.items():
            source = (self._topic, partition)
            marker = position.markers.get(source)
            committed = extent.low if extent.committed is None else extent.committed
            if marker is None:
                marker = adopt[source] = min(extent.low, committed)
            if marker < extent.low:
                if marker < committed and not self._allow_cold_state:
                    raise StoreUnsuitable(
                        f"the state of {self._topic}/{partition} ends at offset {marker} but Kafka holds it from "
                        f"{extent.low} only: history is lost; set store.allow_cold_state to go on without it"
                    )
                marker = skip[source] = extent.low
            start = max(extent.low, min(marker, self._unsure.get(partition, marker)))
            if start < committed:
                behind[partition] = (start, committed)
        self._store.adopt(adopt)
        if skip:
            self._store.adopt(skip, force=True)
        records = sum(end - start for start, end in behind.values())
        if behind:
            _LOG.warning("state_behind", records=records)
        self._rounds += 1
        self._behind = behind

    def _ahead(self, extents: Mapping[int, Extent], position: Position) -> str:
        """Why the state can't be this log's and this group's; empty when it can."""
        for partition, extent in extents.items():
            source = (self._topic, partition)
            marker, floor = position.markers.get(source, 0), position.floors.get(source, 0)
            if marker > extent.high:
                return (
                    f"the state has {self._topic}/{partition} up to offset {marker} but the log ends at {extent.high}: "
                    "the topic was recreated; use another store.namespace"
                )
            committed = extent.low if extent.committed is None else extent.committed
            if floor > committed:
                return (
                    f"the state knows {self._topic}/{partition} as decided up to {floor} but the group stands at "
                    f"{committed}: its offsets were reset; use another store.namespace to decide again"
                )
        return ""

    def _catch_up(self, deadline_s: float) -> None:
        assert self._behind is not None  # noqa: S101  `recover` has surveyed
        partition, (start, end) = next(iter(self._behind.items()))
        messages, reached = self._log.read(partition, start, end, CHUNK, deadline_s)
        if reached == start:
            return
        batch = self._decoder.decode(messages).batch
        span = Span(self._topic, partition, start, reached, floor=end)
        self._unsure[partition] = start
        enriched = self._enricher.enrich(batch, (span,), self._epoch)
        self._journal(entries(batch, enriched, (span,)))
        self._unsure[partition] = reached
        self._telemetry.state_caught_up_records.inc(len(messages))
        if reached < end:
            self._behind[partition] = (reached, end)
        else:
            del self._behind[partition]
            # Others may have gone on meanwhile: look again. But workers that commit without state all the time would
            # never be level with us; to have been so a moment ago is enough, since the logs' own order is what counts.
            if not self._behind and self._rounds < ROUNDS:
                self._behind = None

    def _trust(self) -> None:
        self.ready = True
        self._rounds = 0
        self._unsure.clear()
        self._failures = 0
        self._telemetry.store_up.set(1)
        _LOG.info("state_trusted", epoch=self._epoch)

    def _doubt(self, why: str, *, regression: bool) -> None:
        self.ready = False
        self._behind = None
        self._rounds = 0 if regression else self._rounds
        if regression:
            self._telemetry.state_regressions.inc()
        _LOG.warning("state_doubted", why=why)

    def _failed(self, error: Exception) -> None:
        self.ready = False
        self._behind = None
        self._retry_at_s = self._clock() + RETRY_S[min(self._failures, len(RETRY_S) - 1)]
        self._failures += 1
        self._telemetry.store_up.set(0)
        _LOG.warning("state_unavailable", error=str(error), attempt=self._failures)
