"""Alerts and dashboard against what a processor really exports: a running one is scraped, and asked their queries."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import msgspec
import numpy as np
import pytest
from confluent_kafka import Producer
from prometheus_client.parser import text_string_to_metric_families

from consumer.app import Processor
from consumer.kafka.embedded import EmbeddedBroker
from consumer.metrics import METRICS
from consumer.settings import KafkaSettings, ProcessingSettings, Settings, TelemetrySettings
from consumer.telemetry import Health, Server, Telemetry, serve
from features.catalog import DEFAULT
from features.errors import TransactionAborted
from features.event import Label
from features.store import MemoryStore
from models.drift import reference
from models.score import ConstantScorer
from tests.poison import POISON, VALID, payment
from tests.support.bundles import rows
from tests.support.promql import Exported, named, unknown
from tests.support.promtool import ALERTS, ALERTS_FILE, RECORDED, RULES, check, evaluate, series
from tests.test_pipeline import model

DASHBOARD: dict[str, Any] = json.loads((ALERTS_FILE.parent / "dashboard.json").read_text())
PANELS: dict[str, dict[str, Any]] = {panel["title"]: panel for panel in DASHBOARD["panels"] if panel["type"] != "row"}
DEADLINE_S = 60.0
FIRST = 600
Scrape = dict[tuple[str, frozenset[tuple[str, str]]], float]


def filled_in(expression: str) -> str:
    """An expression as Grafana sends it, when all is chosen."""
    for variable, value in {"$__rate_interval": "5m", "$__range": "1h"}.items():
        expression = expression.replace(variable, value)
    return re.sub(r"\$(namespace|job|instance)\b", ".*", expression)


QUERIES = {
    f"{title} {target['refId']}": filled_in(target["expr"])
    for title, panel in PANELS.items()
    for target in panel["targets"]
}
EXPRESSIONS = {name: alert["expr"] for name, alert in ALERTS.items()} | RECORDED | QUERIES


@dataclass(slots=True)
class Running:
    """A processor at work on a broker of its own, whose commits fail while it is `stalled`."""

    settings: Settings
    telemetry: Telemetry = field(default_factory=Telemetry)
    health: Health = field(default_factory=Health)
    stalled: threading.Event = field(default_factory=threading.Event)
    processor: Processor = field(init=False)
    producer: Producer = field(init=False)
    server: Server = field(init=False)

    def __post_init__(self) -> None:
        judge = model("1", ConstantScorer(full=0.6))
        scores = np.random.default_rng(1).random(500).astype(np.float32)
        judge = replace(judge, spread=reference(DEFAULT.features, rows(500), scores))
        self.telemetry.model(name="test", version="1", digest="1", device="cpu")
        self.telemetry.registry_up.set(1)
        self.processor = Processor(
            self.settings,
            model=judge,
            store=MemoryStore(),
            telemetry=self.telemetry,
            health=self.health,
            step=self._step,
        )
        self.producer = Producer({"bootstrap.servers": self.settings.kafka.brokers})
        self.server = serve(self.telemetry, self.health, "127.0.0.1", 0)

    def _step(self, name: str) -> None:
        if name == "after_apply" and self.stalled.is_set():
            raise TransactionAborted("the brokers do not take it")

    def send(self, *values: bytes | None, topic: str = "payments") -> None:
        for value in values:
            self.producer.produce(topic, value, b"key")
        self.producer.flush(DEADLINE_S)

    def scrape(self) -> Scrape:
        with urlopen(f"http://127.0.0.1:{self.server.port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def until(self, name: str, holds: Callable[[float], bool]) -> Scrape:
        """Scrape until a metric without labels is as it should be."""
        deadline_s = time.monotonic() + DEADLINE_S
        while True:
            found = self.scrape()
            if holds(found[name, frozenset()]):
                return found
            assert time.monotonic() < deadline_s, f"{name} is {found[name, frozenset()]}"
            time.sleep(0.05)


def payments(first: int, count: int) -> list[bytes]:
    now_ms = int(time.time() * 1_000)
    return [
        payment(
            event_id=f"e-{number}",
            card_id=f"tok_{number % 40}",
            event_time=now_ms - 1_000 + number,
            amount_minor=90_000 + number,
        )
        for number in range(first, first + count)
    ]


LABEL = Label(
    event_id="e-1", card_id="tok_1", merchant_id=VALID["merchant_id"], event_time=VALID["event_time"], label="fraud",
    labelled_at=VALID["event_time"] + 1, source="issuer",
)  # fmt: skip


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with EmbeddedBroker() as broker:
        settings = Settings(
            kafka=KafkaSettings(brokers=broker.brokers, group_id="monitoring", transactional_id="monitoring"),
            processing=ProcessingSettings(delivery="at_least_once"),
            telemetry=TelemetrySettings(port=0),
        )
        broker.create(*settings.topics.model_dump().values())
        found = Running(settings)
        worker = threading.Thread(target=found.processor.run, daemon=True)
        worker.start()
        yield found
        found.processor.stop()
        worker.join(DEADLINE_S)
        found.processor.close()
        found.server.close()
        found.producer.close()


@pytest.fixture(scope="module")
def scrapes(running: Running) -> tuple[Scrape, Scrape]:
    """What is exported after some payments, and after some more with whatever else may come."""
    running.until("fraudline_assigned_partitions", lambda owned: owned > 0)
    running.send(*payments(0, FIRST))
    before = running.until("fraudline_payments_total", lambda taken: taken == FIRST)
    running.send(msgspec.json.encode(LABEL), topic="labels")
    running.send(*payments(FIRST, 50), *payments(0, 5), *(poison.value for poison in POISON[:3]))
    after = running.until("fraudline_payments_total", lambda taken: taken == FIRST + 58)
    return before, after


@pytest.fixture(scope="module")
def exported(scrapes: tuple[Scrape, Scrape]) -> Exported:
    found: dict[str, list[dict[str, str]]] = {"up": [{}]}
    for name, labels in scrapes[1]:
        found.setdefault(name, []).append(dict(labels))
    return found


def test_every_query_names_what_is_exported_and_no_other_label(exported: Exported) -> None:
    problems = {name: unknown(text, exported, RECORDED) for name, text in EXPRESSIONS.items()}
    assert {name: why for name, why in problems.items() if why} == {}


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("FraudlineNoProgress", "fraudline_lag_records", "fraudline_lag_record"),
        ("FraudlineTierDegraded", "no_features", "no_feature"),
        ("FraudlineTransactionsFail", "outcome=~", "outcomes=~"),
        ("FraudlineModelsDiffer", "job, digest", "job, digests"),
        ("FraudlineLatencyBudgetBurn", "ratio_rate30m", "ratio_rate15m"),
        ("Tiers A", "fraudline_decisions_total", "fraudline_decision_total"),
    ],
)
def test_a_name_that_is_misspelt_is_found(name: str, right: str, wrong: str, exported: Exported) -> None:
    assert right in EXPRESSIONS[name]
    assert unknown(EXPRESSIONS[name].replace(right, wrong), exported, RECORDED)


def as_series(before: Scrape, after: Scrape) -> list[dict[str, str]]:
    """Two scrapes, a minute apart, as promtool reads them."""
    told = []
    for (name, labels), value in after.items():
        earlier = before.get((name, labels))
        quoted = {label: text.replace("\\", "\\\\").replace('"', '\\"') for label, text in labels}
        told.append(series(name, f"{'_' if earlier is None else repr(earlier)} {value!r}", **quoted))
    return [*told, series("up", "1 1")]


def answered(queries: dict[str, str], scrapes: tuple[Scrape, Scrape], folder: Path) -> str:
    """Which of the queries have no answer that is a number, as promtool tells it."""
    looks = [
        {
            "expr": f"count(({query}) <= Inf) > bool 0",
            "eval_time": "1m",
            "exp_samples": [{"labels": "{}", "value": 1}],
        }
        for query in queries.values()
    ]
    return evaluate(RULES, [{"interval": "1m", "input_series": as_series(*scrapes), "promql_expr_test": looks}], folder)


def test_every_panel_shows_something(scrapes: tuple[Scrape, Scrape], tmp_path: Path) -> None:
    assert answered(QUERIES, scrapes, tmp_path) == ""


def test_a_panel_that_would_stay_empty_is_found(scrapes: tuple[Scrape, Scrape], tmp_path: Path) -> None:
    empty = {"Tiers A": QUERIES["Tiers A"].replace("fraudline_decisions_total", "fraudline_decision_total")}
    assert "fraudline_decision_total" in answered(empty, scrapes, tmp_path)


def test_promtool_takes_every_query(tmp_path: Path) -> None:
    recorded = [{"record": f"query:{at}", "expr": query} for at, query in enumerate(QUERIES.values())]
    assert check({"groups": [{"name": "queries", "rules": recorded}]}, tmp_path) == ""
    assert check(
        {"groups": [{"name": "queries", "rules": [{"record": "query:0", "expr": "sum(rate(x[5m])"}]}]}, tmp_path
    )


def test_every_metric_of_a_processor_is_shown() -> None:
    shown = {selector.metric for query in EXPRESSIONS.values() for selector in named(query).selectors}
    plain = {re.sub("_(bucket|sum|count)$", "", name) for name in shown} | shown
    assert {metric.name for metric in METRICS if not metric.name.startswith("fraudline_dashboard_")} <= plain


def test_each_panel_says_what_to_do_in_what_unit_and_which_release() -> None:
    by_name = {metric.name: metric for metric in METRICS}
    for title, panel in PANELS.items():
        queries = [target["expr"] for target in panel["targets"]]
        names = [selector.metric for query in queries for selector in named(filled_in(query)).selectors]
        names += [selector.metric for name in names if name in RECORDED for selector in named(RECORDED[name]).selectors]
        told = [
            by_name[plain].action for name in names if (plain := re.sub("_(bucket|sum|count)$", "", name)) in by_name
        ]
        assert any(action in panel["description"] for action in told) or any("process_" in name for name in names), (
            title
        )
        assert panel["fieldConfig"]["defaults"]["unit"], title
        assert panel["datasource"]["uid"] == "${datasource}", title
        for query in queries:
            assert 'namespace=~"$namespace",job=~"$job"' in query, title


def test_the_dashboard_is_one_that_grafana_can_provision() -> None:
    assert DASHBOARD["uid"] == "fraudline"
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert list(variables) == ["datasource", "namespace", "job", "instance"]
    assert variables["datasource"]["type"] == "datasource"
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
    titles = [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    assert titles[0] == "Are payments answered in time?"
    assert all(title.endswith("?") for title in titles)


def test_a_processor_that_can_not_commit_shows_its_lag(running: Running, scrapes: tuple[Scrape, Scrape]) -> None:
    running.until("fraudline_lag_records", lambda waiting: waiting == 0)
    running.stalled.set()
    running.send(*payments(10_000, 7))
    first = running.until("fraudline_lag_records", lambda waiting: waiting == 7)["fraudline_lag_seconds", frozenset()]
    running.until("fraudline_lag_seconds", lambda lag: lag > max(first, 1.0))
    running.stalled.clear()
    after = running.until("fraudline_lag_records", lambda waiting: waiting == 0)
    assert after["fraudline_payments_total", frozenset()] == scrapes[1]["fraudline_payments_total", frozenset()] + 7
    assert running.until("fraudline_lag_seconds", lambda lag: lag == 0)
