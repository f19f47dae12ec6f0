"""Which server has which shard: one that has them all, or a cluster's primaries."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import parse_qsl, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.retry import Retry

from features.errors import ConfigError, StoreUnavailable, StoreUnsuitable
from features.redis_store.node import Node

Address = tuple[str, int]
URL_OPTIONS: Final = frozenset({"db", "username", "password", "client_name"})
READ_BYTES: Final = 1 << 20  # at once: the logs of a batch are some hundred kilobytes


@dataclass(frozen=True, slots=True)
class Tls:
    """Whom to believe and who to be over TLS: PEM files. Without `ca_file` the machine's own authorities count."""

    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None


class Servers(Protocol):
    """The servers behind a store."""

    clustered: bool
    where: str

    def discover(self) -> None:
        """Learn who has which shard, if that is not known. Raises StoreUnavailable, StoreUnsuitable."""

    def of(self, shard: int) -> Node:
        """Who has a shard, as far as is known."""

    def at(self, host: str, port: int) -> Node:
        """The server at an address that another one named."""

    def primaries(self) -> Sequence[Node]:
        """Every server that has a shard."""

    def forget(self) -> None:
        """Close all connections, and find out anew who has which shard."""


class Connector:
    """Makes connections to the servers of one deployment: as `store.url` says, to any address."""

    def __init__(self, url: str, timeout_ms: int, tls: Tls) -> None:
        """Nothing is opened yet. Raises ConfigError: the URL can't be used."""
        timeout_s = timeout_ms / 1000
        _check_url(url)
        try:
            pool = redis.ConnectionPool.from_url(
                url,
                socket_timeout=timeout_s,
                socket_connect_timeout=timeout_s,
                retry=Retry(NoBackoff(), 0),
                protocol=2,
                socket_read_size=READ_BYTES,
            )
            self._class: Any = pool.connection_class
            self._options: dict[str, Any] = dict(pool.connection_kwargs)
            if issubclass(pool.connection_class, redis.SSLConnection):
                self._options |= _verified(tls)
            self._class(**self._options)  # opens nothing, but refuses an option that there is not
        except (ValueError, TypeError, redis.RedisError):
            raise ConfigError(
                "store.url is not a Redis address: use redis://HOST:PORT/DB, rediss:// for TLS, or unix://PATH"
            ) from None  # the cause may quote a part of the password
        if tls != Tls() and not issubclass(self._class, redis.SSLConnection):
            raise ConfigError("store.tls_* is set but store.url has no TLS: begin it with rediss://")
        self.address: Address = (self._options.get("host", "localhost"), self._options.get("port", 6379))
        self.path: str | None = self._options.get("path")
        self.database = int(self._options.get("db", 0))

    def node(self, address: Address | None = None) -> Node:
        """A connection to `address`, or to where the URL points."""
        options = self._options if address is None else self._options | {"host": address[0], "port": address[1]}
        host, port = self.address if address is None else address
        return Node(self._class(**options), f"Redis at {self.path or f'{host}:{port}'}")


def _check_url(url: str) -> None:
    """Refuse what a URL may say beside the place and who we are: it would win over our own. Raises ConfigError."""
    try:
        parts = urlsplit(url)
        names = [name for name, _ in parse_qsl(parts.query, keep_blank_values=True)]
    except ValueError:
        return  # it is refused as a whole
    if any(name.startswith("ssl") for name in names):
        raise ConfigError("store.url says ssl_* behind its ?: TLS always verifies, and store.tls_* say by what")
    if set(names) - URL_OPTIONS:
        raise ConfigError(
            f"store.url has an option behind its ? that is not taken (there are {', '.join(sorted(URL_OPTIONS))}): "
            "remove it; the patience is store.timeout_ms"
        )
    if parts.scheme != "unix" and not re.fullmatch(r"/?[0-9]*", parts.path):
        raise ConfigError("store.url names a database that is no number: end it with /0, or with the host and port")


def _verified(tls: Tls) -> dict[str, Any]:
    """TLS options: a server is always verified, its name included. Raises ConfigError: a file can't be used."""
    files = {
        "ssl_ca_certs": tls.ca_file,
        "ssl_certfile": tls.certificate_file,
        "ssl_keyfile": tls.key_file,
    }
    given = {name: str(path) for name, path in files.items() if path is not None}
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if tls.ca_file is not None:
            context.load_verify_locations(tls.ca_file)
    except (OSError, ValueError):
        raise ConfigError(f"store.tls_ca_file names {tls.ca_file}, which holds no certificate in PEM") from None
    try:
        if tls.certificate_file is not None:
            context.load_cert_chain(tls.certificate_file, tls.key_file, "")  # an empty password: nobody is asked
    except (OSError, ValueError):
        raise ConfigError(
            f"store.tls_certificate_file ({tls.certificate_file}) and store.tls_key_file ({tls.key_file}) are no "
            "certificate and its key in PEM, without a password"
        ) from None
    return given | {"ssl_cert_reqs": "required", "ssl_check_hostname": True}


