"""`python -m bench.soak --minutes 30`: real Kafka and Redis, real processes, a steady rate, for any length.

One worker stays from start to end and is watched; a second one comes and goes, so that partitions move; two bundles
take turns as champion; the alert page is open in a browser's place; labels come for one payment in fifty; one payment
in ten is of a card that nobody has seen. Judged are memory of the worker (and of the page) in the second half of the
run and descriptors after its first fifth, the p99 of every minute, and that each payment has one decision, made with
features and a model but for a few, in order, with every offset committed.

Results go into `results.json` and `RESULTS.md`, the plot into `bench/plots/soak.png`. Exit status: 0 all that is judged
holds, 1 it does not (what, is said on standard error), or there is no result.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import chain, repeat
from math import nan
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt

from bench.machine import machine, occasion
from bench.prepare import FULL, PARTITIONS, QUICK, prepare
from bench.processes import BenchError, Child
from bench.reader import BUDGET_MS, first_decisions, latencies
from bench.report_soak import wrong
from bench.run import SOAK, merge
from bench.saturation import run_once
from bench.soak_judge import FEWEST_BLOCKS, files_are_flat, held, more_files, slope
from bench.soak_load import TEMPLATES, card_numbers, templates
from bench.soak_plot import draw
from bench.soak_scene import LABEL_PARTITIONS, Scene
from bench.soak_watch import EVERY_S, Calendar, Watch
from bench.stack import Names, Stack, running
from tests.services import kafka, redis
from tests.services.process import ServiceError
from tests.support.bounds import LOG_BYTES, longest_log

MINUTES: Final = 30.0
RATE: Final = 1_000
BROKER_WARM_UP: Final = 60_000  # payments, decided before it all begins: the broker compiles its own code
WARM_UP_SHARE: Final = 0.5  # of the run is not judged for memory: logs find their length, the allocator its level
FILES_WARM_UP_SHARE: Final = 0.2  # for descriptors less: those need no time, and every visit of a worker counts
SAMPLES_KEPT: Final = 2 / 3  # at least, whatever a busy machine or a service that is away for a moment costs
LEAST_S: Final = FEWEST_BLOCKS * EVERY_S / (1 - WARM_UP_SHARE) / SAMPLES_KEPT  # or nothing could be judged
DRAIN_S: Final = 120.0
FOLDER: Final = Path(__file__).parent
PLOT: Final = FOLDER / "plots" / "soak.png"
JUDGED: Final = ("worker_rss_mib", "worker_uss_mib", "page_rss_mib")
FILES: Final = ("worker_files", "page_files")
T = TypeVar("T")


def soak(stack: Stack, *, minutes: float, rate: int, plot: Path) -> dict[str, Any]:
    """Run it; returns what is judged, and every measurement by the minute."""
    run_once(stack, "exactly_once", "soak-warm-up", BROKER_WARM_UP)
    names = Names(f"soak-{time.monotonic_ns()}")
    partitions = dict.fromkeys(names.topics.values(), PARTITIONS)
    stack.kafka.create_topics(partitions | {names.topics["labels"]: LABEL_PARTITIONS})
    stack.redis.flush()
    home = stack.folder / names.prefix
    home.mkdir()
    length_s = minutes * 60
    with ExitStack() as started:
        scene = Scene(stack, names, home, started)
        reader = started.enter_context(
            Child(
                "bench.reader",
                {"brokers": stack.kafka.bootstrap, "topic": names.topics["decisions"], "out": home / "received.npy"}
                | {"expect": round(length_s * rate), "idle-exit-s": length_s + DRAIN_S},
            )
        )
        reader.wait_ready()
        scene.await_ready()
        watch = Watch(
            {"worker": scene.worker.pid, "page": scene.page.pid},
            redis_url=stack.redis.url,
            metrics=scene.metrics,
            collections=scene.collections,
        )
        with watch:
            calendar = Calendar()
            calendar.every(max(20.0, length_s / 10), "promotion", scene.promote)
            calendar.every(max(30.0, length_s / 6), "rebalance", scene.rebalance)
            try:
                load = _load(stack, names.topics, home, rate, length_s)
            finally:
                calendar.stop()
            reader.wait_end(DRAIN_S)
        failures = list(calendar.failures)
        committed = _looked(scene.committed, False, failures)
        tiers = _looked(scene.tiers, {}, failures)
        reader.stop()
        reader.result()
        failures += _looked(scene.end, [], failures)
        longest = _looked(lambda: longest_log(stack.redis, names.namespace), None, failures)
    document = _judged(watch, home, stack.prepared.payments, rate, length_s)
    document |= {"minutes": minutes, "rate": rate, "events": calendar.events, "failures": failures}
    document["redis"] |= {"longest_log": longest, "bound_bytes": LOG_BYTES}
    document |= {"load": load, "tiers": tiers, "committed_is_end": committed, "news_on_page": scene.news_seen}
    draw(document, watch.rows, plot)
    return document


def _looked(look: Callable[[], T], otherwise: T, failures: list[str]) -> T:
    """What it gives; where it fails, that is a failure of the run, which loses nothing else by it."""
    try:
        return look()
    except Exception as error:
        failures.append(f"{type(error).__name__}: {error}")
        return otherwise


def _load(stack: Stack, topics: dict[str, str], home: Path, rate: int, length_s: float) -> dict[str, Any]:
    arguments = {
        "brokers": stack.kafka.bootstrap,
        "topic": topics["payments"],
        "labels-topic": topics["labels"],
        "payments": stack.prepared.payments,
        "rate": rate,
        "duration-s": length_s,
        "out": home / "sent.npy",
    }
    with Child("bench.soak_load", arguments) as generator:
        if not generator.wait_end(length_s + DRAIN_S):
            message = f"The load did not end within {DRAIN_S:.0f} s of its schedule."
            raise BenchError(message)
        return generator.result()


def _judged(watch: Watch, home: Path, payments: Path, rate: int, length_s: float) -> dict[str, Any]:
    warm_s = WARM_UP_SHARE * length_s
    sent, received = np.load(home / "sent.npy"), np.load(home / "received.npy")
    minutes, resident = by_minute(sent, received, rate), watch.by_minute("worker_rss_mib")
    found = {}
    for name in JUDGED:
        times, values = watch.series(name)
        later = [(at, value) for at, value in zip(times, values, strict=True) if at >= warm_s]
        line = slope(*zip(*later, strict=True))
        found[name] = {
            "per_hour": line.per_hour, "low": line.low, "high": line.high, "level": line.level,
            "verdict": line.verdict, "first": values[0], "last": values[-1], "largest": max(values),
        }  # fmt: skip
    files = {}
    for name in FILES:
        times, values = watch.series(name)
        later = [value for at, value in zip(times, values, strict=True) if at >= FILES_WARM_UP_SHARE * length_s]
        files[name] = {"more": more_files(later), "largest": max(later), "flat": files_are_flat(later)}
    mib, keys = watch.series("redis_mib")[1], watch.series("redis_keys")[1]
    collections, spent_s = watch.series("collections")[1], watch.series("collecting_s")[1]
    return {
        "warm_up_s": warm_s,
        "memory": found,
        "files": files,
        "redis": {
            "mib": mib[-1], "keys": keys[-1], "first_mib": mib[0], "first_keys": keys[0],
            "bytes_a_key": mib[-1] * 2**20 / max(1.0, keys[-1]),
        },
        "lag_largest": max(watch.series("lag")[1], default=0.0),
        "collections": {"count": collections[-1], "spent_s": spent_s[-1]} if collections else {},
        "latency": latencies(home / "sent.npy", home / "received.npy"),
        "by_minute": [
            each | {"worker_mib": mib} for each, mib in zip(minutes, chain(resident, repeat(nan)), strict=False)
        ],
        "minutes_not_held": held([each["p99_ms"] for each in minutes], BUDGET_MS),
        "out_of_order": out_of_order(sent, received, payments),
    }  # fmt: skip


def by_minute(sent: npt.NDArray[np.void], received: npt.NDArray[np.void], rate: int) -> list[dict[str, float]]:
    """Percentiles of the payments that were due in each minute, from when they were due; NaN without a decision."""
    at, first = first_decisions(sent, received)
    latency_ms = (received["received_ns"][first] - sent["intended_ns"][at]) / 1e6
    minute = at // (60 * rate)
    found = []
    for number in range(-(-len(sent) // (60 * rate))):
        some = latency_ms[minute == number]
        marks = np.percentile(some, [50, 99, 99.9], method="higher") if len(some) else np.full(3, np.nan)
        largest = float(some.max()) if len(some) else float("nan")
        found.append({"p50_ms": marks[0], "p99_ms": marks[1], "p99_9_ms": marks[2], "max_ms": largest})
    return found


def out_of_order(sent: npt.NDArray[np.void], received: npt.NDArray[np.void], payments: Path) -> int:
    """Decisions that were received before an earlier one of the same card."""
    at, first = first_decisions(sent, received)
    at = at[np.argsort(first)]
    cards = card_numbers(templates(payments, TEMPLATES), at)
    grouped = np.argsort(cards, kind="stable")
    same = cards[grouped][1:] == cards[grouped][:-1]
    return int(np.count_nonzero(same & (at[grouped][1:] < at[grouped][:-1])))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description="Run for long, and judge what grows.")
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"how long (default {MINUTES:.0f})")
    parser.add_argument("--rate", type=int, default=RATE, help=f"payments a second (default {RATE:,})")
    parser.add_argument("--note", default="", help="what the report shall say of this run, as what else ran beside it")
    parser.add_argument("--quick", action="store_true", help="small models; results and plot go to .cache/bench/quick/")
    args = parser.parse_args(arguments)
    if not args.minutes * 60 >= LEAST_S:
        parser.error(f"--minutes must be at least {LEAST_S / 60:g}: a shorter run has too few samples to be judged")
    if args.rate < 1:
        parser.error("--rate must be above 0")
    for missing in (kafka.missing(), redis.missing()):
        if missing:
            raise SystemExit(f"{missing} The soak runs on real services only.")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leave by way of every context manager
    folder = FOLDER.parent / ".cache" / "bench" / "quick" if args.quick else FOLDER
    prepared = prepare(QUICK if args.quick else FULL)
    when, begun = occasion(sys.argv[1:], "bench.soak"), time.monotonic()
    plot = folder / "plots" / PLOT.name
    try:
        with running(prepared) as stack:
            found = soak(stack, minutes=args.minutes, rate=args.rate, plot=plot)
    except (BenchError, ServiceError) as error:
        raise SystemExit(str(error)) from error
    facts = {"machine": machine(), "prepared": prepared.facts(), "note": args.note}
    merge(folder, SOAK, facts | when | {"took_s": round(time.monotonic() - begun, 1)} | found)
    print(json.dumps({name: found[name] for name in ("memory", "files", "latency", "redis", "minutes_not_held")}))
    print(f"wrote {plot} and the soak's part of {folder / 'RESULTS.md'}")
    broken = wrong(found)
    for line in broken:
        print(f"WRONG: {line}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
