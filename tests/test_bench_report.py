"""What the benches say about their runs: verdicts, ratios, causes, and a report that leaves no run out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import run
from bench.cause import Batch, Event, breakdown, read_trace, slowest
from bench.loadgen import SENT
from bench.processes import BenchError, Child
from bench.reader import RECEIVED
from bench.report import STAGES, render
from bench.report_models import OURS, models
from bench.report_quality import MEASURES, quality
from bench.saturation import ratios
from bench.tables import table, verdict

MS = 1_000_000


def batch(begun_ms: float, offsets: tuple[int, int], **stage_ms: float) -> Batch:
    return Batch(
        begun_ns=round(begun_ms * MS),
        took_ms=sum(stage_ms.values()) + 1.0,
        size=offsets[1] - offsets[0],
        tier="full",
        spans=[(0, *offsets)],
        stage_ms=stage_ms,
    )


def test_the_time_of_the_slowest_payment_is_divided_without_a_rest() -> None:
    batches = [
        batch(100, (0, 5), enrich=4.0, commit=20.0),  # 100 to 125
        batch(125, (5, 9), enrich=5.0, commit=30.0),  # 125 to 161
        batch(170, (9, 12), enrich=6.0, commit=40.0),  # 170 to 217
    ]
    found = breakdown(Event(0, 10, due_ns=110 * MS, received_ns=220 * MS), batches)
    assert found is not None
    assert found["latency_ms"] == pytest.approx(110.0)
    assert found["spent_ms"] == pytest.approx(
        {
            "between stages": 3.0,
            "commit (before)": 14.0 + 30.0,
            "enrich (before)": 5.0,
            "commit": 40.0,
            "enrich": 6.0,
            "waiting": 9.0,
            "delivery": 3.0,
        }
    )
    assert sum(found["spent_ms"].values()) == pytest.approx(found["latency_ms"])
    assert (found["largest"], found["batches_before"], found["batch_size"]) == ("commit (before)", 2, 3)
    assert breakdown(Event(0, 99, 0, 1), batches) is None


def test_the_slowest_payment_is_found_by_its_first_decision() -> None:
    sent = np.array([(0, 0, 0), (0, 1, 10 * MS), (1, 0, 20 * MS), (0, -1, 0)], SENT)
    received = np.array([(0, 0, 5 * MS), (1, 0, 29 * MS), (0, 1, 18 * MS), (0, 0, 900 * MS)], RECEIVED)
    assert slowest(sent, received) == Event(1, 0, 20 * MS, 29 * MS)
    assert slowest(sent, received[:0]) is None


def test_a_trace_is_read_as_it_was_written(tmp_path: Path) -> None:
    line = {"begun_ns": 5, "took_ms": 1.5, "size": 2, "tier": "full", "spans": [[3, 7, 9]], "stage_ms": {"decode": 1.0}}
    (tmp_path / "trace.jsonl").write_text(json.dumps(line) + "\n")
    [found] = read_trace(tmp_path / "trace.jsonl")
    assert found.holds(3, 8)
    assert not found.holds(3, 9)
    assert found.ended_ns == 5 + 1_500_000


def test_verdicts_say_in_words_whether_a_target_was_met() -> None:
    assert verdict("p99", 50.0, 50.0, unit=" ms", at_most=True).endswith("Measured 50.0 ms: **met.**")
    assert verdict("p99", 50.1, 50.0, unit=" ms", at_most=True).endswith("**not met.**")
    assert verdict("ratio", 14.9, 15.0, at_most=False).endswith("**not met.**")
    assert verdict("ratio", None, 15.0, at_most=False).endswith("**Not measured.**")


def test_a_table_has_as_many_columns_in_every_line() -> None:
    assert table(("a", "b"), [("1", "2")]) == ["| a | b |", "|---|---:|", "| 1 | 2 |"]


def test_ratios_are_taken_within_a_round() -> None:
    runs = {
        kind: [{"eps": base * factor, "eps_per_cpu_s": base * factor * 2} for base in (1.0, 10.0)]
        for kind, factor in (("naive", 1), ("exactly_once", 20), ("at_least_once", 30))
    }
    assert ratios(runs)["exactly_once"] == {"eps": [20.0, 20.0], "eps_per_cpu_s": [20.0, 20.0]}


def about(command: str) -> dict[str, Any]:
    model = {"trees": 200, "leaves": 6_000}
    prepared = {"features": 48, "naive_features": 28, "primed_payments": 60_000, "model": model, "naive_model": model}
    machine = {"cpu": "X", "cores": 2, "memory_gib": 8.0, "kernel": "Linux 6", "python": "3.11"}
    when = {"date": "2026-01-05T00:00:00+00:00", "command": command, "commit": "abc", "load_before": 0.1, "took_s": 9.0}
    return {"machine": machine, "prepared": prepared} | when


def results() -> dict[str, Any]:
    rounds = [dict.fromkeys(STAGES, cost) for cost in (5.0, 6.0, 7.0)]
    size = {"payments": 1_000, "alerts": 10, "redis_us": 9.5, "cpu_us": rounds, "wall_us": rounds}
    naive = {"cpu_us": [700.0, 701.5, 702.0], "wall_us": [800.0] * 3, "redis_us": 100.0}
    runs = {
        kind: [
            {"events": 100, "alerts": 1, "wall_s": 1.0, "cpu_s": 0.5, "eps": eps + at, "eps_per_cpu_s": 2 * eps}
            | {"cpu_us_per_event": 5.0, "stage_s": dict.fromkeys(("publish", "commit", *STAGES), 0.1)}
            for at in range(2)
        ]
        for kind, eps in (("naive", 900.0), ("exactly_once", 18_000.0), ("at_least_once", 9_000.0))
    }
    cell: dict[str, Any] = {
        "kind": "exactly_once",
        "rate": 1_000,
        "latency": {"count": 20_000, "missing": 1, "duplicates": 0, "p50_ms": 12.0, "p90_ms": 20.0, "p99_ms": 41.0}
        | {"p99_9_ms": 60.0, "max_ms": 250.5, "max_at_s": 3.25, "within_200ms": 0.9985},
        "slowest": breakdown(Event(0, 1, 0, 200 * MS), [batch(50, (0, 3), enrich=5.0, commit=100.0)]),
        "cpu_percent": {"kafka": 30.0, "other": 40.0, "stolen": 1.0},
        "loadgen": {"rate_achieved": 950.0, "fell_short": True, "max_late_ms": 7.5, "undelivered": 3},
        "mean_batch": 20.0,
        "tiers": {"full": 15_000, "no_features": 5_000},
    }
    silent = cell | {"kind": "naive", "slowest": None}
    silent["latency"] = dict.fromkeys(cell["latency"]) | {
        "count": 9,
        "missing": 9,
        "duplicates": 0,
        "within_200ms": 0.0,
    }
    return {
        "stages": about("run stages") | {"rounds": 3, "sizes": {"1": size, "128": size}, "naive": naive},
        "saturation": about("run saturation") | {"rounds": 2, "runs": runs, "ratios": ratios(runs)},
        "latency": about("run latency") | {"seconds": 20, "warm_up_s": 5, "rates": [1_000], "cells": [cell, silent]},
    }


def test_the_report_has_every_run_every_target_and_the_maxima() -> None:
    text = render(results())
    for command in ("run stages", "run saturation", "run latency"):
        assert f"    {command}\n" in text
    assert "at most 35 us a payment. Measured 30.0 us a payment: **met.**" in text
    assert "- batch 128: 25.0, 30.0, 35.0" in text
    assert "(all rounds: 700.0, 701.5, 702.0)" in text
    assert "at least 15 times. Measured 20.0 times: **met.**" in text
    assert "at least 25 times. Measured 20.0 times: **not met.**" in text
    assert text.count("| 2 | ") == 3  # the second round of each kind
    assert "p99: at most 50 ms. Measured 41.0 ms: **met.**" in text
    assert "within 200 ms: at least 99.9 %. Measured 99.8500%: **not met.**" in text
    assert "at 2,000/s, p99: at most 75 ms. **Not measured.**" in text
    assert "250.5 ms, due 3.25 s into the window. Mostly **commit**." in text
    assert "fell short at 1,000/s" in text
    assert "not quiet at 1,000/s (Fraudline, exactly_once): 41 % of a core" in text
    assert "At 1,000/s (Fraudline, exactly_once) 25.0% of the payments were decided without the full tier" in text
    assert "no decision was received" in text


def test_a_run_that_needs_more_payments_than_there_are_is_refused_before_it_starts() -> None:
    wanted = run.arguments(["--quick", "--rates", "100000"])
    with pytest.raises(SystemExit, match="900,000 payments was asked for and the history has 130,000"):
        run.plan(wanted)
    assert list(run.plan(run.arguments(["--only", "saturation,stages"]))) == ["stages", "saturation"]


def test_results_are_merged_by_section_and_hold_no_nan(tmp_path: Path) -> None:
    known = results()
    run.merge(tmp_path, "latency", known["latency"] | {"odd": [float("nan"), (1.0, float("inf"))]})
    run.merge(tmp_path, "stages", known["stages"])
    merged = json.loads((tmp_path / "results.json").read_text())
    assert set(merged) == {"stages", "latency"}
    assert merged["latency"]["odd"] == [None, [1.0, None]]
    assert "run stages" in (tmp_path / "RESULTS.md").read_text()


def test_a_child_that_fails_is_told_with_what_it_said() -> None:
    with Child("bench.reader", {"nonsense": 1}) as child, pytest.raises(BenchError, match="--brokers"):
        child.wait_ready()


def test_quality_is_reported_with_every_run_and_a_verdict() -> None:
    run_ = {"setup": "default", "week": 94, "payments": 57_182, "frauds": 416, "trees": 300, "train_s": 60.0}
    run_ |= {"score_s": 13.0, "auc": 0.886, "ap": 0.7648, "recall_at_precision_90": 0.7, "card_precision_100": 0.31}
    summary = {name: {"mean": run_[name], "deviation": 0.01} for name in MEASURES}
    section = {"command": "python -m bench.quality FILE", "date": "2026", "commit": "abc", "machine": {"cpu": "a CPU"}}
    text = "\n".join(quality(section | {"setups": {"default": {"runs": [run_], "summary": summary}}}))
    assert "AP: at least 0.755. Measured 0.7648: **met.**" in text
    assert "recall at precision 0.9: at least 0.72. Measured 0.7000: **not met.**" in text
    assert "| default | 94 | 57,182 | 416 | 0.8860 | 0.7648 | 0.7000 | 0.3100 | 300 | 60.0 | 13.0 |" in text


def test_what_a_model_costs_is_told_for_every_engine_and_round() -> None:
    engines = ("by hand, DMatrix", "by hand, inplace_predict", *OURS)
    rounds = [{"p50_us": 10.0 * n, "p99_us": 20.0 * n, "max_us": 30.0 * n, "row_us": 5.0 * n} for n in (1, 2, 3)]
    paced = {"p50_ms": 4.0, "p99_ms": 16.0, "max_ms": 60.0, "batches": 99, "swapped_s": None}
    section = {
        "scoring": [{"engine": engine, "rows": size, "rounds": rounds} for engine in engines for size in (1, 128)],
        "largest_difference": 0.0,
        "policy": [{"payment_us": 2.5, "max_us": 9.0}],
        "reasons": [{"batch_ms": 3.5, "max_ms": 7.0, "by_hand_ms": 57.0}],
        "drift": [0.4],
        "swap": {"seconds": 3, "batch": 16, "every_ms": 20.0, "quiet": paced, "swap": paced | {"swapped_s": 0.8}},
    }
    lines = models(section)
    text = "\n".join(lines)
    for engine in engines:
        assert text.count(f"| {engine} |") == 2
    assert "p99, the worst round: at most 1 ms. Measured 0.06 ms: **met.**" in text
    assert "a row, median of the rounds: at most 4 us. Measured 10.0 us: **not met.**" in text
    assert "over an ordinary batch: at most 50 ms. Measured 56.0 ms: **not met.**" in text
    assert "10.0, 20.0, 30.0 | 20.0, 40.0, 60.0 | 90.0" in text
    assert text.count("| a promotion | 99 |") == 1
