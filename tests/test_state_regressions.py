"""State that went back in time, in a part of its shards or in all; records that are missing; labels and their turns."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from copy import deepcopy
from itertools import product
from typing import NoReturn

import numpy as np
import pytest

from consumer.loop import RECOVERY_SLICE_S
from consumer.records import JournalEntry
from consumer.state import CHUNK, RETRY_S
from features.catalog import DEFAULT
from features.enrich import shard_of
from features.errors import StateAhead, StoreUnsuitable
from features.event import LAYOUT_VERSION
from features.redis_store import RedisStore
from features.store import MemoryStore, Source
from tests.poison import VALID
from tests.services.redis import RedisServer
from tests.support.doubles import Flaky, Partition
from tests.support.rig import L0, LONG_S, P0, P1, P2, PATIENCE_S, Rig, labels, same, values

SHARDS = pytest.mark.parametrize("shards", [1, 3])
REGRESSIONS = "fraudline_state_regressions_total"


def memory(rig: Rig) -> MemoryStore:
    assert isinstance(rig.store, MemoryStore)
    return rig.store


def restore(rig: Rig, copy: MemoryStore) -> None:
    """Put an older copy back behind everyone's back."""
    memory(rig)._shards = deepcopy(copy)._shards


def lose(rig: Rig, shard: int) -> None:
    """Lose one shard, as a node of a cluster does."""
    memory(rig)._shards[shard] = MemoryStore()._shards[0]


def descents(journal: Iterable[JournalEntry]) -> list[tuple[int, int, int, int | None, int | None]]:
    return [
        (each.shard, each.epoch, each.sequence, each.parent_epoch, each.parent_sequence)
        for each in journal
        if each.count == 0
    ]


@SHARDS
def test_an_older_copy_is_caught_up_with_in_new_epochs(shards: int) -> None:
    rig, control = Rig([1_000], MemoryStore(shards)), Rig([1_000])
    for start in range(0, 600, 100):
        if start == 300:
            copy = deepcopy(memory(rig))
        same(rig.decide(0, start, start + 100), control.decide(0, start, start + 100))
    before = rig.epochs()
    restore(rig, copy)
    same(rig.decide(0, 600, 700), control.decide(0, 600, 700))
    after = rig.epochs()
    assert not set(before) & set(after)
    assert rig.markers() == {P0: 700}
    assert rig.log.reads == [(P0, 300, 600, CHUNK), (P0, 300 + CHUNK, 600, CHUNK)]
    assert descents(rig.journal) == [(shard, after[shard], 300, before[shard], 300) for shard in range(shards)]
    assert rig.journal[:shards] == [each for each in rig.journal if each.count == 0]  # before anything else
    again = [each for each in rig.journal if each.count and each.epoch in before]
    assert [(each.shard, each.offset, each.count) for each in again] == [(shard, 200, 100) for shard in range(shards)]
    assert {each.epoch for each in rig.journal if each not in again} == set(after)
    assert min(each.sequence for each in rig.journal if each.count and each not in again) == 300
    assert rig.count(REGRESSIONS) == 1


@SHARDS
def test_only_the_first_worker_to_notice_renews_and_the_others_follow(shards: int) -> None:
    rig = Rig([400, 400, 400], MemoryStore(shards))
    workers = [rig.keeper, rig.another(), rig.another()]
    for number, keeper in enumerate(workers):
        assert rig.decide(number, 0, 50, keeper=keeper) is not None
    copy = deepcopy(memory(rig))
    for number, keeper in enumerate(workers):
        assert rig.decide(number, 50, 100, keeper=keeper) is not None
    before = rig.epochs()
    restore(rig, copy)
    seen = []
    for turn in range(3):
        for number, keeper in enumerate(workers):
            assert rig.decide(number, 100 + 50 * turn, 150 + 50 * turn, keeper=keeper) is not None
            seen.append(rig.epochs())
    assert seen == [seen[0]] * 9
    assert not set(seen[0]) & set(before)
    told = [(shard, seen[0][shard], 150, before[shard], 150) for shard in range(shards)]
    assert descents(rig.journal) == told * 3  # each worker tells what it has come to know
    assert rig.markers() == {P0: 250, P1: 250, P2: 250}


