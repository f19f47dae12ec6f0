"""The report's sections on features: enrichment, offline speed, and memory."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any, Final

from bench.tables import number, spread, table, verdict

Results = dict[str, Any]

ENRICH_TARGET_US: Final = 30.0
SINGLE_TARGET_US: Final = 500.0
HOT_TARGET: Final = 1.5
CLUSTER_TARGET: Final = 2.5
BUILD_TARGET: Final = 100_000.0
PANDAS_TARGET: Final = 30.0
SCRIPT_TARGET_MS: Final = 5.0


def features(section: Results) -> list[str]:
    """Enrichment and `features build`."""
    return [*_enrichment(section["enrichment"]), "", *_build(section["build"])]


def _enrichment(found: Results) -> list[str]:
    by_name = {(each["name"], each["size"]): each["rounds"] for each in found["variants"]}
    both = {name: [_both(each) for each in rounds] for name, rounds in by_name.items()}
    plain, hot = both["ordinary", 128], both["hot merchants", 128]
    lines = [
        "Enrichment alone: payments that are decoded already, all features, logs primed with "
        f"{found['primed']:,} payments. All lines take turns in each round; client CPU, Redis' CPU and wall time, "
        "microseconds a payment.",
        "",
        verdict("client and Redis at batch 128, median", median(plain), ENRICH_TARGET_US, unit=" us", at_most=True),
        verdict("the same with Zipf-hot merchants, over ordinary ones", _ratio(hot, plain), HOT_TARGET, at_most=True),
        verdict(
            "batch of one, wall time, median",
            median(each["wall_us"] for each in by_name["ordinary", 1]),
            SINGLE_TARGET_US,
            unit=" us",
            at_most=True,
        ),
    ]
    if ("cluster", 512) in both:
        ratio = _ratio(both["cluster", 512], both["ordinary", 512])
        lines.append(verdict("3 primaries, 16 shards over one server, batch 512", ratio, CLUSTER_TARGET, at_most=True))
    counters = both["counters", 128]
    lines += [
        "- Counters by the hour in hashes, one pipeline a batch of 128 (not atomic, not idempotent, no windows made "
        f"of them yet): {number(median(counters))} us, {number(_ratio(counters, plain))} times ours.",
        "",
        *table(
            ("payments", "batch", "client", "Redis", "sum min", "median", "max", "wall min", "median", "max"),
            [
                [
                    name,
                    str(size),
                    number(median(each["client_us"] for each in rounds)),
                    number(median(each["redis_us"] for each in rounds)),
                    *spread(both[name, size]),
                    *spread([each["wall_us"] for each in rounds]),
                ]
                for (name, size), rounds in by_name.items()
            ],
        ),
        "",
        "Every round, client and Redis:",
        "",
        *[f"- {name}, batch {size}: {', '.join(map(number, sums))}" for (name, size), sums in both.items()],
    ]
    return lines


def _build(found: Results) -> list[str]:
    compared = found["compared"]
    rounds, middle = compared["rounds"], compared["median"]
    left_out = ", ".join(compared["left_out_by_pandas"]) or "none"
    return [
        f"`fraudline features build` on one core, {compared['payments']:,} payments, {compared['columns']} columns, "
        f"beside pandas (`bench/features_baseline.py`; columns it leaves out: {left_out}).",
        "",
        verdict("payments a second on one core, median", middle["ours_per_s"], BUILD_TARGET, at_most=False),
        verdict("times pandas, median", middle["ratio"], PANDAS_TARGET, at_most=False),
        "",
        *table(
            ("round", "ours/s", "pandas/s", "times", "ours a CPU-second", "pandas a CPU-second", "times"),
            [[str(at), *[number(float(value)) for value in each.values()]] for at, each in enumerate(rounds, start=1)],
        ),
        "",
        "Larger than memory, and with more threads:",
        "",
        *table(
            ("payments", "threads", "memory for work MB", "payments/s", "before MB", "peak MB"),
            [
                [f"{each['payments']:,}", *[number(float(each[name])) for name in _BUILT]]
                for each in (*found["memory"], *found["jobs"])
            ],
        ),
    ]


_BUILT: Final = ("jobs", "memory_mb", "payments_per_s", "before_mb", "peak_mb")


def memory(section: Results) -> list[str]:
    """Bytes by how busy an entity is, a million cards, and errors of coarse windows."""
    cards = section["cards"]
    names = sorted({name for each in section["busy"] for name in each["errors"]})
    return [
        f"- {cards['cards']:,} cards with one payment each: {cards['bytes'] / 2**20:,.0f} MiB of Redis, "
        f"{number(cards['bytes_a_card'])} bytes a card, of which its record is {cards['record_bytes']}.",
        "",
        *[line for hot in section.get("hot", []) for line in _hot(hot)],
        "",
        "Merchants by their payments in 30 days: their log, what Redis takes for it, and what the records would be.",
        "",
        *table(
            ("payments", "log bytes", "largest log", "Redis bytes", "unbounded"),
            [[f"{each['payments']:,}", *[f"{each[name]:,.0f}" for name in _BUSY]] for each in section["busy"]],
        ),
        "",
        "What a payment saw of its merchant's windows against the exact ones, relative error in percent, mean / "
        f"largest, over the last tenth of the payments (exact over the newest {section['keep']} records, half a "
        "bucket at an edge before them):",
        "",
        *table(
            ("payments", *names),
            [
                [
                    f"{each['payments']:,}",
                    *[_error(each["errors"].get(name)) for name in names],
                ]
                for each in section["busy"]
            ],
        ),
    ]


def _hot(found: Results) -> list[str]:
    """One merchant has nine payments of ten."""
    return [
        verdict(
            f"slowest script, 9 in 10 of {found['payments']:,} payments at one merchant, batches of {found['batch']}",
            found["script_ms_max"],
            SCRIPT_TARGET_MS,
            unit=" ms",
            at_most=True,
        )
        + f" Median {number(found['script_ms_median'])} ms; the merchant's log had {found['log_bytes_max']:,} bytes at "
        f"most, and Redis sent {found['bytes_sent_a_payment']:,.0f} bytes a payment.",
    ]


_BUSY: Final = ("log_bytes", "log_bytes_max", "redis_bytes", "unbounded_bytes")


def _error(found: dict[str, float] | None) -> str:
    return "-" if found is None else f"{100 * found['mean']:.2f} / {100 * found['max']:.2f}"


def _both(each: dict[str, float]) -> float:
    return each["client_us"] + each["redis_us"]


def _ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """The median of the rounds' ratios."""
    return median(a / b for a, b in zip(above, below, strict=True))
