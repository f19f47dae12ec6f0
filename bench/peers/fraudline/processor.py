"""`fraudline run` with its defaults, but for addresses and names."""

from __future__ import annotations

import sys
from typing import Literal

from bench.peers.arguments import SESSION_TIMEOUT_MS, arguments
from consumer import logs
from consumer.app import run
from consumer.settings import (
    KafkaSettings,
    ModelSettings,
    ProcessingSettings,
    Settings,
    StoreSettings,
    TelemetrySettings,
    TopicSettings,
)
from features.errors import FraudlineError

Delivery = Literal["exactly_once", "at_least_once"]


def main(delivery: Delivery) -> None:
    """Decide payments until SIGTERM; its other topics are named after the group (`bench.stack.Names`)."""
    args = arguments("Fraudline.")
    logs.configure("warning", "json")
    topics = {role: f"{args.group}.{role}" for role in ("labels", "dead_letters", "journal", "lists")}
    settings = Settings(
        kafka=KafkaSettings(brokers=args.brokers, group_id=args.group, session_timeout_ms=SESSION_TIMEOUT_MS),
        topics=TopicSettings(
            payments=args.payments_topic, decisions=args.decisions_topic, alerts=args.alerts_topic, **topics
        ),
        store=StoreSettings(url=args.redis, namespace=args.namespace),
        processing=ProcessingSettings(delivery=delivery),
        model=ModelSettings(bundle=args.bundle),
        telemetry=TelemetrySettings(port=0),
    )
    try:
        status = run(settings)
    except FraudlineError as error:
        sys.exit(str(error))
    sys.exit(status)
