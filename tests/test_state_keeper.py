"""The state keeper: features only while the state is in step with the log, and back in step after any outage."""

from __future__ import annotations

import pytest

from consumer.state import CHUNK, RETRY_S
from features.catalog import DEFAULT
from features.errors import StateAhead, StoreUnsuitable
from features.redis_store import RedisStore
from features.store import MemoryStore
from tests.services.redis import RedisServer
from tests.support.doubles import PAYMENTS, Flaky, Partition
from tests.support.rig import LONG_S, P0, P1, P2, Rig, same, values


def memory(rig: Rig) -> MemoryStore:
    assert isinstance(rig.store, MemoryStore)
    return rig.store


def test_a_cold_start_begins_where_the_log_does_and_reads_nothing() -> None:
    rig = Rig([10, 0])
    rig.part(0).low = 4
    assert not rig.keeper.ready
    assert rig.keeper.recover(rig.clock())
    assert rig.markers() == {P0: 4, P1: 0}
    assert rig.log.reads == []
    assert rig.decide(0, 4, 10) is not None
    assert rig.count("fraudline_store_up") == 1


def test_enrich_recovers_by_itself_when_nobody_did() -> None:
    rig = Rig([10])
    assert rig.decide(0, 0, 10) is not None
    assert rig.keeper.ready


def test_a_lost_state_is_rebuilt_from_the_log_before_features_are_used_again() -> None:
    rig, control = Rig([1_000]), Rig([1_000])
    for start in range(0, 600, 100):
        same(rig.decide(0, start, start + 100), control.decide(0, start, start + 100))
    memory(rig).flush()
    same(rig.decide(0, 600, 700), control.decide(0, 600, 700))
    assert rig.markers() == {P0: 700}
    assert rig.count("fraudline_state_regressions_total") == 1
    assert rig.count("fraudline_state_caught_up_records_total") == 600
    assert [read[1] for read in rig.log.reads] == [0, CHUNK, 2 * CHUNK]
    assert rig.journal[-1].parent_epoch is None  # a lost state has no parent
    same(rig.decide(0, 700, 1_000), control.decide(0, 700, 1_000))


def test_what_was_caught_up_is_journaled_in_the_order_of_the_new_state() -> None:
    rig = Rig([600])
    for start in range(0, 600, 100):
        rig.decide(0, start, start + 100)
    assert rig.journal == []  # decided payments are journaled with their decisions
    memory(rig).flush()
    assert rig.another().recover(LONG_S)
    runs = [(entry.partition, entry.offset, entry.count, entry.sequence) for entry in rig.journal]
    assert runs == [(0, 0, CHUNK, 0), (0, CHUNK, CHUNK, CHUNK), (0, 2 * CHUNK, 600 - 2 * CHUNK, 2 * CHUNK)]
    assert {entry.epoch for entry in rig.journal} == set(rig.epochs())
    assert {entry.topic for entry in rig.journal} == {PAYMENTS}


def test_partitions_of_other_workers_are_caught_up_too_before_the_state_is_trusted() -> None:
    """Entities are shared: features of a payment need every partition of the topic."""
    rig = Rig([50, 70, 30])
    rig.part(0).committed, rig.part(1).committed = 50, 60
    enriched = rig.decide(2, 0, 30)
    assert enriched is not None
    assert rig.markers() == {P0: 50, P1: 60, P2: 30}
    names = dict(zip(DEFAULT.names, enriched.values[0].tolist(), strict=True))
    assert names["merchant_count_7d"] > 1  # of the other partitions' payments


def test_what_others_commit_meanwhile_is_caught_up_as_well() -> None:
    rig = Rig([100, 100])
    rig.part(0).committed = 100

    def meanwhile() -> None:
        if rig.log.reads:
            rig.part(1).committed = 40

    rig.log.tick = meanwhile
    assert rig.keeper.recover(LONG_S)
    assert rig.markers() == {P0: 100, P1: 40}


def test_a_new_partition_is_adopted_at_its_beginning() -> None:
    rig = Rig([10])
    rig.decide(0, 0, 10)
    rig.log.partitions[P1] = Partition()
    rig.part(1).add(*values(5, 10_000))
    assert rig.decide(1, 0, 5) is not None
    assert rig.markers() == {P0: 10, P1: 5}


