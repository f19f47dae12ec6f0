"""Decode: bytes to valid payments, or to a `Rejected` that says why.

A reason is one of a closed set (it is a metric's label) and a detail is one sentence; neither ever holds a value of
the payload.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, Protocol, TypeVar

import msgspec
import orjson

from features.currencies import CURRENCIES
from features.event import MAX_EVENT_TIME_MS, Label, LabelBatch, Payment, PaymentBatch, batch_of, labels_of


class Message(Protocol):
    """A source record, as the Kafka client gives it; files and tests bring their own."""

    def topic(self) -> str: ...  # noqa: D102
    def partition(self) -> int: ...  # noqa: D102
    def offset(self) -> int: ...  # noqa: D102
    def key(self) -> bytes | None: ...  # noqa: D102
    def value(self) -> bytes | None: ...  # noqa: D102
    def headers(self) -> list[tuple[str, bytes | None]] | None: ...  # noqa: D102
    def timestamp(self) -> tuple[int, int]:
        """(type, ms since the epoch); type 0 means that there is none."""
        ...


REASONS: Final = (
    "empty",
    "too_large",
    "not_utf8",
    "not_json",
    "not_an_object",
    "too_deep",
    "duplicate_key",
    "missing_field",
    "wrong_type",
    "out_of_range",
    "unknown_currency",
    "card_number",
    "future_event_time",
)

MAX_DEPTH: Final = 64  # of nested arrays and objects, the record's own included
_COMMAS: Final = len(Payment.__struct_fields__) - 1  # between all known fields
_LABEL_COMMAS: Final = len(Label.__struct_fields__) - 1
_CARD_NUMBER: Final = ("card_number", "card_id looks like a card number: send a token")
NO_LABELS: Final = labels_of((), topic="", partition=(), offset=())
_T = TypeVar("_T")
_TOO_DEEP: Final = ("too_deep", f"the record nests more than {MAX_DEPTH} arrays and objects")
_STRING: Final = re.compile(rb'"(?:[^"\\]|\\.)*"')
_BRACKET: Final = re.compile(rb"[\[\]{}]")
_SEPARATORS: Final = re.compile(r"[\W_]+")


@dataclass(frozen=True, slots=True)
class Rejected:
    """A record that can't be decided: it goes to the dead-letter topic as it came."""

    message: Message
    stage: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Decoded:
    """The valid payments and labels of a micro-batch as columns, and what was rejected of either topic."""

    batch: PaymentBatch
    labels: LabelBatch
    rejected: list[Rejected]


class _Invalid(Exception):
    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason)
        self.reason, self.detail = reason, detail


