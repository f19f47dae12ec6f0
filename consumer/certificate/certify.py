"""`fraudline certify`: replay what was decided, in the order in which the state recorded it, and compare.

1. Read the decisions and pack them; read the journal.
2. Read labels and payments with the processor's own decoder, and give each record its numbers in the shards' orders.
3. Fold all logs in that order, and write the values by range of the payments.
4. Make the decisions of each range again, and compare.
"""

from __future__ import annotations

import hashlib
import platform
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xgboost
from xxhash import xxh3_64_intdigest

from consumer import __version__
from consumer.certificate import told as t
from consumer.certificate.order import UNKNOWN, OffsetOrder, RecordedOrder
from consumer.certificate.replayed import DEVICE, Remade, Remaker
from consumer.certificate.streams import Stream
from consumer.decode import Decoder, Message
from consumer.records import JournalEntry, alert_id
from features.catalog import Catalog, Entity
from features.errors import BundleError, ConfigError
from features.event import LabelBatch, PaymentBatch, Words, source_id
from features.grouping import ids_of, key_of, payment_records
from features.history.output import kept_fields
from features.history.recorded import DOUBTFUL, LAYER_SHIFT, RecordedLogs, place_words
from features.history.spill import Scratch, Spill
from features.payment import PaymentReader
from features.units import DAY
from models.bundle import Bundle, load
from models.policy import DECISIONS
from models.registry import Registry

EXAMPLES: Final = 20
GOLDEN: Final = 0x9E3779B97F4A7C15
SAME_SHIFT: Final = 8
IDENTITY: Final = ("offset", "identity", "entities", "event_id", "card_id", "event_time")
Progress = Callable[[str, float], None]
Mask = npt.NDArray[np.bool_]
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
        bundles: places of bundles.
        registry: where more of them are.
        shards: of the state.
        from_ms, to_ms: decisions about payments of these event times; all others are only replayed.
        tolerance: of scores; 0 for to the bit on the same kind of device, and 1e-5 on another.
        max_payment_bytes, max_future_ms: as the processor has them.
        memory_mb: for what waits.
        threads: that compute.
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
    from_ms: int | None = None
    to_ms: int | None = None
    tolerance: float = 0.0
    memory_mb: int = 1_024
    threads: int = 1


@dataclass(slots=True)
class Partition:
    """What was found about one partition of the payments. Digests are SHA-256 over what was compared, by offset."""

    topic: str
    partition: int
    first: int
    last: int = -1
    decisions: int = 0
    published: Any = field(default_factory=hashlib.sha256)
    replayed: Any = field(default_factory=hashlib.sha256)
    features: Any = field(default_factory=hashlib.sha256)

    def document(self) -> dict[str, Any]:
        """As JSON values."""
        digests = {name: getattr(self, name).hexdigest() for name in ("published", "replayed", "features")}
        plain = {name: getattr(self, name) for name in ("topic", "partition", "first", "last", "decisions")}
        return plain | digests


