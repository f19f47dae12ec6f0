"""`fraudline certify`: replay what was decided, in the order in which the state recorded it, and compare.

1. Read the decisions and pack them; read the journal.
2. Read labels and payments with the processor's own decoder, and give each record its numbers in the shards' orders.
3. Fold all logs in that order, and write the values by range of the payments.
4. Make the decisions of each range again, and compare.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from consumer.certificate import alerts as alert_rows
from consumer.certificate import told as t
from consumer.certificate.compare import Comparison, Scope
from consumer.certificate.order import OffsetOrder, RecordedOrder
from consumer.certificate.outcome import Certificate, Compared, Span
from consumer.certificate.recorder import Recorder
from consumer.certificate.refused import Refused
from consumer.certificate.replayed import Remaker
from consumer.decode import Decoder, Message
from consumer.order import UNKNOWN
from consumer.records import Alert, Decision, JournalEntry
from consumer.streams import Stream, decoded
from consumer.threads import in_turn
from features.catalog import Catalog
from features.errors import BundleError, ConfigError
from features.event import PaymentBatch, Words, source_id
from features.history.output import kept_fields
from features.history.recorded import RecordedLogs
from features.history.spill import Scratch, Spill
from features.payment import PaymentReader
from features.units import DAY
from models.bundle import Bundle, load
from models.registry import Registry
from models.signature import ANYBODY, Trust

FEW: Final = 10
NEVER_MS: Final = 1 << 62
OF_ALERTS: Final = frozenset(("merchant_id", "amount_minor", "currency"))
IDENTITY: Final = ("offset", "identity", "entities", "event_id", "card_id", "event_time")
_T = TypeVar("_T")
Progress = Callable[[str, float], None]
Values = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be certified.

    Attributes:
        decisions: what was decided.
        payments: what it was about.
        labels: what the state learned besides; None for none.
        journal: in which order. None where that is the order of the offsets: one partition of payments, and no labels.
        alerts: what was alerted, to be compared too; None for not.
        refused: what production refused, as its dead letters tell: it is not replayed, unless a decision is about it.
        bundles: places of bundles.
        registry: where more of them are.
        shards: of the state.
        from_ms, to_ms: decisions about payments of these event times; all others are only replayed.
        tolerance: of scores; 0 for to the bit on the same kind of device, and 1e-5 on another.
        max_payment_bytes, max_future_ms: as the processor has them.
        memory_mb: for what waits.
        threads: that compute.
        trust: whose signature on the bundles counts, and whether there has to be one.
    """

    decisions: Stream
    payments: Stream
    labels: Stream | None
    journal: Stream | None
    bundles: tuple[Path, ...]
    registry: str | None
    shards: int
    max_payment_bytes: int
    max_future_ms: int
    alerts: Stream | None = None
    refused: Refused = field(default_factory=Refused)
    from_ms: int | None = None
    to_ms: int | None = None
    tolerance: float = 0.0
    memory_mb: int = 1_024
    threads: int = 1
    trust: Trust = ANYBODY


