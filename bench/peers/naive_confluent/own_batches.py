"""The loop done well: take what there is, one call to Redis and one predict for it, flush, store the offsets.

A batch is as large as the load makes it, so it is small and quick when there is little to do. Offsets are stored
after every decision of the batch is delivered, and committed in the background: at least once, nothing is lost, and a
crash repeats what was not committed yet.
"""

from __future__ import annotations

from contextlib import closing

from bench.peers.arguments import arguments
from bench.peers.counters import Counters
from bench.peers.naive_confluent.clients import flush, next_batch, open_consumer, open_producer, stop_on_sigterm, store
from bench.peers.payloads import by_counters


def main() -> None:
    args = arguments("The loop on confluent-kafka, in batches.")
    stopping = stop_on_sigterm()
    producer = open_producer(args)
    with (
        closing(open_consumer(args)) as consumer,
        closing(Counters(args.redis, args.model)) as counters,
    ):
        while not stopping.is_set():
            messages = next_batch(consumer)
            if not messages:
                continue
            for key, decision, alert in by_counters(counters, [message.value() for message in messages]):
                producer.produce(args.decisions_topic, decision, key)
                if alert is not None:
                    producer.produce(args.alerts_topic, alert, key)
            flush(producer)
            store(consumer, messages)


if __name__ == "__main__":
    main()
