"""Records that must end as dead letters, each with its reason, and the double that carries a record in tests."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

VALID: Final[dict[str, Any]] = {
    "event_id": "evt-1",
    "event_time": 1_700_000_000_000,
    "card_id": "tok_8f2a",
    "merchant_id": "m-77",
    "amount_minor": 1_250,
    "currency": "EUR",
}
OPTIONAL: Final[dict[str, Any]] = {
    "device_id": "dev-5",
    "ip": "192.0.2.7",
    "mcc": "5411",
    "country": "FR",
    "card_country": "DE",
    "channel": "ecom",
    "terminal_id": "t-3",
    "account_id": "acc-9",
}
FULL: Final[dict[str, Any]] = VALID | OPTIONAL
CARD_NUMBER: Final = "4111111111111111"  # the well-known test number
WIDE_CARD_NUMBER: Final = "".join(chr(0xFEE0 + ord(digit)) for digit in CARD_NUMBER)


@dataclass(frozen=True, slots=True)
class Record:
    """A source record: what `consumer.decode.Message` asks for."""

    content: bytes | None
    at_partition: int = 0
    at_offset: int = 0
    record_key: bytes | None = b"tok_8f2a"
    record_headers: tuple[tuple[str, bytes | None], ...] | None = None
    record_timestamp: tuple[int, int] = (0, -1)
    of_topic: str = "payments"

    def topic(self) -> str:
        return self.of_topic

    def partition(self) -> int:
        return self.at_partition

    def offset(self) -> int:
        return self.at_offset

    def key(self) -> bytes | None:
        return self.record_key

    def value(self) -> bytes | None:
        return self.content

    def headers(self) -> list[tuple[str, bytes | None]] | None:
        return None if self.record_headers is None else list(self.record_headers)

    def timestamp(self) -> tuple[int, int]:
        return self.record_timestamp


class Poison(NamedTuple):
    """A bad record."""

    name: str
    value: bytes | None
    reason: str


def payment(**changes: Any) -> bytes:
    """A valid payment with some fields changed; ... leaves one out."""
    return json.dumps({name: value for name, value in (VALID | changes).items() if value is not ...}).encode()


def with_text(text: str | bytes) -> bytes:
    """A valid payment with more members, as they are to stand in the record."""
    return payment()[:-1] + b"," + (text.encode() if isinstance(text, str) else text) + b"}"


def with_raw(name: str, raw: str | bytes) -> bytes:
    """A valid payment in which one field's value is written as given."""
    marker = "\N{SNOWMAN}"
    content = raw.encode() if isinstance(raw, str) else raw
    return payment(**{name: marker}).replace(json.dumps(marker).encode(), content)


def nested(depth: int, opening: str = "[", closing: str = "]") -> str:
    return '"x":' + opening * depth + "1" + closing * depth


def _mistyped() -> list[Poison]:
    wrong: dict[str, Any] = {"an object": {"a": 1}, "an array": [1], "a boolean": True}
    found = []
    for name, good in FULL.items():
        others: dict[str, Any] = wrong | ({"a number": 7} if isinstance(good, str) else {"a string": "7"})
        if name in VALID:
            others |= {"null": None}
        found += [Poison(f"{name} is {what}", payment(**{name: value}), "wrong_type") for what, value in others.items()]
    return found


