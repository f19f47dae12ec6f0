"""The entity logs in Redis: one guarded script call per micro-batch. The only importer of `redis`.

One dedicated connection, no pool and no client-side retries: redis-py's defaults repeat a command whose reply was
lost, and reconnect silently. Here a new connection is trusted only after `positions` were read over it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.resources import files
from typing import Any, Final, TypeVar

import msgspec
import numpy as np
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from features.catalog import DEFAULT_LIMITS, ENTITIES, Entity, Limits
from features.errors import ConfigError, StateBehind, StoreUnavailable, StoreUnsuitable
from features.event import LAYOUT_VERSION, UNIT_BYTES
from features.redis_meta import ADOPT, OPEN, RENEW
from features.store import Append, Applied, Position, Run, Source, packed_spans

SCRIPT: Final = files("features").joinpath("apply.lua").read_text("utf-8")
IDLE_S: Final = 98 * 86_400  # see "Windows" in docs/features.md
_RUN: Final = 4  # numbers

_REFUSALS: Final = (
    (redis.exceptions.OutOfMemoryError, "is out of memory: raise maxmemory"),
    (redis.exceptions.ReadOnlyError, "is read-only now: it became a replica"),
)

_T = TypeVar("_T")


class RedisStore:
    """`StateStore` on one Redis primary (7.0 or newer, AOF on, `noeviction`)."""

    def __init__(
        self,
        url: str,
        *,
        namespace: str,
        timeout_ms: int,
        owner: str = "",
        limits: Limits = DEFAULT_LIMITS,
        entities: Sequence[Entity] = ENTITIES,
        shards: int = 1,
        script: str = SCRIPT,
    ) -> None:
        """Prepare a connection; nothing is sent yet.

        Args:
            url: redis://, rediss:// or unix:// address; it may hold a password, which is never shown.
            namespace: prefix of every key; processors that share state use the same one.
            timeout_ms: limit for connecting and for each reply.
            owner: what the namespace belongs to (a consumer group and its topic): markers and floors are its offsets.
                Another owner's namespace is refused.
            limits: of the logs. A namespace that was made with others is refused.
            entities: that have logs. A namespace of others is refused: logs begun late would look like short histories.
            shards: how many parts the state has; fixed for the namespace's life.
            script: the apply script; only the tests pass another.

        Raises:
            ConfigError: the URL can't be parsed.
        """
        self._space = f"{namespace}:{LAYOUT_VERSION}:"
        self._prefixes = [f"{self._space}{{s{shard}}}:".encode() for shard in range(shards)]
        self._owner = owner.encode()
        self._shape = msgspec.json.encode([shards, limits, sorted(entities)])
        self._script = script.encode()
        self._sha = b""
        self._trusted = False
        timeout_s = timeout_ms / 1000
        try:
            pool = redis.ConnectionPool.from_url(
                url,
                socket_timeout=timeout_s,
                socket_connect_timeout=timeout_s,
                retry=Retry(NoBackoff(), 0),
                protocol=2,
            )
            self._connection: Any = pool.make_connection()  # redis-py types it loosely
        except (ValueError, TypeError, redis.RedisError):
            raise ConfigError(
                "store.url is not a Redis address: use redis://HOST:PORT/DB, rediss:// for TLS, or unix://PATH"
            ) from None  # the cause may quote a part of the password
        self._where = f"Redis at {_address(pool.connection_kwargs)}"

    @property
    def shards(self) -> int:
        """See `StateStore`."""
        return len(self._prefixes)

    def check(self) -> None:
        """Refuse a server that could lose or hide state. Raises StoreUnsuitable, StoreUnavailable."""
        info: dict[str, str] = {}
        for section in (b"server", b"memory", b"persistence", b"replication"):
            text = self._guarded(partial(self._ask, b"INFO", section))
            info.update(line.split(":", 1) for line in text.decode().splitlines() if ":" in line)
        version = info.get("redis_version", "0")
        if int(version.split(".", 1)[0]) < 7:
            raise StoreUnsuitable(f"{self._where} is version {version}: use 7.0 or newer")
        if info.get("role") != "master":
            raise StoreUnsuitable(f"{self._where} is a replica: point store.url at the primary")
        policy = info.get("maxmemory_policy", "unknown")
        if policy != "noeviction":
            raise StoreUnsuitable(
                f"{self._where} may evict keys (maxmemory-policy {policy}): set maxmemory-policy noeviction"
            )
        if info.get("aof_enabled") != "1":
            raise StoreUnsuitable(f"{self._where} does not persist its writes: set appendonly yes")

    def positions(self) -> list[Position]:
        """See `StateStore`."""
        self._trusted = False
        found = self._guarded(self._positions)
        self._trusted = True
        return found

    def adopt(self, starts: Mapping[Source, int], *, force: bool = False) -> None:
        """See `StateStore`. Atomic: a marker that another worker moves up meanwhile is not lowered again."""
        if not starts:
            return
        arguments: list[bytes] = []
        for (topic, partition), start in starts.items():
            arguments += (f"m:{topic}:{partition}".encode(), str(start).encode())
        for prefix in self._prefixes:
            meta = prefix + b"meta"
            self._guarded(partial(self._ask, b"EVAL", ADOPT, b"1", meta, b"1" if force else b"0", *arguments))

    def renew(self, epochs: Sequence[int]) -> None:
        """See `StateStore`."""
        for prefix, epoch in zip(self._prefixes, epochs, strict=True):
            old, new = str(epoch).encode(), str(secrets.randbits(32) or 1).encode()
            self._guarded(partial(self._ask, b"EVAL", RENEW, b"1", prefix + b"meta", old, new))

    def apply(self, appends: Sequence[Append]) -> list[Applied]:
        """See `StateStore`. All shards' calls are on their way together."""
        if not self._trusted:
            raise StateBehind(f"{self._where} was reconnected: its markers have to be read first")
        replies = self._guarded(lambda: self._exchange(appends))
        return [self._applied(reply) for reply in replies]

    def close(self) -> None:
        """See `StateStore`."""
        self._trusted = False
        try:
            self._connection.disconnect()
        except (OSError, redis.RedisError):
            return

    def _positions(self) -> list[Position]:
        self._connection.connect()
        return [self._position(prefix + b"meta") for prefix in self._prefixes]

    def _position(self, meta: bytes) -> Position:
        epoch = str(secrets.randbits(32) or 1).encode()
        flat: list[bytes] = self._ask(b"EVAL", OPEN, b"1", meta, epoch, self._owner, self._shape)
        held = dict(zip(flat[::2], flat[1::2], strict=True))
        if held[b"owner"] != self._owner:
            raise StoreUnsuitable(
                f"{self._where}: the state in this namespace is that of {held[b'owner'].decode()}: "
                "give every group and payments topic its own store.namespace"
            )
        if held[b"shape"] != self._shape:
            raise StoreUnsuitable(
                f"{self._where}: the state in this namespace was made with other limits, entities or another number of "
                "shards: use another store.namespace, or what it was made with"
            )
        found: dict[bytes, dict[Source, int]] = {b"m:": {}, b"f:": {}}
        for name, value in held.items():
            if name[:2] in found:
                topic, _, partition = name[2:].decode().rpartition(":")
                found[name[:2]][topic, int(partition)] = int(value)
        parent = (int(held[b"parent"]), int(held[b"since"])) if b"parent" in held else None
        return Position(int(held[b"epoch"]), found[b"m:"], found[b"f:"], parent)

    def _exchange(self, appends: Sequence[Append]) -> list[list[Any]]:
        """Send every shard's call, then take the replies."""
        if not self._sha:
            self._sha = self._ask(b"SCRIPT", b"LOAD", self._script)
        calls = [_arguments(prefix, append) for prefix, append in zip(self._prefixes, appends, strict=True)]
        for call in calls:
            self._connection.send_command(b"EVALSHA", self._sha, *call)
        replies: list[list[Any]] = []
        missing = []
        for place in range(len(calls)):
            try:
                replies.append(self._connection.read_response())
            except redis.exceptions.NoScriptError:
                # SCRIPT FLUSH or a failover: nothing ran, so sending the text is safe
                replies.append([])
                missing.append(place)
        for place in missing:
            replies[place] = self._ask(b"EVAL", self._script, *calls[place])
        return replies

    def _applied(self, reply: list[Any]) -> Applied:
        status = reply[0]
        if status == b"ok":
            logs: list[bytes] = reply[5]
            lengths = np.fromiter(map(len, logs), np.int64, len(logs)) // UNIT_BYTES
            runs = [_runs(packed) for packed in reply[4]]
            return Applied(b"".join(logs), lengths, reply[1] == 1, reply[2], reply[3], runs, _floors(reply[6]))
        if status == b"behind":
            raise StateBehind(f"{self._where}: the marker of {reply[1].decode()} is {reply[2]}, below {reply[3]}")
        if status == b"epoch":
            raise StateBehind(f"{self._where} has another epoch: its state was lost or replaced")
        raise StoreUnsuitable(
            f"{self._where} holds a key under {self._space} that is no log: use another store.namespace"
        )

    def _ask(self, *command: bytes) -> Any:
        self._connection.send_command(*command)
        return self._connection.read_response()

    def _guarded(self, call: Callable[[], _T]) -> _T:
        try:
            return call()
        except (redis.AuthenticationError, redis.exceptions.NoPermissionError) as error:
            raise StoreUnsuitable(f"{self._where} refuses this user: check store.url and the user's ACL") from error
        except (redis.ConnectionError, redis.TimeoutError, redis.exceptions.InvalidResponse, OSError) as error:
            self._distrust()
            raise StoreUnavailable(f"{self._where} did not answer in time or can't be reached") from error
        except redis.ResponseError as error:
            self._distrust()
            if str(error).startswith("WRONGTYPE"):
                raise StoreUnsuitable(
                    f"{self._where} holds a foreign key under {self._space}: use another store.namespace"
                ) from error
            why = next((text for kind, text in _REFUSALS if isinstance(error, kind)), "refused the call")
            raise StoreUnavailable(f"{self._where} {why}") from error

    def _distrust(self) -> None:
        self._trusted = False
        try:
            self._connection.disconnect()
        except (OSError, redis.RedisError):
            return


