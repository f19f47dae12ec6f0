"""Lines of files and streams as source records: payments as they come, and labels when they became known."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from io import BufferedIOBase
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple, cast

from consumer.decode import Decoder
from features.errors import ConfigError
from features.event import Label

TOPIC: Final = "stdin"
LABELS_TOPIC: Final = "labels"
BATCH: Final = 512
READ_BYTES: Final = 1 << 18


class Line(NamedTuple):
    """One line as a source record. Of a stream its offset is its place, counted from 0; a dump tells it."""

    number: int
    content: bytes | None
    as_of_ms: int | None = None
    of_topic: str = TOPIC
    of_partition: int = 0
    of_headers: list[tuple[str, bytes | None]] | None = None

    def topic(self) -> str:
        """`stdin`, `labels` for a line of the labels file, or what a dump is of."""
        return self.of_topic

    def partition(self) -> int:
        """0, unless a dump says otherwise."""
        return self.of_partition

    def offset(self) -> int:
        """The line's place, or what a dump says."""
        return self.number

    def key(self) -> bytes | None:
        """A line has none."""
        return None

    def value(self) -> bytes | None:
        """The line without its end."""
        return self.content

    def headers(self) -> list[tuple[str, bytes | None]] | None:
        """A line has none, unless a dump tells them."""
        return self.of_headers

    def timestamp(self) -> tuple[int, int]:
        """The time that event times are held against, if one was given: of all lines, or of this one by its dump."""
        return (0, 0) if self.as_of_ms is None else (1, self.as_of_ms)


def batches(stream: BinaryIO, as_of_ms: int | None, longest_bytes: int) -> Iterator[list[Line]]:
    """The stream's lines as they come: a writer that waits for each decision gets it."""
    first = 0
    for contents in _lines(cast("BufferedIOBase", stream), longest_bytes):  # which `sys.stdin.buffer` is
        for start in range(0, len(contents), BATCH):
            part = contents[start : start + BATCH]
            yield [Line(first + place, content.removesuffix(b"\r"), as_of_ms) for place, content in enumerate(part)]
            first += len(part)


def _lines(stream: BufferedIOBase, longest_bytes: int) -> Iterator[list[bytes]]:
    """All lines that each read completes. Of a line that is too long only enough is kept to see that it is."""
    rest = b""
    while data := stream.read1(READ_BYTES):
        *lines, rest = (rest + data).split(b"\n")
        rest = rest[: longest_bytes + 2]
        yield lines
    if rest:
        yield [rest]


class LabelLines:
    """The labels of a file, each waiting for the first payment of its `labelled_at` or later, as in training."""

    def __init__(self, path: Path, decoder: Decoder) -> None:
        """Read and check the whole file with a decoder whose labels topic is `labels`. Raises ConfigError."""
        self._decoder = decoder
        known = sorted(_labels(path, decoder), key=lambda each: each[0].labelled_at)
        self._waiting = deque(
            (label.labelled_at, Line(place, content, of_topic=LABELS_TOPIC))
            for place, (label, content) in enumerate(known)
        )
        last_word = {label.event_id: label.label == "fraud" for label, _ in known}
        self.frauds = frozenset(event_id for event_id, fraud in last_word.items() if fraud)

    def interleaved(self, batch: list[Line]) -> Iterator[tuple[list[Line], list[Line]]]:
        """A batch of payments in parts: what became known of earlier ones, then payments that may know it."""
        if not self._waiting:
            yield [], batch
            return
        payments = self._decoder.decode(batch).batch
        due: list[Line] = []
        begun = 0
        for event_time, offset in zip(payments.event_time.tolist(), payments.offset.tolist(), strict=True):
            if not self._waiting or self._waiting[0][0] > event_time:
                continue
            here = offset - batch[0].number
            if due or here > begun:
                yield due, batch[begun:here]
            due, begun = self._known_at(event_time), here
            while len(due) > BATCH:
                yield due[:BATCH], []
                due = due[BATCH:]
        yield due, batch[begun:]

    def _known_at(self, time_ms: int) -> list[Line]:
        known = []
        while self._waiting and self._waiting[0][0] <= time_ms:
            known.append(self._waiting.popleft()[1])
        return known


def _labels(path: Path, decoder: Decoder) -> Iterator[tuple[Label, bytes]]:
    """The labels of a file and their lines, in its order; blank lines are skipped."""
    try:
        with path.open("rb") as stream:
            lines = (Line(number, line, of_topic=LABELS_TOPIC) for number, line in enumerate(stream) if line.strip())
            while part := list(islice(lines, BATCH)):
                yield from _checked(path, part, decoder)
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror}") from error


def _checked(path: Path, lines: Sequence[Line], decoder: Decoder) -> Iterator[tuple[Label, bytes]]:
    decoded = decoder.decode(lines)
    for rejected in decoded.rejected[:1]:
        where = f"{path} line {rejected.message.offset() + 1}"
        raise ConfigError(f"{where} is no label that can be used ({rejected.reason}): mend or remove it")
    for label, line in zip(decoded.labels.labels, lines, strict=True):
        yield label, line.content or b""
