"""What grows: the axes, their values, and the files and states that a run at one of them needs."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Final

import orjson
import xgboost

from bench.prepare import DEPTH, PARTITIONS, TREES, Prepared
from bench.stack import Names, Stack
from consumer.simulator import LABELS_FILE, PAYMENTS_FILE
from features.catalog import DEFAULT, Catalog
from features.event import LAYOUT_VERSION
from features.redis_store.store import IDLE_S
from models.manifest import MODEL
from models.train import TrainOptions, train
from tests.services.redis import RedisServer

ENTITIES: Final = (10_000, 100_000, 1_000_000, 10_000_000)
SHARED_PARTITIONS: Final = 16  # by several processes: so that halves are about even
PARTITION_COUNTS: Final = (1, PARTITIONS, 16, 64)
CATALOG_PARTS: Final = (3, 2, 1)  # one of so many features
TREE_COUNTS: Final = (50, TREES, 800)
HOT_SHARES: Final = (0, 10, 50, 90)  # percent
QUICK: Final = {
    "entities": ENTITIES[:2],
    "partitions": PARTITION_COUNTS[:2],
    "catalog": (3, 1),
    "trees": TREE_COUNTS[:2],
    "hot card": (0, 90),
    "hot merchant": (0, 90),
}
FULL: Final = {
    "entities": ENTITIES,
    "partitions": PARTITION_COUNTS,
    "catalog": CATALOG_PARTS,
    "trees": TREE_COUNTS,
    "hot card": HOT_SHARES,
    "hot merchant": HOT_SHARES,
}
AXES: Final = tuple(FULL)
USUAL: Final = {"partitions": PARTITIONS, "catalog": 1, "trees": TREES, "hot card": 0, "hot merchant": 0}
"""What an axis has when another one grows; a run of nothing but these stands for all of them."""

RATE_OF_TREES: Final = 6.0  # trees times learning rate, so that training wants nearly all of them; see `bench.prepare`
BYTES_A_CARD: Final = 210  # in Redis, with one payment; see `bench.memory`
MEMORY_SHARE: Final = 0.3  # of what is free: the append-only file's buffers and everybody else need some too
CARD_CHUNK: Final = 20_000
TEMPLATES: Final = 100  # logs that are looked at for the shortest
SEED: Final = 5

_SOME_CARDS: Final = """
for n = tonumber(ARGV[1]), tonumber(ARGV[2]) - 1 do
  redis.call('SET', KEYS[1] .. string.format('grown%010d', n), ARGV[3], 'EX', ARGV[4])
end
"""


@dataclass(frozen=True, slots=True)
class Point:
    """A value of an axis. `axis` is None for the point where everything is as usual."""

    axis: str | None
    value: int


def points(*, quick: bool, most_cards: int) -> list[Point]:
    """The runs, each once: the usual one first, then what differs from it in one thing.

    Args:
        quick: fewer values.
        most_cards: there is memory for so many; larger values are left out.
    """
    plan = QUICK if quick else FULL
    fits = {
        axis: [value for value in values if axis != "entities" or value <= most_cards] for axis, values in plan.items()
    }
    grown = [Point(axis, value) for axis, values in fits.items() for value in values if USUAL.get(axis) != value]
    return [Point(None, 0), *grown]


def most_cards(free_bytes: int) -> int:
    """How many cards there is memory for."""
    return int(free_bytes * MEMORY_SHARE / BYTES_A_CARD)


@dataclass(frozen=True)
class Crowded(Stack):
    """A stack whose every state begins with so many cards that have paid once."""

    cards: int = 0

    def fresh(self, prefix: str, **partitions: int) -> Names:
        """As for `Stack`, and the cards."""
        with self.redis.client(timeout_s=60.0) as client:
            client.flushall(asynchronous=True)  # ten million keys take longer than a client waits
        names = super().fresh(prefix, **partitions)
        crowd(self.redis, names.namespace, self.cards)
        return names


def crowd(redis: RedisServer, namespace: str, cards: int) -> None:
    """Give so many cards (`grown0000000000` and on) the log of one that has paid once; the namespace is primed."""
    space = f"{namespace}:{LAYOUT_VERSION}:{{s0}}:c:".encode()
    with redis.client(timeout_s=60.0) as client:
        client.config_set("auto-aof-rewrite-percentage", 0)  # a rewrite of them all is not to fall into a run
        known = islice(client.scan_iter(match=space + b"*", count=1_000), TEMPLATES)
        log = min((client.get(key) or b"" for key in known), key=len)
        add = client.register_script(_SOME_CARDS)
        for start in range(0, cards, CARD_CHUNK):
            add(keys=[space], args=[start, min(cards, start + CARD_CHUNK), log, IDLE_S])


def stack_of(stack: Stack, point: Point, *, payments: int) -> Stack:
    """The stack for a point, with `payments` payments after those that prime it. It writes and trains what it lacks."""
    prepared = stack.prepared
    if point.axis == "partitions":
        return replace(stack, partitions=point.value)
    if point.axis in ("catalog", "trees"):
        return replace(stack, prepared=replace(prepared, bundle=bundle_of(prepared, point)))
    if point.axis is None:
        return stack
    path = stack.folder / f"{point.axis.replace(' ', '-')}-{point.value}.jsonl"
    if not path.exists():
        _write(prepared, point, path, payments)
    prepared = replace(prepared, payments=path)
    if point.axis != "entities":
        return replace(stack, prepared=prepared)
    return Crowded(stack.kafka, stack.redis, prepared, stack.folder, stack.partitions, cards=point.value)


def bundle_of(prepared: Prepared, point: Point) -> Path:
    """A bundle of a part of the catalog, or of so many trees; trained once, from what the usual one learned from."""
    home = prepared.bundle.parent
    bundle = home / "growth" / f"{point.axis}-{point.value}"
    if not bundle.exists():
        print(f"  training the bundle of {point.axis} {point.value}", flush=True)
        bundle.parent.mkdir(exist_ok=True)
        trees = point.value if point.axis == "trees" else TREES
        options = TrainOptions(trees=trees, depth=DEPTH, learning_rate=RATE_OF_TREES / trees, windows=2)
        training = home / "training"
        catalog = part_of(DEFAULT, point.value) if point.axis == "catalog" else DEFAULT
        train(training / PAYMENTS_FILE, training / LABELS_FILE, bundle, options=options, catalog=catalog)
    return bundle


def part_of(catalog: Catalog, one_of: int) -> Catalog:
    """Every second, third, ... feature, over the same logs."""
    return catalog.only(catalog.names[::one_of])


def trees_of(bundle: Path) -> int:
    """How many trees its model has."""
    return xgboost.Booster(model_file=bundle / MODEL).num_boosted_rounds()


def grown(lines: Iterable[bytes], point: Point) -> Iterator[bytes]:
    """Payments of the history as a point has them: of cards from a larger crowd, or a share of them at one place."""
    rng = random.Random(SEED)
    for line in lines:
        payment = orjson.loads(line)
        if point.axis == "entities":
            payment["card_id"] = f"grown{rng.randrange(point.value):010d}"
        elif rng.random() * 100 < point.value:
            field = "card_id" if point.axis == "hot card" else "merchant_id"
            payment[field] = "hot"
        yield orjson.dumps(payment)


def _write(prepared: Prepared, point: Point, path: Path, payments: int) -> None:
    with prepared.payments.open("rb") as history, path.open("wb") as file:
        file.writelines(islice(history, prepared.sizes.primed))
        file.writelines(line + b"\n" for line in grown(islice(history, payments), point))
