"""A proxy between clients and the tests' Kafka: it knows which request is which, loses answers, and holds traffic back.

    with KafkaProxy(broker) as proxy:
        client = Producer({"bootstrap.servers": proxy.bootstrap, ...})
        proxy.lose_answers(Api.END_TXN, times=1)  # carried out by the broker; the client never hears of it

Clients that begin here stay here: the broker tells them the proxy's address as its own (see `tests.services.kafka`).
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
import threading
from collections import Counter
from collections.abc import Callable
from enum import IntEnum
from typing import Final, Self

from tests.services.kafka import KafkaBroker
from tests.services.produced import Produced

START_LIMIT_S: Final = 10.0
_SIZE: Final = struct.Struct(">i")  # of the frame that follows
_REQUEST: Final = struct.Struct(">hhi")  # how every request begins: its kind, that kind's version, a correlation id
_ANSWER: Final = struct.Struct(">i")  # how every answer begins: the correlation id of its request


class Api(IntEnum):
    """Kinds of request, by the protocol's own numbers (https://kafka.apache.org/protocol.html#protocol_api_keys)."""

    PRODUCE = 0
    FETCH = 1
    LIST_OFFSETS = 2
    OFFSET_COMMIT = 8
    OFFSET_FETCH = 9
    HEARTBEAT = 12
    SYNC_GROUP = 14
    CREATE_TOPICS = 19
    INIT_PRODUCER_ID = 22
    ADD_PARTITIONS_TO_TXN = 24
    ADD_OFFSETS_TO_TXN = 25
    END_TXN = 26
    TXN_OFFSET_COMMIT = 28


class KafkaProxy:
    """Passes whole requests and answers on, in order, unless told otherwise. One at a time for a broker.

    It works on a thread of its own. Use as a context manager, or call `close`. A broker that is down refuses its
    clients as it would without a proxy: their connections are closed.
    """

    def __init__(self, broker: KafkaBroker) -> None:
        """Listen where the broker says that it is. The broker must have been started."""
        self._broker = broker
        self.bootstrap = "{}:{}".format(*broker.front.getsockname())
        self._changed = threading.Condition()
        self._to_lose: Counter[Api] = Counter()
        self._refusal: tuple[str, int] | None = None  # a topic, and the code with which its records are refused
        self._lost: Counter[Api] = Counter()
        self._asked: Counter[int] = Counter()
        self._loop = asyncio.new_event_loop()
        self._only: frozenset[int] = frozenset()  # what is held back while nothing flows; empty: everything
        self._flows = asyncio.Event()
        self._flows.set()
        self._listens = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kafka-proxy", daemon=True)
        self._thread.start()
        assert self._listens.wait(START_LIMIT_S), "the proxy did not come to listen"

    def lose_answers(self, api: Api, times: int) -> None:
        """Swallow the next answers to such requests, and cut the connection that each would have gone through."""
        with self._changed:
            self._to_lose[api] = times

    def lost(self, api: Api) -> int:
        """How many answers to such requests were lost, over the proxy's life."""
        with self._changed:
            return self._lost[api]

    def wait_lost(self, api: Api, times: int, timeout_s: float = 60.0) -> None:
        """Wait until so many answers to such requests were lost, over the proxy's life."""
        self._wait(lambda: self._lost[api] >= times, f"{times} answers to {api.name} to be lost", timeout_s)

    def refuse(self, topic: str, code: int) -> None:
        """Answer whoever produces to a topic with an error code, and pass nothing of it on, until `accept`."""
        with self._changed:
            self._refusal = topic, code

    def accept(self) -> None:
        """Pass on what is produced again."""
        with self._changed:
            self._refusal = None

    def hold(self, *apis: Api) -> None:
        """Let nothing through from now on, in either direction; connections stay open, as on a path that is stuck.

        With `apis` only such requests are held back, and what comes behind them on their connections.
        """
        self._only = frozenset(apis)
        self._loop.call_soon_threadsafe(self._flows.clear)

    def release(self) -> None:
        """Let all through that was held, in order."""
        self._loop.call_soon_threadsafe(self._flows.set)

    def asked(self, api: Api) -> int:
        """How many such requests were passed on, over the proxy's life."""
        with self._changed:
            return self._asked[api]

    def wait_asked(self, api: Api, more: int, timeout_s: float = 60.0) -> None:
        """Wait until so many more such requests were passed on."""
        with self._changed:
            wanted = self._asked[api] + more
        self._wait(lambda: self._asked[api] >= wanted, f"{more} more requests {api.name}", timeout_s)

    def close(self) -> None:
        """Cut every connection and stop."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._done.set)
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _wait(self, holds: Callable[[], bool], what: str, timeout_s: float) -> None:
        with self._changed:
            assert self._changed.wait_for(holds, timeout_s), f"waited {timeout_s} s for {what} in vain"

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._done = asyncio.Event()
        connections: set[asyncio.Task[None]] = set()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = self._loop.create_task(self._connect(reader, writer))
            connections.add(task)
            task.add_done_callback(connections.discard)

        server = await asyncio.start_server(accept, sock=self._broker.front.dup())
        self._listens.set()
        await self._done.wait()
        server.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    async def _connect(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        """One connection, until either side ends it or an answer is lost."""
        writers = [to_client]
        try:
            broker, to_broker = await asyncio.open_connection("127.0.0.1", self._broker.ports[2])
            writers.append(to_broker)
            pending: dict[int, Api | int] = {}  # kinds of what was asked, by correlation id
            pumps = [
                self._loop.create_task(self._requests(client, to_broker, to_client, pending)),
                self._loop.create_task(self._answers(broker, to_client, pending)),
            ]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        except OSError:  # the broker is down
            pass
        finally:
            for writer in writers:
                writer.close()

    async def _requests(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        to_client: asyncio.StreamWriter,
        pending: dict[int, Api | int],
    ) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                frame = await _frame(reader)
                api, _, correlation = _REQUEST.unpack_from(frame)
                if not self._only or api in self._only:
                    await self._flows.wait()
                if api == Api.PRODUCE and (refused := self._refused(frame)) is not None:
                    await _send(to_client, refused)
                    continue
                pending[correlation] = api
                await _send(writer, frame)
                with self._changed:
                    self._asked[api] += 1
                    self._changed.notify_all()

    async def _answers(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pending: dict[int, Api | int]
    ) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                frame = await _frame(reader)
                if not self._only:
                    await self._flows.wait()
                (correlation,) = _ANSWER.unpack_from(frame)
                if self._loses(pending.pop(correlation)):
                    return
                await _send(writer, frame)

    def _refused(self, frame: bytes) -> bytes | None:
        """The answer to a request to produce, if its topic's records are refused."""
        with self._changed:
            refusal = self._refusal
        if refusal is None or (produced := Produced.of(frame)).topic != refusal[0]:
            return None
        return produced.answer(refusal[1])

    def _loses(self, api: Api | int) -> bool:
        with self._changed:
            if api not in self._to_lose or not self._to_lose[Api(api)]:
                return False
            self._to_lose[Api(api)] -= 1
            self._lost[Api(api)] += 1
            self._changed.notify_all()
            return True


async def _frame(reader: asyncio.StreamReader) -> bytes:
    (size,) = _SIZE.unpack(await reader.readexactly(_SIZE.size))
    return await reader.readexactly(size)


async def _send(writer: asyncio.StreamWriter, frame: bytes) -> None:
    writer.write(_SIZE.pack(len(frame)) + frame)
    await writer.drain()
