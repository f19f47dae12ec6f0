"""Telemetry: every metric is declared and exported, a batch counts as its values would, probes tell the truth."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.parser import text_string_to_metric_families

from consumer import metrics
from consumer.decode import REASONS
from consumer.metrics import END_TO_END, END_TO_END_BUCKETS_S, METRICS, BatchHistogram
from consumer.telemetry import Health, Server, Telemetry, serve
from features.errors import ConfigError

Samples = dict[tuple[str, str], float]


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def samples(registry: CollectorRegistry, name: str) -> Samples:
    return {
        (sample.name, sample.labels.get("le", "")): sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name.startswith(name) and not sample.name.endswith("_created")
    }


seconds = st.floats(0, 1e6) | st.sampled_from(END_TO_END_BUCKETS_S)
batches = st.lists(st.lists(seconds, max_size=20), max_size=5)


@given(batches)
def test_a_batch_counts_as_its_values_one_by_one_would(values: list[list[float]]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    batched = BatchHistogram(END_TO_END, END_TO_END_BUCKETS_S)
    ours.register(batched)
    single = Histogram(END_TO_END.name, END_TO_END.help, registry=theirs, buckets=END_TO_END_BUCKETS_S)
    for batch in values:
        batched.observe_many(np.array(batch, np.float64))
        for value in batch:
            single.observe(value)
    expected = samples(theirs, END_TO_END.name)
    assert samples(ours, END_TO_END.name) == pytest.approx(expected, rel=1e-12)
    assert list(samples(ours, END_TO_END.name)) == list(expected)


def test_batches_from_several_threads_all_count() -> None:
    histogram = BatchHistogram(END_TO_END, (1.0, 2.0))
    batch = np.array([0.5, 1.5, 2.5])

    def observe() -> None:
        for _ in range(500):
            histogram.observe_many(batch)

    threads = [threading.Thread(target=observe) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (family,) = histogram.collect()
    values = {(s.name.rpartition("_")[2], s.labels.get("le", "")): s.value for s in family.samples}
    assert values[("count", "")] == 6_000
    assert values[("bucket", "1.0")] == 2_000
    assert values[("sum", "")] == 9_000.0


@pytest.mark.parametrize("bounds", [(), (1.0, 1.0), (2.0, 1.0)])
def test_bounds_that_do_not_rise_are_refused(bounds: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="must rise"):
        BatchHistogram(END_TO_END, bounds)


def test_every_declared_metric_is_exported_as_declared_and_no_other() -> None:
    exported = {
        family.name + ("_total" if family.type == "counter" else ""): (family.type, family.documentation)
        for family in Telemetry().registry.collect()
        if family.name.startswith("fraudline_")
    }
    assert exported == {metric.name: (metric.kind, metric.help) for metric in METRICS}


def test_every_declaration_is_complete() -> None:
    every = (*METRICS, *metrics.DASHBOARD_METRICS)
    assert len({metric.name for metric in every}) == len(every)
    declared = {value for value in vars(metrics).values() if isinstance(value, metrics.Metric)}
    assert declared == set(every)
    for metric in every:
        assert metric.help.endswith(".")
        assert metric.action.endswith(".")
        assert metric.unit
        assert metric.name.startswith("fraudline_")
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        assert not {"card_id", "merchant_id", "event_id", "device_id"} & set(metric.labels)


def test_the_budget_is_a_bucket() -> None:
    assert 0.2 in END_TO_END_BUCKETS_S
    assert 0.2 in metrics.STAGE_BUCKETS_S


def test_fixed_words_are_exported_before_their_first_event() -> None:
    registry = Telemetry().registry
    for stage in metrics.STAGES:
        assert registry.get_sample_value("fraudline_stage_seconds_count", {"stage": stage}) == 0
    for reason in REASONS:
        assert registry.get_sample_value("fraudline_rejected_total", {"stage": "decode", "reason": reason}) == 0
    for outcome in metrics.OUTCOMES:
        assert registry.get_sample_value("fraudline_transactions_total", {"outcome": outcome}) == 0
    assert registry.get_sample_value("fraudline_decisions_total", {"decision": "block", "tier": "full"}) == 0


def test_a_committed_batch_is_accounted_for_in_one_step() -> None:
    telemetry = Telemetry()
    timestamps = np.array([1_000, 1_799, 1_800, 1_950, 2_010], np.int64)
    assert telemetry.committed(now_ms=2_000, timestamps_ms=timestamps, budget_ms=200) == 2
    value = telemetry.registry.get_sample_value
    assert value("fraudline_late_total") == 2
    assert value("fraudline_end_to_end_seconds_count") == 5
    assert value("fraudline_end_to_end_seconds_bucket", {"le": "0.2"}) == 3
    assert value("fraudline_end_to_end_seconds_sum") == pytest.approx(1.0 + 0.201 + 0.2 + 0.05)
    assert value("fraudline_lag_seconds") == 0
    assert telemetry.committed(now_ms=2_000, timestamps_ms=timestamps[:0], budget_ms=200) == 0
    assert value("fraudline_end_to_end_seconds_count") == 5


def test_only_the_model_in_use_is_told() -> None:
    telemetry = Telemetry()
    telemetry.model(name="a", version="1", digest="d1", device="cpu")
    telemetry.model(name="a", version="2", digest="d2", device="cuda")
    families = {family.name: family for family in telemetry.registry.collect()}
    told = [sample.labels for sample in families["fraudline_model_info"].samples]
    assert told == [{"name": "a", "version": "2", "digest": "d2", "device": "cuda"}]


def test_the_lag_grows_while_records_wait_and_nothing_is_decided(clock: Clock) -> None:
    telemetry = Telemetry(clock)

    def lag() -> float | None:
        return telemetry.registry.get_sample_value("fraudline_lag_seconds")

    assert lag() == 0
    telemetry.backlog({0: 7, 3: 0}, 2)
    assert lag() == 0, "it is not known yet since when they wait"
    clock.now_s += 20
    telemetry.backlog({0: 9, 3: 0}, 2)
    assert lag() == 20.0, "so long at least, though a fresh process has decided nothing"
    telemetry.committed(now_ms=120_000, timestamps_ms=np.array([118_500, 119_000], np.int64), budget_ms=200)
    telemetry.backlog({0: 5, 3: 0}, 2)
    assert lag() == 1.0
    clock.now_s += 30
    assert lag() == 31.0, "as seen by a scrape, though the loop says nothing more"
    value = telemetry.registry.get_sample_value
    assert (value("fraudline_lag_records"), value("fraudline_labels_lag_records")) == (5, 2)
    assert value("fraudline_assigned_partitions") == 2
    telemetry.backlog({0: 0, 3: 0}, 0)
    clock.now_s += 3_600
    assert lag() == 0, "an hour without payments is no lag"
    telemetry.backlog({0: 0, 3: 0}, 0)
    clock.now_s += 2
    telemetry.backlog({0: 1, 3: 0}, 0)
    assert lag() == 2.0, "at most so long has it waited"


def test_a_partition_that_went_elsewhere_leaves_no_skew_behind() -> None:
    telemetry = Telemetry()
    telemetry.clocks(np.array([0, 3], np.int32), np.array([5_000, 7_000], np.int64))
    telemetry.backlog({0: 0}, 0)
    value = telemetry.registry.get_sample_value
    assert value("fraudline_clock_skew_seconds", {"partition": "0"}) == 5.0
    assert value("fraudline_clock_skew_seconds", {"partition": "3"}) is None
    telemetry.clocks(np.array([3], np.int32), np.array([1_000], np.int64))
    assert value("fraudline_clock_skew_seconds", {"partition": "3"}) == 1.0, "what it was before is forgotten"


def test_two_telemetries_share_nothing() -> None:
    first, second = Telemetry(), Telemetry()
    first.alerts.inc()
    assert second.registry.get_sample_value("fraudline_alerts_total") == 0


def test_health_is_alive_while_the_loop_turns() -> None:
    clock = Clock()
    health = Health(stale_after_s=10.0, clock=clock)
    assert health.alive()
    clock.now_s += 10.0
    assert health.alive()
    assert not health.alive(clock.now_s + 0.1)
    health.beat()
    assert health.alive(clock.now_s + 10.0)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def health(clock: Clock) -> Health:
    return Health(stale_after_s=10.0, clock=clock)


@pytest.fixture
def server(health: Health) -> Iterator[Server]:
    telemetry = Telemetry()
    telemetry.rejected("decode", "not_json", 3)
    running = serve(telemetry, health, "127.0.0.1", 0)
    yield running
    running.close()


def ask(server: Server, path: str, method: str = "GET") -> tuple[int, str, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.read().decode(), {k.lower(): v for k, v in response.getheaders()}
    finally:
        connection.close()


def test_metrics_are_served_as_prometheus_reads_them(server: Server) -> None:
    status, body, headers = ask(server, "/metrics")
    assert status == 200
    assert headers["content-type"].startswith("text/plain")
    families = {family.name: family for family in text_string_to_metric_families(body)}
    (rejected,) = (sample for sample in families["fraudline_rejected"].samples if sample.value)
    assert (rejected.labels, rejected.value) == ({"stage": "decode", "reason": "not_json"}, 3)
    assert families["fraudline_end_to_end_seconds"].type == "histogram"
    assert "process_resident_memory_bytes" in families
    assert "fraudline_heartbeat_timestamp_seconds" in families


def test_livez_fails_when_the_heartbeat_is_old(server: Server, health: Health, clock: Clock) -> None:
    assert ask(server, "/livez")[0] == 200
    clock.now_s += 10.5
    status, body, _ = ask(server, "/livez")
    assert (status, body) == (503, "the loop last turned 10.5 s ago\n")
    health.beat()
    assert ask(server, "/livez")[0] == 200


def test_readyz_tells_why_not(server: Server, health: Health) -> None:
    assert ask(server, "/readyz")[:2] == (503, "starting\n")
    health.ready(True, "deciding")
    assert ask(server, "/readyz")[:2] == (200, "deciding\n")
    health.ready(False, "draining")
    assert ask(server, "/readyz")[:2] == (503, "draining\n")


def test_anything_else_is_not_found_or_not_allowed(server: Server) -> None:
    assert ask(server, "/")[0] == 404
    assert ask(server, "/metrics/../etc/passwd")[0] == 404
    status, _, headers = ask(server, "/metrics", "POST")
    assert (status, headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("path", ["/metrics", "/livez", "/readyz", "/nowhere"])
def test_head_answers_as_get_without_a_body(path: str, server: Server) -> None:
    status, body, _ = ask(server, path, "HEAD")
    assert (status, body) == (ask(server, path)[0], "")


def test_a_client_that_goes_away_leaves_no_trace(server: Server, capfd: pytest.CaptureFixture[str]) -> None:
    for request in (b"", b"GET", b"GET /metrics HTTP/1.1\r\n\r\n", b"\x00\xff nonsense\r\n\r\n"):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        connection.connect()
        connection.send(request)
        connection.close()
    assert ask(server, "/livez")[0] == 200
    assert capfd.readouterr().err == ""


def test_a_port_in_use_gets_one_sentence(server: Server) -> None:
    with pytest.raises(ConfigError, match=r"^Metrics can't be served on 127\.0\.0\.1:\d+ \(Address already in use\)"):
        serve(Telemetry(), Health(), "127.0.0.1", server.port)
    with pytest.raises(ConfigError, match="can't be served"):
        serve(Telemetry(), Health(), "not a host", 0)


def test_closing_frees_the_port_and_may_be_done_twice() -> None:
    server = serve(Telemetry(), Health(), "127.0.0.1", 0)
    port = server.port
    server.close()
    server.close()
    again = serve(Telemetry(), Health(), "127.0.0.1", port)
    again.close()