def test_workers_that_notice_at_once_come_to_agree() -> None:
    """All have looked at the same epoch before the first renews it."""
    rig = Rig([400, 400])
    other = rig.another()
    for number, keeper in enumerate((rig.keeper, other)):
        rig.decide(number, 0, 50, keeper=keeper)
    copy = deepcopy(memory(rig))
    rig.decide(0, 50, 100)
    rig.decide(1, 50, 100, keeper=other)
    restore(rig, copy)

    def interleave() -> None:
        if rig.log.surveys == 2:  # the first worker is about to survey
            rig.log.tick = lambda: None
            assert rig.decide(1, 100, 150, keeper=other) is not None

    rig.log.tick = interleave
    rig.log.surveys = 2
    assert rig.decide(0, 100, 150) is not None
    epochs = rig.epochs()
    for start in (150, 200):
        rig.decide(0, start, start + 50)
        rig.decide(1, start, start + 50, keeper=other)
    assert rig.epochs() == epochs
    assert rig.markers() == {P0: 250, P1: 250}


def test_a_worker_follows_one_that_is_still_catching_up() -> None:
    """What it finds is behind, and yet it must not renew what another has just renewed."""
    rig = Rig([900, 400])
    other = rig.another()
    rig.decide(0, 0, 100)
    rig.decide(1, 0, 50, keeper=other)
    copy = deepcopy(memory(rig))
    rig.decide(0, 100, 800)
    restore(rig, copy)
    rig.log.most = 50

    def take_time() -> None:
        rig.clock.now_s += 0.03

    rig.log.tick = take_time
    assert rig.enrich(0, 800, 900) is None
    epochs = rig.epochs()
    assert rig.enrich(1, 50, 100, keeper=other) is None
    assert rig.epochs() == epochs
    rig.log.tick = lambda: None
    assert rig.decide(1, 50, 100, keeper=other) is not None
    assert rig.decide(0, 800, 900) is not None
    assert rig.epochs() == epochs


def test_a_doubt_renews_the_epochs_once_however_often_it_is_looked_into() -> None:
    store = Flaky()
    rig = Rig([1_000], store)
    rig.decide(0, 0, 100)
    copy = deepcopy(store.inner)
    rig.decide(0, 100, 900)
    store.inner = copy
    rig.log.most = 100
    epochs = set()
    failing = iter([0, 0, 0, 1] * 3)

    def fail_now_and_then() -> None:
        epochs.add(tuple(position.epoch for position in copy.positions()))
        store.failures = next(failing, 0)

    rig.log.tick = fail_now_and_then
    for _ in range(10):
        if rig.enrich(0, 900, 1_000) is not None:
            break
        rig.clock.now_s += RETRY_S[-1]
    assert rig.log.surveys > 2
    assert len(epochs) == 2
    assert rig.markers() == {P0: 1_000}


@SHARDS
def test_a_lost_state_is_begun_anew_and_nothing_is_renewed(shards: int) -> None:
    rig = Rig([300], MemoryStore(shards))
    rig.decide(0, 0, 200)
    memory(rig).flush()
    fresh = rig.epochs()
    assert rig.decide(0, 200, 300) is not None
    assert rig.epochs() == fresh
    assert descents(rig.journal) == []


def test_one_lost_shard_is_rebuilt_and_the_others_are_not_applied_twice() -> None:
    known = labels(3, 20, 40, 3)
    rig, control = Rig([500], MemoryStore(3), known), Rig([500], labels=known)
    for start, seen in ((0, (0, 4)), (200, (0, 0))):
        expected = control.decide(0, start, start + 200, labelled=seen)
        same(rig.decide(0, start, start + 200, labelled=seen), expected)
    for shard in range(3):
        lose(rig, shard)
        keeper = rig.another()
        assert keeper.recover(LONG_S)
        assert rig.markers() == {P0: 400, L0: 4}
    same(rig.decide(0, 400, 500), control.decide(0, 400, 500))
    assert rig.count(REGRESSIONS) == 0  # it was all repaired before this worker noticed


def test_a_lost_shard_costs_the_others_no_epoch() -> None:
    rig = Rig([300], MemoryStore(3))
    rig.decide(0, 0, 200)
    before = rig.epochs()
    lose(rig, 1)
    assert rig.decide(0, 200, 300) is not None
    after = rig.epochs()
    assert [old == new for old, new in zip(before, after, strict=True)] == [True, False, True]


