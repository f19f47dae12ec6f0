"""`promtool`, as Prometheus ships it: it checks rules, and evaluates expressions over series written down by a test."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.support.promql import named

ROOT: Final = Path(__file__).parents[2]
ALERTS_FILE: Final = ROOT / "helm" / "fraudline" / "files" / "alerts.yaml"
RULES: Final[dict[str, Any]] = yaml.safe_load(ALERTS_FILE.read_text())
ALERTS: Final[dict[str, dict[str, Any]]] = {
    rule["alert"]: rule for group in RULES["groups"] for rule in group["rules"] if "alert" in rule
}
RECORDED: Final[dict[str, str]] = {
    rule["record"]: rule["expr"] for group in RULES["groups"] for rule in group["rules"] if "record" in rule
}


def required() -> str:
    """Where promtool is; skips the test, or with REQUIRE_PROMTOOL=1 fails it, where it is not."""
    found = shutil.which("promtool")
    if found is None:
        reason = "NOT TESTED: promtool (on Debian in the package prometheus) was not found; alerts are not checked."
        if os.environ.get("REQUIRE_PROMTOOL") == "1":
            pytest.fail(f"{reason} REQUIRE_PROMTOOL=1 forbids skipping.", pytrace=False)
        pytest.skip(f"{reason} Install it, or set REQUIRE_PROMTOOL=1 to make this a failure.")
    return found


def run(*arguments: str) -> str:
    """What promtool says; empty when all is well."""
    done = subprocess.run([required(), *arguments], capture_output=True, text=True, check=False, timeout=120)
    return "" if done.returncode == 0 else done.stdout + done.stderr or f"exit status {done.returncode}"


def check(rules: Mapping[str, Any], folder: Path) -> str:
    """What is wrong with a document of rules; empty when nothing is."""
    path = folder / "checked.yaml"
    path.write_text(yaml.safe_dump(dict(rules), sort_keys=False))
    return run("check", "rules", str(path))


def evaluate(rules: Mapping[str, Any], tests: Sequence[Mapping[str, Any]], folder: Path, every: str = "1m") -> str:
    """Run tests in promtool's own form over a document of rules, evaluated so often; empty when they pass."""
    (folder / "rules.yaml").write_text(yaml.safe_dump(dict(rules), sort_keys=False))
    document = {"rule_files": ["rules.yaml"], "evaluation_interval": every, "tests": list(tests)}
    path = folder / "tests.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False, width=1_000))
    return run("test", "rules", str(path))


def only(alert: str, every: str) -> dict[str, Any]:
    """An alert with the recordings that it reads, all evaluated so often."""
    rule = ALERTS[alert]
    read = {selector.metric for selector in named(rule["expr"]).selectors}
    recordings = [{"record": name, "expr": expr} for name, expr in RECORDED.items() if name in read]
    return {"groups": [{"name": "only", "interval": every, "rules": [*recordings, rule]}]}


def series(
    name: str, values: str, /, *, instance: str = "a", namespace: str = "pay", job: str = "fraudline", **labels: str
) -> dict[str, str]:
    """One series of a test; the values are in promtool's notation: `0+10x5` is 0, 10, ... 50."""
    named = {"namespace": namespace, "job": job, "instance": instance} | labels
    told = ",".join(f'{label}="{value}"' for label, value in named.items())
    return {"series": f"{name}{{{told}}}", "values": values}
