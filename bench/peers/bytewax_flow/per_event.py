"""Bytewax, one payment at a time: `flat_map` from a payment to what is published of it, as its Kafka guide has it.

JSON by orjson, as in "Implementing custom ser/de classes". See `flow.py` for the settings and their pages.
"""

from __future__ import annotations

from contextlib import closing

import bytewax.operators as op
import orjson
from bytewax.connectors.kafka import KafkaSinkMessage

from bench.peers.arguments import arguments
from bench.peers.bytewax_flow.flow import Message, Out, run
from bench.peers.counters import Counters, is_alert
from bench.peers.payloads import payment_of


def main() -> None:
    args = arguments("Bytewax, one payment at a time.")
    with closing(Counters(args.redis, args.model)) as counters:

        def decide(message: Message) -> list[Out]:
            payment = payment_of(message.value)
            if payment is None:
                return []
            decision = counters.decide(payment)
            topics = [args.decisions_topic, args.alerts_topic] if is_alert(decision) else [args.decisions_topic]
            value = orjson.dumps(decision)
            return [KafkaSinkMessage(message.key, value, topic=topic) for topic in topics]

        run(args, lambda payments: op.flat_map("decide", payments, decide))


if __name__ == "__main__":
    main()