def test_a_marker_above_the_end_of_the_log_is_a_recreated_topic() -> None:
    rig = Rig([5])
    rig.store.adopt({P0: 9})
    with pytest.raises(StateAhead, match="payments/0 up to offset 9 but the log ends at 5: the topic was recreated"):
        rig.keeper.recover(LONG_S)
    assert not rig.keeper.ready


def test_history_that_kafka_no_longer_holds_is_refused() -> None:
    rig = Rig([50])
    rig.store.adopt({P0: 10})
    rig.part(0).low, rig.part(0).committed = 20, 40
    with pytest.raises(StoreUnsuitable, match="ends at offset 10 but Kafka holds it from 20 only"):
        rig.keeper.recover(LONG_S)
    assert rig.markers() == {P0: 10}


def test_history_that_kafka_no_longer_holds_can_be_done_without() -> None:
    rig = Rig([50], allow_cold_state=True)
    rig.store.adopt({P0: 10})
    rig.part(0).low, rig.part(0).committed = 20, 40
    assert rig.keeper.recover(LONG_S)
    assert rig.markers() == {P0: 40}
    assert rig.log.reads == [(P0, 20, 40, CHUNK)]


def test_a_gap_above_everything_that_was_decided_is_no_loss_of_state() -> None:
    rig = Rig([50])
    rig.store.adopt({P0: 10})
    rig.part(0).low, rig.part(0).committed = 20, 10
    assert rig.keeper.recover(LONG_S)
    assert rig.markers() == {P0: 20}


def test_holes_and_damaged_records_are_passed() -> None:
    rig = Rig([0])
    good = values(4)
    rig.part(0).add(None, good[0], b"not JSON", None, good[1], None, None)
    rig.part(0).committed = 7
    assert rig.keeper.recover(LONG_S)
    assert rig.markers() == {P0: 7}
    assert rig.runs() == [(P0, 0, 7)]  # holes have numbers too


def test_a_slice_of_recovery_ends_with_its_time() -> None:
    """Each question to the log takes 10 ms here: no slice asks more than its time allows, and one more."""
    rig = Rig([2_000])
    rig.part(0).committed = 2_000
    rig.log.most = 50

    def take_time() -> None:
        rig.clock.now_s += 0.01

    rig.log.tick = take_time
    slices = 0
    while not rig.keeper.recover(rig.clock() + 0.045):
        assert len(rig.log.reads) + rig.log.surveys <= 5 * (slices + 1)
        slices += 1
    assert len(rig.log.reads) == 40
    assert slices == 8
    assert rig.markers() == {P0: 2_000}


def test_enrich_gives_up_when_catching_up_takes_longer_than_its_patience() -> None:
    rig = Rig([1_000])
    rig.part(0).committed = 900
    rig.log.most = 50

    def take_time() -> None:
        rig.clock.now_s += 0.03

    rig.log.tick = take_time
    assert rig.enrich(0, 900, 1_000) is None
    assert len(rig.log.reads) == 2
    assert rig.markers() == {P0: 100}
    assert rig.keeper.recover(LONG_S)
    assert rig.enrich(0, 900, 1_000) is not None


def test_one_lost_call_is_repeated_at_once() -> None:
    store = Flaky()
    rig = Rig([20], store=store)
    rig.decide(0, 0, 10)
    store.failures = 1
    assert rig.decide(0, 10, 20) is not None
    assert store.applied == 2
    assert rig.keeper.ready
    assert rig.count("fraudline_store_up") == 1


def test_a_store_that_is_away_is_asked_again_after_a_while_and_not_before() -> None:
    store = Flaky()
    rig = Rig([30], store=store)
    rig.decide(0, 0, 10)
    store.failures = 1_000
    assert rig.decide(0, 10, 20) is None  # decided without features, and committed
    assert rig.count("fraudline_store_up") == 0
    asked = 1_000 - store.failures
    assert asked == 2  # the call, and once more
    assert not rig.keeper.recover(rig.clock() + 1.0)
    assert 1_000 - store.failures == asked
    for wait_s in RETRY_S[1:-1]:
        rig.clock.now_s += wait_s
        before = store.failures
        assert not rig.keeper.recover(rig.clock() + 1.0)
        assert store.failures == before - 1
    store.failures = 0
    rig.clock.now_s += RETRY_S[-1]
    assert rig.keeper.recover(rig.clock() + 1.0)
    assert rig.markers() == {P0: 20}
    assert rig.runs() == [(P0, 0, 10), (P0, 10, 10)]  # what was recorded last is told again
    assert rig.count("fraudline_store_up") == 1


