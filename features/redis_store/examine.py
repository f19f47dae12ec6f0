"""Looks at the Redis that is to hold the state, check by check; it writes two keys of its own, and deletes them."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import redis

from features.catalog import Catalog
from features.checkup import Check, Verdict, bad, doubtful, good, reached, worst
from features.event import LAYOUT_VERSION
from features.redis_store.node import Node
from features.redis_store.servers import Cluster, Connector, OneServer, Servers, Tls
from features.redis_store.store import position_of, prefixes, shape_of
from features.redis_store.suitable import MIN_VERSION
from features.store import Position

PATIENCE_MS: Final = 2_000  # slow is said to be slow, not to be away
ROUNDS: Final = 200
SLOTS: Final = 16_384
SKEW_S: Final = 1.0
FULL: Final = 0.8
PROBE_TTL_S: Final = 60
LATENCY_LIMIT_S: Final = 5.0  # a slow server is not waited for 200 times
NOT_MADE: Final = Position(0)
_SECTIONS: Final = (b"server", b"clients", b"memory", b"persistence", b"replication", b"cluster")
_DENIED: Final = ("NOPERM", "no permissions", "ACL failure")
_ACL: Final = "give the user the rights that docs/operations.md lists, under Redis"


class RedisExamination:
    """The checks of one deployment's Redis. Connections are its own, and more patient than a processor's."""

    def __init__(
        self,
        url: str,
        *,
        namespace: str,
        timeout_ms: int,
        owner: str,
        catalog: Callable[[], Catalog],
        shards: int,
        cluster: bool,
        tls: Tls,
    ) -> None:
        """Nothing is opened yet. `catalog` is asked for when it is needed."""
        self._url, self._tls, self._clustered = url, tls, cluster
        self._timeout_ms, self._owner, self._catalog = timeout_ms, owner.encode(), catalog
        self._namespace, self._count = namespace, shards
        self._prefixes = prefixes(namespace, shards)
        self._servers: Servers | None = None
        self._info: dict[str, dict[str, str]] = {}

    def checks(self, *, needs: tuple[str, ...]) -> list[Check]:
        """All of them, in order."""
        start = "start Redis, or correct store.url and the network on the way"
        session = ("redis.session",)
        told = ("redis.info",)
        return [
            Check("redis.reach", self.reach, start, needs),
            Check("redis.session", self.session, "correct store.url, store.tls_* or the user", ("redis.reach",)),
            Check("redis.info", self.info, _ACL, session),
            Check("redis.version", self.version, start, told),
            Check("redis.role", self.role, start, told),
            Check("redis.cluster", self.cluster, "bring the cluster's primaries back", told),
            Check("redis.persistence", self.persistence, start, told),
            Check("redis.eviction", self.eviction, start, told),
            Check("redis.memory", self.memory, start, told),
            Check("redis.rights", self.rights, _ACL, (*session, "redis.role", "redis.cluster")),
            Check("redis.latency", self.latency, start, session),
            Check("redis.clock", self.clock, start, session),
            Check("redis.namespace", self.state, start, (*session, "redis.cluster")),
        ]

    def close(self) -> None:
        """Close the connections."""
        if self._servers is not None:
            self._servers.forget()

    def reach(self) -> Verdict:
        """Whether anything takes connections at the address."""
        connector = self._connector()
        if connector.path is not None:
            return good(f"a socket of this machine, {connector.path}")
        host, port = connector.address
        why = reached(host, port, PATIENCE_MS / 1_000)
        if why is None:
            return good(f"{host}:{port} takes connections")
        return bad(f"{host}:{port} can't be reached: {why}", "start Redis, or correct store.url and the network")

    def session(self) -> Verdict:
        """TLS, and who we are."""
        self._open().discover()
        way = "with TLS, its certificate verified" if self._url.startswith("rediss://") else "without TLS"
        return good(f"trusted by {self._primaries_text()}, {way}")

    def info(self) -> Verdict:
        """What the servers tell of themselves; the checks behind this one read it."""
        for node in self._primaries():
            found: dict[str, str] = {}
            for section in _SECTIONS:
                reply = node.ask(b"INFO", section)
                if isinstance(reply, Exception):
                    raise node.failed(reply)
                found.update(line.split(":", 1) for line in reply.decode().splitlines() if ":" in line)
            self._info[node.where] = found
        return good(f"told by {self._primaries_text()}")

    def version(self) -> Verdict:
        """7.0 or newer."""
        return self._of_each(_version)

    def role(self) -> Verdict:
        """A primary."""
        return self._of_each(_role)

    def cluster(self) -> Verdict:
        """Whether it is what `store.cluster` says, and whole."""
        is_cluster = any(info.get("cluster_enabled") == "1" for info in self._info.values())
        if not self._clustered:
            if is_cluster:
                return bad("it is a cluster's node", "set store.cluster, and store.shards to 16")
            return good("one server, as the settings say")
        reply = self._primaries()[0].ask(b"CLUSTER", b"SLOTS")
        if isinstance(reply, Exception):
            raise self._primaries()[0].failed(reply)
        covered = sum(last - first + 1 for first, last, *_ in reply)
        seen = f"{len(self._primaries())} primaries for {self._count} shards, {covered:,} of {SLOTS:,} slots covered"
        return good(seen) if covered == SLOTS else bad(seen, "bring the primaries of the other slots back")

    def persistence(self) -> Verdict:
        """Whether what is written is kept."""
        return self._of_each(_persistence)

    def eviction(self) -> Verdict:
        """Whether keys may disappear."""
        return self._of_each(_eviction)

    def memory(self) -> Verdict:
        """Whether there is room."""
        return self._of_each(_memory)

    def rights(self) -> Verdict:
        """Every command that the processor sends, on keys of our own that are deleted at the end."""
        on_each = {self._owner_of(prefix).where: prefix for prefix in reversed(self._prefixes)}
        denied: list[str] = []
        for prefix in on_each.values():
            own = prefix + b"doctor:" + secrets.token_hex(8).encode()  # another doctor may be here too
            denied += [name for name in _tried(self._owner_of(prefix), own) if name not in denied]
        only_rebuild = [name for name in denied if name in {"scan", "unlink"}]
        needed = [name for name in denied if name not in only_rebuild]
        if needed:
            return bad(f"the user may not: {', '.join(needed)}", _ACL)
        if only_rebuild:
            return doubtful(f"the user may not {' or '.join(only_rebuild)}, which fraudline state rebuild needs", _ACL)
        return good("every command that a processor sends is allowed, on a key of our own")

    def latency(self) -> Verdict:
        """Round trips of a harmless call."""
        times_ms: list[float] = []
        for prefix in self._prefixes[:1]:
            node, key = self._owner_of(prefix), prefix + b"meta"
            for _ in range(ROUNDS):
                begun = time.perf_counter()
                reply = node.ask(b"HGET", key, b"epoch")
                if isinstance(reply, Exception):
                    raise node.failed(reply)
                times_ms.append((time.perf_counter() - begun) * 1_000)
                if sum(times_ms) > LATENCY_LIMIT_S * 1_000:
                    break
        p50_ms, p99_ms = _percentile(times_ms, 0.5), _percentile(times_ms, 0.99)
        seen = f"{len(times_ms)} small reads took {p50_ms:.2f} ms (p50) and {p99_ms:.2f} ms (p99)"
        if p99_ms > self._timeout_ms:
            mend = f"calls give up after store.timeout_ms = {self._timeout_ms}: bring Redis nearer, or allow more"
            return (bad if p50_ms > self._timeout_ms else doubtful)(seen, mend)
        if p50_ms > self._timeout_ms / 5:
            return doubtful(seen, f"each batch pays that, of store.timeout_ms = {self._timeout_ms}: bring Redis nearer")
        return good(seen)

    def clock(self) -> Verdict:
        """Its clock against ours."""
        verdicts = []
        for node in self._primaries():
            before_s = time.time()
            reply = node.ask(b"TIME")
            after_s = time.time()
            if isinstance(reply, Exception):
                raise node.failed(reply)
            off_s = int(reply[0]) + int(reply[1]) / 1e6 - (before_s + after_s) / 2
            seen = f"{node.where} is {abs(off_s):.3f} s {'ahead of' if off_s > 0 else 'behind'} this machine"
            mend = "have both machines follow a time server"
            verdicts.append(good(seen) if abs(off_s) <= SKEW_S + (after_s - before_s) else doubtful(seen, mend))
        return worst(verdicts)

    def state(self) -> Verdict:
        """Whose the namespace is, and what it was made with."""
        verdicts = [self._shard_state(prefix) for prefix in self._prefixes]
        made = [shard for shard in self.positions() if shard != NOT_MADE]
        if all(each.status == "pass" for each in verdicts):
            if not made:
                return good(f"nothing is in namespace {self._namespace} yet: the first start makes it")
            epochs = ", ".join(str(shard.epoch) for shard in made[:4]) + (" …" if len(made) > 4 else "")
            return good(
                f"namespace {self._namespace}, layout {LAYOUT_VERSION}, is ours: {len(made)} of {self._count} shards, "
                f"epoch {epochs}"
            )
        return worst(verdicts)

    def positions(self) -> list[Position]:
        """Where the shards stand; nothing is made, so one that is not made yet has no epoch (0). Raises StoreError."""
        found = [self._meta(prefix) for prefix in self._prefixes]
        return [position_of(held) if b"epoch" in held else NOT_MADE for held in found]

    def _shard_state(self, prefix: bytes) -> Verdict:
        held = self._meta(prefix)
        if not held:
            return good("")
        if b"emptying" in held:
            return bad(
                "emptying the namespace was begun and not ended",
                "wait for the rebuild that runs, or repeat fraudline state rebuild",
            )
        if held.get(b"owner") not in {None, self._owner}:
            return bad(
                f"the namespace is that of {held[b'owner'].decode(errors='replace')}",
                "give every group and payments topic its own store.namespace",
            )
        catalog = self._catalog()
        if held.get(b"shape") not in {None, shape_of(self._count, catalog.limits, catalog.logged)}:
            return bad(
                "the state was made with other limits, entities or another number of shards",
                "use what it was made with, another store.namespace, or fraudline state rebuild",
            )
        return good("")

    def _meta(self, prefix: bytes) -> dict[bytes, bytes]:
        node = self._owner_of(prefix)
        reply = node.ask(b"HGETALL", prefix + b"meta")
        if isinstance(reply, Exception):
            raise node.failed(reply)
        return dict(zip(reply[::2], reply[1::2], strict=True))

    def _connector(self) -> Connector:
        return Connector(self._url, max(PATIENCE_MS, self._timeout_ms), self._tls)

    def _open(self) -> Servers:
        if self._servers is None:
            connector = self._connector()
            self._servers = Cluster(connector, self._prefixes) if self._clustered else OneServer(connector)
        return self._servers

    def _primaries(self) -> Sequence[Node]:
        servers = self._open()
        servers.discover()
        return servers.primaries()

    def _owner_of(self, prefix: bytes) -> Node:
        servers = self._open()
        servers.discover()
        return servers.of(self._prefixes.index(prefix))

    def _primaries_text(self) -> str:
        nodes = self._primaries()
        return nodes[0].where if len(nodes) == 1 else f"{len(nodes)} primaries of {self._open().where}"

    def _of_each(self, look: Callable[[str, Mapping[str, str]], Verdict]) -> Verdict:
        return worst([look(where, info) for where, info in self._info.items()])


def _version(where: str, info: Mapping[str, str]) -> Verdict:
    version = info.get("redis_version", "0")
    seen = f"{where} is version {version}"
    if int(version.split(".", 1)[0]) < MIN_VERSION:
        return bad(seen, f"use Redis {MIN_VERSION}.0 or newer")
    return good(seen)


def _role(where: str, info: Mapping[str, str]) -> Verdict:
    if info.get("role") == "master":
        return good(f"{where} is a primary, with {info.get('connected_slaves', '0')} replicas")
    return bad(f"{where} is a replica, which takes no writes", "point store.url at the primary")


def _persistence(where: str, info: Mapping[str, str]) -> Verdict:
    if info.get("loading") == "1":
        return bad(f"{where} is loading its data", "wait until it is loaded")
    if info.get("aof_enabled") != "1":
        return bad(f"{where} does not persist its writes: appendonly is no", "set appendonly yes")
    broken = [name for name in ("aof_last_write_status", "aof_last_bgrewrite_status") if info.get(name, "ok") != "ok"]
    if broken:
        return bad(
            f"{where} could not write its append-only file ({', '.join(broken)})", "free its disk, and see its log"
        )
    if info.get("rdb_last_bgsave_status", "ok") != "ok":
        return doubtful(f"{where} could not write its last snapshot", "free its disk or memory, and see its log")
    return good(f"{where} keeps its writes in an append-only file, and the last write went well")


def _eviction(where: str, info: Mapping[str, str]) -> Verdict:
    policy = info.get("maxmemory_policy", "unknown")
    if policy == "noeviction":
        return good(f"{where} evicts nothing")
    return bad(f"{where} may evict keys: maxmemory-policy is {policy}", "set maxmemory-policy noeviction")


def _memory(where: str, info: Mapping[str, str]) -> Verdict:
    used, limit = int(info.get("used_memory", "0")), int(info.get("maxmemory", "0"))
    room, what = (limit, "maxmemory") if limit else (int(info.get("total_system_memory", "0")), "the machine's memory")
    if not room:
        return good(f"{where} uses {_mib(used)} MiB and has no limit")
    seen = f"{where} uses {_mib(used)} of {_mib(room)} MiB, {what}"
    if used > FULL * room:
        return doubtful(seen, "give it more memory: when it is full, payments are decided without the state")
    return good(seen)


def _mib(count: int) -> str:
    return f"{count / (1 << 20):,.0f}"


def _tried(node: Node, key: bytes) -> Iterable[str]:
    """The commands that are not allowed, in lower case. Raises StoreError when it is the server that fails."""
    ttl, key_of_hash = str(PROBE_TTL_S).encode(), key + b":hash"
    tries: list[tuple[str, tuple[bytes, ...]]] = [
        ("hsetnx", (b"HSETNX", key_of_hash, b"field", b"1")),
        ("expire", (b"EXPIRE", key_of_hash, ttl)),
        ("hset", (b"HSET", key_of_hash, b"field", b"2")),
        ("hget", (b"HGET", key_of_hash, b"field")),
        ("hmget", (b"HMGET", key_of_hash, b"field")),
        ("hgetall", (b"HGETALL", key_of_hash)),
        ("del", (b"DEL", key_of_hash)),
        ("append", (b"APPEND", key, b"x")),
        ("expire", (b"EXPIRE", key, ttl)),
        ("get", (b"GET", key)),
        ("set", (b"SET", key, b"x", b"EX", ttl)),
        ("mget", (b"MGET", key)),
        ("strlen", (b"STRLEN", key)),
        ("eval", (b"EVAL", b"return redis.call('TIME')[1]", b"1", key)),
        ("evalsha", (b"EVALSHA", b"0" * 40, b"1", key)),
        ("time", (b"TIME",)),
        ("info", (b"INFO", b"server")),
        ("multi", (b"MULTI",)),
        ("exec", (b"EXEC",)),
        ("scan", (b"SCAN", b"0", b"MATCH", key, b"COUNT", b"1")),
        ("unlink", (b"UNLINK", key)),
        ("del", (b"DEL", key)),
    ]
    denied = []
    for name, command in tries:
        reply = node.ask(*command)
        if not isinstance(reply, Exception) or isinstance(reply, redis.exceptions.NoScriptError):
            continue
        if any(sign in str(reply) for sign in _DENIED):
            denied.append(name)
        elif name != "exec" or "multi" not in denied:
            raise node.failed(reply)
    return denied


def _percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]
