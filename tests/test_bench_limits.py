"""The report of the limits: gaps are taken from the same rounds, nothing is left out, and there is a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from bench.limits import SERVER, STAGES
from bench.report_limits import PLOT, costs, draw, limits, waterfall


def section(cost: float) -> dict[str, Any]:
    readings = {
        "decode": {"a parser": 1.0},
        "score": {"trees": 2.0},
        "encode": {"a writer": 1.0},
        "exchange": {"plain": {"client_us": 3.0, "redis_us": 4.0}},
        "fold": 5.0,
    }
    rounds = [
        {
            "measured": dict.fromkeys((*STAGES, SERVER), cost + at),
            "floor": dict.fromkeys((*STAGES, SERVER), cost / 2),
            "readings": readings,
        }
        for at in range(3)
    ]
    worker = {"cpu_us_per_event": 123.0, "mean_batch": 500.0, "eps": 7_654.0}
    return {"rounds": 3, "workers": [worker] * 3, "sizes": {"512": rounds}}


def test_the_sum_is_that_of_the_workers_stages_and_leaves_redis_out() -> None:
    rounds = section(10.0)["sizes"]["512"]
    assert costs(rounds, "sum", "measured") == [len(STAGES) * (10.0 + at) for at in range(3)]
    assert costs(rounds, SERVER, "floor") == [5.0] * 3


def test_every_stage_has_a_row_with_its_floor_and_the_state_before() -> None:
    text = "\n".join(limits(section(10.0), section(40.0)))
    for stage in (*STAGES, SERVER):
        assert f"| {stage} | 11.0 | 10.0 | 12.0 | 5.00 | 6.00 | 2.20 | 41.0 | 20.0 |" in text
    assert "Now: a saturated processor" in text
    assert "Before: a saturated processor" in text
    assert "before |" not in "\n".join(limits(section(10.0), None))


def test_a_stage_without_a_floor_is_no_ratio() -> None:
    found = section(10.0)
    for each in found["sizes"]["512"]:
        each["floor"]["decide"] = 0.0
    assert "| decide | 11.0 | 10.0 | 12.0 | 0.00 | 11.0 | - |" in "\n".join(limits(found, None))


def test_the_waterfall_is_drawn_also_where_a_floor_lies_above_what_was_measured(tmp_path: Path) -> None:
    found = section(10.0)
    for each in found["sizes"]["512"]:
        each["floor"]["commit"] = 99.0
    draw(found, tmp_path)
    assert (tmp_path / PLOT).read_bytes().startswith(b"\x89PNG")


def test_the_waterfall_ends_where_its_last_stage_does_though_the_median_of_sums_is_another() -> None:
    rounds = section(10.0)["sizes"]["512"]
    for at, each in enumerate(rounds):
        each["measured"][STAGES[at]] = 90.0  # each round is slow at another stage: no median shows it, every sum does
    axes = Figure().add_subplot()
    waterfall(axes, rounds)
    tops: dict[float, float] = {}
    for bar in axes.patches:
        centre = bar.get_x() + bar.get_width() / 2
        tops[centre] = max(tops.get(centre, 0.0), bar.get_y() + bar.get_height())
    last, total = tops[len(STAGES) - 1], tops[len(STAGES)]
    assert total == pytest.approx(last)
    assert total < min(costs(rounds, "sum", "measured"))
