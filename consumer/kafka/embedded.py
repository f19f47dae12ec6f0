"""A broker in this process, for the demo and fast tests: librdkafka's mock cluster.

It serves groups and rebalances, but not transactions (aborted records are visible, transactional offsets are dropped),
keeps 5 MiB a partition, and creates topics by itself with 4 partitions. So `at_least_once` is all that it can honour.
"""

from __future__ import annotations

from types import TracebackType
from typing import Final, Self

from confluent_kafka import Producer

PARTITIONS: Final = 4


class EmbeddedBroker:
    """Alive from construction to `close`; `brokers` is its address on the loopback interface."""

    def __init__(self) -> None:
        """Start it. Ports are chosen by the operating system."""
        self._owner = Producer({"test.mock.num.brokers": 1, "log_level": 3})
        known = self._owner.list_topics(timeout=10).brokers.values()
        self.brokers = ",".join(f"{broker.host}:{broker.port}" for broker in known)

    def create(self, *topics: str) -> None:
        """Make topics exist: the mock cluster creates what it is asked about."""
        for topic in topics:
            self._owner.list_topics(topic, timeout=10)

    def close(self) -> None:
        """Stop it; nothing is kept."""
        self._owner.close()

    def __enter__(self) -> Self:
        """Use as a context manager."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()
