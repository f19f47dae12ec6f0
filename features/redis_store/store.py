"""`StateStore` on Redis: one guarded script call for every shard and micro-batch, all of them in flight together.

Connections are trusted only after `positions` were read over them. A shard that turns out to lie elsewhere, and a node
that fails, end that trust: the new place may have lost what the old one had told.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

import msgspec
import redis

from features.catalog import DEFAULT_LIMITS, ENTITIES, Entity, Limits
from features.errors import StateBehind, StoreError, StoreUnavailable, StoreUnsuitable
from features.event import LAYOUT_VERSION
from features.redis_store import wire
from features.redis_store.node import Node
from features.redis_store.scripts import ADOPT, APPLY, BEGIN, EMPTY, OPEN, RENEW
from features.redis_store.servers import Cluster, Connector, OneServer, Servers, Tls
from features.redis_store.suitable import refuse_unsuitable
from features.store import Append, Applied, Position, Source

IDLE_S: Final = 98 * 86_400  # see "Windows" in docs/features.md
MOVES: Final = 4  # servers that a shard may be looked for on, in one reading of the positions
ABANDONED_MS: Final = 60_000  # without a sign of whoever empties the store
SCAN_KEYS: Final = b"1000"  # a step

_T = TypeVar("_T")


class _Moved(Exception):
    """A shard lies on another server than was thought."""


class RedisStore:
    """`StateStore` on Redis primaries (7.0 or newer, AOF on, `noeviction`): one server, or a cluster."""

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
        cluster: bool = False,
        tls: Tls = Tls(),  # noqa: B008  it is frozen
        script: str = APPLY,
    ) -> None:
        """Prepare connections; nothing is sent yet.

        Args:
            url: redis://, rediss:// or unix:// address; it may hold a password, which is never shown. Of a cluster,
                the address of any node, or a name behind which nodes are.
            namespace: prefix of every key; processors that share state use the same one.
            timeout_ms: limit for connecting and for each reply.
            owner: what the namespace belongs to (a consumer group and its topic): markers and floors are its offsets.
                Another owner's namespace is refused.
            limits: of the logs. A namespace that was made with others is refused.
            entities: that have logs. A namespace of others is refused: logs begun late would look like short histories.
            shards: how many parts the state has; fixed for the namespace's life.
            cluster: whether the address is a Redis Cluster's.
            tls: files for rediss://.
            script: the apply script; only the tests pass another.

        Raises:
            ConfigError: the URL can't be used.
        """
        self._space = f"{namespace}:{LAYOUT_VERSION}:"
        self._prefixes = prefixes(namespace, shards)
        self._metas = [prefix + b"meta" for prefix in self._prefixes]
        self._owner = owner.encode()
        self._shape = shape_of(shards, limits, entities)
        self._script = script.encode()
        self._sha = hashlib.sha1(self._script, usedforsecurity=False).hexdigest().encode()  # as Redis names scripts
        self._trusted = False
        self._awaited = False  # an answer is on its way
        connector = Connector(url, timeout_ms, tls)
        self._servers: Servers = Cluster(connector, self._prefixes) if cluster else OneServer(connector)

    @property
    def shards(self) -> int:
        """See `StateStore`."""
        return len(self._prefixes)

    def check(self) -> None:
        """Refuse a server that could lose or hide state. Raises StoreUnsuitable, StoreUnavailable."""
        try:
            self._servers.discover()
            for node in self._servers.primaries():
                refuse_unsuitable(node, clustered=self._servers.clustered)
        except StoreUnavailable:
            self.close()
            raise

    def positions(self) -> list[Position]:
        """See `StateStore`."""
        self._trusted = False
        found = self._guarded(self._positions)
        self._trusted = True
        return found

    def adopt(self, starts: Mapping[Source, int], *, force: bool = False) -> None:
        """See `StateStore`. Atomic: a marker that another worker moves up meanwhile is not lowered again."""
        if starts:
            arguments = (b"1" if force else b"0", *_markers(starts))
            self._guarded(lambda: [self._eval(shard, ADOPT, *arguments) for shard in range(self.shards)])

    def renew(self, epochs: Sequence[int]) -> None:
        """See `StateStore`."""
        old = [str(epoch).encode() for epoch in epochs]
        self._guarded(lambda: [self._eval(shard, RENEW, old[shard], _epoch()) for shard in range(self.shards)])

    def reset(self, starts: Mapping[Source, int]) -> None:
        """See `StateStore`. Also keys of other numbers of shards in this namespace are deleted."""
        self._trusted = False
        self._guarded(lambda: self._reset([*_markers(starts), *_markers(starts, b"b:")]))

    def apply(self, appends: Sequence[Append]) -> list[Applied]:
        """See `StateStore`."""
        return self.send(appends)()

    def send(self, appends: Sequence[Append]) -> Callable[[], list[Applied]]:
        """See `StateStore`."""
        self._drop_awaited()
        if not self._trusted:
            raise self._reconnected()
        sent = self._guarded(lambda: self._sent(appends))
        self._awaited = True
        return lambda: self._answered(sent)

    def close(self) -> None:
        """See `StateStore`."""
        self._trusted = self._awaited = False
        self._servers.forget()

    def _positions(self) -> list[Position]:
        for _ in range(MOVES):
            self._servers.discover()
            try:
                return [self._position(shard) for shard in range(self.shards)]
            except _Moved:
                self._servers.forget()
        raise StoreUnavailable(f"{self._servers.where}: shards move faster than they can be found")

    def _position(self, shard: int) -> Position:
        where = self._servers.of(shard).where
        flat: list[bytes] = self._eval(shard, OPEN, _epoch(), self._owner, self._shape)
        held = dict(zip(flat[::2], flat[1::2], strict=True))
        if b"emptying" in held:
            if int(held[b"emptying"]) > ABANDONED_MS:
                raise StoreUnsuitable(
                    f"{where}: emptying this namespace was begun and given up: repeat fraudline state rebuild"
                )
            raise StoreUnavailable(f"{where}: this namespace is being emptied, to be built anew")
        self._refuse_foreign(where, held[b"owner"])
        if held[b"shape"] != self._shape:
            raise StoreUnsuitable(
                f"{where}: the state in this namespace was made with other limits, entities or another number of "
                "shards: use what it was made with, another store.namespace, or fraudline state rebuild"
            )
        return position_of(held)

    def _refuse_foreign(self, where: str, owner: bytes) -> None:
        if owner != self._owner:
            raise StoreUnsuitable(
                f"{where}: the state in this namespace is that of {owner.decode()}: "
                "give every group and payments topic its own store.namespace"
            )

    def _reset(self, fields: list[bytes]) -> None:
        self._servers.discover()
        self._announce_emptying()
        for node in self._servers.primaries():
            self._empty(node)
        for shard in range(self.shards):
            self._eval(shard, BEGIN, b"epoch", _epoch(), b"owner", self._owner, b"shape", self._shape, *fields)

    def _announce_emptying(self) -> None:
        for shard in range(self.shards):
            self._refuse_foreign(self._servers.of(shard).where, self._eval(shard, EMPTY, self._owner))

    def _empty(self, node: Node) -> None:
        """Delete this namespace's keys on one server, the shards' own hashes aside."""
        cursor, pattern = b"0", _escaped(self._space.encode()) + b"*"
        while True:
            cursor, keys = self._answer(node, b"SCAN", cursor, b"MATCH", pattern, b"COUNT", SCAN_KEYS)
            doomed = [key for key in keys if key not in self._metas]
            for key in doomed:
                node.send(b"UNLINK", key)
            refusals = [reply for reply in [node.reply() for _ in doomed] if isinstance(reply, Exception)]
            if refusals:
                raise node.failed(refusals[0])
            if cursor == b"0":
                return
            if doomed:
                self._announce_emptying()

    def _answered(self, sent: Sequence[tuple[Node, wire.Call]]) -> list[Applied]:
        if not self._awaited:
            raise self._reconnected()
        self._awaited = False
        return self._guarded(lambda: self._received(sent))

    def _reconnected(self) -> StateBehind:
        return StateBehind(f"{self._servers.where} was reconnected: its markers have to be read first")

    def _drop_awaited(self) -> None:
        """An answer that nobody took must not be taken for that of another call."""
        if self._awaited:
            self.close()

    def _sent(self, appends: Sequence[Append]) -> list[tuple[Node, wire.Call]]:
        """Send every shard's call: where, and what."""
        calls = [wire.call(prefix, each, IDLE_S) for prefix, each in zip(self._prefixes, appends, strict=True)]
        nodes = [self._servers.of(shard) for shard in range(self.shards)]
        for node, call in zip(nodes, calls, strict=True):
            node.send_packed(call.transaction(b"EVALSHA", self._sha))
        return list(zip(nodes, calls, strict=True))

    def _received(self, sent: Sequence[tuple[Node, wire.Call]]) -> list[Applied]:
        """Take the replies: all of them, so that the connections stay in step."""
        replies = [self._transacted(node, call) for node, call in sent]
        return [
            self._applied(node, *self._settled(node, reply, call))
            for (node, call), reply in zip(sent, replies, strict=True)
        ]

    def _transacted(self, node: Node, call: wire.Call) -> Any:
        """The reply to a transaction: those of its commands, or what made one of them be refused."""
        replies = [node.reply() for _ in range(call.commands)]
        refused = next((reply for reply in replies[:-1] if isinstance(reply, Exception)), None)
        return replies[-1] if refused is None else refused

    def _settled(self, node: Node, reply: Any, call: wire.Call) -> Any:
        """The replies of a call's commands, once the script is where it was not yet, or the shard where it is going."""
        if isinstance(reply, list) and isinstance(reply[0], redis.exceptions.NoScriptError):
            # SCRIPT FLUSH or a new server: nothing ran, so sending the text is safe
            node.send_packed(call.transaction(b"EVAL", self._script))
            reply = self._transacted(node, call)
        if _sends_on(reply):
            node = self._servers.at(reply.host, reply.port)
            node.ask(b"ASKING")
            node.send_packed(call.transaction(b"EVAL", self._script))
            reply = self._transacted(node, call)
        for each in (reply, *reply) if isinstance(reply, list) else (reply,):
            self._refuse(node, each)
        return reply

    def _applied(self, node: Node, reply: list[Any], logs: Sequence[bytes | None] = ()) -> Applied:
        status = reply[0]
        if status == b"ok" and (applied := wire.applied(reply, logs)) is not None:
            return applied
        if status == b"behind":
            raise StateBehind(f"{node.where}: the marker of {reply[1].decode()} is {reply[2]}, below {reply[3]}")
        if status == b"epoch":
            raise StateBehind(f"{node.where} has another epoch: its state was lost or replaced")
        raise StoreUnsuitable(
            f"{node.where} holds a key under {self._space} that is no log: use another store.namespace"
        )

    def _eval(self, shard: int, script: bytes, *arguments: bytes) -> Any:
        """Run a small script on a shard's hash."""
        node, command = self._servers.of(shard), (b"EVAL", script, b"1", self._metas[shard], *arguments)
        return self._followed(node, node.ask(*command), *command)

    def _answer(self, node: Node, *command: bytes) -> Any:
        return self._followed(node, node.ask(*command), *command)

    def _followed(self, node: Node, reply: Any, *command: bytes) -> Any:
        """The reply to a command; one that sends us to the node to which the shard is moving is followed once."""
        if _sends_on(reply):
            node = self._servers.at(reply.host, reply.port)
            node.ask(b"ASKING")
            reply = node.ask(*command)
        self._refuse(node, reply)
        return reply

    def _refuse(self, node: Node, reply: Any) -> None:
        if isinstance(reply, redis.exceptions.MovedError):
            raise _Moved
        if isinstance(reply, redis.ResponseError):
            if str(reply).startswith("WRONGTYPE"):
                raise StoreUnsuitable(
                    f"{node.where} holds a foreign key under {self._space}: use another store.namespace"
                )
            raise node.failed(reply)

    def _guarded(self, call: Callable[[], _T]) -> _T:
        """Whatever leaves it open which server stands where, or what it has, ends the trust in all connections."""
        self._drop_awaited()
        try:
            return call()
        except _Moved:
            self.close()
            raise StateBehind(f"{self._servers.where} has moved a shard: its markers have to be read first") from None
        except StateBehind:
            raise
        except StoreError:
            self.close()
            raise


