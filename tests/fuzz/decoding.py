"""Payments and labels: the decoder takes what a slow one takes that shares no code with it, and nothing else."""

from __future__ import annotations

import json
import re
from typing import Any, Final

import msgspec

from consumer.decode import MAX_DEPTH, REASONS, Decoder, Rejected
from features.currencies import CURRENCIES
from features.event import MAX_AMOUNT_MINOR, MAX_EVENT_TIME_MS, MIN_EVENT_TIME_MS, Label, Payment
from tests.poison import POISON, Record

MAX_BYTES: Final = 65_536
MAX_FUTURE_MS: Final = 300_000
READ_AT_MS: Final = 1_800_000_000_000
LABELS: Final = "labels"
_DECODER: Final = Decoder(max_payment_bytes=MAX_BYTES, max_future_ms=MAX_FUTURE_MS, labels_topic=LABELS)

Bounds = tuple[int, int]  # of a text's characters
_ID: Final = (1, 128)
_PAYMENT: Final[dict[str, Bounds | None]] = {  # None: a whole number
    "event_id": _ID, "event_time": None, "card_id": _ID, "merchant_id": _ID, "amount_minor": None, "currency": (3, 3),
}  # fmt: skip
_PAYMENT_MORE: Final[dict[str, Bounds | None]] = {
    "device_id": _ID, "ip": (0, 45), "mcc": (4, 4), "country": (2, 2), "card_country": (2, 2), "channel": (0, 32),
    "terminal_id": _ID, "account_id": _ID,
}  # fmt: skip
_LABEL: Final[dict[str, Bounds | None]] = {
    "event_id": _ID, "card_id": _ID, "merchant_id": _ID, "event_time": None, "label": (1, 99), "labelled_at": None,
    "source": (1, 99),
}  # fmt: skip
_LABEL_MORE: Final[dict[str, Bounds | None]] = {
    "account_id": _ID, "terminal_id": _ID, "device_id": _ID, "ip": (0, 45),
}  # fmt: skip
_RANGES: Final = {
    "event_time": (MIN_EVENT_TIME_MS, MAX_EVENT_TIME_MS),
    "labelled_at": (MIN_EVENT_TIME_MS, MAX_EVENT_TIME_MS),
    "amount_minor": (0, MAX_AMOUNT_MINOR),
}
_ALSO: Final = (
    "the value is none of those allowed - at event_time is later than labelled_at or the record's own timestamp"
)
_WORD: Final = re.compile(r"[^\s,]+")


def _words_told() -> frozenset[str]:
    """All words that a detail may have: those told of the poison corpus, and names of fields and types."""
    told = _DECODER.decode([Record(each.value) for each in POISON]).rejected
    words = {word for rejected in told for word in _WORD.findall(rejected.detail)}
    fields = {*_PAYMENT, *_PAYMENT_MORE, *_LABEL, *_LABEL_MORE}
    types = ("int", "str", "object", "array", "bool", "float", "null", "int | null", "str | null")
    numbers = {str(each) for bounds in _RANGES.values() for each in bounds}
    return frozenset(
        {f"`{name}`" for name in fields}
        | {f"`$.{name}`" for name in fields}
        | {word for name in types for word in _WORD.findall(f"`{name}`")}
        | words | numbers | set(_ALSO.split())
    )  # fmt: skip


_WORDS: Final = _words_told()


class _Bad(Exception):
    pass


def slow(value: bytes, *, label: bool) -> dict[str, Any] | None:
    """The fields of the record that these bytes are, or None: read by `json` and judged field by field."""
    try:
        if not 0 < len(value) <= MAX_BYTES:
            return None
        text = value.decode()
        if _depth(text) > MAX_DEPTH:
            return None
        read = json.loads(text, object_pairs_hook=_once, parse_constant=_refuse, parse_int=_whole, parse_float=_refused)
        _check_texts(read)
    except (ValueError, RecursionError, _Bad):
        return None
    if not isinstance(read, dict):
        return None
    required, more = (_LABEL, _LABEL_MORE) if label else (_PAYMENT, _PAYMENT_MORE)
    found = {}
    for name, bounds in (required | more).items():
        given = read.get(name)
        if given is None and name in more:
            continue
        if not _fits(name, given, bounds):
            return None
        found[name] = given
    return found if _sensible(found, label) else None


