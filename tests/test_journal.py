"""The journal says of every record that was applied which number it has, shard by shard, and where epochs come from."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from consumer.journal import descent, entries
from consumer.records import JournalEntry
from features.catalog import DEFAULT
from features.enrich import Enricher, Recorded, shard_of
from features.event import Label, Payment, batch_of, labels_of
from features.store import MemoryStore, Position, Run, Span
from tests.poison import VALID

Place = tuple[int, int, int, str, int, int]  # shard, epoch, sequence, topic, partition, offset


def expanded(journal: list[JournalEntry]) -> list[Place]:
    return [
        (each.shard, each.epoch, each.sequence + i, each.topic, each.partition, each.offset + i)
        for each in journal
        for i in range(each.count)
    ]


def test_a_run_becomes_an_entry() -> None:
    span = Span("labels", 2, 7, 9, 0, labels=True)
    assert entries([Recorded(3, span, Run(7, 9, 30, 5))]) == [
        JournalEntry(shard=3, epoch=5, sequence=30, count=2, topic="labels", partition=2, offset=7)
    ]


def test_without_runs_there_is_nothing_to_say() -> None:
    assert entries([]) == []


def test_an_epoch_that_was_renewed_names_its_parent() -> None:
    assert descent(3, Position(8, parent=(5, 40)), "payments") == JournalEntry(
        shard=3,
        epoch=8,
        sequence=40,
        count=0,
        topic="payments",
        partition=0,
        offset=0,
        parent_epoch=5,
        parent_sequence=40,
    )


def test_the_first_epoch_of_a_state_has_no_parent() -> None:
    assert descent(0, Position(8), "payments") is None


@given(st.data())
def test_entries_expand_to_what_was_applied_whatever_part_was_applied_before(data: st.DataObject) -> None:
    """Two partitions and labels, in batches of which a part may be repeated: each record has one number a shard."""
    store = MemoryStore(data.draw(st.sampled_from([1, 3]), label="shards"))
    enricher = Enricher(DEFAULT.only(("card_count_24h", "merchant_count_24h")), store)
    epochs = [position.epoch for position in store.positions()]
    store.adopt({("payments", 0): 0, ("payments", 1): 0, ("labels", 0): 0})
    ends = {0: 0, 1: 0, -1: 0}
    journal: list[JournalEntry] = []
    for _ in range(data.draw(st.integers(1, 5), label="batches")):
        spans, places, labelled = [], [], range(0)
        for number in (-1, 0, 1):
            start = data.draw(st.integers(max(0, ends[number] - 2), ends[number]))
            end = data.draw(st.integers(start, start + 4))
            if number < 0:
                labelled = range(start, end)
                spans.append(Span("labels", 0, start, end, 0, labels=True))
            else:
                places += [(number, offset) for offset in range(start, end)]
                spans.append(Span("payments", number, start, end, 0))
            ends[number] = max(end, ends[number])
        batch = batch_of(
            [Payment(**VALID | {"card_id": f"c{p}{o % 3}", "merchant_id": f"m{o % 2}"}) for p, o in places],
            topic="payments",
            partition=[p for p, _ in places],
            offset=[o for _, o in places],
        )
        labels = labels_of(
            [Label(f"e{o}", f"c0{o % 3}", "m0", VALID["event_time"], "fraud", 0, "issuer") for o in labelled],
            topic="labels",
            partition=[0] * len(labelled),
            offset=list(labelled),
        )
        enriched = enricher.enrich(batch, tuple(spans), epochs, labels)
        told = entries(enriched.recorded)
        journal += told
        for row, (partition, offset) in enumerate(places):
            shard = shard_of(b"c:" + batch.payments[row].card_id.encode(), store.shards)
            assert enriched.shard[row] == shard
            stamp = (shard, int(enriched.epoch[row]), int(enriched.sequence[row]), "payments", partition, offset)
            assert stamp in expanded(told)
    numbers: dict[tuple[int, int, int], tuple[str, int, int]] = {}
    for shard, epoch, sequence, *source in expanded(journal):
        name = (shard, epoch, sequence)
        assert numbers.setdefault(name, tuple(source)) == tuple(source)  # type: ignore[arg-type]  # of three
    assert len({(name[0], record) for name, record in numbers.items()}) == len(numbers)
