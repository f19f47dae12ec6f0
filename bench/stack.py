"""One real Kafka and one real Redis for all runs of a bench, and for each run names and a state of its own."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from bench.loadgen import Record, read_payments
from bench.prepare import PARTITIONS, Prepared, prime
from bench.processes import BenchError, Child
from tests.services.kafka import STEADY, KafkaBroker
from tests.services.redis import RedisServer

NAIVE: Final = "naive"
DELIVERIES: Final = ("exactly_once", "at_least_once")
SHARES_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Names:
    """The topics, group and namespace of one run."""

    prefix: str

    @property
    def topics(self) -> dict[str, str]:
        """By the setting's name."""
        roles = ("payments", "labels", "decisions", "alerts", "dead_letters", "journal", "lists")
        return {role: f"{self.prefix}.{role}" for role in roles}

    @property
    def group(self) -> str:
        """Of the consumers."""
        return self.prefix

    @property
    def namespace(self) -> str:
        """Of the keys in Redis."""
        return self.prefix


@dataclass(frozen=True)
class Stack:
    """The services, what was prepared, a folder for a run's files, and how many partitions each topic has."""

    kafka: KafkaBroker
    redis: RedisServer
    prepared: Prepared
    folder: Path
    partitions: int = PARTITIONS

    @cached_property
    def priming(self) -> Sequence[Record]:
        """What the entity logs hold before a run."""
        return read_payments(self.prepared.payments, self.prepared.sizes.primed)

    def fresh(self, prefix: str, **partitions: int) -> Names:
        """New topics, an empty Redis, and the entity logs of a system that has been running for a while.

        `partitions` are those of topics, by role, that have another number than the rest.
        """
        names = Names(prefix)
        self.kafka.create_topics({topic: partitions.get(role, self.partitions) for role, topic in names.topics.items()})
        self.redis.flush()
        self.prime(names)
        return names

    def prime(self, names: Names, owner: str = "") -> None:
        """Give the entity logs of a run the length that they have in a system that has been running for a while."""
        prime(self.redis.url, names.namespace, self.priming, owner=owner)

    def processor(self, names: Names, kind: str, **options: object) -> Child:
        """The process that decides: the baseline (`naive`), or Fraudline with the delivery `kind`."""
        common = {"brokers": self.kafka.bootstrap, "redis": self.redis.url}
        more = {name.replace("_", "-"): value for name, value in options.items()}
        if kind != NAIVE:
            own = {"prefix": names.prefix, "bundle": self.prepared.bundle, "delivery": kind}
            return Child("bench.worker", common | own | more)
        topics = {f"{role}-topic": names.topics[role] for role in ("payments", "decisions", "alerts")}
        return Child("bench.naive", common | {"group": names.group, "model": self.prepared.naive} | topics | more)

    def await_shares(self, names: Names, processes: int) -> None:
        """Until the partitions of the payments are divided among so many members of the group. Raises BenchError."""
        deadline = time.monotonic() + SHARES_S
        topic = names.topics["payments"]
        while time.monotonic() < deadline:
            group = self.kafka.admin.describe_consumer_groups([names.group])[names.group].result()
            held = [
                sum(each.topic == topic for each in member.assignment.topic_partitions)
                for member in group.members
                if member.assignment is not None
            ]
            if len(held) == processes and min(held) > 0 and sum(held) == self.partitions:
                return
            time.sleep(0.1)
        message = f"{processes} processes did not share the partitions in {SHARES_S:.0f} s."
        raise BenchError(message)


@contextmanager
def running(prepared: Prepared) -> Iterator[Stack]:
    """Start the services with every optimisation of the JVM; end them and delete all on leaving."""
    with (
        tempfile.TemporaryDirectory(prefix="fraudline-bench-") as folder,
        KafkaBroker(java_options=STEADY) as kafka,
        RedisServer() as redis,
    ):
        yield Stack(kafka, redis, prepared, Path(folder))
