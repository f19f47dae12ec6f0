"""Decode: every bad record becomes a `Rejected` that tells no value of it, every valid one its columns."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from consumer.decode import MAX_DEPTH, REASONS, Decoder, Rejected, in_log_order, looks_like_card_number
from features.currencies import CURRENCIES
from features.event import Payment
from tests.poison import (
    CARD_NUMBER,
    FULL,
    FUTURE,
    FUTURE_READ_AT_MS,
    OPTIONAL,
    POISON,
    VALID,
    Poison,
    Record,
    nested,
    payment,
    with_raw,
    with_text,
)

CREATE_TIME, LOG_APPEND_TIME = 1, 2
CANARY = "canary"


def decoder(*, max_payment_bytes: int = 65_536) -> Decoder:
    return Decoder(max_payment_bytes=max_payment_bytes, max_future_ms=300_000)


def verdict(value: bytes | None, *, max_payment_bytes: int = 65_536) -> Payment | Rejected:
    """What becomes of one record without a timestamp."""
    decoded = decoder(max_payment_bytes=max_payment_bytes).decode([Record(value)])
    assert len(decoded.batch) + len(decoded.rejected) == 1
    return decoded.batch.payments[0] if len(decoded.batch) else decoded.rejected[0]


def reason(value: bytes | None, *, max_payment_bytes: int = 65_536) -> str | None:
    """Why a record is refused; None when it is not."""
    outcome = verdict(value, max_payment_bytes=max_payment_bytes)
    return outcome.reason if isinstance(outcome, Rejected) else None


@pytest.mark.parametrize("poison", POISON, ids=lambda poison: poison.name)
def test_a_bad_record_is_rejected_with_its_reason(poison: Poison) -> None:
    rejected = verdict(poison.value)
    assert isinstance(rejected, Rejected)
    assert (rejected.stage, rejected.reason) == ("decode", poison.reason)
    assert rejected.message.value() == poison.value
    assert rejected.detail


def test_every_reason_has_an_example() -> None:
    assert {poison.reason for poison in [*POISON, FUTURE]} == set(REASONS)


GOOD = {
    "the required fields": payment(),
    "every field": payment(**OPTIONAL),
    "optional fields that are null": payment(**dict.fromkeys(OPTIONAL)),
    "no white space": json.dumps(FULL, separators=(",", ":")).encode(),
    "much white space": b" \n" + json.dumps(FULL, indent=4).encode() + b"\r\n\t ",
    "an unknown field": with_text('"x":1'),
    "unknown fields with commas, colons and quotes": with_text(r'"x":"a,b:\"c\"","y":[1,2,{"z":"],"}]'),
    "an unknown integer of 5,000 digits": with_text('"x":' + "9" * 5_000),
    "an unknown number beyond a double": with_text('"x":1e400'),
    "a key that is written with an escape": payment().replace(b"card_id", rb"card_\u0069d"),
    "equal keys at different levels": with_text('"x":{"card_id":1,"x":{"x":[{"x":1},{"x":2}]}}'),
    "the deepest record": with_text(nested(MAX_DEPTH - 1)),
    "the deepest object": with_text(nested(MAX_DEPTH - 1, '{"a":', "}")),
    "many brackets side by side": with_text('"x":[' + "[]," * 500 + "[]]"),
    "brackets in a string": with_text('"x":"' + r"\"[{" * 500 + '"'),
    "commas in an id": payment(merchant_id="a,b,c"),
    "a colon in an address": payment(ip="2001:db8::8a2e:370:7334"),
    "a surrogate pair": with_raw("merchant_id", r'"\ud83d\ude00"'),
    "a NUL in an id": payment(merchant_id="a\0b"),
    "an id of 128 letters of four bytes": with_raw("event_id", '"' + "\U0001f600" * 128 + '"'),
    "no amount": payment(amount_minor=0),
    "minus zero": with_raw("amount_minor", "-0"),
    "the largest amount": payment(amount_minor=1_000_000_000_000),
    "the first moment": payment(event_time=946_684_800_000),
    "the last moment": payment(event_time=4_102_444_800_000),
    "a token of 16 digits that is no card number": payment(card_id="4111111111111112"),
    "a token of 11 digits": payment(card_id="00000000000"),
    "a token of 20 digits": payment(card_id="0" * 20),
    "a token that holds a card number among letters": payment(card_id=f"tok{CARD_NUMBER}"),
    "a hexadecimal token": payment(card_id="4a11111111111111"),
    "a UUID of digits": payment(card_id="41111111-1111-1111-4111-111111111111"),
    "an unknown channel": payment(channel="drone"),
    "an empty channel": payment(channel=""),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_good_record_is_a_payment_with_its_values(name: str) -> None:
    read = json.loads(GOOD[name], parse_int=lambda digits: int(digits[:20]))
    expected = {key: value for key, value in read.items() if key in FULL and value is not None}
    outcome = verdict(GOOD[name])
    assert isinstance(outcome, Payment), outcome
    assert {key: value for key, value in msgspec.structs.asdict(outcome).items() if value is not None} == expected


@pytest.mark.parametrize("code", sorted(CURRENCIES))
def test_active_currencies_are_known(code: str) -> None:
    assert reason(payment(currency=code)) is None


@pytest.mark.parametrize("kind", [CREATE_TIME, LOG_APPEND_TIME])
def test_the_future_begins_after_the_records_own_time(kind: int) -> None:
    late = Record(FUTURE.value, record_timestamp=(kind, FUTURE_READ_AT_MS))
    in_time = Record(FUTURE.value, record_timestamp=(kind, FUTURE_READ_AT_MS + 1))
    decoded = decoder().decode([late, in_time])
    assert [rejected.reason for rejected in decoded.rejected] == [FUTURE.reason]
    assert decoded.batch.ingest_time.tolist() == [FUTURE_READ_AT_MS + 1]


def test_without_a_timestamp_there_is_no_future_and_ingestion_is_at_event_time() -> None:
    decoded = decoder().decode([Record(FUTURE.value, record_timestamp=(0, -1))])
    assert decoded.batch.ingest_time.tolist() == [1_700_000_300_001]


@pytest.mark.parametrize("opening", ["[", '{"a":'])
@pytest.mark.parametrize("closed", [True, False])
def test_depth_100_000_neither_crashes_nor_passes(opening: str, closed: bool) -> None:
    closing = ("]" if opening == "[" else "}") * closed
    allowed = {"too_deep"} if closed else {"too_deep", "not_json"}
    assert reason(with_text(nested(100_000, opening, closing)), max_payment_bytes=1_048_576) in allowed
    bare = reason(opening.encode() * 100_000, max_payment_bytes=1_048_576)
    assert bare in {"not_an_object", "too_deep", "not_json"}


@pytest.mark.parametrize("depth", [MAX_DEPTH - 1, MAX_DEPTH, 400, 900])
def test_the_verdict_on_depth_does_not_depend_on_the_callers_stack(depth: int) -> None:
    def below(frames: int) -> str | None:
        return below(frames - 1) if frames else reason(with_text(nested(depth, '{"a":', "}")))

    assert below(0) == below(500) == (None if depth < MAX_DEPTH else "too_deep")


def test_the_limit_of_size_counts_bytes_and_is_inclusive() -> None:
    value = payment(merchant_id="é")
    assert reason(value, max_payment_bytes=len(value)) is None
    assert reason(value, max_payment_bytes=len(value) - 1) == "too_large"


def with_check_digit(digits: Sequence[int]) -> str:
    doubled = [2 * digit for digit in digits[::-1][::2]]
    total = sum(digits[::-1][1::2]) + sum(digit // 10 + digit % 10 for digit in doubled)
    return "".join(map(str, [*digits, -total % 10]))


digits = st.lists(st.integers(0, 9), min_size=11, max_size=18)


@given(digits, st.lists(st.sampled_from(["", " ", "-", "\u00a0", "\u2011", "."]), min_size=20, max_size=20))
def test_a_card_number_is_seen_through_separators(first: list[int], between: list[str]) -> None:
    number = with_check_digit(first)
    assert looks_like_card_number(between[0] + "".join(map("".join, zip(number, between[1:], strict=False))))


@given(digits, st.integers(1, 9))
def test_a_wrong_check_digit_makes_a_token(first: list[int], error: int) -> None:
    number = with_check_digit(first)
    assert not looks_like_card_number(number[:-1] + str((int(number[-1]) + error) % 10))


@given(st.integers(1, 30).filter(lambda length: not 12 <= length <= 19))
def test_a_card_number_has_12_to_19_digits(length: int) -> None:
    assert not looks_like_card_number("0" * length)


def assert_one_outcome(value: bytes) -> None:
    outcome = verdict(value)
    if isinstance(outcome, Rejected):
        assert outcome.reason in REASONS
        assert (outcome.stage, outcome.message.value()) == ("decode", value)


@given(st.binary(max_size=200))
@example(b"")
def test_arbitrary_bytes_end_as_a_payment_or_rejected(value: bytes) -> None:
    assert_one_outcome(value)


fragments = [b'"', b",", b":", b"{", b"}", b"[", b"]", b"\\", b"\\u", b"null", b"NaN", b"\xff", b"1e9"]
starts = [payment(), payment(**OPTIONAL), with_text('"x":{"y":[1,"z"]}')]
edits = st.lists(
    st.tuples(
        st.sampled_from(["insert", "replace", "delete", "repeat"]),
        st.integers(0, 400),
        st.integers(1, 40),
        st.binary(max_size=3) | st.sampled_from(fragments),
    ),
    min_size=1,
    max_size=4,
)


@given(st.sampled_from(starts), edits)
def test_a_mutated_payment_ends_as_one_or_the_other(value: bytes, changes: list[tuple[str, int, int, bytes]]) -> None:
    for action, place, length, content in changes:
        at = place % (len(value) + 1)
        head, middle, tail = value[:at], value[at : at + length], value[at + length :]
        if action == "insert":
            value = head + content + middle + tail
        elif action == "replace":
            value = head + content + tail
        elif action == "delete":
            value = head + tail
        else:
            value = head + middle * 2 + tail
    assert_one_outcome(value)


raw_values = st.sampled_from(['"a"', '"a,b"', '"a\\"b,"', "null", "1", "[1,2]", '{"a":1,"b":[2,3]}', '"\\u002c"'])
blanks = st.sampled_from(["", " ", "\n\t"])
members = st.lists(
    st.tuples(st.sampled_from([*OPTIONAL, "x", "y", r"\u0078", r"card_\u0069d"]), raw_values), max_size=6
)


@given(members, st.lists(blanks, min_size=4, max_size=4), st.randoms(use_true_random=False))
def test_a_repeated_key_is_always_found(more: list[tuple[str, str]], blank: list[str], order: random.Random) -> None:
    pairs = [(name, json.dumps(value)) for name, value in VALID.items()]
    pairs += [(name, f'"{OPTIONAL[name]}"' if name in OPTIONAL and raw != "null" else raw) for name, raw in more]
    pairs = [(name, '"tok"' if name == r"card_\u0069d" else raw) for name, raw in pairs]
    order.shuffle(pairs)
    text = ",".join(f'{blank[0]}"{name}"{blank[1]}:{blank[2]}{raw}{blank[3]}' for name, raw in pairs)
    names = [json.loads(f'"{name}"') for name, _ in pairs]
    expected = "duplicate_key" if len(set(names)) < len(names) else None
    assert reason(f"{{{text}}}".encode()) == expected


def leaky(name: str) -> list[bytes]:
    """Payments that are wrong at one field in many ways, with a canary in every place that holds text."""
    texts = {key: f"{CANARY}-{key}"[: 4 if key == "mcc" else 32] for key in FULL if isinstance(FULL[key], str)}
    texts |= {"currency": "EUR", "country": "FR", "card_country": "FR", f"{CANARY}-unknown": f"{CANARY}-text"}
    around = VALID | texts
    values: list[Any] = [CANARY * 50, [CANARY], {CANARY: CANARY}, 2**70, -1, 1.5, True, "", CANARY]
    changed = [json.dumps(around | {name: value}).encode() for value in values]
    broken = json.dumps(around).encode()
    return [
        *changed,
        json.dumps({key: value for key, value in around.items() if key != name}).encode(),
        broken[:-1] + f',"{CANARY}":1,"{CANARY}":2}}'.encode(),
        broken[:-1] + f',"{name}":"{CANARY}"}}'.encode(),
        broken[:-1] + f',"x":"{CANARY}'.encode() + b'\xff"}',
        broken[:-1] + f',"x":{nested(2_000)[4:]},"y":"{CANARY}"}}'.encode(),
        broken + CANARY.encode(),
        json.dumps(around | {name: CANARY}).encode()[:-3],
    ]


@pytest.mark.parametrize("name", FULL)
def test_no_detail_tells_a_value_or_a_foreign_key(name: str) -> None:
    values = leaky(name)
    decoded = decoder().decode([Record(value, record_timestamp=(CREATE_TIME, 0)) for value in values])
    assert len(decoded.rejected) == len(values)  # those without another fault are in the future of 1970
    for rejected in decoded.rejected:
        assert CANARY not in rejected.detail
        assert str(2**70) not in rejected.detail
        assert len(rejected.detail) < 200


def test_good_records_keep_their_place_among_bad_ones() -> None:
    records = [
        Record(payment(event_id=f"e{i}") if i % 3 else b"bad", at_partition=i // 5, at_offset=100 + i,
               record_timestamp=(CREATE_TIME, 1_700_000_000_000 + i), of_topic="paid")
        for i in range(10)
    ]  # fmt: skip
    decoded = decoder().decode(records)
    kept = [i for i in range(10) if i % 3]
    assert decoded.batch.topic == "paid"
    assert [p.event_id for p in decoded.batch.payments] == [f"e{i}" for i in kept]
    assert decoded.batch.partition.tolist() == [i // 5 for i in kept]
    assert decoded.batch.offset.tolist() == [100 + i for i in kept]
    assert decoded.batch.ingest_time.tolist() == [1_700_000_000_000 + i for i in kept]
    assert [rejected.message for rejected in decoded.rejected] == [records[i] for i in range(0, 10, 3)]


def test_a_batch_may_be_empty_or_all_bad() -> None:
    assert len(decoder().decode([]).batch) == 0
    decoded = decoder().decode([Record(b"bad"), Record(None)])
    assert (len(decoded.batch), decoded.batch.base.shape, len(decoded.rejected)) == (0, (0, 6), 2)


@given(st.lists(st.integers(0, 3), max_size=20))
def test_log_order_groups_partitions_and_keeps_the_order_inside_each(partitions: list[int]) -> None:
    records = [Record(None, at_partition=p, at_offset=i) for i, p in enumerate(partitions)]
    ordered = in_log_order(records)
    assert sorted(records, key=lambda r: (r.at_partition, r.at_offset)) == ordered
