"""compose.yaml agrees with the code, and with itself: it can't be tried on every machine, so it is read."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from consumer import __version__
from consumer.settings import Settings, load

ROOT = Path(__file__).parents[1]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"].startswith("fraudline:")}
TOKEN = "0123456789abcdef"


def settings_of(service: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name in [name for name in os.environ if name.startswith("FRAUDLINE_")]:
        monkeypatch.delenv(name)
    for name, value in SERVICES[service]["environment"].items():
        monkeypatch.setenv(name, TOKEN if value.startswith("${DASHBOARD_TOKEN:?") else value)
    return load()


@pytest.mark.parametrize("service", OURS)
def test_each_of_our_services_is_this_version_confined_and_has_settings_that_load(
    service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = OURS[service]
    assert ours["image"] == f"fraudline:{__version__}"
    assert ours["build"] == {"context": ".", "target": "cpu"}
    assert ours["read_only"] is True
    assert ours["cap_drop"] == ["ALL"]
    loaded = settings_of(service, monkeypatch)
    inside = SERVICES["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    assert f"INSIDE://{loaded.kafka.brokers}," in inside


def test_the_processor_has_its_bundle_its_port_and_time_to_drain(monkeypatch: pytest.MonkeyPatch) -> None:
    processor, loaded = SERVICES["processor"], settings_of("processor", monkeypatch)
    assert processor["volumes"] == [f"./bundle:{loaded.model.bundle}:ro"]
    assert processor["ports"] == [f"127.0.0.1:{loaded.telemetry.port}:{loaded.telemetry.port}"]
    assert int(processor["stop_grace_period"].removesuffix("s")) * 1000 > loaded.processing.drain_deadline_ms


def test_the_alert_page_asks_for_a_token_that_only_its_owner_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    page, loaded = SERVICES["alert-page"], settings_of("alert-page", monkeypatch)
    assert page["command"] == ["dashboard"]
    assert loaded.dashboard.auth == "token"
    assert page["environment"]["FRAUDLINE_DASHBOARD__TOKEN"].startswith("${DASHBOARD_TOKEN:?")  # without: no start
    assert page["ports"] == [f"127.0.0.1:{loaded.dashboard.port}:{loaded.dashboard.port}"]
    assert f":{loaded.dashboard.port}/livez" in shlex.join(page["healthcheck"]["test"])


def test_prometheus_reads_the_processor_and_the_alerts_that_the_chart_ships() -> None:
    prometheus = yaml.safe_load(COMPOSE["configs"]["prometheus"]["content"])
    [job] = prometheus["scrape_configs"]
    assert job["static_configs"][0]["targets"] == [f"processor:{Settings().telemetry.port}"]
    for service in ("prometheus", "grafana"):
        for volume in SERVICES[service]["volumes"]:
            source, target, *_ = volume.split(":")
            if source.startswith("."):
                assert (ROOT / source).is_file(), source
            if target.endswith("alerts.yaml"):
                assert prometheus["rule_files"] == [target]


def test_grafana_finds_the_dashboard_and_prometheus() -> None:
    configs = COMPOSE["configs"]
    [provider] = yaml.safe_load(configs["grafana-dashboards"]["content"])["providers"]
    mounted = [volume.split(":")[1] for volume in SERVICES["grafana"]["volumes"]]
    shown = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert shown in mounted
    assert shown.startswith(provider["options"]["path"])
    [source] = yaml.safe_load(configs["grafana-datasource"]["content"])["datasources"]
    assert source["url"] == "http://prometheus:9090"


def test_what_is_composed_starts_in_order_and_is_reached_from_this_machine_only() -> None:
    waits = {
        (name, needed): condition["condition"]
        for name, service in SERVICES.items()
        for needed, condition in service.get("depends_on", {}).items()
    }
    assert waits == {
        ("topics", "kafka"): "service_healthy",
        ("processor", "redis"): "service_healthy",
        ("processor", "topics"): "service_completed_successfully",
        ("alert-page", "topics"): "service_completed_successfully",
        ("grafana", "prometheus"): "service_started",
    }
    for _, needed in [pair for pair, until in waits.items() if until == "service_healthy"]:
        assert "healthcheck" in SERVICES[needed]
    for service in SERVICES.values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
        volumes = {volume.split(":")[0] for volume in service.get("volumes", []) if not volume.startswith(".")}
        assert volumes <= COMPOSE["volumes"].keys()
        assert {config["source"] for config in service.get("configs", [])} <= COMPOSE["configs"].keys()
        assert not service["image"].endswith(":latest")
    redis = shlex.join(SERVICES["redis"]["command"])
    assert "--appendonly yes" in redis
    assert "--maxmemory-policy noeviction" in redis
