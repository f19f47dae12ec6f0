"""The records that Fraudline reads, their columns in a micro-batch, and the codec of the entity log.

This module alone knows how a payment lies in an entity log. A log is a run of 64-byte little-endian records
(`RECORD`). The client writes the first 53 bytes (`HEAD`); the store stamps the last 11 when it appends: a flag for a
repeated event id, its shard's epoch, and the shard's sequence number at the start of the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal

import msgspec
import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_intdigest

LAYOUT_VERSION: Final = 1
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
    """What became known about a payment later: one record of the `labels` topic."""

    event_id: Id
    card_id: Id
    merchant_id: Id
    event_time: EpochMs
    label: Literal["fraud", "genuine"]
    labelled_at: EpochMs
    source: Literal["chargeback", "analyst", "customer", "issuer"]


KIND_PAYMENT: Final = 1
KIND_LABEL: Final = 2
FLAG_DUPLICATE: Final = 1

# One definition of the layout; HEAD and RECORD are views of it. `stamp` overlaps: its upper 48 bits are the base.
_FIELDS: Final = {
    "event_time": ("<i8", 0),
    "amount": ("<i8", 8),
    "offset": ("<i8", 16),
    "event_hash": ("<u8", 24),
    "card": ("<u4", 32),
    "merchant": ("<u4", 36),
    "device": ("<u4", 40),
    "partition": ("<u2", 44),
    "index": ("<u2", 46),
    "country": ("<u2", 48),
    "mcc": ("<u2", 50),
    "kind": ("u1", 52),  # upper half: layout version
}
_STAMP: Final = {"flags": ("u1", 53), "epoch": ("<u4", 54), "stamp": ("<u8", 56)}
HEAD_BYTES: Final = 53
RECORD_BYTES: Final = 64


def _dtype(fields: dict[str, tuple[str, int]], itemsize: int) -> np.dtype[np.void]:
    return np.dtype(
        {
            "names": list(fields),
            "formats": [form for form, _ in fields.values()],
            "offsets": [offset for _, offset in fields.values()],
            "itemsize": itemsize,
        }
    )


HEAD: Final = _dtype(_FIELDS, HEAD_BYTES)
RECORD: Final = _dtype(_FIELDS | _STAMP, RECORD_BYTES)
Records = npt.NDArray[np.void]


def sequences(records: Records) -> npt.NDArray[np.int64]:
    """The shard sequence number of each record: the stamped base plus the record's place in its batch."""
    base: npt.NDArray[np.int64] = (records["stamp"] >> np.uint64(16)).astype(np.int64)
    index: npt.NDArray[np.uint16] = records["index"]
    return base + index


def stamp_bytes(*, duplicate: bool, epoch: int, base: int) -> bytes:
    """The 11 bytes that a store puts behind each 53-byte head."""
    flags = FLAG_DUPLICATE if duplicate else 0
    return flags.to_bytes(1, "little") + epoch.to_bytes(4, "little") + base.to_bytes(6, "little")


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
    in ms (the event time where there is no broker).
    """

    topic: str
    payments: Sequence[Payment]
    partition: npt.NDArray[np.int32]
    offset: npt.NDArray[np.int64]
    ingest_time: npt.NDArray[np.int64]
    event_time: npt.NDArray[np.int64]
    amount: npt.NDArray[np.int64]
    merchant: npt.NDArray[np.uint32]
    device: npt.NDArray[np.uint32]
    country: npt.NDArray[np.uint16]
    card_country: npt.NDArray[np.uint16]
    channel: npt.NDArray[np.uint8]
    mcc: npt.NDArray[np.uint16]
    heads: Records

    def __len__(self) -> int:
        """The number of payments."""
        return len(self.payments)


def batch_of(
    payments: Sequence[Payment],
    *,
    topic: str,
    partition: Sequence[int],
    offset: Sequence[int],
    ingest_time: Sequence[int] | None = None,
) -> PaymentBatch:
    """Lay payments out as columns. All sequences have length n, at most 65,535, in log order (see `PaymentBatch`)."""
    n = len(payments)
    heads: Records = np.zeros(n, HEAD)
    heads["event_time"] = event_time = np.fromiter([p.event_time for p in payments], np.int64, n)
    heads["amount"] = amount = np.fromiter([p.amount_minor for p in payments], np.int64, n)
    heads["offset"] = offsets = np.asarray(offset, np.int64)
    heads["event_hash"] = np.fromiter([xxh3_64_intdigest(p.event_id.encode()) for p in payments], np.uint64, n)
    tags = _tags(
        [xxh3_64_intdigest(p.card_id.encode()) for p in payments]
        + [xxh3_64_intdigest(p.merchant_id.encode()) for p in payments]
        + [0 if p.device_id is None else xxh3_64_intdigest(p.device_id.encode()) for p in payments]
    )
    heads["card"] = tags[:n]
    heads["merchant"] = merchant = tags[n : 2 * n]
    heads["device"] = device = tags[2 * n :]
    heads["partition"] = partitions = np.asarray(partition, np.int32)
    heads["index"] = np.arange(n, dtype=np.uint16)
    heads["country"] = country = np.fromiter([_COUNTRIES[p.country] for p in payments], np.uint16, n)
    heads["mcc"] = mcc = np.fromiter([_MCCS[p.mcc] for p in payments], np.uint16, n)
    heads["kind"] = KIND_PAYMENT | LAYOUT_VERSION << 4
    return PaymentBatch(
        topic=topic,
        payments=payments,
        partition=partitions,
        offset=offsets,
        ingest_time=event_time if ingest_time is None else np.asarray(ingest_time, np.int64),
        event_time=event_time,
        amount=amount,
        merchant=merchant,
        device=device,
        country=country,
        card_country=np.fromiter([_COUNTRIES[p.card_country] for p in payments], np.uint16, n),
        channel=np.fromiter([_CHANNELS[p.channel] for p in payments], np.uint8, n),
        mcc=mcc,
        heads=heads,
    )


def _tags(digests: list[int]) -> npt.NDArray[np.uint32]:
    """What `tag` gives, from 64-bit digests of which 0 means absent."""
    wide = np.array(digests, np.uint64)
    tags = wide.astype(np.uint32)
    if not tags.all():
        tags[(tags == 0) & (wide != 0)] = 1
    return tags
