"""Bytes of an entity in Redis by how busy it is, a million cards, and how far the coarse part of a window is off.

The busy entities are merchants, paid by cards of a pool at random times of 30 days, in order. They go through the
enricher as in production, so their logs are compacted as they grow. What is off is measured on the way: the count and
the sum that a payment saw against those of its exact window.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from redis import Redis

from features.catalog import DAY_MS, DEFAULT, HOUR_MS, Catalog
from features.enrich import Enricher
from features.event import LAYOUT_VERSION, Payment, batch_of
from features.redis_store import RedisStore
from features.store import Span
from features.warm import warm_up
from tests.services.redis import RedisServer

BUSY: Final = (1, 10, 100, 1_000, 100_000)  # payments in 30 days
ENTITIES: Final = 8  # of each kind, but one of the busiest
HOT_SIZES: Final = (128, 512)  # of batches
HOT_PAYMENTS: Final = 102_400
CARDS: Final = 1_000_000
QUICK_CARDS: Final = 20_000
BATCH: Final = 64  # of one merchant: what is not committed yet, and what came with it, is not compacted
START_MS: Final = 1_767_571_200_000
WINDOWS_MS: Final = {"1h": HOUR_MS, "24h": DAY_MS, "7d": 7 * DAY_MS, "30d": 30 * DAY_MS}
TOPIC: Final = "payments"

Ints = npt.NDArray[np.int64]


class Feed:
    """Payments into a namespace, with everything before the batch in hand committed."""

    def __init__(self, server: RedisServer, namespace: str, catalog: Catalog) -> None:
        self.catalog = catalog
        self.store = RedisStore(
            server.url, namespace=namespace, timeout_ms=5_000, limits=catalog.limits, entities=catalog.logged
        )
        self._enricher = Enricher(catalog, self.store)
        self._epochs = [position.epoch for position in self.store.positions()]
        self.store.adopt({(TOPIC, 0): 0})
        self._end = 0

    def take(self, payments: list[Payment]) -> npt.NDArray[np.float32]:
        """Record a batch; its features."""
        start, self._end = self._end, self._end + len(payments)
        batch = batch_of(payments, topic=TOPIC, partition=[0] * len(payments), offset=range(start, self._end))
        return self._enricher.enrich(batch, (Span(TOPIC, 0, start, self._end, start),), self._epochs).values


def of(*entities: str) -> Catalog:
    """The default catalog's features of some entities, and logs of these alone."""
    features = tuple(feature for feature in DEFAULT.features if feature.entity in entities)
    return Catalog(features, DEFAULT.limits)


def measure(*, quick: bool) -> dict[str, Any]:
    """Bytes of logs by payments in 30 days, errors of coarse windows, and what a million cards take."""
    warm_up()
    with RedisServer() as server:
        busy = [_busy(server, payments) for payments in (BUSY[:-1] if quick else BUSY)]
    payments, hot = HOT_PAYMENTS // 10 if quick else HOT_PAYMENTS, []
    for size in HOT_SIZES:
        with RedisServer() as server:
            hot.append(_hot(server, payments, size))
    with RedisServer() as server:
        cards = _cards(server, QUICK_CARDS if quick else CARDS)
    return {"busy": busy, "hot": hot, "cards": cards, "keep": DEFAULT.limits.keep}


def _busy(server: RedisServer, payments: int) -> dict[str, Any]:
    """Merchants with so many payments in 30 days each."""
    count = 1 if payments == BUSY[-1] else ENTITIES
    rng = np.random.default_rng(payments)
    feed = Feed(server, f"busy{payments}", of("card", "merchant"))
    errors: dict[str, list[float]] = {f"{what}_{name}": [] for name in WINDOWS_MS for what in ("count", "sum")}
    for number in range(count):
        times = np.sort(rng.integers(START_MS, START_MS + 30 * DAY_MS, payments))
        amounts = rng.lognormal(8.0, 1.0, payments).astype(np.int64) + 1
        seen = np.concatenate([feed.take(each) for each in _payments(f"m{number}", times, amounts, rng)])
        _compare(feed.catalog, times, amounts, seen, errors)
    with closing(feed.store), server.client() as client:
        keys = [key for key in client.scan_iter(f"busy{payments}:*") if b":m:" in key]
        sizes = [client.strlen(key) for key in keys]
        used = [int(client.memory_usage(key, samples=0) or 0) for key in keys]
    return {
        "payments": payments,
        "log_bytes_max": max(sizes),
        "log_bytes": float(np.mean(sizes)),
        "redis_bytes": float(np.mean(used)),
        "unbounded_bytes": 48 * payments,
        "errors": {
            name: {"mean": float(np.mean(found)), "max": float(np.max(found))}
            for name, found in errors.items()
            if found
        },
    }


