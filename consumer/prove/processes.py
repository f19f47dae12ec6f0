"""Generator and witness, each a process of its own: neither holds the other up, nor the proof that waits for them."""

from __future__ import annotations

import errno
import gc
import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import msgspec

from consumer.kafka.open_loop import OpenLoop, Outgoing, Sent
from consumer.kafka.witness import Witness
from consumer.prove.signals import SIGNALS
from consumer.prove.worker import until
from consumer.settings import KafkaSettings
from features.errors import FraudlineError
from features.store import Source

_SPAWN: Final = multiprocessing.get_context("spawn")  # the Kafka client does not survive a fork
START_S: Final = 60.0
END_S: Final = 10.0
_READY: Final = "ready"
_GONE: Final = "a process of the proof ended by itself."
_LENGTH_BYTES: Final = 4
_WITH_FEATURES: Final = b'"tier":"full","model":"'  # of a decision, not of its inputs nor of an alert


class Seen(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A record as the witness read it; `received_ns` is `time.time_ns`."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]
    received_ns: int


class _Child:
    """A process at the other end of a pipe, which says `ready` first, and ends when the pipe does."""

    def __init__(self, target: Any, *arguments: Any) -> None:
        self._end, other = _SPAWN.Pipe()
        self._process = _SPAWN.Process(target=target, args=(other, *arguments), daemon=True)
        self._process.start()
        other.close()

    def wait_ready(self) -> None:
        """Wait until it can begin. Raises FraudlineError."""
        self._answer(START_S)

    def close(self) -> None:
        """End it."""
        self._end.close()
        self._process.join(END_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._process.close()

    def _tell(self, what: Any) -> None:
        """Have it know of something. Raises FraudlineError: it is not there any more."""
        try:
            self._end.send(what)
        except OSError:
            raise FraudlineError(_GONE) from None

    def _answer(self, limit_s: float) -> Any:
        """Its next word. Raises FraudlineError: what went wrong there, or that nothing came."""
        try:
            if not self._end.poll(limit_s):
                raise FraudlineError(f"a process of the proof said nothing for {limit_s:.0f} s.")
            answer = self._end.recv()
        except (EOFError, OSError):
            raise FraudlineError(_GONE) from None
        if isinstance(answer, FraudlineError):
            raise answer
        return answer


class Generator(_Child):
    """Sends records on a schedule; see `consumer.kafka.open_loop`."""

    def __init__(self, kafka: KafkaSettings, records: Sequence[Outgoing]) -> None:
        """Start it, with all records that it will be asked to send."""
        super().__init__(_generate, kafka)
        self._tell(records)  # not an argument: nobody who starts a process hears that it died before it read them

    def begin(self, first: int, count: int, rate: float) -> None:
        """Have it send records [first, first + count), at a rate a second."""
        self._tell((first, count, rate))

    def stop(self) -> None:
        """Have it send no more of those that it is sending."""
        self._tell(None)

    def rows(self, limit_s: float) -> Sent:
        """Where and when those that it was asked for landed, once all are acknowledged. Raises FraudlineError."""
        rows: Sent = self._answer(limit_s)
        return rows


def _generate(end: Connection, kafka: KafkaSettings) -> None:
    with _Answering(end):
        records: Sequence[Outgoing] = end.recv()
        sender = OpenLoop(kafka)
        gc.collect()
        gc.freeze()  # a pause of the collector would be a late payment
        end.send(_READY)
        while True:
            command = end.recv()
            if command is not None:
                first, count, rate = command
                end.send(sender.send(records[first : first + count], rate, lambda: end.poll(0)))


class Watcher(_Child):
    """The witness; what it has seen lies in a file; see `consumer.kafka.witness`."""

    def __init__(self, kafka: KafkaSettings, topics: Sequence[str], path: Path) -> None:
        """Start it."""
        self._path, self._topics = path, list(topics)
        self._counts = _SPAWN.RawArray("q", len(topics) + 1)
        super().__init__(_watch, kafka, self._topics, path, self._counts)

    def with_features(self) -> int:
        """How many decisions it has seen that were made with the state."""
        return int(self._counts[-1])

    def count(self, topic: str) -> int:
        """How many records of a topic it has seen."""
        return int(self._counts[self._topics.index(topic)])

    def wait_count(self, count: int, topics: Sequence[str], limit_s: float) -> bool:
        """Wait until it has seen so many records of these topics; whether it did in time."""
        return until(lambda: sum(map(self.count, topics)) >= count, limit_s, 0.02)

    def read_to_end(self, limit_s: float) -> dict[Source, int]:
        """Wait until it has read all that is committed now; where partitions end then. Raises FraudlineError."""
        self._tell(None)
        ends: dict[Source, int] = self._answer(limit_s)
        return ends

    def seen(self) -> Iterator[Seen]:
        """Everything up to the last `read_to_end`, in the order in which it came."""
        decode = msgspec.msgpack.Decoder(Seen).decode
        with self._path.open("rb") as file:
            while length := file.read(_LENGTH_BYTES):
                yield decode(file.read(int.from_bytes(length, "little")))


def _watch(end: Connection, kafka: KafkaSettings, topics: list[str], path: Path, counts: Any) -> None:
    place = {topic: number for number, topic in enumerate(topics)}
    encode, ends = msgspec.msgpack.encode, None
    with _Answering(end), path.open("wb") as file:
        witness = Witness(kafka, topics)
        end.send(_READY)
        gc.collect()
        gc.freeze()
        while True:
            messages, received_ns = witness.poll(0.05)
            for each in messages:
                seen = Seen(
                    each.topic() or "", each.partition() or 0, each.offset() or 0, each.key(), each.value(),
                    list(each.headers() or ()), received_ns,
                )  # fmt: skip
                packed = encode(seen)
                file.write(len(packed).to_bytes(_LENGTH_BYTES, "little") + packed)
                counts[place[seen.topic]] += 1
                counts[-1] += _WITH_FEATURES in (seen.value or b"")
            if ends is None and end.poll(0):
                end.recv()
                ends = witness.committed_ends()
            if ends is not None and witness.has_reached(ends):
                file.flush()
                end.send(ends)
                ends = None


class _Answering:
    """Leaves signals to the parent, ends with the pipe, and hands an error of ours over."""

    def __init__(self, end: Connection) -> None:
        self._end = end

    def __enter__(self) -> None:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def __exit__(self, kind: object, error: BaseException | None, _trace: object) -> bool:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            error = FraudlineError(f"what the proof has seen can't be kept: {error.strerror}.")
        if isinstance(error, FraudlineError):
            try:
                self._end.send(type(error)(str(error)))
            except OSError:
                return True
        return isinstance(error, EOFError | OSError | FraudlineError)
