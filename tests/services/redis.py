"""A real redis-server for tests and benches, set up as Fraudline demands it: append-only file, no eviction."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.retry import Retry

from tests.services.process import Service, ServiceError


def missing() -> str | None:
    """Why Redis can't be started here, in one sentence; None when it can."""
    return None if shutil.which("redis-server") else "redis-server not found on PATH."


class RedisServer(Service):
    """redis-server on a free loopback port, with its data in a temporary directory.

    Args:
        config: settings that are added to, or replace, the built-in ones, such as `{"appendonly": "no"}`.
    """

    name = "redis"
    port_count = 1

    def __init__(self, *, config: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self._config = {
            "appendonly": "yes",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
            "save": "",
        } | dict(config or {})

    @property
    def url(self) -> str:
        """The address of database 0, as `redis://127.0.0.1:PORT/0`."""
        return f"redis://127.0.0.1:{self.ports[0]}/0"

    def client(self, *, timeout_s: float = 5.0) -> Redis:
        """A client for a test's own look at the data: it never retries; close it after use (`with`)."""
        return Redis(
            host="127.0.0.1",
            port=self.ports[0],
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),
        )

    def flush(self) -> None:
        """Delete everything, as an operator's FLUSHALL would."""
        with self.client() as client:
            client.flushall()

    def persist(self, deadline_s: float = 10.0) -> None:
        """Return when all that was written so far lies in the append-only file, so that a kill can't lose it."""
        deadline = time.monotonic() + deadline_s
        with self.client() as client:
            while client.info("persistence")["aof_buffer_length"] > 0:
                if time.monotonic() > deadline:
                    message = f"redis did not write its append-only file in {deadline_s} s."
                    raise ServiceError(message)

    def prepare(self) -> None:
        shutil.rmtree(self.data / "appendonlydir", ignore_errors=True)

    def command(self) -> Sequence[str]:
        settings = [word for key, value in self._config.items() for word in (f"--{key}", value)]
        base = ["redis-server", "--bind", "127.0.0.1", "--port", str(self.ports[0]), "--dir", str(self.data)]
        return [*base, "--daemonize", "no", *settings]

    def answers(self) -> bool:
        try:
            with self.client(timeout_s=1.0) as client:
                return bool(client.ping())
        except RedisConnectionError:
            time.sleep(0.01)  # refused at once: it does not listen yet
            return False
        except RedisError:
            return False