@dataclass(slots=True)
class Certificate:
    """What came out.

    Attributes:
        decisions: how many were compared, or could not be.
        results: of them, how many are `equal`, `different`, `unverifiable`.
        differences: of those that differ, in what; one may differ in several things.
        unverifiable: of those, why.
        repeated: decisions that were published again, word for word, as `at_least_once` allows.
        near, flipped: scores inside the band, and decisions that differ for that alone.
        payments: what became of those that have no decision.
        examples: the first differences, by partition and offset.
        flips: the first of those.
    """

    decisions: int = 0
    results: Counter[str] = field(default_factory=Counter)
    differences: Counter[str] = field(default_factory=Counter)
    unverifiable: Counter[str] = field(default_factory=Counter)
    repeated: int = 0
    near: int = 0
    flipped: int = 0
    payments: Counter[str] = field(default_factory=Counter)
    partitions: list[Partition] = field(default_factory=list)
    examples: list[dict[str, Any]] = field(default_factory=list)
    flips: list[dict[str, Any]] = field(default_factory=list)
    bundles: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """`different` if anything is; else `unverifiable` if anything is; else `equal`."""
        if self.differences:
            return "different"
        return "unverifiable" if self.results["unverifiable"] or self.payments["unverifiable"] else "equal"

    def document(self) -> dict[str, Any]:
        """All of it, as JSON values."""
        return {
            "verdict": self.verdict,
            "decisions": self.decisions,
            **{name: self.results[name] for name in ("equal", "different", "unverifiable")},
            "differences": dict(self.differences),
            "why_unverifiable": dict(self.unverifiable),
            "published_again": self.repeated,
            "scores_inside_band": self.near,
            "decisions_flipped_inside_band": self.flipped,
            "payments": dict(self.payments),
            "partitions": [each.document() for each in self.partitions],
            "first_difference": self.examples[0] if self.examples else None,
            "examples": self.examples,
            "flips": self.flips,
            "bundles": self.bundles,
            "made_with": {
                "fraudline": __version__,
                "xgboost": xgboost.__version__,
                "numpy": np.__version__,
                "machine": platform.machine(),
                "device": DEVICE,
            },
        }


@dataclass(frozen=True, slots=True)
class _Range:
    """A run of payments of one partition, as they were read: their first place, and the offsets that it covers."""

    topic: str
    partition: int
    first: int
    start: int
    end: int


@dataclass(slots=True)
class _Compared:
    """What a range's decisions came out as."""

    range: _Range
    told: Words
    batch: pa.RecordBatch | None
    remade: Remade | None
    values: Values
    state: Mask
    unverifiable: dict[str, Mask]
    differs: dict[str, Mask]
    payments: Counter[str]
    missing: list[tuple[int, str, str]]


