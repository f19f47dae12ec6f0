"""The baseline: the fraud loop that most people write, tuned as its parts' documents advise, one event at a time.

Poll a payment, `json.loads` it, update and read its counters with one script call to Redis, predict one row with
XGBoost, produce a decision (and an alert), go on. What is done for its speed, within that design:

- confluent-kafka: asynchronous produce with librdkafka's batching, offsets stored after each event and committed in the
  background. That is at-least-once at best: an offset may be committed before its decision is delivered.
- redis-py: hiredis, one registered script an event (a pipeline of its 36 commands takes more than twice the client's
  CPU), and no second read: HINCRBY replies with the new value.
- counters: one tumbling bucket a window (`card:ID:24h:20163`), which costs one key where sliding windows would read 24;
  each is touched by HINCRBY twice and EXPIRE once. Retries count twice, and a window forgets everything at its edge.
- XGBoost: `inplace_predict` on a reused float32 row with one thread and no validation, the fastest for one row.

Run `python -m bench.naive --help`; it prints one JSON line at the end.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from confluent_kafka import Consumer, KafkaException, Producer
from redis import Redis

from bench.naive_model import load_model
from bench.peers.counters import Scorer, decision, is_alert


@dataclass(frozen=True, slots=True)
class Result:
    """What a run did; wall and CPU time are from its first payment to the delivery of its last decision.

    The wall time leaves out the wait for further payments at the end.
    `p50_ms` and `p99_ms` are of one payment's processing, from poll to produce.
    """

    events: int
    alerts: int
    bad: int
    undelivered: int
    wall_s: float
    cpu_s: float
    eps: float
    eps_per_cpu_s: float
    cpu_us_per_event: float
    p50_ms: float
    p99_ms: float


class Publisher:
    """Produces decisions and alerts, and counts what was not delivered."""

    def __init__(self, producer: Producer, *, decisions_topic: str, alerts_topic: str) -> None:
        self._producer = producer
        self._decisions_topic = decisions_topic
        self._alerts_topic = alerts_topic
        self.alerts = 0
        self.undelivered = 0

    def publish(self, key: bytes, decided: Mapping[str, Any]) -> None:
        """Hand over a decision, and an alert unless it is to approve; delivery goes on in the background."""
        value = json.dumps(decided)
        self._produce(self._decisions_topic, key, value)
        if is_alert(decided):
            self.alerts += 1
            self._produce(self._alerts_topic, key, value)
        self._producer.poll(0)

    def flush(self) -> None:
        """Wait until all is delivered, or counted as undelivered."""
        self.undelivered += self._producer.flush(30.0)

    def _produce(self, topic: str, key: bytes, value: str) -> None:
        while True:
            try:
                self._producer.produce(topic, value, key, on_delivery=self._delivered)
            except BufferError:
                self._producer.poll(0.1)
            else:
                return

    def _delivered(self, error: object, _message: object) -> None:
        self.undelivered += error is not None


def run(
    consumer: Consumer,
    score: Callable[[Mapping[str, Any]], float],
    publisher: Publisher,
    *,
    threshold: float,
    max_events: int,
    idle_exit_s: float,
) -> Result:
    """Process payments one at a time until there were `max_events` of them or none for `idle_exit_s`."""
    spans_ns: list[int] = []
    bad = 0
    first_ns, first_cpu_s = 0, 0.0
    last_ns = time.monotonic_ns()
    while len(spans_ns) < max_events:
        message = consumer.poll(0.1)
        began_ns = time.monotonic_ns()
        if message is None:
            if began_ns - last_ns > idle_exit_s * 1e9:
                break
            continue
        if message.error():
            raise KafkaException(message.error())
        if not spans_ns:
            first_ns, first_cpu_s = began_ns, _cpu_s()
        try:
            payment = json.loads(message.value())
            publisher.publish(message.key(), _decide(payment, message, score(payment), threshold))
        except (ValueError, KeyError, TypeError):
            bad += 1
        consumer.store_offsets(message)
        last_ns = time.monotonic_ns()
        spans_ns.append(last_ns - began_ns)
    flush_began_ns = time.monotonic_ns()
    publisher.flush()
    wall_s = (last_ns - first_ns + time.monotonic_ns() - flush_began_ns) / 1e9
    return _result(spans_ns, bad=bad, publisher=publisher, wall_s=wall_s, cpu_s=_cpu_s() - first_cpu_s)


def _decide(payment: Mapping[str, Any], message: Any, score: float, threshold: float) -> dict[str, Any]:
    source = {"topic": message.topic(), "partition": message.partition(), "offset": message.offset()}
    return decision(payment, score, threshold) | {"source": source}


def _result(spans_ns: Sequence[int], *, bad: int, publisher: Publisher, wall_s: float, cpu_s: float) -> Result:
    events = len(spans_ns)
    if not events:
        message = "No payment came; fill the topic first, or allow more time with --idle-exit-s."
        raise SystemExit(message)
    p50_ns, p99_ns = np.percentile(spans_ns, [50, 99], method="higher")
    return Result(
        events=events,
        alerts=publisher.alerts,
        bad=bad,
        undelivered=publisher.undelivered,
        wall_s=wall_s,
        cpu_s=cpu_s,
        eps=events / wall_s,
        eps_per_cpu_s=events / cpu_s,
        cpu_us_per_event=cpu_s / events * 1e6,
        p50_ms=float(p50_ns) / 1e6,
        p99_ms=float(p99_ns) / 1e6,
    )


def _cpu_s() -> float:
    """User and system CPU time of this process with all its threads, in seconds."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description="Decide payments one at a time: the baseline of the benches.")
    parser.add_argument("--brokers", required=True)
    parser.add_argument("--redis", required=True, help="redis://HOST:PORT/DB")
    parser.add_argument("--group", required=True)
    parser.add_argument("--model", required=True, type=Path, help="model.ubj of train_naive_model")
    parser.add_argument("--payments-topic", default="payments")
    parser.add_argument("--decisions-topic", default="decisions")
    parser.add_argument("--alerts-topic", default="alerts")
    parser.add_argument("--threshold", type=float, default=0.5)
    parser.add_argument("--max-events", type=int, default=1_000_000_000)
    parser.add_argument("--idle-exit-s", type=float, default=5.0)
    args = parser.parse_args()
    consumer = Consumer(
        {
            "bootstrap.servers": args.brokers,
            "group.id": args.group,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": True,
            "enable.auto.offset.store": False,
        }
    )
    producer = Producer({"bootstrap.servers": args.brokers, "linger.ms": 5})
    with closing(consumer), Redis.from_url(args.redis) as redis:
        consumer.subscribe([args.payments_topic])
        result = run(
            consumer,
            Scorer(redis, load_model(args.model)),
            Publisher(producer, decisions_topic=args.decisions_topic, alerts_topic=args.alerts_topic),
            threshold=args.threshold,
            max_events=args.max_events,
            idle_exit_s=args.idle_exit_s,
        )
    print(json.dumps(asdict(result)))


if __name__ == "__main__":
    main()
