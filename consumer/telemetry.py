"""What this process tells about itself: its live metrics, its health, and the small server that shows both.

Names, units and what to do about a metric are in `consumer.metrics`.
"""

from __future__ import annotations

import contextlib
import platform
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.types import StartResponse, WSGIEnvironment

import msgspec
import numpy as np
import numpy.typing as npt
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    make_wsgi_app,
)

from consumer import __version__, metrics
from consumer.decode import REASONS
from consumer.drift import DriftCollector
from consumer.lag import Lag
from consumer.metrics import METRICS, BatchHistogram, Metric
from features.errors import ConfigError

__all__ = ["METRICS", "BatchHistogram", "Health", "Metric", "Server", "Telemetry", "serve"]

SOCKET_TIMEOUT_S: Final = 5.0


class Telemetry:
    """The live instruments of one process, in a registry of their own.

    Labelled instruments whose words are fixed are mappings from the word to the child, made once and exported from the
    first scrape on, so that a rate over them never misses its first event.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        """`clock` tells Unix time in seconds, by which a lag is told at each scrape."""
        self._clock = clock
        disable_created_metrics()  # type: ignore[no-untyped-call]  # one more series a counter, which nobody reads
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.end_to_end = BatchHistogram(metrics.END_TO_END, metrics.END_TO_END_BUCKETS_S)
        self.registry.register(self.end_to_end)
        stages = self._histogram(metrics.STAGE, metrics.STAGE_BUCKETS_S)
        self.stage = {stage: stages.labels(stage) for stage in metrics.STAGES}
        self.batch_size = self._histogram(metrics.BATCH_SIZE, metrics.BATCH_BUCKETS)
        self.payments = self._counter(metrics.PAYMENTS)
        decisions = self._counter(metrics.DECISIONS_MADE)
        self.decisions = {(d, t): decisions.labels(d, t) for d in metrics.DECISIONS for t in metrics.TIERS}
        self.alerts = self._counter(metrics.ALERTS)
        self.unexplained = self._counter(metrics.UNEXPLAINED)
        self._rejected = self._counter(metrics.REJECTED)
        for reason in REASONS:
            self._rejected.labels("decode", reason)
        self.duplicates = self._counter(metrics.DUPLICATES)
        self.late = self._counter(metrics.LATE)
        self._add_backlog()
        rebalances = self._counter(metrics.REBALANCED)
        self.rebalances = {kind: rebalances.labels(kind) for kind in metrics.REBALANCES}
        transactions = self._counter(metrics.TRANSACTIONS)
        self.transactions = {outcome: transactions.labels(outcome) for outcome in metrics.OUTCOMES}
        self.state_regressions = self._counter(metrics.STATE_REGRESSIONS)
        checks = self._counter(metrics.STATE_CHECKS)
        self.state_checks = {result: checks.labels(result) for result in metrics.CHECK_RESULTS}
        self.state_caught_up_records = self._counter(metrics.STATE_CAUGHT_UP)
        self.store_up = self._gauge(metrics.STORE_UP)
        self._rules = self._counter(metrics.RULES_FIRED)
        self.blocks_limited = self._counter(metrics.BLOCKS_LIMITED)
        self.review_threshold = self._gauge(metrics.REVIEW_THRESHOLD)
        self.lists_version = self._gauge(metrics.LISTS_VERSION)
        self._add_models()
        self._gauge(metrics.BUILD_INFO).labels(__version__, platform.python_version()).set(1)
        self.heartbeat = self._gauge(metrics.HEARTBEAT)
        self.too_late = self._counter(metrics.TOO_LATE)
        labels = self._counter(metrics.LABELS)
        self.labels = {(w, s): labels.labels(w, s) for w in metrics.LABEL_WORDS for s in metrics.LABEL_SOURCES}
        self._clock_skew = self._gauge(metrics.CLOCK_SKEW)
        self._skew_s: dict[int, float] = {}
        self.feature_age = BatchHistogram(metrics.FEATURE_AGE, metrics.AGE_BUCKETS_S)
        self.registry.register(self.feature_age)
        self.state_age = self._gauge(metrics.STATE_AGE)

    def _add_backlog(self) -> None:
        """What is told of the records that wait."""
        self._lag = Lag()
        self._gauge(metrics.LAG_SECONDS).set_function(lambda: self._lag.seconds(self._clock()))
        self._lag_records = self._gauge(metrics.LAG_RECORDS)
        self._labels_lag_records = self._gauge(metrics.LABELS_LAG)
        self._assigned = self._gauge(metrics.ASSIGNED)

    def _add_models(self) -> None:
        """What is told of the models that decide."""
        self._model_info = self._gauge(metrics.MODEL_INFO)
        swaps = self._counter(metrics.MODEL_SWAPS)
        self.model_swaps = {result: swaps.labels(result) for result in metrics.SWAP_RESULTS}
        self.registry_up = self._gauge(metrics.REGISTRY_UP)
        shadow = self._counter(metrics.SHADOW_DECISIONS)
        self.shadow_decisions = {
            (old, new): shadow.labels(old, new) for old in metrics.DECISIONS for new in metrics.DECISIONS
        }
        self.canary_share = self._gauge(metrics.CANARY_SHARE)
        self.canary_rollbacks = self._counter(metrics.CANARY_ROLLBACKS)
        self.device_fallbacks = self._counter(metrics.DEVICE_FALLBACKS)
        self.drift = DriftCollector()
        self.registry.register(self.drift)

    def committed(self, *, now_ms: float, timestamps_ms: npt.NDArray[np.int64], budget_ms: float) -> int:
        """Account for a committed batch in one step: end-to-end seconds, late payments, lag seconds.

        Args:
            now_ms: when the commit returned, on the brokers' clock (Unix time).
            timestamps_ms: the payments' Kafka timestamps, shape (n,).
            budget_ms: the budget of a payment.

        Returns:
            How many of the payments were late.
        """
        if len(timestamps_ms) == 0:
            return 0
        took_s: npt.NDArray[np.float64] = np.maximum(now_ms - timestamps_ms, 0.0) / 1_000.0
        self.end_to_end.observe_many(took_s)
        late = int(np.count_nonzero(took_s > budget_ms / 1_000.0))
        self.late.inc(late)
        self._lag.decided(float(took_s.min()), now_ms / 1_000.0)
        return late

    def backlog(self, payments: Mapping[int, int], labels: int) -> None:
        """Account for what waits now.

        Args:
            payments: how many records wait, by partition of payments that is read here.
            labels: how many labels wait in all.
        """
        waiting = sum(payments.values())
        self._lag.waiting(waiting, self._clock())
        self._lag_records.set(waiting)
        self._labels_lag_records.set(labels)
        self._assigned.set(len(payments))
        for number in self._skew_s.keys() - payments.keys():  # another process tells it now
            del self._skew_s[number]
            self._clock_skew.remove(str(number))

    def clocks(self, partition: npt.NDArray[np.int32], ahead_ms: npt.NDArray[np.int64]) -> None:
        """Account for how far n event times lie ahead of their Kafka timestamps; negative is behind.

        An event can't be sent before it happens, so the largest of a batch comes nearest to how far the clock of its
        source is off; the moving average (weight 1/8, as in RFC 6298) forgets single outliers.
        """
        for number in np.unique(partition).tolist():
            largest_s = float(ahead_ms[partition == number].max()) / 1_000.0
            known = self._skew_s.get(number, largest_s)
            self._skew_s[number] = known + (largest_s - known) / 8
            self._clock_skew.labels(str(number)).set(self._skew_s[number])

    def rejected(self, stage: str, reason: str, count: int = 1) -> None:
        """Count records sent to the dead-letter topic; `reason` is a fixed word, never text from a payload."""
        self._rejected.labels(stage, reason).inc(count)

    def rule(self, rule: str, kind: str, count: int) -> None:
        """Count decided payments for which a rule fired; `rule` is an id of the policy, of which there are few."""
        if count:
            self._rules.labels(rule, kind).inc(count)

    def model(self, *, name: str, version: str, digest: str, device: str) -> None:
        """Say which model scores from now on, and on which device it is meant to."""
        self._model_info.clear()
        self._model_info.labels(name, version, digest, device).set(1)

    def _counter(self, metric: Metric) -> Counter:
        return Counter(metric.name, metric.help, metric.labels, registry=self.registry)

    def _gauge(self, metric: Metric) -> Gauge:
        return Gauge(metric.name, metric.help, metric.labels, registry=self.registry)

    def _histogram(self, metric: Metric, bounds: Iterable[float]) -> Histogram:
        return Histogram(metric.name, metric.help, metric.labels, registry=self.registry, buckets=tuple(bounds))


class Health:
    """Whether the loop still turns, and whether this process may be relied on. Used from two threads."""

    def __init__(self, *, stale_after_s: float = 30.0, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` tells seconds that never go back; `stale_after_s` is how long the loop may be silent."""
        self._stale_after_s = stale_after_s
        self._clock = clock
        self._beat_s = clock()
        self._ready: tuple[bool, str] = (False, "starting")

    def beat(self) -> None:
        """The loop turned. Cheap: call it every turn, and while waiting for something long that is going well."""
        self._beat_s = self._clock()

    def silent_s(self, now_s: float | None = None) -> float:
        """Seconds since the last beat (since the start, before the first), at `now_s` of the clock."""
        return (self._clock() if now_s is None else now_s) - self._beat_s

    def alive(self, now_s: float | None = None) -> bool:
        """Whether the loop turned recently enough."""
        return self.silent_s(now_s) <= self._stale_after_s

    def ready(self, ready: bool, why: str) -> None:
        """Say whether this process may be relied on, and why (shown by `/readyz`; no secrets, no ids)."""
        self._ready = (ready, why)

    @property
    def readiness(self) -> tuple[bool, str]:
        """What was last said with `ready`."""
        return self._ready