class Certification:
    """One certificate. Nothing is published, and no state is touched."""

    def __init__(self, asked: Asked, catalog: Catalog, progress: Progress = lambda _text, _share: None) -> None:
        """Certify by the features of `catalog`, of which bundles may need a part."""
        self._asked, self._whole, self._progress = asked, catalog, progress
        self._packer = t.Packer()
        self._certificate = Certificate()
        self._ranges: list[_Range] = []
        self._places = 0
        self._doubts: dict[Entity, dict[int, int]] = defaultdict(dict)
        self._known_from_ms = 0
        self._decided: dict[
            int, tuple[int, int]
        ] = {}  # of each partition the first and the last offset with a decision

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
            bundles = self._bundles()
            names = {name for bundle in bundles.values() for name in bundle.manifest.features}
            self._catalog = self._whole.only(tuple(name for name in self._whole.names if name in names))
            fields = sorted({"amount_minor"}.union(*(bundle.policy.fields for bundle in bundles.values())))
            self._order = self._read_order()
            logs = RecordedLogs(
                self._catalog, scratch, rows=asked.payments.size(), memory_mb=asked.memory_mb, jobs=asked.threads
            )
            self._read_labels(logs)
            identities = Path(folder) / "identities"
            self._read_payments(logs, identities, fields)
            decisions = self._by_range(scratch, packed)
            logs.fold(
                [each.first for each in self._ranges],
                self._doubts,
                lambda text, share: self._progress(text, 0.4 + 0.35 * share),
            )
            remaker = Remaker(bundles, self._catalog, self._packer, tolerance=asked.tolerance)
            self._compare(logs, identities, decisions, remaker)
        self._certificate.bundles = sorted(bundles)
        self._progress("done", 1.0)
        return self._certificate

    def _read_decisions(self, scratch: Scratch, packed: Spill) -> None:
        decode, asked = t.decoder(), self._asked
        from_ms, to_ms = asked.from_ms or 0, asked.to_ms or 1 << 62
        size, done = max(asked.decisions.size(), 1), 0
        for messages in asked.decisions.chunks():
            try:
                told = [decode(message.value() or b"") for message in messages]
            except (msgspec.DecodeError, UnicodeDecodeError):
                raise ConfigError(
                    f"{asked.decisions.topic} holds something else than decisions; give what the decisions topic has."
                ) from None
            done += len(told)
            self._progress("reading decisions", 0.1 * min(done / size, 1))
            told = [each for each in told if from_ms <= each.event_time < to_ms]
            if not told:
                continue
            rows = self._packer.pack(told)
            self._note(rows)
            scratch.add(packed, rows, np.array([0, len(rows)], np.int64))
            self._certificate.decisions += len(rows)
        if not self._certificate.decisions:
            raise ConfigError(f"{asked.decisions.topic} holds no decision that is to be certified.")

    def _note(self, rows: Words) -> None:
        if rows[:, t.SHARD].max() >= self._asked.shards:
            raise ConfigError(
                f"The decisions were made with more shards than {self._asked.shards}; set store.shards as it was then."
            )
        for partition in np.unique(rows[:, t.PARTITION]).tolist():
            offsets = rows[rows[:, t.PARTITION] == partition, t.OFFSET]
            first, last = self._decided.get(partition, (1 << 62, -1))
            self._decided[partition] = min(first, int(offsets.min())), max(last, int(offsets.max()))

    def _bundles(self) -> dict[str, Bundle]:
        """The bundles that decided, as far as they are at hand."""
        needed = {case.digests.bundle for case in self._packer.cases}
        found: dict[str, Bundle] = {}
        for path in self._asked.bundles:
            bundle = load(path, self._whole)
            found[bundle.digest] = bundle
        if self._asked.registry is not None:
            registry = Registry(self._asked.registry)
            for entry in registry.entries():
                if entry.digest in needed - found.keys():
                    with registry.bundle(entry.bundle) as path:
                        found[entry.digest] = load(path, self._whole)
        used = {digest: bundle for digest, bundle in found.items() if digest in needed}
        if not used:
            short = ", ".join(sorted(digest[:12] for digest in needed))
            raise BundleError(f"None of the bundles that decided ({short}) is at hand; give them, or their registry.")
        return used

    def _read_order(self) -> RecordedOrder | OffsetOrder:
        asked = self._asked
        if asked.journal is None:
            if asked.labels is not None or len(self._decided) > 1:
                raise ConfigError(
                    "In which order payments and labels were recorded, the journal tells; give it with --journal."
                )
            return OffsetOrder()
        topics = {case.topic for case in self._packer.cases}
        if len(topics) > 1:
            raise ConfigError(f"The decisions are about {len(topics)} topics of payments; certify one at a time.")
        order = RecordedOrder(self._entries(asked.journal), topics.pop())
        if order.shards and max(order.shards) >= asked.shards:
            raise ConfigError(f"The journal tells of more shards than {asked.shards}; set store.shards as it was then.")
        return order

    def _entries(self, journal: Stream) -> Iterator[JournalEntry]:
        decode = msgspec.json.Decoder(JournalEntry).decode
        size, done = max(journal.size(), 1), 0
        for messages in journal.chunks():
            try:
                yield from [decode(message.value() or b"") for message in messages]
            except (msgspec.DecodeError, UnicodeDecodeError):
                raise ConfigError(
                    f"{journal.topic} holds something else than the journal; give what the journal topic has."
                ) from None
            done += len(messages)
            self._progress("reading the journal", 0.1 + 0.05 * min(done / size, 1))

    def _read_labels(self, logs: RecordedLogs) -> None:
        asked = self._asked
        if asked.labels is None:
            return
        decoder = self._decoder(asked.labels.topic)
        for messages in asked.labels.chunks():
            batch = decoder.decode(messages).labels
            if not len(batch):
                continue
            for entity in self._catalog.entities:
                keys = _keys(ids_of(batch.labels, entity), entity)
                self._add(logs, entity, keys, batch, batch.base, labels=True)
            self._progress("reading labels", 0.15)

    def _read_payments(self, logs: RecordedLogs, identities: Path, fields: Sequence[str]) -> None:
        asked, reader = self._asked, PaymentReader(self._catalog)
        decoder = self._decoder(None)
        size, done = max(asked.payments.size(), 1), 0
        schema = self._schema(fields)
        with pa.OSFile(str(identities), "wb") as to, pa.ipc.new_stream(to, schema) as file:
            for messages in asked.payments.chunks():
                done += len(messages)
                self._progress("reading payments", 0.15 + 0.25 * min(done / size, 1))
                batch = decoder.decode(messages).batch
                partition, start = messages[0].partition(), messages[0].offset()
                self._settle_beginning(partition, messages[0], batch)
                if not len(batch):
                    continue
                first = self._places
                self._ranges.append(_Range(messages[0].topic(), partition, first, start, messages[-1].offset() + 1))
                self._places += len(batch)
                known = self._record(logs, batch, first)
                file.write_batch(_identity(batch, known, fields, reader.read(batch), schema))

    def _settle_beginning(self, partition: int, message: Message, batch: PaymentBatch) -> None:
        """Where a partition begins behind what was recorded of it, what is older may be missing."""
        if any(each.partition == partition for each in self._ranges):
            return
        source = source_id(partition)
        begins = self._order.begins(source)
        if begins is not None and begins < self._asked.payments.begins(message) and len(batch):
            self._known_from_ms = max(self._known_from_ms, int(batch.event_time[0]))

    def _record(self, logs: RecordedLogs, batch: PaymentBatch, first: int) -> Words:
        """Add payments to all logs. (n,) which entities they name; and whose logs lie in the shard of their card's."""
        n, entities = len(batch), np.zeros(len(batch), np.int64)
        places = np.arange(first, first + n)
        of_card: Words | None = None
        for bit, entity in enumerate(self._catalog.entities):
            keys = _keys(ids_of(batch.payments, entity), entity)
            shards = self._shards(keys)
            of_card = shards if of_card is None else of_card  # cards come first
            entities |= (keys != 0).astype(np.int64) << bit
            entities |= (shards == of_card).astype(np.int64) << (SAME_SHIFT + bit)
            self._add(logs, entity, keys, batch, payment_records(batch, entity), places=places)
        return entities

    def _shards(self, keys: Words) -> Words:
        return (keys.view(np.uint64) % np.uint64(self._asked.shards)).astype(np.int64)

    def _add(
        self,
        logs: RecordedLogs,
        entity: Entity,
        keys: Words,
        batch: PaymentBatch | LabelBatch,
        records: Words,
        *,
        places: Words | None = None,
        labels: bool = False,
    ) -> None:
        """Add records to an entity's logs, in every branch that has them."""
        order, partition = self._order, int(batch.partition[0])
        source, shards = source_id(partition, labels=labels), self._shards(keys)
        for shard in np.unique(shards).tolist():
            rows = np.flatnonzero(shards == shard)
            for branch in range(order.branches(shard)):
                numbers, layers = order.places(shard, branch, source, batch.offset[rows])
                own = _of_branch(keys[rows], branch)
                lost = np.flatnonzero((numbers == UNKNOWN) & (own != 0))
                if lost.size:
                    self._doubt(entity, own[lost], order.lost_from(shard, branch, source, batch.offset[rows[lost]]))
                own[numbers == UNKNOWN] = 0
                some = records[rows]
                if places is not None:
                    some[:, 2] = place_words(places[rows], np.maximum(layers, 0), layers != UNKNOWN)
                logs.add(entity, own, numbers, some, labels=labels)

    def _doubt(self, entity: Entity, keys: Words, since: Words) -> None:
        """From these numbers on a record of these keys may be missing."""
        doubts = self._doubts[entity]
        for key, number in zip(keys.tolist(), since.tolist(), strict=True):
            if number != UNKNOWN:
                doubts[key] = min(doubts.get(key, number), number)

    def _by_range(self, scratch: Scratch, packed: Spill) -> Spill:
        """The decisions by the range that their payment was read in; those of payments that were not read count here."""
        ranged = scratch.spill("ranged", max(len(self._ranges), 1), t.WORDS, np.int64)
        of_partition: dict[int, tuple[Words, Words, Words]] = {}
        for partition in {each.partition for each in self._ranges}:
            own = [
                (each.start, each.end, number)
                for number, each in enumerate(self._ranges)
                if each.partition == partition
            ]
            starts, ends, numbers = (np.array(column, np.int64) for column in zip(*own, strict=True))
            of_partition[partition] = starts, ends, numbers
        for rows in packed.pieces(0):
            number = np.full(len(rows), UNKNOWN, np.int64)
            for partition in np.unique(rows[:, t.PARTITION]).tolist():
                here = rows[:, t.PARTITION] == partition
                if partition in of_partition:
                    starts, _, numbers = of_partition[partition]
                    at = np.searchsorted(starts, rows[here, t.OFFSET], side="right") - 1
                    number[here] = np.where(at >= 0, numbers[np.maximum(at, 0)], UNKNOWN)
            gone = int((number == UNKNOWN).sum())
            self._unverifiable("payment_not_read", gone)
            order = np.argsort(number, kind="stable")[gone:]
            bounds = np.searchsorted(number[order], np.arange(len(self._ranges) + 1))
            scratch.add(ranged, np.ascontiguousarray(rows[order]), bounds)
        return ranged

    def _unverifiable(self, why: str, count: int) -> None:
        if count:
            self._certificate.unverifiable[why] += count
            self._certificate.results["unverifiable"] += count

    def _compare(self, logs: RecordedLogs, identities: Path, decisions: Spill, remaker: Remaker) -> None:
        if not self._ranges:
            return
        asked, partitions = self._asked, dict[tuple[str, int], Partition]()
        with (
            pa.OSFile(str(identities)) as kept,
            pa.ipc.open_stream(kept) as file,
            ThreadPoolExecutor(asked.threads) as pool,
        ):
            batches = enumerate(file)
            running: list[Future[_Compared]] = []
            for done in range(len(self._ranges)):
                free = islice(batches, 2 * asked.threads - len(running))
                for part, batch in free:
                    running.append(pool.submit(self._range, part, batch, logs, decisions.part(part), remaker))
                compared = running.pop(0).result()
                of = compared.range
                known = partitions.setdefault((of.topic, of.partition), Partition(of.topic, of.partition, of.start))
                self._account(compared, known)
                self._progress("comparing", 0.75 + 0.25 * (done + 1) / len(self._ranges))
        self._certificate.partitions = [partitions[key] for key in sorted(partitions)]

    def _range(self, part: int, batch: pa.RecordBatch, logs: RecordedLogs, told: Words, remaker: Remaker) -> _Compared:
        of = self._ranges[part]
        told = told[np.lexsort((np.arange(len(told)), told[:, t.OFFSET]))]
        offsets = np.asarray(batch.column("offset"))
        at = np.minimum(np.searchsorted(offsets, told[:, t.OFFSET]), len(offsets) - 1)
        there = offsets[at] == told[:, t.OFFSET]
        cells = {entity: logs.cells(entity, part) for entity in self._catalog.entities}
        has_state = told[:, t.SHARD] != t.NO_STATE
        values, layered = np.full((len(told), len(self._catalog.names)), np.nan, np.float32), self._layers(of, told)
        repeated, unknown, doubtful = (np.zeros(len(told), np.bool_) for _ in range(3))
        for layer in np.unique(layered[has_state & there]).tolist():
            rows = np.flatnonzero((layered == layer) & has_state & there)
            if layer == UNKNOWN:
                unknown[rows] = True
                continue
            table = _Table.of(self._catalog, logs, cells, batch, layer)
            values[rows] = table.values[:, at[rows]].T
            repeated[rows], unknown[rows] = table.repeated[at[rows]], table.unknown[at[rows]]
            doubtful[rows] = table.doubtful[at[rows]]
        for column in self._catalog.payment_columns:
            values[there, column] = np.asarray(batch.column(self._catalog.names[column]))[at[there]]
        own = batch.take(pa.array(at))
        remade = remaker.remake(told, own, values)
        old = has_state & (
            np.asarray(own.column("event_time")) - self._whole.limits.horizon_ms - DAY <= self._known_from_ms
        )
        same = there & (np.asarray(own.column("identity")) == told[:, t.IDENTITY])
        unverifiable = {
            "bundle_not_given": remade.unknown,
            "order_not_published": unknown | doubtful,
            "history_incomplete": old & bool(self._known_from_ms),
        }
        differs = {"payment": ~same, "repeated": repeated, **remade.differs}
        counted, missing = self._undecided(of, batch, offsets, told, logs, cells)
        return _Compared(of, told, own, remade, values, has_state, unverifiable, differs, counted, missing)

    def _layers(self, of: _Range, told: Words) -> Words:
        """(n,) which of the numbers of their payments decisions were made with."""
        result = np.full(len(told), UNKNOWN, np.int64)
        for shard in np.unique(told[:, t.SHARD]).tolist():
            if shard != t.NO_STATE:
                rows = told[:, t.SHARD] == shard
                some = told[rows]
                result[rows] = self._order.layer_of(
                    shard, source_id(of.partition), some[:, t.OFFSET], some[:, t.EPOCH], some[:, t.SEQUENCE]
                )
        return result

    def _undecided(
        self,
        of: _Range,
        batch: pa.RecordBatch,
        offsets: Words,
        told: Words,
        logs: RecordedLogs,
        cells: Mapping[Entity, npt.NDArray[np.int32]],
    ) -> tuple[Counter[str], list[tuple[int, str, str]]]:
        """What became of payments without a decision; those that should have one."""
        first, last = self._decided.get(of.partition, (1 << 62, -1))
        time = np.asarray(batch.column("event_time"))
        due = (offsets >= first) & (offsets <= last) & ~np.isin(offsets, told[:, t.OFFSET])
        due &= (time >= (self._asked.from_ms or 0)) & (time < (self._asked.to_ms or 1 << 62))
        counted: Counter[str] = Counter()
        if not due.any():
            return counted, []
        recorded, repeated = np.zeros(len(offsets), np.bool_), np.zeros(len(offsets), np.bool_)
        doubtful = np.zeros(len(offsets), np.bool_)
        of_card = cells["card"]
        recorded[of_card[:, 0]] = True
        repeated[of_card[(of_card[:, 1] & 1) == 1, 0]] = True
        doubtful[of_card[of_card[:, 1] & DOUBTFUL != 0, 0]] = True
        doubtful |= time - self._whole.limits.horizon_ms - DAY <= self._known_from_ms if self._known_from_ms else False
        unclear = due & ~repeated & (doubtful | ~recorded)
        missing = np.flatnonzero(due & recorded & ~repeated & ~doubtful)
        counted["repeated"] = int((due & repeated).sum())
        counted["unverifiable"] = int(unclear.sum())
        counted["undecided"] = len(missing)
        names = zip(
            offsets[missing].tolist(),
            batch.column("event_id").take(pa.array(missing)).to_pylist(),
            batch.column("card_id").take(pa.array(missing)).to_pylist(),
            strict=True,
        )
        return counted, list(names)

    def _account(self, compared: _Compared, to: Partition) -> None:
        """Count, and add to the digests, in the order of the offsets."""
        certificate, told, remade = self._certificate, compared.told, compared.remade
        to.last = compared.range.end - 1
        certificate.payments.update(compared.payments)
        for offset, event_id, card_id in compared.missing:
            certificate.differences["undecided"] += 1
            self._example(compared.range, offset, event_id, card_id, "undecided", "no decision", "one is due")
        if not len(told) or remade is None or compared.batch is None:
            return
        again = np.zeros(len(told), np.bool_)
        again[1:] = (told[1:] == told[:-1]).all(axis=1)
        certificate.repeated += int(again.sum())
        left = ~again
        certificate.decisions -= int(again.sum())
        for why, mask in compared.unverifiable.items():
            self._unverifiable(why, int((mask & left).sum()))
            left &= ~mask
        different = np.zeros(len(told), np.bool_)
        for what, mask in compared.differs.items():
            here = mask & left
            if here.any():
                certificate.differences[what] += int(here.sum())
                different |= here
        certificate.results["different"] += int(different.sum())
        certificate.results["equal"] += int((left & ~different).sum())
        certificate.near += int((remade.near & left).sum())
        certificate.flipped += int((remade.flipped & left).sum())
        to.decisions += int(left.sum())
        self._examples(compared, different, left)
        self._digest(compared, np.flatnonzero(left), to)

    def _digest(self, compared: _Compared, rows: npt.NDArray[np.intp], to: Partition) -> None:
        told, remade, batch = compared.told, compared.remade, compared.batch
        assert remade is not None and batch is not None  # noqa: S101  there are rows
        said = t.floats(told, t.SCORE)
        ids = [
            (card, event, time)
            for card, event, time in zip(
                batch.column("card_id").take(pa.array(rows)).to_pylist(),
                batch.column("event_id").take(pa.array(rows)).to_pylist(),
                batch.column("event_time").take(pa.array(rows)).to_pylist(),
                strict=True,
            )
        ]
        for digest, identity, scores, decision, rules in (
            (to.published, told[rows, t.IDENTITY], said[rows], told[rows, t.DECISION], told[rows, t.RULES]),
            (to.replayed, t.identities(ids), remade.scores[rows], remade.decision[rows], remade.rules[rows]),
        ):
            digest.update(np.column_stack((told[rows, t.OFFSET], identity)).astype("<i8").tobytes())
            digest.update(_plain(scores).tobytes())
            digest.update(decision.astype(np.uint8).tobytes())
            digest.update(repr([self._packer.rules[number] for number in rules.tolist()]).encode())
        replayed = remade.decision[rows] > 0
        alerts = "".join(alert_id(*ids[row]) for row in np.flatnonzero(replayed).tolist())
        to.replayed.update(alerts.encode())
        published = told[rows, t.DECISION] > 0
        alerts = "".join(alert_id(*ids[row]) for row in np.flatnonzero(published).tolist())
        to.published.update(alerts.encode())
        to.features.update(_plain(compared.values[rows[compared.state[rows]]]).tobytes())

    def _examples(self, compared: _Compared, different: Mask, left: Mask) -> None:
        certificate, remade, batch = self._certificate, compared.remade, compared.batch
        assert remade is not None and batch is not None  # noqa: S101  there are rows
        for rows, to, is_flip in (
            (np.flatnonzero(different), certificate.examples, False),
            (np.flatnonzero(remade.flipped & left), certificate.flips, True),
        ):
            for row in rows[: EXAMPLES - len(to)].tolist():
                what = "flip" if is_flip else next(name for name, mask in compared.differs.items() if mask[row])
                published, replayed = self._sides(compared, row)
                event_id, card_id = (batch.column(name)[row].as_py() for name in ("event_id", "card_id"))
                offset = int(compared.told[row, t.OFFSET])
                self._example(compared.range, offset, event_id, card_id, what, published, replayed, to=to)

    def _sides(self, compared: _Compared, row: int) -> tuple[dict[str, Any], dict[str, Any]]:
        told, remade, packer = compared.told[row : row + 1], compared.remade, self._packer
        assert remade is not None  # noqa: S101  there are rows
        case = packer.cases[int(told[0, t.CASE])]
        review, block, score = (float(t.floats(told, column)[0]) for column in (t.REVIEW, t.BLOCK, t.SCORE))
        published = {
            "decision": DECISIONS[int(told[0, t.DECISION])], "score": score, "rules": packer.rules[int(told[0, t.RULES])],
            "tier": case.tier, "model": case.model, "review": review, "block": block,
        }  # fmt: skip
        replayed = {
            "decision": DECISIONS[int(remade.decision[row])], "score": float(remade.scores[row]),
            "rules": packer.rules[int(remade.rules[row])],
        }  # fmt: skip
        return tuple(  # type: ignore[return-value]  # of two
            {name: None if value != value else value for name, value in side.items()} for side in (published, replayed)
        )

    def _example(
        self,
        of: _Range,
        offset: int,
        event_id: str,
        card_id: str,
        what: str,
        published: Any,
        replayed: Any,
        *,
        to: list[dict[str, Any]] | None = None,
    ) -> None:
        examples = self._certificate.examples if to is None else to
        if len(examples) < EXAMPLES:
            examples.append(
                {
                    "topic": of.topic,
                    "partition": of.partition,
                    "offset": offset,
                    "event_id": event_id,
                    "card_id": card_id,
                    "what": what,
                    "published": published,
                    "replayed": replayed,
                }  # fmt: skip
            )

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


