"""The order of the present state, from a journal that tells of crashes, regressions and several shards."""

from __future__ import annotations

import numpy as np

from consumer.order import UNKNOWN, Order
from consumer.records import JournalEntry
from features.event import source_id
from features.store import Position


def run(epoch: int, sequence: int, offset: int, count: int, *, shard: int = 0, topic: str = "payments") -> JournalEntry:
    return JournalEntry(shard, epoch, sequence, count, topic, 0, offset)


def born(epoch: int, parent: int, since: int, *, shard: int = 0) -> JournalEntry:
    return JournalEntry(shard, epoch, since, 0, "payments", 0, 0, parent, since)


def places(order: Order, *offsets: int, shard: int = 0, labels: bool = False) -> list[int]:
    number = [source_id(0, labels=labels)] * len(offsets)
    words = np.array(number, np.uint64) << np.uint64(48) | np.array(offsets, np.uint64)
    records = np.zeros((len(offsets), 6), np.int64)
    records[:, 2] = words.view(np.int64)
    found: list[int] = order.of(shard, records).tolist()
    return found


def test_each_run_gives_its_offsets_their_numbers() -> None:
    order = Order([run(1, 0, 0, 4), run(1, 9, 4, 3)], [Position(1)], None)
    assert places(order, 0, 3, 4, 6, 7) == [0, 3, 9, 11, UNKNOWN]


def test_labels_are_another_source() -> None:
    entries = [run(1, 0, 0, 2), run(1, 2, 0, 2, topic="labels")]
    order = Order(entries, [Position(1)], "labels")
    assert places(order, 0, 1) == [0, 1]
    assert places(order, 0, 1, labels=True) == [2, 3]


def test_what_an_epoch_inherited_counts_and_what_was_lost_does_not() -> None:
    """The state went back to number 6, and what had followed was recorded again in another order."""
    entries = [run(1, 0, 0, 10), born(2, 1, 6), run(2, 8, 6, 2)]
    order = Order(entries, [Position(2)], None)
    assert places(order, 0, 5, 6, 7, 8, 9) == [0, 5, 8, 9, UNKNOWN, UNKNOWN]


def test_of_ancestors_each_gives_only_what_all_after_it_have_kept() -> None:
    entries = [run(1, 0, 0, 10), born(2, 1, 8), run(2, 8, 8, 4), born(3, 2, 5), run(3, 5, 5, 1)]
    order = Order(entries, [Position(3)], None)
    assert places(order, 4, 5, 6, 9) == [4, 5, UNKNOWN, UNKNOWN]


def test_shards_have_orders_of_their_own() -> None:
    entries = [run(1, 0, 0, 2), run(7, 5, 0, 2, shard=1)]
    order = Order(entries, [Position(1), Position(7)], None)
    assert places(order, 0, 1) == [0, 1]
    assert places(order, 0, 1, shard=1) == [5, 6]


def test_an_epoch_that_nobody_journaled_has_no_order() -> None:
    assert places(Order([run(1, 0, 0, 2)], [Position(2)], None), 0) == [UNKNOWN]
