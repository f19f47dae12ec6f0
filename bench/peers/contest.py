"""One peer's variant at work: its topics, its process, and what can be seen of it from outside."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from confluent_kafka import Producer

from bench.loadgen import Record, fill, read_payments
from bench.peers import topics, tree
from bench.peers.catalog import FRAUDLINE, Peer, Variant
from bench.processes import BenchError, Child
from bench.stack import Names, Stack
from consumer.app import store_owner
from consumer.settings import KafkaSettings, Settings, TopicSettings

START_DEADLINE_S: Final = 120.0
STOP_DEADLINE_S: Final = 10.0
LOOK_EVERY_S: Final = 0.1
FIRST_PAYMENTS: Final = 200
"""Decided before anything is measured or killed: whoever has answered these is up, whatever a framework does first."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Who is measured."""

    peer: Peer
    variant: Variant

    @property
    def name(self) -> str:
        """For lines on the screen and names of topics."""
        return f"{self.peer.name}-{self.variant}"

    @property
    def keeps_logs(self) -> bool:
        """Whether its state is Fraudline's entity logs, not counters."""
        return self.peer is FRAUDLINE or self.variant == "our_batches"


@dataclass(frozen=True, slots=True)
class Run:
    """Topics, group, keys and a folder of its own for one process, or for one and those that follow it after a kill."""

    stack: Stack
    entry: Entry
    names: Names
    payments: str
    state: Path

    @property
    def decisions(self) -> str:
        """The topic of decisions."""
        return self.names.topics["decisions"]

    @property
    def owner(self) -> str:
        """Whose the keys of Fraudline's state are; it refuses those of anybody else."""
        if self.entry.peer is not FRAUDLINE:
            return ""
        group, topics_ = KafkaSettings(group_id=self.names.group), TopicSettings(payments=self.payments)
        return store_owner(Settings(kafka=group, topics=topics_))

    def process(self) -> Child:
        """The process, to be started as a context manager."""
        stack, names = self.stack, self.names
        arguments = {
            "brokers": stack.kafka.bootstrap,
            "redis": stack.redis.url,
            "group": names.group,
            "namespace": names.namespace,
            "payments-topic": self.payments,
            "decisions-topic": self.decisions,
            "alerts-topic": names.topics["alerts"],
            "model": stack.prepared.naive,
            "bundle": stack.prepared.bundle,
            "state": self.state,
        }
        peer = self.entry.peer
        return Child(peer.module(self.entry.variant), arguments, python=peer.python, apart=True)

    def progress(self) -> topics.Progress:
        """Follows how many decisions were written, at next to no cost."""
        return topics.Progress(self.stack.kafka, self.decisions)

    def follower(self) -> topics.Follower:
        """Follows the decisions that a reader sees."""
        return topics.Follower(self.stack.kafka, self.decisions)

    def fill(self, records: list[Record]) -> None:
        """Put payments into its topic, and wait until they are there."""
        put(self.stack, self.payments, records)


@contextmanager
def run_of(stack: Stack, entry: Entry, prefix: str, *, payments: str | None = None, primed: bool) -> Iterator[Run]:
    """New topics, an empty Redis and an empty folder; the topics are deleted in the end.

    `payments` is a topic that is there already. With `primed` the entity logs have the length of a running system's,
    if the entry keeps any.
    """
    names = Names(f"{prefix}-{entry.name}-{time.monotonic_ns()}")
    roles = names.topics if entry.peer is FRAUDLINE else ("payments", "decisions", "alerts")
    written = [names.topics[role] for role in roles if role != "payments"]
    own = [names.topics["payments"]] if payments is None else []
    if own:
        topics.make(stack.kafka, own, stamped=False)
    topics.make(stack.kafka, written, stamped=True)
    stack.redis.flush()
    state = stack.folder / names.prefix
    state.mkdir()
    run = Run(stack, entry, names, payments or names.topics["payments"], state)
    if primed and entry.keeps_logs:
        stack.prime(names, run.owner)
    try:
        yield run
    finally:
        topics.delete(stack.kafka, [*own, *written])


@contextmanager
def started(run: Run) -> Iterator[Child]:
    """The process and its family, which is gone in the end: asked first, then killed."""
    with run.process() as child:
        try:
            yield child
        finally:
            child.stop(STOP_DEADLINE_S)
            tree.kill(child.pid)


def put(stack: Stack, topic: str, records: list[Record]) -> None:
    """Put payments into a topic as fast as it takes them. Raises BenchError."""
    producer = Producer({"bootstrap.servers": stack.kafka.bootstrap, "acks": "all", "linger.ms": 50})
    if (fill(producer, topic, records).sent["offset"] < 0).any():
        message = "Kafka did not take every payment of a fill; see whether its disk is full."
        raise BenchError(message)


def payments_of(stack: Stack, count: int, *, skip: int = 0) -> list[Record]:
    """Payments that follow those in the primed logs."""
    return read_payments(stack.prepared.payments, count, skip=stack.prepared.sizes.primed + skip)


def await_count(run: Run, child: Child, counted: Callable[[], int], count: int, deadline_s: float) -> float:
    """Wait until so many decisions are `counted`; returns the seconds that took. Raises BenchError."""
    began = time.monotonic()
    while counted() < count:
        if child.ended:
            message = f"{run.entry.name} ended by itself; it said:\n{child.said()}"
            raise BenchError(message)
        if time.monotonic() - began > deadline_s:
            message = f"{run.entry.name} made no {count:,} decisions in {deadline_s:.0f} s; it said:\n{child.said()}"
            raise BenchError(message)
        time.sleep(LOOK_EVERY_S)
    return time.monotonic() - began