@dataclass(frozen=True, slots=True)
class _Table:
    """The values of a range's payments with their numbers of one layer.

    Attributes:
        values: (features, n) float32.
        repeated: (n,)
        unknown: (n,) where the order of an entity's log was not published, or several were.
        doubtful: (n,) where something that came before may be missing.
    """

    values: Values
    repeated: Mask
    unknown: Mask
    doubtful: Mask

    @classmethod
    def of(
        cls,
        catalog: Catalog,
        logs: RecordedLogs,
        cells: Mapping[Entity, npt.NDArray[np.int32]],
        batch: pa.RecordBatch,
        layer: int,
    ) -> _Table:
        """Logs in the card's shard are read with the numbers of that layer, others with the first that they have."""
        n, entities = len(batch), np.asarray(batch.column("entities"))
        values = np.full((len(catalog.names), n), np.nan, np.float32)
        repeated, unknown, doubtful = (np.zeros(n, np.bool_) for _ in range(3))
        for bit, (entity, every) in enumerate(cells.items()):
            beside_card = entities >> (SAME_SHIFT + bit) & 1 == 1
            wanted = np.where(beside_card, layer, 0)
            of_cell = every[:, 1] >> LAYER_SHIFT & (DOUBTFUL >> LAYER_SHIFT) - 1
            some = every[of_cell == wanted[every[:, 0]]]
            logs.fill(values, entity, some, repeated)
            found = np.zeros(n, np.bool_)
            found[some[:, 0]] = True
            several = np.bincount(every[:, 0], minlength=n) > 1
            unknown |= (entities >> bit & 1 == 1) & (~found | (several & ~beside_card))
            doubtful[some[some[:, 1] & DOUBTFUL != 0, 0]] = True
        return cls(values, repeated, unknown, doubtful)


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


def _keys(ids: Sequence[str | None], entity: Entity) -> Words:
    """(n,) hashes of the entities' keys, by which shards are chosen too; 0 for none."""
    hashes = [0 if each is None else xxh3_64_intdigest(key_of(entity, each)) or 1 for each in ids]
    return np.array(hashes, np.uint64).view(np.int64)


def _of_branch(keys: Words, branch: int) -> Words:
    """Keys of logs of their own for what is only in a lost branch."""
    if branch == 0:
        return keys.copy()
    mixed = keys.view(np.uint64) ^ np.uint64(branch * GOLDEN & 0xFFFF_FFFF_FFFF_FFFF)
    return np.where(keys == 0, 0, np.where(mixed == 0, 1, mixed).astype(np.uint64).view(np.int64))


def _plain(values: Values) -> Values:
    """The same with one kind of NaN."""
    return np.where(np.isnan(values), np.float32(np.nan), values).astype("<f4")
