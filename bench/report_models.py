"""The part of the report that says what a model costs; see `bench.models`."""

from __future__ import annotations

from statistics import median
from typing import Any, Final

from bench.tables import number, table, verdict

XGBOOST_P99_MS: Final = 1.0
COMPILED_P99_MS: Final = 0.1
ROW_US: Final = 4.0
REASONS_MS: Final = 20.0
POLICY_US: Final = 3.0
SWAP_MS: Final = 50.0
OURS: Final = ("Fraudline on XGBoost", "Fraudline, compiled")


def models(section: dict[str, Any]) -> list[str]:
    """Verdicts, and every round."""
    by = {(each["engine"], each["rows"]): each["rounds"] for each in section["scoring"]}
    plain, compiled = OURS
    policy, reasons, swap = section["policy"], section["reasons"], section["swap"]
    reason_ms = median(each["batch_ms"] for each in reasons)
    by_hand = median(each["by_hand_ms"] for each in reasons)
    waited = max(0.0, swap["swap"]["max_ms"] - swap["quiet"]["p50_ms"])
    return [
        _one(by, plain, XGBOOST_P99_MS),
        _one(by, compiled, COMPILED_P99_MS),
        *(
            verdict(
                f"128 rows, {engine}, a row, median of the rounds",
                median(each["row_us"] for each in by[engine, 128]),
                ROW_US,
                unit=" us",
                at_most=True,
            )
            for engine in OURS
        ),
        f"- The largest difference between both engines' scores of 4,096 payments: {section['largest_difference']:g}.",
        verdict("reasons for 16 alerts, median", reason_ms, REASONS_MS, unit=" ms", at_most=True)
        + f" One by one, as people write it: {number(by_hand)} ms.",
        verdict(
            "policy of 20 rules at batch 128, a payment, median",
            median(each["payment_us"] for each in policy),
            POLICY_US,
            unit=" us",
            at_most=True,
        ),
        verdict(
            "longest wait of a batch while a promotion was verified, loaded and taken, over an ordinary batch",
            waited,
            SWAP_MS,
            unit=" ms",
            at_most=True,
        ),
        f"- Counting drift of all features: {number(median(section['drift']))} us a payment.",
        "",
        "Scoring, microseconds; every round, the median and the 99th percentile of a call:",
        "",
        *table(("engine", "rows", "a row, median", "p50", "p99", "max"), map(_row, section["scoring"])),
        "",
        f"A batch of {swap['batch']} payments every {swap['every_ms']:g} ms for {swap['seconds']:g} s, milliseconds "
        "from when it was due to its commit:",
        "",
        *table(
            ("", "batches", "p50", "p99", "max", "seconds to the new model"),
            (_paced("no promotion", swap["quiet"]), _paced("a promotion", swap["swap"])),
        ),
    ]


def _one(by: dict[tuple[str, int], Any], engine: str, target_ms: float) -> str:
    worst = max(each["p99_us"] for each in by[engine, 1]) / 1_000
    return verdict(f"one row, {engine}, p99, the worst round", worst, target_ms, unit=" ms", at_most=True)


def _row(found: dict[str, Any]) -> tuple[str, ...]:
    rounds = found["rounds"]
    every = (", ".join(number(each[key]) for each in rounds) for key in ("p50_us", "p99_us"))
    largest = number(max(each["max_us"] for each in rounds))
    return (found["engine"], str(found["rows"]), number(median(each["row_us"] for each in rounds)), *every, largest)


def _paced(name: str, run: dict[str, Any]) -> tuple[str, ...]:
    swapped = "-" if run["swapped_s"] is None else number(run["swapped_s"])
    return (name, str(run["batches"]), *(number(run[key]) for key in ("p50_ms", "p99_ms", "max_ms")), swapped)
