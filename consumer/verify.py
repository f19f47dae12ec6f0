"""Check the state against Kafka: entities are made anew of all their records, without the store, and compared."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import msgspec
import numpy as np
from xxhash import xxh3_64_hexdigest, xxh3_64_intdigest

from consumer.app import check_store, open_store
from consumer.decode import Decoder, Message
from consumer.kafka.logreader import Extent, LogReader
from consumer.order import UNKNOWN, Order
from consumer.records import JournalEntry
from consumer.settings import Settings
from consumer.stored import stored
from consumer.streams import read_range
from features.audit import Parts, difference
from features.catalog import Entity
from features.enrich import shard_of
from features.event import OFFSET_BITS, OFFSET_MASK, Words, source_id
from features.grouping import ENTITY_OF, Grouper
from features.profiles import load_catalog
from features.reader import EntityReader
from features.store import StateStore
from features.units import DAY, is_payment
from features.warm import warm_up


class Sample:
    """At most so many entities, each as likely as any other, with all their records; found in one pass.

    Those with the smallest hashes are held (a bottom-k sketch): who is held at the end was held from the beginning.
    """

    def __init__(self, size: int, seed: int) -> None:
        """Hold up to `size` entities."""
        self._size, self._seed = size, seed
        self._largest: list[tuple[int, bytes]] = []
        self._held: dict[bytes, list[Words]] = {}

    def offer(self, keys: Sequence[bytes], counts: Sequence[int], records: Words) -> None:
        """Take the records of those keys that belong to the sample; they lie in key order."""
        at = 0
        for key, count in zip(keys, counts, strict=True):
            rows = records[at : at + count]
            at += count
            if key in self._held or self._admits(key):
                self._held.setdefault(key, []).append(rows)

    def entities(self) -> Iterator[tuple[bytes, Words]]:
        """Each key with its records, shape (n, 6), partition by partition."""
        for key, parts in self._held.items():
            yield key, np.concatenate(parts)

    def _admits(self, key: bytes) -> bool:
        entry = (-xxh3_64_intdigest(key, self._seed), key)
        if len(self._largest) < self._size:
            heapq.heappush(self._largest, entry)
            return True
        if entry <= self._largest[0]:
            return False
        _, gone = heapq.heapreplace(self._largest, entry)
        del self._held[gone]
        return True


@dataclass(frozen=True, slots=True)
class Mismatch:
    """An entity whose log is not what it should be; `key` is a hash of its key."""

    entity: Entity
    shard: int
    key: str
    what: str


@dataclass(slots=True)
class Outcome:
    """What a verification found."""

    records: int = 0
    results: Counter[str] = field(default_factory=Counter)
    mismatches: list[Mismatch] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        """Records read, entities by result."""
        by_result = {name: self.results[name] for name in ("equal", "mismatched", "unverifiable")}
        return {"records": self.records, "entities": self.results.total()} | by_result

    def document(self) -> dict[str, Any]:
        """All of it."""
        return self.counts() | {"mismatches": [asdict(each) for each in self.mismatches]}


class Verification:
    """One check of the state that the settings name. Nothing is changed; processors may run."""

    def __init__(self, settings: Settings, *, sample: int, seed: int = 0) -> None:
        """Look at store and topics. Raises ConfigError, StoreError, KafkaUnavailable."""
        topics, processing = settings.topics, settings.processing
        catalog = load_catalog(settings.features.catalog)
        self._store: StateStore = open_store(settings, catalog)
        check_store(self._store)
        warm_up()
        self._labels = topics.labels
        self._horizon_ms = catalog.limits.horizon_ms
        self._readers = {entity: EntityReader(catalog, entity) for entity in catalog.logged}
        self._grouper = Grouper(catalog.logged)
        self._sample = Sample(sample, seed)
        self._decoder = Decoder(
            max_payment_bytes=processing.max_payment_bytes,
            max_future_ms=processing.max_future_ms,
            labels_topic=topics.labels,
        )
        self._log = LogReader(settings.kafka, topics.payments, topics.labels)
        self._journal = LogReader(settings.kafka, topics.journal)
        self._extents = self._log.extents()
        self._complete_from_ms = 0  # what is older may be missing from Kafka

    @property
    def size(self) -> int:
        """How many offsets are to be read."""
        return sum(_end(extent) - extent.low for extent in self._extents.values())

    def run(self, progress: Callable[[int], None]) -> Outcome:
        """Read, order and compare. `progress` is told numbers of offsets. Raises StoreError, KafkaError."""
        outcome = Outcome()
        for source, extent in self._extents.items():
            for messages in read_range(self._log, source, extent.low, _end(extent), progress):
                self._scan(messages, extent)
                outcome.records += len(messages)
        entities = list(self._sample.entities())
        positions, logs = stored(self._store, [key for key, _ in entities])
        order = Order(self._entries(), positions, self._labels)
        for key, records in entities:
            shard, entity = shard_of(key, self._store.shards), ENTITY_OF[key[:2]]
            what = self._judge(self._readers[entity], logs[key], records, order, shard)
            outcome.results["mismatched" if what else "equal" if what == "" else "unverifiable"] += 1
            if what:
                outcome.mismatches.append(Mismatch(entity, shard, xxh3_64_hexdigest(key), what))
        return outcome

    def close(self) -> None:
        """Release the clients."""
        self._log.close()
        self._journal.close()
        self._store.close()

    def _scan(self, messages: list[Message], extent: Extent) -> None:
        if messages and messages[0].offset() == extent.low > 0:
            self._complete_from_ms = max(self._complete_from_ms, messages[0].timestamp()[1])
        decoded = self._decoder.decode(messages)
        grouping = self._grouper.group(decoded.batch, decoded.labels)
        self._sample.offer(grouping.keys, grouping.counts.tolist(), grouping.records)

    def _entries(self) -> Iterator[JournalEntry]:
        decode = msgspec.json.Decoder(JournalEntry).decode
        for source, extent in self._journal.extents().items():
            for messages in read_range(self._journal, source, extent.low, extent.high):
                yield from (decode(message.value() or b"") for message in messages)

    def _judge(self, reader: EntityReader, log: Words, records: Words, order: Order, shard: int) -> str | None:
        """What is wrong, empty if nothing is, None if that can't be told."""
        places = order.of(shard, records)
        if (places == UNKNOWN).any():
            return None  # decided without the state, not journaled any more, or from before the state was begun
        expected = records[np.argsort(places)]
        parts = Parts.of(log)
        if self._older_than_kafka(parts.singles):
            return None
        newer = np.flatnonzero(~np.isin(parts.singles[:, 2], expected[:, 2]))
        if newer.size:  # recorded since: everything up to there can be judged
            log = log[: len(log) - len(parts.singles) + newer[0]]
            parts = Parts.of(log)
        if not len(log):
            return "it is gone" if not newer.size else None
        clock = max((int(row[0]) for row in expected if is_payment(row.reshape(1, -1), 0)), default=0)
        if self._complete_from_ms and self._complete_from_ms > clock - self._horizon_ms - DAY:
            return None
        if newer.size or parts.folded > len(expected):
            expected = expected[: parts.folded + len(parts.singles)]
        return difference(reader, log, expected, complete=not self._complete_from_ms)

    def _older_than_kafka(self, records: Words) -> bool:
        """Whether any of these lies below what Kafka still holds."""
        low = {
            source_id(partition, labels=topic == self._labels): extent.low
            for (topic, partition), extent in self._extents.items()
        }
        sources, offsets = (records[:, 2] >> OFFSET_BITS) & 0xFFFF, records[:, 2] & OFFSET_MASK
        return any(
            offset < low.get(source, 0) for source, offset in zip(sources.tolist(), offsets.tolist(), strict=True)
        )


def _end(extent: Extent) -> int:
    return extent.low if extent.committed is None else extent.committed