def _address(kwargs: Mapping[str, Any]) -> str:
    if "path" in kwargs:
        return str(kwargs["path"])
    return f"{kwargs.get('host', 'localhost')}:{kwargs.get('port', 6379)}"


def _arguments(prefix: bytes, append: Append) -> list[bytes]:
    """A call's number of keys, keys and arguments, as `apply.lua` wants them."""
    places = {key: place for place, key in enumerate(append.keys, start=2)}
    extra = [key for key in (*(each.key for each in append.replacements), *append.refresh) if key not in places]
    for key in extra:
        places.setdefault(key, len(places) + 2)
    others = list(places)[len(append.keys) :]
    replacements = [[places[each.key], each.cut] for each in append.replacements]
    return [
        str(1 + len(places)).encode(),
        prefix + b"meta",
        *[prefix + key for key in append.keys],
        *[prefix + key for key in others],
        str(append.epoch).encode(),
        packed_spans(append.spans),
        msgspec.msgpack.encode(append.counts),
        append.records.tobytes(),
        str(IDLE_S).encode(),
        msgspec.msgpack.encode(replacements),
        msgspec.msgpack.encode([places[key] for key in append.refresh]),
        str(len(others)).encode(),
        b"1" if append.all_floors else b"0",
        *[content for each in append.replacements for content in (each.first, each.summary)],
    ]


def _runs(packed: bytes) -> list[Run]:
    numbers = msgspec.msgpack.decode(packed)
    return [Run(*numbers[i : i + _RUN]) for i in range(0, len(numbers), _RUN)]


def _floors(flat: list[bytes]) -> dict[int, int]:
    """All floors by source id, from the hash of a shard."""
    held = dict(zip(flat[::2], flat[1::2], strict=True))
    return {int(value): int(held[b"f:" + name[2:]]) for name, value in held.items() if name[:2] == b"i:"}
