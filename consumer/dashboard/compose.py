"""Where the alert page is put together: for `fraudline dashboard`, and for the demo."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

import structlog

from consumer.dashboard.access import Access
from consumer.dashboard.application import Application
from consumer.dashboard.board import RECENT_DECISIONS, Board, Kind
from consumer.dashboard.feed import Feed, Tail
from consumer.dashboard.gauges import Gauges
from consumer.dashboard.server import PageServer, listen
from consumer.dashboard.streams import Streams
from consumer.dashboard.verdicts import Verdicts, Writer
from consumer.kafka.tail import TailReader
from consumer.kafka.verdicts import AuditedLabelWriter, LabelWriter, PaymentLookup
from consumer.records import Alert
from consumer.settings import Settings
from features.errors import FraudlineError
from features.event import Payment

# A transaction leaves a mark in each partition that it wrote to: of a log of few records a batch, marks are the half.
OFFSETS_PER_ALERT: Final = 2
_LOG: Final = structlog.get_logger("dashboard")


class Dashboard:
    """A page that reads and serves from `start` to `close`."""

    def __init__(
        self,
        settings: Settings,
        *,
        tail: Tail | None = None,
        writer: Writer | None = None,
        payment_of: Callable[[Alert], Payment | None] | None = None,
    ) -> None:
        """Take the port; nothing is read or served yet. Raises ConfigError: the settings or the port can't be used.

        Without a `tail`, a `writer` and a `payment_of` they are those of Kafka.
        """
        page, topics = settings.dashboard, settings.topics
        access = Access(page)
        self._host = page.host
        self.board = Board(page.keep_alerts, settings.processing.budget_ms)
        gauges = Gauges(self.board)
        self.streams = Streams(self.board, gauges, page.max_streams)
        self.verdicts: Verdicts | None = None
        kinds: dict[str, Kind] = {topics.alerts: "alert", topics.decisions: "decision"}
        back = {topics.alerts: OFFSETS_PER_ALERT * page.keep_alerts, topics.decisions: RECENT_DECISIONS}
        if page.verdicts:
            kinds[topics.labels] = "label"
            back[topics.labels] = page.keep_alerts
            if writer is None:
                writer = AuditedLabelWriter(settings) if settings.audit.enabled else LabelWriter(settings)
            self.verdicts = Verdicts(self.board, writer, payment_of or PaymentLookup(settings), gauges)
        self.application = Application(
            board=self.board,
            streams=self.streams,
            gauges=gauges,
            access=access,
            verdicts=self.verdicts,
            host=page.host,
        )
        self._server = PageServer(self.application.asgi, listen(page.host, page.port), page.max_streams)
        self._feed = Feed(tail or TailReader(settings.kafka, back), self.board, kinds, self.streams.wake)

    @property
    def address(self) -> str:
        """Where a browser finds the page, from this machine if it listens everywhere."""
        host = {"0.0.0.0": "localhost", "::": "localhost"}.get(self._host, self._host)  # noqa: S104  it is compared
        return f"http://{f'[{host}]' if ':' in host else host}:{self._server.port}/"

    def start(self) -> None:
        """Read and serve."""
        self._feed.start()
        self._server.start()

    def close(self) -> None:
        """End streams, stop serving, stop reading."""
        self.streams.close()
        self._server.close()
        if self.verdicts is not None:
            self.verdicts.close()
        self._feed.stop()

    def check(self) -> None:
        """Raises FraudlineError when the page is no longer served, or nothing is read for it."""
        if self._feed.failure is not None:
            raise FraudlineError("the alert page's reader has ended; the log says why") from self._feed.failure
        if not self._server.alive:
            raise FraudlineError("the alert page's server has ended; the log says why") from self._server.failure


def run(settings: Settings, stop: threading.Event) -> int:
    """Serve the page until `stop` is set; returns the exit code. Raises FraudlineError."""
    dashboard = Dashboard(settings)
    page = settings.dashboard
    try:
        dashboard.start()
        _LOG.info("started", address=dashboard.address, auth=page.auth, verdicts=page.verdicts)
        while not stop.wait(1.0):
            dashboard.check()
        _LOG.info("stopping")
    finally:
        dashboard.close()
    _LOG.info("stopped")
    return 0
