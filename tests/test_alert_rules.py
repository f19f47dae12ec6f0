"""The alerts: each fires when it should, and not when it nearly should; nothing fires where all is well."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from consumer.metrics import TIERS
from tests.support.alert_cases import ALL, CASES, LATE, START, Case, Series
from tests.support.promql import named
from tests.support.promtool import ALERTS, ALERTS_FILE, RULES, evaluate, only, run, series


def as_promtool_has_it(case: Case) -> dict[str, Any]:
    alert = ALERTS[case.alert]
    expected = {
        "exp_labels": alert["labels"] | {"namespace": "pay", "job": "fraudline"},
        "exp_annotations": alert["annotations"] | {"description": f"pay/fraudline {case.says}"},
    }
    return {
        "name": case.name,
        "interval": case.interval,
        "input_series": list(case.series),
        "alert_rule_test": [
            {"eval_time": case.at, "alertname": case.alert, "exp_alerts": [] if case.says is None else [expected]}
        ],
    }


def test_promtool_takes_the_file_as_it_is() -> None:
    assert run("check", "rules", str(ALERTS_FILE)) == ""


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_fires_when_it_should_and_not_when_it_nearly_should(alert: str, tmp_path: Path) -> None:
    cases = [case for case in CASES if case.alert == alert]
    assert any(case.says for case in cases), "nothing fires it"
    assert any(case.says is None for case in cases), "nothing nearby leaves it silent"
    every = "1m" if all(case.interval == "1m" for case in cases) else "30m"
    assert evaluate(only(alert, every), [as_promtool_has_it(case) for case in cases], tmp_path, every) == ""


def replica(instance: str, *, born: int = 0, until: int = 240, rate: int = 600, **target: str) -> list[Series]:
    """A healthy replica from one minute to another: it starts for two, then decides so many payments a minute."""

    def values(steady: str, starting: str | None = None) -> str:
        missing = f"_x{born} " if born else ""
        return f"{missing}{steady if starting is None else starting + ' ' + steady}" + (" stale" if until < 240 else "")

    lasting = until - born
    flat, start = f"0x{lasting}", 60 * born
    counting = f"0+{rate}x{lasting - 3}"
    told = {
        START: [("", f"{start}x{lasting}")],
        "up": [("", f"1x{lasting}")],
        "fraudline_build_info": [("", f"1x{lasting}")],
        "fraudline_model_info": [("digest=d1", f"1x{lasting}")],
        "fraudline_heartbeat_timestamp_seconds": [("", f"0 0 {start + 120}+60x{lasting - 3}")],
        "fraudline_payments_total": [("", f"0 0 {counting}")],
        "fraudline_decisions_total": [
            ("tier=full", f"0 0 {counting}"),
            *((f"tier={tier}", flat) for tier in TIERS[1:]),
        ],
        ALL: [("", f"0 0 {counting}")],
        "fraudline_transactions_total": [
            ("outcome=committed", f"0 0 {counting}"),
            ("outcome=aborted", f"0x9 1x{lasting - 10}"),
        ],
        "fraudline_store_up": [("", f"0 0 1x{lasting - 3}")],
        "fraudline_assigned_partitions": [("", f"0 0 4x{lasting - 3}")],
        "fraudline_lists_version": [("", f"0 0 8x{lasting - 3}")],
        "fraudline_model_registry_up": [("", f"1x{lasting}")],
        "fraudline_model_swaps_total": [("result=refused", flat), ("result=swapped", flat)],
        "fraudline_state_checks_total": [("result=mismatch", flat), ("result=equal", f"0+16x{lasting}")],
        "fraudline_rejected_total": [("reason=not_json", flat)],
        "fraudline_labels_total": [("label=fraud", f"0 0 0+2x{lasting - 3}")],
        "fraudline_clock_skew_seconds": [("partition=0", f"-0.01x{lasting}")],
    }
    zeros = {selector.metric for alert in ALERTS.values() for selector in named(alert["expr"]).selectors}
    zeros = {name for name in zeros if name.endswith(("_total", "_lag_records", "_lag_seconds"))} | {LATE}
    return [
        series(name, values(text), instance=instance, **target, **dict([label.split("=")] if label else []))
        for name, given in {**{name: [("", flat)] for name in zeros}, **told}.items()
        for label, text in given
    ]


SCENES = {
    "a fresh start without a payment": replica("a", rate=0),
    "a steady day": replica("a") + replica("b"),
    "a roll-out": replica("a", until=100) + replica("b", born=101) + replica("c", until=103) + replica("d", born=104),
    "out and in again": replica("a") + replica("b", born=60, until=180),
    "a night without a payment": replica("a", rate=0) + replica("b", rate=0),
}


@pytest.mark.parametrize("scene", SCENES)
def test_nothing_is_even_pending_for_long_where_all_is_well(scene: str, tmp_path: Path) -> None:
    looks = [
        {"expr": 'ALERTS{alertstate="firing"}', "eval_time": f"{at}m", "exp_samples": []} for at in range(1, 239, 3)
    ]
    test = {"name": scene, "interval": "1m", "input_series": SCENES[scene], "promql_expr_test": looks}
    assert evaluate(RULES, [test], tmp_path) == ""


def test_one_release_in_trouble_does_not_accuse_another(tmp_path: Path) -> None:
    well = replica("a", namespace="east") + replica("a", namespace="west", job="second")
    ill = [
        one | {"values": f"0 0 0+60x{237}"} if one["series"].startswith(LATE) else one
        for one in replica("b", namespace="west", job="first")
    ]
    firing = 'group by (alertname, namespace, job) (ALERTS{alertstate="firing"})'
    told = [
        {"labels": f'{{alertname="{alert}",namespace="west",job="first"}}', "value": 1}
        for alert in ("FraudlineLatencyBudgetBurn", "FraudlineLatencyBudgetBurnSlow", "FraudlineP99OverBudget")
    ]
    look = {"expr": firing, "eval_time": "200m", "exp_samples": told}
    test = {"interval": "1m", "input_series": well + ill, "promql_expr_test": [look]}
    assert evaluate(RULES, [test], tmp_path) == ""
