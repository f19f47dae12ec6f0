"""The page's server: uvicorn on a thread, with limits on connections that hold without asking or reading."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import socket
import threading
from collections.abc import Iterator
from typing import Any, Final

import structlog
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from features.errors import ConfigError

HEAD_S: Final = 15.0
STALLED_S: Final = 30.0
BESIDE_STREAMS: Final = 256  # connections for everything but streams
SPARE_FILES: Final = 128
MAX_HEAD_BYTES: Final = 16_384
BACKLOG: Final = 512
START_S: Final = 10.0
DRAIN_S: Final = 5
_FULL: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\nRetry-After: 15\r\n"
    b"Content-Length: 46\r\nConnection: close\r\n\r\nToo many connections are open: come back later"
)
_LOG: Final = structlog.get_logger("dashboard")


class Patient(H11Protocol):
    """HTTP/1.1 on a connection that may not stay silent or unread for long, and not beside `most` others."""

    most = BESIDE_STREAMS
    _silent: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take it, or say that there are too many."""
        super().connection_made(transport)
        if len(self.connections) > self.most:
            transport.write(_FULL)
            transport.close()
        else:
            self._silent = self.loop.call_later(HEAD_S, self._give_up)

    def data_received(self, data: bytes) -> None:
        """Wait for the whole head of a request only so long."""
        if self.transport.is_closing():
            return
        if self._waits and self._silent is None:
            self._silent = self.loop.call_later(HEAD_S, self._give_up)
        super().data_received(data)
        if not self._waits:
            self._hear()

    def pause_writing(self) -> None:
        """Wait for a reader that does not read only so long."""
        super().pause_writing()
        if self._stalled is None:
            self._stalled = self.loop.call_later(STALLED_S, self.transport.abort)

    def resume_writing(self) -> None:
        """It reads."""
        self._read_on()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._hear()
        self._read_on()
        super().connection_lost(exc)

    @property
    def _waits(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete  # type: ignore[redundant-expr]  # it is None at first

    def _give_up(self) -> None:
        self._silent = None
        if self._waits:
            self.transport.abort()

    def _hear(self) -> None:
        if self._silent is not None:
            self._silent.cancel()
            self._silent = None

    def _read_on(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the command's."""
        yield


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens (port 0: the OS chooses). Raises ConfigError: it can't be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host.strip("[]"), port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"The alert page can't be served on {host}:{port} ({error.strerror or 'not an address'}): change "
            "dashboard.host or dashboard.port."
        ) from None
    listener.setblocking(False)
    return listener


class PageServer:
    """Serves an application on a thread of its own, until `close`."""

    def __init__(self, app: ASGIApp, listener: socket.socket, max_streams: int) -> None:
        """Nothing is served yet. Raises ConfigError: this process may not open as many files as `max_streams` needs."""
        most = max_streams + BESIDE_STREAMS
        _allow_files(most + SPARE_FILES)
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # its warnings are of what anybody may send
        self._listener = listener
        self._server = _Server(
            uvicorn.Config(
                app,
                http=type("_Patient", (Patient,), {"most": most}),
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                h11_max_incomplete_event_size=MAX_HEAD_BYTES,
                timeout_graceful_shutdown=DRAIN_S,
            )
        )
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._serve, daemon=True, name="dashboard-server")

    @property
    def port(self) -> int:
        """The port that it listens on."""
        port: int = self._listener.getsockname()[1]
        return port

    @property
    def alive(self) -> bool:
        """Whether it serves."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begin to serve; connections made before wait."""
        self._thread.start()

    def close(self) -> None:
        """Stop accepting, let answers end, free the port."""
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(DRAIN_S + START_S)
        self._listener.close()

    def _serve(self) -> None:
        try:
            asyncio.run(self._run())
        except BaseException as error:
            self.failure = error
            _LOG.error("server_failed", exc_info=error)

    async def _run(self) -> None:
        asyncio.get_running_loop().set_exception_handler(_quietly)
        await self._server.serve(sockets=[self._listener])


def _quietly(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """A connection that breaks is no event; anything else is one line."""
    error = context.get("exception")
    if not isinstance(error, OSError):
        _LOG.error("server_error", exc_info=error)


def _allow_files(wanted: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        if hard != resource.RLIM_INFINITY and hard < wanted:
            raise ConfigError(
                f"dashboard.max_streams needs {wanted:,} open files, and this process may have {hard:,}: lower it, or "
                "raise the limit (ulimit -n)."
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
