"""The journal's runs expand to exactly the payments that were applied, and there are as few as there can be."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from consumer.journal import SHARD, entries
from consumer.records import JournalEntry
from features.enrich import Enriched
from features.event import Payment, batch_of
from features.store import Span
from tests.poison import VALID

Row = tuple[int, int, int, int, bool]  # partition, offset, epoch, sequence, stale
Place = tuple[int, int, int, int]

# Few values, so that runs are long, break in every way, and rows without a sequence lie inside them.
steps = st.lists(
    st.tuples(
        st.sampled_from([1, 1, 1, 2]),
        st.sampled_from([0, 0, 0, 0, 1]),
        st.sampled_from([0, 0, 0, 0, 1]),
        st.sampled_from([1, 1, 1, 1, 2, -3]),
        st.sampled_from([False, False, False, True]),
        st.sampled_from([True, True, True, False]),
    ),
    max_size=25,
)


def rows_of(changes: list[tuple[int, int, int, int, bool, bool]]) -> list[Row]:
    """Payments in log order: grouped by partition, offsets rising inside one."""
    partition, offset, epoch, sequence = 0, 100, 5, 1_000
    rows = []
    for offset_step, partition_step, epoch_step, sequence_step, stale, known in changes:
        partition, offset = partition + partition_step, offset + offset_step
        epoch, sequence = epoch + epoch_step, sequence + sequence_step
        rows.append((partition, offset, epoch, sequence if known else -1, stale))
    return rows


def journal_of(rows: list[Row]) -> list[JournalEntry]:
    n = len(rows)
    batch = batch_of(
        [Payment(**VALID)] * n, topic="payments", partition=[row[0] for row in rows], offset=[row[1] for row in rows]
    )
    enriched = Enriched(
        values=np.zeros((n, 0), np.float32),
        epoch=np.array([row[2] for row in rows], np.int64),
        sequence=np.array([row[3] for row in rows], np.int64),
        repeated=np.zeros(n, np.bool_),
        stale=np.array([row[4] for row in rows], np.bool_),
        age_ms=np.zeros(n, np.int64),
    )
    return entries(batch, enriched, [Span("payments", 0, 0, 10_000, 0)])


def expanded(journal: list[JournalEntry]) -> list[Place]:
    return [
        (entry.partition, entry.offset + i, entry.epoch, entry.sequence + i)
        for entry in journal
        for i in range(entry.count)
    ]


@given(steps)
def test_runs_expand_to_the_applied_payments_in_order(changes: list[tuple[int, int, int, int, bool, bool]]) -> None:
    rows = rows_of(changes)
    assert expanded(journal_of(rows)) == [row[:4] for row in rows if not row[4] and row[3] >= 0]


@given(steps)
def test_no_two_neighbours_could_be_one_run(changes: list[tuple[int, int, int, int, bool, bool]]) -> None:
    journal = journal_of(rows_of(changes))
    for before, after in pairwise(journal):
        joined = expanded([before])[-1]
        following = (joined[0], joined[1] + 1, joined[2], joined[3] + 1)
        assert expanded([after])[0] != following


def test_an_entry_names_its_shard_and_topic() -> None:
    rows = [(2, 7, 5, 30, False), (2, 8, 5, 31, False), (2, 9, 5, 40, False)]
    assert journal_of(rows) == [
        JournalEntry(shard=SHARD, epoch=5, sequence=30, count=2, topic="payments", partition=2, offset=7),
        JournalEntry(shard=SHARD, epoch=5, sequence=40, count=1, topic="payments", partition=2, offset=9),
    ]


def test_without_payments_there_is_nothing_to_say() -> None:
    assert journal_of([]) == []
    assert journal_of([(0, 1, 5, 3, True), (0, 2, 5, -1, False)]) == []
