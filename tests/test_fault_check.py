"""The judge of the fault tests takes each shard by itself: what one of many lacks or says otherwise, it finds."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest

from consumer.decode import Decoder, Message
from consumer.judge import LineUp, Surroundings
from consumer.pipeline import Pipeline
from consumer.settings import TopicSettings
from consumer.telemetry import Telemetry
from features.catalog import DEFAULT
from features.enrich import Enricher
from features.store import MemoryStore, Span
from tests.faults.check import Evidence, Law, violations
from tests.faults.payments import LABEL_PARTITIONS, PARTITIONS, START_MS, history
from tests.faults.scoring import model
from tests.faults.timelines import shard_of
from tests.poison import Record
from tests.services.reader import Seen
from tests.support.doubles import ListPublisher
from tests.test_pipeline import Switch

SHARDS, BATCH, COUNT = 16, 20, 240
NOW_MS = START_MS + 1_000_000_000  # later than all payments, but for those of the far future
TOPICS = TopicSettings()
LAW = Law(exactly_once=True)
LENIENT = Law(exactly_once=True, degrades=True)
OF_A_MERCHANT = shard_of("merchant", "merchant-0", SHARDS)
SOURCES = [(TOPICS.labels, number) for number in range(LABEL_PARTITIONS)]
SOURCES += [(TOPICS.payments, number) for number in range(PARTITIONS)]


def seen(topic: str, partition: int, offset: int, key: bytes | None, value: bytes | None, headers: Any = ()) -> Seen:
    return Seen(topic, partition, offset, key, value, tuple(headers or ()), NOW_MS, 0)


def pipeline(state: Switch, publisher: ListPublisher) -> Pipeline:
    """What decides for the workers of the fault tests, without their processes and servers."""
    line_up = LineUp(model())
    return Pipeline(
        decoder=Decoder(max_payment_bytes=65_536, max_future_ms=300_000, labels_topic=TOPICS.labels),
        enricher=state.enricher,
        state=state,
        line_up=lambda: line_up,
        around=Surroundings(TOPICS, clock=lambda: NOW_MS / 1_000, ticks=lambda: 0.0),
        publisher=publisher,
        telemetry=Telemetry(),
        budget_ms=20_000,
        pause_on_outage=False,
    )


def switch(shards: int) -> Switch:
    """A state of its own that answers."""
    store = MemoryStore(shards)
    store.adopt(dict.fromkeys(SOURCES, 0))
    return Switch(Enricher(DEFAULT, store), [position.epoch for position in store.positions()])


def decided(shards: int, away_from: int = COUNT) -> Evidence:
    """What is read and published of payments and labels in several partitions, when nothing goes wrong.

    But from a record's number on the state is `away`.
    """
    publisher, state = ListPublisher(), switch(shards)
    processor = pipeline(state, publisher)
    records, inputs = history(COUNT, seed=3), list[Seen]()
    ends = dict.fromkeys(SOURCES, 0)
    for first in range(0, len(records), BATCH):
        starts, messages = dict(ends), list[Message]()
        for each in records[first : first + BATCH]:
            topic, partition = source = (TOPICS.labels if each.is_label else TOPICS.payments, each.partition)
            stamp = (1, NOW_MS)
            messages.append(Record(each.value, partition, ends[source], each.key, None, stamp, topic))
            inputs.append(seen(topic, partition, ends[source], each.key, each.value))
            ends[source] += 1
        spans = [
            Span(*source, starts[source], ends[source], starts[source], labels=source[0] == TOPICS.labels)
            for source in SOURCES
            if ends[source] > starts[source]
        ]
        state.up = first < away_from
        processor.process(messages, tuple(spans))
    told = [seen(each.topic, 0, at, each.key, each.value, each.headers) for at, each in enumerate(publisher.visible)]
    return Evidence(
        inputs=inputs,
        labels_topic=TOPICS.labels,
        decisions=[record for record in told if record.topic == TOPICS.decisions],
        alerts=[record for record in told if record.topic == TOPICS.alerts],
        dead_letters=[record for record in told if record.topic == TOPICS.dead_letters],
        journal=[record for record in told if record.topic == TOPICS.journal],
        committed=ends,
        ends=ends,
        shards=shards,
    )


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    return decided(SHARDS)


def document_of(record: Seen) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(record.value or b"")
    return document


def changed(records: Iterable[Seen], change: Callable[[dict[str, Any]], object]) -> list[Seen]:
    """The same records, with something done to the documents in them."""
    made = []
    for record in records:
        document = document_of(record)
        change(document)
        made.append(replace(record, value=json.dumps(document).encode()))
    return made


def test_what_was_done_right_is_found_right(evidence: Evidence) -> None:
    assert {record.topic for record in evidence.inputs} == {TOPICS.payments, TOPICS.labels}
    assert all((evidence.alerts, evidence.dead_letters, evidence.journal))
    assert violations(evidence, LAW) == []
    assert violations(decided(1), LAW) == []


def without_features(evidence: Evidence, law: Law) -> list[str]:
    return [each for each in violations(evidence, law) if each.endswith("was decided without features")]


def test_a_worker_that_stays_without_features_is_found() -> None:
    """However right it is by the payments alone, and though its store was away."""
    stays = decided(1, away_from=COUNT // 2)
    tiers = [document_of(record)["tier"] for record in stays.decisions]
    assert 0 < tiers.count("full") < len(tiers)
    assert len(without_features(stays, LAW)) == tiers.count("no_features")
    assert len(without_features(stays, LENIENT)) == PARTITIONS


def test_a_store_that_was_away_for_a_while_costs_features_and_nothing_else_may(evidence: Evidence) -> None:
    newest = {document_of(record)["source"]["partition"]: record.offset for record in evidence.decisions}

    def degraded(record: Seen) -> Seen:
        (changed_record,) = changed([record], lambda decision: decision.update(tier="no_features"))
        return changed_record

    def of(chosen: Callable[[Seen], bool]) -> Evidence:
        return replace(evidence, decisions=[degraded(each) if chosen(each) else each for each in evidence.decisions])

    for_a_while = of(lambda record: record.offset not in newest.values())
    assert len(without_features(for_a_while, LAW)) == len(evidence.decisions) - PARTITIONS
    assert without_features(for_a_while, LENIENT) == []
    at_the_end = of(lambda record: record.offset == newest[PARTITIONS - 1])
    assert len(without_features(at_the_end, LAW)) == len(without_features(at_the_end, LENIENT)) == 1


def test_a_record_that_one_shard_lacks_is_missed(evidence: Evidence) -> None:
    """All the other shards have it."""
    lacking = [record for record in evidence.journal if document_of(record)["shard"] == OF_A_MERCHANT]
    rest = [record for record in evidence.journal if record not in lacking[len(lacking) // 2 :]]
    thinned = replace(evidence, journal=rest)
    assert thinned.unrecorded()
    assert any("have no order in the newest epoch" in each for each in violations(thinned, LAW))


def test_a_log_in_another_shard_than_the_card_s_has_the_order_of_its_own(evidence: Evidence) -> None:
    """The first payments of a merchant are counted last: whoever was decided in other shards has other features."""

    def last_comes_first(entry: dict[str, Any]) -> None:
        if entry["shard"] == OF_A_MERCHANT:
            entry["sequence"] = 10_000 - entry["sequence"] - entry["count"]

    turned = replace(evidence, journal=changed(evidence.journal, last_comes_first))
    found = violations(turned, LAW)
    of_others = [each for each in found if "other features" in each]
    assert [each for each in of_others if not each.endswith(f" in shard {OF_A_MERCHANT}")]
    assert not turned.unrecorded()


def test_a_decision_says_the_shard_of_its_card(evidence: Evidence) -> None:
    def next_shard(decision: dict[str, Any]) -> None:
        decision["state"]["shard"] = (decision["state"]["shard"] + 1) % SHARDS

    elsewhere = replace(evidence, decisions=changed(evidence.decisions, next_shard))
    assert len([each for each in violations(elsewhere, LAW) if "log does not lie" in each]) == len(evidence.decisions)


def test_what_an_epoch_took_over_counts_in_its_own_shard_alone(evidence: Evidence) -> None:
    """One shard has gone back in time and says so, and was given nothing since: only it lacks what it has lost."""
    [epoch] = {entry["epoch"] for entry in map(document_of, evidence.journal) if entry["shard"] == OF_A_MERCHANT}
    descent = {
        "shard": OF_A_MERCHANT, "epoch": epoch + 1, "count": 0, "parent_epoch": epoch, "parent_sequence": 100
    }  # fmt: skip
    of_nothing = descent | {"parent_epoch": None, "parent_sequence": None}  # an empty run, which tells nothing
    told = [seen(TOPICS.journal, 0, 10_000, None, json.dumps(each).encode()) for each in (descent, of_nothing)]
    after = replace(evidence, journal=[*evidence.journal, *told])
    assert after.lost()
    assert 0 < after.unrecorded() < len(evidence.inputs)
    assert not [each for each in violations(after, LAW) if "no order" not in each]
