"""The operators' handbook: each alert has its section there, and what a section names is there."""

from __future__ import annotations

import re

from consumer.decode import REASONS
from consumer.metrics import METRICS, OUTCOMES, STAGES, TIERS
from consumer.settings import KNOWN
from tests.support.promql import named
from tests.support.promtool import ALERTS, RECORDED, ROOT

OPERATIONS = (ROOT / "docs" / "operations.md").read_text()


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    assert re.findall(r"^### (Fraudline\w+)$", OPERATIONS, re.MULTILINE) == list(ALERTS)
    for name, alert in ALERTS.items():
        assert alert["annotations"]["runbook_url"] == f"docs/operations.md#{name.lower()}"
        (section,) = re.findall(rf"^### {name}\n\n(.*?)(?=^##|\Z)", OPERATIONS, re.MULTILINE | re.DOTALL)
        assert section.startswith("**Means:** "), name
        if (
            elsewhere := re.search(r"^\*\*Look, causes and mends\*\* are those of \[(\w+)\]", section, re.MULTILINE)
        ) is None:
            assert re.search(r"^\*\*Look:\*\* .+\n\n\*\*Causes and mends:\*\*\n- ", section, re.MULTILINE), name
        else:
            assert elsewhere[1] in ALERTS


def test_what_runbooks_name_is_there() -> None:
    """Log events, metrics, commands, settings and other sections."""
    book = OPERATIONS.partition("\n## Alerts and the dashboard\n")[2].partition("\n## ")[0]
    sources = "\n".join(
        path.read_text() for room in ("consumer", "features", "models") for path in (ROOT / room).rglob("*.py")
    )
    events = set(re.findall(r"_LOG\.\w+\(\s*\"(\w+)\"", sources))
    words = {*events, *REASONS, *TIERS, *STAGES, *OUTCOMES, "read_committed", "event_id"}
    quoted = set(re.findall(r"`([^`]+)`", book))
    assert len({word for word in quoted if word in events}) > 10
    commands = set(re.findall(r"^#+ `(fraudline[a-z -]*)`$", (ROOT / "docs" / "cli.md").read_text(), re.MULTILINE))
    known = {metric.name for metric in METRICS} | set(RECORDED)
    for text in quoted:
        if re.fullmatch(r"[a-z]+(_[a-z]+)+", text) and not text.startswith(("fraudline_", "process_")):
            assert text in words, text
        elif re.fullmatch(r"[a-z]+\.[a-z_]+", text) and not text.startswith("monitoring."):
            assert text in KNOWN.secret or text.endswith((".json", ".md", ".yaml")), text
        elif text.startswith("fraudline "):
            assert any(f"{text} ".startswith(f"{command} ") for command in commands), text
        elif re.search(r"fraudline[_:]", text):
            names = {
                selector.metric for selector in named(text).selectors if re.match(r"fraudline[_:]", selector.metric)
            }
            assert {re.sub("_(sum|count|bucket)$", "", name) for name in names} <= known, text
    headings = re.findall(r"^#+ (.+)$", OPERATIONS, re.MULTILINE)
    anchors = {re.sub(r"[^a-z0-9 _-]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([\w-]+)\)", OPERATIONS)) <= anchors


def test_every_alert_says_how_urgent_it_is_and_what_it_is_about_in_one_sentence_each() -> None:
    for name, alert in ALERTS.items():
        assert alert["labels"] == {"severity": alert["labels"]["severity"]}
        assert alert["labels"]["severity"] in {"critical", "warning"}, name
        summary, description = alert["annotations"]["summary"], alert["annotations"]["description"]
        assert re.fullmatch(r"[A-Z][^{}.]*\.", summary), name
        assert description.startswith("{{ with $labels.namespace }}{{ . }}/{{ end }}{{ $labels.job }} "), name
        assert description.endswith("."), name
