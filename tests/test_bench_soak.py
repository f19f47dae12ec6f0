"""The judge of the soak calls what grows growing and what is only restless flat; its load is what it says it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import soak, soak_load
from bench.loadgen import SENT
from bench.reader import RECEIVED
from bench.report import render
from bench.report_soak import wrong
from bench.soak_judge import Slope, files_are_flat, held, slope
from bench.soak_load import Endless, Template, card_numbers
from bench.soak_plot import draw
from bench.soak_scene import dismiss
from bench.soak_watch import Calendar, Watch
from consumer.decode import Decoder
from consumer.telemetry import Health, Telemetry, serve
from features.event import Label, Payment
from tests.services.redis import RedisServer
from tests.support.bounds import longest_log
from tests.support.page import until

SECONDS = np.arange(1_500.0)
RNG = np.random.default_rng(4)
NOISE = RNG.normal(0, 2, len(SECONDS))
WALK = np.convolve(RNG.normal(0, 2, len(SECONDS) + 120), np.ones(120) / 11, "valid")[: len(SECONDS)]  # remembers 2 min
SAW = (SECONDS % 97) / 97 * 15  # as a collector makes it
LEVEL = 300.0


PEAKS = np.where(SECONDS % 300 < 5, 80, 0)


@pytest.mark.parametrize("restless", [NOISE, WALK, SAW, PEAKS], ids=["noise", "walk", "saw", "peaks"])
def test_a_restless_series_is_not_called_growing_and_a_leak_on_top_of_it_is_found(restless: Any) -> None:
    assert slope(SECONDS, LEVEL + restless).verdict != "growing"
    assert slope(SECONDS, LEVEL + restless + SECONDS / 3_600 * 0.5 * LEVEL).verdict == "growing"


@pytest.mark.parametrize("restless", [NOISE, SAW], ids=["noise", "saw"])
def test_what_does_not_remember_is_surely_flat(restless: Any) -> None:
    found = slope(SECONDS, LEVEL + restless)
    assert found.verdict == "flat"
    assert found.low < 0 < found.high


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (11.0, 13.0, "growing"),
        (0.1, 1.8, "growing"),
        (0.1, 1.7, "flat"),
        (-2.0, 15.0, "flat"),
        (-2.0, 15.1, "undecided"),
        (-20.0, -11.0, "flat"),
    ],
)
def test_growth_that_is_proven_is_told_unless_it_is_less_than_the_level_in_a_week(
    low: float, high: float, verdict: str
) -> None:
    """Of 300 MiB that is 1.79 MiB an hour; 5 % are 15."""
    assert Slope((low + high) / 2, low, high, LEVEL).verdict == verdict


def test_the_slope_is_in_units_an_hour_and_inside_its_interval() -> None:
    found = slope(SECONDS, 100 + NOISE + SECONDS / 3_600 * 36)
    assert found.low < found.per_hour < found.high
    assert found.per_hour == pytest.approx(36, abs=3)
    assert found.level == pytest.approx(107.5, abs=1)


def test_a_series_that_remembers_has_a_wider_interval_and_keeps_its_promise() -> None:
    """Of series without growth 95 in 100 should have zero in their interval; with independent points few do."""
    rng = np.random.default_rng(9)
    inside = 0
    for _ in range(100):
        walk = np.convolve(rng.normal(0, 1, 1_800), np.ones(300), "valid")[:1_500]
        found = slope(SECONDS, LEVEL + walk)
        inside += found.low <= 0 <= found.high
    assert inside >= 80


def test_a_series_that_can_t_be_judged_is_undecided_and_too_few_values_are_refused() -> None:
    assert slope(SECONDS[:60], 300 + 40 * np.sin(SECONDS[:60] / 9)).verdict == "undecided"
    with pytest.raises(ValueError, match="too few"):
        slope([1.0, 2.0], [1.0, 2.0])


def test_descriptors_that_grow_do_and_those_that_come_and_go_do_not() -> None:
    steady = [40 + (at % 60 < 5) * 6 for at in range(1_000)]
    assert files_are_flat(steady)
    assert not files_are_flat([count + at // 200 for at, count in enumerate(steady)])


def test_a_minute_without_a_decision_does_not_hold() -> None:
    assert held([10.0, 201.0, float("nan"), 200.0], 200.0) == [1, 2]


TEMPLATES = [
    Template(b"c-%d" % (number % 3), b'"merchant_id":"m","amount_minor":5,"currency":"EUR"}', b'"merchant_id":"m"}')
    for number in range(20)
]
NOW_MS = 1_750_000_000_000


def test_the_load_is_payments_and_labels_that_are_taken_with_new_ids_and_cards_that_return() -> None:
    labels: list[tuple[bytes, bytes]] = []
    load = Endless(TEMPLATES, 12_000, lambda key, value: labels.append((key, value)), lambda: NOW_MS)
    decoder = Decoder(max_payment_bytes=1_000, max_future_ms=0)
    payments = []
    for key, value in (load[index] for index in range(len(load))):
        payment = decoder.check(value, is_label=False)
        assert isinstance(payment, Payment), payment
        assert key == payment.card_id.encode()
        payments.append(payment)
    assert len({payment.event_id for payment in payments}) == 12_000
    assert len({payment.card_id for payment in payments}) == 3 + 2 * 600, "and each round of twenty brings two"
    assert load.labels == len(labels) == (12_000 - soak_load.LABEL_AFTER) // soak_load.LABEL_EVERY
    by_id = {payment.event_id: payment for payment in payments}
    for key, value in labels:
        label = decoder.check(value, is_label=True)
        assert isinstance(label, Label), label
        assert by_id[label.event_id].card_id == label.card_id == key.decode()
    numbers = card_numbers(TEMPLATES, np.arange(12_000))
    pairs = {(number, payment.card_id) for number, payment in zip(numbers.tolist(), payments, strict=True)}
    assert len(pairs) == len({number for number, _ in pairs}) == len({card for _, card in pairs})


def sent_and_received(count: int, rate: int) -> tuple[Any, Any]:
    """Payments of one partition, each decided 5 ms after it was due, the last one of the first minute after 900."""
    sent, received = np.zeros(count, SENT), np.zeros(count, RECEIVED)
    sent["offset"] = received["offset"] = np.arange(count)
    sent["intended_ns"] = np.arange(count) * 1_000_000_000 // rate
    received["received_ns"] = sent["intended_ns"] + 5_000_000
    received["received_ns"][60 * rate - 1 : 60 * rate] += 895_000_000
    return sent, received


def test_latency_is_told_by_the_minute_of_when_a_payment_was_due() -> None:
    sent, received = sent_and_received(300, 2)
    first, second, third = soak.by_minute(sent, received[:-60], 2)
    assert first["p50_ms"] == second["p99_ms"] == 5
    assert (first["max_ms"], second["max_ms"]) == (900, 5)
    assert np.isnan(third["p50_ms"])


def test_decisions_of_a_card_that_change_places_are_counted_and_those_of_others_are_not(tmp_path: Path) -> None:
    history = tmp_path / "payments.jsonl"
    records = [{"event_id": "e", "event_time": 1, "card_id": f"c{number % 2}"} for number in range(30)]
    history.write_text("".join(json.dumps(record) + "\n" for record in records))
    sent, received = sent_and_received(30, 2)
    assert soak.out_of_order(sent, received, history) == 0
    assert soak.out_of_order(sent, received[[1, 2, 3, 4]], history) == 0
    assert soak.out_of_order(sent, received[[2, 1, 4, 3]], history) == 0, "they are of two cards"
    assert soak.out_of_order(sent, received[[1, 5, 3, 4]], history) == 1


def document() -> dict[str, Any]:
    """A soak as it is put into the results."""
    memory = {
        "per_hour": 1.0,
        "low": -2.0,
        "high": 3.0,
        "level": 300.0,
        "verdict": "flat",
        "first": 250.0,
        "last": 1.0,
        "largest": 310.0,
    }
    minute = {"p50_ms": 9.0, "p99_ms": 40.0, "p99_9_ms": 60.0, "max_ms": 90.0, "worker_mib": 295.0}
    return {
        "minutes": 2.0, "rate": 500, "note": "Beside other work.", "warm_up_s": 24.0,
        "memory": {"worker_rss_mib": memory},
        "events": [{"at_s": 61.0, "what": "promotion"}], "failures": [], "tiers": {"full": 100}, "lag_largest": 4.0,
        "files": {"worker_files": {"more": 0.0, "largest": 40.0, "flat": True}}, "committed_is_end": True,
        "redis": {
            "mib": 9.0, "keys": 3.0, "first_mib": 8.0, "first_keys": 2.0, "bytes_a_key": 4.0, "longest_log": 9_000,
            "bound_bytes": 16_384,
        },
        "load": {"count": 60_000, "delivered": 60_000, "labels": 10}, "out_of_order": 0, "minutes_not_held": [],
        "latency": {"missing": 0, "duplicates": 0, "within_200ms": 1.0} | minute, "by_minute": [minute, minute],
        "news_on_page": 3, "collections": {"count": 4.0, "spent_s": 0.1}, "date": "2026-01-01", "commit": "abc",
        "took_s": 130.0, "load_before": 0.1, "command": "python -m bench.soak",
        "machine": {"cpu": "x", "cores": 2, "memory_gib": 4, "kernel": "k", "python": "3"},
        "prepared": {
            "features": 95, "model": {"trees": 2, "leaves": 9}, "naive_model": {"trees": 2, "leaves": 9},
            "naive_features": 28, "primed_payments": 10,
        },
    }  # fmt: skip


def test_the_report_says_what_held_and_what_did_not() -> None:
    text = render({"soak": document()})
    assert "Beside other work." in text
    assert "Each payment has one decision: 0 missing, 0 twice, 0 out of their card's order" in text
    assert text.count("**Held.**") == 3
    broken = document() | {"minutes_not_held": [1], "failures": ["the page ended with status 1"], "out_of_order": 2}
    text = render({"soak": broken | {"tiers": {"full": 2, "no_features": 1}}})
    assert text.count("**Not held.**") == 3
    assert "by tier: full 2, no_features 1." in text
    assert "not in minutes 2." in text
    assert "- Wrong: the page ended with status 1." in text


def change(section: dict[str, Any], *path: str, to: object) -> dict[str, Any]:
    first, *rest = path
    return section | {first: change(section[first], *rest, to=to) if rest else to}


def test_a_soak_in_which_all_holds_has_nothing_wrong() -> None:
    assert wrong(document()) == []
    assert wrong(change(document(), "memory", "worker_rss_mib", "verdict", to="undecided")) == []
    assert wrong(change(document(), "tiers", to={"full": 90, "small": 900, "no_features": 10})) == []


@pytest.mark.parametrize(
    ("path", "to", "says"),
    [
        (("latency", "missing"), 2, "2 payments have no decision"),
        (("latency", "duplicates"), 1, "1 decisions came twice"),
        (("out_of_order",), 3, "3 decisions are out of their card's order"),
        (("load", "delivered"), 59_999, "1 payments were not delivered to Kafka"),
        (("minutes_not_held",), [1], "1 minutes have a p99 above 200 ms"),
        (("committed_is_end",), False, "not every offset is committed"),
        (("memory", "worker_rss_mib", "verdict"), "growing", "worker, resident: memory grows"),
        (("files", "worker_files", "flat"), False, "worker: descriptors grow"),
        (("redis", "longest_log"), 16_385, "a log in Redis has 16,385 bytes, 16,384 at most are due"),
        (("failures",), ["promotion: no champion"], "promotion: no champion"),
        (
            ("tiers",),
            {"full": 900, "small": 89, "no_features": 10, "rules_only": 1},
            "11 of 1,000 decisions lack features or a model, 1% at most may",
        ),
        (("tiers",), {"no_features": 5}, "5 of 5 decisions lack features or a model, 1% at most may"),
    ],
)
def test_each_thing_that_a_soak_judges_can_break_it(path: tuple[str, ...], to: object, says: str) -> None:
    assert wrong(change(document(), *path, to=to)) == [says]


@pytest.mark.parametrize("words", [["--minutes", "0.1"], ["--minutes", "nan"], ["--rate", "0"]])
def test_a_soak_that_could_not_be_judged_is_refused_before_it_begins(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        soak.main(words)
    assert ended.value.code == 2
    assert f"{words[0]} must be" in capsys.readouterr().err


def test_the_plot_is_a_picture(tmp_path: Path) -> None:
    rows = [
        {"at_s": float(at), "worker_rss_mib": 300.0, "redis_mib": 9.0, "redis_keys": 5.0, "lag": 0.0} for at in range(9)
    ]
    draw(document(), rows, tmp_path / "plots" / "soak.png")
    assert (tmp_path / "plots" / "soak.png").read_bytes().startswith(b"\x89PNG")


def test_a_watch_notes_processes_redis_lag_and_collections(redis_server: RedisServer, tmp_path: Path) -> None:
    collections = tmp_path / "collections"
    collections.write_text("2 0.5\n3 0.75\n")
    telemetry = Telemetry()
    telemetry.backlog({0: 7, 1: 5}, 0)
    with closing(serve(telemetry, Health(), "127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.port}/metrics"
        with Watch({"own": os.getpid()}, redis_url=redis_server.url, metrics=address, collections=collections) as watch:
            until(lambda: any("collections" in row for row in watch.rows))
    row = next(row for row in watch.rows if "collections" in row)
    assert (row["collections"], row["collecting_s"]) == (3, 0.75)
    assert row["own_rss_mib"] > row["own_uss_mib"] > 1
    assert min(row["own_files"], row["own_threads"], row["redis_mib"]) > 0
    assert watch.series("lag")[1][0] == 12
    assert watch.by_minute("own_rss_mib") == [pytest.approx(np.mean(watch.series("own_rss_mib")[1]))]
    assert watch.by_minute("nothing") == []


def test_the_longest_log_is_found_among_all_of_its_namespace(redis_server: RedisServer) -> None:
    with redis_server.client() as client:
        for number in range(5_100):
            client.set(f"soak-x:v1:{{s0}}:c:card-{number}", b"x" * (900 if number == 77 else 10))
        client.set("soak-x:v1:{s0}:position", b"x" * 2_000)
        client.set("soak-y:v1:{s0}:c:card", b"x" * 3_000)
    assert longest_log(redis_server, "soak-x") == 900
    with pytest.raises(ValueError, match="There is no log"):
        longest_log(redis_server, "soak-none")


@pytest.mark.parametrize(
    ("does", "says"),
    [
        ("signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))", ""),
        ("signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))", "the visitor ended with status 3"),
        ("signal.signal(signal.SIGTERM, signal.SIG_IGN)", "the visitor did not end in 2 s and was killed"),
    ],
    ids=["goes", "fails", "stays"],
)
def test_who_does_not_go_when_asked_is_killed_and_told_of(does: str, says: str) -> None:
    """A second worker that stayed would share its transactional id with the next one."""
    program = f"import signal, sys, time; {does}; print('up', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            assert dismiss("visitor", process, within_s=2.0) == says
            assert process.poll() is not None
        finally:
            process.kill()


def test_what_goes_wrong_beside_the_load_is_noted_and_does_not_end_it() -> None:
    calendar = Calendar()
    turns: list[int] = []

    def act() -> None:
        turns.append(1)
        if len(turns) == 1:
            raise RuntimeError("no champion")

    calendar.every(0.01, "promotion", act)
    until(lambda: len(turns) > 2)
    calendar.stop()
    assert calendar.failures == ["promotion: no champion"]
    assert [event["what"] for event in calendar.events] == ["promotion"] * len(turns)
