"""`python -m bench.peers.run`: measure stream processors side by side, keep what came out, render bench/RESULTS.md.

What is not asked for keeps what it had. `--quick` checks that everything works: few payments, few seconds, numbers that
mean little, kept apart in `.cache/bench/quick/`.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, get_args

import psutil

from bench.machine import machine, occasion
from bench.peers import results as kept
from bench.peers.catalog import EVERYBODY, FRAUDLINE, named
from bench.peers.contest import Entry
from bench.peers.entries import in_short
from bench.peers.lines import lines_of
from bench.peers.measure import FULL, QUICK, measure
from bench.peers.plots import draw
from bench.peers.results import MEASUREMENTS, RESULTS, Measurement
from bench.peers.setup import ready
from bench.prepare import CACHE, prepare
from bench.prepare import FULL as FULL_SIZES
from bench.prepare import QUICK as QUICK_SIZES
from bench.processes import BenchError
from bench.run import write_report
from bench.stack import running
from tests.services import kafka, redis
from tests.services.process import ServiceError

MODULE: Final = "bench.peers.run"


def entries_of(only: Sequence[str] | None) -> list[Entry]:
    """Who is to be measured: Fraudline always, since everything is told in ratios to it.

    `only` names peers, or a variant as PEER:VARIANT. Raises SystemExit for what there is not.
    """
    words = [peer.name for peer in EVERYBODY] if only is None else [FRAUDLINE.name, *only]
    found: list[Entry] = []
    for word in words:
        name, _, variant = word.partition(":")
        peer = named(name)
        if variant and variant not in peer.variants:
            message = f"{name} has no variant {variant!r}; there are {', '.join(peer.variants)}."
            raise SystemExit(message)
        for each in peer.variants:
            if variant in ("", each) and Entry(peer, each) not in found:
                found.append(Entry(peer, each))
    return found


def arguments(words: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description="Measure stream processors side by side.")
    names = ", ".join(peer.name for peer in EVERYBODY)
    parser.add_argument("--only", type=_names, metavar="NAME[:VARIANT],...", help=f"beside Fraudline; {names}")
    parser.add_argument("--without-fraudline", action="store_true", help="not even Fraudline, which keeps what it had")
    parser.add_argument(
        "--what",
        type=_measurements,
        default=list(MEASUREMENTS),
        metavar="MEASUREMENT,...",
        help=", ".join(MEASUREMENTS),
    )
    parser.add_argument("--quick", action="store_true", help="a short check; the results are kept apart")
    parser.add_argument("--rounds", type=int, help=f"of saturation (default {FULL.rounds})")
    parser.add_argument(
        "--seconds",
        type=int,
        help=f"of saturation and at each rate (defaults {FULL.saturation_s:g} and {FULL.latency_s})",
    )
    parser.add_argument("--rates", type=_numbers, metavar="R,...", help="payments a second")
    parser.add_argument("--render", action="store_true", help="only render the report from the results that are there")
    return parser.parse_args(words)


def _names(text: str) -> list[str]:
    return text.split(",")


def _numbers(text: str) -> list[int]:
    return [int(each) for each in text.split(",")]


def _measurements(text: str) -> list[Measurement]:
    names = text.split(",")
    if unknown := sorted(set(names) - set(MEASUREMENTS)):
        message = f"unknown measurement {unknown[0]!r}; there are {', '.join(MEASUREMENTS)}"
        raise argparse.ArgumentTypeError(message)
    return [name for name in get_args(Measurement) if name in names]


def main() -> None:
    words = sys.argv[1:]
    args = arguments(words)
    folder = CACHE / "quick" if args.quick else Path(__file__).parents[1]
    if args.render:
        _render(folder)
        return
    for missing in (kafka.missing(), redis.missing()):
        if missing:
            raise SystemExit(f"{missing} The benches run on real services only.")
    entries = [each for each in entries_of(args.only) if not (args.without_fraudline and each.peer is FRAUDLINE)]
    for peer in dict.fromkeys(each.peer for each in entries):
        if not ready(peer):
            raise SystemExit(f"{peer.name} has no environment; run `python -m bench.peers.setup {peer.name}` first.")
    plan = QUICK if args.quick else FULL
    given = {"rounds": args.rounds, "saturation_s": args.seconds, "latency_s": args.seconds, "rates": args.rates}
    plan = replace(plan, what=args.what, **{name: value for name, value in given.items() if value is not None})
    sizes = QUICK_SIZES if args.quick else FULL_SIZES
    if plan.needed > sizes.history - sizes.primed:
        message = (
            f"That takes {plan.needed:,} payments and the history has {sizes.history - sizes.primed:,}: ask for less."
        )
        raise SystemExit(message)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leave by way of every context manager
    prepared = prepare(sizes)
    when: dict[str, Any] = occasion(words, MODULE) | {"machine": machine(), "prepared": prepared.facts()}
    path = folder / "peers" / RESULTS

    def done(entry: Entry, what: Measurement, found: dict[str, Any], took_s: float) -> None:
        if "failed" in found and not psutil.pid_exists(stack.kafka.pid):
            message = f"The broker has ended, so that nobody can be measured; before that: {found['failed']}"
            raise BenchError(message)  # and earlier results stay
        about = {
            "version": entry.peer.version,
            "lines": lines_of(entry.peer, entry.variant),
            "took_s": round(took_s, 1),
        }
        kept.save(path, kept.merge(kept.load(path), entry.peer.name, entry.variant, what, about | found, when))
        print(f"  {entry.name}, {what}, {took_s:.0f} s: {_said(what, found)}", flush=True)

    began = time.monotonic()
    try:
        with running(prepared) as stack:
            measure(stack, entries, plan, done)
    except (BenchError, ServiceError) as error:
        raise SystemExit(str(error)) from error
    _render(folder)
    print(f"wrote {folder / 'RESULTS.md'} after {time.monotonic() - began:.0f} s")


def _render(folder: Path) -> None:
    """Pictures and report, from all results that are there."""
    draw(kept.load(folder / "peers" / RESULTS), folder / "plots")
    others = folder / RESULTS
    write_report(folder, json.loads(others.read_text()) if others.exists() else {})


def _said(what: Measurement, found: dict[str, Any]) -> str:
    """A line for the screen."""
    if "failed" in found:
        return in_short(found["failed"])
    if what == "saturation":
        last = found["runs"][-1]
        return f"{last['eps']:,.0f}/s, {last['eps_per_cpu_s']:,.0f} a CPU-second, {last['peak_mib']:,.0f} MiB"
    if what == "latency":
        return ", ".join(
            f"{each['rate']:,}/s p99 {each['p99_ms']:,.0f} ms ({each['missing']:,} missing)" for each in found["cells"]
        )
    decisions, state = found["decisions"], found["kept"]
    return (
        f"{decisions['lost']:,} lost and {decisions['repeated']:,} repeated of {decisions['payments']:,}, "
        f"{state['wrong']:,} of {state['keys']:,} {state['what']} wrong"
    )


if __name__ == "__main__":
    main()
