"""`python -m bench.run`: measure on real Kafka and real Redis, merge into results.json, and render RESULTS.md from it.

A section that is not asked for keeps what it had. `--quick` checks that everything works: few payments, few seconds,
numbers that mean little, kept apart in `.cache/bench/quick/`.
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from bench import enrichment, features_build, growth, history, latency, limits, memory, models, saturation, stages
from bench.machine import machine, occasion
from bench.prepare import CACHE, FULL, QUICK, prepare
from bench.processes import BenchError
from bench.report import render
from bench.report_growth import draw as draw_growth
from bench.report_limits import draw as draw_limits
from bench.stack import Stack, running
from tests.services import kafka, redis
from tests.services.process import ServiceError
from tests.services.redis_cluster import RedisCluster

SECTIONS: Final = ("stages", "saturation", "latency", "features", "memory", "models", "history", "limits", "growth")
BEFORE: Final = "limits_before"  # the limits of an earlier state, see `--before`
QUALITY: Final = "quality"  # made by `bench.quality`, from data that are not ours to ship
SOAK: Final = "soak"  # made by `bench.soak`, for as long as it is told to
RESULTS: Final = "results.json"
REPORT: Final = "RESULTS.md"
ROUNDS: Final = 5
SECONDS: Final = 20
QUICK_ROUNDS: Final = 1
QUICK_SECONDS: Final = 4
QUICK_RATES: Final = (500, 2_000)


def plan(args: argparse.Namespace) -> dict[str, Callable[[Stack], dict[str, Any]]]:
    """What to run for each section that was asked for."""
    rounds = args.rounds or (QUICK_ROUNDS if args.quick else ROUNDS)
    seconds = args.seconds or (QUICK_SECONDS if args.quick else SECONDS)
    rates = args.rates or (QUICK_RATES if args.quick else latency.RATES)
    longest = max(rates) * (latency.WARM_UP_S + seconds) if "latency" in args.only else 0
    _check_history(args.quick, max(longest, stages.needed(rounds=rounds, quick=args.quick)))
    every: dict[str, Callable[[Stack], dict[str, Any]]] = {
        "stages": lambda stack: stages.measure(stack, rounds=rounds, quick=args.quick),
        "saturation": lambda stack: saturation.measure(stack, rounds=rounds, quick=args.quick),
        "latency": lambda stack: latency.measure(stack, seconds=seconds, rates=rates),
        "features": lambda stack: _features(stack, rounds=rounds, quick=args.quick),
        "memory": lambda _stack: memory.measure(quick=args.quick),
        "history": lambda stack: history.measure(stack, rounds=rounds, quick=args.quick),
        "limits": lambda stack: limits.measure(stack, rounds=rounds, quick=args.quick),
        "growth": lambda stack: growth.measure(stack, quick=args.quick),
        "models": lambda stack: models.measure(stack.prepared, rounds=rounds, quick=args.quick),
    }
    return {name: every[name] for name in SECTIONS if name in args.only}


def _features(stack: Stack, *, rounds: int, quick: bool) -> dict[str, Any]:
    """Enrichment on one server and on a cluster, and features offline."""
    with RedisCluster() as cluster:
        url, pids = cluster.url, cluster.pids
        enriched = enrichment.measure(
            enrichment.Server(stack.redis.url, [stack.redis.pid]),
            stack.prepared.payments,
            rounds=rounds,
            primed=stack.prepared.sizes.primed,
            quick=quick,
            cluster=enrichment.Server(url, pids, shards=16, cluster=True),
        )
    return {"enrichment": enriched, "build": features_build.measure(rounds=rounds, quick=quick)}


def _check_history(quick: bool, payments: int) -> None:
    sizes = QUICK if quick else FULL
    if payments > sizes.history - sizes.primed:
        message = (
            f"A run of {payments:,} payments was asked for and the history has {sizes.history - sizes.primed:,}: "
            "give fewer --rounds or --seconds, or lower --rates."
        )
        raise SystemExit(message)


def finite(value: Any) -> Any:
    """The same with None for every number that JSON can't hold."""
    if isinstance(value, dict):
        return {str(key): finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def merge(folder: Path, name: str, section: dict[str, Any]) -> None:
    """Put one section into the results, and render the report anew."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / RESULTS
    known: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    found = known | {name: finite(section)}
    results = {each: found[each] for each in (*SECTIONS, BEFORE, SOAK, QUALITY) if each in found}
    fresh = path.with_suffix(".partial")
    fresh.write_text(json.dumps(results, indent=1, allow_nan=False) + "\n")
    fresh.replace(path)
    write_report(folder, results)


def write_report(folder: Path, results: dict[str, Any]) -> None:
    """The report, with what `bench.peers` keeps beside these results, and its pictures."""
    beside = folder / "peers" / RESULTS
    peers = {"peers": json.loads(beside.read_text())} if beside.exists() else {}
    (folder / REPORT).write_text(render(results | peers))
    if "limits" in results:
        draw_limits(results["limits"], folder)
    if "growth" in results:
        draw_growth(results["growth"], folder)


def _words(text: str) -> list[str]:
    names = text.split(",")
    if unknown := sorted(set(names) - set(SECTIONS)):
        message = f"unknown section {unknown[0]!r}; there are {', '.join(SECTIONS)}"
        raise argparse.ArgumentTypeError(message)
    return names


def _numbers(text: str) -> list[int]:
    return [int(each) for each in text.split(",")]


def arguments(words: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.run", description="Measure, on real Kafka and real Redis.")
    parser.add_argument("--only", type=_words, default=list(SECTIONS), metavar="SECTION,...", help=", ".join(SECTIONS))
    parser.add_argument("--quick", action="store_true", help="a short check; the results are kept apart")
    parser.add_argument("--rounds", type=int, help=f"of all that is measured in turns (default {ROUNDS})")
    parser.add_argument("--seconds", type=int, help=f"measured for each rate (default {SECONDS})")
    parser.add_argument("--rates", type=_numbers, metavar="R,...", help="payments a second")
    parser.add_argument("--before", type=Path, metavar="FILE", help="a results.json of an earlier state, for `limits`")
    parser.add_argument("--render", action="store_true", help="only render the report from the results that are there")
    return parser.parse_args(words)


def main() -> None:
    words = sys.argv[1:]
    args = arguments(words)
    folder = CACHE / "quick" if args.quick else Path(__file__).parent
    if args.render:
        write_report(folder, json.loads((folder / RESULTS).read_text()))
        return
    if args.before is not None:
        merge(folder, BEFORE, json.loads(args.before.read_text())["limits"])
    for missing in (kafka.missing(), redis.missing()):
        if missing:
            raise SystemExit(f"{missing} The benches run on real services only.")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leave by way of every context manager
    sections = plan(args)
    prepared = prepare(QUICK if args.quick else FULL)
    facts = {"machine": machine(), "prepared": prepared.facts()}
    try:
        with running(prepared) as stack:
            for name, measure in sections.items():
                print(f"{name} ...", flush=True)
                when, began = occasion(words), time.monotonic()
                found = measure(stack)
                took_s = round(time.monotonic() - began, 1)
                merge(folder, name, facts | when | {"took_s": took_s} | found)
                print(f"{name}: {took_s:.0f} s", flush=True)
    except (BenchError, ServiceError) as error:
        raise SystemExit(str(error)) from error
    print(f"wrote {folder / REPORT}")


if __name__ == "__main__":
    main()
