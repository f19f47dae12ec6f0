"""The part of the report about asking a history; see `bench.history`."""

from __future__ import annotations

from statistics import median
from typing import Any, Final

from bench.history import CERTIFY, HELD, ratios
from bench.tables import number, table, verdict

TO_STAGES: Final = 1.3
SECOND_VARIANT: Final = 0.3
SECOND_THREAD: Final = 1.7
CERTIFY_TO_BACKTEST: Final = 1.0
REPLAY_PER_S: Final = 100_000
SPACING_MS: Final = 5.0


def history(section: dict[str, Any]) -> list[str]:
    """Verdicts, and every round."""
    found = ratios(section["backtest"])
    rows = []
    for number_, each in enumerate(section["backtest"], start=1):
        stages = [f"{each['alone'][name]['s']:.2f}" for name in each["alone"]]
        whole = [f"{each[name]['s']:.2f}" for name in ("one", "two", "two_threads")]
        rows.append([str(number_), *stages, *whole, number(each["one"]["rss_mb"]), f"{each['loops']:.2f}"])
    names = list(section["backtest"][0]["alone"])
    return [
        verdict("backtest of one bundle, to the sum of its stages alone, median", found["to_stages"], TO_STAGES,
                at_most=True, digits=2),
        verdict("what a second variant adds, median", found["second_variant"], SECOND_VARIANT, at_most=True, digits=2),
        verdict("two threads to one, median", found["second_thread"], SECOND_THREAD, at_most=False, digits=2)
        + f" Two plain loops beside each other: {found['two_loops']:.2f}.",
        verdict("certify to a backtest that is held to the same decisions, median",
                median(each[CERTIFY]["s"] / each[HELD]["s"] for each in section["certify"]), CERTIFY_TO_BACKTEST,
                at_most=True, digits=2),
        verdict("replay from Parquet into Kafka, payments a second, median",
                median(each["per_s"] for each in section["replay"]), REPLAY_PER_S, at_most=False),
        verdict("replay at its own pace, difference to the original distance, p99, worst round",
                max(each["p99_ms"] for each in section["paced"]), SPACING_MS, unit=" ms", at_most=True),
        "",
        f"Backtests of {section['payments']:,} payments, seconds; every round:",
        "",
        *table(["round", *names, "one variant", "two", "two threads", "MB at most", "two loops"], rows),
        "",
        f"Certificates of {section['certified']:,} decisions, seconds; every round:",
        "",
        *table(
            ["threads", HELD, CERTIFY, "MB at most"],
            [
                [str(each["threads"]), *(f"{each[what]['s']:.2f}" for what in (HELD, CERTIFY)),
                 number(each[CERTIFY]["rss_mb"])]
                for each in section["certify"]
            ],
        ),
        "",
        "Replays; every round:",
        "",
        *table(
            ["round", "payments/s", "spacing p50, ms", "p99", "max", "later than due, p99"],
            [
                [str(n), number(fast["per_s"]), *(f"{paced[name]:.2f}" for name in ("p50_ms", "p99_ms", "max_ms")),
                 f"{paced['late_p99_ms']:.1f}"]
                for n, (fast, paced) in enumerate(zip(section["replay"], section["paced"], strict=True), start=1)
            ],
        ),
    ]  # fmt: skip
