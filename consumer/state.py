"""Keep the entity logs in step with the logs of payments and labels: trust, doubt, and catching up.

The state is trusted while every call finds its markers where they should be. After any doubt (a reconnection, another
epoch, a marker below a batch's start) *every* partition of both topics is brought to the group's committed offset, in
every shard, by re-reading the records and applying them without publishing anything, before features are used again.
Any worker may do it, several at once too: the markers make it idempotent.

Who was killed after a call may not have lived to journal it. Its numbers are kept with the markers until the next call
of the partition, so whoever looks at the markers journals them.

A state that went back in time would draw sequence numbers a second time, so it is given new epochs first. One worker's
are enough: the others find epochs that they don't know, and take them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

import structlog

from consumer.decode import Decoder, Message
from consumer.journal import descent, entries, told_again
from consumer.kafka.logreader import Extent
from consumer.records import JournalEntry
from consumer.survey import ahead, standing
from consumer.telemetry import Telemetry
from features.enrich import Enriched, Enricher, Sent
from features.errors import (
    KafkaRefused,
    KafkaUnavailable,
    StateAhead,
    StateBehind,
    StoreError,
    StoreUnavailable,
    StoreUnsuitable,
)
from features.event import LabelBatch, PaymentBatch
from features.store import Position, Source, Span, StateStore

_LOG: Final = structlog.get_logger("state")
CHUNK: Final = 256  # records a catch-up call applies: it must fit the store's time-out
ROUNDS: Final = 4  # looks at the log before the state is trusted, if others keep it moving
UNDISTURBED_S: Final = 2.0  # for the last of them, in which no batch comes between
RETRY_S: Final = (
    0.0,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
)  # waits between attempts; a lost connection may heal at once
IRREPARABLE: Final = 2  # surveys in a row that find nothing to catch up with, while a record is missing


class Log(Protocol):
    """Both logs, as far as catching up needs them; see `consumer.kafka.logreader.LogReader`."""

    def extents(self) -> Mapping[Source, Extent]: ...  # noqa: D102
    def read(  # noqa: D102
        self, source: Source, start: int, end: int, limit: int, deadline_s: float
    ) -> tuple[list[Message], int]: ...


class StateKeeper:
    """Hands out features while the state can be trusted, and restores the trust when it is lost."""

    def __init__(
        self,
        *,
        payments: str,
        labels: str | None,
        store: StateStore,
        enricher: Enricher,
        decoder: Decoder,
        log: Log,
        journal: Callable[[Sequence[JournalEntry]], None],
        telemetry: Telemetry,
        allow_cold_state: bool = False,
        clock: Callable[[], float] = time.monotonic,
        step: Callable[[str], None] = lambda _name: None,
    ) -> None:
        """Nothing is trusted yet: call `recover` until `ready`.

        `payments` and `labels` are topics (None: there are no labels); `clock` gives seconds, monotonic; `step` is told
        of each step that a crash may hit.
        """
        self._payments, self._labels = payments, labels
        self._store, self._enricher, self._decoder = store, enricher, decoder
        self._log, self._journal, self._telemetry = log, journal, telemetry
        self._allow_cold_state = allow_cold_state
        self._clock, self._step = clock, step
        self._epochs: list[int] = []  # by shard; empty: not known
        self._announced: list[int] = []  # those whose descent was journaled
        self._told: dict[tuple[int, str, int], JournalEntry] = {}  # the newest that this keeper journaled
        self._behind: dict[Source, tuple[int, int]] | None = None  # from where to where; None: not known
        self._read_ms: dict[Source, int] = {}  # Kafka timestamp of the record that was read last
        self._rounds = 0  # surveys since the doubt
        self._unsure: dict[Source, int] = {}  # offset from which records may be applied but not journaled
        self._may_renew = True  # once a doubt
        self._refused: tuple[Span, ...] = ()  # the call with which the doubt began, until it is looked into
        self._complaint = ""  # why it was refused
        self._in_vain = 0  # surveys, in a row, that found no reason for that complaint
        self._retry_at_s = 0.0
        self._failures = 0
        self.ready = False

    def send(self, batch: PaymentBatch, spans: tuple[Span, ...], labels: LabelBatch | None = None) -> Sent | None:
        """Have the store begin with a batch. None when it can't be: then `enrich` finds out why.

        Until `enrich` or `forget` is given what comes back, nothing else may be asked.
        """
        if not self.ready:
            return None
        try:
            return self._enricher.send(batch, spans, self._epochs, labels)
        except StoreUnavailable as error:
            self._failed(error)
        except StoreError:
            pass  # `enrich` meets it too
        return None

    def forget(self, sent: Sent) -> None:
        """Take the answer for a batch that is not decided now; it is found applied when it is read again."""
        try:
            self._enricher.receive(sent)
        except StoreUnavailable as error:
            self._failed(error)
        except StoreError:
            pass  # whoever asks next meets it too

    def enrich(
        self,
        batch: PaymentBatch,
        spans: tuple[Span, ...],
        patience_s: float,
        labels: LabelBatch | None = None,
        sent: Sent | None = None,
    ) -> Enriched | None:
        """The batch's features, or None when the state can't be trusted and can't be restored in `patience_s`.

        `sent` is what `send` gave for this batch. Raises StateAhead and StoreUnsuitable as `recover` does.
        """
        deadline = self._clock() + patience_s
        while self.ready or self.recover(deadline):
            try:
                first, sent = sent, None
                if first is None:
                    enriched = self._enricher.enrich(batch, spans, self._epochs, labels)
                else:
                    enriched = self._enricher.receive(first)
            except StateBehind as error:
                self._complain(str(error), spans)
            except StoreUnavailable as error:
                self._failed(error)
            else:
                self._complaint = ""
                return enriched
            if self._clock() >= deadline:
                break
        # It may be applied: the answer was lost, or it is what a worker had in hand when it died. Then its order must
        # still be told, though the markers don't ask for it.
        for span in spans:
            source = (span.topic, span.partition)
            self._unsure[source] = min(span.start, self._unsure.get(source, span.start))
        return None

    def recover(self, deadline_s: float) -> bool:
        """Work on the state until `deadline_s` (monotonic) at the latest; True once it can be trusted.

        Raises:
            StateAhead: a marker lies above the end of the log.
            StoreUnsuitable: records that the state lacks are no longer in Kafka, the store is misconfigured, or a
                record is missing that catching up does not bring back.
            KafkaRefused: the logs may not be read.
        """
        is_last = self._rounds >= ROUNDS and not self.ready and self._clock() >= self._retry_at_s
        if is_last:  # what we decide between two slices keeps our own partitions ahead of the markers: now nothing is
            deadline_s = max(deadline_s, self._clock() + UNDISTURBED_S)
            self._behind = None
        while not self.ready and self._clock() >= self._retry_at_s:
            try:
                if self._behind is None:
                    self._survey()
                if not self._behind:
                    self._trust()
                    break
                self._catch_up(deadline_s)
            except StateBehind as error:
                self._doubt(str(error))
            except KafkaRefused:
                raise
            except (StoreUnavailable, KafkaUnavailable) as error:
                self._failed(error)
            if self._clock() >= deadline_s:
                break
        if is_last and not self.ready:
            self._rounds = 0  # in vain: payments are not to wait for it each time
        return self.ready

    def _survey(self) -> None:
        """Compare every partition's markers with its committed offset."""
        # in this order: others go on meanwhile, and a marker that is read later is never below what was committed
        extents = self._log.extents()
        positions = self._store.positions()
        # others may have gone on between the two readings: only a newer look at the log can convict
        if ahead(extents, positions) and (why := ahead(self._log.extents(), positions)):
            raise StateAhead(why)
        found = standing(extents, positions, self._unsure, allow_cold_state=self._allow_cold_state)
        unchanged = self._epochs in ([], [position.epoch for position in positions])
        refused, self._refused = self._refused, ()
        # if neither an epoch nor a marker can be why a call was refused, it is a record that is missing from its log
        lost = bool(refused) and unchanged and not found.behind and found.covers(refused)
        if refused and (found.behind or lost):
            self._telemetry.state_regressions.inc()
        if unchanged and (found.regressed or (lost and not self._in_vain)) and self._may_renew:
            positions = self._renew(positions)
        self._in_vain = self._in_vain + 1 if lost else 0
        self._announce(positions)
        self._tell_again(positions, found.committed)
        self._epochs = [position.epoch for position in positions]
        self._store.adopt(found.missing)
        if found.gone:
            self._store.adopt(found.gone, force=True)
        if found.behind:
            _LOG.warning("state_behind", records=sum(end - start for start, end in found.behind.values()))
        self._rounds += 1
        self._behind = dict(found.behind)

    def _renew(self, positions: Sequence[Position]) -> list[Position]:
        """The state went back in time: what is recorded from here on must not look like what was recorded before."""
        self._may_renew = False
        self._store.renew([position.epoch for position in positions])
        return self._store.positions()

    def _announce(self, positions: Sequence[Position]) -> None:
        """Journal where epochs come from, before anything is recorded in them."""
        epochs = [position.epoch for position in positions]
        known = self._announced or [0] * len(epochs)
        told = [
            entry
            for shard, position in enumerate(positions)
            if position.epoch != known[shard] and (entry := descent(shard, position, self._payments))
        ]
        if told:
            self._journal(told)
        self._announced = epochs

    def _tell_again(self, positions: Sequence[Position], committed: Mapping[Source, int]) -> None:
        """Journal what was recorded last: its worker may not have lived to do so."""
        self._tell(told_again(positions, committed))

    def _tell(self, order: Sequence[JournalEntry]) -> None:
        """Journal these, but for what was told from here the last time."""
        if new := [entry for entry in order if self._told.get(_place(entry)) != entry]:
            self._journal(new)
        self._told |= {_place(entry): entry for entry in new}

    def _catch_up(self, deadline_s: float) -> None:
        assert self._behind is not None  # noqa: S101  `recover` has surveyed
        source = min(self._behind, key=self._turn)
        start, end = self._behind[source]
        messages, reached = self._log.read(source, start, end, CHUNK, deadline_s)
        if reached == start:
            return
        decoded = self._decoder.decode(messages)
        span = Span(*source, start, reached, floor=end, labels=source[0] == self._labels)
        self._unsure[source] = start
        enriched = self._enricher.enrich(decoded.batch, (span,), self._epochs, decoded.labels)
        self._step("in_catch_up")
        self._tell(entries(enriched.recorded))
        self._unsure[source] = reached
        self._telemetry.state_caught_up_records.inc(len(messages))
        if messages:
            self._read_ms[source] = messages[-1].timestamp()[1]
        if reached < end:
            self._behind[source] = (reached, end)
        else:
            del self._behind[source]
            # Others may have gone on meanwhile: look again. But workers that commit without state all the time would
            # never be level with us; to have been so a moment ago is enough, since the logs' own order is what counts.
            if not self._behind and self._rounds < ROUNDS:
                self._behind = None

    def _turn(self, source: Source) -> tuple[int, bool, Source]:
        """Whose turn it is to be caught up: the least is next.

        The partition that has come least far in time: else the newest records of a shared entity would all be of the
        partition that comes last. Labels first, where it is all the same.
        """
        return self._read_ms.get(source, -1), source[0] != self._labels, source

    def _trust(self) -> None:
        self.ready = True
        self._rounds = 0
        self._may_renew = True
        self._unsure.clear()
        self._read_ms.clear()
        self._failures = 0
        self._telemetry.store_up.set(1)
        _LOG.info("state_trusted", epochs=self._epochs)

    def _complain(self, why: str, spans: Sequence[Span]) -> None:
        """A call was refused: doubt the state, or give it up when doubting it has not helped."""
        if why != self._complaint:
            self._complaint, self._in_vain = why, 0
        if self._in_vain >= IRREPARABLE:
            raise StoreUnsuitable(
                f"{why}, and catching up did not bring it back: build the state anew with fraudline state rebuild"
            )
        self._refused = tuple(spans)
        self._rounds = 0
        self._doubt(why)

    def _doubt(self, why: str) -> None:
        self.ready = False
        self._behind = None
        self._read_ms.clear()
        _LOG.warning("state_doubted", why=why)

    def _failed(self, error: Exception) -> None:
        self.ready = False
        self._behind = None
        self._retry_at_s = self._clock() + RETRY_S[min(self._failures, len(RETRY_S) - 1)]
        self._failures += 1
        self._telemetry.store_up.set(0)
        _LOG.warning("state_unavailable", error=str(error), attempt=self._failures)


def _place(entry: JournalEntry) -> tuple[int, str, int]:
    """Which shard numbered records of which partition."""
    return entry.shard, entry.topic, entry.partition
