"""Growth: what is planned, what payments and states become at a point, and a report that leaves no run out."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import pytest

from bench.growth import CASES, QUICK_CASES, together
from bench.growth_backlog import Case, thinned
from bench.growth_settings import (
    AXES,
    FULL,
    USUAL,
    Crowded,
    Point,
    crowd,
    grown,
    most_cards,
    part_of,
    points,
    stack_of,
)
from bench.loadgen import read_payments
from bench.prepare import FULL as SIZES
from bench.prepare import QUICK as QUICK_SIZES
from bench.prepare import Prepared, Sizes, prime
from bench.report_growth import PLOT, draw, on_axis
from bench.report_growth import growth as rendered
from bench.stack import Stack
from consumer.simulator import PAYMENTS_FILE, Simulation, write
from features.catalog import DEFAULT
from features.enrich import Enricher
from features.event import Payment, batch_of
from features.redis_store import RedisStore
from features.store import Span
from tests.services.redis import RedisServer

HISTORY = 60
LATENCY = {"p50_ms": 20.0, "p99_ms": 48.0, "max_ms": 90.0, "missing": 0}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    home = tmp_path_factory.mktemp("history")
    write(Simulation(payments=HISTORY, seed=1), home)
    return Prepared(Sizes(HISTORY, HISTORY, 20), home / PAYMENTS_FILE, home / "bundle", home / "naive.ubj")


def test_every_value_has_one_run_and_what_is_usual_is_run_once() -> None:
    plan = points(quick=False, most_cards=10**9)
    assert plan[0] == Point(None, 0)
    assert len(plan) == len(set(plan))
    for axis in AXES:
        values = [each.value for each in plan if each.axis == axis]
        assert [*values, *([USUAL[axis]] if axis in USUAL else [])] == sorted(
            FULL[axis], key=lambda v: v == USUAL.get(axis)
        )
    assert {each.axis for each in points(quick=True, most_cards=10**9)} == {None, *AXES}


def test_what_memory_does_not_hold_is_left_out() -> None:
    assert most_cards(10**9) == 1_428_571
    plan = points(quick=False, most_cards=most_cards(10**9))
    assert max(each.value for each in plan if each.axis == "entities") == 1_000_000


def test_payments_come_from_a_crowd_or_from_one_place() -> None:
    lines = [orjson.dumps({"event_id": str(at), "card_id": "c", "merchant_id": "m"}) for at in range(4_000)]
    crowd = [orjson.loads(line) for line in grown(lines, Point("entities", 1_000))]
    assert {each["event_id"] for each in crowd} == {str(at) for at in range(4_000)}
    assert 950 < len({each["card_id"] for each in crowd}) <= 1_000
    assert {each["merchant_id"] for each in crowd} == {"m"}
    for axis, field, other in (("hot card", "card_id", "merchant_id"), ("hot merchant", "merchant_id", "card_id")):
        found = [orjson.loads(line) for line in grown(lines, Point(axis, 50))]
        assert Counter(each[field] for each in found)["hot"] == pytest.approx(2_000, rel=0.1)
        assert "hot" not in {each[other] for each in found}


def test_a_part_of_the_catalog_keeps_the_logs_of_the_whole() -> None:
    few = part_of(DEFAULT, 20)
    assert few.names == DEFAULT.names[::20]
    assert few.entities != DEFAULT.entities
    assert (few.logged, few.limits) == (DEFAULT.logged, DEFAULT.limits)
    for one_of in FULL["catalog"]:
        assert part_of(DEFAULT, one_of).payment_columns, "the model for outages needs some"


def test_a_point_changes_the_payments_that_follow_the_primed_ones(prepared: Prepared, tmp_path: Path) -> None:
    stack: Any = Stack(None, None, prepared, tmp_path)  # type: ignore[arg-type]  # no service is asked
    assert stack_of(stack, Point("partitions", 16), payments=10).partitions == 16
    assert stack_of(stack, Point(None, 0), payments=10) is stack
    there = stack_of(stack, Point("hot merchant", 90), payments=30)
    known, written = prepared.payments.read_bytes().splitlines(), there.prepared.payments.read_bytes().splitlines()
    assert (written[:20], len(written)) == (known[:20], 50)
    assert sum(orjson.loads(line)["merchant_id"] == "hot" for line in written[20:]) > 20
    crowded = stack_of(stack, Point("entities", 500), payments=30)
    assert isinstance(crowded, Crowded)
    assert crowded.cards == 500


@pytest.mark.redis
def test_every_card_of_a_crowd_has_paid_once_before(prepared: Prepared) -> None:
    with RedisServer() as redis:
        prime(redis.url, "crowd", read_payments(prepared.payments, HISTORY))
        crowd(redis, "crowd", 25_000)
        with redis.client() as client:
            assert sum(1 for _ in client.scan_iter(match="crowd:*:c:grown*", count=5_000)) == 25_000
        with closing(RedisStore(redis.url, namespace="crowd", timeout_ms=1_000)) as store:
            enricher, epochs = Enricher(DEFAULT, store), [each.epoch for each in store.positions()]
            store.adopt({("payments", 0): 0})
            last = orjson.loads(prepared.payments.read_bytes().splitlines()[-1])["event_time"]
            cards = ("grown0000000000", "grown0000024999", "grown0000025000")
            paid = [Payment(f"new-{card}", last, card, "shop", 100, "EUR") for card in cards]
            batch = batch_of(paid, topic="payments", partition=[0] * 3, offset=range(3))
            values = enricher.enrich(batch, (Span("payments", 0, 0, 3, 3),), epochs).values
    assert values[:, DEFAULT.names.index("card_count_30d")].tolist() == [2.0, 2.0, 1.0]


def test_what_processes_did_together_is_one_interval() -> None:
    both = together([worker(30, wall_s=2.0, cpu_s=1.0), worker(10, wall_s=4.0, cpu_s=1.5)])
    assert (both["events"], both["wall_s"], both["cpu_s"]) == (40, 4.0, 2.5)
    assert (both["eps"], both["eps_per_cpu_s"], both["shares"], both["mean_batch"]) == (10.0, 16.0, [0.75, 0.25], 10.0)


def test_samples_of_a_backlog_keep_its_ends() -> None:
    samples = [(float(at), at) for at in range(1_000)]
    few = thinned(samples, 50)
    assert (len(few), few[0], few[-1]) == (50, samples[0], samples[-1])
    assert thinned(samples[:10], 50) == samples[:10]
    assert Case(2_000, outage_s=60, after_s=60).payments == 260_000


def test_the_longest_backlog_fits_the_history() -> None:
    for cases, sizes in ((CASES, SIZES), (QUICK_CASES, QUICK_SIZES)):
        assert max(each.payments for each in cases) <= sizes.history - sizes.primed


def test_the_report_shows_every_run_and_draws_all_axes(tmp_path: Path) -> None:
    section = measured()
    text = "\n".join(rendered(section))
    for axis in AXES:
        shown = [each["value"] for each in on_axis(section["points"], axis)]
        assert shown == [value for value in FULL[axis] if value != 10_000_000]
    assert text.count("| *") == len(USUAL), "the usual run is marked in each table that it belongs to"
    assert "There was no memory for 10,000,000 entities." in text
    assert f"| {len(DEFAULT.names[::3])} |" in text, "the features that there were, not the part that was asked for"
    assert "Measured 1.82 times: **met.**" in text
    assert "Measured 31.5 s: **met.**" in text
    assert "not in time" in text
    assert text.count("| 1.90 | 20.0 | 48.0 | 90.0 | 0 |") == 4, "open loops of one and two processes, twice"
    assert "(the load had ended)" in text
    draw(section, tmp_path)
    assert (tmp_path / PLOT).stat().st_size > 20_000


def test_a_backlog_that_stays_is_no_target_met() -> None:
    section = measured()
    section["backlog"][0] |= {"caught_up_s": None, "under_load": False}
    [line] = [each for each in rendered(section) if each.startswith("- catch-up")]
    assert line.endswith("**not met.**")


def measured() -> dict[str, Any]:
    """A section as a full run leaves it, without ten million entities."""
    plan = points(quick=False, most_cards=2_000_000)
    cell = {"cell": {"latency": LATENCY}}
    one = together([worker(100, wall_s=1.0, cpu_s=1.0)]) | cell
    two = together([worker(50, wall_s=0.8, cpu_s=0.5), worker(50, wall_s=0.9, cpu_s=0.6)]) | cell
    rounds = [{"1": one, "2": two, "loops": 1.9}] * 2
    case = {"outage_s": 60, "usual_lag": 90, "lag_at_restart": 120_000, "ready_s": 3.2, "rate_achieved": 1_999.0}
    case |= {"samples": [(-60.0, 0), (0.0, 120_000), (31.5, 80)]}
    return {
        "rate": 2_000,
        "payments": 40_000,
        "skipped": [10_000_000],
        "points": [measured_point(each) for each in plan],
        "processes": rounds,
        "backlog": [
            case | {"rate": 2_000, "caught_up_s": 31.5, "under_load": True},
            case | {"rate": 5_000, "caught_up_s": 80.0, "under_load": False},
            case | {"rate": 20_000, "caught_up_s": None, "under_load": False},
        ],
    }


def measured_point(point: Point) -> dict[str, Any]:
    features = len(part_of(DEFAULT, point.value).names) if point.axis == "catalog" else len(DEFAULT.names)
    run = {"eps": 9_000.0, "eps_per_cpu_s": 11_000.0, "cpu_us_per_event": 91.0, "mean_batch": 512.0}
    return {
        "axis": point.axis,
        "value": point.value,
        "features": features,
        "trees": point.value if point.axis == "trees" else 200,
        "run": run | {"events": 40_000, "alerts": 400},
        "cell": {"latency": LATENCY},
    }


def worker(events: int, *, wall_s: float, cpu_s: float) -> dict[str, Any]:
    return {"events": events, "wall_s": wall_s, "cpu_s": cpu_s, "batches": 2}
