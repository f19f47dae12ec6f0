"""A real Redis Cluster for tests: primaries and replicas on loopback; nodes fail and slots move on demand."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Final, Self

from redis.crc import key_slot
from redis.exceptions import RedisError

from tests.services.process import ServiceError
from tests.services.redis import RedisServer

SLOTS: Final = 16_384
NODE_TIMEOUT_MS: Final = 1_000
DEADLINE_S: Final = 30.0
HANDOVER_S: Final = 1.0


class ClusterNode(RedisServer):
    """One node; its second port is that of the cluster's own talk."""

    name = "redis-node"
    port_count = 2

    def prepare(self) -> None:
        super().prepare()
        (self.data / "nodes.conf").unlink(missing_ok=True)

    def command(self) -> Sequence[str]:
        own = {
            "cluster-enabled": "yes",
            "cluster-config-file": "nodes.conf",
            "cluster-port": str(self.ports[1]),
            "cluster-node-timeout": str(NODE_TIMEOUT_MS),
            "cluster-replica-validity-factor": "0",
            "repl-diskless-sync-delay": "0",
            "repl-ping-replica-period": "1",
        }
        return [*super().command(), *[word for key, value in own.items() for word in (f"--{key}", value)]]

    def ask(self, *command: object) -> Any:
        """One command to this node, whatever the cluster thinks of it."""
        with self.client() as client:
            return client.execute_command(*command)

    @property
    def identity(self) -> str:
        """The name that the cluster gave it."""
        return str(self.ask("CLUSTER", "MYID").decode())


