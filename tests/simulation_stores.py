"""The simulation's stores: the real ones, which can be damaged, behind lines that can be cut."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Protocol

import msgspec
from redis import Redis

from features.catalog import Limits
from features.errors import StateBehind, StoreUnavailable
from features.event import LAYOUT_VERSION
from features.redis_store import APPLY, RedisStore
from features.store import Append, Applied, MemoryStore, Position, Run, Source, StateStore
from tests.simulation_truth import Truth, View

Keys = Sequence[Sequence[bytes]]  # by shard


class Backend(Protocol):
    """A store that a simulation can damage, and look into."""

    def connect(self) -> StateStore: ...
    def look(self, keys: Keys | None = None) -> list[View]: ...
    def sever(self) -> None: ...
    def lose(self, shard: int) -> None: ...
    def snapshot(self) -> Any: ...
    def restore(self, snapshot: Any) -> None: ...


class MemoryBackend:
    """A `MemoryStore` that all workers share, each over a connection of its own."""

    def __init__(self, shards: int, limits: Limits, make: Callable[[int], MemoryStore] = MemoryStore) -> None:
        self._make = make
        self.store = make(shards)
        self.severed = 0

    def connect(self) -> StateStore:
        return _MemoryConnection(self)

    def look(self, keys: Keys | None = None) -> list[View]:
        views = []
        for number, shard in enumerate(self.store._shards):
            asked = shard.logs if keys is None else keys[number]
            logs = {key: bytes(shard.logs[key]) for key in asked if key in shard.logs}
            views.append(View(shard.epoch, logs, shard.runs, shard.floors))
        return views

    def sever(self) -> None:
        self.severed += 1

    def lose(self, shard: int) -> None:
        self.store._shards[shard] = self._make(1)._shards[0]

    def snapshot(self) -> MemoryStore:
        return copy.deepcopy(self.store)

    def restore(self, snapshot: MemoryStore) -> None:
        """As a server does that is started from an older file: a store's `positions` give it new epochs."""
        self.store = copy.deepcopy(snapshot)
        self.store.renew([shard.epoch for shard in self.store._shards])


class _MemoryConnection:
    """Trusted from `positions` until it is severed, as a `RedisStore` is."""

    def __init__(self, backend: MemoryBackend) -> None:
        self._backend = backend
        self._seen = -1

    @property
    def shards(self) -> int:
        return self._backend.store.shards

    def check(self) -> None:
        self._backend.store.check()

    def positions(self) -> list[Position]:
        self._seen = self._backend.severed
        return self._backend.store.positions()

    def adopt(self, starts: Mapping[Source, int], *, force: bool = False) -> None:
        self._backend.store.adopt(starts, force=force)

    def renew(self, epochs: Sequence[int]) -> None:
        self._backend.store.renew(epochs)

    def apply(self, appends: Sequence[Append]) -> list[Applied]:
        if self._seen != self._backend.severed:
            raise StateBehind("reconnected")
        return self._backend.store.apply(appends)

    def close(self) -> None:
        self._seen = -1


class RedisBackend:
    """A namespace of a real Redis."""

    def __init__(
        self, url: str, client: Redis, namespace: str, shards: int, limits: Limits, script: str = APPLY
    ) -> None:
        self._url, self._client, self._namespace, self._script = url, client, namespace, script
        self._limits, self._shards = limits, shards
        self._prefixes = [f"{namespace}:{LAYOUT_VERSION}:{{s{shard}}}:".encode() for shard in range(shards)]
        self._stores: list[RedisStore] = []

    def connect(self) -> StateStore:
        store = RedisStore(
            self._url,
            namespace=self._namespace,
            timeout_ms=5_000,
            limits=self._limits,
            shards=self._shards,
            script=self._script,
        )
        self._stores.append(store)
        return store

    def look(self, keys: Keys | None = None) -> list[View]:
        views = []
        for number, prefix in enumerate(self._prefixes):
            asked = self._logs(prefix) if keys is None else keys[number]
            held: dict[Any, Any] = self._client.hgetall(prefix + b"meta")
            logs: list[Any] = self._client.mget([prefix + key for key in asked]) if asked else []
            views.append(
                View(
                    int(held.get(b"epoch", 0)),
                    {key: log for key, log in zip(asked, logs, strict=True) if log},
                    {_source(name): _runs(value) for name, value in held.items() if name[:2] == b"r:"},
                    {_source(name): int(value) for name, value in held.items() if name[:2] == b"f:"},
                )
            )
        return views

    def sever(self) -> None:
        self._client.client_kill_filter(_type="normal", skipme=True)

    def lose(self, shard: int) -> None:
        if keys := list(self._client.scan_iter(match=self._prefixes[shard] + b"*")):
            self._client.delete(*keys)

    def snapshot(self) -> dict[bytes, bytes | None]:
        return {key: self._client.dump(key) for key in self._client.scan_iter(match=f"{self._namespace}:*")}

    def restore(self, snapshot: dict[bytes, bytes]) -> None:
        """As if another server had been started from an older file."""
        self._flush()
        for key, value in snapshot.items():
            self._client.restore(key, 0, value)
            if key.endswith(b":meta"):
                self._client.hset(key, "server", "another")

    def close(self) -> None:
        for store in self._stores:
            store.close()
        self._flush()

    def _flush(self) -> None:
        for shard in range(self._shards):
            self.lose(shard)

    def _logs(self, prefix: bytes) -> list[bytes]:
        found = [key[len(prefix) :] for key in self._client.scan_iter(match=prefix + b"*")]
        return sorted(key for key in found if key != b"meta")


