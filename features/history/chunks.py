"""Rows of files, checked and hashed: payments and labels as the columns that their records are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa

from features.catalog import Entity
from features.currencies import CURRENCIES
from features.event import (
    Label,
    Payment,
    PaymentBatch,
    Words,
    channel_code,
    code2,
    label_words,
    mcc_code,
    payment_words,
    sources_of,
    tags_of,
)
from features.grouping import ID_FIELDS
from features.history.fields import Field, Kind, Mask, Reason, Refusals, fields_of
from features.history.files import Piece
from features.history.xxh3 import ABSENT, OK, hash_strings, may_be_card_numbers

KEPT: Final = "payment."  # begins the name of a column that was kept: a feature may have the same name

Keys = dict[Entity, Words]
IsCardNumber = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class PaymentChunk:
    """n payments in log order; the first has offset `first` in the log.

    `batch` has every column but the payments themselves. `keys`: by entity, (n,) the hash of its id, 0 for none.
    `identity` has the columns event_id, card_id and event_time, and those that were asked for.
    """

    first: int
    batch: PaymentBatch
    keys: Keys
    identity: pa.RecordBatch


@dataclass(frozen=True, slots=True)
class LabelChunk:
    """m labels: their records without counterparts, (m, 6); when they became known, (m,) ms; and whom they name."""

    base: Words
    labelled_at: Words
    keys: Keys


class _Rows:
    """The rows of a piece, of which some are refused. A row is refused for the first fault that is met."""

    def __init__(self, piece: Piece, kind: Kind, refusals: Refusals) -> None:
        self.n = len(piece.rows)
        self.bad = np.zeros(self.n, np.bool_)
        self._piece, self._refusals = piece, refusals
        self._fields = {each.name: each for each in fields_of(kind)}

    def refuse(self, faulty: Mask, column: str, reason: Reason) -> None:
        fresh = faulty & ~self.bad
        if fresh.any():
            self._refusals.note(self._piece.rows[fresh].tolist(), column, reason)
            self.bad |= fresh

    def hashed(self, name: str) -> Words:
        """(n,) the hash of each text."""
        column, field = self._piece.columns.get(name), self._fields[name]
        if column is None:
            return np.zeros(self.n, np.int64)
        hashes, faults = hash_strings(column, field.least, field.most)
        if faults.any():
            if field.is_required:
                self.refuse(faults == ABSENT, name, "missing_field")
            self.refuse((faults != OK) & (faults != ABSENT), name, "out_of_range")
        return hashes

    def whole(self, name: str) -> Words:
        """(n,) integers inside the field's range; what is not is refused."""
        column, field = self._piece.columns[name], self._fields[name]
        if name in self._piece.wrong:
            self.refuse(self._piece.wrong[name], name, "wrong_type")
        if column.null_count:
            self.refuse(np.asarray(column.is_null()), name, "missing_field")
        numbers: Words = np.asarray(column.fill_null(field.least))
        self.refuse((numbers < field.least) | (numbers > field.most), name, "out_of_range")
        return numbers

    def coded(self, name: str, code: Callable[[str | None], int], dtype: type[np.generic] = np.int64) -> Any:
        """(n,) the code of each text, which is worked out once for each that is there."""
        column, field = self._piece.columns.get(name), self._fields[name]
        if column is None:
            return np.full(self.n, code(None), dtype)
        encoded = column.dictionary_encode()
        texts: list[str | None] = [*encoded.dictionary.to_pylist(), None]
        which = np.asarray(encoded.indices.fill_null(len(texts) - 1))
        faulty = np.array([text is not None and not _fits(field, text) for text in texts])
        if field.is_required:
            self.refuse(np.array([text is None for text in texts])[which], name, "missing_field")
        if faulty.any():
            self.refuse(faulty[which], name, "out_of_range")
        return np.array([0 if bad else code(text) for text, bad in zip(texts, faulty, strict=True)], dtype)[which]


def _fits(field: Field, text: str) -> bool:
    return text in field.choices if field.choices else field.least <= len(text) <= field.most


