"""What producers can do to a processor: poison, floods of it, repetitions, disorder, wrong clocks, one card for all."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import replace
from zlib import crc32

import pytest

from tests.faults.conftest import EVERYTHING, MakeScene
from tests.faults.payments import FAR_MS, LABEL_PARTITIONS, PARTITIONS, Record, history
from tests.faults.report import Report
from tests.poison import CARD_NUMBER, POISON
from tests.services.kafka import KafkaBroker
from tests.services.redis import RedisServer
from tests.support.bounds import LOG_BYTES, longest_log

DAY_MS = 86_400_000
LATE_MS = (60_000, 3_600_000, DAY_MS, 120 * DAY_MS)
REPEATED, FUTURE, LATE = 0.33, 0.10, 0.33  # shares of a history in disorder
BAD = Record(0, b"card-0", b"no payment")


def test_every_kind_of_poison_is_one_dead_letter(scene: MakeScene, report: Report) -> None:
    """Among payments, which are decided as if there were none; and nothing of it is in the log."""
    stage = scene()
    poison = [Record(number % PARTITIONS, b"key", each.value) for number, each in enumerate(POISON)]
    good = [each for each in history(2 * len(poison), seed=51) if not each.is_label and is_payment(each)]
    mixed = [record for pair in zip(good[: len(poison)], poison, strict=True) for record in pair]
    worker = stage.worker()
    stage.produce(mixed)
    stage.finish(recorded=False)  # the checker's own decoder knows plainer poison only
    evidence = stage.evidence()
    letters = Counter(letter.value for letter in evidence.dead_letters)
    reasons = Counter(dict(letter.headers)["__connect.errors.class.name"] for letter in evidence.dead_letters)
    expected = Counter(f"fraudline.Rejected.{each.reason}".encode() for each in POISON)
    found = [] if letters == Counter(each.value for each in POISON) else ["the dead letters are not the poison"]
    found += [] if reasons == expected else [f"the reasons are {reasons}"]
    found += [] if CARD_NUMBER not in worker.story(100_000) else ["a card number is in the log"]
    sent = {json.loads(each.value or b"")["event_id"] for each in mixed[::2]}
    decided = [json.loads(each.value or b"") for each in evidence.decisions]
    once = Counter(each["event_id"] for each in decided if each["tier"] == "full") == Counter(sent)
    found += [] if once else ["the payments between it were not decided once each, with features"]
    report.judged("poison of every kind", len(POISON), found, "1, 4: one dead letter each, nothing of it logged")


def is_payment(record: Record) -> bool:
    """Whether it is one that is decided."""
    try:
        fields = json.loads(record.value or b"")
    except ValueError:
        return False
    return isinstance(fields, dict) and fields.get("amount_minor", -1) >= 0 and fields.get("currency") == "EUR" and (
        "merchant_id" in fields and fields["event_time"] < FAR_MS
    )  # fmt: skip


def test_a_flood_of_bad_records_stops_at_a_limit(scene: MakeScene, report: Report) -> None:
    """And whoever starts again goes on behind what was put aside: nothing is put aside twice, nothing is lost."""
    stage = scene(settings={"processing": {"max_rejected_in_a_row": 200}})
    stage.produce(history(200, seed=52))
    stage.produce([BAD] * 320)
    stage.produce(history(200, seed=53, first=stage.produced))
    worker = stage.worker()
    line = worker.wait_for("error", timeout_s=60.0)
    assert worker.wait_exit() == 1
    assert "InputUnusable" in line
    assert "processing.max_rejected_in_a_row" in line
    stage.worker()
    stage.finish()
    report.judged("nothing but bad records", 320, stage.violations(), "1: stops at the limit, then once each")


@pytest.mark.parametrize("delivery", ["exactly_once", "at_least_once"] if EVERYTHING else ["exactly_once"])
def test_repeated_late_and_future_payments_in_any_order(scene: MakeScene, report: Report, delivery: str) -> None:
    stage = scene(delivery=delivery)
    stage.worker()
    stage.produce(disorder(900, seed=54))
    stage.finish()
    report.judged(f"repeated, late, reordered and future payments, {delivery}", 900, stage.violations())


def disorder(count: int, seed: int) -> list[Record]:
    """A history of which a third is repeated, a third up to 120 days late, a tenth from the future, none in order."""
    rng, made = random.Random(seed), list[Record]()
    for record in history(count, seed):
        draw = rng.random()
        if made and draw < REPEATED:
            made.append(rng.choice(made))
        elif record.is_label or not is_payment(record):
            made.append(record)
        else:
            fields = json.loads(record.value or b"")
            if draw < REPEATED + FUTURE:
                fields["event_time"] = FAR_MS
            elif draw < REPEATED + FUTURE + LATE:
                fields["event_time"] -= int(rng.choice(LATE_MS) * rng.random())
            made.append(replace(record, value=json.dumps(fields).encode()))
    return made


def test_nine_payments_of_ten_are_of_one_card(scene: MakeScene, redis_server: RedisServer, report: Report) -> None:
    """Features stay exact, and no log grows beyond its bound."""
    stage = scene()
    stage.worker()
    stage.produce(hot(1_500, seed=55))
    stage.finish()
    longest = longest_log(redis_server, stage.group)
    found = [f"a log of {longest:,} bytes"] if longest > LOG_BYTES else []
    report.judged("90 % of all payments are of one card", 1_500, found + stage.violations(), "1-3, 5: and logs bounded")


def hot(count: int, seed: int) -> list[Record]:
    """A history of which nine records of ten are of one card, at one merchant, with one device and account."""
    rng, made = random.Random(seed), list[Record]()
    one = {"card_id": "card-hot", "merchant_id": "merchant-hot", "device_id": "device-hot", "account_id": "account-hot"}
    key = one["card_id"].encode()
    for record in history(count, seed):
        if rng.random() < 0.1 or not (record.is_label or is_payment(record)):
            made.append(record)
            continue
        try:
            fields = json.loads(record.value or b"")
        except ValueError:
            fields = None
        if not isinstance(fields, dict):
            made.append(record)
            continue
        fields |= {name: value for name, value in one.items() if name in fields}
        partition = crc32(key) % (LABEL_PARTITIONS if record.is_label else PARTITIONS)
        made.append(Record(partition, key, json.dumps(fields).encode(), record.is_label))
    return made


@pytest.mark.parametrize("delivery", ["exactly_once", "at_least_once"] if EVERYTHING else ["exactly_once"])
def test_a_dead_letter_that_its_topic_finds_too_large_waits_for_it(
    scene: MakeScene, kafka: KafkaBroker, report: Report, delivery: str
) -> None:
    """No record is skipped for it: once the topic takes it, all goes on."""
    stage = scene(delivery=delivery)
    topic = stage.topics["dead_letters"]
    worker = stage.worker()
    worker.wait_for("owns")
    kafka.limit_bytes(topic, 4_000)
    stage.produce(history(100, seed=56))
    stage.produce([Record(1, b"card-1", b"x" * 20_000)])
    stage.produce(history(100, seed=57, first=stage.produced))
    worker.wait_for("unready")
    kafka.limit_bytes(topic, None)
    stage.finish()
    report.judged(f"a dead letter is too large for its topic, {delivery}", 1, stage.violations())
