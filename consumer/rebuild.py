"""Build the state anew on purpose: empty its namespace, and let catching up do the rest."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Final

from consumer.app import check_store, open_store
from consumer.decode import Decoder, Message
from consumer.kafka.logreader import Extent, LogReader
from consumer.kafka.publisher import Publisher, TransactionalPublisher
from consumer.publish import journal_records
from consumer.records import JournalEntry
from consumer.settings import Settings
from consumer.state import StateKeeper
from consumer.telemetry import Telemetry
from features.enrich import Enricher
from features.errors import ProducerLost, StoreUnavailable, TransactionAborted
from features.profiles import load_catalog
from features.store import Source
from features.warm import warm_up

SLICE_S: Final = 1.0
PAUSE_S: Final = 0.01
PATIENCE_S: Final = 60.0  # without any progress
ROLE: Final = "state"  # of the producer of a rebuild: none that runs is fenced


@dataclass(slots=True)
class _Watched:
    """A log reader that tells how far it has come."""

    log: LogReader
    progress: Callable[[int], None]
    moved_s: float

    def extents(self) -> Mapping[Source, Extent]:
        return self.log.extents()

    def read(self, source: Source, start: int, end: int, limit: int, deadline_s: float) -> tuple[list[Message], int]:
        messages, reached = self.log.read(source, start, end, limit, deadline_s)
        if reached > start:
            self.progress(reached - start)
            self.moved_s = time.monotonic()
        return messages, reached


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What was done: from which offset each partition was read, and up to which."""

    records: int
    sources: dict[str, dict[str, int]]


class Rebuild:
    """A rebuild of the state that the settings name. Processors may run: they degrade meanwhile, and help."""

    def __init__(self, settings: Settings) -> None:
        """Check store and topics; nothing is changed yet. Raises ConfigError, StoreError, KafkaUnavailable."""
        self._settings = settings
        catalog = load_catalog(settings.features.catalog)
        self._store = open_store(settings, catalog)
        check_store(self._store)
        warm_up()
        self._enricher = Enricher(catalog, self._store)
        self._log = LogReader(settings.kafka, settings.topics.payments, settings.topics.labels)
        self._extents = self._log.extents()

    def starts(self, from_ms: int | None) -> Mapping[Source, int]:
        """Where each partition is to be read from: where Kafka's log begins, or at a Kafka timestamp."""
        begun = {} if from_ms is None else self._log.offsets_at(from_ms)
        return {
            source: max(extent.low, min(begun.get(source, extent.low), _end(extent)))
            for source, extent in self._extents.items()
        }

    def size(self, starts: Mapping[Source, int]) -> int:
        """How many offsets that is."""
        return sum(_end(self._extents[source]) - start for source, start in starts.items())

    def run(self, starts: Mapping[Source, int], progress: Callable[[int], None]) -> Rebuilt:
        """Empty the namespace, and return when the state has everything up to the group's committed offsets.

        `progress` is told numbers of offsets. Raises StoreError, KafkaError.
        """
        kafka = self._settings.kafka
        named = kafka.model_copy(update={"transactional_id": f"{kafka.transactional_id}-{ROLE}"})
        with closing(TransactionalPublisher(named, None)) as publisher:

            def journal(entries: Sequence[JournalEntry]) -> None:
                if entries:
                    publisher.publish(journal_records(self._settings.topics.journal, entries))
                    publisher.commit(())

            self._store.reset(starts)
            log = _Watched(self._log, progress, time.monotonic())
            self._recover(log, publisher, journal)
        sources = {
            f"{topic}/{partition}": {"from": start, "to": _end(self._extents[topic, partition])}
            for (topic, partition), start in starts.items()
        }
        return Rebuilt(self.size(starts), sources)

    def close(self) -> None:
        """Release the clients."""
        self._log.close()
        self._store.close()

    def _recover(self, log: _Watched, publisher: Publisher, journal: Callable[[Sequence[JournalEntry]], None]) -> None:
        processing, topics = self._settings.processing, self._settings.topics
        keeper = StateKeeper(
            payments=topics.payments,
            labels=topics.labels,
            store=self._store,
            enricher=self._enricher,
            decoder=Decoder(
                max_payment_bytes=processing.max_payment_bytes,
                max_future_ms=processing.max_future_ms,
                labels_topic=topics.labels,
            ),
            log=log,
            journal=journal,
            telemetry=Telemetry(),
        )
        while not keeper.ready:
            if time.monotonic() > log.moved_s + PATIENCE_S:
                raise StoreUnavailable(
                    "the rebuild came no further for a minute: see the warnings above, and repeat it"
                )
            try:
                keeper.recover(time.monotonic() + SLICE_S)
            except (TransactionAborted, ProducerLost):
                publisher.renew()  # what was not journaled is read again: the keeper remembers it
            time.sleep(PAUSE_S)


def _end(extent: Extent) -> int:
    return extent.low if extent.committed is None else extent.committed
