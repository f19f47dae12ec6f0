"""Reads every committed decision, notes when it came, and says how long after its payment was due that was.

Both clocks are `time.time_ns()` of one machine. Run `python -m bench.reader --help`; it says `ready` on standard error
when it reads, and prints one JSON line at the end. `latencies` joins its file to the sidecar of `bench.loadgen`.
"""

from __future__ import annotations

import argparse
import json
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Final, TypedDict, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

RECEIVED: Final = np.dtype([("partition", "<i4"), ("offset", "<i8"), ("received_ns", "<i8")])
"""One row for each decision in the order received; partition and offset are those of its payment."""

BUDGET_MS: Final = 200.0


class Source(msgspec.Struct, frozen=True, gc=False):
    """Where a decision's payment lies."""

    partition: int
    offset: int


class Decision(msgspec.Struct, frozen=True, gc=False):
    """As much of a decision as the join needs."""

    source: Source


_decode = msgspec.json.Decoder(Decision).decode
T = TypeVar("T")


class Latencies(TypedDict):
    """Milliseconds from when a payment was due to when its first decision was received."""

    count: int
    missing: int
    duplicates: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    p99_9_ms: float
    max_ms: float
    max_at_s: float
    within_200ms: float


def latencies(sent: Path, received: Path) -> Latencies:
    """Join the files of a load generator and of a reader on the payment's partition and offset.

    Percentiles are of the payments that were decided; `within_200ms` is a share of all that were sent, so a missing
    decision counts against it. `max_at_s` is when the slowest payment was due, in seconds after the first. Decisions
    of payments that are not in `sent` (an earlier run on the same topics) are ignored.

    Raises:
        ValueError: no payment in `sent` was delivered.
    """
    due = np.load(sent)
    due = due[due["offset"] >= 0]
    if not len(due):
        message = f"{sent} has no delivered payment; the load generator failed."
        raise ValueError(message)
    rows = np.load(received)
    place, first = first_decisions(due, rows)
    latency_ms = (rows["received_ns"][first] - due["intended_ns"][place]) / 1e6
    decided = latency_ms if len(latency_ms) else np.full(1, np.nan)
    p50, p90, p99, p99_9 = np.percentile(decided, [50, 90, 99, 99.9], method="higher")
    slowest_ns = due["intended_ns"][place[np.argmax(decided)]] if len(place) else due["intended_ns"][0]
    return Latencies(
        count=len(due),
        missing=len(due) - len(first),
        duplicates=int(np.isin(_key(rows), _key(due)).sum()) - len(first),
        p50_ms=float(p50),
        p90_ms=float(p90),
        p99_ms=float(p99),
        p99_9_ms=float(p99_9),
        max_ms=float(decided.max()),
        max_at_s=float(slowest_ns - due["intended_ns"].min()) / 1e9,
        within_200ms=float((latency_ms <= BUDGET_MS).sum() / len(due)),
    )


def first_decisions(
    sent: npt.NDArray[np.void], received: npt.NDArray[np.void]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(n,), (n,) of each payment in `sent` that was decided its place there, and that of its first decision."""
    key, row_key = _key(sent), _key(received)
    first_key, first = np.unique(row_key, return_index=True)  # the first of equal keys, in the order received
    order = np.argsort(key)
    place = order[np.minimum(np.searchsorted(key, first_key, sorter=order), len(order) - 1)]
    known = key[place] == first_key
    return place[known], first[known]


def _key(rows: npt.NDArray[np.void]) -> npt.NDArray[np.int64]:
    key: npt.NDArray[np.int64] = (rows["partition"].astype(np.int64) << 48) | rows["offset"]
    return key


def of_source(value: bytes, now_ns: int) -> tuple[int, int, int]:
    """A row of `RECEIVED`."""
    source = _decode(value).source
    return source.partition, source.offset, now_ns


def read(
    consumer: Consumer,
    *,
    expect: int,
    idle_exit_s: float,
    stopping: threading.Event,
    row: Callable[[bytes, int], T] = of_source,
) -> list[T]:
    """Read until `expect` decisions came and none followed for a second, none came for `idle_exit_s`, or `stopping`.

    Returns:
        What `row` makes of each decision and when it was received (ns); a row of `RECEIVED` if it is not given.
    """
    rows: list[T] = []
    last = time.monotonic()
    while not stopping.is_set():
        # Poll, then take what else is there: `consume` alone would wait for a full batch and add that to the latency.
        first = consumer.poll(0.1)
        if first is None:
            idle_s = time.monotonic() - last
            if idle_s > idle_exit_s or (len(rows) >= expect and idle_s > 1.0):
                break
            continue
        messages = [first, *consumer.consume(499, timeout=0)]
        now_ns = time.time_ns()
        last = time.monotonic()
        for message in messages:
            error = message.error()
            if error is None:
                rows.append(row(message.value(), now_ns))
            elif error.fatal() or error.code() == KafkaError._AUTO_OFFSET_RESET:
                raise KafkaException(error)
    return rows


def open_consumer(brokers: str, topic: str, *, from_end: bool) -> Consumer:
    """A `read_committed` consumer of all partitions of `topic`, outside of any group.

    Raises:
        SystemExit: the topic does not exist.
    """
    consumer = Consumer(
        {
            "bootstrap.servers": brokers,
            "group.id": "bench-reader",  # required by the client; nothing is committed
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "fetch.wait.max.ms": 500,
        }
    )
    partitions = consumer.list_topics(topic, timeout=10.0).topics[topic].partitions
    if not partitions:
        consumer.close()
        message = f"The topic {topic} does not exist; create it first."
        raise SystemExit(message)
    assignment = [TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in partitions]
    if from_end:
        for at in assignment:
            at.offset = consumer.get_watermark_offsets(at, timeout=10.0)[1]
    consumer.assign(assignment)
    return consumer


def main() -> None:
    parser = argparse.ArgumentParser(description="Note when each committed decision is received.")
    parser.add_argument("--brokers", required=True)
    parser.add_argument("--topic", default="decisions")
    parser.add_argument("--out", required=True, type=Path, help="where the rows go (.npy)")
    parser.add_argument("--sent", type=Path, help="sidecar of the load generator, to print the latencies as well")
    parser.add_argument("--from-end", action="store_true", help="leave out what the topic already holds")
    parser.add_argument("--expect", type=int, default=sys.maxsize, help="decisions to wait for")
    parser.add_argument("--idle-exit-s", type=float, default=10.0)
    args = parser.parse_args()
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    with closing(open_consumer(args.brokers, args.topic, from_end=args.from_end)) as consumer:
        print("ready", file=sys.stderr, flush=True)
        rows = read(consumer, expect=args.expect, idle_exit_s=args.idle_exit_s, stopping=stopping)
    np.save(args.out, np.array(rows, RECEIVED))
    used = resource.getrusage(resource.RUSAGE_SELF)
    summary: dict[str, Any] = {"received": len(rows), "cpu_s": used.ru_utime + used.ru_stime}
    if args.sent:
        summary |= latencies(args.sent, args.out)
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
