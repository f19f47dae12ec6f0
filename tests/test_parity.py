"""Online is offline: a history through Redis, in batches as they come, and the same history built from its files."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest

from consumer.decode import looks_like_card_number
from consumer.simulator import LABELS_FILE, PAYMENTS_FILE, Simulation, write
from features.catalog import DEFAULT
from features.enrich import Enricher
from features.event import Label, Payment, batch_of, labels_of
from features.history import local
from features.history.job import Job
from features.offline import interleaved
from features.reader import Values
from features.redis_store import RedisStore
from features.store import Span
from tests.services.redis import RedisServer

T = TypeVar("T")
PAYMENTS = 50_000
LARGEST = 700


def batches(log: Sequence[Payment | Label], rng: random.Random) -> Iterator[tuple[list[Label], list[Payment]]]:
    """A log cut into batches of random sizes, labels before payments in each, as the processor takes them.

    A label stays behind the payments before it, so a batch ends where one follows a payment.
    """
    labels: list[Label] = []
    payments: list[Payment] = []
    size = rng.randint(1, LARGEST)
    for record in log:
        is_label = isinstance(record, Label)
        if (is_label and payments) or len(labels) + len(payments) == size:
            yield labels, payments
            labels, payments, size = [], [], rng.randint(1, LARGEST)
        if isinstance(record, Label):
            labels.append(record)
        else:
            payments.append(record)
    yield labels, payments


def read(path: Path, kind: type[T]) -> list[T]:
    """The records of a file of JSON lines."""
    decode = msgspec.json.Decoder(kind).decode
    return [decode(line) for line in path.read_bytes().splitlines()]


def place(topic: str, count: int, ends: dict[str, int]) -> dict[str, Any]:
    """Where the last records of a topic lie."""
    return {"topic": topic, "partition": [0] * count, "offset": range(ends[topic] - count, ends[topic])}


def online(server: RedisServer, namespace: str, log: Sequence[Payment | Label]) -> tuple[Values, np.ndarray]:
    """What the enricher says of every payment, and which are repeated; everything before a batch is committed."""
    store = RedisStore(server.url, namespace=namespace, timeout_ms=5_000)
    enricher = Enricher(DEFAULT, store)
    epochs = [position.epoch for position in store.positions()]
    ends = {"labels": 0, "payments": 0}
    store.adopt({("labels", 0): 0, ("payments", 0): 0})
    values, repeated = [], []
    for labels, payments in batches(log, random.Random(5)):
        spans = []
        for topic, records in (("labels", labels), ("payments", payments)):
            start, ends[topic] = ends[topic], ends[topic] + len(records)
            if records:
                spans.append(Span(topic, 0, start, ends[topic], start, labels=topic == "labels"))
        known = labels_of(labels, **place("labels", len(labels), ends))
        batch = batch_of(payments, **place("payments", len(payments), ends))
        enriched = enricher.enrich(batch, tuple(spans), epochs, known)
        values.append(enriched.values)
        repeated.append(enriched.repeated)
    store.close()
    return np.concatenate(values), np.concatenate(repeated)


@pytest.mark.slow
def test_50_000_payments_through_redis_in_random_batches_are_what_is_built_offline(
    redis_server: RedisServer, unique: str, tmp_path: Path
) -> None:
    write(Simulation(payments=PAYMENTS, seed=9, late=0.02, duplicate=0.01), tmp_path)
    payments, labels = tmp_path / PAYMENTS_FILE, tmp_path / LABELS_FILE
    log = list(interleaved(read(payments, Payment), read(labels, Label)))
    values, repeated = online(redis_server, unique, log)
    out = tmp_path / "features.parquet"
    local.build(Job(payments, labels, out, looks_like_card_number, memory_mb=16))
    table = pq.read_table(out)
    assert table.num_rows == len(values) >= PAYMENTS
    offline = np.stack([table.column(name).to_numpy() for name in DEFAULT.names], axis=1)
    np.testing.assert_array_equal(values.view(np.int32), offline.view(np.int32))
    np.testing.assert_array_equal(repeated, table.column("repeated").to_numpy())
    assert repeated.any()