class Decoder:
    """Validates payments and labels. One instance a process."""

    def __init__(self, *, max_payment_bytes: int, max_future_ms: int, labels_topic: str | None = None) -> None:
        """Refuse records over `max_payment_bytes`, and event times later than the record's timestamp + a margin.

        Records of `labels_topic` are labels, all others payments.
        """
        self._max_bytes = max_payment_bytes
        self._max_future_ms = max_future_ms
        self._labels_topic = labels_topic
        self._decode = msgspec.json.Decoder(Payment).decode
        self._decode_label = msgspec.json.Decoder(Label).decode

    def decode(self, messages: Sequence[Message]) -> Decoded:
        """Decode n messages, grouped by topic and partition and in offset order within each (`in_log_order`)."""
        rejected: list[Rejected] = []
        if self._labels_topic is None:
            return Decoded(self._payments(messages, rejected), NO_LABELS, rejected)
        is_label = [message.topic() == self._labels_topic for message in messages]
        if not any(is_label):
            return Decoded(self._payments(messages, rejected), NO_LABELS, rejected)
        labels = self._labels([m for m, own in zip(messages, is_label, strict=True) if own], rejected)
        return Decoded(
            self._payments([m for m, own in zip(messages, is_label, strict=True) if not own], rejected),
            labels,
            rejected,
        )

    def check(self, value: bytes, *, is_label: bool) -> Payment | Label | str:
        """The record that these bytes are, whatever its Kafka timestamp; or the reason why they are none."""
        try:
            return self._valid_label(value, MAX_EVENT_TIME_MS) if is_label else self._valid(value)
        except _Invalid as invalid:
            return invalid.reason

    def _payments(self, messages: Sequence[Message], rejected: list[Rejected]) -> PaymentBatch:
        valid = self._valid
        payments: list[Payment] = []
        partitions: list[int] = []
        offsets: list[int] = []
        ingested: list[int] = []
        for message in messages:
            kind, timestamp_ms = message.timestamp()
            try:
                payment = valid(message.value())
                if not kind:
                    timestamp_ms = payment.event_time
                elif payment.event_time > timestamp_ms + self._max_future_ms:
                    raise _Invalid("future_event_time", "event_time is later than the record's own timestamp")
            except _Invalid as invalid:
                rejected.append(Rejected(message, "decode", invalid.reason, invalid.detail))
                continue
            payments.append(payment)
            partitions.append(message.partition())
            offsets.append(message.offset())
            ingested.append(timestamp_ms)
        topic = messages[0].topic() if messages else ""
        return batch_of(payments, topic=topic, partition=partitions, offset=offsets, ingest_time=ingested)

    def _labels(self, messages: Sequence[Message], rejected: list[Rejected]) -> LabelBatch:
        labels: list[Label] = []
        taken: list[Message] = []
        for message in messages:
            try:
                kind, timestamp_ms = message.timestamp()
                known_ms = timestamp_ms + self._max_future_ms if kind else MAX_EVENT_TIME_MS
                labels.append(self._valid_label(message.value(), known_ms))
                taken.append(message)
            except _Invalid as invalid:
                rejected.append(Rejected(message, "decode", invalid.reason, invalid.detail))
        return labels_of(
            labels,
            topic=self._labels_topic or "",
            partition=[message.partition() for message in taken],
            offset=[message.offset() for message in taken],
        )

    def _valid(self, value: bytes | None) -> Payment:
        payment = self._parsed(value, self._decode)
        assert value is not None  # noqa: S101  it was parsed
        if value.count(b",") != _commas_expected(payment):
            _refuse_hidden_trouble(value)
        if payment.currency not in CURRENCIES:
            raise _Invalid("unknown_currency", "currency is not an active ISO 4217 code")
        if looks_like_card_number(payment.card_id):
            raise _Invalid(*_CARD_NUMBER)
        return payment

    def _valid_label(self, value: bytes | None, known_ms: int) -> Label:
        label = self._parsed(value, self._decode_label)
        assert value is not None  # noqa: S101  it was parsed
        absent = (label.account_id, label.terminal_id, label.device_id, label.ip).count(None)
        if value.count(b",") != _LABEL_COMMAS - absent:
            _refuse_hidden_trouble(value)
        if looks_like_card_number(label.card_id):
            raise _Invalid(*_CARD_NUMBER)
        if label.event_time > min(label.labelled_at, known_ms):
            raise _Invalid("future_event_time", "event_time is later than labelled_at or the record's own timestamp")
        return label

    def _parsed(self, value: bytes | None, decode: Callable[[bytes], _T]) -> _T:
        if not value:
            raise _Invalid("empty", "the record has no value")
        if len(value) > self._max_bytes:
            raise _Invalid("too_large", f"the record has more than {self._max_bytes} bytes")
        try:
            return decode(value)
        except msgspec.ValidationError as error:
            raise _Invalid(*explain(str(error))) from None
        except msgspec.DecodeError:
            raise _Invalid("not_json", "the record is not JSON") from None
        except UnicodeDecodeError:
            raise _Invalid("not_utf8", "the record is not UTF-8") from None
        except RecursionError:
            raise _Invalid(*_TOO_DEEP) from None


