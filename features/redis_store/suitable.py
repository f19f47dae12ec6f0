"""Refuses a Redis server that could lose state, or hide it."""

from __future__ import annotations

from features.errors import StoreUnsuitable
from features.redis_store.node import Node

MIN_VERSION = 7


def refuse_unsuitable(node: Node, *, clustered: bool) -> None:
    """Ask a server how it is set up. Raises StoreUnsuitable with what to change, StoreUnavailable."""
    info: dict[str, str] = {}
    for section in (b"server", b"memory", b"persistence", b"replication", b"cluster"):
        reply = node.ask(b"INFO", section)
        if isinstance(reply, Exception):
            raise node.failed(reply)
        info.update(line.split(":", 1) for line in reply.decode().splitlines() if ":" in line)
    version = info.get("redis_version", "0")
    if int(version.split(".", 1)[0]) < MIN_VERSION:
        raise StoreUnsuitable(f"{node.where} is version {version}: use {MIN_VERSION}.0 or newer")
    if not clustered and info.get("cluster_enabled") == "1":
        raise StoreUnsuitable(f"{node.where} is a cluster's node: set store.cluster")
    if info.get("role") != "master":
        raise StoreUnsuitable(f"{node.where} is a replica: point store.url at the primary")
    policy = info.get("maxmemory_policy", "unknown")
    if policy != "noeviction":
        raise StoreUnsuitable(
            f"{node.where} may evict keys (maxmemory-policy {policy}): set maxmemory-policy noeviction"
        )
    if info.get("aof_enabled") != "1":
        raise StoreUnsuitable(f"{node.where} does not persist its writes: set appendonly yes")
