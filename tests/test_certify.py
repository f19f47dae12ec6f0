"""`fraudline certify`: equal after crashes, regressions, late events, duplicates, labels and new models; else not."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from consumer.certificate.certify import Asked, Certificate, Certification
from consumer.certificate.streams import FileStream
from features.catalog import DEFAULT
from features.store import MemoryStore
from models.policy import Rule
from tests.faults.payments import PARTITIONS, history
from tests.support.bundles import make_bundle
from tests.support.world import World

RULES = (
    Rule("big", "amount_minor > 30000", "review", "A large amount."),
    Rule("fast", "card_count_1h >= 3", "block", "Many payments."),
    Rule("watched", "hour < 3", "review", "At night.", shadow=True),
)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    make_bundle(folder / "one", rules=RULES, review=0.3)
    make_bundle(folder / "two", seed=5, review=0.4, rules=RULES[:1], version="2")
    return folder / "one", folder / "two"


def world(bundle: Path, count: int = 1_500, *, seed: int = 1, partitions: int = PARTITIONS, **options: Any) -> World:
    """A dense history: few cards and merchants, late payments, duplicates, labels, and records that are none."""
    records = history(count, seed)
    parts = [[each.value for each in records if not each.is_label and each.partition % partitions == number]
             for number in range(partitions)]
    labels = [each.value for each in records if each.is_label]
    return World(bundle, parts, labels, **options)


def certified(made: World, folder: Path, *bundles: Path, **changes: Any) -> Certificate:
    topics = made.dump(folder)
    asked = Asked(
        decisions=FileStream(topics["decisions"], "decisions"),
        payments=FileStream(topics["payments"], "payments"),
        labels=FileStream(topics["labels"], "labels"),
        journal=FileStream(topics["journal"], "journal"),
        alerts=None,
        bundles=bundles,
        registry=None,
        shards=made.store.shards,
        max_payment_bytes=65_536,
        max_future_ms=300_000,
    )
    return Certification(replace(asked, **changes), DEFAULT).run()


def equal(found: Certificate) -> None:
    assert found.verdict == "equal", json.dumps(found.document() | {"partitions": []})
    assert found.results["equal"] == found.decisions
    for each in found.partitions:
        assert each.published.hexdigest() == each.replayed.hexdigest()


def test_what_was_decided_in_any_batches_is_equal(bundles: tuple[Path, Path], tmp_path: Path) -> None:
    made = world(bundles[0])
    rng = random.Random(1)
    for _ in range(30):
        made.process(labels=rng.randrange(6), **{f"p{n}": rng.randrange(20) for n in range(PARTITIONS)})
    made.drain()
    found = certified(made, tmp_path, bundles[0])
    equal(found)
    assert found.decisions == len(made.publisher.values("decisions"))
    assert found.payments["repeated"] > 0