def position_of(held: Mapping[bytes, bytes]) -> Position:
    """Where a shard stands, from its hash."""
    found: dict[bytes, dict[Source, int]] = {b"m:": {}, b"f:": {}, b"b:": {}}
    for name, value in held.items():
        if name[:2] in found:
            found[name[:2]][_source(name)] = int(value)
    parent = (int(held[b"parent"]), int(held[b"since"])) if b"parent" in held else None
    runs = {_source(name): wire.runs_of(value) for name, value in held.items() if name[:2] == b"r:"}
    return Position(int(held[b"epoch"]), found[b"m:"], found[b"f:"], found[b"b:"], parent, runs)


def _source(name: bytes) -> Source:
    """The source that a field of a shard's hash is about."""
    topic, _, partition = name[2:].decode().rpartition(":")
    return topic, int(partition)


def prefixes(namespace: str, shards: int) -> list[bytes]:
    """What every key of a shard begins with, by shard; the braces make it lie in one slot."""
    return [f"{namespace}:{LAYOUT_VERSION}:{{s{shard}}}:".encode() for shard in range(shards)]


def shape_of(shards: int, limits: Limits, entities: Sequence[Entity]) -> bytes:
    """What the state of a namespace is made with: another one is refused."""
    return msgspec.json.encode([shards, limits, sorted(entities)])


def _sends_on(reply: Any) -> bool:
    """Whether a shard is just moving, and what is not here is at the other node; redis-py derives MOVED from ASK."""
    return isinstance(reply, redis.exceptions.AskError) and not isinstance(reply, redis.exceptions.MovedError)


def _epoch() -> bytes:
    return str(secrets.randbits(32) or 1).encode()


def _markers(starts: Mapping[Source, int], prefix: bytes = b"m:") -> list[bytes]:
    """Fields and values."""
    words: list[bytes] = []
    for (topic, partition), start in starts.items():
        words += (prefix + f"{topic}:{partition}".encode(), str(start).encode())
    return words


def _escaped(text: bytes) -> bytes:
    """A text as a pattern that matches itself alone."""
    return b"".join(b"\\" + text[i : i + 1] if text[i] in b"*?[]\\^-" else text[i : i + 1] for i in range(len(text)))
