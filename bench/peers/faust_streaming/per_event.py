"""Faust, one payment at a time: an agent that iterates over its stream and sends to topics.

As its user guide has agents ("Agents - Self-organizing Stream Processors"): `async for`, then `await topic.send`, which
waits for room in the producer's buffer and not for delivery. See `application.py` for the settings.
"""

from __future__ import annotations

import argparse
from contextlib import closing
from typing import Any

import orjson

from bench.peers.arguments import arguments
from bench.peers.counters import Counters, is_alert
from bench.peers.faust_streaming.application import application, bytes_topic, work
from bench.peers.payloads import payment_of


def run(args: argparse.Namespace, **settings: Any) -> None:
    """Decide payments until SIGTERM."""
    app = application(args, **settings)
    payments, decisions, alerts = (
        bytes_topic(app, name) for name in (args.payments_topic, args.decisions_topic, args.alerts_topic)
    )
    with closing(Counters(args.redis, args.model)) as counters:

        @app.agent(payments)
        async def decide(stream: Any) -> None:
            async for key, value in stream.items():
                payment = payment_of(value)
                if payment is None:
                    continue
                decision = counters.decide(payment)
                encoded = orjson.dumps(decision)
                await decisions.send(key=key, value=encoded)
                if is_alert(decision):
                    await alerts.send(key=key, value=encoded)

        work(app)


if __name__ == "__main__":
    run(arguments("Faust, one payment at a time."))
