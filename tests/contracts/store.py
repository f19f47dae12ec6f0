"""What every `StateStore` does, as tests; and the small tools that they are written with.

A subclass provides the fixture `make_store`: a function of `keep` that opens a fresh, empty store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import strategies as st

from features.errors import StateBehind
from features.event import (
    FLAG_DUPLICATE,
    HEAD_BYTES,
    KIND_LABEL,
    LAYOUT_VERSION,
    RECORD,
    Payment,
    Records,
    batch_of,
    sequences,
)
from features.store import Append, Applied, Position, Span, StateStore

TOPIC = "payments"
T0 = (TOPIC, 0)
T1 = (TOPIC, 1)
KIND_AT = 52
MakeStore = Callable[[int], StateStore]


@dataclass(frozen=True)
class Record:
    """One payment, as far as a store sees it."""

    offset: int
    card: str = "a"
    merchant: str = "shop"
    event_id: str = ""
    partition: int = 0


def records(offsets: Iterable[int]) -> list[Record]:
    """Payments of one card at one merchant, at these offsets of partition 0."""
    return [Record(offset) for offset in offsets]


def append(epoch: int, rows: Sequence[Record], *spans: Span) -> Append:
    """A call for these payments: card logs, then merchant logs; without spans it covers partition 0 as the rows do."""
    payments = [
        Payment(
            event_id=row.event_id or f"{row.partition}/{row.offset}",
            event_time=1_750_000_000_000 + row.offset,
            card_id=row.card,
            merchant_id=row.merchant,
            amount_minor=100 + row.offset,
            currency="EUR",
        )
        for row in rows
    ]
    heads = batch_of(
        payments, topic=TOPIC, partition=[row.partition for row in rows], offset=[row.offset for row in rows]
    ).heads
    cards = _grouped([b"c:" + row.card.encode() for row in rows])
    logs = cards | _grouped([b"m:" + row.merchant.encode() for row in rows])
    return Append(
        epoch=epoch,
        spans=spans or (span(rows[0].offset, rows[-1].offset + 1),),
        keys=list(logs),
        counts=[len(places) for places in logs.values()],
        heads=b"".join(heads[place].tobytes() for places in logs.values() for place in places),
        cards=len(cards),
        size=len(rows),
    )


def span(start: int, end: int, floor: int = 0, partition: int = 0) -> Span:
    return Span(TOPIC, partition, start, end, floor)


def _grouped(keys: list[bytes]) -> dict[bytes, list[int]]:
    return {key: [place for place, other in enumerate(keys) if other == key] for key in dict.fromkeys(keys)}


def opened(store: StateStore, *sources: tuple[str, int]) -> int:
    """Set the markers of these sources (partition 0 by default) to 0 and give the epoch."""
    epoch = store.position().epoch
    store.adopt(dict.fromkeys(sources or [T0], 0))
    return epoch


def parsed(log: bytes) -> Records:
    return np.frombuffer(log, RECORD)


def offsets(log: bytes) -> list[int]:
    found: list[int] = parsed(log)["offset"].tolist()
    return found


def flagged(log: bytes) -> list[bool]:
    found: list[bool] = (parsed(log)["flags"] & FLAG_DUPLICATE != 0).tolist()
    return found


def logs_of(call: Append, applied: Applied) -> dict[bytes, bytes]:
    return dict(zip(call.keys, applied.logs, strict=True))


def whole_log(store: StateStore, epoch: int, marker: int, card: str = "a") -> bytes:
    """All that is held of a card: a call that overlaps the marker returns logs whole, and this one appends nothing."""
    call = append(epoch, [Record(0, card)], span(0, marker))
    return store.apply(call).logs[0]


class StoreContract:
    """The suite."""

    @pytest.fixture
    def store(self, make_store: MakeStore) -> StateStore:
        return make_store(4)

    def test_a_suitable_store_passes_the_check(self, store: StateStore) -> None:
        store.check()

    def test_position_creates_the_epoch_once(self, store: StateStore) -> None:
        first = store.position()
        assert first.epoch > 0
        assert first.markers == {}
        assert store.position() == first

    def test_two_stores_draw_different_epochs(self, make_store: MakeStore) -> None:
        assert make_store(4).position().epoch != make_store(4).position().epoch

    def test_adopt_sets_only_what_is_missing_and_force_only_raises(self, store: StateStore) -> None:
        epoch = store.position().epoch
        store.adopt({T0: 5})
        store.adopt({T0: 9, T1: 7})
        assert store.position() == Position(epoch, {T0: 5, T1: 7})
        store.adopt({T0: 9, T1: 3}, force=True)
        assert store.position() == Position(epoch, {T0: 9, T1: 7})

    def test_an_offset_is_a_number_not_a_text_when_markers_are_compared(self, store: StateStore) -> None:
        epoch = store.position().epoch
        store.adopt({T0: 9})
        store.adopt({T0: 10}, force=True)
        assert store.apply(append(epoch, records([10]))).markers == [10]

    def test_records_are_appended_in_order_and_stamped(self, store: StateStore) -> None:
        epoch = opened(store)
        call = append(epoch, records(range(3)))
        applied = store.apply(call)
        log = parsed(applied.logs[0])
        assert log["offset"].tolist() == [0, 1, 2]
        assert log["epoch"].tolist() == [epoch] * 3
        assert sequences(log).tolist() == [0, 1, 2]
        assert log["kind"].tolist() == [1 | LAYOUT_VERSION << 4] * 3
        assert applied.logs[1] == applied.logs[0]
        assert applied.markers == [0]
        assert store.position().markers == {T0: 3}

    def test_sequence_numbers_rise_strictly_over_batches_and_partitions(self, store: StateStore) -> None:
        epoch = opened(store, T0, T1)
        drawn: list[int] = []
        for start in range(0, 8, 2):
            rows = [*records([start, start + 1]), Record(start, partition=1), Record(start + 1, partition=1)]
            call = append(epoch, rows, span(start, start + 2), span(start, start + 2, partition=1))
            drawn += sequences(parsed(store.apply(call).logs[0]))[-4:].tolist()
        assert drawn == list(range(16))

    def test_a_replay_appends_nothing_and_returns_the_same_logs(self, store: StateStore) -> None:
        epoch = opened(store)
        call = append(epoch, records(range(3)))
        first = store.apply(call)
        assert store.apply(call).logs == first.logs
        assert store.apply(call).markers == [3]
        assert offsets(store.apply(append(epoch, records([3]))).logs[0]) == [0, 1, 2, 3]

    def test_a_replay_draws_no_sequence_numbers(self, store: StateStore) -> None:
        epoch = opened(store)
        for _ in range(3):
            store.apply(append(epoch, records(range(3))))
        assert sequences(parsed(store.apply(append(epoch, records([3]))).logs[0])).tolist() == [0, 1, 2, 3]

    def test_of_a_batch_that_starts_below_the_marker_only_the_rest_is_appended(self, store: StateStore) -> None:
        epoch = opened(store)
        store.apply(append(epoch, records(range(3))))
        applied = store.apply(append(epoch, records(range(1, 6))))
        log = parsed(applied.logs[0])
        assert log["offset"].tolist() == [0, 1, 2, 3, 4, 5]
        assert np.all(np.diff(sequences(log)) > 0)
        assert applied.markers == [3]
        assert store.position().markers == {T0: 6}

    def test_overlap_is_judged_partition_by_partition(self, store: StateStore) -> None:
        epoch = opened(store, T0, T1)
        store.apply(append(epoch, records(range(2))))
        rows = [*records(range(3)), Record(0, partition=1)]
        applied = store.apply(append(epoch, rows, span(0, 3), span(0, 1, partition=1)))
        log = parsed(applied.logs[0])
        assert list(zip(log["partition"].tolist(), log["offset"].tolist(), strict=True)) == [
            (0, 0), (0, 1), (0, 2), (1, 0),
        ]  # fmt: skip

    def test_holes_and_dead_letters_move_the_marker_too(self, store: StateStore) -> None:
        epoch = opened(store)
        store.apply(append(epoch, records([2]), span(0, 9)))
        assert store.position().markers == {T0: 9}
        assert offsets(store.apply(append(epoch, records([9]))).logs[0]) == [2, 9]

    @pytest.mark.parametrize("start", [2, 4])
    def test_a_marker_below_the_start_refuses_and_nothing_is_written(self, store: StateStore, start: int) -> None:
        epoch = opened(store)
        store.apply(append(epoch, records([0])))
        before = store.position()
        refused = append(epoch, [Record(start), Record(start + 1, "b")], span(start, start + 2, floor=start))
        with pytest.raises(StateBehind):
            store.apply(refused)
        assert store.position() == before
        assert whole_log(store, epoch, 1, "b") == b""

    def test_one_partition_that_is_behind_refuses_the_whole_batch(self, store: StateStore) -> None:
        epoch = opened(store, T0, T1)
        rows = [*records([0, 1]), Record(5, partition=1)]
        with pytest.raises(StateBehind):
            store.apply(append(epoch, rows, span(0, 2), span(5, 6, partition=1)))
        assert store.position().markers == {T0: 0, T1: 0}
        assert offsets(store.apply(append(epoch, records([0]))).logs[0]) == [0]

    def test_a_partition_without_marker_refuses(self, store: StateStore) -> None:
        epoch = store.position().epoch
        with pytest.raises(StateBehind):
            store.apply(append(epoch, records([0])))
        assert store.position().markers == {}

    def test_another_epoch_refuses(self, store: StateStore) -> None:
        epoch = opened(store)
        with pytest.raises(StateBehind):
            store.apply(append(epoch % 0xFFFF_FFFF + 1, records([0])))
        assert store.position() == Position(epoch, {T0: 0})

    def test_floors_only_rise_and_are_returned(self, store: StateStore) -> None:
        epoch = opened(store)
        given_and_returned = [(2, 2), (1, 2), (3, 3), (0, 3)]
        for start, (given_floor, floor) in enumerate(given_and_returned):
            call = append(epoch, records([start]), span(start, start + 1, given_floor))
            assert store.apply(call).floors == [floor]

    def test_a_log_is_returned_as_its_last_keep_records_and_the_batchs_own(self, store: StateStore) -> None:
        epoch = opened(store)
        store.apply(append(epoch, records(range(6))))
        assert offsets(store.apply(append(epoch, records([6, 7]))).logs[0]) == [2, 3, 4, 5, 6, 7]

    def test_a_log_is_returned_whole_when_part_of_the_batch_was_applied(self, store: StateStore) -> None:
        epoch = opened(store)
        store.apply(append(epoch, records(range(6))))
        assert offsets(store.apply(append(epoch, records(range(5, 7)))).logs[0]) == [0, 1, 2, 3, 4, 5, 6]

    def test_a_batch_without_payments_moves_markers_and_floors(self, store: StateStore) -> None:
        epoch = opened(store)
        applied = store.apply(append(epoch, [], span(0, 5, floor=3)))
        assert applied == Applied(logs=[], markers=[0], floors=[3])
        assert store.position().markers == {T0: 5}

    def test_a_repeated_event_id_is_flagged_in_all_logs(self, store: StateStore) -> None:
        epoch = opened(store)
        store.apply(append(epoch, [Record(0, event_id="x")]))
        call = append(epoch, [Record(1, event_id="x", merchant="other"), Record(2, merchant="other")])
        logs = logs_of(call, store.apply(call))
        assert flagged(logs[b"c:a"]) == [False, True, False]
        assert flagged(logs[b"m:other"]) == [True, False]

    def test_a_repetition_inside_one_batch_is_flagged(self, store: StateStore) -> None:
        epoch = opened(store)
        rows = [Record(0, event_id="x"), Record(1), Record(2, event_id="x"), Record(3, event_id="x")]
        call = append(epoch, rows)
        logs = logs_of(call, store.apply(call))
        assert flagged(logs[b"c:a"]) == flagged(logs[b"m:shop"]) == [False, False, True, True]

    def test_the_verdict_on_a_repetition_survives_a_replay(self, store: StateStore) -> None:
        epoch = opened(store)
        rows = [Record(0, event_id="x"), Record(1, event_id="x"), Record(2)]
        first = store.apply(append(epoch, rows)).logs
        assert store.apply(append(epoch, rows)).logs == first
        assert store.apply(append(epoch, rows[1:], span(1, 3))).logs == first

    def test_an_event_id_of_another_card_is_not_repeated(self, store: StateStore) -> None:
        epoch = opened(store)
        call = append(epoch, [Record(0, "a", event_id="x"), Record(1, "b", event_id="x")])
        assert not any(any(flagged(log)) for log in store.apply(call).logs)

    @pytest.mark.parametrize(("between", "expected"), [(3, True), (4, False)])
    def test_a_repetition_is_sought_among_the_last_keep_records(
        self, store: StateStore, between: int, expected: bool
    ) -> None:
        epoch = opened(store)
        rows = [Record(0, event_id="x"), *records(range(1, between + 1)), Record(between + 1, event_id="x")]
        assert flagged(store.apply(append(epoch, rows)).logs[0])[-1] == expected

    def test_a_label_is_no_payment_when_repetitions_are_sought(self, store: StateStore) -> None:
        epoch = opened(store)
        label = append(epoch, [Record(0, event_id="x")])
        heads = bytearray(label.heads)
        for start in range(0, len(heads), HEAD_BYTES):
            heads[start + KIND_AT] = KIND_LABEL | LAYOUT_VERSION << 4
        store.apply(replace(label, heads=bytes(heads)))
        assert flagged(store.apply(append(epoch, [Record(1, event_id="x")])).logs[0]) == [False, False]

    def test_a_hash_that_only_looks_repeated_between_two_fields_is_not(self, store: StateStore) -> None:
        """The search is over bytes: only a match where a record has its hash counts."""
        epoch = opened(store)
        first = append(epoch, [Record(0)])
        second = append(epoch, [Record(1)])
        heads = bytearray(second.heads)
        stray = first.heads[20:28]  # the offset's upper half and the hash's lower half
        for start in range(0, len(heads), HEAD_BYTES):
            heads[start + 24 : start + 32] = stray
        store.apply(first)
        assert flagged(store.apply(replace(second, heads=bytes(heads))).logs[0]) == [False, False]

    def test_a_committed_log_stays_short(self, store: StateStore) -> None:
        epoch = opened(store)
        for offset in range(60):
            store.apply(append(epoch, records([offset]), span(offset, offset + 1, floor=offset)))
        held = offsets(whole_log(store, epoch, 60))
        assert held == list(range(60 - len(held), 60))
        assert 4 <= len(held) < 8

    def test_nothing_uncommitted_is_trimmed_however_long_the_log(self, store: StateStore) -> None:
        epoch = opened(store)
        for offset in range(60):
            store.apply(append(epoch, records([offset]), span(offset, offset + 1, floor=min(offset, 20))))
        held = offsets(whole_log(store, epoch, 60))
        assert held == list(range(held[0], 60))
        assert held[0] <= 20 - 4

    def test_the_floor_of_another_partition_does_not_commit_a_record(self, store: StateStore) -> None:
        epoch = opened(store, T0, T1)
        store.apply(append(epoch, [Record(0, partition=1)], span(0, 1, partition=1)))
        for offset in range(40):
            store.apply(append(epoch, records([offset]), span(offset, offset + 1, floor=offset)))
        log = parsed(whole_log(store, epoch, 40))
        assert log["partition"][0] == 1


def assert_tails_survive(make_store: MakeStore, data: st.DataObject) -> None:
    """Random appends, replays and floors: what a log returns is the tail of an untrimmed one, and long enough."""
    keep = data.draw(st.integers(1, 5), label="keep")
    cards = data.draw(st.lists(st.sampled_from("abc"), min_size=1, max_size=40), label="cards")
    log = [Record(offset, card) for offset, card in enumerate(cards)]
    store = make_store(keep)
    epoch = opened(store)
    marker = floor = 0
    while marker < len(log):
        start = data.draw(st.integers(floor, marker), label="start")
        end = data.draw(st.integers(marker + 1, len(log)), label="end")
        floor = data.draw(st.integers(floor, start), label="floor")
        call = append(epoch, log[start:end], span(start, end, floor))
        for key, held in logs_of(call, store.apply(call)).items():
            reference = [r.offset for r in log[:end] if key in {b"c:" + r.card.encode(), b"m:shop"}]
            seen_from = marker if start == marker else floor  # a log is returned whole where the batch overlaps
            before = sum(offset < seen_from for offset in reference)
            assert offsets(held) == reference[-len(parsed(held)) :]
            assert len(parsed(held)) >= len(reference) - before + min(keep, before)
        marker = end
    store.close()
