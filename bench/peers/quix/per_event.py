"""Quix Streams, one payment at a time: `apply`, `to_topic`, a filter and a second `to_topic`.

As its tutorials are built ("Purchase Filtering", "Branching"): topics with JSON serializers, a streaming data frame,
the result to a topic, a filtered branch to another. See `application.py` for the settings and their pages.
"""

from __future__ import annotations

import argparse
from contextlib import closing
from typing import Any

from bench.peers.arguments import arguments
from bench.peers.counters import Counters, is_alert
from bench.peers.quix.application import application


def run(args: argparse.Namespace, **settings: Any) -> None:
    """Decide payments until SIGTERM."""
    app = application(args, **settings)
    payments = app.topic(args.payments_topic, value_deserializer="json")
    decisions = app.topic(args.decisions_topic, value_serializer="json")
    alerts = app.topic(args.alerts_topic, value_serializer="json")
    with closing(Counters(args.redis, args.model)) as counters:
        decided = app.dataframe(payments).apply(counters.decide)
        decided.to_topic(decisions)
        decided.filter(is_alert).to_topic(alerts)
        app.run()


if __name__ == "__main__":
    run(arguments("Quix Streams, one payment at a time."))
