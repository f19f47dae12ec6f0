"""A wire to Redis that understands what goes over it: it loses a reply once the call was done, or leads elsewhere.

Commands and replies are counted as they pass (RESP), so a reply is lost exactly where it ends, after the server has
done what it was asked.
"""

from __future__ import annotations

import selectors
import socket
import threading
from contextlib import suppress
from typing import Final, Literal, Self

import hiredis

_CHUNK: Final = 65_536
How = Literal["cut", "silent"]


class RedisProxy:
    """Listens on a loopback port of its own and leads to a Redis on another one. Use as a context manager."""

    def __init__(self, port: int) -> None:
        """`port` is where it leads to, until `lead_to` says otherwise."""
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Condition()
        self._wires: set[_Wire] = set()
        self._armed: tuple[bytes, How] | None = None
        self._lost = 0
        self._thread = threading.Thread(target=self._accept, daemon=True, name="redis-proxy")

    @property
    def url(self) -> str:
        """Its address, as Redis' own would be."""
        return f"redis://127.0.0.1:{self.port}/0"

    def lose_reply(self, command: bytes, how: How, timeout_s: float = 30.0) -> None:
        """Wait until the next such command was carried out, and lose its reply.

        The wire is `cut` where the reply should come, or `silent` from there on. Raises TimeoutError: nobody asked.
        """
        with self._lock:
            before, self._armed = self._lost, (command.upper(), how)
            if not self._lock.wait_for(lambda: self._lost > before, timeout_s):
                self._armed = None
                raise TimeoutError(f"no {command.decode()} came in {timeout_s} s")

    def lead_to(self, port: int) -> None:
        """From now on lead to a Redis on another port; wires to the old one are cut."""
        with self._lock:
            self._target = port
            wires = list(self._wires)
        for wire in wires:
            wire.cut()

    def close(self) -> None:
        """Cut everything."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        with self._lock:
            wires = list(self._wires)
        for wire in wires:
            wire.cut()
            wire.join()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:  # nobody there: as the client would see it
                client.close()
                continue
            wire = _Wire(self, client, server)
            with self._lock:
                self._wires.add(wire)
            wire.start()

    def take_loss(self, name: bytes) -> How | None:
        """Called by a wire with each command: how its reply is lost, if it is; the next one's is not."""
        with self._lock:
            if self._armed is None or self._armed[0] != name.upper():
                return None
            how, self._armed = self._armed[1], None
            return how

    def note_lost(self) -> None:
        """Called by a wire once the server has answered, and nobody is told."""
        with self._lock:
            self._lost += 1
            self._lock.notify_all()

    def gone(self, wire: _Wire, missed: tuple[bytes, How] | None) -> None:
        """Called by a wire at its end; `missed`: whose reply it was to lose, and its client left before that came."""
        with self._lock:
            self._wires.discard(wire)
            self._armed = self._armed or missed


class _Wire(threading.Thread):
    """One connection of a client, and its own to the server."""

    def __init__(self, proxy: RedisProxy, client: socket.socket, server: socket.socket) -> None:
        super().__init__(daemon=True, name="redis-wire")
        self._proxy, self._client, self._server = proxy, client, server
        self._commands, self._replies = hiredis.Reader(), hiredis.Reader()
        self._sent = self._answered = 0
        self._losing: tuple[int, bytes, How] | None = None  # the number of the reply that is lost, to which command
        self._silent = False

    def cut(self) -> None:
        """End it, from any thread."""
        for each in (self._client, self._server):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def run(self) -> None:
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self._client, selectors.EVENT_READ, self._from_client)
                selector.register(self._server, selectors.EVENT_READ, self._from_server)
                while all(key.data() for key, _ in selector.select()):
                    pass
        except OSError:
            pass
        finally:
            self.cut()
            self._client.close()
            self._server.close()
            self._proxy.gone(self, None if self._losing is None else self._losing[1:])

    def _from_client(self) -> bool:
        chunk = self._client.recv(_CHUNK)
        self._commands.feed(chunk)
        while (command := self._commands.gets()) is not False:
            self._sent += 1
            how = self._proxy.take_loss(command[0]) if self._losing is None else None
            if how is not None:
                self._losing = self._sent, command[0].upper(), how
        self._server.sendall(chunk)
        return bool(chunk)

    def _from_server(self) -> bool:
        chunk = self._server.recv(_CHUNK)
        self._replies.feed(chunk)
        while self._replies.gets() is not False:
            self._answered += 1
        if self._losing is None:
            if not self._silent:
                self._client.sendall(chunk)
            return bool(chunk)
        number, _, how = self._losing
        if self._answered < number:
            return bool(chunk)
        self._silent = True
        self._losing = None
        self._proxy.note_lost()
        return how == "silent"
