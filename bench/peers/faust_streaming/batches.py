"""An agent that takes payments in batches: `take_events`, the `take` of its user guide that tells where each came from.

"`take()` -- Buffer up values in the stream" advises a `within`, or a batch that never fills waits forever. It is waited
for whenever a batch does not fill, so it is short.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from bench.peers.faust_streaming.application import application, bytes_topic, work
from bench.peers.payloads import Publication

BATCH: Final = 500
"""Payments a batch at most; the `max.poll.records` of the Java client."""

WITHIN_S: Final = 0.02


def run_batches(args: argparse.Namespace, decide: Callable[[Sequence[Any]], Iterable[Publication]]) -> None:
    """Decide batches of Faust's messages until SIGTERM."""
    app = application(args)
    payments, decisions, alerts = (
        bytes_topic(app, name) for name in (args.payments_topic, args.decisions_topic, args.alerts_topic)
    )

    @app.agent(payments)
    async def in_batches(stream: Any) -> None:
        async for events in stream.take_events(BATCH, within=WITHIN_S):
            for key, decision, alert in decide([event.message for event in events]):
                await decisions.send(key=key, value=decision)
                if alert is not None:
                    await alerts.send(key=key, value=alert)

    work(app)
