"""The invariants of a drained history; `tests.simulation` says them in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import msgspec

from features.catalog import DEFAULT, Catalog, Feature, Limits
from features.enrich import shard_of
from features.store import Source
from tests.oracle import Row, differences, fold, repeats
from tests.simulation_model import PAYMENTS, ModelKafka, Outcome, Sent
from tests.simulation_truth import At, Order, Timeline, Truth

NAMES = frozenset({
    "card_count_24h", "card_sum_30d", "card_merchants_7d", "card_since_last_s", "card_amount_zscore_30d",
    "card_country_changed", "card_at_merchant_30d", "card_frauds_30d", "merchant_count_24h", "merchant_sum_24h",
    "merchant_max_30d", "merchant_amount_to_mean_30d", "merchant_frauds_30d", "merchant_fraud_rate_30d",
    "device_cards_30d", "device_count_24h", "device_frauds_30d",
})  # fmt: skip
DAY_MS = 86_400_000


def _soon(feature: Feature) -> Feature:
    """A feature whose delay fits the short memory of these logs."""
    return msgspec.structs.replace(feature, delay_ms=DAY_MS // 2) if feature.delay_ms else feature


FEATURES = tuple(_soon(feature) for feature in DEFAULT.features if feature.name in NAMES)


def violations(kafka: ModelKafka, truth: Truth, limits: Limits, exactly_once: bool) -> list[str]:
    """What is wrong with a drained history; empty when every invariant of `tests.simulation` holds."""
    sent = {each.at: each for log in kafka.log.values() for each in log}
    wrong = [] if kafka.finished() else ["the committed offset is not the end of the log"]
    wrong += _of_outcomes(kafka, sent, exactly_once)
    by_timeline: dict[int, list[Outcome]] = {}
    for outcome in kafka.visible:
        if outcome.timeline is not None:
            by_timeline.setdefault(id(outcome.timeline), []).append(outcome)
    for outcomes in by_timeline.values():
        timeline = outcomes[0].timeline
        assert timeline is not None
        wrong += _against_fold(limits, timeline, outcomes, sent)
        wrong += _of_recorded_order(kafka, timeline, outcomes)
        wrong += _of_descent(truth, timeline)
    wrong += _of_stamps(kafka, truth)
    return wrong


def _of_outcomes(kafka: ModelKafka, sent: Mapping[At, Sent], exactly_once: bool) -> list[str]:
    """Each record's outcomes, their number and their order."""
    visible, wrong = kafka.visible, []
    counts = Counter(outcome.at for outcome in visible)
    if any(counts[at] == 0 for at in sent):
        wrong.append("a record has no outcome")
    if exactly_once and any(count > 1 for count in counts.values()):
        wrong.append("a record has several outcomes")
    seen: dict[Source, list[int]] = {}
    for topic, partition, offset in dict.fromkeys(outcome.at for outcome in visible if outcome.kind != "dead"):
        seen.setdefault((topic, partition), []).append(offset)
    if any(a >= b for offsets in seen.values() for a, b in pairwise(offsets)):
        wrong.append("decisions of a partition are out of order")
    ids = {at: (each.record.card_id, each.record.event_id) for at, each in sent.items() if each.record}
    decided = {ids[outcome.at] for outcome in visible if outcome.kind == "decision"}
    if any(outcome.kind == "duplicate" and ids[outcome.at] not in decided for outcome in visible):
        wrong.append("an event id was dropped as repeated but never decided")
    return wrong


def _of_stamps(kafka: ModelKafka, truth: Truth) -> list[str]:
    """A number names one record, for ever; and the journal has told it."""
    wrong = []
    named = {(outcome.at, outcome.stamp) for outcome in kafka.visible if outcome.stamp}
    if len({stamp for _, stamp in named}) < len(named):
        wrong.append("a stamp names two payments")
    if len({stamp for _, stamp in truth.journaled}) < len(truth.journaled):
        wrong.append("the journal gives two records one number")
    if not named <= truth.journaled:
        wrong.append("a decision's number is not in the journal")
    return wrong


