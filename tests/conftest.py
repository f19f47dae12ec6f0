"""What all tests share: one real Kafka and one real Redis, started when first asked for, and names that never clash."""

from __future__ import annotations

import os
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import pytest
from hypothesis import HealthCheck, settings

from tests.faults.table import suite_on
from tests.services import clock as clock_service
from tests.services import crds
from tests.services import kafka as kafka_service
from tests.services import redis as redis_service
from tests.services.kafka import KafkaBroker
from tests.services.kafka_secure import SecureKafkaBroker
from tests.services.redis import RedisServer
from tests.services.redis_cluster import RedisCluster
from tests.support import browser as browser_support
from tests.support import charts

# Derandomized: a red build is red again. Time is never judged, since the machine may be busy.
settings.register_profile(
    "ci", derandomize=True, deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("explore", settings.get_profile("ci"), derandomize=False, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

FAULTS_PAGE = Path(__file__).parents[1] / "docs" / "faults.md"
_SERVICE_OF_FIXTURE = {"kafka": "kafka", "secure_kafka": "kafka", "redis_server": "redis", "redis_cluster": "redis"}
_MARK_OF_FIXTURE = _SERVICE_OF_FIXTURE | {"helm": "helm", "wall_clock": "faketime"}
_NOT_FAST = ("kafka", "redis", "browser", "helm", "faketime", "faults", "gpu", "slow")
_MISSING: Mapping[str, Callable[[], str | None]] = {
    "kafka": kafka_service.missing,
    "redis": redis_service.missing,
    "browser": browser_support.missing,
    "faketime": clock_service.missing,
}
_REQUIRED_BY = {"browser": "REQUIRE_BROWSER", "faketime": "REQUIRE_FAKETIME"}  # and everything else by REQUIRE_KAFKA
_UNAVAILABLE = "unavailable"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with the services that it asks for, or `fast` when it asks for none; and rows of the fault suite.

    A row is whatever `docs/faults.md` names, wherever it lies; it may be `fast` all the same.
    """
    named, files = suite_on(FAULTS_PAGE.read_text())
    for item in items:
        for fixture in getattr(item, "fixturenames", ()):
            if fixture in _MARK_OF_FIXTURE:
                item.add_marker(_MARK_OF_FIXTURE[fixture])
        if not any(item.get_closest_marker(name) for name in _NOT_FAST):
            item.add_marker("fast")
        if item.path.name in files or f"{item.path.name}::{item.name.partition('[')[0]}" in named:
            item.add_marker("faults")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Fetch Kafka's jars before the first test, so that no test's time-out pays for a download."""
    asked = any(item.get_closest_marker("kafka") for item in session.items)
    if asked and kafka_service.missing() is None and not session.config.option.collectonly:
        kafka_service.class_path()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip, or with REQUIRE_KAFKA=1 (REQUIRE_BROWSER=1) fail, a test whose service can't be started here."""
    for service, missing in _MISSING.items():
        reason = missing() if item.get_closest_marker(service) else None
        if reason is not None:
            _unavailable(item, f"{service}: {reason}", _REQUIRED_BY.get(service, "REQUIRE_KAFKA"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = [each for each in terminalreporter.stats.get("skipped", []) if isinstance(each, pytest.TestReport)]
    reasons = Counter(str(told) for each in skipped for name, told in each.user_properties if name == _UNAVAILABLE)
    for reason, count in reasons.items():
        tests = "1 test was" if count == 1 else f"{count} tests were"
        line = f"NOT TESTED: {tests} skipped, {reason} Install it."
        terminalreporter.write_line(line, red=True, bold=True)


def _unavailable(item: pytest.Item, reason: str, required_by: str) -> NoReturn:
    if os.environ.get(required_by) == "1":
        pytest.fail(f"{reason} {required_by}=1 forbids skipping.", pytrace=False)
    item.user_properties.append((_UNAVAILABLE, f"{reason} {required_by}=1 makes this a failure."))
    pytest.skip(reason)


@pytest.fixture(scope="session")
def kafka() -> Iterator[KafkaBroker]:
    """One Apache Kafka for the whole run; a test that kills it restarts it before it ends."""
    with KafkaBroker() as broker:
        yield broker


@pytest.fixture(scope="session")
def secure_kafka() -> Iterator[SecureKafkaBroker]:
    """One Apache Kafka behind TLS, SASL and ACLs for the whole run."""
    with SecureKafkaBroker() as broker:
        yield broker


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """One redis-server for the whole run; a test that kills it restarts it before it ends."""
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="session")
def redis_cluster() -> Iterator[RedisCluster]:
    """One Redis Cluster of six nodes for the whole run; before each test it is made whole again."""
    with RedisCluster() as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def _healthy_services(request: pytest.FixtureRequest) -> None:
    """A test that failed between kill and restart must not fail those after it."""
    for fixture in _SERVICE_OF_FIXTURE.keys() & set(request.fixturenames):
        request.getfixturevalue(fixture).heal()


@pytest.fixture
def unique() -> str:
    """A name that no other test has: a prefix for topics, groups, transactional ids and Redis namespaces."""
    return f"t{uuid.uuid4().hex[:12]}"


@pytest.fixture
def topics(kafka: KafkaBroker, unique: str) -> Callable[..., dict[str, str]]:
    """Creates topics under names of this test's own.

    `topics(payments=3, decisions=1)` creates both with 3 and 1 partitions and returns
    `{"payments": "<unique>.payments", ...}`; `topics({"payments.dlq": 1}, config={...})` does for names with dots
    and takes topic settings.
    """

    def create(
        partitions: Mapping[str, int] | None = None, *, config: Mapping[str, str] | None = None, **more: int
    ) -> dict[str, str]:
        counts = {**(partitions or {}), **more}
        names = {name: f"{unique}.{name}" for name in counts}
        kafka.create_topics({names[name]: count for name, count in counts.items()}, config)
        return names

    return create


@pytest.fixture(scope="session")
def helm() -> str:
    """Helm's path; without it, and with REQUIRE_HELM=1, a failure."""
    found = charts.find_helm()
    return found or _no_chart("helm was found neither on PATH nor in Go's bin directory")


def _no_chart(reason: str) -> NoReturn:
    told = f"NOT TESTED: {reason}; the chart is not checked."
    if os.environ.get("REQUIRE_HELM") == "1":
        pytest.fail(f"{told} REQUIRE_HELM=1 forbids skipping.", pytrace=False)
    pytest.skip(f"{told} Install it, or set REQUIRE_HELM=1 to make this a failure.")


@pytest.fixture(scope="session")
def custom_resources() -> Mapping[tuple[str, str], charts.Document]:
    """The schemas of KEDA's and of Prometheus' operator's objects, by apiVersion and kind."""
    return _no_chart(reason) if (reason := crds.missing()) else crds.schemas()


@pytest.fixture
def render(helm: str) -> charts.Render:
    """Renders the chart: `render({"replicaCount": 2}, scenario="gpu-values.yaml")`."""

    def template(
        changes: Mapping[str, Any] | None = None,
        *,
        scenario: str | None = "minimal-values.yaml",
        kubernetes: str = charts.KUBERNETES,
    ) -> charts.Rendered:
        return charts.render(helm, changes, scenario, kubernetes)

    return template