class Server:
    """`/metrics`, `/drift`, `/livez` and `/readyz` on a thread of its own, until `close`."""

    def __init__(self, server: WSGIServer) -> None:
        self._server = server
        self._thread = threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.1}, name="telemetry", daemon=True
        )
        self._thread.start()

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return self._server.server_port

    def close(self) -> None:
        """Stop serving and free the port; may be called twice."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()


def serve(telemetry: Telemetry, health: Health, host: str, port: int) -> Server:
    """Serve metrics and probes on `host:port` (port 0: the OS chooses).

    Raises:
        ConfigError: the address can't be listened on.
    """
    family = _ListenerV6 if ":" in host else _Listener
    try:
        listener = family((host, port), _Handler)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or "not an address"
        raise ConfigError(
            f"Metrics can't be served on {host}:{port} ({reason}): change telemetry.host or telemetry.port."
        ) from None
    listener.set_app(_application(telemetry, health))
    return Server(listener)


def _application(telemetry: Telemetry, health: Health) -> Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]]:
    show_metrics = make_wsgi_app(telemetry.registry)

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ.get("PATH_INFO", "")
        if method not in {"GET", "HEAD"}:
            return _say(start_response, HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD", [("Allow", "GET, HEAD")])
        if path == "/metrics":
            body: Iterable[bytes] = show_metrics({**environ, "REQUEST_METHOD": "GET"}, start_response)
        elif path == "/livez":
            status = HTTPStatus.OK if health.alive() else HTTPStatus.SERVICE_UNAVAILABLE
            body = _say(start_response, status, f"the loop last turned {health.silent_s():.1f} s ago")
        elif path == "/readyz":
            ready, why = health.readiness
            body = _say(start_response, HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE, why)
        elif path == "/drift" and (drift := telemetry.drift.current) is not None:  # a promotion may take it away
            body = _say(start_response, HTTPStatus.OK, msgspec.json.encode(drift.document()).decode())
        elif path == "/drift":
            body = _say(start_response, HTTPStatus.NOT_FOUND, "the bundle has no reference that drift is measured from")
        else:
            body = _say(start_response, HTTPStatus.NOT_FOUND, "try /metrics, /drift, /livez or /readyz")
        return body if method == "GET" else []

    return application


def _say(start: StartResponse, status: HTTPStatus, text: str, headers: Iterable[tuple[str, str]] = ()) -> list[bytes]:
    body = f"{text}\n".encode()
    length = ("Content-Length", str(len(body)))
    start(f"{status.value} {status.phrase}", [("Content-Type", "text/plain; charset=utf-8"), length, *headers])
    return [body]


class _Listener(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def server_bind(self) -> None:
        """Bind without asking DNS for this machine's name, which can take long where there is none."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no event; the default would print a stack to standard error."""


class _ListenerV6(_Listener):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    timeout = SOCKET_TIMEOUT_S  # a client that sends nothing must not hold a thread for ever

    def handle(self) -> None:
        """Serve one request; one that stalls or goes away is dropped."""
        with contextlib.suppress(OSError):
            super().handle()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the library's name
        """Probes every few seconds are not worth a line."""
