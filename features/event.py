"""The records that Fraudline reads, their columns in a micro-batch, and the codec of the entity log.

This module alone knows how a payment or a label lies in an entity log. A log is a run of units of six little-endian
64-bit words (`UNIT_BYTES`). One unit is one record; a log that was compacted begins with units of a summary instead
(see `features.fold`).

| word | record | bits |
|---|---|---|
| 0 | event time of the payment, ms | 64 |
| 1 | amount, minor units; kind; flags | 48, 8, 8 |
| 2 | source: offset; partition; 1 for the labels topic | 48, 15, 1 |
| 3 | hash of the event id | 64 |
| 4 | tags of the first and second counterpart | 32, 32 |
| 5 | tag of the third; country; merchant category | 32, 16, 16 |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal

import msgspec
import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_intdigest

LAYOUT_VERSION: Final = 2
MIN_EVENT_TIME_MS: Final = 946_684_800_000  # 2000-01-01
MAX_EVENT_TIME_MS: Final = 4_102_444_800_000  # 2100-01-01
MAX_AMOUNT_MINOR: Final = 1_000_000_000_000

Id = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
EpochMs = Annotated[int, msgspec.Meta(ge=MIN_EVENT_TIME_MS, le=MAX_EVENT_TIME_MS)]
AmountMinor = Annotated[int, msgspec.Meta(ge=0, le=MAX_AMOUNT_MINOR)]
CountryCode = Annotated[str, msgspec.Meta(min_length=2, max_length=2, description="ISO 3166-1 alpha-2")]
CurrencyCode = Annotated[str, msgspec.Meta(min_length=3, max_length=3, description="ISO 4217, active codes")]


class Payment(msgspec.Struct, frozen=True, gc=False):
    """A payment to be decided: one record of the `payments` topic, keyed by `card_id`.

    Times are milliseconds since the epoch, UTC; money is an integer in the currency's minor unit. `card_id` is a
    token, never a card number. Unknown fields are ignored.
    """

    event_id: Id
    event_time: EpochMs
    card_id: Id
    merchant_id: Id
    amount_minor: AmountMinor
    currency: CurrencyCode
    device_id: Id | None = None
    ip: Annotated[str, msgspec.Meta(max_length=45)] | None = None
    mcc: Annotated[str, msgspec.Meta(min_length=4, max_length=4, description="ISO 18245 category code")] | None = None
    country: CountryCode | None = None
    card_country: CountryCode | None = None
    channel: Annotated[str, msgspec.Meta(max_length=32)] | None = None
    terminal_id: Id | None = None
    account_id: Id | None = None


class Label(msgspec.Struct, frozen=True, gc=False):
    """What became known about a payment later: one record of the `labels` topic.

    Its card and merchant learn from it, and every other entity that it names.
    """

    event_id: Id
    card_id: Id
    merchant_id: Id
    event_time: EpochMs
    label: Literal["fraud", "genuine"]
    labelled_at: EpochMs
    source: Literal["chargeback", "analyst", "customer", "issuer"]
    account_id: Id | None = None
    terminal_id: Id | None = None
    device_id: Id | None = None
    ip: Annotated[str, msgspec.Meta(max_length=45)] | None = None


UNIT_WORDS: Final = 6
UNIT_BYTES: Final = 8 * UNIT_WORDS
KIND_PAYMENT: Final = 1
KIND_LABEL: Final = 2
FLAG_REPEATED: Final = 1  # of a payment that was folded into a summary: its event id was repeated
FLAG_FRAUD: Final = 2  # of a label
MAX_PARTITION: Final = (1 << 15) - 1
KIND_SHIFT: Final = 48
FLAG_SHIFT: Final = 56
AMOUNT_MASK: Final = (1 << KIND_SHIFT) - 1
OFFSET_BITS: Final = 48
OFFSET_MASK: Final = (1 << OFFSET_BITS) - 1

Words = npt.NDArray[np.int64]


def source_id(partition: int, *, labels: bool = False) -> int:
    """The upper 16 bits of a record's source: which partition of which of the two topics."""
    return partition | (int(labels) << 15)


