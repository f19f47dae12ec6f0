"""Decode: records of the labels topic become labels or are rejected; none is taken for a payment."""

from __future__ import annotations

import json
from typing import Any

import pytest

from consumer.decode import Decoder, in_log_order
from features.event import FLAG_FRAUD, KIND_LABEL
from tests.poison import CARD_NUMBER, Record, payment

LABELS = "labels"
NOW_MS = 1_750_000_000_000
FRAUD = {
    "event_id": "e1",
    "card_id": "c1",
    "merchant_id": "m1",
    "event_time": NOW_MS - 86_400_000,
    "label": "fraud",
    "labelled_at": NOW_MS,
    "source": "chargeback",
}
NAMED = {"account_id": "a1", "terminal_id": "t1", "device_id": "d1", "ip": "10.0.0.1"}


def sent(content: bytes | None, topic: str = LABELS, partition: int = 0, offset: int = 0) -> Record:
    """A record with the broker's timestamp."""
    return Record(content, partition, offset, record_timestamp=(2, NOW_MS), of_topic=topic)


def label(**fields: Any) -> bytes:
    return json.dumps(FRAUD | fields).encode()


def decoder() -> Decoder:
    return Decoder(max_payment_bytes=4_096, max_future_ms=300_000, labels_topic=LABELS)


BAD = {
    "empty": (None, "empty"),
    "too large": (label(x="y" * 5_000), "too_large"),
    "not JSON": (b"{", "not_json"),
    "not UTF-8": (b'{"event_id":"\xff"}', "not_utf8"),
    "not an object": (b"[1]", "not_an_object"),
    "a payment": (payment(), "missing_field"),
    "no verdict": (label(label=None), "wrong_type"),
    "an unknown verdict": (label(label="maybe"), "out_of_range"),
    "an unknown source": (label(source="rumour"), "out_of_range"),
    "a card number": (label(card_id=CARD_NUMBER), "card_number"),
    "a key twice": (label()[:-1] + b',"label":"genuine"}', "duplicate_key"),
    "too deep": (label()[:-1] + b',"x":' + b"[" * 70 + b"]" * 70 + b"}", "too_deep"),
    "labelled before it happened": (label(labelled_at=FRAUD["event_time"] - 1), "future_event_time"),  # type: ignore[operator]
    "from the future": (label(event_time=NOW_MS + 300_001, labelled_at=NOW_MS + 400_000), "future_event_time"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_label_is_rejected_with_its_reason(name: str) -> None:
    content, reason = BAD[name]
    decoded = decoder().decode([sent(content)])
    assert (len(decoded.labels), [rejected.reason for rejected in decoded.rejected]) == (0, [reason])


@pytest.mark.parametrize("content", [label(), label(**NAMED), label(x=[1, {"y": ","}]), label(ip=None)])
def test_a_good_label_is_taken(content: bytes) -> None:
    decoded = decoder().decode([sent(content, partition=3, offset=7)])
    assert not decoded.rejected
    assert [taken.event_id for taken in decoded.labels.labels] == ["e1"]
    time, kind, source, *_ = decoded.labels.base[0].tolist()
    assert time == FRAUD["event_time"]
    assert ((kind >> 48) & 0xFF, (kind >> 56) & 0xFF) == (KIND_LABEL, FLAG_FRAUD)
    assert (source & (1 << 48) - 1, (source >> 48) & 0x7FFF, source < 0) == (7, 3, True)


def test_both_topics_in_one_batch_are_told_apart() -> None:
    records = [
        sent(payment(event_id="p0", event_time=NOW_MS), "payments", 1, 5),
        sent(label(event_id="l0"), LABELS, 1, 8),
        sent(b"?", LABELS, 0, 2),
        sent(label(), "payments", 0, 3),
        sent(label(event_id="l1", label="genuine"), LABELS, 0, 3),
        sent(payment(event_id="p1", event_time=NOW_MS), "payments", 0, 4),
    ]
    ordered = in_log_order(records, LABELS)
    assert [(r.topic(), r.partition(), r.offset()) for r in ordered] == [
        (LABELS, 0, 2), (LABELS, 0, 3), (LABELS, 1, 8), ("payments", 0, 3), ("payments", 0, 4), ("payments", 1, 5),
    ]  # fmt: skip
    decoded = decoder().decode(ordered)
    assert [taken.event_id for taken in decoded.labels.labels] == ["l1", "l0"]
    assert [taken.event_id for taken in decoded.batch.payments] == ["p1", "p0"]
    assert [rejected.message.topic() for rejected in decoded.rejected] == [LABELS, "payments"]


def test_without_a_labels_topic_every_record_is_a_payment() -> None:
    decoded = Decoder(max_payment_bytes=4_096, max_future_ms=300_000).decode([sent(label())])
    assert (len(decoded.labels), len(decoded.rejected)) == (0, 1)


@pytest.mark.parametrize("name", ["label", "source"])
@pytest.mark.parametrize("value", ["canary", "canary - at `$.x`, got"])
def test_a_rejected_word_is_not_told(name: str, value: str) -> None:
    (rejected,) = decoder().decode([sent(label(**{name: value}))]).rejected
    assert (rejected.reason, rejected.detail) == (
        "out_of_range",
        f"the value is none of those allowed - at `$.{name}`",
    )
