"""Sends records on a schedule that no consumer can slow down, and notes where and when each of them landed.

Record i is due at start + i / rate, whatever happened to those before it. Latency counts from when a record was due, so
a sender that is late, or a broker that does not take records, can't hide what a payment would have waited
(no coordinated omission).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from confluent_kafka import KafkaError as Code
from confluent_kafka import KafkaException, Producer

from consumer.kafka.client import common_config, denied, flush, unavailable
from consumer.settings import KafkaSettings
from features.errors import KafkaUnavailable

Outgoing = tuple[str, bytes, bytes | None]
"""Topic, key and value."""

SENT: Final = np.dtype([("partition", "<i4"), ("offset", "<i8"), ("due_ns", "<i8"), ("late_ns", "<i8")])
"""One row a record, in the order sent: where it landed (offset -1: nowhere), when it was due, and how much later it
was handed to the client. Times are `time.time_ns()` of this machine."""

Sent = npt.NDArray[np.void]
Ints = npt.NDArray[np.int64]
TICK_NS: Final = 1_000_000
START_DELAY_NS: Final = 200_000_000
FLUSH_S: Final = 60.0


def schedule(count: int, rate: float) -> Ints:
    """When so many records are due at `rate` a second, (count,), from a moment from now on (`time.time_ns`)."""
    return time.time_ns() + START_DELAY_NS + (np.arange(count) * (1e9 / rate)).astype(np.int64)


def keep(
    due_ns: Ints,
    hand_over: Callable[[int], None],
    between: Callable[[], None],
    told_to_stop: Callable[[], bool] = lambda: False,
) -> Ints:
    """Hand record i over as soon as it is due, for each of n; `between` is called now and then.

    Returns:
        How late each was handed over, in ns: (n,), or fewer if it was told to stop, which is asked now and then.
    """
    due, late_ns = due_ns.tolist(), np.zeros(len(due_ns), np.int64)
    count, index = len(due), 0
    while index < count and not told_to_stop():
        now_ns = time.time_ns()
        while index < count and due[index] <= now_ns:
            hand_over(index)
            late_ns[index] = now_ns - due[index]
            index += 1
        between()
        if index < count and (wait_ns := max(due[index], now_ns + TICK_NS) - time.time_ns()) > 0:
            time.sleep(wait_ns / 1e9)
    return late_ns[:index]


class OpenLoop:
    """One sender. Not thread-safe."""

    def __init__(self, kafka: KafkaSettings) -> None:
        """Connect lazily."""
        self._kafka = kafka
        self._failed: list[tuple[Code, str]] = []
        self._producer = Producer(
            common_config(kafka) | {"enable.idempotence": True, "linger.ms": 1, "queue.buffering.max.messages": 500_000}
        )

    def send(self, records: Sequence[Outgoing], rate: float, told_to_stop: Callable[[], bool] = lambda: False) -> Sent:
        """Send records at `rate` a second, and wait until they are acknowledged.

        Returns:
            A row for each record; for fewer if it was told to stop, which is asked now and then.

        Raises:
            KafkaUnavailable: one was not taken.
        """
        rows: Sent = np.zeros(len(records), SENT)
        rows["offset"] = -1
        rows["due_ns"] = schedule(len(records), rate)

        def hand_over(index: int) -> None:
            self._produce(records[index], partial(self._landed, rows, index))

        def between() -> None:
            self._producer.poll(0)
            self._check()

        late_ns = keep(rows["due_ns"], hand_over, between, told_to_stop)
        rows = rows[: len(late_ns)]
        rows["late_ns"] = late_ns
        left = flush(self._producer, FLUSH_S)
        self._check()
        if left:
            raise KafkaUnavailable(f"Kafka at {self._kafka.brokers} did not acknowledge {left} records in time")
        return rows

    def _produce(self, record: Outgoing, landed: Callable[[Code | None, Any], None]) -> None:
        topic, key, value = record
        while True:
            try:
                self._producer.produce(topic, value, key, on_delivery=landed)
            except BufferError:
                self._producer.poll(0.01)
                self._check()
            except KafkaException as exception:
                raise unavailable(self._kafka, exception, topic) from exception
            else:
                return

    def _landed(self, rows: Sent, index: int, error: Code | None, message: Any) -> None:
        if error is not None:
            self._failed.append((error, message.topic()))
            return
        rows["partition"][index] = message.partition()
        rows["offset"][index] = message.offset()

    def _check(self) -> None:
        if self._failed:
            error, topic = self._failed[0]
            raise denied(self._kafka, error, topic) or KafkaUnavailable(
                f"Kafka at {self._kafka.brokers} did not take every record of {topic}: {error.str()}"
            )