def test_a_store_that_fails_in_the_middle_of_catching_up_goes_on_from_its_marker() -> None:
    store = Flaky()
    rig = Rig([1_000], store=store)
    rig.part(0).committed = 1_000

    def fail_once() -> None:
        if len(rig.log.reads) == 2 and rig.log.surveys == 1:
            store.failures = 1

    rig.log.tick = fail_once
    assert rig.keeper.recover(LONG_S)
    assert [read[1] for read in rig.log.reads] == [0, CHUNK, 2 * CHUNK, 2 * CHUNK, 3 * CHUNK]
    assert [count for _, _, count in rig.runs()] == [CHUNK, CHUNK, CHUNK, 1_000 - 3 * CHUNK]


def test_a_log_that_is_away_delays_trust() -> None:
    rig = Rig([10])
    rig.log.available = False
    assert rig.enrich(0, 0, 10) is None
    rig.log.available = True
    rig.clock.now_s += RETRY_S[-1]
    assert rig.enrich(0, 0, 10) is not None


def test_two_workers_may_catch_up_at_once() -> None:
    rig = Rig([500])
    rig.part(0).committed = 500
    other = rig.another()

    def interleave() -> None:
        if len(rig.log.reads) == 1:
            rig.log.tick = lambda: None
            other.recover(LONG_S)

    rig.log.tick = interleave
    assert rig.keeper.recover(LONG_S)
    assert other.ready
    assert rig.markers() == {P0: 500}
    control = Rig([500])
    control.part(0).committed = 500
    control.keeper.recover(LONG_S)
    rig.part(0).add(*values(10, 500))
    control.part(0).add(*values(10, 500))
    same(rig.decide(0, 500, 510), control.decide(0, 500, 510))


class TestRedis:
    """The same on a real Redis that is killed, stalled and flushed."""

    @pytest.fixture(params=[1, 3])
    def rig(self, redis_server: RedisServer, unique: str, request: pytest.FixtureRequest) -> Rig:
        store = RedisStore(redis_server.url, namespace=unique, timeout_ms=1_000, shards=request.param)
        rig = Rig([300, 50], store=store)
        assert rig.decide(0, 0, 100) is not None
        assert rig.decide(1, 0, 50) is not None
        return rig

    def test_a_restart_that_lost_nothing_costs_no_payment_its_features(
        self, rig: Rig, redis_server: RedisServer
    ) -> None:
        redis_server.persist()
        redis_server.kill()
        redis_server.restart()
        assert rig.decide(0, 100, 200) is not None
        assert rig.log.reads == []
        assert rig.count("fraudline_state_regressions_total") == 0

    def test_payments_decided_while_it_was_stalled_are_caught_up(self, rig: Rig, redis_server: RedisServer) -> None:
        redis_server.pause()
        assert rig.decide(0, 100, 200) is None
        redis_server.resume()
        rig.clock.now_s += RETRY_S[-1]
        control = Rig([300, 50])
        for part in ((0, 0, 100), (1, 0, 50), (0, 100, 200)):
            control.decide(*part)
        same(rig.decide(0, 200, 300), control.decide(0, 200, 300))
        assert rig.markers() == {P0: 300, P1: 50}

    def test_payments_decided_while_it_was_gone_are_caught_up(self, rig: Rig, redis_server: RedisServer) -> None:
        redis_server.persist()
        redis_server.kill()
        assert rig.decide(0, 100, 200) is None
        redis_server.restart()
        rig.clock.now_s += RETRY_S[-1]
        assert rig.keeper.recover(rig.clock() + 1.0)
        assert rig.markers() == {P0: 200, P1: 50}
        assert set(rig.runs()) == {(P0, 0, 100), (P1, 0, 50), (P0, 100, 100)}  # what was recorded last is told again

    def test_a_flush_is_noticed_and_everything_rebuilt(self, rig: Rig, redis_server: RedisServer) -> None:
        redis_server.flush()
        control = Rig([300, 50])
        for part in ((0, 0, 100), (1, 0, 50)):
            control.decide(*part)
        same(rig.decide(0, 100, 200), control.decide(0, 100, 200))
        assert rig.markers() == {P0: 200, P1: 50}
        assert rig.count("fraudline_state_regressions_total") == 1