def _fits(name: str, given: Any, bounds: Bounds | None) -> bool:
    if bounds is None:
        return type(given) is int and _RANGES[name][0] <= given <= _RANGES[name][1]
    return type(given) is str and bounds[0] <= len(given) <= bounds[1]


def _sensible(found: dict[str, Any], label: bool) -> bool:
    if _is_card_number(found["card_id"]):
        return False
    if not label:
        return found["currency"] in CURRENCIES
    words = found["label"] in {"fraud", "genuine"}, found["source"] in {"chargeback", "analyst", "customer", "issuer"}
    return all(words) and found["event_time"] <= found["labelled_at"]


def _is_card_number(text: str) -> bool:
    """12 to 19 digits, and whatever is neither letter nor digit between them, that pass the check of Luhn."""
    digits = [each for each in text if each.isalnum()]
    if not 12 <= len(digits) <= 19 or not all(each.isdecimal() for each in digits):
        return False
    doubled = [int(each) * 2 if at % 2 else int(each) for at, each in enumerate(reversed(digits))]
    return sum(sum(divmod(each, 10)) for each in doubled) % 10 == 0


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _Bad
    _check_texts(list(found))
    return found


def _refuse(_word: str) -> None:
    raise _Bad


def _refused(_digits: str) -> float:
    return 0.5  # no field takes a number with a fraction or an exponent


def _whole(digits: str) -> int:
    return int(digits) if len(digits) < 40 else 10**40


def _check_texts(value: Any) -> None:
    """Refuse half a surrogate pair anywhere."""
    if isinstance(value, str):
        value.encode()
    for each in value if isinstance(value, list) else value.values() if isinstance(value, dict) else ():
        _check_texts(each)


def _depth(text: str) -> int:
    """How deep arrays and objects nest; of text that is no JSON any number."""
    deepest = depth = 0
    quoted = escaped = False
    for character in text:
        if quoted:
            quoted = escaped or character != '"'
            escaped = not escaped and character == "\\"
        elif character == '"':
            quoted = True
        elif character in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in "]}":
            depth -= 1
    return deepest


def check_payment(data: bytes) -> None:
    """Payments: as columns, or refused with a known reason and a detail that quotes nothing."""
    expected = slow(data, label=False)
    record = Record(data, record_timestamp=(1, READ_AT_MS))
    decoded = _DECODER.decode([record])
    known = _DECODER.check(data, is_label=False)
    if expected is None:
        assert isinstance(known, str), f"taken, and the slow decoder takes it not: {known}"
        assert not len(decoded.batch)
        _check_refusal(decoded.rejected)
        return
    assert isinstance(known, Payment), f"refused ({known}), and the slow decoder takes it"
    assert _given(known) == expected
    if expected["event_time"] > READ_AT_MS + MAX_FUTURE_MS:
        assert [each.reason for each in decoded.rejected] == ["future_event_time"]
        return
    assert not decoded.rejected
    assert [_given(payment) for payment in decoded.batch.payments] == [expected]
    assert decoded.batch.event_time.tolist() == [expected["event_time"]]
    assert decoded.batch.amount.tolist() == [expected["amount_minor"]]


def check_label(data: bytes) -> None:
    """Labels: likewise."""
    expected = slow(data, label=True)
    decoded = _DECODER.decode([Record(data, of_topic=LABELS, record_timestamp=(0, -1))])
    if expected is None:
        assert not len(decoded.labels), "taken, and the slow decoder takes it not"
        _check_refusal(decoded.rejected)
        return
    assert not decoded.rejected, f"refused ({decoded.rejected[0].reason}), and the slow decoder takes it"
    label: Label = decoded.labels.labels[0]
    assert _given(label) == expected


def _given(record: Payment | Label) -> dict[str, Any]:
    return {name: value for name, value in msgspec.structs.asdict(record).items() if value is not None}


def _check_refusal(rejected: list[Rejected]) -> None:
    assert len(rejected) == 1
    assert rejected[0].reason in REASONS
    assert rejected[0].stage == "decode"
    strange = set(_WORD.findall(rejected[0].detail)) - _WORDS
    assert not strange, f"a detail with other words: {rejected[0].detail}"