def _source(field: bytes) -> Source:
    topic, _, partition = field[2:].decode().rpartition(":")
    return topic, int(partition)


def _runs(packed: bytes) -> list[Run]:
    numbers = msgspec.msgpack.decode(packed)
    return [Run(*numbers[i : i + 4]) for i in range(0, len(numbers), 4)]


class Line:
    """A worker's way to the store: calls fail before they arrive, after they were applied, or after some shards."""

    def __init__(
        self, backend: Backend, truth: Truth, fault: Callable[[], str], is_late: Callable[[], bool] = lambda: False
    ) -> None:
        self._backend, self._truth, self._fault, self._is_late = backend, truth, fault, is_late
        self._awaited = False
        self._inner = backend.connect()
        self._trusted = False
        self.timeline = truth.timeline

    @property
    def shards(self) -> int:
        return self._inner.shards

    def check(self) -> None:
        self._inner.check()

    def positions(self) -> list[Position]:
        self._expect_no_answer()
        self._trusted = False
        self._fail_if(self._fault() != "")
        positions = self._inner.positions()
        self.timeline = self._truth.timeline
        self._trusted = True
        return positions

    def adopt(self, starts: Mapping[Source, int], *, force: bool = False) -> None:
        self._fail_if(self._fault() == "before")
        self._inner.adopt(starts, force=force)

    def renew(self, epochs: Sequence[int]) -> None:
        fault = self._fault()
        self._fail_if(fault == "before")
        self._inner.renew(epochs)
        self._fail_if(fault == "after")

    def apply(self, appends: Sequence[Append]) -> list[Applied]:
        self._expect_no_answer()
        fault = self._fault()
        self._fail_if(fault == "before")
        if not self._trusted:
            raise StateBehind("reconnected")
        try:
            if fault == "between":
                self._reach_some(appends)
            applied = self._inner.apply(appends)
        finally:
            self._truth.look(self._backend.look([append.keys for append in appends]))
        self.timeline = self._truth.timeline
        self._fail_if(fault == "after")
        return applied

    def send(self, appends: Sequence[Append]) -> Callable[[], list[Applied]]:
        """It arrives at once, or when the answer is asked for, or never; the answer may be lost on its way back."""
        if self._fault() == "before":
            self._fail_if(True)
        self._expect_no_answer()
        applied = None if self._is_late() else self._outcome(appends)
        self._awaited = True

        def answer() -> list[Applied]:
            self._awaited = False
            found = (applied or self._outcome(appends))()
            self._fail_if(self._fault() == "after")
            return found

        return answer

    def _outcome(self, appends: Sequence[Append]) -> Callable[[], list[Applied]]:
        """What applying gives or raises, and the timeline that it saw, once it is told."""
        before = self.timeline
        try:
            applied = self.apply(appends)
        except (StateBehind, StoreUnavailable) as error:
            refused: Exception = error
        else:
            self.timeline, timeline = before, self.timeline

            def told() -> list[Applied]:
                self.timeline = timeline
                return applied

            return told

        def raised() -> list[Applied]:
            raise refused

        return raised

    def close(self) -> None:
        self._inner.close()

    def _expect_no_answer(self) -> None:
        if self._awaited:
            self._truth.wrong.append("something was asked of the store while an answer was on its way")

    def _reach_some(self, appends: Sequence[Append]) -> None:
        """The line is cut between two shards: the later ones see nothing of the call."""
        first = len(appends) // 2
        with suppress(StateBehind):
            self._inner.apply([replace(each, epoch=0) if i >= first else each for i, each in enumerate(appends)])
        self._fail_if(True)

    def _fail_if(self, failed: bool) -> None:
        if failed:
            self._trusted = False
            raise StoreUnavailable("the line was cut")
