"""An open-loop load generator: payments at a fixed rate on a schedule that no consumer can slow down, or a plain fill.

Payment i is due at start + i / rate. It carries that instant as its Kafka timestamp (in ms), and a sidecar file keeps
it in ns beside the partition and offset where the payment landed, so that latency counts from when a payment was due,
not from when a busy generator got round to it. `bench.reader` joins on the sidecar.

Run `python -m bench.loadgen --help`; it prints one JSON line at the end.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson
from confluent_kafka import Producer

from consumer.kafka.open_loop import keep, schedule

SENT: Final = np.dtype([("partition", "<i4"), ("offset", "<i8"), ("intended_ns", "<i8")])
"""One row of the sidecar for each payment in the order sent; offset -1 where it was not delivered."""

LATE_NS: Final = 5_000_000
FLUSH_DEADLINE_S: Final = 60.0

Record = tuple[bytes, bytes]
Sent = npt.NDArray[np.void]
Spans = npt.NDArray[np.int64]


def read_payments(path: Path, count: int, *, skip: int = 0) -> list[Record]:
    """The (key, value) of `count` payments of a JSON Lines file, after the first `skip`; the key is the `card_id`.

    Raises:
        SystemExit: the file has too few; payments are never repeated, since a repeated event id is another load.
    """
    with path.open("rb") as file:
        values = [line.rstrip(b"\n") for line in islice(file, skip, skip + count)]
    if len(values) < count:
        message = f"{path} has {len(values)} payments after the first {skip}, but {count} are needed; generate more."
        raise SystemExit(message)
    return [(orjson.loads(value)["card_id"].encode(), value) for value in values]


class Delivery:
    """Notes in `sent` where each payment landed, as the broker acknowledges it."""

    def __init__(self, count: int) -> None:
        self.sent: Sent = np.zeros(count, SENT)
        self.sent["offset"] = -1
        self._partition, self._offset = self.sent["partition"], self.sent["offset"]

    def note(self, index: int, error: object, message: Any) -> None:
        """The delivery callback of payment `index`."""
        if error is None:
            self._partition[index] = message.partition()
            self._offset[index] = message.offset()


def send_on_schedule(producer: Producer, topic: str, records: Sequence[Record], rate: float) -> tuple[Delivery, Spans]:
    """Send all records at `rate` a second and wait for their acknowledgement.

    Returns:
        The sidecar's rows, and for each payment how late it was handed to the producer, in ns, shape (n,).
    """
    delivery = Delivery(len(records))
    due_ns = schedule(len(records), rate)
    delivery.sent["intended_ns"] = due_ns
    due = due_ns.tolist()

    def hand_over(index: int) -> None:
        _produce(producer, topic, records[index], due[index], partial(delivery.note, index))

    late_ns = keep(due_ns, hand_over, lambda: producer.poll(0))
    producer.flush(FLUSH_DEADLINE_S)
    return delivery, late_ns


def fill(producer: Producer, topic: str, records: Sequence[Record]) -> Delivery:
    """Send all records as fast as the broker takes them and wait for their acknowledgement."""
    delivery = Delivery(len(records))
    for index, record in enumerate(records):
        now_ns = time.time_ns()
        delivery.sent[index]["intended_ns"] = now_ns
        _produce(producer, topic, record, now_ns, partial(delivery.note, index))
        if index % 256 == 0:
            producer.poll(0)
    producer.flush(FLUSH_DEADLINE_S)
    return delivery


def _produce(producer: Producer, topic: str, record: Record, due_ns: int, noted: Callable[..., None]) -> None:
    key, value = record
    while True:
        try:
            producer.produce(topic, value, key, timestamp=due_ns // 1_000_000, on_delivery=noted)
        except BufferError:
            producer.poll(0.01)
        else:
            return


def main() -> None:
    parser = argparse.ArgumentParser(description="Produce payments at a fixed rate, or as fast as possible.")
    parser.add_argument("--brokers", required=True)
    parser.add_argument("--topic", default="payments")
    parser.add_argument("--payments", required=True, type=Path, help="payments.jsonl")
    parser.add_argument("--skip", type=int, default=0, help="leave out this many payments at the start of the file")
    parser.add_argument("--out", type=Path, help="where the sidecar goes (.npy)")
    parser.add_argument("--acks", default="all")
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--fill", type=int, metavar="N", help="produce N payments as fast as possible")
    mode.add_argument("--rate", type=float, help="payments a second")
    parser.add_argument("--duration-s", type=float, default=10.0, help="how long to produce at --rate")
    args = parser.parse_args()
    records = read_payments(args.payments, args.fill or round(args.rate * args.duration_s), skip=args.skip)
    producer = Producer(
        {
            "bootstrap.servers": args.brokers,
            "acks": args.acks,
            "linger.ms": 50 if args.fill else 1,
            "queue.buffering.max.messages": 500_000,
        }
    )
    gc.freeze()
    start_ns, start_cpu_s = time.monotonic_ns(), _cpu_s()
    if args.fill:
        delivery = fill(producer, args.topic, records)
        late_ns: Spans = np.zeros(len(records), np.int64)
    else:
        delivery, late_ns = send_on_schedule(producer, args.topic, records, args.rate)
    wall_s, cpu_s = (time.monotonic_ns() - start_ns) / 1e9, _cpu_s() - start_cpu_s
    if args.out:
        np.save(args.out, delivery.sent)
    print(json.dumps(_summary(delivery.sent, late_ns, args.rate, wall_s, cpu_s)))


def _summary(sent: Sent, late_ns: Spans, rate: float | None, wall_s: float, cpu_s: float) -> dict[str, Any]:
    intended_ns = sent["intended_ns"]
    # From the first to the last hand-over, both counted: what a rate on a schedule means.
    span_s = (int(intended_ns[-1] + late_ns[-1]) - int(intended_ns[0] + late_ns[0])) / 1e9
    achieved = (len(sent) - 1) / span_s if span_s > 0 else 0.0
    return {
        "count": len(sent),
        "delivered": int((sent["offset"] >= 0).sum()),
        "rate_asked": rate,
        "rate_achieved": achieved,
        "fell_short": rate is not None and achieved < 0.99 * rate,
        "max_late_ms": int(late_ns.max()) / 1e6,
        "late_over_5ms": int((late_ns > LATE_NS).sum()),
        "wall_s": wall_s,
        "cpu_s": cpu_s,
    }


def _cpu_s() -> float:
    """User and system CPU time of this process with all its threads, in seconds."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
