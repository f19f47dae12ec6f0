"""All keys of one namespace, whoever wrote them: seen, owned by a mark, and removed. Never any other key."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from features.redis_store.node import Node
from features.redis_store.servers import Cluster, Connector, OneServer, Servers, Tls
from features.redis_store.store import SCAN_KEYS, prefixes

PATIENCE_MS: Final = 2_000  # a step of a scan is within no payment's budget
_TAG: Final = re.compile(rb"\{[^{}]+\}")  # by which the keys of a shard lie in one slot
_PLAIN: Final = re.compile(r"[A-Za-z0-9_.:-]+")  # a pattern of SCAN that matches itself alone


class Namespace:
    """The keys that begin with `<namespace>:` on one server, or on the primaries of a cluster that hold its shards.

    Every verb raises StoreUnavailable or StoreUnsuitable where a server does not answer, or does not allow it. Keys are
    found with SCAN and removed with UNLINK, in steps: other users of the server are not held up.
    """

    def __init__(
        self,
        url: str,
        namespace: str,
        mark: str,
        *,
        shards: int = 1,
        cluster: bool = False,
        tls: Tls = Tls(),  # noqa: B008  it is frozen
    ) -> None:
        """Connect lazily. `mark` is the name of the key that says whose the namespace is.

        Raises ConfigError: the URL can't be used; ValueError: SCAN would read the name as more.
        """
        if not _PLAIN.fullmatch(namespace):
            message = f"{namespace!r} is no plain name"
            raise ValueError(message)
        self._prefix = f"{namespace}:".encode()
        self._mark = self._prefix + mark.encode()
        tags = [*prefixes(namespace, shards), self._mark]
        self._place = shards  # of the mark, among the tags
        connector = Connector(url, PATIENCE_MS, tls)
        self._servers: Servers = Cluster(connector, tags) if cluster else OneServer(connector)

    def size(self) -> int:
        """How many keys there are, the mark included."""
        return sum(len(keys) for _, keys in self._keys())

    def other_keys(self, own: int) -> int | None:
        """How many keys there are beside its own, so many, on the same servers; None where the user may not ask."""
        self._servers.discover()
        total = 0
        for node in self._servers.primaries():
            count = node.ask(b"DBSIZE")
            if not isinstance(count, int):
                return None
            total += count
        return total - own

    def claim(self, owner: str) -> bool:
        """Put the mark, unless there is one; whether it was put."""
        return self._told(b"SET", self._mark, owner.encode(), b"NX") is not None

    def owner(self) -> str | None:
        """Whose mark stands there; None for no mark."""
        held = self._told(b"GET", self._mark)
        return None if held is None else held.decode("utf-8", "replace")

    def remove(self) -> int:
        """Remove every key of the namespace, the mark last; how many there were."""
        removed = 0
        for node, keys in self._keys():
            removed += _unlink(node, [[key] for key in self._doomed(keys)])
        return removed + int(self._told(b"UNLINK", self._mark))

    def delete_state(self) -> int:
        """Remove all but the mark while others work with it; how many there were.

        The keys of a shard go in one command, as when a server loses them: nobody finds the shard's markers and only
        some of its logs, which nothing would tell from the logs of who paid for the first time.
        """
        found: dict[Node, dict[bytes, list[bytes]]] = {}
        for node, keys in self._keys():
            shards = found.setdefault(node, {})
            for key in self._doomed(keys):
                tag = _TAG.search(key)
                shards.setdefault(key if tag is None else tag.group(), []).append(key)
        return sum(_unlink(node, list(shards.values())) for node, shards in found.items())

    def _doomed(self, keys: list[bytes]) -> list[bytes]:
        return [key for key in keys if key != self._mark and key.startswith(self._prefix)]

    def close(self) -> None:
        """Close the connections. Never raises."""
        self._servers.forget()

    def _keys(self) -> Iterator[tuple[Node, list[bytes]]]:
        self._servers.discover()
        for node in self._servers.primaries():
            cursor = b"0"
            while True:
                reply = node.ask(b"SCAN", cursor, b"MATCH", self._prefix + b"*", b"COUNT", SCAN_KEYS)
                if isinstance(reply, Exception):
                    raise node.failed(reply)
                cursor, keys = reply
                yield node, keys
                if cursor == b"0":
                    break

    def _told(self, *command: bytes) -> Any:
        self._servers.discover()
        node = self._servers.of(self._place)
        reply = node.ask(*command)
        if isinstance(reply, Exception):
            raise node.failed(reply)
        return reply


def _unlink(node: Node, groups: list[list[bytes]]) -> int:
    """Remove keys, each group in one command; how many there were."""
    for keys in groups:
        node.send(b"UNLINK", *keys)
    replies = [node.reply() for _ in groups]
    for refusal in (reply for reply in replies if isinstance(reply, Exception)):
        raise node.failed(refusal)
    return sum(replies)
