"""One connection to one Redis server, without retries: what it can't answer for sure is `StoreUnavailable`.

redis-py's own clients repeat a command whose reply was lost, and reconnect silently. Here a connection that failed is
closed, and whoever uses the next one knows.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from typing import Any, Final

import redis

from features.errors import StoreError, StoreUnavailable, StoreUnsuitable

_TRANSIENT: Final = (
    (redis.exceptions.OutOfMemoryError, "is out of memory: raise maxmemory"),
    (redis.exceptions.ReadOnlyError, "is read-only now: it became a replica"),
    (redis.exceptions.TryAgainError, "is moving this shard to another node"),
    (redis.exceptions.ClusterDownError, "says that the cluster is down"),
    (redis.exceptions.MasterDownError, "has lost its primary"),
    (redis.BusyLoadingError, "is loading its data"),
)

_NO_TLS: Final = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"})
_SILENT: Final = "did not answer in time or can't be reached: check store.url and the network"
_DENIED: Final = (
    "NOPERM",
    "no permissions",
    "ACL failure in script",
    "can't run this command",
)  # only at the top is it a NOPERM error


class Node:
    """A connection that is opened when it is first used."""

    def __init__(self, connection: Any, where: str) -> None:
        """`where` names the server in errors; redis-py types its connections loosely."""
        self._connection = connection
        self.where = where

    def connect(self) -> None:
        """Open the connection, unless it is open. Raises StoreUnavailable, StoreUnsuitable."""
        try:
            self._connection.connect()
        except (redis.RedisError, OSError) as error:
            raise self.failed(error, is_first=True) from error

    def send(self, *command: bytes) -> None:
        """Send a command; its reply has to be taken later. Raises StoreUnavailable, StoreUnsuitable."""
        try:
            self._connection.send_command(*command)
        except (redis.RedisError, OSError) as error:
            raise self.failed(error) from error

    def send_packed(self, commands: bytes) -> None:
        """Send commands that are packed already; each has a reply. Raises StoreUnavailable, StoreUnsuitable."""
        try:
            self._connection.send_packed_command([commands])
        except (redis.RedisError, OSError) as error:
            raise self.failed(error) from error

    def reply(self) -> Any:
        """The next reply; one that says no is returned, not raised. Raises StoreUnavailable, StoreUnsuitable."""
        try:
            return self._connection.read_response()
        except (redis.ConnectionError, redis.TimeoutError, redis.exceptions.InvalidResponse, OSError) as error:
            raise self.failed(error) from error
        except redis.ResponseError as error:
            return error

    def ask(self, *command: bytes) -> Any:
        """Send a command and take its reply, also one that says no."""
        self.send(*command)
        return self.reply()

    def close(self) -> None:
        """Close the connection. Never raises."""
        try:
            self._connection.disconnect()
        except (OSError, redis.RedisError):
            return

    def failed(self, error: Exception, *, is_first: bool = False) -> StoreError:
        """What an exception or a reply that says no means, in one sentence. `is_first`: to the first word of all."""
        if isinstance(error, redis.AuthenticationError) or any(sign in str(error) for sign in _DENIED):
            return StoreUnsuitable(f"{self.where} refuses this user: check store.url and the user's ACL")
        if (why := _tls_problem(error)) is not None:
            return StoreUnsuitable(f"{self.where} can't be trusted over TLS ({why}): check store.url and store.tls_*")
        for kind, text in _TRANSIENT:
            if isinstance(error, kind):
                return StoreUnavailable(f"{self.where} {text}")
        if isinstance(error, redis.ResponseError) and not isinstance(error, redis.ConnectionError):
            return StoreUnavailable(f"{self.where} refused the call")
        return StoreUnavailable(f"{self.where} {_silence(error, is_first=is_first)}")


def _tls_problem(error: BaseException) -> str | None:
    """Why TLS can't succeed however often it is tried; None for any other failure."""
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return cause.verify_message.rstrip(".")
        if isinstance(cause, ssl.SSLError) and "alert" in (cause.reason or "").lower():
            return (cause.reason or "").lower().replace("_", " ")
    return None


def _silence(error: BaseException, *, is_first: bool) -> str:
    """What no answer means: mostly nothing, but one side may speak TLS and the other not."""
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLEOFError):
            return "ends TLS at once: it may want a client certificate, store.tls_*"
        if "handshake" in str(cause) or (isinstance(cause, ssl.SSLError) and cause.reason in _NO_TLS):
            return "does not answer to TLS: see that the port of store.url has TLS"
        if is_first and isinstance(cause, ConnectionResetError):
            return "hangs up at once: if it speaks TLS, begin store.url with rediss://"
    return _SILENT


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
