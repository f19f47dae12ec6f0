"""What every `StateStore` does, as tests.

A subclass provides the fixture `make_store`: a function that opens a fresh, empty store.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from features.errors import StateBehind
from features.store import Position, Run, StateStore
from tests.contracts.calls import (
    L0,
    T0,
    T1,
    Record,
    Reply,
    appends,
    apply,
    epochs_of,
    held,
    markers,
    opened,
    records,
    replacing,
    span,
    summary_of,
    unit,
)

MakeStore = Callable[[], StateStore]


class StoreContract:
    """The suite."""

    @pytest.fixture
    def store(self, make_store: MakeStore) -> StateStore:
        return make_store()

    def test_a_suitable_store_passes_the_check(self, store: StateStore) -> None:
        store.check()

    def test_what_was_sent_is_answered_as_if_it_had_been_applied(self, store: StateStore) -> None:
        epochs = opened(store)
        calls = appends(epochs, records([0, 1]), span(0, 2))
        answer = store.send(calls)
        reply = Reply(calls, answer())
        assert reply.offsets() == reply.offsets(b"m:shop") == [0, 1]
        assert reply.markers == [0]
        again = apply(store, epochs, records([0, 1]), span(0, 2))
        assert (again.offsets(), again.markers, again.runs) == ([0, 1], [2], reply.runs)

    def test_positions_create_an_epoch_a_shard_once(self, store: StateStore) -> None:
        first = store.positions()
        assert len(first) == store.shards
        assert all(position.epoch > 0 for position in first)
        assert len({position.epoch for position in first}) == store.shards
        assert all(position.markers == position.floors == {} and position.parent is None for position in first)
        assert store.positions() == first

    def test_two_stores_draw_different_epochs(self, make_store: MakeStore) -> None:
        assert not set(epochs_of(make_store())) & set(epochs_of(make_store()))

    def test_adopt_sets_only_what_is_missing_and_force_only_raises(self, store: StateStore) -> None:
        epochs = epochs_of(store)
        store.adopt({T0: 5})
        store.adopt({T0: 9, T1: 7})
        assert store.positions() == [Position(epoch, {T0: 5, T1: 7}, begun={T0: 5, T1: 7}) for epoch in epochs]
        store.adopt({T0: 9, T1: 3}, force=True)
        assert store.positions() == [Position(epoch, {T0: 9, T1: 7}, begun={T0: 9, T1: 7}) for epoch in epochs]

    def test_an_offset_is_a_number_not_a_text_when_markers_are_compared(self, store: StateStore) -> None:
        epochs = epochs_of(store)
        store.adopt({T0: 9})
        store.adopt({T0: 10}, force=True)
        assert apply(store, epochs, records([10])).markers == [10]

    def test_records_are_appended_in_order_to_every_log(self, store: StateStore) -> None:
        epochs = opened(store)
        reply = apply(store, epochs, records(range(3)))
        assert reply.offsets() == reply.offsets(b"m:shop") == [0, 1, 2]
        assert reply.markers == [0]
        assert markers(store) == {T0: 3}
        again = apply(store, epochs, [Record(3, "b"), Record(4)])
        assert again.offsets(b"c:a") == [0, 1, 2, 4]
        assert again.offsets(b"c:b") == [3]
        assert again.offsets(b"m:shop") == [0, 1, 2, 3, 4]
        np.testing.assert_array_equal(again.logs[b"c:b"], [unit(Record(3, "b"))])

    def test_a_call_tells_whether_a_part_of_it_was_applied_before(self, store: StateStore) -> None:
        epochs = opened(store)
        for partial, start in ((False, 0), (False, 2), (True, 3)):
            reply = apply(store, epochs, records([start, start + 1]))
            assert {applied.partial for applied in reply.applied} == {partial}
            assert reply.offsets() == reply.offsets(b"m:shop") == list(range(start + 2))

    def test_every_offset_of_a_span_is_numbered_holes_included(self, store: StateStore) -> None:
        epochs = opened(store, T0, T1)
        rows = [Record(1), Record(4), Record(0, partition=1)]
        first = apply(store, epochs, rows, span(0, 6), span(0, 2, partition=1))
        assert first.runs == [[(0, 6, 0)], [(0, 2, 6)]]
        second = apply(store, epochs, [Record(2, partition=1)], span(2, 3, partition=1), span(6, 7))
        assert second.runs == [[(0, 2, 6), (2, 3, 8)], [(0, 6, 0), (6, 7, 9)]]
        for shard, applied in enumerate(second.applied):
            assert {run.epoch for runs in applied.runs for run in runs} == {epochs[shard]}

    def test_a_replay_appends_and_numbers_nothing(self, store: StateStore) -> None:
        epochs = opened(store)
        first = apply(store, epochs, records(range(3)))
        for _ in range(2):
            again = apply(store, epochs, records(range(3)))
            assert again.offsets() == first.offsets()
            assert again.runs == first.runs
            assert again.markers == [3]
        reply = apply(store, epochs, records([3]))
        assert reply.offsets() == [0, 1, 2, 3]
        assert reply.runs == [[(0, 3, 0), (3, 4, 3)]]

    def test_of_a_batch_that_starts_below_the_marker_only_the_rest_is_appended(self, store: StateStore) -> None:
        epochs = opened(store)
        apply(store, epochs, records(range(3)))
        reply = apply(store, epochs, records(range(1, 6)))
        assert reply.offsets() == reply.offsets(b"m:shop") == [0, 1, 2, 3, 4, 5]
        assert reply.runs == [[(0, 3, 0), (3, 6, 3)]]
        assert reply.markers == [3]
        assert markers(store) == {T0: 6}

    def test_a_marker_never_moves_back(self, store: StateStore) -> None:
        """A stale worker's call, whose span ends below it, finds all its records there and changes nothing."""
        epochs = opened(store)
        apply(store, epochs, records(range(5)))
        assert apply(store, epochs, records(range(2))).markers == [5]
        assert markers(store) == {T0: 5}
        assert apply(store, epochs, records([5])).offsets() == [0, 1, 2, 3, 4, 5]

    def test_overlap_is_judged_partition_by_partition(self, store: StateStore) -> None:
        epochs = opened(store, T0, T1)
        apply(store, epochs, records(range(2)))
        rows = [*records(range(3)), Record(0, partition=1)]
        reply = apply(store, epochs, rows, span(0, 3), span(0, 1, partition=1))
        assert reply.sources() == [(0, 0), (0, 1), (0, 2), (1, 0)]
        assert reply.markers == [2, 0]

    def test_labels_of_the_same_partition_number_are_another_source(self, store: StateStore) -> None:
        epochs = opened(store, T0, L0)
        apply(store, epochs, records(range(2)))
        rows = [Record(0, labels=True), *records(range(1, 3))]
        spans = (span(0, 1, labels=True), span(1, 3))
        reply = apply(store, epochs, rows, *spans)
        assert reply.sources() == [(0, 0), (0, 1), (1 << 15, 0), (0, 2)]
        assert reply.markers == [0, 2]
        assert apply(store, epochs, rows, *spans).sources() == reply.sources()
        assert markers(store) == {T0: 3, L0: 1}

    def test_holes_and_dead_letters_move_the_marker_too(self, store: StateStore) -> None:
        epochs = opened(store)
        apply(store, epochs, records([2]), span(0, 9))
        assert markers(store) == {T0: 9}
        assert apply(store, epochs, records([9])).offsets() == [2, 9]

    @pytest.mark.parametrize("start", [2, 4])
    def test_a_marker_below_the_start_refuses_and_nothing_is_written(self, store: StateStore, start: int) -> None:
        epochs = opened(store)
        apply(store, epochs, records([0]))
        before = store.positions()
        with pytest.raises(StateBehind):
            apply(store, epochs, [Record(start), Record(start + 1, "b")], span(start, start + 2, floor=start))
        assert store.positions() == before
        assert held(store, epochs, 1, Record(0, "b")).offsets(b"c:b") == []

    def test_one_partition_that_is_behind_refuses_the_whole_batch(self, store: StateStore) -> None:
        epochs = opened(store, T0, T1)
        rows = [*records([0, 1]), Record(5, partition=1)]
        with pytest.raises(StateBehind):
            apply(store, epochs, rows, span(0, 2), span(5, 6, partition=1))
        assert markers(store) == {T0: 0, T1: 0}
        assert apply(store, epochs, records([0])).offsets() == [0]

    def test_a_partition_without_marker_refuses(self, store: StateStore) -> None:
        epochs = epochs_of(store)
        with pytest.raises(StateBehind):
            apply(store, epochs, records([0]))
        assert markers(store) == {}

    def test_another_epoch_refuses(self, store: StateStore) -> None:
        epochs = opened(store)
        before = store.positions()
        with pytest.raises(StateBehind):
            apply(store, [epoch % 0xFFFF_FFFF + 1 for epoch in epochs], records([0]))
        assert store.positions() == before

    def test_a_call_that_one_shard_refused_may_be_repeated(self, store: StateStore) -> None:
        """Shards are not atomic together: what the others have applied is not applied again."""
        epochs = opened(store)
        rows = [Record(offset, card) for offset, card in enumerate("abcdefgh")]
        with pytest.raises(StateBehind):
            apply(store, [*epochs[:-1], epochs[-1] % 0xFFFF_FFFF + 1], rows)
        assert store.positions()[-1].markers == {T0: 0}
        calls = appends(epochs, rows)
        reply = Reply(calls, store.apply(calls))
        assert [reply.offsets(b"c:" + card.encode()) for card in "abcdefgh"] == [[offset] for offset in range(8)]
        assert reply.offsets(b"m:shop") == list(range(8))
        assert reply.runs == [[(0, 8, 0)]]
        assert markers(store) == {T0: 8}

    def test_floors_only_rise_and_are_returned(self, store: StateStore) -> None:
        epochs = opened(store)
        given_and_returned = [(2, 2), (1, 2), (3, 3), (0, 3)]
        for start, (given_floor, floor) in enumerate(given_and_returned):
            reply = apply(store, epochs, records([start]), span(start, start + 1, given_floor))
            assert reply.floors == [floor]
        assert {position.floors[T0] for position in store.positions()} == {3}

    def test_floors_of_all_sources_are_told_when_asked(self, store: StateStore) -> None:
        epochs = opened(store, T0, T1, L0)
        first = apply(store, epochs, [Record(0, labels=True)], span(0, 4, 3, labels=True), span(0, 2, 1, partition=1))
        assert [applied.all_floors for applied in first.applied] == [{}] * store.shards
        reply = apply(store, epochs, records([0]), span(0, 5, 2), all_floors=True)
        assert [applied.all_floors for applied in reply.applied] == [{0: 2, 1: 1, 1 << 15: 3}] * store.shards

    def test_runs_that_ended_at_the_floor_are_forgotten(self, store: StateStore) -> None:
        epochs = opened(store)
        for start in range(0, 6, 2):
            apply(store, epochs, records([start, start + 1]))
        assert apply(store, epochs, records([6]), span(6, 7, 2)).runs == [[(2, 4, 2), (4, 6, 4), (6, 7, 6)]]
        assert apply(store, epochs, records([7]), span(7, 8, 5)).runs == [[(4, 6, 4), (6, 7, 6), (7, 8, 7)]]
        assert apply(store, epochs, records([8]), span(8, 9, 8)).runs == [[(8, 9, 8)]]

    def test_a_run_is_told_once_even_if_it_ends_at_the_floor(self, store: StateStore) -> None:
        """As when a worker catches up with what was committed long ago; and again, when its call is repeated."""
        epochs = opened(store)
        for _ in range(2):
            assert apply(store, epochs, records([0, 1]), span(0, 2, 9)).runs == [[(0, 2, 0)]]
        assert apply(store, epochs, records([2]), span(2, 3)).runs == [[(2, 3, 2)]]

    def test_a_batch_without_payments_moves_markers_and_floors(self, store: StateStore) -> None:
        epochs = opened(store)
        reply = apply(store, epochs, [], span(0, 5, floor=3))
        assert (reply.logs, reply.markers, reply.floors, reply.runs) == ({}, [0], [3], [[(0, 5, 0)]])
        assert markers(store) == {T0: 5}

    def test_renewing_draws_new_epochs_and_goes_on_numbering(self, store: StateStore) -> None:
        epochs = opened(store)
        apply(store, epochs, records([0, 1]))
        store.renew(epochs)
        renewed = store.positions()
        assert not {position.epoch for position in renewed} & set(epochs)
        assert renewed == [
            Position(p.epoch, {T0: 2}, {T0: 0}, {T0: 0}, (old, 2), {T0: [Run(0, 2, 0, old)]})
            for p, old in zip(renewed, epochs, strict=True)
        ]
        with pytest.raises(StateBehind):
            apply(store, epochs, records([2]))
        fresh = epochs_of(store)
        reply = apply(store, fresh, records([1, 2]))
        assert reply.offsets() == [0, 1, 2]
        for shard, applied in enumerate(reply.applied):
            assert applied.runs == [[Run(0, 2, 0, epochs[shard]), Run(2, 3, 2, fresh[shard])]]

    def test_only_the_first_of_those_who_saw_an_epoch_renews_it(self, store: StateStore) -> None:
        epochs = opened(store)
        store.renew(epochs)
        renewed = store.positions()
        store.renew(epochs)
        assert store.positions() == renewed

    def test_an_epoch_in_which_nothing_was_recorded_is_nobodys_parent(self, store: StateStore) -> None:
        epochs = opened(store)
        apply(store, epochs, records([0]))
        for _ in range(2):
            store.renew(epochs_of(store))
            assert [position.parent for position in store.positions()] == [(epoch, 1) for epoch in epochs]
        second = epochs_of(store)
        apply(store, second, records([1]))
        store.renew(second)
        assert [position.parent for position in store.positions()] == [(epoch, 2) for epoch in second]

    def test_a_replacement_is_carried_out_before_the_records_are_appended(self, store: StateStore) -> None:
        epochs = opened(store)
        apply(store, epochs, records(range(4)))
        replacement = replacing(b"c:a", 0, 3, summary_of(9))
        reply = apply(store, epochs, records([4]), replacements=[replacement])
        assert reply.sources() == [(7, 9), (0, 3), (0, 4)]
        assert reply.offsets(b"m:shop") == [0, 1, 2, 3, 4]
        assert held(store, epochs, 5).sources() == reply.sources()

    def test_a_replacement_needs_no_record_of_its_key(self, store: StateStore) -> None:
        epochs = opened(store)
        apply(store, epochs, records(range(4)))
        replacements = [replacing(key, 0, 4, summary_of(8, 9)) for key in (b"c:a", b"m:shop")]
        reply = apply(store, epochs, [Record(4, "b", "kiosk")], replacements=replacements)
        assert set(reply.logs) == {b"c:b", b"m:kiosk"}
        assert held(store, epochs, 5).sources() == held(store, epochs, 5).sources(b"m:shop") == [(7, 8), (7, 9)]

    def test_the_same_replacement_a_second_time_does_nothing(self, store: StateStore) -> None:
        epochs = opened(store)
        apply(store, epochs, records(range(4)))
        replacement = replacing(b"c:a", 0, 3, summary_of(9))
        for _ in range(2):
            apply(store, epochs, records([]), span(4, 4), replacements=[replacement])
        assert held(store, epochs, 4).sources() == [(7, 9), (0, 3)]

    def test_a_log_that_begins_otherwise_is_not_replaced(self, store: StateStore) -> None:
        epochs = opened(store)
        apply(store, epochs, records(range(4)))
        replacement = replacing(b"c:a", 1, 3, summary_of(9))
        apply(store, epochs, [], span(4, 4), replacements=[replacement])
        assert held(store, epochs, 4).offsets() == [0, 1, 2, 3]

    def test_a_log_that_grew_meanwhile_keeps_its_tail(self, store: StateStore) -> None:
        epochs = opened(store)
        apply(store, epochs, records(range(4)))
        replacement = replacing(b"c:a", 0, 4, summary_of(9))
        apply(store, epochs, records([4, 5]))
        reply = apply(store, epochs, records([6]), replacements=[replacement])
        assert reply.sources() == [(7, 9), (0, 4), (0, 5), (0, 6)]

    def test_a_log_that_is_shorter_or_gone_is_not_replaced(self, store: StateStore) -> None:
        epochs = opened(store)
        apply(store, epochs, records(range(2)))
        replacements = [replacing(b"c:a", 0, 3, summary_of(9)), replacing(b"c:z", 0, 1, summary_of(9))]
        apply(store, epochs, [], span(2, 2), replacements=replacements)
        assert held(store, epochs, 2).offsets() == [0, 1]
        assert held(store, epochs, 2, Record(0, "z")).offsets(b"c:z") == []

    def test_a_refused_call_replaces_nothing(self, store: StateStore) -> None:
        epochs = opened(store)
        apply(store, epochs, records(range(4)))
        with pytest.raises(StateBehind):
            apply(store, epochs, records([9]), replacements=[replacing(b"c:a", 0, 3, summary_of(9))])
        assert held(store, epochs, 4).offsets() == [0, 1, 2, 3]

    def test_a_replacement_and_a_batch_of_which_a_part_was_applied_go_together(self, store: StateStore) -> None:
        epochs = opened(store)
        apply(store, epochs, records(range(4)))
        reply = apply(store, epochs, records([3, 4]), replacements=[replacing(b"c:a", 0, 3, summary_of(9))])
        assert reply.sources() == [(7, 9), (0, 3), (0, 4)]
        assert reply.offsets(b"m:shop") == [0, 1, 2, 3, 4]

    def test_keys_that_are_gone_can_be_refreshed(self, store: StateStore) -> None:
        epochs = opened(store)
        reply = apply(store, epochs, records([0]), refresh=[b"c:a", b"c:z"])
        assert reply.offsets() == [0]
        assert held(store, epochs, 1, Record(0, "z")).offsets(b"c:z") == []

    def test_a_reset_forgets_logs_markers_floors_and_numbers(self, store: StateStore) -> None:
        epochs = opened(store, T0, L0)
        apply(store, epochs, records([0, 1]), span(0, 2, floor=2))
        store.renew(epochs)
        old = epochs_of(store)
        store.reset({T0: 5})
        positions = store.positions()
        assert not {position.epoch for position in positions} & {*old, *epochs}
        assert all(position.markers == position.begun == {T0: 5} for position in positions)
        assert all(position.floors == {} and position.parent is None for position in positions)
        reply = apply(store, epochs_of(store), records([5]), span(5, 6))
        assert reply.offsets() == reply.offsets(b"m:shop") == [5]
        assert reply.runs == [[(5, 6, 0)]]

    def test_whoever_knew_a_store_before_its_reset_is_refused(self, store: StateStore) -> None:
        epochs = opened(store)
        store.reset({T0: 0})
        with pytest.raises(StateBehind):
            apply(store, epochs, records([0]))
        assert apply(store, epochs_of(store), records([0])).offsets() == [0]