class Certification:
    """One certificate. Nothing is published, and no state is touched."""

    def __init__(
        self,
        asked: Asked,
        catalog: Catalog,
        progress: Progress = lambda _text, _share: None,
        watch: Callable[[Compared, Catalog], None] = lambda _compared, _catalog: None,
    ) -> None:
        """Certify by the features of `catalog`, of which bundles may need a part.

        `watch` is shown what was compared, and the catalog of its values, span by span.
        """
        self._asked, self._whole, self._progress, self._watch = asked, catalog, progress, watch
        self.bundles: dict[str, Bundle] = {}
        self._packer = t.Packer()
        self._certificate = Certificate(self._packer)
        self._spans: list[Span] = []
        self._places = 0
        self._begun: dict[int, tuple[int, int]] = {}  # by source id: from which offset, and when that was
        self._latest_ms = 0
        self._decided: dict[int, t.Reach] = {}  # by partition of the payments
        self._alerted: dict[int, t.Reach] = {}

    def run(self) -> Certificate:
        """Do it.

        Raises:
            ConfigError: what was given does not fit together, or is not what it should be.
            BundleError: a bundle can't be used.
            KafkaUnavailable: a topic can't be read.
        """
        asked = self._asked
        with tempfile.TemporaryDirectory(prefix="fraudline-certify-") as folder:
            scratch = Scratch(Path(folder), (asked.memory_mb << 20) // 2)
            packed = scratch.spill("told", 1, t.WORDS, np.int64)
            self._read_decisions(scratch, packed)
            self.bundles = bundles = self._bundles()
            names = {name for bundle in bundles.values() for name in bundle.manifest.features}
            self._catalog = self._whole.only(tuple(name for name in self._whole.names if name in names))
            fields = sorted(OF_ALERTS.union(*(bundle.policy.fields for bundle in bundles.values())))
            self._order = self._read_order()
            logs = RecordedLogs(
                self._catalog, scratch, rows=asked.payments.size(), memory_mb=asked.memory_mb, jobs=asked.threads
            )
            recorder = Recorder(self._catalog.entities, self._order, logs, asked.shards)
            self._read_labels(recorder)
            identities = Path(folder) / "identities"
            self._read_payments(recorder, identities, fields)
            decisions = self._by_span(
                scratch, packed, "decisions", lambda lost: self._certificate.not_verified("payment_not_read", lost)
            )
            alerts = None if asked.alerts is None else self._read_alerts(scratch, asked.alerts)
            logs.fold(
                [each.first for each in self._spans],
                recorder.doubts,
                lambda text, share: self._progress(text, 0.4 + 0.35 * share),
            )
            remaker = Remaker(
                bundles, self._whole, self._catalog, self._packer, tolerance=asked.tolerance, alerts=alerts is not None
            )
            scope = Scope(
                self._decided, self._alerted, asked.from_ms or 0, asked.to_ms or NEVER_MS, self._known_until_ms()
            )
            self._compare(Comparison(self._order, logs, self._catalog, remaker, scope), identities, decisions, alerts)
        self._certificate.bundles = sorted(bundles)
        self._progress("done", 1.0)
        return self._certificate

    def _read_decisions(self, scratch: Scratch, packed: Spill) -> None:
        asked = self._asked
        size, done = max(asked.decisions.size(), 1), 0
        for known in decoded(asked.decisions, Decision, "decision"):
            done += len(known)
            self._progress("reading decisions", 0.1 * min(done / size, 1))
            if asked.refused:
                for _, each in known:
                    asked.refused.release(each.source.topic, each.source.partition, each.source.offset)
            told = [each for _, each in known if self._is_asked(each.event_time)]
            if not told:
                continue
            partition, rows = known[0][0], self._packer.pack(told)
            self._note(self._decided, rows, partition, asked.decisions)
            scratch.add(packed, rows, np.array([0, len(rows)], np.int64))
        if not self._decided:
            raise ConfigError(f"{asked.decisions.topic} holds no decision that is to be certified.")

    def _is_asked(self, event_time: int) -> bool:
        return (self._asked.from_ms or 0) <= event_time < (self._asked.to_ms or NEVER_MS)

    def _read_alerts(self, scratch: Scratch, stream: Stream) -> Spill:
        packed = scratch.spill("alerted", 1, alert_rows.WORDS, np.int64)
        for known in decoded(stream, Alert, "alert"):
            rows = alert_rows.pack([each for _, each in known if self._is_asked(each.event_time)])
            self._note(self._alerted, rows, known[0][0], stream)
            scratch.add(packed, rows, np.array([0, len(rows)], np.int64))
        return self._by_span(scratch, packed, "alerts", self._certificate.alerts_not_read)

    def _note(self, reach: dict[int, t.Reach], rows: Words, partition: int, stream: Stream) -> None:
        """Of which offsets something is published in a partition."""
        for number in np.unique(rows[:, t.PARTITION]).tolist():
            offsets = rows[rows[:, t.PARTITION] == number, t.OFFSET]
            reach.setdefault(number, t.Reach()).note(partition, offsets, is_whole=stream.begins(partition) == 0)

    def _bundles(self) -> dict[str, Bundle]:
        """The bundles that decided, as far as they are at hand."""
        needed = {case.digests.bundle for case in self._packer.cases}
        found: dict[str, Bundle] = {}
        for path in self._asked.bundles:
            bundle = load(path, self._whole, self._asked.trust)
            found[bundle.digest] = bundle
        if self._asked.registry is not None:
            registry = Registry(self._asked.registry)
            for entry in registry.entries():
                if entry.digest in needed - found.keys():
                    with registry.bundle(entry.bundle) as path:
                        found[entry.digest] = load(path, self._whole, self._asked.trust)
        used = {digest: bundle for digest, bundle in found.items() if digest in needed}
        if not used:
            short = ", ".join(sorted(digest[:12] for digest in needed))
            raise BundleError(f"None of the bundles that decided ({short}) is at hand; give them, or their registry.")
        return used

    def _read_order(self) -> RecordedOrder | OffsetOrder:
        asked = self._asked
        if asked.journal is None:
            if asked.labels is not None or len(self._decided) > 1:
                raise _no_order()
            return OffsetOrder(source_id(next(iter(self._decided))))
        topics = {case.topic for case in self._packer.cases}
        if len(topics) > 1:
            raise ConfigError(f"The decisions are about {len(topics)} topics of payments; certify one at a time.")
        order = RecordedOrder(self._entries(asked.journal), topics.pop())
        if order.shards and max(order.shards) >= asked.shards:
            raise ConfigError(f"The journal tells of more shards than {asked.shards}; set store.shards as it was then.")
        if order.has_labels and asked.labels is None:
            raise ConfigError("The state learned from labels, as the journal tells; give them with --labels.")
        return order

    def _entries(self, journal: Stream) -> Iterator[JournalEntry]:
        size, done = max(journal.size(), 1), 0
        for known in decoded(journal, JournalEntry, "entry of the journal"):
            yield from (each for _, each in known)
            done += len(known)
            self._progress("reading the journal", 0.1 + 0.05 * min(done / size, 1))

    def _read_labels(self, recorder: Recorder) -> None:
        asked = self._asked
        if asked.labels is None:
            return
        decoder = self._decoder(asked.labels.topic)
        for messages in asked.labels.chunks():
            taken = self._taken(messages, "labels", (asked.labels.topic,))
            batch = decoder.decode(taken).labels
            partition = messages[0].partition()
            latest_ms = max((label.labelled_at for label in batch.labels), default=0)
            source = source_id(partition, labels=True)
            self._note_beginning(source, asked.labels.begins(partition), messages, latest_ms)
            if not len(batch):
                continue
            recorder.labels(batch)
            self._progress("reading labels", 0.15)

    def _read_payments(self, recorder: Recorder, identities: Path, fields: Sequence[str]) -> None:
        asked, reader = self._asked, PaymentReader(self._catalog)
        decoder = self._decoder(None)
        size, done = max(asked.payments.size(), 1), 0
        topics = {case.topic for case in self._packer.cases}  # what it was called; a dump may be called otherwise
        schema = self._schema(fields)
        with pa.OSFile(str(identities), "wb") as to, pa.ipc.new_stream(to, schema) as file:
            for messages in asked.payments.chunks():
                done += len(messages)
                self._progress("reading payments", 0.15 + 0.25 * min(done / size, 1))
                batch = decoder.decode(self._taken(messages, "payments", topics)).batch
                partition, start = messages[0].partition(), messages[0].offset()
                latest_ms = int(batch.event_time.max(initial=0))
                self._note_beginning(source_id(partition), asked.payments.begins(partition), messages, latest_ms)
                if not len(batch):
                    continue
                if asked.journal is None and self._spans and self._spans[0].partition != partition:
                    raise _no_order()
                first = self._places
                self._spans.append(Span(messages[0].topic(), partition, first, start, messages[-1].offset() + 1))
                self._places += len(batch)
                known = recorder.payments(batch, first)
                file.write_batch(_identity(batch, known, fields, reader.read(batch), schema))

    def _taken(self, messages: Sequence[Message], what: str, topics: Collection[str]) -> Sequence[Message]:
        """Without what production refused, which is counted."""
        taken = self._asked.refused.without(messages, topics)
        self._certificate.refused[what] += len(messages) - len(taken)
        return taken

    def _known_until_ms(self) -> int:
        """Decisions about payments of this time or earlier may have seen what is no longer there; -1 for none.

        What is missing from the beginning of a partition is not younger than its first record that is left; of a
        partition without any that may be whatever was read.
        """
        known_from_ms = -1
        for source, recorded in self._order.beginnings().items():
            begins, time_ms = self._begun.get(source, (1 << 62, self._latest_ms))
            if recorded < begins:
                known_from_ms = max(known_from_ms, time_ms)
        return -1 if known_from_ms < 0 else known_from_ms + self._whole.limits.horizon_ms + DAY

    def _note_beginning(self, source: int, begins: int, messages: Sequence[Message], latest_ms: int) -> None:
        """Some records of a partition are read, the latest of `latest_ms`; Kafka may tell when the first one came."""
        self._latest_ms = max(self._latest_ms, latest_ms)
        begins, known_ms = self._begun.get(source, (begins, 0))
        kind, time_ms = messages[0].timestamp()
        at_ms = time_ms + self._asked.max_future_ms if kind else latest_ms
        self._begun[source] = begins, known_ms or at_ms

    def _by_span(self, scratch: Scratch, packed: Spill, name: str, gone: Callable[[int], None]) -> Spill:
        """Rows that begin with partition and offset, by the span of their payments.

        `gone` is told how many there are whose payments were not read.
        """
        width = packed.columns
        ranged = scratch.spill(name, max(len(self._spans), 1), width, np.int64)
        of_partition: dict[int, tuple[Words, Words]] = {}
        for partition in {each.partition for each in self._spans}:
            own = [(each.start, number) for number, each in enumerate(self._spans) if each.partition == partition]
            own.append((max(each.end for each in self._spans if each.partition == partition), UNKNOWN))
            starts, numbers = (np.array(column, np.int64) for column in zip(*own, strict=True))
            of_partition[partition] = starts, numbers
        for rows in packed.pieces(0):
            number = np.full(len(rows), UNKNOWN, np.int64)
            for partition in np.unique(rows[:, t.PARTITION]).tolist():
                here = rows[:, t.PARTITION] == partition
                if partition in of_partition:
                    starts, numbers = of_partition[partition]
                    at = np.searchsorted(starts, rows[here, t.OFFSET], side="right") - 1
                    number[here] = np.where(at >= 0, numbers[np.maximum(at, 0)], UNKNOWN)
            lost = int((number == UNKNOWN).sum())
            gone(lost)
            order = np.argsort(number, kind="stable")[lost:]
            bounds = np.searchsorted(number[order], np.arange(len(self._spans) + 1))
            scratch.add(ranged, np.ascontiguousarray(rows[order]), bounds)
        packed.drop()
        return ranged

    def _compare(self, comparison: Comparison, identities: Path, decisions: Spill, alerts: Spill | None) -> None:
        def compare(numbered: tuple[int, pa.RecordBatch]) -> Compared:
            part, batch = numbered
            alerted = None if alerts is None else alerts.part(part)
            return comparison.compare(part, self._spans[part], batch, decisions.part(part), alerted)

        with pa.OSFile(str(identities)) as kept, pa.ipc.open_stream(kept) as file:
            for done, compared in enumerate(in_turn(compare, enumerate(file), self._asked.threads), start=1):
                self._certificate.account(compared)
                self._watch(compared, self._catalog)
                self._progress("comparing", 0.75 + 0.25 * done / len(self._spans))
        if 2 * self._certificate.differences["shard"] > self._certificate.decisions > FEW:
            raise ConfigError("The decisions were made with another number of shards; set store.shards as it was then.")

    def _decoder(self, labels_topic: str | None) -> Decoder:
        asked = self._asked
        return Decoder(
            max_payment_bytes=asked.max_payment_bytes, max_future_ms=asked.max_future_ms, labels_topic=labels_topic
        )

    def _schema(self, fields: Sequence[str]) -> pa.Schema:
        whole, text = pa.int64(), pa.string()
        types = dict.fromkeys(("offset", "identity", "entities", "event_time"), whole)
        identity = [pa.field(name, types.get(name, text), nullable=False) for name in IDENTITY]
        names = [self._catalog.names[column] for column in self._catalog.payment_columns]
        return pa.schema([*identity, *kept_fields(fields), *(pa.field(name, pa.float32()) for name in names)])


def _no_order() -> ConfigError:
    return ConfigError(
        "In which order several partitions, or labels, were recorded, the journal tells; give it with --journal."
    )


def _identity(
    batch: PaymentBatch, entities: Words, fields: Sequence[str], values: Values, schema: pa.Schema
) -> pa.RecordBatch:
    payments = batch.payments
    event_ids, cards = [each.event_id for each in payments], [each.card_id for each in payments]
    identity = t.identities(zip(cards, event_ids, batch.event_time.tolist(), strict=True))
    columns: list[Any] = [batch.offset, identity, entities, event_ids, cards, batch.event_time]
    columns += [[getattr(each, name) for each in payments] for name in fields]
    columns += list(np.ascontiguousarray(values.T))
    return pa.RecordBatch.from_arrays(
        [pa.array(column, each.type) for column, each in zip(columns, schema, strict=True)], schema=schema
    )