def sources_of(partition: npt.NDArray[np.int32], offset: Words, *, labels: bool = False) -> Words:
    """(n,) the source word of records at these partitions and offsets."""
    number = partition.astype(np.uint64) | np.uint64(int(labels) << 15)
    return ((number << np.uint64(OFFSET_BITS)) | offset.astype(np.uint64)).view(np.int64)


def tag(text: str | None) -> int:
    """A stable 32-bit tag of an id; 0 means absent."""
    return 0 if text is None else (xxh3_64_intdigest(text.encode()) & 0xFFFFFFFF) or 1


def code2(text: str | None) -> int:
    """Two ASCII letters (a country) as a 16-bit code; 0 means absent."""
    if text is None:
        return 0
    return int.from_bytes(text.encode("utf-8")[:2], "little")


def mcc_code(text: str | None) -> int:
    """A merchant category as a 16-bit code; 0 means absent or not a number."""
    return int(text) if text is not None and text.isascii() and text.isdigit() else 0


CHANNELS: Final = ("pos", "ecom", "atm", "contactless", "moto", "recurring")
_CHANNEL_CODE: Final[dict[str | None, int]] = {name: code for code, name in enumerate(CHANNELS, start=1)} | {None: 0}
CHANNEL_OTHER: Final = len(CHANNELS) + 1


def channel_code(text: str | None) -> int:
    """A channel's place in `CHANNELS`, from 1; 0 means absent."""
    return _CHANNEL_CODE.get(text, CHANNEL_OTHER)


class _Memo(dict[str | None, int]):
    """Codes of texts that take few values, each worked out once: a look-up costs a third of the work."""

    LIMIT: Final = 4_096  # bounds memory whatever is sent; starting afresh heals a memo filled with junk

    def __init__(self, code: Callable[[str | None], int]) -> None:
        super().__init__()
        self._code = code

    def __missing__(self, text: str | None) -> int:
        if len(self) >= self.LIMIT:
            self.clear()
        code = self[text] = self._code(text)
        return code


_COUNTRIES: Final = _Memo(code2)
_MCCS: Final = _Memo(mcc_code)
_CHANNELS: Final = _Memo(channel_code)


@dataclass(frozen=True, slots=True)
class PaymentBatch:
    """A micro-batch of n valid payments as columns, in log order: grouped by partition, offsets rising within one.

    All arrays have shape (n,). `offset` and `partition` are the source record's; `ingest_time` is its Kafka timestamp
    in ms (the event time where there is no broker). Tags are 0 where the payment names no such party.
    """

    topic: str
    payments: Sequence[Payment]
    partition: npt.NDArray[np.int32]
    offset: Words
    ingest_time: Words
    event_time: Words
    amount: Words
    country: npt.NDArray[np.uint16]
    card_country: npt.NDArray[np.uint16]
    channel: npt.NDArray[np.uint8]
    mcc: npt.NDArray[np.uint16]
    card: npt.NDArray[np.uint32]
    merchant: npt.NDArray[np.uint32]
    device: npt.NDArray[np.uint32]
    ip: npt.NDArray[np.uint32]
    base: Words  # (n, 6): its record without counterparts

    def __len__(self) -> int:
        """The number of payments."""
        return len(self.payments)


@dataclass(frozen=True, slots=True)
class LabelBatch:
    """A micro-batch of m valid labels, in log order. `base`, shape (m, 6): their records, without counterparts."""

    topic: str
    labels: Sequence[Label]
    partition: npt.NDArray[np.int32]
    offset: Words
    base: Words

    def __len__(self) -> int:
        """The number of labels."""
        return len(self.labels)


