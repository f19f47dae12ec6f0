"""Publish: decisions and alerts say what was decided, dead letters carry the record as it came, and all of them fit."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Literal, get_args

import jsonschema
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.decide import Outcome
from consumer.decode import REASONS, Decoder, Rejected
from consumer.kafka.publisher import Outgoing
from consumer.publish import (
    DEAD_LETTER_LIMIT_BYTES,
    HEADERS_DROPPED,
    HEADERS_LIMIT_BYTES,
    KEY_LIMIT_BYTES,
    KEY_TRUNCATED,
    TRUNCATED,
    Decided,
    Outbox,
)
from consumer.records import (
    Alert,
    Decision,
    DecisionName,
    Digests,
    Inputs,
    JournalEntry,
    ModelRef,
    Source,
    StageTimes,
    State,
    alert_id,
    json_schemas,
)
from consumer.settings import TopicSettings
from features.enrich import Enriched
from features.event import Payment, batch_of
from models.explain import Explanation, Reason
from models.policy import BLOCK, REVIEW, Policy, Thresholds, Tier, Verdicts
from tests.poison import FULL, FUTURE, FUTURE_READ_AT_MS, POISON, VALID, Record, payment

TIERS = get_args(Tier)
TOPICS = TopicSettings(decisions="out.decisions", alerts="out.alerts", dead_letters="out.dlq", journal="out.journal")
MODEL = ModelRef("spend", "7", "ab" * 32)
DIGESTS = Digests("01" * 32, "23" * 32, "45" * 32)
BROKER_LIMIT_BYTES = 1_048_588
RECORD_OVERHEAD_BYTES = 100
BATCH_OVERHEAD_BYTES = 100
PAYMENTS = (
    Payment(**VALID),
    Payment(**FULL | {"event_id": "evt-2", "card_id": 'tok "é"\n'}),
    Payment(**VALID | {"event_id": "evt-3"}),
    Payment(**FULL | {"event_id": "evt-4", "card_id": "tok_4"}),
)
READ_MS = 1_700_000_000_800.0
KAFKA_TIMES = [1_700_000_000_500, 1_700_000_000_600, 1_700_000_000_700, 1_700_000_000_900]


def policy() -> Policy:
    return Policy(
        {"amount_minor": False},
        {"full": Thresholds(0.25, 0.75), "small": Thresholds(0.5), "no_features": Thresholds(0.5)},
    )


def outbox() -> Outbox:
    return Outbox(TOPICS, MODEL, DIGESTS)


def thresholds(tier: Tier) -> tuple[Any, Any]:
    if tier == "rules_only":
        return None, None
    bar = policy().thresholds[tier]
    return np.full(4, bar.review, np.float32), np.full(4, np.nan if bar.block is None else bar.block, np.float32)


def decided(tier: Tier, **changes: Any) -> Decided:
    """Four payments: approved, reviewed, blocked, and blocked but not due."""
    batch = batch_of(
        PAYMENTS,
        topic="payments",
        partition=[0, 0, 3, 3],
        offset=[10, 11, 7, 9],
        ingest_time=KAFKA_TIMES,
    )
    enriched = Enriched(
        values=np.zeros((4, 1), np.float32),
        shard=np.array([0, 3, 0, 0]),
        epoch=np.array([8, 8, 9, 9]),
        sequence=np.array([100, 101, 0, 2]),
        repeated=np.array([False, False, False, True]),
        stale=np.zeros(4, np.bool_),
        age_ms=np.array([0, 1_500, -1, -1]),
    )
    values: dict[str, Any] = {
        "batch": batch,
        "due": np.array([True, True, True, False]),
        "tier": tier,
        "enriched": enriched if tier == "full" else None,
        "scores": None if tier == "rules_only" else np.array([0.1, 0.5, 0.9, 0.9], np.float32),
        "outcome": Outcome(
            Verdicts(
                np.array([0, REVIEW, BLOCK, BLOCK], np.uint8),
                (("first", np.array([False, True, True, False])), ("second", np.array([False, False, True, True]))),
                (("tried", np.array([True, False, False, False])),),
                *thresholds(tier),
            )
        ),
        "reasons": {1: Explanation((Reason("amount_minor", 1_250.0, 0.75), Reason("mcc", None, 0.25)))},
        "stage_ms": {"decode": 0.5, "enrich": 1.25, "score": 2.0, "decide": 0.125},
        "read_ms": READ_MS,
        "state_offsets": (Source("payments", 0, 12),),
    }
    return Decided(**values | changes)


def content(record: Outgoing) -> bytes:
    assert record.value is not None
    return record.value


def validate(topic: str, record: Outgoing) -> None:
    jsonschema.Draft202012Validator(json_schemas()[topic]).validate(msgspec.json.decode(content(record)))


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_decision_says_what_was_decided(tier: Tier, device: Literal["cpu", "cuda"]) -> None:
    full = tier == "full"
    bars: dict[Tier, tuple[float | None, float | None]] = {
        "full": (0.25, 0.75),
        "small": (0.5, None),
        "no_features": (0.5, None),
        "rules_only": (None, None),
    }
    names: list[DecisionName] = ["approve", "review", "block"]
    sources = [(0, 10), (0, 11), (3, 7)]
    scores = [float(np.float32(score)) for score in (0.1, 0.5, 0.9)]
    fired = [(), ("first",), ("first", "second")]
    states = [State(0, 8, 100), State(3, 8, 101), State(0, 9, 0)]
    expected = [
        Decision(
            event_id=each.event_id,
            card_id=each.card_id,
            event_time=each.event_time,
            source=Source("payments", *source),
            decision=name,
            score=None if tier == "rules_only" else score,
            tier=tier,
            model="spend@7",
            digests=DIGESTS,
            state=state if full else None,
            inputs=Inputs(tier, device, *bars[tier]),
            rules=rules,
            shadow_rules=shadow_rules,
            kafka_time=kafka_time,
        )
        for each, source, name, score, state, rules, shadow_rules, kafka_time in zip(
            PAYMENTS[:3], sources, names, scores, states, fired, (("tried",), (), ()), KAFKA_TIMES[:3], strict=True
        )
    ]
    records = outbox().decisions(decided(tier, device=device))
    assert [content(record) for record in records] == [msgspec.json.encode(decision) for decision in expected]
    assert [msgspec.json.decode(content(record), type=Decision) for record in records] == expected
    for record, each in zip(records, PAYMENTS[:3], strict=True):
        assert record == Outgoing("out.decisions", each.card_id.encode(), record.value)
        validate("decisions", record)


@pytest.mark.parametrize("block", [0.9, math.nan])
def test_thresholds_that_all_payments_share_are_told_as_if_each_had_its_own(block: float) -> None:
    n = len(PAYMENTS)
    one = decided("full")
    shared = replace(one.verdicts, review=np.full(n, 0.25, np.float32), block=np.full(n, block, np.float32))
    together = replace(one, outcome=replace(one.outcome, verdicts=shared, limited=None))
    by_itself = replace(together, outcome=replace(together.outcome, limited=np.zeros(n, np.bool_)))
    assert outbox().decisions(together) == outbox().decisions(by_itself)
    apart = np.full(n, 0.25, np.float32)
    apart[1] = 0.5
    other = replace(together, outcome=replace(together.outcome, verdicts=replace(shared, review=apart)))
    told = [msgspec.json.decode(content(record), type=Decision) for record in outbox().decisions(other)]
    assert [each.inputs.review_threshold for each in told][:2] == [0.25, 0.5]


@pytest.mark.parametrize("tier", TIERS)
def test_an_alert_says_why(tier: Tier) -> None:
    scored = tier != "rules_only"
    stages = StageTimes(queued=200.0, decode=0.5, enrich=1.25, score=2.0, decide=0.125)
    expected = [
        Alert(
            alert_id=alert_id(PAYMENTS[1].card_id, "evt-2", VALID["event_time"]),
            event_id="evt-2",
            card_id=PAYMENTS[1].card_id,
            merchant_id="m-77",
            event_time=1_700_000_000_000,
            amount_minor=1_250,
            currency="EUR",
            source=Source("payments", 0, 11),
            decision="review",
            score=0.5 if scored else None,
            tier=tier,
            reasons=(Reason("amount_minor", 1_250.0, 0.75), Reason("mcc", None, 0.25)),
            rules=("first",),
            model=MODEL,
            feature_age_ms=1_500 if tier == "full" else None,
            stage_ms=stages,
            device_id="dev-5",
            account_id="acc-9",
            state=State(3, 8, 101) if tier == "full" else None,
            state_offsets=[Source("payments", 0, 12)],
        ),
        Alert(
            alert_id=alert_id("tok_8f2a", "evt-3", VALID["event_time"]),
            event_id="evt-3",
            card_id="tok_8f2a",
            merchant_id="m-77",
            event_time=1_700_000_000_000,
            amount_minor=1_250,
            currency="EUR",
            source=Source("payments", 3, 7),
            decision="block",
            score=float(np.float32(0.9)) if scored else None,
            tier=tier,
            reasons=(),
            rules=("first", "second"),
            model=MODEL,
            feature_age_ms=None,
            stage_ms=msgspec.structs.replace(stages, queued=100.0),
            state=State(0, 9, 0) if tier == "full" else None,
            state_offsets=[Source("payments", 0, 12)],
        ),
    ]
    records = outbox().alerts(decided(tier))
    assert [msgspec.json.decode(content(record), type=Alert) for record in records] == expected
    assert [(record.topic, record.key) for record in records] == [
        ("out.alerts", PAYMENTS[1].card_id.encode()),
        ("out.alerts", b"tok_8f2a"),
    ]
    for record in records:
        validate("alerts", record)


def test_a_batch_without_payments_publishes_nothing() -> None:
    nothing = decided(
        "no_features",
        batch=batch_of([], topic="", partition=[], offset=[]),
        due=np.ones(0, np.bool_),
        scores=np.zeros(0, np.float32),
        outcome=Outcome(Verdicts(np.zeros(0, np.uint8), (), (), np.zeros(0, np.float32), np.zeros(0, np.float32))),
        reasons={},
    )
    assert outbox().decisions(nothing) == outbox().alerts(nothing) == outbox().dead_letters([]) == []


def test_a_clock_behind_the_brokers_queues_nothing_below_zero() -> None:
    (first, _) = outbox().alerts(decided("full", read_ms=READ_MS - 1_000))
    assert msgspec.json.decode(content(first), type=Alert).stage_ms.queued == 0


def test_a_journal_record_is_keyed_by_its_shard() -> None:
    entry = JournalEntry(shard=17, epoch=4, sequence=9, count=2, topic="payments", partition=1, offset=5)
    (record,) = outbox().journal([entry])
    assert record == Outgoing("out.journal", b"17", msgspec.json.encode(entry))
    validate("journal", record)


def dead_letter(record: Record, *, reason: str = "not_json") -> tuple[Outgoing, dict[str, bytes | None]]:
    (letter,) = outbox().dead_letters([Rejected(record, "decode", reason, "the record is not JSON")])
    return letter, dict(letter.headers or [])


def test_a_dead_letter_carries_the_record_as_it_came_and_says_why() -> None:
    headers = (("trace", b"\x00\xff"), ("empty", b""), ("null", None), ("trace", b"again"))
    record = Record(b"\xffbad", 3, 41, b"\x00key", headers, (2, 1_700_000_000_123), "in.payments")
    letter, _ = dead_letter(record)
    assert (letter.topic, letter.key, letter.value) == ("out.dlq", b"\x00key", b"\xffbad")
    assert letter.timestamp_ms == 1_700_000_000_123
    assert letter.headers == [
        *headers,
        ("__connect.errors.topic", b"in.payments"),
        ("__connect.errors.partition", b"3"),
        ("__connect.errors.offset", b"41"),
        ("__connect.errors.stage", b"decode"),
        ("__connect.errors.class.name", b"fraudline.Rejected.not_json"),
        ("__connect.errors.exception.message", b"the record is not JSON"),
    ]


@pytest.mark.parametrize("value", [None, b""])
def test_a_record_without_key_value_headers_or_time_stays_without(value: bytes | None) -> None:
    letter, headers = dead_letter(Record(value, record_key=None))
    assert (letter.key, letter.value, letter.timestamp_ms) == (None, value, 0)
    assert all(name.startswith("__connect.errors.") for name in headers)


def test_what_does_not_fit_is_cut_and_the_letter_says_so() -> None:
    big = Record(
        b"v" * (DEAD_LETTER_LIMIT_BYTES + 1),
        record_key=b"k" * (KEY_LIMIT_BYTES + 1),
        record_headers=(("h", b"h" * HEADERS_LIMIT_BYTES),),
    )
    letter, headers = dead_letter(big)
    assert (letter.value, letter.key) == (b"v" * DEAD_LETTER_LIMIT_BYTES, b"k" * KEY_LIMIT_BYTES)
    assert headers[TRUNCATED] == str(DEAD_LETTER_LIMIT_BYTES + 1).encode()
    assert headers[KEY_TRUNCATED] == str(KEY_LIMIT_BYTES + 1).encode()
    assert headers[HEADERS_DROPPED] == str(HEADERS_LIMIT_BYTES + 11).encode()
    assert "h" not in headers


def test_what_just_fits_is_whole() -> None:
    fits = (("h", b"h" * (HEADERS_LIMIT_BYTES - 11)),)
    record = Record(b"v" * DEAD_LETTER_LIMIT_BYTES, record_key=b"k" * KEY_LIMIT_BYTES, record_headers=fits)
    letter, headers = dead_letter(record)
    assert (letter.key, letter.value) == (record.record_key, record.content)
    assert (letter.headers or [])[0] == fits[0]
    assert not {TRUNCATED, KEY_TRUNCATED, HEADERS_DROPPED} & set(headers)


sizes = st.sampled_from([0, 1, 100, 16_384, 16_385, 65_536, 900_000, 900_001, 3_000_000])


@given(sizes, sizes, st.sampled_from([0, 1, 6_000, 7_000, 200_000]), st.sampled_from([0, 1, 60_000]))
def test_no_dead_letter_is_too_large_for_a_broker(key: int, value: int, headers: int, header_bytes: int) -> None:
    """One that is would abort every transaction that holds it, for ever."""
    extra = (("é" * 10, b"x" * header_bytes), *((("", None),) * headers))
    record = Record(b"v" * value, record_key=b"k" * key, record_headers=extra, of_topic="t" * 249)
    letter, names = dead_letter(record)
    size = RECORD_OVERHEAD_BYTES + BATCH_OVERHEAD_BYTES + len(letter.key or b"") + len(letter.value or b"")
    size += sum(len(name.encode()) + len(text or b"") + 4 for name, text in letter.headers or [])
    assert size < BROKER_LIMIT_BYTES
    assert (TRUNCATED in names) == (value > len(letter.value or b""))


CANARY = "canary"


def test_no_header_of_a_dead_letter_tells_a_value_or_names_an_unknown_reason() -> None:
    records = [Record(poison.value, record_timestamp=(1, 4_200_000_000_000)) for poison in POISON]
    records.append(Record(FUTURE.value, record_timestamp=(1, FUTURE_READ_AT_MS)))
    for name in FULL:
        for value in (f"{CANARY}{CANARY * 40}", {CANARY: CANARY}, [CANARY], CANARY):
            texts = {key: CANARY for key, old in FULL.items() if isinstance(old, str)}
            records.append(Record(payment(**texts | {name: value, f"{CANARY}!": CANARY}), record_key=CANARY.encode()))
    rejected = Decoder(max_payment_bytes=65_536, max_future_ms=300_000).decode(records).rejected
    assert len(rejected) == len(records)
    for letter, record in zip(outbox().dead_letters(rejected), records, strict=True):
        headers = dict(letter.headers or [])
        assert (headers["__connect.errors.class.name"] or b"").decode().removeprefix("fraudline.Rejected.") in REASONS
        assert CANARY.encode() not in b"".join(text or b"" for text in headers.values())
        assert (letter.key, letter.value) == (record.record_key, record.content)
