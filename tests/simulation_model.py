"""The simulation's surroundings: a payments topic with a group and transactions, and stores that can fail.

The broker is a model in plain Python; the stores are the real ones behind a line that can be cut.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec
import numpy as np
from redis import Redis

from consumer.decode import Message
from consumer.kafka.logreader import Extent
from features.errors import StateBehind, StoreUnavailable
from features.event import RECORD, Payment, sequences
from features.redis_store import SCRIPT, RedisStore
from features.store import Append, Applied, MemoryStore, Position, Source, Span, StateStore

TOPIC = "payments"
At = tuple[int, int]  # partition, offset
Stamp = tuple[int, int]  # epoch, sequence


@dataclass(frozen=True)
class Sent:
    """A record of the payments topic, as `consumer.decode.Message`; without a payment it is no JSON."""

    at: At
    payment: Payment | None

    def topic(self) -> str:
        return TOPIC

    def partition(self) -> int:
        return self.at[0]

    def offset(self) -> int:
        return self.at[1]

    def key(self) -> bytes | None:
        return None

    def value(self) -> bytes | None:
        return b"?" if self.payment is None else msgspec.json.encode(self.payment)

    def headers(self) -> list[tuple[str, bytes | None]] | None:
        return None

    def timestamp(self) -> tuple[int, int]:
        return 1, 0 if self.payment is None else self.payment.event_time


class Timeline:
    """What one uninterrupted life of the state recorded: each payment's stamp, in the order of recording.

    A life that begins with lost state inherits what the copy had, and owes what was committed by then: offsets by
    partition, exclusive.
    """

    def __init__(self, inherited: Mapping[At, Stamp] | None = None, owed: Mapping[int, int] | None = None) -> None:
        self.order: dict[At, Stamp] = dict(inherited or {})
        self.inherited = len(self.order)
        self.owed = dict(owed or {})


@dataclass(frozen=True)
class Outcome:
    """What became of one record: `decision`, `duplicate` or `dead`; a decision without a timeline had no features."""

    at: At
    kind: str
    stamp: Stamp | None = None
    values: tuple[float, ...] = ()
    timeline: Timeline | None = None


@dataclass
class ModelKafka:
    """Partitions, committed offsets, members with a generation, and what a read_committed reader sees."""

    log: list[list[Sent]]
    visible: list[Outcome] = field(default_factory=list)
    owner: dict[int, int] = field(default_factory=dict)
    committed: dict[int, int] = field(default_factory=dict)
    generation: int = 0

    def end(self, partition: int) -> int:
        return self.log[partition][-1].at[1] + 1 if self.log[partition] else 0

    def read(self, partition: int, start: int, limit: int) -> list[Sent]:
        return [sent for sent in self.log[partition] if sent.at[1] >= start][:limit]

    def finished(self) -> bool:
        return all(self.committed.get(partition, 0) == self.end(partition) for partition in range(len(self.log)))

    def commit(self, generation: int, spans: Iterable[Span], outcomes: Sequence[Outcome] = ()) -> bool:
        """Offsets, and outcomes with them, or nothing at all: a member of an older generation is fenced."""
        if generation != self.generation:
            return False
        self.visible += outcomes
        self.committed.update({span.partition: span.end for span in spans})
        return True


class CatchUpLog:
    """`consumer.state.Log` over the model, a few records at a time."""

    def __init__(self, kafka: ModelKafka, rng: random.Random) -> None:
        self._kafka, self._rng = kafka, rng

    def extents(self) -> Mapping[int, Extent]:
        kafka = self._kafka
        return {p: Extent(0, kafka.end(p), kafka.committed.get(p)) for p in range(len(kafka.log))}

    def read(self, partition: int, start: int, end: int, limit: int, deadline_s: float) -> tuple[list[Message], int]:
        few = min(limit, self._rng.randint(1, 5))
        there: list[Message] = [sent for sent in self._kafka.read(partition, start, limit) if sent.at[1] < end]
        taken = there[:few]
        return taken, end if taken == there else taken[-1].offset() + 1


class Backend(Protocol):
    """A store that a simulation can damage."""

    def connect(self) -> StateStore: ...
    def sever(self) -> None: ...
    def flush(self) -> None: ...
    def snapshot(self) -> Any: ...
    def restore(self, snapshot: Any) -> None: ...


class MemoryBackend:
    """A `MemoryStore` that all workers share, each over a connection of its own."""

    def __init__(self, keep: int, make: Callable[[int], MemoryStore] = MemoryStore) -> None:
        self.store = make(keep)
        self.severed = 0

    def connect(self) -> StateStore:
        return _MemoryConnection(self)

    def sever(self) -> None:
        self.severed += 1

    def flush(self) -> None:
        self.store.flush()

    def snapshot(self) -> MemoryStore:
        return copy.deepcopy(self.store)

    def restore(self, snapshot: MemoryStore) -> None:
        self.store = copy.deepcopy(snapshot)


class _MemoryConnection:
    """Trusted from `position` until it is severed, as a `RedisStore` is."""

    def __init__(self, backend: MemoryBackend) -> None:
        self._backend = backend
        self._seen = -1

    def check(self) -> None:
        self._backend.store.check()

    def position(self) -> Position:
        self._seen = self._backend.severed
        return self._backend.store.position()

    def adopt(self, starts: Mapping[Source, int], *, force: bool = False) -> None:
        self._backend.store.adopt(starts, force=force)

    def apply(self, append: Append) -> Applied:
        if self._seen != self._backend.severed:
            raise StateBehind("reconnected")
        return self._backend.store.apply(append)

    def close(self) -> None:
        self._seen = -1


class RedisBackend:
    """A namespace of a real Redis."""

    def __init__(self, url: str, client: Redis, namespace: str, keep: int, script: str = SCRIPT) -> None:
        self._url, self._client, self._namespace, self._keep, self._script = url, client, namespace, keep, script
        self._stores: list[RedisStore] = []

    def connect(self) -> StateStore:
        store = RedisStore(self._url, namespace=self._namespace, keep=self._keep, timeout_ms=5_000, script=self._script)
        self._stores.append(store)
        return store

    def sever(self) -> None:
        self._client.client_kill_filter(_type="normal", skipme=True)

    def flush(self) -> None:
        if keys := list(self._client.scan_iter(match=f"{self._namespace}:*")):
            self._client.delete(*keys)

    def snapshot(self) -> dict[bytes, bytes | None]:
        return {key: self._client.dump(key) for key in self._client.scan_iter(match=f"{self._namespace}:*")}

    def restore(self, snapshot: dict[bytes, bytes]) -> None:
        self.flush()
        for key, value in snapshot.items():
            self._client.restore(key, 0, value)

    def close(self) -> None:
        for store in self._stores:
            store.close()
        self.flush()


@dataclass
class Truth:
    """What the state really recorded, whoever got to know of it."""

    timeline: Timeline = field(default_factory=Timeline)
    wrong: list[str] = field(default_factory=list)

    def record(self, append: Append, applied: Applied) -> None:
        """Take note of the records that this call added to the card logs."""
        new: dict[At, Stamp] = {}
        for log in applied.logs[: append.cards]:
            records = np.frombuffer(log, RECORD)
            places = list(zip(records["partition"].tolist(), records["offset"].tolist(), strict=True))
            stamps = zip(records["epoch"].tolist(), sequences(records).tolist(), strict=True)
            if len(set(places)) != len(places):
                self.wrong.append("a log holds a record twice")
            new |= {at: stamp for at, stamp in zip(places, stamps, strict=True) if at not in self.timeline.order}
        self.timeline.order |= dict(sorted(new.items(), key=lambda item: item[1][1]))


class Line:
    """A worker's way to the store: calls fail before they arrive, or after they were applied."""

    def __init__(self, inner: StateStore, truth: Truth, fault: Callable[[], str]) -> None:
        self._inner, self._truth, self._fault = inner, truth, fault
        self._trusted = False
        self.timeline = truth.timeline

    def check(self) -> None:
        self._inner.check()

    def position(self) -> Position:
        self._trusted = False
        self._fail_if(self._fault() != "")
        position = self._inner.position()
        self._trusted = True
        return position

    def adopt(self, starts: Mapping[Source, int], *, force: bool = False) -> None:
        self._fail_if(self._fault() == "before")
        self._inner.adopt(starts, force=force)

    def apply(self, append: Append) -> Applied:
        fault = self._fault()
        self._fail_if(fault == "before")
        if not self._trusted:
            raise StateBehind("reconnected")
        applied = self._inner.apply(append)
        self._truth.record(append, applied)
        self.timeline = self._truth.timeline
        self._fail_if(fault == "after")
        return applied

    def close(self) -> None:
        self._inner.close()

    def _fail_if(self, failed: bool) -> None:
        if failed:
            self._trusted = False
            raise StoreUnavailable("the line was cut")