@SHARDS
def test_what_was_applied_before_its_reply_was_lost_is_journaled_all_the_same(shards: int) -> None:
    """Catching up tells the store that what it applies is committed; the store must not forget the run for that."""
    store = Flaky(MemoryStore(shards))
    rig = Rig([600], store=store)
    rig.part(0).committed = 600

    def forget_once() -> None:
        if len(rig.log.reads) == 2 and rig.log.surveys == 1:
            store.forgets = 1

    rig.log.tick = forget_once
    assert rig.keeper.recover(LONG_S)
    touched = {each.shard for each in rig.journal}
    assert len(touched) == shards
    for shard in touched:
        told = [(each.offset, each.count, each.sequence) for each in rig.journal if each.shard == shard]
        assert told == [(0, CHUNK, 0), (CHUNK, CHUNK, CHUNK), (2 * CHUNK, 600 - 2 * CHUNK, 2 * CHUNK)]


@SHARDS
def test_what_a_worker_that_was_killed_did_not_tell_is_told_by_the_next(shards: int) -> None:
    """Each dies with a chunk in the state; nothing is behind any more when the last one does."""

    class Killed(BaseException): ...

    def kill(_step: str) -> NoReturn:
        raise Killed

    rig = Rig([600], MemoryStore(shards))
    rig.part(0).committed = 600
    for _ in range(0, 600, CHUNK):
        with pytest.raises(Killed):
            rig.another(kill).recover(LONG_S)
    assert rig.another().recover(LONG_S)
    for shard in range(shards):
        told = [each for each in rig.journal if each.shard == shard and each.count]
        assert {each.offset - each.sequence for each in told} == {0}
        assert {at for each in told for at in range(each.offset, each.offset + each.count)} == set(range(600))


@SHARDS
def test_a_call_that_only_some_shards_carried_out_is_completed(shards: int) -> None:
    """Between two shards a worker may die."""
    rig, control = Rig([300], MemoryStore(shards)), Rig([300])
    same(rig.decide(0, 0, 100), control.decide(0, 0, 100))
    last = memory(rig)._shards[-1]
    kept = deepcopy(last)
    assert rig.enrich(0, 100, 150) is not None  # never committed
    memory(rig)._shards[-1] = kept
    fresh = rig.another()
    same(rig.decide(0, 100, 200, keeper=fresh), control.decide(0, 100, 200))
    same(rig.decide(0, 200, 300, keeper=fresh), control.decide(0, 200, 300))
    assert rig.markers() == {P0: 300}
    assert rig.log.reads == []  # nothing was committed, so there was nothing to catch up with
    assert set(rig.runs()) == {(P0, 0, 100)}  # what was recorded last is told again


def test_a_missing_record_that_catching_up_cannot_bring_back_stops_the_worker() -> None:
    """Someone has deleted a log whose newest record is applied and not committed."""
    rig = Rig([100])
    rig.decide(0, 0, 50)
    assert rig.enrich(0, 50, 60) is not None
    gone = b"c:tok_0"
    del memory(rig)._shards[0].logs[gone]
    epochs = rig.epochs()
    with pytest.raises(StoreUnsuitable) as caught:
        rig.enrich(0, 50, 60)
    assert str(caught.value) == (
        "the card log has lost the record of payments/0 offset 50, which is not committed: the state went back in "
        "time, and catching up did not bring it back: build the state anew with fraudline state rebuild"
    )
    assert rig.log.surveys == 1 + 2
    assert len(descents(rig.journal)) == 1  # it may have been a copy that was put back
    assert rig.epochs() != epochs
    assert rig.count(REGRESSIONS) == 2


def test_a_missing_record_that_others_bring_back_stops_nobody() -> None:
    rig = Rig([100])
    rig.decide(0, 0, 50)
    assert rig.enrich(0, 50, 60) is not None
    logs = memory(rig)._shards[0].logs

    def bring_back() -> None:
        if rig.log.surveys % 2 == 0:
            logs[b"c:tok_0"] = kept

    rig.log.tick = bring_back
    for surveys in (3, 5):
        kept = logs.pop(b"c:tok_0")
        assert rig.enrich(0, 50, 60) is not None
        assert rig.log.surveys == surveys
    assert rig.decide(0, 60, 70) is not None


