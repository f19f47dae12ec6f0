"""The columns of a micro-batch equal each payment's own, and the bytes of the entity log never change unnoticed."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from features import event
from features.event import LAYOUT_VERSION, Label, Payment, batch_of, code2, labels_of, mcc_code, set_counterparts, tag
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
    ip=st.none() | texts,
    mcc=st.none() | st.text(min_size=4, max_size=4) | st.from_regex("[0-9]{4}", fullmatch=True),
    country=st.none() | two,
    card_country=st.none() | two,
    channel=st.none() | texts | st.sampled_from(event.CHANNELS),
)


@given(st.lists(st.tuples(payments, st.integers(0, 32_767), st.integers(0, 2**48 - 1)), max_size=12))
def test_columns_equal_those_of_each_payment_alone(rows: list[tuple[Payment, int, int]]) -> None:
    ps = [p for p, _, _ in rows]
    partition, offset = [p for _, p, _ in rows], [o for _, _, o in rows]
    batch = batch_of(ps, topic="t", partition=partition, offset=offset, ingest_time=[o // 2 for o in offset])
    records = batch.base.copy()
    set_counterparts(records, batch.merchant, batch.device, batch.ip)
    words = records.view(np.uint64)
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
        (batch.card, [tag(p.card_id) for p in ps]),
        (batch.ip, [tag(p.ip) for p in ps]),
        (words[:, 0], [p.event_time for p in ps]),
        (words[:, 1], [p.amount_minor | 1 << 48 for p in ps]),
        (words[:, 2], [o | p << 48 for o, p in zip(offset, partition, strict=True)]),
        (words[:, 3], [xxh3_64_intdigest(p.event_id.encode()) for p in ps]),
        (words[:, 4], [tag(p.merchant_id) | tag(p.device_id) << 32 for p in ps]),
        (words[:, 5], [tag(p.ip) | code2(p.country) << 32 | mcc_code(p.mcc) << 48 for p in ps]),
    ]
    for column, expected in columns:
        assert column.tolist() == expected


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
    assert event._tags_of_digests(digests).tolist() == [0, 1, 1, 0xFFFF_FFFF, 2]


GOLDEN_RECORDS = (
    "0068e5cf8b010000 e204000000000100 2900000000000200 2ff3980d207d7f51 c61393f300000000 0000000000000000 "
    "0068e5cf8b010000 e204000000000100 2a00000000000200 2ff3980d207d7f51 c61393f3d98fbc5b 3d47604e46522315 "
    "0068e5cf8b010000 0000000000000202 0700000000000380 2ff3980d207d7f51 0000000000000000 0000000000000000"
)
GOLDEN_TAGS = [0, 953390274, 2632725768, 1827736755]


def test_the_layout_of_version_2_is_pinned() -> None:
    """Logs in Redis outlive a release: if this fails, raise LAYOUT_VERSION."""
    assert (LAYOUT_VERSION, event.UNIT_BYTES) == (2, 48)
    ps = [Payment(**VALID), Payment(**FULL)]
    batch = batch_of(ps, topic="payments", partition=[2, 2], offset=[41, 42])
    records = batch.base.copy()
    set_counterparts(records, batch.merchant, batch.device, batch.ip)
    label = Label("evt-1", "tok_8f2a", "m-77", VALID["event_time"], "fraud", VALID["event_time"], "issuer")
    labels = labels_of([label], topic="labels", partition=[3], offset=[7]).base
    assert (records.tobytes() + labels.tobytes()).hex(" ", 8) == GOLDEN_RECORDS


def test_tags_and_codes_are_pinned() -> None:
    """They name entities in logs that are already written: never change one."""
    assert [tag(text) for text in (None, "", "tok_8f2a", "é")] == GOLDEN_TAGS
    assert [code2(text) for text in (None, "FR", "GB", "éa")] == [0, 0x5246, 0x4247, 0xA9C3]
    assert [mcc_code(text) for text in (None, "5411", "0000", "54a1", "٥٤١١")] == [0, 5411, 0, 0, 0]
    assert (event.CHANNELS, event.CHANNEL_OTHER) == (("pos", "ecom", "atm", "contactless", "moto", "recurring"), 7)
    assert (event.KIND_PAYMENT, event.KIND_LABEL, event.FLAG_REPEATED, event.FLAG_FRAUD) == (1, 2, 1, 2)