class RedisCluster:
    """Six nodes. `heal` makes it whole again; slots stay where a test has moved them."""

    def __init__(self, *, masters: int = 3, config: Mapping[str, str] | None = None) -> None:
        self.nodes = [ClusterNode(config=config) for _ in range(2 * masters)]
        self._masters = masters
        self._stack = ExitStack()

    @property
    def url(self) -> str:
        """The address of one node that runs."""
        running = next(node for node in self.nodes if node._process is not None)
        return f"redis://127.0.0.1:{running.ports[0]}"

    @property
    def pids(self) -> list[int]:
        """Process ids of all nodes."""
        return [node.pid for node in self.nodes]

    def __enter__(self) -> Self:
        try:
            for node in self.nodes:
                self._stack.enter_context(node)
            self._form()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def primary_of(self, key: str | bytes) -> ClusterNode:
        """The node that has a key's slot, as the nodes that run see it."""
        return self._at(next(at for first, last, at, _ in self._slots() if first <= key_slot(_bytes(key)) <= last))

    def replica_of(self, primary: ClusterNode) -> ClusterNode:
        """A replica that would take over."""
        return self._at(
            next(replicas[0] for _, _, at, replicas in self._slots() if at == primary.ports[0] and replicas)
        )

    def primaries(self) -> list[ClusterNode]:
        """The nodes that have slots."""
        return [self._at(port) for port in sorted({at for _, _, at, _ in self._slots()})]

    def fail_over(self, primary: ClusterNode) -> None:
        """Promote a replica in good order: the primary hands over what it has."""
        replica = self.replica_of(primary)
        asked_s = 0.0

        def promoted() -> bool:
            nonlocal asked_s
            if replica.ask("ROLE")[0] == b"master":
                return True
            if (
                time.monotonic() > asked_s + HANDOVER_S
            ):  # a node that was promoted a moment ago may not answer the first
                asked_s = time.monotonic()
                replica.ask("CLUSTER", "FAILOVER")
            return False

        _until(promoted, "the replica was not promoted")
        self.await_whole()

    def take_over(self, replica: ClusterNode) -> None:
        """Promote a replica with what it has, without asking anybody."""
        replica.ask("CLUSTER", "FAILOVER", "TAKEOVER")
        _until(lambda: replica.ask("ROLE")[0] == b"master", "the replica was not promoted")

    def move_slot(self, key: str | bytes, *, halfway: Callable[[], None] = lambda: None) -> ClusterNode:
        """Migrate a key's slot to another primary, key by key, as redis-cli does; `halfway` is called in the midst."""
        slot, source = key_slot(_bytes(key)), self.primary_of(key)
        target = next(node for node in self.primaries() if node is not source)
        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source.identity)
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", target.identity)
        total, moved, called = int(source.ask("CLUSTER", "COUNTKEYSINSLOT", slot)), 0, False
        while keys := source.ask("CLUSTER", "GETKEYSINSLOT", slot, max(1, total // 4)):
            if not called and 2 * moved >= total:
                halfway()
                called = True
            source.ask("MIGRATE", "127.0.0.1", target.ports[0], "", 0, 5_000, "KEYS", *keys)
            moved += len(keys)
        for node in (target, source, *self.nodes):
            if node._process is not None and node.ask("ROLE")[0] == b"master":
                node.ask("CLUSTER", "SETSLOT", slot, "NODE", target.identity)
        self.await_whole()
        return target

    def flush(self) -> None:
        """Delete everything on every primary."""
        for node in self.primaries():
            node.ask("FLUSHALL")

    def heal(self) -> None:
        """Restart what a test has killed or stalled, and wait until every slot is served and every replica in step."""
        for node in self.nodes:
            node.heal()
        self.await_whole()

    def await_served(self) -> None:
        """Return when every slot is served again, by nodes that run."""
        running = [node for node in self.nodes if node._process is not None]
        ports = {node.ports[0] for node in running}

        def served() -> bool:
            slots = self._slots()
            held = sum(last - first + 1 for first, last, at, _ in slots if at in ports)
            return held == SLOTS and all(_info(node)["cluster_state"] == "ok" for node in running)

        _until(served, "the slots were not served")

    def await_whole(self) -> None:
        """Return when all nodes that run agree on who has which slot, and replicas of primaries are in step."""
        _until(self._is_whole, "the cluster did not become whole")

    def _form(self) -> None:
        first, *others = self.nodes
        share = -(-SLOTS // self._masters)
        for number, node in enumerate(self.nodes):
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            if number < self._masters:
                node.ask("CLUSTER", "ADDSLOTSRANGE", number * share, min(SLOTS, (number + 1) * share) - 1)
        for node in others:
            first.ask("CLUSTER", "MEET", "127.0.0.1", node.ports[0], node.ports[1])
        _until(
            lambda: all(_info(node)["cluster_known_nodes"] == str(len(self.nodes)) for node in self.nodes),
            "the nodes did not meet",
        )
        for number, node in enumerate(self.nodes[self._masters :]):
            primary = self.nodes[number].identity
            _until(lambda node=node, primary=primary: _replicates(node, primary), "a replica was refused")  # type: ignore[misc]
        self.await_whole()

    def _is_whole(self) -> bool:
        running = [node for node in self.nodes if node._process is not None]
        try:
            views = [_slots_of(node) for node in running]
            roles = [node.ask("ROLE") for node in running]
        except (RedisError, OSError):
            return False
        in_step = all(role[0] == b"master" or role[3] == b"connected" for role in roles)
        held = sum(last - first + 1 for first, last, _, _ in views[0])
        states = all(_info(node)["cluster_state"] == "ok" for node in running)
        primaries = [{(first, last, at) for first, last, at, _ in view} for view in views]
        replicated = len(running) < len(self.nodes) or all(replicas for *_, replicas in views[0])
        return in_step and states and held == SLOTS and replicated and all(each == primaries[0] for each in primaries)

    def _slots(self) -> list[tuple[int, int, int, list[int]]]:
        return _slots_of(next(node for node in self.nodes if node._process is not None))

    def _at(self, port: int) -> ClusterNode:
        return next(node for node in self.nodes if node.ports[0] == port)


def _slots_of(node: ClusterNode) -> list[tuple[int, int, int, list[int]]]:
    """First slot, last slot, the primary's port and the replicas'."""
    with node.client() as client:
        client.response_callbacks.clear()
        reply = client.execute_command("CLUSTER SLOTS")
    return [(first, last, primary[1], [each[1] for each in replicas]) for first, last, primary, *replicas in reply]


def _replicates(node: ClusterNode, primary: str) -> bool:
    try:
        node.ask("CLUSTER", "REPLICATE", primary)
    except RedisError:
        return False
    return True


def _info(node: ClusterNode) -> dict[str, str]:
    with node.client() as client:
        client.response_callbacks.clear()
        text = client.execute_command("CLUSTER INFO").decode()
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)


def _until(reached: Callable[[], bool], otherwise: str) -> None:
    """Ask the nodes until they have come to it: nothing tells when gossip has settled."""
    deadline = time.monotonic() + DEADLINE_S
    while not reached():
        if time.monotonic() > deadline:
            raise ServiceError(f"{otherwise} in {DEADLINE_S:.0f} s.")
        time.sleep(0.02)


def _bytes(key: str | bytes) -> bytes:
    return key.encode() if isinstance(key, str) else key