def test_others_that_renew_again_and_again_stop_nobody() -> None:
    """The complaint is the same each time, but it is not about a record."""
    rig = Rig([100])
    rig.decide(0, 0, 50)
    times = 0
    enrich = rig.keeper._enricher.enrich

    class Disturbed(type(rig.keeper._enricher)):  # type: ignore[misc]  # a class made of a value
        def enrich(self, *arguments: object) -> object:
            nonlocal times
            if times < 6:
                times += 1
                rig.store.renew(rig.epochs())
            return enrich(*arguments)  # type: ignore[arg-type]

    rig.keeper._enricher.__class__ = Disturbed
    assert rig.decide(0, 50, 60) is not None
    assert times == 6
    assert rig.count(REGRESSIONS) == 0


@pytest.mark.parametrize("shard", range(3))
def test_a_single_shard_that_is_ahead_of_the_log_is_refused(shard: int) -> None:
    store = MemoryStore(3)
    rig = Rig([50], store)
    store._shards[shard].markers[P0] = 51
    with pytest.raises(StateAhead, match="the log ends at 50: the topic was recreated"):
        rig.keeper.recover(LONG_S)


@pytest.mark.parametrize("shard", range(3))
def test_a_single_shard_that_knows_more_as_decided_than_the_group_is_refused(shard: int) -> None:
    rig = Rig([50], MemoryStore(3))
    rig.decide(0, 0, 40)
    memory(rig)._shards[shard].floors[P0] = 41
    with pytest.raises(StateAhead, match="as decided up to 41 but the group stands at 40: its offsets were reset"):
        rig.another().recover(LONG_S)


def test_a_worker_that_has_run_ahead_of_its_group_gets_nothing_and_stops_nobody() -> None:
    rig = Rig([100])
    rig.decide(0, 0, 10)

    def take_time() -> None:
        rig.clock.now_s += 0.01

    rig.log.tick = take_time
    assert rig.enrich(0, 20, 30) is None
    assert rig.log.surveys > 4
    assert rig.decide(0, 10, 20) is not None


@SHARDS
def test_labels_are_caught_up_too(shards: int) -> None:
    def lived(rig: Rig) -> Rig:
        rig.decide(0, 0, 50, labelled=(0, 3))
        rig.decide(0, 50, 100, labelled=(3, 4))
        return rig

    known = labels(1, 2, 7, 4)
    rig, control = lived(Rig([200], MemoryStore(shards), known)), lived(Rig([200], MemoryStore(shards), known))
    memory(rig).flush()
    enriched, expected = rig.decide(0, 100, 200), control.decide(0, 100, 200)
    assert rig.markers() == {P0: 200, L0: 4}
    assert [source for source, *_ in rig.log.reads] == [L0, P0]
    assert enriched is not None
    assert expected is not None
    column = DEFAULT.names.index("merchant_frauds_30d")
    np.testing.assert_array_equal(enriched.values[:, column], expected.values[:, column])
    assert {source for source, _, _ in rig.runs()} == {P0, L0}


def test_partitions_are_caught_up_in_the_order_of_time() -> None:
    """Else all the newest payments of a shared merchant would be those of the partition that comes last."""
    rig = Rig([0, 0], labels=labels(0, 1, 2))
    minutes: dict[Source, list[int]] = {P0: [10, 20, 70, 80, 90, 100], P1: [30, 40, 50, 60], L0: [20, 60, 60]}
    for source, stamps in minutes.items():
        held = rig.log.partitions[source] = Partition()
        records = labels(0, 1, 2) if source == L0 else values(len(stamps))
        held.add(*records, at_ms=[VALID["event_time"] + 60_000 * minute for minute in stamps])
        held.committed = held.high
    rig.log.most = 2
    assert rig.keeper.recover(LONG_S)
    reads = [(source[0] if source == L0 else source[1], start) for source, start, _, _ in rig.log.reads]
    # what was read last then: labels 60; 0: 20; 1: 40; 0: 80; 1: 60 and at its end; labels before 0
    assert reads == [("labels", 0), (0, 0), (1, 0), (0, 2), (1, 2), ("labels", 2), (0, 4)]