def _of_recorded_order(kafka: ModelKafka, timeline: Timeline, outcomes: Sequence[Outcome]) -> list[str]:
    """A shard holds each partition from its first record on, in order; what it owed it had before it was used."""
    wrong = []
    for shard, order in enumerate(timeline.orders):
        recorded = {at: place for place, at in enumerate(order)}
        owed = 0
        for source, log in kafka.log.items():
            records = [each.at for each in log if shard in _shards(each, len(timeline.orders))]
            held = [at for at in recorded if at[:2] == source]
            if held != records[: len(held)]:
                wrong.append("the state lacks records of a partition or has them out of order")
            due = [at for at in records if at[2] < timeline.owed.get(shard, {}).get(source, 0)]
            owed = max([owed, *[recorded.get(at, len(recorded)) for at in due]])
        used = [recorded[outcome.at] for outcome in outcomes if outcome.at in recorded]
        if any(timeline.inherited[shard] <= place < owed for place in used):
            wrong.append("a decision has features of a state that had not caught up")
    return wrong


def _shards(sent: Sent, shards: int) -> set[int]:
    """Those that hold a log of this record."""
    return {shard_of(key, shards) for key in sent.keys.values()}


def _against_fold(
    limits: Limits, timeline: Timeline, outcomes: Sequence[Outcome], sent: Mapping[At, Sent]
) -> list[str]:
    """Compare what was decided on one timeline with the naive fold of what each of its shards recorded."""
    shards = len(timeline.orders)
    wrong, names = [], [feature.name for feature in FEATURES]
    rows: list[dict[At, Row]] = []
    repeated: list[dict[At, bool]] = []
    for order in timeline.orders:
        log = list(_completed(order, timeline, sent))
        payments = [at for at in log if at[0] == PAYMENTS]
        records = [record for at in log if (record := sent[at].record)]
        rows.append(dict(zip(payments, fold(records, Catalog(FEATURES, limits)), strict=True)))
        repeated.append(dict(zip(payments, repeats(records, limits), strict=True)))
        stamps = list(order.values())
        if any(a[2] >= b[2] for a, b in pairwise(stamps)):
            wrong.append("sequence numbers do not rise in the order of recording")
    for outcome in outcomes:
        keys = sent[outcome.at].keys
        card = shard_of(keys["card"], shards)
        if outcome.stamp != timeline.orders[card].get(outcome.at):
            wrong.append("a published stamp is not the recorded one")
        if repeated[card][outcome.at] != (outcome.kind == "duplicate"):
            wrong.append("a verdict on a repeated event id is not the fold's")
        elif outcome.kind == "decision":
            expected = {
                feature.name: rows[shard_of(keys[feature.entity], shards)][outcome.at][feature.name]
                if feature.entity in keys
                else None
                for feature in FEATURES
            }
            if why := differences(outcome.values, names, expected):
                wrong.append(f"features are not the fold's: {why[0]}")
    return wrong


def _completed(order: Order, timeline: Timeline, sent: Mapping[At, Sent]) -> Iterator[At]:
    """A shard's order with the payments put in that only other shards hold.

    They change nothing in this shard's logs. They are for the oracle, which asks a payment's card whether its event id
    is repeated: a card's payments are all in one partition, so their order is the same in any completion.
    """
    others = sorted({at for each in timeline.orders for at in each if at[0] == PAYMENTS and at not in order})
    for at in order:
        while earlier := [other for other in others if other[:2] == at[:2] and other < at]:
            yield earlier[0]
            others.remove(earlier[0])
        yield at
    yield from others


def _of_descent(truth: Truth, timeline: Timeline) -> list[str]:
    """Where the epoch of a shard changes in the order of recording, the journal leads from the new one to the old."""
    for shard, order in enumerate(timeline.orders):
        for before, after in pairwise(order.values()):
            epoch, least = after[1], after[2]
            while epoch != before[1] and (shard, epoch) in truth.parents:
                epoch, sequence = truth.parents[shard, epoch]
                if not before[2] < sequence <= least:
                    return ["the journal says that an epoch inherited more or less than it did"]
                least = sequence
            if epoch != before[1]:
                return ["the journal does not tell what an epoch was inherited from"]
    return []
