"""What the alert page tells Prometheus; names, units and what to do are in `consumer.metrics`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from consumer import metrics
from consumer.dashboard.board import KINDS, Board

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class Gauges:
    """The live instruments of one page, in a registry of their own."""

    def __init__(self, board: Board, clock: Callable[[], float] = time.time) -> None:
        """What was read is asked of the board at each scrape; `clock` tells Unix time in seconds."""
        disable_created_metrics()  # type: ignore[no-untyped-call]  # as in consumer.telemetry
        self._registry = CollectorRegistry()
        self._registry.register(_Read(board, clock))
        streams, refused, denied = (
            metrics.DASHBOARD_STREAMS,
            metrics.DASHBOARD_STREAMS_REFUSED,
            metrics.DASHBOARD_REFUSED,
        )
        self.streams = Gauge(streams.name, streams.help, registry=self._registry)
        self.streams_refused = Counter(refused.name, refused.help, registry=self._registry)
        self.refused = Counter(denied.name, denied.help, registry=self._registry)
        told = metrics.DASHBOARD_VERDICTS
        verdicts = Counter(told.name, told.help, told.labels, registry=self._registry)
        self.verdicts = {result: verdicts.labels(result) for result in metrics.VERDICT_RESULTS}

    def text(self) -> bytes:
        """All of them in Prometheus' text format."""
        return generate_latest(self._registry)


class _Read(Collector):
    def __init__(self, board: Board, clock: Callable[[], float]) -> None:
        self._board, self._clock = board, clock

    def collect(self) -> Iterable[Metric]:
        reading = self._board.reading()
        for metric, counts in (
            (metrics.DASHBOARD_RECORDS, reading.records),
            (metrics.DASHBOARD_UNREADABLE, reading.unreadable),
        ):
            family = CounterMetricFamily(metric.name, metric.help, labels=metric.labels)
            for kind in KINDS:
                family.add_metric([kind], counts[kind])
            yield family
        silent_s = float("nan") if reading.heard_ms is None else self._clock() - reading.heard_ms / 1_000
        yield GaugeMetricFamily(metrics.DASHBOARD_SILENT.name, metrics.DASHBOARD_SILENT.help, silent_s)
