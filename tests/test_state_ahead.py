"""The store works on the next batch while one is decided: the same features, whatever becomes of either."""

from __future__ import annotations

from dataclasses import replace

import pytest

from features.catalog import DEFAULT
from features.enrich import Enriched, Sent
from features.store import MemoryStore
from tests.support.doubles import Flaky
from tests.support.rig import P0, PATIENCE_S, Rig, same

REGRESSIONS = "fraudline_state_regressions_total"
SHARDS = pytest.mark.parametrize("shards", [1, 3])


def send(rig: Rig, start: int, end: int) -> Sent | None:
    """Behind what is being decided: nothing of it is committed yet."""
    batch, spans, labels = rig.batch(0, start, end)
    return rig.keeper.send(batch, spans, labels)


@pytest.fixture(params=[False, True], ids=["taken when due", "looked at before"])
def looked(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def receive(rig: Rig, start: int, end: int, sent: Sent | None) -> Enriched | None:
    batch, spans, labels = rig.batch(0, start, end)
    return rig.keeper.enrich(batch, spans, PATIENCE_S, labels, sent)


@SHARDS
def test_features_are_those_of_one_batch_after_the_other(shards: int, looked: bool) -> None:
    rig, control = Rig([400], MemoryStore(shards)), Rig([400])
    same(rig.enrich(0, 0, 100), control.decide(0, 0, 100))
    for start in (100, 200, 300):
        sent = send(rig, start, start + 100)
        assert sent is not None
        if looked:
            sent.look()
        rig.part(0).committed = start
        same(receive(rig, start, start + 100, sent), control.decide(0, start, start + 100))
    assert rig.markers() == {P0: 400}


@SHARDS
def test_a_batch_that_is_forgotten_is_found_applied_when_it_is_read_again(shards: int, looked: bool) -> None:
    """The one before it failed: both come again, in other batches."""
    rig, control = Rig([300], MemoryStore(shards)), Rig([300])
    assert rig.enrich(0, 0, 100) is not None
    sent = send(rig, 100, 200)
    assert sent is not None
    if looked:
        sent.look()
    rig.keeper.forget(sent)
    assert rig.markers() == {P0: 200}
    for start, end in ((0, 150), (150, 300)):
        same(rig.decide(0, start, end), control.decide(0, start, end))
    assert rig.keeper.ready


@SHARDS
def test_an_answer_that_is_lost_costs_a_look_at_the_state(shards: int, looked: bool) -> None:
    rig, control = Rig([300], Flaky(MemoryStore(shards))), Rig([300])
    same(rig.decide(0, 0, 100), control.decide(0, 0, 100))
    same(rig.enrich(0, 100, 200), control.decide(0, 100, 200))
    sent = send(rig, 200, 300)
    rig.part(0).committed = 200
    assert sent is not None
    assert isinstance(rig.store, Flaky)
    rig.store.forgets = 1
    epochs = rig.epochs()
    if looked:
        sent.look()
        assert rig.keeper.ready  # nobody is told before the batch is due
    same(receive(rig, 200, 300, sent), control.decide(0, 200, 300))
    assert rig.markers() == {P0: 300}
    assert (rig.epochs(), rig.count(REGRESSIONS)) == (epochs, 0)  # an outage is no loss


def test_one_that_is_forgotten_while_the_store_is_away_is_an_outage_and_no_loss(looked: bool) -> None:
    rig, control = Rig([200], Flaky()), Rig([200])
    assert rig.enrich(0, 0, 100) is not None
    sent, epochs = send(rig, 100, 200), rig.epochs()
    assert sent is not None
    assert isinstance(rig.store, Flaky)
    rig.store.failures = 1
    if looked:
        sent.look()
    rig.keeper.forget(sent)
    for start in (0, 100):
        same(rig.decide(0, start, start + 100), control.decide(0, start, start + 100))
    assert (rig.epochs(), rig.count(REGRESSIONS)) == (epochs, 0)


def test_a_store_that_is_away_is_sent_nothing_and_that_is_an_outage_and_no_loss() -> None:
    rig, control = Rig([200], Flaky()), Rig([200])
    same(rig.decide(0, 0, 100), control.decide(0, 0, 100))
    assert isinstance(rig.store, Flaky)
    epochs, rig.store.failures = rig.epochs(), 1
    assert send(rig, 100, 200) is None
    same(receive(rig, 100, 200, None), control.decide(0, 100, 200))
    assert (rig.epochs(), rig.count(REGRESSIONS)) == (epochs, 0)


def test_a_state_that_is_not_trusted_is_sent_nothing() -> None:
    rig = Rig([200])
    assert send(rig, 0, 100) is None  # before anything was looked at
    assert rig.store.positions()[0].markers == {}


def test_a_store_that_can_not_be_sent_anything_says_so_when_the_batch_is_due() -> None:
    rig, control = Rig([200]), Rig([200])
    same(rig.decide(0, 0, 100), control.decide(0, 0, 100))
    assert isinstance(rig.store, MemoryStore)
    rig.store.flush()  # other epochs: a call is refused
    assert send(rig, 100, 200) is None
    same(receive(rig, 100, 200, None), control.decide(0, 100, 200))


def test_features_that_were_computed_ahead_for_another_model_are_computed_anew() -> None:
    """A promotion takes effect between two batches, also when one of them is looked at already."""
    rig, control = Rig([200]), Rig([200])
    same(rig.decide(0, 0, 100), control.decide(0, 0, 100))
    sent = send(rig, 100, 200)
    assert sent is not None
    sent.look()
    sent.enricher.compute(DEFAULT.only(DEFAULT.names[30:40]))
    ahead, usual = receive(rig, 100, 200, sent), control.decide(0, 100, 200)
    assert ahead is not None
    assert usual is not None
    same(ahead, replace(usual, values=usual.values[:, 30:40]))