def payment_chunk(
    piece: Piece, first: int, refusals: Refusals, is_card_number: IsCardNumber, keep: Sequence[pa.Field] = ()
) -> PaymentChunk:
    """The payments of a piece; refused rows are counted and left out, so the rows behind them move up.

    `keep` names further columns of the payments that the identity shall have.
    """
    rows = _Rows(piece, Payment, refusals)
    event = rows.hashed("event_id")
    event_time = rows.whole("event_time")
    hashes = {entity: rows.hashed(name) for entity, name in ID_FIELDS.items()}
    amount = rows.whole("amount_minor")
    rows.refuse(rows.coded("currency", lambda text: text not in CURRENCIES) == 1, "currency", "unknown_currency")
    country, card_country = rows.coded("country", code2, np.uint16), rows.coded("card_country", code2, np.uint16)
    mcc, channel = rows.coded("mcc", mcc_code, np.uint16), rows.coded("channel", channel_code, np.uint8)
    _refuse_card_numbers(rows, piece.columns["card_id"], is_card_number)
    identity = pa.RecordBatch.from_arrays(
        [piece.columns["event_id"], piece.columns["card_id"], pa.array(event_time), *_kept(piece, keep)],
        ["event_id", "card_id", "event_time", *(each.name for each in keep)],
    )
    if rows.bad.any():
        good = ~rows.bad
        event, event_time, amount, country = event[good], event_time[good], amount[good], country[good]
        card_country, mcc, channel = card_country[good], mcc[good], channel[good]
        hashes = {entity: each[good] for entity, each in hashes.items()}
        identity = identity.filter(pa.array(good))
    n = len(event)
    offset, partition = np.arange(first, first + n), np.zeros(n, np.int32)
    batch = PaymentBatch(
        topic="history",
        payments=(),
        partition=partition,
        offset=offset,
        ingest_time=event_time,
        event_time=event_time,
        amount=amount,
        country=country,
        card_country=card_country,
        channel=channel,
        mcc=mcc,
        card=tags_of(hashes["card"]),
        merchant=tags_of(hashes["merchant"]),
        device=tags_of(hashes["device"]),
        ip=tags_of(hashes["ip"]),
        base=payment_words(event_time, amount, sources_of(partition, offset), event, country, mcc),
    )
    return PaymentChunk(first, batch, hashes, identity)


def _kept(piece: Piece, keep: Sequence[pa.Field]) -> list[pa.Array]:
    """Columns as they are, or all null where the file lacks them."""
    n = len(piece.rows)
    found = [piece.columns.get(each.name.removeprefix(KEPT)) for each in keep]
    return [
        pa.nulls(n, each.type) if column is None else column.cast(each.type)
        for each, column in zip(keep, found, strict=True)
    ]


def label_chunk(piece: Piece, first: int, refusals: Refusals, is_card_number: IsCardNumber) -> LabelChunk:
    """The labels of a piece; refused rows are counted and left out."""
    rows = _Rows(piece, Label, refusals)
    event, event_time, labelled_at = rows.hashed("event_id"), rows.whole("event_time"), rows.whole("labelled_at")
    hashes = {entity: rows.hashed(name) for entity, name in ID_FIELDS.items()}
    fraud = rows.coded("label", lambda text: text == "fraud")
    rows.coded("source", lambda _: 0)
    rows.refuse(event_time > labelled_at, "event_time", "future_event_time")
    _refuse_card_numbers(rows, piece.columns["card_id"], is_card_number)
    good = ~rows.bad
    m = int(good.sum())
    source = sources_of(np.zeros(m, np.int32), np.arange(first, first + m), labels=True)
    base = label_words(event_time[good], fraud[good] == 1, source, event[good])
    return LabelChunk(base, labelled_at[good], {entity: each[good] for entity, each in hashes.items()})


def _refuse_card_numbers(rows: _Rows, cards: pa.Array, is_card_number: IsCardNumber) -> None:
    suspects = np.flatnonzero(may_be_card_numbers(cards) & ~rows.bad)
    if suspects.size:
        faulty = np.zeros(rows.n, np.bool_)
        faulty[suspects] = [is_card_number(text) for text in cards.take(pa.array(suspects)).to_pylist()]
        rows.refuse(faulty, "card_id", "card_number")
