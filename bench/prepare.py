"""What the benches run on, made once and kept in `.cache/bench/`: a simulated history, our bundle, the other model.

Both models learn from the same payments (another seed than the history's) and are of one size, about 200 trees of depth
6: training keeps the best number of trees, so a small learning rate makes it want nearly all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from zlib import crc32

import xgboost
from confluent_kafka import Message

from bench.loadgen import Record
from bench.naive_model import FEATURES, train_naive_model
from consumer.decode import Decoder
from consumer.simulator import LABELS_FILE, PAYMENTS_FILE, Simulation, write
from features.catalog import DEFAULT
from features.enrich import Enricher
from features.redis_store import RedisStore
from features.store import Span
from models.manifest import MODEL
from models.train import TrainOptions, train

CACHE: Final = Path(__file__).parents[1] / ".cache" / "bench"
TREES: Final = 200
DEPTH: Final = 6
HISTORY_SEED: Final = 11
TRAINING_SEED: Final = 12

PRIMING_TOPIC: Final = "history"
PRIMING_PARTITION: Final = 99  # not one of the payments topic: a record's source in a log is partition and offset
PRIMING_BATCH: Final = 512
PARTITIONS: Final = 4
MAX_PAYMENT_BYTES: Final = 65_536
MAX_FUTURE_MS: Final = 300_000


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many payments to simulate, to train on, and to have in the entity logs before anything is measured."""

    history: int
    training: int
    primed: int


FULL: Final = Sizes(history=400_000, training=200_000, primed=60_000)
QUICK: Final = Sizes(history=150_000, training=40_000, primed=20_000)


@dataclass(frozen=True, slots=True)
class Prepared:
    """The files of one preparation."""

    sizes: Sizes
    payments: Path
    bundle: Path
    naive: Path

    def facts(self) -> dict[str, Any]:
        """The numbers that a reader of the results needs to judge them."""
        return {
            "history_payments": self.sizes.history,
            "training_payments": self.sizes.training,
            "primed_payments": self.sizes.primed,
            "features": len(DEFAULT.features),
            "naive_features": len(FEATURES),
            "model": _size_of(self.bundle / MODEL),
            "naive_model": _size_of(self.naive),
        }


def prepare(sizes: Sizes) -> Prepared:
    """Make what is not there yet; it is kept for as long as the catalog stays the same."""
    home = CACHE / f"{DEFAULT.fingerprint[:12]}-{sizes.history}-{sizes.training}"
    history, training = home / "history", home / "training"
    ready = Prepared(sizes, history / PAYMENTS_FILE, home / "bundle", home / "naive.ubj")
    for folder, payments, seed in (
        (history, sizes.history, HISTORY_SEED),
        (training, sizes.training, TRAINING_SEED),
    ):
        if not (folder / PAYMENTS_FILE).exists():
            print(f"simulating {payments:,} payments", flush=True)
            write(Simulation(payments=payments, seed=seed), folder)
    if not ready.bundle.exists():
        print("training the bundle", flush=True)
        options = TrainOptions(trees=TREES, depth=DEPTH, learning_rate=0.03, windows=2)
        train(training / PAYMENTS_FILE, training / LABELS_FILE, ready.bundle, options=options)
    if not ready.naive.exists():
        print("training the baseline's model", flush=True)
        fresh = ready.naive.with_name("naive.partial.ubj")
        train_naive_model(fresh, training / PAYMENTS_FILE, training / LABELS_FILE, trees=TREES, depth=DEPTH)
        fresh.replace(ready.naive)
    return ready


def _size_of(model: Path) -> dict[str, int]:
    trees = xgboost.Booster(model_file=model).get_dump()
    return {"trees": len(trees), "leaves": sum(tree.count("leaf=") for tree in trees)}


def as_messages(records: Sequence[Record], topic: str, *, start: int = 0) -> list[Any]:
    """Records as the Kafka client gives them, all of one partition, offsets counted from `start`."""
    return [
        Message(topic=topic, partition=PRIMING_PARTITION, offset=start + at, key=key, value=value, timestamp=(0, 0))
        for at, (key, value) in enumerate(records)
    ]


def as_partitioned_messages(records: Sequence[Record], topic: str, now_ms: int) -> list[Any]:
    """Records as the Kafka client gives them, spread over `PARTITIONS` by key, with a Kafka timestamp of `now_ms`."""
    ends = [0] * PARTITIONS
    messages = []
    for key, value in records:
        partition = crc32(key) % PARTITIONS
        messages.append(
            Message(
                topic=topic, partition=partition, offset=ends[partition], key=key, value=value, timestamp=(1, now_ms)
            )
        )
        ends[partition] += 1
    return messages


def prime(redis_url: str, namespace: str, records: Sequence[Record], *, owner: str = "") -> None:
    """Put payments into the entity logs, as of another topic, so that they have the length of a running system's.

    `owner` is whose the namespace is, as of `features.redis_store.RedisStore`.
    """
    decoder = Decoder(max_payment_bytes=MAX_PAYMENT_BYTES, max_future_ms=MAX_FUTURE_MS)
    with closing(RedisStore(redis_url, namespace=namespace, timeout_ms=1_000, owner=owner)) as store:
        enricher = Enricher(DEFAULT, store)
        epochs = [position.epoch for position in store.positions()]
        store.adopt({(PRIMING_TOPIC, PRIMING_PARTITION): 0})
        for start in range(0, len(records), PRIMING_BATCH):
            messages = as_messages(records[start : start + PRIMING_BATCH], PRIMING_TOPIC, start=start)
            end = start + len(messages)
            span = Span(PRIMING_TOPIC, PRIMING_PARTITION, start, end, floor=end)
            enricher.enrich(decoder.decode(messages).batch, (span,), epochs)