def _hot(server: RedisServer, payments: int, size: int) -> dict[str, Any]:
    """Nine payments of ten at one merchant, in batches of `size`; all features, all entities."""
    feed, rng, sizes = Feed(server, "hot", DEFAULT), np.random.default_rng(3), []
    with closing(feed.store), server.client() as client:
        client.config_set("slowlog-log-slower-than", 0)
        client.config_set("slowlog-max-len", 1_000_000)
        sent = client.info("stats")["total_net_output_bytes"]
        for start in range(0, payments, size):
            feed.take(_hot_batch(start, size, rng))
            sizes.append(client.strlen(f"hot:{LAYOUT_VERSION}:{{s0}}:m:hot"))
        sent = client.info("stats")["total_net_output_bytes"] - sent
        spent_us = [each["duration"] for each in client.slowlog_get(1_000_000) if each["command"].startswith(b"EVAL")]
    return {
        "payments": payments,
        "batch": size,
        "log_bytes_max": max(sizes),
        "bytes_sent_a_payment": sent / payments,
        "script_ms_median": float(np.median(spent_us)) / 1_000,
        "script_ms_max": max(spent_us) / 1_000,
    }


def _hot_batch(start: int, size: int, rng: np.random.Generator) -> list[Payment]:
    shops = np.where(rng.random(size) < 0.9, 0, rng.integers(1, 1_000, size)).tolist()
    cards = rng.integers(0, 50_000, size).tolist()
    return [
        Payment(
            f"h{start + at}",
            START_MS + 1_000 * (start + at),
            f"c{card}",
            "hot" if shop == 0 else f"m{shop}",
            1_000 + at,
            "EUR",
            device_id=f"d{card}",
            ip=f"10.0.{card % 256}.{card // 256}",
            terminal_id=f"t{shop}",
            account_id=f"a{card}",
        )
        for at, (shop, card) in enumerate(zip(shops, cards, strict=True))
    ]


def _payments(merchant: str, times: Ints, amounts: Ints, rng: np.random.Generator) -> Iterator[list[Payment]]:
    cards = rng.integers(0, 5_000, times.size)
    rows = list(zip(times.tolist(), amounts.tolist(), cards.tolist(), strict=True))
    for start in range(0, len(rows), BATCH):
        yield [
            Payment(f"{merchant}-{start + at}", time_ms, f"c{card}", merchant, amount, "EUR")
            for at, (time_ms, amount, card) in enumerate(rows[start : start + BATCH])
        ]


def _compare(
    catalog: Catalog, times: Ints, amounts: Ints, seen: npt.NDArray[np.float32], errors: dict[str, list[float]]
) -> None:
    """Relative errors of counts and sums of the last tenth of the payments, when the windows are full."""
    totals = np.concatenate(([0], np.cumsum(amounts)))
    place = np.arange(times.size)
    late = place >= times.size * 9 // 10
    for name, window_ms in WINDOWS_MS.items():
        first = np.searchsorted(times, times - window_ms, side="right")
        exact = {"count": place + 1 - first, "sum": totals[place + 1] - totals[first]}
        for what, values in exact.items():
            feature = f"merchant_{what}_{name}"
            if feature in catalog.names:
                got = seen[:, catalog.names.index(feature)].astype(np.float64)
                errors[f"{what}_{name}"] += (np.abs(got - values) / values)[late].tolist()


def _cards(server: RedisServer, cards: int) -> dict[str, Any]:
    """So many cards with one payment each, and then with two more for every tenth."""
    feed = Feed(server, "cards", of("card"))
    with closing(feed.store), server.client() as client:
        before = _used(client)
        for start in range(0, cards, 4_096):
            numbers = range(start, min(cards, start + 4_096))
            feed.take([Payment(f"e{n}", START_MS + n, f"tok_{n:012d}", "shop", 100 + n % 900, "EUR") for n in numbers])
        keys, used = client.dbsize() - 1, _used(client) - before
    return {"cards": keys, "bytes": used, "bytes_a_card": used / keys, "record_bytes": 48}


def _used(client: Redis) -> int:
    used: int = client.info("memory")["used_memory"]
    return used