def _out_of_range() -> list[Poison]:
    ids = ("event_id", "card_id", "merchant_id", "device_id", "terminal_id", "account_id")
    changes: dict[str, dict[str, Any]] = {
        **{f"{name} is empty": {name: ""} for name in ids},
        **{f"{name} is too long": {name: "a" * 129} for name in ids},
        "currency is too short": {"currency": "EU"},
        "currency is too long": {"currency": "EURO"},
        "country has three letters": {"country": "FRA"},
        "card_country has one letter": {"card_country": "F"},
        "mcc has five digits": {"mcc": "54110"},
        "ip is too long": {"ip": "1" * 46},
        "channel is too long": {"channel": "c" * 33},
        "the amount is negative": {"amount_minor": -1},
        "the amount is absurd": {"amount_minor": 1_000_000_000_001},
        "the amount is 2^63": {"amount_minor": 2**63},
        "the amount is 2^64": {"amount_minor": 2**64},
        "the amount is -2^63 - 1": {"amount_minor": -(2**63) - 1},
        "event_time is zero": {"event_time": 0},
        "event_time is in seconds": {"event_time": 1_700_000_000},
        "event_time is in microseconds": {"event_time": 1_700_000_000_000_000},
        "event_time is 2^64": {"event_time": 2**64},
    }
    return [Poison(name, payment(**change), "out_of_range") for name, change in changes.items()]


