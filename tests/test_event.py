"""The columns of a micro-batch equal each payment's own, and the bytes of the entity log never change unnoticed."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from features import event
from features.event import HEAD, LAYOUT_VERSION, Payment, batch_of, code2, mcc_code, stamp_bytes, tag
from tests.poison import FULL, VALID

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
two = st.text(st.characters(exclude_categories=["Cs"]), min_size=2, max_size=2) | st.sampled_from(["FR", "DE"])
payments = st.builds(
    Payment,
    event_id=texts,
    event_time=st.integers(946_684_800_000, 4_102_444_800_000),
    card_id=texts,
    merchant_id=texts,
    amount_minor=st.integers(0, 1_000_000_000_000),
    currency=st.just("EUR"),
    device_id=st.none() | texts,
    mcc=st.none() | st.text(min_size=4, max_size=4) | st.from_regex("[0-9]{4}", fullmatch=True),
    country=st.none() | two,
    card_country=st.none() | two,
    channel=st.none() | texts | st.sampled_from(event.CHANNELS),
)


@given(st.lists(st.tuples(payments, st.integers(0, 65_535), st.integers(0, 2**62)), max_size=12))
def test_columns_equal_those_of_each_payment_alone(rows: list[tuple[Payment, int, int]]) -> None:
    ps = [p for p, _, _ in rows]
    partition, offset = [p for _, p, _ in rows], [o for _, _, o in rows]
    batch = batch_of(ps, topic="t", partition=partition, offset=offset, ingest_time=[o // 2 for o in offset])
    heads = batch.heads
    columns: list[tuple[Any, list[int]]] = [
        (batch.partition, partition),
        (batch.offset, offset),
        (batch.ingest_time, [o // 2 for o in offset]),
        (batch.event_time, [p.event_time for p in ps]),
        (batch.amount, [p.amount_minor for p in ps]),
        (batch.merchant, [tag(p.merchant_id) for p in ps]),
        (batch.device, [tag(p.device_id) for p in ps]),
        (batch.country, [code2(p.country) for p in ps]),
        (batch.card_country, [code2(p.card_country) for p in ps]),
        (batch.mcc, [mcc_code(p.mcc) for p in ps]),
        (batch.channel, [channel(p.channel) for p in ps]),
        (heads["event_hash"], [xxh3_64_intdigest(p.event_id.encode()) for p in ps]),
        (heads["card"], [tag(p.card_id) for p in ps]),
        (heads["index"], list(range(len(ps)))),
        (heads["kind"], [0x11] * len(ps)),
    ]
    for column, expected in columns:
        assert column.tolist() == expected
    for name in ("event_time", "amount", "offset", "merchant", "device", "partition", "country", "mcc"):
        assert np.array_equal(heads[name], getattr(batch, name))


def channel(name: str | None) -> int:
    if name is None:
        return 0
    return event.CHANNELS.index(name) + 1 if name in event.CHANNELS else event.CHANNEL_OTHER


def test_without_ingestion_times_the_event_times_stand_in() -> None:
    batch = batch_of([Payment(**VALID)], topic="t", partition=[0], offset=[0])
    assert batch.ingest_time.tolist() == [VALID["event_time"]]


def test_a_flood_of_codes_is_remembered_in_bounds_and_right() -> None:
    codes = [chr(0x100 + i // 100) + chr(0x100 + i % 100) for i in range(9_000)]
    ps = [Payment(**VALID, country=code, channel=f"c{i}") for i, code in enumerate(codes)]
    batch = batch_of(ps, topic="t", partition=[0] * len(ps), offset=range(len(ps)))
    assert batch.country.tolist() == [code2(code) for code in codes]
    assert set(batch.channel.tolist()) == {event.CHANNEL_OTHER}
    assert len(event._COUNTRIES) <= event._Memo.LIMIT
    assert len(event._CHANNELS) <= event._Memo.LIMIT


def test_an_absent_device_has_no_tag_and_no_present_one_has_zero() -> None:
    digests = [0, 1, 0xABCD_0000_0000, 0xFFFF_FFFF, 0x1_0000_0002]
    assert event._tags(digests).tolist() == [0, 1, 1, 0xFFFF_FFFF, 2]


LAYOUT = {
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
    "kind": ("|u1", 52),
}


GOLDEN_HEADS = (
    "0068 e5cf8b010000e204 0000000000002900 0000000000002ff3 980d207d7f510835 ec9cc61393f30000 "
    "0000020000000000 0000110068e5cf8b 010000e204000000 0000002a00000000 0000002ff3980d20 "
    "7d7f510835ec9cc6 1393f3d98fbc5b02 0001004652231511"
)
GOLDEN_TAGS = [0, 953390274, 2632725768, 1827736755]


def test_the_layout_of_version_1_is_pinned() -> None:
    """Logs in Redis outlive a release: if this fails, raise LAYOUT_VERSION and read both layouts."""
    fields: Any = HEAD.fields
    assert LAYOUT_VERSION == 1
    assert {name: (field[0].str, field[1]) for name, field in fields.items()} == LAYOUT
    assert HEAD.itemsize == 53
    assert event.RECORD.itemsize == 64


def test_the_bytes_of_a_head_and_of_a_stamp_are_pinned() -> None:
    ps = [Payment(**VALID), Payment(**FULL)]
    batch = batch_of(ps, topic="payments", partition=[2, 2], offset=[41, 42])
    assert batch.heads.tobytes().hex(" ", 8) == GOLDEN_HEADS
    assert stamp_bytes(duplicate=True, epoch=0xA1B2C3D4, base=0x010203040506).hex() == "01d4c3b2a1060504030201"


def test_tags_and_codes_are_pinned() -> None:
    """They name entities in logs that are already written: never change one."""
    assert [tag(text) for text in (None, "", "tok_8f2a", "é")] == GOLDEN_TAGS
    assert [code2(text) for text in (None, "FR", "GB", "éa")] == [0, 0x5246, 0x4247, 0xA9C3]
    assert [mcc_code(text) for text in (None, "5411", "0000", "54a1", "٥٤١١")] == [0, 5411, 0, 0, 0]
    assert (event.CHANNELS, event.CHANNEL_OTHER) == (("pos", "ecom", "atm", "contactless", "moto", "recurring"), 7)
    assert (event.KIND_PAYMENT, event.KIND_LABEL, event.FLAG_DUPLICATE) == (1, 2, 1)
