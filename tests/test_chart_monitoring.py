"""What the chart hands to Prometheus and Grafana: the alerts and the dashboard, as they are in its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.charts import CHART, SCHEMA, Document, Render, Rendered, at, together, tree
from tests.support.promtool import ALERTS, RULES, check

RULES_ON = tree("monitoring.rules.enabled", True)
DASHBOARD_ON = tree("monitoring.grafanaDashboard.enabled", True)
NAME = "rel-fraudline-dashboard"


def rules(rendered: Rendered) -> dict[str, Document]:
    groups = rendered.one("PrometheusRule")["spec"]["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"] if "alert" in rule}


def with_rules(render: Render, name: str, value: object) -> Rendered:
    return render(together(RULES_ON, tree(f"monitoring.rules.{name}", value)))


def test_neither_is_there_unless_it_is_asked_for(render: Render) -> None:
    rendered = render()
    assert not rendered.all("PrometheusRule")
    assert NAME not in rendered.all("ConfigMap")


def test_the_rules_are_those_of_the_file(render: Render, tmp_path: Path) -> None:
    assert render(RULES_ON).one("PrometheusRule")["spec"] == RULES
    changed = {
        "alertLabels": {"team": "risk"},
        "runbookUrl": "https://wiki.example/ops",
        "disabled": ["FraudlineTierSmall"],
    }
    assert (
        check(render(tree("monitoring.rules", {"enabled": True} | changed)).one("PrometheusRule")["spec"], tmp_path)
        == ""
    )


def test_labels_of_the_object_are_set_when_given_and_left_out_when_not(render: Render) -> None:
    given = with_rules(render, "labels", {"release": "prometheus"}).one("PrometheusRule")["metadata"]["labels"]
    without = render(RULES_ON).one("PrometheusRule")["metadata"]["labels"]
    assert given == without | {"release": "prometheus"}


def test_labels_of_alerts_are_set_when_given_and_never_replace_a_severity(render: Render) -> None:
    given = rules(with_rules(render, "alertLabels", {"team": "risk"}))
    assert {name: rule["labels"] for name, rule in given.items()} == {
        name: alert["labels"] | {"team": "risk"} for name, alert in ALERTS.items()
    }
    assert "invalid propertyName 'severity'" in with_rules(render, "alertLabels", {"severity": "none"}).error


def test_runbooks_are_where_the_values_say(render: Render) -> None:
    for name, rule in rules(with_rules(render, "runbookUrl", "https://wiki.example/ops")).items():
        assert rule["annotations"] == ALERTS[name]["annotations"] | {
            "runbook_url": f"https://wiki.example/ops#{name.lower()}"
        }
    assert "/monitoring/rules/runbookUrl" in with_rules(render, "runbookUrl", "https://wiki.example/ops#here").error


def test_an_alert_is_left_out_by_its_name_and_a_group_with_its_last_one(render: Render) -> None:
    assert rules(with_rules(render, "disabled", ["FraudlineTierSmall"])).keys() == ALERTS.keys() - {
        "FraudlineTierSmall"
    }
    of_state = [
        rule["alert"] for group in RULES["groups"] if group["name"] == "fraudline-state" for rule in group["rules"]
    ]
    groups = with_rules(render, "disabled", of_state).one("PrometheusRule")["spec"]["groups"]
    assert [group["name"] for group in groups] == [
        group["name"] for group in RULES["groups"] if group["name"] != "fraudline-state"
    ]
    refused = with_rules(render, "disabled", ["FraudlineTierSmal"])
    assert refused.refused
    assert "/monitoring/rules/disabled/0" in refused.error


def test_the_schema_knows_every_alert() -> None:
    assert at(SCHEMA, "properties.monitoring.properties.rules.properties.disabled.items.enum") == list(ALERTS)


def test_the_dashboard_is_that_of_the_file(render: Render) -> None:
    data = render(DASHBOARD_ON).one("ConfigMap", NAME)["data"]
    assert {name: json.loads(text) for name, text in data.items()} == {
        "fraudline.json": json.loads((CHART / "files" / "dashboard.json").read_text())
    }


@pytest.mark.parametrize(
    ("name", "given", "otherwise"),
    [("labels", {"found": "here"}, {"grafana_dashboard": "1"}), ("annotations", {"grafana_folder": "Payments"}, {})],
)
def test_what_the_sidecar_looks_at_is_set_when_given(
    name: str, given: dict[str, str], otherwise: dict[str, str], render: Render
) -> None:
    def found(changes: dict[str, Any]) -> dict[str, str]:
        metadata: dict[str, str] = render(changes).one("ConfigMap", NAME)["metadata"].get(name, {})
        return metadata

    assert found(together(DASHBOARD_ON, tree(f"monitoring.grafanaDashboard.{name}", given))).items() >= given.items()
    assert found(DASHBOARD_ON).items() >= otherwise.items()
    assert not found(DASHBOARD_ON).items() >= given.items()


def test_the_dashboard_rolls_no_pods(render: Render) -> None:
    plain, shown = (render(changes).one("StatefulSet")["spec"]["template"] for changes in ({}, DASHBOARD_ON))
    assert plain == shown
