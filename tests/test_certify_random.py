"""`fraudline certify` after random trouble: what a correct processor published is never called different."""

from __future__ import annotations

import copy
import json
import os
import random
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from consumer.order import lineage
from features.store import MemoryStore
from tests.support.bundles import make_bundle
from tests.support.doubles import Flaky
from tests.support.world import TOPICS, World
from tests.test_certify import RULES, certified, world

SEEDS = int(os.environ.get("CERTIFY_SEEDS", "5"))
STEPS = ("after_apply", "before_commit", "after_commit")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "one"
    make_bundle(folder, rules=RULES, review=0.5, block=0.8, trees=20, noise=0.4)
    return folder


@dataclass(slots=True)
class Trouble:
    """Does at random what may befall a processor and its store."""

    made: World
    rng: random.Random
    inner: MemoryStore
    flaky: Flaky
    older: list[MemoryStore] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        """How much is taken of everything: often nothing of most."""
        names = ["labels", *(f"p{number}" for number in range(len(self.made.partitions)))]
        return {name: self.rng.choice((0, 1, 3, self.rng.randrange(25))) for name in names}

    def take(self) -> None:
        self.made.process(**self.counts())

    def crash(self) -> None:
        held = self.made.log.partitions
        if any(each.committed != each.high for each in held.values()):
            names = {"labels": held["labels", 0]} | {
                f"p{n}": held["payments", n] for n in range(len(self.made.partitions))
            }
            left = [name for name, each in names.items() if (each.committed or 0) < each.high]
            self.made.kill_at(self.rng.choice(STEPS), **(self.counts() | {self.rng.choice(left): 5}))

    def remember(self) -> None:
        self.older.append(copy.deepcopy(self.inner))

    def go_back(self) -> None:
        """To any older state, of what was lost since too; sometimes of one shard alone."""
        if self.older:
            to = copy.deepcopy(self.rng.choice(self.older))
            number = self.rng.randrange(self.inner.shards) if self.rng.random() < 0.3 else None
            for shard, held in enumerate(to._shards):
                if number in (None, shard):
                    self.inner._shards[shard] = held
            self.inner.renew(
                [each.epoch if number in (None, shard) else -1 for shard, each in enumerate(self.inner._shards)]
            )
            self.made.start()

    def flush(self) -> None:
        self.inner.flush()
        self.made.start()

    def outage(self) -> None:
        self.flaky.failures = 1_000
        for _ in range(self.rng.randrange(1, 3)):
            self.take()
        self.flaky.failures = 0
        self.made.now_s += 100

    def lose_reply(self) -> None:
        self.flaky.forgets = 1
        self.take()
        self.flaky.forgets = self.flaky.failures = 0
        self.made.now_s += 100

    def is_told(self) -> bool:
        """Whether the journal has every number of the only shard, in each of its epochs with what that inherited."""
        numbers: dict[int, set[int]] = defaultdict(set)
        parents: dict[int, tuple[int, int]] = {}
        for each in map(json.loads, self.made.publisher.values(TOPICS.journal)):
            if each["count"]:
                numbers[each["epoch"]] |= set(range(each["sequence"], each["sequence"] + each["count"]))
            else:
                parents[each["epoch"]] = each["parent_epoch"], each["parent_sequence"]
        for epoch in list(numbers):
            path = lineage(epoch, parents)
            known = {n for of, limit in path for n in numbers.get(of, ()) if limit is None or n < limit}
            if known != set(range(len(known))):
                return False
        return True


def troubled(bundle: Path, seed: int, shards: int) -> Trouble:
    """A history of trouble, all of it decided in the end."""
    rng = random.Random(seed)
    inner = MemoryStore(shards)
    flaky = Flaky(inner)
    made = world(bundle, rng.choice((120, 300)), seed=seed, partitions=rng.choice((1, 2, 3)), store=flaky)
    trouble = Trouble(made, rng, inner, flaky)
    acts = [trouble.take] * 6 + [trouble.crash] * 2 + [trouble.remember, trouble.go_back] * 2 + [trouble.outage]
    acts += [trouble.flush, trouble.lose_reply] if rng.random() < 0.3 else []
    for _ in range(rng.randrange(8, 30)):
        rng.choice(acts)()
    made.drain(rng.choice((7, 40)))
    return trouble


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("seed", range(SEEDS))
def test_no_trouble_makes_a_correct_processor_different(bundle: Path, tmp_path: Path, seed: int, shards: int) -> None:
    trouble = troubled(bundle, seed, shards)
    found = certified(trouble.made, tmp_path, bundle)
    told = json.dumps(found.document() | {"partitions": []})
    assert not found.differences, told
    assert set(found.unverifiable) <= {"order_not_published"}
    if shards == 1 and trouble.is_told():
        assert found.verdict == "equal", told
        for each in found.partitions:
            assert each.published.hexdigest() == each.replayed.hexdigest()
