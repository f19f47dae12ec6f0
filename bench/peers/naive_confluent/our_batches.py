"""The same loop, with Fraudline's batch function in it."""

from __future__ import annotations

from contextlib import closing

from bench.peers.arguments import arguments
from bench.peers.naive_confluent.clients import flush, next_batch, open_consumer, open_producer, stop_on_sigterm
from bench.peers.ours import Ours


def main() -> None:
    args = arguments("The loop on confluent-kafka, in batches of Fraudline's.")
    stopping = stop_on_sigterm()
    producer = open_producer(args)
    with closing(open_consumer(args, stored_by_hand=False)) as consumer, closing(Ours(args)) as ours:
        while not stopping.is_set():
            messages = next_batch(consumer)
            if not messages:
                continue
            for answer in ours.decide(messages):
                producer.produce(args.decisions_topic, answer.decision, answer.key)
                if answer.alert is not None:
                    producer.produce(args.alerts_topic, answer.alert, answer.key)
            flush(producer)
            for done in consumer.commit(asynchronous=False):
                ours.committed(done.topic, done.partition, done.offset)


if __name__ == "__main__":
    main()
