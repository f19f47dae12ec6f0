"""Records of a topic, from Kafka or from a dump of it, partition by partition and by rising offset.

A dump is JSON lines: each line is a record's value, and its place is its offset in partition 0; or, as `kcat -J` writes
them, an object with `partition`, `offset`, `ts`, `key` and the value as text in `payload`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Final, Protocol, TypeVar

import msgspec

from consumer.decode import Message, explain
from consumer.kafka.logreader import LogReader
from consumer.lines import Line
from consumer.settings import KafkaSettings
from features.errors import ConfigError, KafkaUnavailable
from features.store import Source

CHUNK: Final = 8_192
READ_S: Final = 0.05  # a partition that ends with marks of transactions never fills a chunk
PATIENCE_S: Final = 60.0
SUFFIX: Final = ".jsonl"
AS_BYTES: Final = "surrogateescape"
NO_TOPICS: Final = frozenset((".parquet", ".csv", ".json", ".gz", ".zst"))  # what topics are hardly called
_T = TypeVar("_T")


class Stream(Protocol):
    """All records of one topic."""

    @property
    def topic(self) -> str:
        """Its name."""

    @property
    def place(self) -> str:
        """What was given: the topic, or a file."""

    def size(self) -> int:
        """About how many records there are."""

    def begins(self, partition: int) -> int:
        """From which offset on nothing of a partition is missing, once something of it was read."""

    def chunks(self) -> Iterator[list[Message]]:
        """The records, some of one partition at a time, by rising offset in each.

        Raises KafkaUnavailable, ConfigError.
        """

    def values(self) -> Iterator[tuple[int, list[bytes]]]:
        """What the records hold, with their partition, in the same order; what is empty left out. Raises likewise."""

    def close(self) -> None:
        """Release the connection."""


class TopicStream:
    """A topic in Kafka, up to where it ends when it is first asked."""

    def __init__(self, kafka: KafkaSettings, topic: str, *, waits: bool = False) -> None:
        """Connect lazily. `waits`: also for what lies at or behind a transaction that is open when it is asked."""
        self.topic, self._waits = topic, waits
        self._reader = LogReader(kafka, topic)
        self._ranges: dict[Source, tuple[int, int]] | None = None

    @property
    def place(self) -> str:
        """See `Stream`."""
        return self.topic

    def size(self) -> int:
        """See `Stream`. Raises KafkaUnavailable, also where the topic is missing."""
        return sum(high - low for low, high in self._known().values())

    def begins(self, partition: int) -> int:
        """See `Stream`."""
        return self._known()[self.topic, partition][0]

    def gone(self) -> dict[int, int]:
        """The oldest offset of each partition whose beginning is gone."""
        return {number: low for (_, number), (low, _) in self._known().items() if low > 0}

    def newest(self, limit: int) -> dict[int, tuple[int, int]]:
        """Of each partition the offsets of at most so many records, the newest."""
        return {number: (max(low, high - limit), high) for (_, number), (low, high) in self._known().items()}

    def chunks(self, only: Mapping[int, tuple[int, int]] | None = None) -> Iterator[list[Message]]:
        """See `Stream`. `only`: between which offsets, of the partitions that it names; no other is read."""
        for source, whole in self._known().items():
            low, high = whole if only is None else only.get(source[1], (0, 0))
            yield from read_range(self._reader, source, low, high)

    def values(self) -> Iterator[tuple[int, list[bytes]]]:
        """See `Stream`."""
        return _values(self.chunks())

    def close(self) -> None:
        """See `Stream`."""
        self._reader.close()

    def _known(self) -> dict[Source, tuple[int, int]]:
        if self._ranges is None:
            ends = self._reader.written_ends() if self._waits else {}
            self._ranges = {
                source: (each.low, ends.get(source, each.high)) for source, each in self._reader.extents().items()
            }
        return self._ranges


def read_range(
    log: LogReader, source: Source, start: int, end: int, progress: Callable[[int], None] = lambda _count: None
) -> Iterator[list[Message]]:
    """The records of [start, end) in chunks; `progress` is told numbers of offsets.

    Raises KafkaUnavailable, also when nothing comes for a minute.
    """
    moved_s = time.monotonic()
    while start < end:
        messages, reached = log.read(source, start, end, CHUNK, time.monotonic() + READ_S)
        if reached > start:
            progress(reached - start)
            moved_s = time.monotonic()
        elif time.monotonic() > moved_s + PATIENCE_S:
            topic, partition = source
            raise KafkaUnavailable(f"{topic}/{partition} gave no record from offset {start} on for a minute")
        start = reached
        if messages:
            yield messages


class _Envelope(msgspec.Struct, frozen=True, gc=False):
    """A line of `kcat -J`; of a record's own JSON nothing is known here."""

    payload: str | None
    partition: int
    offset: int
    ts: int = 0
    tstype: str = "unknown"
    headers: list[str | None] | None = None  # names and contents in turn


