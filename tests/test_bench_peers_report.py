"""What is said of the peers: what was kept is merged, judged and rendered without leaving anything out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.peers import lines, results
from bench.peers.catalog import EVERYBODY, PEERS, named
from bench.peers.contest import Entry
from bench.peers.entries import entries_of, middle
from bench.peers.judge import Decisions, Kept, judge_counters, judge_decisions, sums_of
from bench.peers.latency import arrivals, duplicates, percentiles
from bench.peers.measure import FULL, QUICK
from bench.peers.plots import CEILING_MS, draw
from bench.peers.plots import latency as latency_picture
from bench.peers.reader import ARRIVED, arrived
from bench.peers.report import peers
from bench.peers.run import arguments
from bench.peers.run import entries_of as asked
from bench.peers.saturation import interval
from bench.prepare import FULL as FULL_SIZES
from bench.prepare import QUICK as QUICK_SIZES
from bench.processes import BenchError
from bench.report import render
from bench.run import write_report

MS = 1_000_000


def told(*event_ids: str, score: float = 0.1) -> list[dict[str, Any]]:
    return [{"event_id": each, "decision": "approve", "score": score} for each in event_ids]


def test_each_error_in_decisions_is_found_by_itself() -> None:
    ids = ["a", "b", "c", "d"]
    assert judge_decisions(ids, told(*ids)) == Decisions(4, lost=0, repeated=0, differing=0, unknown=0)
    assert judge_decisions(ids, told("a", "c", "d")) == Decisions(4, lost=1, repeated=0, differing=0, unknown=0)
    assert judge_decisions(ids, told(*ids, "b", "b")) == Decisions(4, lost=0, repeated=1, differing=0, unknown=0)
    assert judge_decisions(ids, told(*ids, "x")) == Decisions(4, lost=0, repeated=0, differing=0, unknown=1)
    otherwise = told("b", score=0.2)
    assert judge_decisions(ids, told(*ids) + otherwise) == Decisions(4, lost=0, repeated=1, differing=1, unknown=0)


def payment(card: str, amount: int, device: str | None = None) -> dict[str, Any]:
    made = {"event_time": 1_750_000_000_000, "card_id": card, "merchant_id": "m", "amount_minor": amount}
    return made if device is None else made | {"device_id": device}


def test_each_error_in_counters_is_found_by_itself() -> None:
    truth = sums_of([payment("c", 100), payment("c", 50, "d"), payment("e", 7)])
    assert len(truth) == 4 * 4  # windows of two cards, a merchant and a device
    assert sorted(set(truth.values())) == [(1, 7), (1, 50), (2, 150), (3, 157)]
    [key] = [key for key, sums in truth.items() if sums == (2, 150) and ":1h:" in key]
    assert judge_counters(truth, truth) == Kept("counters", 16, wrong=0, missing=0, excess=0)
    assert judge_counters(truth, truth | {key: (1, 100)}) == Kept("counters", 16, wrong=1, missing=1, excess=0)
    assert judge_counters(truth, truth | {key: (4, 250)}) == Kept("counters", 16, wrong=1, missing=0, excess=2)
    assert judge_counters(truth, truth | {key: (2, 149)}) == Kept("counters", 16, wrong=1, missing=0, excess=0)
    assert judge_counters(truth, truth | {"strange": (1, 1)}) == Kept("counters", 16, wrong=1, missing=0, excess=1)
    gone = {name: sums for name, sums in truth.items() if name != key}
    assert judge_counters(truth, gone) == Kept("counters", 16, wrong=1, missing=2, excess=0)


def test_a_missing_decision_is_later_than_any_other(tmp_path: Path) -> None:
    sent = np.zeros(4, [("intended_ns", "<i8")])
    sent["intended_ns"] = [0, 10 * MS, 20 * MS, 30 * MS]
    rows = [(0, 5 * MS), (2, 320 * MS), (0, 9 * MS), (-1, 1), (1, 30 * MS)]
    np.save(tmp_path / "sent.npy", sent)
    np.save(tmp_path / "received.npy", np.array(rows, ARRIVED))
    due_ns, received_ns = arrivals(tmp_path / "sent.npy", tmp_path / "received.npy")
    assert received_ns.tolist() == [5 * MS, 30 * MS, 320 * MS, -1]
    assert duplicates(tmp_path / "received.npy") == 1
    found = percentiles(due_ns, received_ns)
    assert (found["count"], found["missing"], found["within_200ms"]) == (4, 1, 0.5)
    assert (found["p50_ms"], found["max_ms"]) == (300.0, float("inf"))  # of two in the middle the later
    assert percentiles(due_ns[:3], received_ns[:3])["max_ms"] == 300.0


def test_decisions_are_joined_to_payments_by_event_id() -> None:
    sent = [(b"k", b'{"event_id": "a", "amount_minor": 1}'), (b"k", b'{"amount_minor": 2, "event_id": "b"}')]
    assert arrived(sent, [("b", 7), ("x", 8), ("a", 9)]).tolist() == [(1, 7), (-1, 8), (0, 9)]


def test_what_counts_begins_after_the_warm_up_and_ends_in_time() -> None:
    assert interval(np.array([1_000, 5_000, 3_000]), 10.0) == (2_600, 5_000)
    assert interval(np.array([1_000, 90_000]), 8.0) == (4_200, 9_000)
    for few in ([], [7], [7, 7]):
        with pytest.raises(BenchError, match="too few"):
            interval(np.array(few, np.int64), 10.0)


def test_lines_of_code_are_lines_with_code() -> None:
    head = ['"""What it is.', "", 'More."""', "", "import os  # for this", "", "# why", "def f(a,", "      b):"]
    body = ['    """Does."""', "    return (", "        a", "    )", "", 'X = """one', "", 'three"""', ""]
    source = "\n".join([*head, *body])
    assert lines.count(source) == 1 + 2 + 3 + 3
    assert lines.count("") == 0


def test_a_variant_counts_what_it_imports_of_its_own_folder() -> None:
    confluent = named("confluent")
    own = [path.name for path in lines.files_of(confluent, "own_batches")]
    assert own == ["clients.py", "own_batches.py"]
    counted = sum(lines.count((confluent.home / name).read_text()) for name in own)
    assert lines.lines_of(confluent, "own_batches") == counted
    assert [path.name for path in lines.files_of(named("kafka-python"), "per_event")] == ["per_event.py"]


def test_plans_fit_the_histories_that_they_take_payments_from() -> None:
    assert FULL_SIZES.history - FULL_SIZES.primed >= FULL.needed
    assert QUICK_SIZES.history - QUICK_SIZES.primed >= QUICK.needed


def test_fraudline_is_always_measured_beside_who_is_asked_for() -> None:
    assert asked(None) == [Entry(peer, variant) for peer in EVERYBODY for variant in peer.variants]
    names = [entry.name for entry in asked(["confluent:own_batches", "kafka-python", "fraudline"])]
    assert names == [
        "fraudline-exactly_once",
        "fraudline-at_least_once",
        "confluent-own_batches",
        "kafka-python-per_event",
    ]
    with pytest.raises(SystemExit, match="no peer 'other'"):
        asked(["other"])
    with pytest.raises(SystemExit, match="kafka-python has no variant 'own_batches'; there are per_event"):
        asked(["kafka-python:own_batches"])
    assert arguments(["--what", "kills,saturation"]).what == ["saturation", "kills"]
    with pytest.raises(SystemExit):
        arguments(["--what", "speed"])


def occasion(date: str, command: str = "python -m bench.peers.run") -> dict[str, Any]:
    versions = dict.fromkeys(("python", "kafka", "redis-server", "java", "xgboost", "numpy"), "1")
    machine = {"cpu": "X", "cores": 2, "memory_gib": 8.0, "kernel": "Linux 6"} | versions
    when = {"date": date, "commit": "abc", "load_before": 0.1, "command": command}
    return when | {"machine": machine, "prepared": {"primed_payments": 60_000}}


ABOUT = {"version": "9.9", "lines": 33, "took_s": 1.0}


def saturated(*rates: float) -> dict[str, Any]:
    used = {"tree": 90.0, "kafka": 20.0, "redis": 10.0, "other": 100.0, "stolen": 0.5}
    runs = [
        {"eps": rate, "eps_per_cpu_s": 2 * rate, "decided": 1_000, "window_s": 9.0, "peak_mib": 77.0, "processes": 3}
        | {"cpu_percent": used, "first_decision_s": 1.5}
        for rate in rates
    ]
    return ABOUT | {"seconds": 12.0, "runs": runs}


def opened(p99_ms: float | None, missing: int = 0) -> dict[str, Any]:
    cell = {"rate": 2_000, "count": 100, "missing": missing, "duplicates": 4, "within_200ms": 0.5, "peak_mib": 88.0}
    cell |= {"p50_ms": 3.5, "p90_ms": 4.0, "p99_ms": p99_ms, "p99_9_ms": p99_ms, "max_ms": p99_ms}
    load = {"fell_short": missing > 0, "rate_achieved": 1_900.0, "max_late_ms": 12.0, "undelivered": 0}
    return ABOUT | {"cells": [cell | {"cpu_percent": {"tree": 55.0, "other": 60.0, "stolen": 0.5}, "loadgen": load}]}


def killed(lost: int) -> dict[str, Any]:
    decisions = {"payments": 1_234, "lost": lost, "repeated": 17, "differing": 5, "unknown": 0}
    kept = {"what": "counters", "keys": 4_321, "wrong": 66, "missing": 2, "excess": 99}
    return ABOUT | {"kills": 3, "back_s": [7.25, 8.5], "decisions": decisions, "kept": kept}


def measured() -> results.Results:
    found: results.Results = {"occasions": {}, "peers": {}}
    first, second = occasion("2026-01-01"), occasion("2026-01-02", "python -m bench.peers.run --only confluent")
    for peer, variant, rates in (
        ("fraudline", "exactly_once", (10_000.0, 12_000.0, 90_000.0)),
        ("confluent", "per_event", (1_000.0,)),
        ("confluent", "own_batches", (8_000.0,)),
        ("confluent", "our_batches", (9_000.0,)),
    ):
        when = first if peer == "fraudline" else second
        found = results.merge(found, peer, variant, "saturation", saturated(*rates), when)
    found = results.merge(found, "fraudline", "exactly_once", "latency", opened(41.0), first)
    found = results.merge(found, "confluent", "own_batches", "latency", opened(None, missing=60), second)
    found = results.merge(found, "fraudline", "exactly_once", "kills", killed(0), first)
    found = results.merge(found, "confluent", "per_event", "kills", killed(31), second)
    failed = ABOUT | {"failed": "it ended by itself; it said:\nTraceback\n  deep\nOSError: no\n"}
    return results.merge(found, "kafka-python", "per_event", "saturation", failed | {"runs": []}, second)


def test_parts_are_merged_and_occasions_that_nothing_is_left_of_go() -> None:
    found = measured()
    assert sorted(found["occasions"]) == ["2026-01-01", "2026-01-02"]
    third = occasion("2026-01-03")
    for what, new in (("saturation", saturated(5.0)), ("latency", opened(1.0)), ("kills", killed(0))):
        before = json.dumps(found)
        again = results.merge(found, "fraudline", "exactly_once", what, new, third)  # type: ignore[arg-type]
        assert json.dumps(found) == before
        found = again
    assert sorted(found["occasions"]) == ["2026-01-02", "2026-01-03"]
    assert found["peers"]["fraudline"]["exactly_once"]["latency"]["occasion"] == "2026-01-03"
    assert len(found["peers"]["confluent"]) == 3
    other = occasion("2026-01-03", "another")
    twice = results.merge(found, "confluent", "per_event", "kills", killed(0), other)
    assert sorted(twice["occasions"]) == ["2026-01-02", "2026-01-03", "2026-01-03+"]


def test_results_are_read_as_they_were_written_and_nothing_else_is(tmp_path: Path) -> None:
    path = tmp_path / "peers" / "results.json"
    assert results.load(path) == {"occasions": {}, "peers": {}}
    found = results.merge(
        measured(), "confluent", "own_batches", "latency", opened(float("inf")), occasion("2026-01-04")
    )
    results.save(path, found)
    assert results.load(path) == found
    assert found["peers"]["confluent"]["own_batches"]["latency"]["cells"][0]["max_ms"] is None
    for wrong, why in (("{", "is no JSON"), ("[]", "no file of results"), ('{"peers": {}}', "no file of results")):
        path.write_text(wrong)
        with pytest.raises(SystemExit, match=why):
            results.load(path)


def test_the_report_has_every_run_every_target_and_every_error() -> None:
    text = "\n".join(peers(measured()))
    assert "    python -m bench.peers.run --only confluent\n" in text
    assert "Versions: fraudline 9.9, kafka-python 9.9, confluent-kafka 9.9." in text
    for name in ("Quix", "Faust", "flink"):
        assert name.lower() in text.lower()
    assert "over the best peer in batches of its own (naive loop done well, on confluent-kafka, batches" in text
    assert "at least 2 times. Measured 1.50 times: **not met.**" in text
    assert "at least 1 times. Measured 1.33 times: **met.**" in text
    assert "lower than every peer's. Measured 41.0 ms, the best peer" in text
    assert "not in time ms: **met.**" in text
    for run in ("10,000", "12,000", "90,000"):
        assert f"| {run} |" in text
    assert "| 12.0x | 12.0x |" in text  # the median over the one-at-a-time loop's
    assert "| 8.00x | 8.00x | 1.12x | 1.12x | 1.33x | 1.33x |" in text  # what each step gives
    assert "| 1,234 | 31 | 17 | 5 | 0 | 66 of 4,321 counters | 2 | 99 | 7.25, 8.50 |" in text
    assert "| 50.00% | 60 | 4 | 55.0 | 5.00 | 0.50 | 88.0 |" in text
    assert "- The load generator fell short with naive loop done well" in text
    failed = "- naive loop on kafka-python, one payment at a time failed: it ended by itself; it said: ... OSError: no"
    assert failed in text.splitlines()
    assert "Traceback" not in text
    head = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.count("|") > 7 or set(line) <= set("|-: ") for line in head)


def test_a_slower_p99_than_a_peers_is_not_met() -> None:
    found = results.merge(measured(), "confluent", "own_batches", "latency", opened(40.5), occasion("2026-01-02"))
    assert "lower than every peer's. Measured 41.0 ms, the best peer" in "\n".join(peers(found))
    assert "40.5 ms: **not met.**" in "\n".join(peers(found))


def test_any_error_after_kills_is_not_met() -> None:
    found = measured()
    said = "Measured 17 repeated, 5 differing, 66 wrong counters in 1,234 payments and 3 kills: **not met.**"
    assert said in "\n".join(peers(found))
    of = found["peers"]["fraudline"]["exactly_once"]["kills"]
    of["decisions"] |= {"repeated": 0, "differing": 0}
    assert "Measured 66 wrong counters in" in "\n".join(peers(found))
    of["kept"]["wrong"] = 0
    assert "Measured no error in 1,234 payments and 3 kills: **met.**" in "\n".join(peers(found))


def test_nothing_measured_is_said_to_be_met() -> None:
    text = "\n".join(peers({"occasions": {}, "peers": {}}))
    assert text.count("**Not measured.**") == 8
    assert "met.**" not in text.replace("Not measured", "")


def test_medians_are_of_the_runs_that_there_are() -> None:
    found = entries_of(measured())
    assert middle(found["fraudline", "exactly_once"], "eps") == 12_000.0
    assert middle(found["kafka-python", "per_event"], "eps") is None
    assert next(iter(found)) == ("fraudline", "exactly_once")


def test_the_peers_are_a_section_of_the_whole_report_whoever_writes_it(tmp_path: Path) -> None:
    results.save(tmp_path / "peers" / "results.json", measured())
    write_report(tmp_path, {})
    written = (tmp_path / "RESULTS.md").read_text()
    assert "## Peers: other stream processors at the same work" in written
    assert written == render({"peers": measured()})
    (tmp_path / "peers" / "results.json").unlink()
    write_report(tmp_path, {})
    assert "## Peers" not in (tmp_path / "RESULTS.md").read_text()


def test_two_pictures_are_drawn_also_of_latencies_that_nobody_knows(tmp_path: Path) -> None:
    draw(measured(), tmp_path / "plots")
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == ["peers-cpu.png", "peers-latency.png"]
    draw({"occasions": {}, "peers": {}}, tmp_path / "none")
    assert not list((tmp_path / "none").iterdir())


def test_what_is_not_in_time_is_drawn_on_top() -> None:
    figure = latency_picture(entries_of(measured()))
    assert figure is not None
    for axes in figure.axes[1:]:  # p99 and p99.9
        drawn = [list(line.get_ydata()) for line in axes.get_lines() if len(line.get_xdata()) == 1]
        assert drawn == [[41.0], [CEILING_MS]]


def test_every_peer_tells_its_version() -> None:
    for peer in PEERS:
        assert peer.version[0].isdigit()