class OneServer:
    """Everything lies on one server."""

    clustered: bool = False

    def __init__(self, connector: Connector) -> None:
        """Nothing is opened yet."""
        self._node = connector.node()
        self.where = self._node.where

    def discover(self) -> None:
        """See `Servers`."""
        self._node.connect()

    def of(self, shard: int) -> Node:  # noqa: ARG002  there is but one
        """See `Servers`."""
        return self._node

    def at(self, host: str, port: int) -> Node:
        """See `Servers`."""
        raise StoreUnavailable(f"{self.where} points to {host}:{port}: it belongs to a cluster, set store.cluster")

    def primaries(self) -> Sequence[Node]:
        """See `Servers`."""
        return [self._node]

    def forget(self) -> None:
        """See `Servers`."""
        self._node.close()


class Cluster:
    """The primaries of a Redis Cluster; a shard lies in the slot of its hash tag."""

    clustered: bool = True

    def __init__(self, connector: Connector, tags: Iterable[bytes]) -> None:
        """Nothing is opened yet; `tags` has a key of each shard. Raises ConfigError: the URL can't be a cluster's."""
        if connector.path is not None or connector.database != 0:
            raise ConfigError("store.cluster needs store.url to be redis://HOST:PORT or rediss://, database 0")
        self._connector = connector
        self._slots = [key_slot(tag) for tag in tags]
        self._seeds: list[Address] = [connector.address]
        self._nodes: dict[Address, Node] = {}
        self._owner: list[Address] = []  # by shard; empty: not known
        self.where = "Redis Cluster at {}:{}".format(*connector.address)

    def discover(self) -> None:
        """See `Servers`. Any node that answers is believed; who was not reached is asked last the next time."""
        if not self._owner:
            self._owner = self._asked()
        for address in dict.fromkeys(self._owner):
            self._at(address).connect()

    def of(self, shard: int) -> Node:
        """See `Servers`."""
        if not self._owner:
            raise StoreUnavailable(f"{self.where}: it is not known who has which shard")
        return self._at(self._owner[shard])

    def at(self, host: str, port: int) -> Node:
        """See `Servers`."""
        return self._at((host, port))

    def primaries(self) -> Sequence[Node]:
        """See `Servers`."""
        return [self._at(address) for address in dict.fromkeys(self._owner)]

    def forget(self) -> None:
        """See `Servers`."""
        self._owner = []
        for node in self._nodes.values():
            node.close()
        self._nodes.clear()

    def _at(self, address: Address) -> Node:
        if address not in self._nodes:
            self._nodes[address] = self._connector.node(address)
        return self._nodes[address]

    def _asked(self) -> list[Address]:
        """Who has each shard, from the first node that knows."""
        for seed in list(self._seeds):
            try:
                found = self._owners(seed, self._at(seed).ask(b"CLUSTER", b"SLOTS"))
            except StoreUnavailable:
                self._nodes.pop(seed).close()
                found = []
            if found:
                return found
            self._seeds.remove(seed)
            self._seeds.append(seed)
        raise StoreUnavailable(f"{self.where}: no node that can be reached knows who has every shard")

    def _owners(self, seed: Address, reply: Any) -> list[Address]:
        """From CLUSTER SLOTS: [first slot, last slot, [host, port, ...] of the primary and its replicas...], ..."""
        if isinstance(reply, Exception):
            if "cluster support disabled" in str(reply):
                raise StoreUnsuitable(f"{self._at(seed).where} is no cluster's node: unset store.cluster")
            raise self._at(seed).failed(reply)
        ranges = [(first, last, _address(primary, seed)) for first, last, primary, *_ in reply]
        for _first, _last, _primary, *replicas in reply:
            self._seeds.extend(a for each in replicas if (a := _address(each, seed)) not in self._seeds)
        self._seeds.extend(a for a in dict.fromkeys(a for *_, a in ranges) if a not in self._seeds)
        owners = [next((a for first, last, a in ranges if first <= slot <= last), None) for slot in self._slots]
        return [] if None in owners else [owner for owner in owners if owner is not None]


def _address(node: Sequence[Any], seed: Address) -> Address:
    """A node's preferred endpoint; one that it does not know itself is where it was asked."""
    host = node[0].decode() if node[0] else ""
    return (seed[0] if host in {"", "?"} else host), int(node[1])
