"""The recorded order against a naive one: a shard that loses and regains its state, told run by run."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from consumer.certificate.order import MAX_LAYERS, RecordedOrder
from consumer.order import UNKNOWN
from consumer.records import JournalEntry
from features.event import source_id

SOURCES = (("payments", 0), ("payments", 1), ("labels", 0))
At = tuple[int, int]  # source, offset


@dataclass(slots=True)
class Shard:
    """A shard as a list of what it holds, number by number; None where a number stands for nothing journaled."""

    epoch: int = 1
    epochs: int = 1
    held: list[At | None] = field(default_factory=list)
    made: list[At] = field(default_factory=list)  # the same, what is not journaled included
    markers: dict[int, int] = field(default_factory=dict)
    journal: list[JournalEntry] = field(default_factory=list)
    told: dict[tuple[int, int], tuple[At, list[At | None]]] = field(default_factory=dict)
    """By epoch and number: what was recorded, and all that the shard held then."""
    hidden: dict[At, int] = field(default_factory=dict)
    """What is in the state and was not journaled, and its number."""

    def apply(self, which: int, count: int, *, journaled: bool) -> None:
        topic, partition = SOURCES[which]
        source = source_id(partition, labels=topic == "labels")
        start = self.markers.get(source, 0)
        entry = JournalEntry(0, self.epoch, len(self.held), count, topic, partition, start)
        for offset in range(start, start + count):
            self.made.append((source, offset))
            if not journaled:
                self.hidden[source, offset] = len(self.held)
            self.held.append((source, offset) if journaled else None)
            if journaled:
                self.told[self.epoch, len(self.held) - 1] = ((source, offset), self.held[:])
        self.markers[source] = start + count
        if journaled:
            self.journal.append(entry)

    def renew(self, keep: int) -> None:
        """The state goes back to what it was when it held `keep` records, be it in the middle of a run."""
        self.epochs += 1
        markers = {}
        for source, offset in self.made[:keep]:
            markers[source] = offset + 1
        parent, self.epoch = self.epoch, self.epochs
        self.held, self.made, self.markers = self.held[:keep], self.made[:keep], markers
        self.hidden = {at: number for at, number in self.hidden.items() if number < keep}
        self.journal.append(JournalEntry(0, self.epoch, keep, 0, "payments", 0, 0, parent, keep))

    def flush(self) -> None:
        self.epochs += 1
        self.epoch, self.held, self.made, self.markers, self.hidden = self.epochs, [], [], {}, {}


@st.composite
def shards(draw: st.DrawFn) -> Shard:
    shard = Shard()
    for _ in range(draw(st.integers(1, 14))):
        match draw(st.sampled_from(["apply", "apply", "apply", "again", "hide", "back", "flush"])):
            case "apply":
                shard.apply(draw(st.integers(0, 2)), draw(st.integers(1, 4)), journaled=True)
            case "hide":
                shard.apply(draw(st.integers(0, 2)), draw(st.integers(1, 2)), journaled=False)
            case "again" if shard.journal:  # redelivered: the same run, or a part of it
                entry = draw(st.sampled_from([each for each in shard.journal if each.count] or shard.journal))
                shard.journal.append(entry)
            case "back":
                shard.renew(draw(st.integers(0, len(shard.held))))
            case "flush":
                shard.flush()
            case _:
                pass
    return shard


@given(shards())
def test_every_number_has_one_home_where_all_that_was_there_comes_before_it(shard: Shard) -> None:
    order = RecordedOrder(shard.journal, "payments")
    for (epoch, number), ((source, offset), held) in shard.told.items():
        one = np.array([offset])
        [layer] = order.layer_of(0, source, one, np.array([epoch]), np.array([number])).tolist()
        assert 0 <= layer < MAX_LAYERS
        for other_epoch, other_number in ((epoch, number + 1), (epoch + 1_000, number)):
            other = np.array([other_epoch]), np.array([other_number])
            assert order.layer_of(0, source, one, *other).tolist() == [UNKNOWN]
        homes = []
        for branch in range(order.branches(0)):
            found, layers = order.places(0, branch, source, one)
            if layers[0] == layer:
                assert found[0] == number
                homes.append(branch)
        [home] = homes
        for before, at in enumerate(held):
            if at is not None:
                assert order.places(0, home, at[0], np.array([at[1]]))[0][0] == before


@given(shards())
def test_what_was_never_told_is_missed_from_where_it_may_be(shard: Shard) -> None:
    """Wherever a record of the present state is whose run was not told: it may be missing before what comes later."""
    order = RecordedOrder(shard.journal, "payments")
    numbers = {at: number for number, at in enumerate(shard.held) if at is not None}

    def placed(branch: int, at: At) -> int:
        [number] = order.places(0, branch, at[0], np.array([at[1]]))[0].tolist()
        return int(number)

    homes = [branch for branch in range(order.branches(0)) if all(placed(branch, at) == n for at, n in numbers.items())]
    if not numbers or not homes:
        return
    for at, number in shard.hidden.items():
        if placed(homes[0], at) != UNKNOWN or number > max(numbers.values()):
            continue
        [since] = order.lost_from(0, homes[0], at[0], np.array([at[1]])).tolist()
        assert (
            max((n for (source, offset), n in numbers.items() if source == at[0] and offset < at[1]), default=-1)
            < since
        )
        assert since <= number
    missing = len(shard.hidden)
    for source in {at[0] for at in numbers}:
        end = shard.markers[source]
        beyond = order.lost_from(0, homes[0], source, np.array([end + missing]))
        assert beyond.tolist() == [UNKNOWN]  # there are not so many numbers that no run has
