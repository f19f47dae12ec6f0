"""What a run got wrong: decisions against payments, and what is kept in Redis against plain sums over the topic."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from redis import Redis

from bench.naive_model import ENTITIES, counter_keys
from bench.peers.ours import MAX_FUTURE_MS, MAX_PAYMENT_BYTES
from consumer.decode import Decoder, Message, in_log_order
from consumer.stored import stored
from features.audit import Parts
from features.catalog import DEFAULT
from features.grouping import Grouper
from features.redis_store import RedisStore

READ_KEYS: Final = 2_000  # a pipeline

Sums = Mapping[str, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Decisions:
    """Decisions against payments.

    Attributes:
        payments: how many there were.
        lost: payments without any decision.
        repeated: payments with two or more.
        differing: payments whose decisions contradict each other, in the verdict or in the score.
        unknown: decisions of no payment.
    """

    payments: int
    lost: int
    repeated: int
    differing: int
    unknown: int


@dataclass(frozen=True, slots=True)
class Kept:
    """Counters (or entity logs) against the truth.

    Attributes:
        what: `counters` or `entity logs`.
        keys: how many there are to be.
        wrong: how many of them are off, those that are gone included, and counters that nobody should have written.
        missing: payments that were not counted, over all keys.
        excess: payments that were counted without being there or more than once, over all keys.
    """

    what: str
    keys: int
    wrong: int
    missing: int
    excess: int


def judge_decisions(event_ids: Iterable[str], decisions: Iterable[Mapping[str, Any]]) -> Decisions:
    """Each payment is to have exactly one decision; `event_ids` are those of the topic, each once."""
    told: dict[str, list[tuple[Any, Any]]] = {event_id: [] for event_id in event_ids}
    unknown = 0
    for decision in decisions:
        if decision["event_id"] in told:
            told[decision["event_id"]].append((decision["decision"], decision["score"]))
        else:
            unknown += 1
    return Decisions(
        payments=len(told),
        lost=sum(not each for each in told.values()),
        repeated=sum(len(each) > 1 for each in told.values()),
        differing=sum(len(set(each)) > 1 for each in told.values()),
        unknown=unknown,
    )


def sums_of(payments: Iterable[Mapping[str, Any]]) -> dict[str, tuple[int, int]]:
    """What every counter should be: count and amount by key, each payment counted once."""
    counts: Counter[str] = Counter()
    amounts: Counter[str] = Counter()
    for payment in payments:
        for key in counter_keys(payment):
            if key is not None:
                counts[key[0]] += 1
                amounts[key[0]] += payment["amount_minor"]
    return {key: (count, amounts[key]) for key, count in counts.items()}


def judge_counters(truth: Sums, kept: Sums) -> Kept:
    """Compare counters; a key that one side lacks counts as nothing there."""
    wrong = missing = excess = 0
    for key in truth.keys() | kept.keys():
        expected, found = truth.get(key, (0, 0)), kept.get(key, (0, 0))
        wrong += expected != found
        missing += max(0, expected[0] - found[0])
        excess += max(0, found[0] - expected[0])
    return Kept("counters", len(truth), wrong, missing, excess)


def kept_counters(redis: Redis) -> dict[str, tuple[int, int]]:
    """The counters that Redis holds."""
    found: dict[str, tuple[int, int]] = {}
    for keys in _chunks([key for entity in ENTITIES for key in redis.scan_iter(f"{entity}:*", count=READ_KEYS)]):
        pipeline = redis.pipeline(transaction=False)
        for key in keys:
            pipeline.hmget(key, "count", "amount")
        for key, (count, amount) in zip(keys, pipeline.execute(), strict=True):
            found[key.decode()] = int(count or 0), int(amount or 0)
    return found


def judge_logs(redis_url: str, namespace: str, owner: str, messages: Sequence[Message]) -> Kept:
    """Compare the entity logs with the payments that name each entity, record by record.

    What a log still holds one by one is compared by source (partition and offset), what it has folded by number. A log
    that has each record once gives every feature its value; those of a payment are a function of the records alone.
    """
    decoder = Decoder(max_payment_bytes=MAX_PAYMENT_BYTES, max_future_ms=MAX_FUTURE_MS)
    batch = decoder.decode(in_log_order(messages)).batch
    grouping = Grouper(DEFAULT.logged).group(batch, None)
    ends = np.cumsum(grouping.counts)
    truth = {
        key: grouping.records[end - count : end, 2]
        for key, count, end in zip(grouping.keys, grouping.counts.tolist(), ends.tolist(), strict=True)
    }
    wrong = missing = excess = 0
    with closing(RedisStore(redis_url, namespace=namespace, timeout_ms=1_000, owner=owner)) as store:
        for keys in _chunks(list(truth)):
            for key, log in stored(store, keys)[1].items():
                parts, expected = Parts.of(log), truth[key]
                off = parts.folded + len(parts.singles) - len(expected)
                alone = parts.singles[:, 2]
                strange = len(alone) - len(np.unique(alone)) + int((~np.isin(alone, expected)).sum())
                wrong += bool(off or strange)
                many = max(strange, off)  # folded records have no names, so as many are too many at least
                missing += many - off
                excess += many
    return Kept("entity logs", len(truth), wrong, missing, excess)


def _chunks(keys: list[Any]) -> Iterator[list[Any]]:
    for start in range(0, len(keys), READ_KEYS):
        yield keys[start : start + READ_KEYS]