@dataclass(slots=True)
class FileStream:
    """A dump of a topic that is called so."""

    path: Path
    topic: str
    _next: dict[int, int] = field(default_factory=dict)
    _first: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises ConfigError when there is no such file."""
        if not self.path.is_file():
            raise ConfigError(f"{self.path} is not there, or no file; give a topic or a dump of one.")

    @property
    def place(self) -> str:
        """See `Stream`."""
        return str(self.path)

    def size(self) -> int:
        """See `Stream`: by the length of the first lines."""
        with self.path.open("rb") as file:
            first = list(islice(file, 100))
        return self.path.stat().st_size * len(first) // max(sum(map(len, first)), 1)

    def begins(self, partition: int) -> int:
        """See `Stream`."""
        return self._first.get(partition, 0)

    def chunks(self) -> Iterator[list[Message]]:
        """See `Stream`."""
        decode = msgspec.json.Decoder(_Envelope).decode
        self._next.clear()
        with self.path.open("rb") as file:
            number = 0
            is_dump: bool | None = None
            while part := list(islice(file, CHUNK)):
                by_partition: dict[int, list[Message]] = {}
                for line in part:
                    if line.isspace():
                        number += 1
                        continue
                    if is_dump is None:
                        is_dump = _is_envelope(line, decode)
                    message = self._enveloped(line, number, decode) if is_dump else self._plain(line, number)
                    by_partition.setdefault(message.partition(), []).append(message)
                    number += 1
                for partition, messages in by_partition.items():
                    self._check(partition, messages)
                    yield messages

    def values(self) -> Iterator[tuple[int, list[bytes]]]:
        """See `Stream`."""
        with self.path.open("rb") as file:
            first = next((line for line in file if not line.isspace()), b"")
            if not _is_envelope(first, msgspec.json.Decoder(_Envelope).decode):
                file.seek(0)
                while part := list(islice(file, CHUNK)):
                    yield 0, [line for line in part if not line.isspace()]
                return
        yield from _values(self.chunks())

    def close(self) -> None:
        """See `Stream`."""

    def _plain(self, line: bytes, number: int) -> Line:
        return Line(number, line.rstrip(b"\r\n"), None, self.topic)

    def _enveloped(self, line: bytes, number: int, decode: Callable[[bytes], _Envelope]) -> Line:
        try:
            known = _envelope(line, decode)
        except ValueError:
            raise ConfigError(f"{self.path} line {number + 1} is not as the first one; dump the topic again.") from None
        value = None if known.payload is None else _bytes(known.payload)
        time_ms = None if known.tstype == "unknown" else known.ts
        return Line(known.offset, value, time_ms, self.topic, known.partition, _headers(known))

    def _check(self, partition: int, messages: list[Message]) -> None:
        """Offsets of a partition rise, or the dump is not the log. Raises ConfigError."""
        at = self._next.get(partition, 0)
        self._first.setdefault(partition, messages[0].offset())
        for message in messages:
            if message.offset() < at:
                raise ConfigError(
                    f"{self.path}: offset {message.offset()} of partition {partition} comes after {at - 1}; a dump has "
                    "the records of a partition in their order, each once."
                )
            at = message.offset() + 1
        self._next[partition] = at


def decoded(stream: Stream, kind: type[_T], what: str) -> Iterator[list[tuple[int, _T]]]:
    """The records as what they should be, each with its partition.

    Raises ConfigError for the first that is something else: where it is and what is wrong with it, and nothing of it.
    """
    decode, before = msgspec.json.Decoder(kind).decode, 0
    for partition, values in stream.values():
        try:
            known = list(map(decode, values))
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise _no_record(stream, values, decode, before, what) from None
        before += len(values)
        if known:
            yield [(partition, each) for each in known]


def _no_record(
    stream: Stream, values: list[bytes], decode: Callable[[bytes], object], before: int, what: str
) -> ConfigError:
    why, number = "it is not JSON", before
    for value in values:
        number += 1
        try:
            decode(value)
        except msgspec.ValidationError as error:
            why = explain(str(error))[1]
            break
        except (msgspec.DecodeError, UnicodeDecodeError):
            break
    return ConfigError(f"Record {number} of {stream.place} is no {what} ({why}); give what the topic has.")


def _values(chunks: Iterator[list[Message]]) -> Iterator[tuple[int, list[bytes]]]:
    for messages in chunks:
        yield messages[0].partition(), [value for message in messages if (value := message.value()) is not None]


def _is_envelope(line: bytes, decode: Callable[[bytes], _Envelope]) -> bool:
    try:
        _envelope(line, decode)
    except ValueError:
        return False
    return True


def _envelope(line: bytes, decode: Callable[[bytes], _Envelope]) -> _Envelope:
    """A line of a dump, also where a record's bytes are no UTF-8: `kcat` writes them as they are.

    Raises ValueError when it is none.
    """
    try:
        return decode(line)
    except UnicodeDecodeError:
        known = msgspec.convert(json.loads(line.decode(errors=AS_BYTES)), _Envelope)
        for each in (known.payload, *(known.headers or ())):
            _bytes(each or "")
        return known


def _bytes(text: str) -> bytes:
    return text.encode(errors=AS_BYTES)


def _headers(known: _Envelope) -> list[tuple[str, bytes | None]] | None:
    if known.headers is None:
        return None
    contents = (None if each is None else _bytes(each) for each in known.headers[1::2])
    return [(name or "", content) for name, content in zip(known.headers[::2], contents, strict=False)]


def open_stream(text: str, kafka: KafkaSettings, topic: str | None = None) -> Stream:
    """A dump where the text ends in `.jsonl`, else a topic. `topic` is what the dump's topic is called."""
    if text.endswith(SUFFIX):
        return FileStream(Path(text), topic or Path(text).stem)
    if "/" in text or Path(text).exists() or Path(text).suffix in NO_TOPICS:
        raise ConfigError(f"{text} is no dump of a topic: that is JSON lines, and ends in {SUFFIX}.")
    return TopicStream(kafka, text)
