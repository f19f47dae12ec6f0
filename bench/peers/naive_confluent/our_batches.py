"""The same loop, with Fraudline's batch function in it."""

from __future__ import annotations

import argparse
from contextlib import closing

from confluent_kafka import Consumer, KafkaError, TopicPartition

from bench.peers.arguments import arguments
from bench.peers.naive_confluent.clients import flush, next_batch, open_consumer, open_producer, stop_on_sigterm, store
from bench.peers.ours import Ours


def main() -> None:
    args = arguments("The loop on confluent-kafka, in batches of Fraudline's.")
    stopping = stop_on_sigterm()
    producer = open_producer(args)
    with closing(Ours(args)) as ours, closing(_consumer(args, ours)) as consumer:
        while not stopping.is_set():
            messages = next_batch(consumer)
            if not messages:
                continue
            for answer in ours.decide(messages):
                producer.produce(args.decisions_topic, answer.decision, answer.key)
                if answer.alert is not None:
                    producer.produce(args.alerts_topic, answer.alert, answer.key)
            flush(producer)
            store(consumer, messages)


def _consumer(args: argparse.Namespace, ours: Ours) -> Consumer:
    def noted(error: KafkaError | None, partitions: list[TopicPartition]) -> None:
        for each in partitions:
            if error is None and each.error is None and each.offset >= 0:
                ours.committed(each.topic, each.partition, each.offset)

    return open_consumer(args, on_commit=noted)


if __name__ == "__main__":
    main()