def test_a_state_that_is_lost_again_is_caught_up_from_the_beginning_of_time() -> None:
    rig = Rig([4, 4])
    for partition in range(2):
        held = rig.part(partition)
        held.times_ms = {offset: VALID["event_time"] + 1_000_000 * (1 + offset) for offset in range(4)}
        held.committed = 4
    rig.log.most = 2

    def flush_once() -> None:
        if len(rig.log.reads) == 1:
            memory(rig).flush()
            rig.log.tick = lambda: None

    rig.log.tick = flush_once
    assert rig.keeper.recover(LONG_S)
    assert [(source, start) for source, start, *_ in rig.log.reads] == [
        (P0, 0), (P1, 0), (P0, 0), (P1, 0), (P0, 2), (P1, 2),
    ]  # fmt: skip


def test_records_without_timestamps_are_caught_up_all_the_same() -> None:
    rig = Rig([10, 600])
    rig.part(0).committed, rig.part(1).committed = 10, 600
    assert rig.keeper.recover(LONG_S)
    assert rig.markers() == {P0: 10, P1: 600}


def test_a_log_that_was_deleted_from_redis_stops_the_worker(redis_server: RedisServer, unique: str) -> None:
    key = b"m:m-0"
    with closing(RedisStore(redis_server.url, namespace=unique, timeout_ms=1_000, shards=3)) as store:
        rig = Rig([100], store)
        rig.decide(0, 0, 50)
        assert rig.enrich(0, 50, 60) is not None
        with redis_server.client() as client:
            assert client.delete(f"{unique}:{LAYOUT_VERSION}:{{s{shard_of(key, 3)}}}:".encode() + key) == 1
        with pytest.raises(StoreUnsuitable, match="the merchant log has lost the record of payments/0 offset 51"):
            rig.enrich(0, 50, 60)


def test_a_redis_that_was_started_from_an_older_file_gets_new_epochs(redis_server: RedisServer, unique: str) -> None:
    """Nothing that is committed is missing, so that no marker tells: only that another process holds the state."""
    with closing(RedisStore(redis_server.url, namespace=unique, timeout_ms=1_000)) as store:
        rig = Rig([100, 100], store)
        rig.decide(0, 0, 50)
        before = rig.epochs()
        with redis_server.client() as client:
            copy = {key: client.dump(key) for key in client.scan_iter(f"{unique}:*")}
        in_flight = rig.enrich(0, 50, 60)
        redis_server.persist()
        redis_server.kill()
        redis_server.restart()
        with redis_server.client() as client:
            for key, value in copy.items():
                client.restore(key, 0, value, replace=True)
        new = rig.decide(1, 0, 10)
    assert in_flight is not None
    assert new is not None
    assert set(in_flight.sequence) == set(new.sequence)
    assert set(in_flight.epoch) == set(before)
    assert not set(new.epoch) & set(before)
    assert descents(rig.journal) == [(0, int(new.epoch[0]), 50, before[0], 50)]
    assert rig.count(REGRESSIONS) == 0


@pytest.mark.parametrize(("partitions", "workers"), [(8, 2), (6, 3)])
def test_workers_that_go_on_deciding_while_they_catch_up_come_to_have_features_again(
    partitions: int, workers: int
) -> None:
    """A look at the log takes longer than a slice and than a batch's patience, and all lose the state at once.

    What each decides between two slices lies above its markers: were that all that it ever saw, they would go on
    doubting the state, and renewing each other's epochs, for as long as payments come.
    """
    rig = Rig([2_000] * partitions)
    keepers = [rig.keeper, *(rig.another() for _ in range(workers - 1))]
    reached = [0] * partitions

    def turn(number: int, worker: int) -> bool:
        own = range(worker, partitions, workers)
        part = own[number % len(own)]
        if not keepers[worker].ready:
            keepers[worker].recover(rig.clock() + RECOVERY_SLICE_S)
        start, reached[part] = reached[part], reached[part] + 5
        return rig.decide(part, start, start + 5, keeper=keepers[worker]) is not None

    for number, worker in product(range(20), range(workers)):
        assert turn(number, worker)
    memory(rig).flush()

    def take_time() -> None:
        rig.clock.now_s += PATIENCE_S + 0.02

    rig.log.tick = take_time
    had = [turn(number, worker) for number, worker in product(range(100), range(workers))]
    assert all(had[-50 * workers :])
    assert not all(had[:workers])
