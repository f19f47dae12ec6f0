"""One real Kafka and one real Redis for all runs of a bench, and for each run names and a state of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from bench.loadgen import Record, read_payments
from bench.prepare import PARTITIONS, Prepared, prime
from bench.processes import Child
from tests.services.kafka import STEADY, KafkaBroker
from tests.services.redis import RedisServer

NAIVE: Final = "naive"
DELIVERIES: Final = ("exactly_once", "at_least_once")


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


@contextmanager
def running(prepared: Prepared) -> Iterator[Stack]:
    """Start the services with every optimisation of the JVM; end them and delete all on leaving."""
    with (
        tempfile.TemporaryDirectory(prefix="fraudline-bench-") as folder,
        KafkaBroker(java_options=STEADY) as kafka,
        RedisServer() as redis,
    ):
        yield Stack(kafka, redis, prepared, Path(folder))