POISON: Final[list[Poison]] = [
    Poison("no value", None, "empty"),
    Poison("an empty value", b"", "empty"),
    Poison("a record of 70,000 bytes", payment(padding="x" * 70_000), "too_large"),
    Poison("70,000 bytes that are no JSON", b"x" * 70_000, "too_large"),
    Poison("white space", b" \n\t", "not_json"),
    Poison("text", b"hello", "not_json"),
    Poison("half a payment", payment()[:-1], "not_json"),
    Poison("a payment and more", payment() + b"x", "not_json"),
    Poison("two payments", payment() * 2, "not_json"),
    Poison("a payment and a NUL", payment() + b"\0", "not_json"),
    Poison("a byte order mark", b"\xef\xbb\xbf" + payment(), "not_json"),
    Poison("UTF-16", payment().decode().encode("utf-16"), "not_json"),
    Poison("a trailing comma", payment()[:-1] + b",}", "not_json"),
    Poison("single quotes", payment().replace(b'"', b"'"), "not_json"),
    Poison("a comment", payment() + b"// x", "not_json"),
    Poison("an amount with a leading zero", with_raw("amount_minor", "0125"), "not_json"),
    Poison("NaN", with_raw("amount_minor", "NaN"), "not_json"),
    Poison("Infinity", with_raw("amount_minor", "Infinity"), "not_json"),
    Poison("-Infinity", with_raw("amount_minor", "-Infinity"), "not_json"),
    Poison("NaN in an unknown field", with_text('"x":NaN'), "not_json"),
    Poison("Infinity deep in an unknown field", with_text('"x":{"y":[-Infinity]}'), "not_json"),
    Poison("a bad escape", with_raw("merchant_id", r'"\x41"'), "not_json"),
    Poison("a bad escape in an unknown field", with_text(r'"x":"\x41"'), "not_json"),
    Poison("half a surrogate pair", with_raw("event_id", r'"\ud800"'), "not_json"),
    Poison("a low surrogate in an unknown field", with_text(r'"x":"\udc00"'), "not_json"),
    Poison("a line end in a string", with_raw("event_id", '"a\nb"'), "not_json"),
    Poison("a control character in an unknown key", with_text(b'"a\x01":1'), "not_json"),
    Poison("invalid UTF-8 between fields", payment()[:-1] + b"\xff}", "not_json"),
    Poison("invalid UTF-8 in a known field", with_raw("event_id", b'"a\xff"'), "not_utf8"),
    Poison("an overlong form in a known field", with_raw("card_id", b'"\xc0\xaf"'), "not_utf8"),
    Poison("an encoded surrogate in a known field", with_raw("card_id", b'"\xed\xa0\x80"'), "not_utf8"),
    Poison("invalid UTF-8 in an unknown field", with_text(b'"x":"\xff"'), "not_utf8"),
    Poison("invalid UTF-8 in an unknown key", with_text(b'"\xff":1'), "not_utf8"),
    Poison("an array", b"[" + payment() + b"]", "not_an_object"),
    Poison("a string", b'"payment"', "not_an_object"),
    Poison("a number", b"17", "not_an_object"),
    Poison("null", b"null", "not_an_object"),
    Poison("100,000 brackets", b"[" * 50_000, "not_an_object"),
    Poison("depth 65 in an unknown field", with_text(nested(64)), "too_deep"),
    Poison("depth 1,000 of arrays", with_text(nested(1_000)), "too_deep"),
    Poison("depth 1,000 of objects", with_text(nested(1_000, '{"a":', "}")), "too_deep"),
    Poison("depth 30,000 of arrays", with_text(nested(30_000)), "too_deep"),
    Poison("depth 10,000 of objects", with_text(nested(10_000, '{"a":', "}")), "too_deep"),
    Poison("brackets in strings do not close", with_text('"s":"]]]]]\\"]]","x":' + "[" * 65 + "]" * 65), "too_deep"),
    Poison("depth 30,000 where the amount should be", with_raw("amount_minor", "[" * 30_000), "wrong_type"),
    Poison("a known key twice", with_text('"card_id":"tok_other"'), "duplicate_key"),
    Poison("a known key twice with one value", with_text('"card_id":"tok_8f2a"'), "duplicate_key"),
    Poison("a known key twice, once escaped", with_text(r'"card_\u0069d":"tok_other"'), "duplicate_key"),
    Poison("an optional key twice, at last null", with_text('"ip":"192.0.2.7","ip":null'), "duplicate_key"),
    Poison("an unknown key twice", with_text('"x":1,"x":2'), "duplicate_key"),
    Poison("an unknown key twice, once escaped", with_text(r'"x":1,"\u0078":2'), "duplicate_key"),
    Poison("a key twice in a nested object", with_text('"x":[{"a":1,"a":1}]'), "duplicate_key"),
    *(Poison(f"{name} is missing", payment(**{name: ...}), "missing_field") for name in VALID),
    Poison("an empty object", b"{}", "missing_field"),
    *_mistyped(),
    Poison("an amount in euro", with_raw("amount_minor", "12.50"), "wrong_type"),
    Poison("an amount as a whole float", with_raw("amount_minor", "1250.0"), "wrong_type"),
    Poison("an amount with an exponent", with_raw("amount_minor", "1e3"), "wrong_type"),
    *_out_of_range(),
    Poison("an amount of 5,000 digits", with_raw("amount_minor", "9" * 5_000), "out_of_range"),
    Poison("an amount of 1e400", with_raw("amount_minor", "1e400"), "out_of_range"),
    Poison("a currency that does not exist", payment(currency="ABC"), "unknown_currency"),
    Poison("no currency", payment(currency="XXX"), "unknown_currency"),
    Poison("a metal", payment(currency="XAU"), "unknown_currency"),
    Poison("a currency in lower case", payment(currency="eur"), "unknown_currency"),
    Poison("a card number", payment(card_id=CARD_NUMBER), "card_number"),
    Poison("a card number with spaces", payment(card_id="4111 1111 1111 1111"), "card_number"),
    Poison("a card number with dashes", payment(card_id="4111-1111-1111-1111"), "card_number"),
    Poison("a card number after a space", payment(card_id=f" {CARD_NUMBER}"), "card_number"),
    Poison("a card number with dots", payment(card_id="4111.1111.1111.1111"), "card_number"),
    Poison("a card number of 12 digits", payment(card_id="411111111117"), "card_number"),
    Poison("a card number of 15 digits", payment(card_id="378282246310005"), "card_number"),
    Poison("a card number of 19 digits", payment(card_id="6304000000000000000"), "card_number"),
    Poison("a card number in wide digits", payment(card_id=WIDE_CARD_NUMBER), "card_number"),
]
"""Bad whatever the record's timestamp and headers are; all but the oversized ones below 65,536 bytes."""

FUTURE: Final = Poison("a future time", payment(event_time=1_700_000_300_001), "future_event_time")
"""Bad when the record's timestamp is `FUTURE_READ_AT_MS` or earlier and five minutes are allowed."""
FUTURE_READ_AT_MS: Final = 1_700_000_000_000