def batch_of(
    payments: Sequence[Payment],
    *,
    topic: str,
    partition: Sequence[int],
    offset: Sequence[int],
    ingest_time: Sequence[int] | None = None,
) -> PaymentBatch:
    """Lay payments out as columns. All sequences have length n, in log order (see `PaymentBatch`)."""
    n = len(payments)
    event_time = np.fromiter([p.event_time for p in payments], np.int64, n)
    amount = np.fromiter([p.amount_minor for p in payments], np.int64, n)
    offsets, partitions = np.asarray(offset, np.int64), np.asarray(partition, np.int32)
    tags = _tags_of_digests(
        [xxh3_64_intdigest(p.card_id.encode()) for p in payments]
        + [xxh3_64_intdigest(p.merchant_id.encode()) for p in payments]
        + [0 if p.device_id is None else xxh3_64_intdigest(p.device_id.encode()) for p in payments]
        + [0 if p.ip is None else xxh3_64_intdigest(p.ip.encode()) for p in payments]
    )
    country = np.fromiter([_COUNTRIES[p.country] for p in payments], np.uint16, n)
    mcc = np.fromiter([_MCCS[p.mcc] for p in payments], np.uint16, n)
    events = _hashes([p.event_id for p in payments])
    return PaymentBatch(
        topic=topic,
        payments=payments,
        partition=partitions,
        offset=offsets,
        ingest_time=event_time if ingest_time is None else np.asarray(ingest_time, np.int64),
        event_time=event_time,
        amount=amount,
        country=country,
        card_country=np.fromiter([_COUNTRIES[p.card_country] for p in payments], np.uint16, n),
        channel=np.fromiter([_CHANNELS[p.channel] for p in payments], np.uint8, n),
        mcc=mcc,
        card=tags[:n],
        merchant=tags[n : 2 * n],
        device=tags[2 * n : 3 * n],
        ip=tags[3 * n :],
        base=payment_words(event_time, amount, sources_of(partitions, offsets), events, country, mcc),
    )


def labels_of(labels: Sequence[Label], *, topic: str, partition: Sequence[int], offset: Sequence[int]) -> LabelBatch:
    """Lay labels out as columns. All sequences have length m, in log order."""
    offsets, partitions = np.asarray(offset, np.int64), np.asarray(partition, np.int32)
    base = label_words(
        np.fromiter([label.event_time for label in labels], np.int64, len(labels)),
        np.fromiter([label.label == "fraud" for label in labels], np.bool_, len(labels)),
        sources_of(partitions, offsets, labels=True),
        _hashes([label.event_id for label in labels]),
    )
    return LabelBatch(topic, labels, partitions, offsets, base)


def payment_words(
    event_time: Words,
    amount: Words,
    source: Words,
    event: Words,
    country: npt.NDArray[np.uint16],
    mcc: npt.NDArray[np.uint16],
) -> Words:
    """(n, 6) records of n payments without counterparts; `event` has the hashes of their event ids."""
    words = np.zeros((event_time.size, UNIT_WORDS), np.int64)
    words[:, 0], words[:, 1], words[:, 2], words[:, 3] = event_time, amount, source, event
    words[:, 1] |= KIND_PAYMENT << KIND_SHIFT
    words[:, 5] = (country.astype(np.int64) << 32) | (mcc.astype(np.uint64) << np.uint64(48)).view(np.int64)
    return words


def label_words(event_time: Words, fraud: npt.NDArray[np.bool_], source: Words, event: Words) -> Words:
    """(m, 6) records of m labels; `event` has the hashes of their event ids."""
    words = np.zeros((event_time.size, UNIT_WORDS), np.int64)
    words[:, 0], words[:, 2], words[:, 3] = event_time, source, event
    words[:, 1] = (KIND_LABEL << KIND_SHIFT) | (np.where(fraud, FLAG_FRAUD, 0) << FLAG_SHIFT)
    return words


def set_counterparts(
    records: Words, first: npt.NDArray[np.uint32], second: npt.NDArray[np.uint32], third: npt.NDArray[np.uint32]
) -> None:
    """Put the tags of three counterparts, each of shape (...), into records without any, shape (..., 6)."""
    records[..., 4] = (second.astype(np.uint64) << np.uint64(32) | first).view(np.int64)
    records[..., 5] |= third.astype(np.int64)


def _hashes(event_ids: list[str]) -> Words:
    return np.array([xxh3_64_intdigest(event_id.encode()) for event_id in event_ids], np.uint64).view(np.int64)


def _tags_of_digests(digests: list[int]) -> npt.NDArray[np.uint32]:
    return tags_of(np.array(digests, np.uint64).view(np.int64))


def tags_of(hashes: Words) -> npt.NDArray[np.uint32]:
    """What `tag` gives, from 64-bit hashes of which 0 means absent."""
    tags = hashes.astype(np.uint32)
    if not tags.all():
        tags[(tags == 0) & (hashes != 0)] = 1
    return tags
