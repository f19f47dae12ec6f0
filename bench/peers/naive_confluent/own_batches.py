"""The loop done well: take what there is, one call to Redis and one predict for it, flush, commit.

A batch is as large as the load makes it, so it is small and quick when there is little to do. Offsets are committed
after every decision of the batch is delivered: at least once, nothing is lost. Nobody waits for the commit itself:
one that is lost repeats payments after a crash, as one that was not made yet does.
"""

from __future__ import annotations

import json
from contextlib import closing
from typing import Any

from bench.peers.arguments import arguments
from bench.peers.counters import Counters, is_alert
from bench.peers.naive_confluent.clients import flush, next_batch, open_consumer, open_producer, stop_on_sigterm

FIELDS = ("event_id", "event_time", "card_id", "merchant_id", "amount_minor")


def parsed(message: Any) -> dict[str, Any] | None:
    """The payment, or None for what is none."""
    try:
        payment = json.loads(message.value())
    except ValueError:
        return None
    return payment if isinstance(payment, dict) and all(field in payment for field in FIELDS) else None


def main() -> None:
    args = arguments("The loop on confluent-kafka, in batches.")
    stopping = stop_on_sigterm()
    producer = open_producer(args)
    with (
        closing(open_consumer(args, stored_by_hand=False)) as consumer,
        closing(Counters(args.redis, args.model)) as counters,
    ):
        while not stopping.is_set():
            messages = next_batch(consumer)
            if not messages:
                continue
            payments = [payment for payment in map(parsed, messages) if payment is not None]
            for decision in counters.decide_batch(payments):
                key, value = decision["card_id"].encode(), json.dumps(decision)
                producer.produce(args.decisions_topic, value, key)
                if is_alert(decision):
                    producer.produce(args.alerts_topic, value, key)
            flush(producer)
            consumer.commit(asynchronous=True)


if __name__ == "__main__":
    main()
