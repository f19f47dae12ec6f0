"""The entity logs in Redis: one guarded script call per micro-batch. The only importer of `redis`.

One dedicated connection, no pool and no client-side retries: redis-py's defaults repeat a command whose reply was
lost, and reconnect silently. Here a new connection is trusted only after `position` was read over it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from functools import partial
from importlib.resources import files
from typing import Any, Final, TypeVar

import msgspec
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from features.errors import ConfigError, StateBehind, StoreUnavailable, StoreUnsuitable
from features.event import LAYOUT_VERSION
from features.store import Append, Applied, Position, Source, packed_spans

SCRIPT: Final = files("features").joinpath("apply.lua").read_text("utf-8")
ADOPT: Final = b"""
for i = 2, #ARGV, 2 do
  local known = tonumber(redis.call('HGET', KEYS[1], ARGV[i]))
  if not known or (ARGV[1] == '1' and known < tonumber(ARGV[i + 1])) then
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
  end
end
"""
SHARD: Final = "{s0}"  # a single node is one shard; the braces are the hash tag that a cluster needs

_REFUSALS: Final = (
    (redis.exceptions.OutOfMemoryError, "is out of memory: raise maxmemory"),
    (redis.exceptions.ReadOnlyError, "is read-only now: it became a replica"),
)

_T = TypeVar("_T")


class RedisStore:
    """`StateStore` on one Redis primary (7.0 or newer, AOF on, `noeviction`)."""

    def __init__(
        self, url: str, *, namespace: str, keep: int, timeout_ms: int, owner: str = "", script: str = SCRIPT
    ) -> None:
        """Prepare a connection; nothing is sent yet.

        Args:
            url: redis://, rediss:// or unix:// address; it may hold a password, which is never shown.
            namespace: prefix of every key; processors that share state use the same one.
            keep: records of each log that every payment may see, and that trimming leaves.
            timeout_ms: limit for connecting and for each reply.
            owner: what the namespace belongs to (a consumer group and its topic): markers and floors are its offsets.
                Another owner's namespace is refused.
            script: the apply script; only the tests pass another.

        Raises:
            ConfigError: the URL can't be parsed.
        """
        self._keep = keep
        self._prefix = f"{namespace}:{LAYOUT_VERSION}:{SHARD}:".encode()
        self._meta = self._prefix + b"meta"
        self._owner = owner.encode()
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

    def position(self) -> Position:
        """See `StateStore`."""
        self._trusted = False
        return self._guarded(self._position)

    def adopt(self, starts: Mapping[Source, int], *, force: bool = False) -> None:
        """See `StateStore`. Atomic: a marker that another worker moves up meanwhile is not lowered again."""
        if not starts:
            return
        arguments: list[bytes] = []
        for (topic, partition), start in starts.items():
            arguments += (f"m:{topic}:{partition}".encode(), str(start).encode())
        self._guarded(partial(self._ask, b"EVAL", ADOPT, b"1", self._meta, b"1" if force else b"0", *arguments))

    def apply(self, append: Append) -> Applied:
        """See `StateStore`."""
        if not self._trusted:
            raise StateBehind(f"{self._where} was reconnected: its markers have to be read first")
        reply = self._guarded(lambda: self._apply(append))
        status = reply[0]
        if status == b"ok":
            return Applied(logs=reply[3], markers=reply[1], floors=reply[2])
        if status == b"behind":
            raise StateBehind(f"{self._where}: the marker of {reply[1].decode()} is {reply[2]}, below {reply[3]}")
        if status == b"epoch":
            raise StateBehind(f"{self._where} has another epoch: its state was lost or replaced")
        raise StoreUnsuitable(
            f"{self._where} holds a key under {self._prefix.decode()} that is no log: use another store.namespace"
        )

    def close(self) -> None:
        """See `StateStore`."""
        self._trusted = False
        try:
            self._connection.disconnect()
        except (OSError, redis.RedisError):
            return

    def _position(self) -> Position:
        self._connection.connect()
        self._ask(b"HSETNX", self._meta, b"epoch", str(secrets.randbits(32) or 1).encode())
        self._ask(b"HSETNX", self._meta, b"owner", self._owner)
        flat: list[bytes] = self._ask(b"HGETALL", self._meta)
        held = dict(zip(flat[::2], flat[1::2], strict=True))
        if held[b"owner"] != self._owner:
            raise StoreUnsuitable(
                f"{self._where}: the state in this namespace is that of {held[b'owner'].decode()}: "
                "give every group and payments topic its own store.namespace"
            )
        found: dict[bytes, dict[Source, int]] = {b"m:": {}, b"f:": {}}
        for name, value in held.items():
            if name[:2] in found:
                topic, _, partition = name[2:].decode().rpartition(":")
                found[name[:2]][topic, int(partition)] = int(value)
        self._trusted = True
        return Position(int(held[b"epoch"]), found[b"m:"], found[b"f:"])

    def _apply(self, append: Append) -> list[Any]:
        arguments = (
            str(len(append.keys) + 1).encode(),
            self._meta,
            *[self._prefix + key for key in append.keys],
            str(append.epoch).encode(),
            packed_spans(append.spans),
            msgspec.msgpack.encode(append.counts),
            append.heads,
            str(append.cards).encode(),
            str(append.size).encode(),
            str(self._keep).encode(),
        )
        if not self._sha:
            self._sha = self._ask(b"SCRIPT", b"LOAD", self._script)
        try:
            reply: list[Any] = self._ask(b"EVALSHA", self._sha, *arguments)
        except redis.exceptions.NoScriptError:
            # SCRIPT FLUSH or a failover: nothing ran, so sending the text is safe
            reply = self._ask(b"EVAL", self._script, *arguments)
        return reply

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
                    f"{self._where} holds a foreign key under {self._prefix.decode()}: use another store.namespace"
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