def _commas_expected(p: Payment) -> int:
    """Commas in a payment that has each known field once and nothing else: anything more needs a look.

    A member more, unknown or repeated, is a comma more. A comma inside a string costs a needless look.
    """
    expected = _COMMAS
    if p.device_id is None:
        expected -= 1
    if p.ip is None:
        expected -= 1
    if p.mcc is None:
        expected -= 1
    if p.country is None:
        expected -= 1
    if p.card_country is None:
        expected -= 1
    if p.channel is None:
        expected -= 1
    if p.terminal_id is None:
        expected -= 1
    if p.account_id is None:
        expected -= 1
    return expected


def _refuse_hidden_trouble(value: bytes) -> None:
    """The slow look at a record with unknown fields, commas or repeated keys, of which msgspec keeps the last."""
    if _deeper(value, MAX_DEPTH):
        raise _Invalid(*_TOO_DEEP)
    if _plain(value):
        return

    def once(pairs: list[tuple[str, Any]]) -> None:
        if len({key for key, _ in pairs}) != len(pairs):
            raise _Invalid("duplicate_key", "the record has a key twice in one object")

    try:
        json.loads(value.decode(), object_pairs_hook=once, parse_int=_ignore, parse_float=_ignore)
    except UnicodeDecodeError:
        raise _Invalid("not_utf8", "the record is not UTF-8") from None
    except ValueError:
        raise _Invalid("not_json", "the record is not JSON") from None


def _plain(value: bytes) -> bool:
    """Whether this is JSON whose only commas stand between top-level members with different keys.

    Then nothing nested has a second member, so no key can be there twice. Most records with unknown fields are such.
    """
    try:
        return len(orjson.loads(value)) == value.count(b",") + 1
    except orjson.JSONDecodeError:
        return False


def _deeper(value: bytes, limit: int) -> bool:
    """Whether JSON nests more than `limit` arrays and objects: the interpreter's own limit varies with its stack."""
    if value.count(b"[") + value.count(b"{") <= limit:
        return False
    depth = 0
    for bracket in _BRACKET.findall(_STRING.sub(b"", value)):
        depth += 1 if bracket in b"[{" else -1
        if depth > limit:
            return True
    return False


def _ignore(_digits: str) -> None:
    """Numbers of unknown fields are not converted: a long one costs quadratic time."""


def explain(text: str) -> tuple[str, str]:
    """Msgspec's message as (reason, detail). It names types and our own fields only, never a value."""
    if text.startswith("Object missing required field"):
        return "missing_field", text[0].lower() + text[1:]
    if text.startswith("Expected `object`") and " - at " not in text:
        return "not_an_object", "the record is not a JSON object"
    if text.startswith("Invalid enum value"):  # msgspec quotes the value
        return "out_of_range", "the value is none of those allowed - at " + text.rpartition(" - at ")[2]
    if ", got" in text:
        return "wrong_type", text[0].lower() + text[1:]
    return "out_of_range", text[0].lower() + text[1:]


def looks_like_card_number(text: str) -> bool:
    """Whether a token is really a card number: 12 to 19 digits that pass the Luhn check (ISO/IEC 7812-1).

    Spaces, dashes and anything else that is neither letter nor digit may stand around and between the digits.
    """
    if text[0].isalpha() or text[-1].isalpha():
        return False
    digits = text if text.isalnum() else _SEPARATORS.sub("", text)
    if not (12 <= len(digits) <= 19 and digits.isdecimal()):
        return False
    total = 0
    for place, character in enumerate(reversed(digits)):
        digit = int(character) * (1 + place % 2)
        total += digit - 9 if digit > 9 else digit
    return total % 10 == 0


def in_log_order(messages: Sequence[Message], labels_topic: str | None = None) -> list[Message]:
    """Group messages by topic and partition, labels first, keeping the order inside each."""
    if labels_topic is not None and len({message.topic() for message in messages}) > 1:
        return sorted(messages, key=lambda message: (message.topic() != labels_topic, message.partition()))
    if all(a.partition() == b.partition() for a, b in pairwise(messages)):
        return list(messages)
    return sorted(messages, key=lambda message: message.partition())
