"""One payment at a time with confluent-kafka: poll, decide, produce, store the offset; commits in the background.

That is the client's own pattern (`enable.auto.offset.store = false`, `store_offsets` when a message was processed),
with asynchronous produce: an offset may be committed before the broker has the decision, so nothing is promised.
"""

from __future__ import annotations

from contextlib import closing

import orjson
from confluent_kafka import KafkaException

from bench.peers.arguments import arguments
from bench.peers.counters import Counters, is_alert
from bench.peers.naive_confluent.clients import flush, open_consumer, open_producer, stop_on_sigterm


def main() -> None:
    args = arguments("The loop on confluent-kafka, one payment at a time.")
    stopping = stop_on_sigterm()
    producer = open_producer(args)
    with (
        closing(open_consumer(args)) as consumer,
        closing(Counters(args.redis, args.model)) as counters,
    ):
        while not stopping.is_set():
            message = consumer.poll(0.1)
            producer.poll(0)
            if message is None:
                continue
            if message.error():
                raise KafkaException(message.error())
            try:
                decision = counters.decide(orjson.loads(message.value()))
            except (ValueError, KeyError, TypeError):
                pass
            else:
                value = orjson.dumps(decision)
                producer.produce(args.decisions_topic, value, message.key())
                if is_alert(decision):
                    producer.produce(args.alerts_topic, value, message.key())
            consumer.store_offsets(message)
        flush(producer)


if __name__ == "__main__":
    main()
