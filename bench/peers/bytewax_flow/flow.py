"""What the variants have in common: source, sink and recovery, tuned as Bytewax' documentation advises.

- "Kafka and Recovery": Bytewax does not use consumer groups; its recovery store (SQLite files in `state`) keeps the
  offsets of whole epochs, and a restart goes on from the last one: at least once. An epoch is 1 s rather than 10, so
  that a crash repeats less. SIGTERM ends the process as `kill -9` does: a flow without end has no other stop.
- `batch_size` of the Kafka source: 1,000, its default, is "a suitable starting point for higher throughput dataflows".
- "Dynamic topic writes" (Kafka): one sink for decisions and alerts, since a sink flushes its producer after each batch.
- "Workers, processes and GIL contention" (Performance): one process of one worker; threads would contend for the lock.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import Any, Final

import bytewax.operators as op
from bytewax.connectors.kafka import KafkaSinkMessage, KafkaSourceMessage
from bytewax.connectors.kafka import operators as kop
from bytewax.dataflow import Dataflow, Stream
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.run import cli_main

from bench.peers.payloads import Publication

EPOCH: Final = timedelta(seconds=1)

Message = KafkaSourceMessage[Any, Any]
Out = KafkaSinkMessage[bytes, bytes]


def run(args: argparse.Namespace, decide: Callable[[Stream[Message]], Stream[Out]]) -> None:
    """Run the flow from payments through `decide` to decisions and alerts until SIGTERM."""
    flow = Dataflow("fraud")
    brokers = args.brokers.split(",")
    payments = kop.input("payments", flow, brokers=brokers, topics=[args.payments_topic])
    op.raises("errors", payments.errs)
    kop.output("out", decide(payments.oks), brokers=brokers, topic=None)
    if not any(args.state.iterdir()):
        init_db_dir(args.state, 1)
    cli_main(flow, epoch_interval=EPOCH, recovery_config=RecoveryConfig(args.state))


def run_batches(args: argparse.Namespace, decide: Callable[[list[Message]], Iterable[Publication]]) -> None:
    """Run a flow that decides what the source read at once."""

    def published(messages: list[Message]) -> Iterator[Out]:
        for key, decision, alert in decide(messages):
            yield KafkaSinkMessage(key, decision, topic=args.decisions_topic)
            if alert is not None:
                yield KafkaSinkMessage(key, alert, topic=args.alerts_topic)

    run(args, lambda payments: op.flat_map_batch("decide", payments, published))
