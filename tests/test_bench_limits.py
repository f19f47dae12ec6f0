"""The report of the limits: gaps are taken from the same rounds, nothing is left out, and there is a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.limits import SERVER, STAGES
from bench.report_limits import PLOT, costs, draw, limits


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
