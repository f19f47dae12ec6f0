"""The loop of most tutorials: iterate over a KafkaConsumer, decide, send, go on.

As kafka-python documents it: deserializers on the consumer, an asynchronous `send`, offsets committed in the background
(`enable_auto_commit`, every 5 seconds). What is committed may still be on its way to the broker when the process dies;
`linger_ms` fills its batches, and the library's own buffers do the rest.
"""

from __future__ import annotations

import json
import signal
import sys
from contextlib import closing
from typing import Any

from kafka import KafkaConsumer, KafkaProducer

from bench.peers.arguments import SESSION_TIMEOUT_MS, arguments
from bench.peers.counters import Counters, is_alert


def parsed(value: bytes) -> Any:
    """The payment, or None for bytes that are no JSON."""
    try:
        return json.loads(value)
    except ValueError:
        return None


def main() -> None:
    args = arguments("The naive loop on kafka-python.")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # closes both clients on the way out
    consumer = KafkaConsumer(
        args.payments_topic,
        bootstrap_servers=args.brokers,
        group_id=args.group,
        auto_offset_reset="earliest",
        session_timeout_ms=SESSION_TIMEOUT_MS,
        heartbeat_interval_ms=SESSION_TIMEOUT_MS // 3,
        value_deserializer=parsed,
    )
    producer = KafkaProducer(
        bootstrap_servers=args.brokers,
        linger_ms=5,
        value_serializer=lambda decision: json.dumps(decision).encode(),
    )
    with closing(consumer), closing(producer), closing(Counters(args.redis, args.model)) as counters:
        for message in consumer:
            try:
                decision = counters.decide(message.value)
            except (KeyError, TypeError):
                continue
            producer.send(args.decisions_topic, decision, key=message.key)
            if is_alert(decision):
                producer.send(args.alerts_topic, decision, key=message.key)


if __name__ == "__main__":
    main()
