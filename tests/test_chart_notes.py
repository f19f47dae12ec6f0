"""What Helm tells after an install, and what the chart's README and examples say of each other."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.charts import CHART, KUBERNETES, SCENARIOS, together, tree

Notes = Callable[..., str]


@pytest.fixture
def notes(helm: str, tmp_path: Path) -> Notes:
    """Tells the notes of a scenario; `helm template` leaves them out, so a copy of the chart has them in YAML."""
    chart = tmp_path / "chart"
    shutil.copytree(CHART, chart)
    (chart / "templates" / "NOTES.txt").rename(chart / "notes.txt")
    (chart / "templates" / "notes.yaml").write_text('notes: {{ tpl (.Files.Get "notes.txt") . | toJson }}\n')

    def told(changes: Mapping[str, Any] | None = None, scenario: str = "minimal-values.yaml") -> str:
        command = [helm, "template", "rel", str(chart), "--namespace", "ns", "--kube-version", KUBERNETES]
        command += ["--show-only", "templates/notes.yaml"]
        values = ["--values", str(CHART / "ci" / scenario), "--values", "-"]
        done = subprocess.run(
            [*command, *values], input=json.dumps(changes or {}), capture_output=True, text=True, check=True, timeout=60
        )
        text: str = yaml.safe_load(done.stdout)["notes"]
        return text

    return told


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        (tree("config.store.allow_cold_state", True), "WARNING: config.store.allow_cold_state is on"),
        ({"autoscaling": {"type": "hpa", "maxReplicas": 7}}, "1 to 7 processor(s)"),
        ({"alertPage": {"enabled": True}, "secrets": {"dashboardToken": {"existingSecret": "t"}}},
         "port-forward service/rel-fraudline-alert-page 8080:80"),
    ],
)  # fmt: skip
def test_the_notes_say_what_a_value_means(changes: dict[str, Any], part: str, notes: Notes) -> None:
    assert part in notes(changes)
    assert part not in notes()


def test_the_notes_warn_of_what_crosses_the_network_in_clear(notes: Notes) -> None:
    payments, alerts = "payments cross the network in clear", "alerts cross the network in clear"
    assert payments in notes()
    assert payments not in notes(scenario="sasl-tls-values.yaml")
    bare = notes(tree("alertPage.ingress.tls.existingSecret", ""), scenario="alert-page-proxy-values.yaml")
    assert alerts in bare
    assert "  http://alerts.example/" in bare
    whole = notes(scenario="alert-page-proxy-values.yaml")
    assert alerts not in whole
    assert "  https://alerts.example/" in whole


def test_the_notes_say_which_topics_are_left_to_the_user(notes: Notes) -> None:
    challenger = together(tree("config.challenger.enabled", True), tree("config.model.registry", "s3://models"))
    assert "The topics have to be there" in notes()
    assert "needs the topic fraudline.shadow" in notes(challenger)
    assert "needs the topic fraudline.shadow" not in notes()
    made = notes(together(challenger, tree("topicsJob.enabled", True)))
    assert "The topics have to be there" not in made
    assert "fraudline.shadow" not in made


def test_the_readme_tells_of_every_scenario_and_each_says_what_it_is() -> None:
    readme = (CHART / "README.md").read_text()
    for scenario in SCENARIOS:
        assert f"\n| `{scenario}` | " in readme
        assert (CHART / "ci" / scenario).read_text().startswith("# ")
