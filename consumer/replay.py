"""`fraudline replay`: a history into a topic, as fast as it goes or at the pace at which it happened.

Payments come in the order of their source, each label before the first payment of its `labelled_at` or later. What
Fraudline would not decide is left out and counted by reason. A checkpoint says how far everything was acknowledged: a
replay that goes on from it leaves nothing out; after a crash it repeats at most what was sent since the last one.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import islice, repeat, starmap
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
import numpy as np
import pyarrow as pa

from consumer.decode import Decoder
from features.errors import ConfigError
from features.event import Label, Payment
from features.history.fields import Kind, Refusals, fields_of
from features.history.files import Source, estimated_rows, sources
from features.history.mapping import AS_NAMED, Columns

BLOCK: Final = 8_192  # records that are read at once
CHECKPOINT_S: Final = 2.0
SHOW_S: Final = 0.25
POLL_EVERY: Final = 500  # records between two looks at what was acknowledged
NAP_S: Final = 0.5  # the longest sleep, so that a signal is seen
LATE_BINS: Final = 20_000  # of a tenth of a millisecond


class Record(msgspec.Struct, frozen=True, gc=False):
    """One record to send.

    Attributes:
        at_ms: when it happened: a payment's event time, a label's `labelled_at`, or the Kafka timestamp of its source.
        is_label: which of both topics it goes to.
        key: as it was, or the card.
        value: as it was, or the record as JSON.
        headers: as they were.
    """

    at_ms: int
    is_label: bool
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]] | None = None


class Feed(Protocol):
    """Where records come from, in the order in which they are sent."""

    refused: Counter[str]

    def identity(self) -> dict[str, Any]:
        """What the feed reads: a checkpoint of another one is refused."""

    def seek(self, position: Any) -> None:
        """Go on from a position that `position` gave."""

    def position(self, taken: int | None = None) -> Any:
        """Up to where the blocks that were given go; of the last one only so many records count, if that is said."""

    def blocks(self) -> Iterator[tuple[list[Record], float]]:
        """The records, and the share of all that is read with them; none, now and then, where there is nothing yet."""


class Sink(Protocol):
    """Where records go."""

    def send(self, records: Sequence[Record]) -> None:
        """Hand them over in their order; it may wait for room."""

    def poll(self) -> None:
        """Let acknowledgements in. Raises KafkaUnavailable for a record that was not taken."""

    def flush(self) -> None:
        """Wait until all that was sent is acknowledged. Raises KafkaUnavailable when it is not."""


class FileFeed:
    """Payments of files, and labels between them."""

    def __init__(
        self,
        payments: Path,
        labels: Path | None,
        mapped: Columns = AS_NAMED,
        *,
        max_payment_bytes: int,
        from_ms: int | None = None,
        to_ms: int | None = None,
    ) -> None:
        """Read payments of event times in [from_ms, to_ms), and labels that became known in that time."""
        self.refused: Counter[str] = Counter()
        self._sources = sources(payments, Payment, mapped)
        self._label_sources = [] if labels is None else sources(labels, Label, mapped)
        self._from_ms, self._to_ms = from_ms or 0, math.inf if to_ms is None else to_ms
        self._decoder = Decoder(max_payment_bytes=max_payment_bytes, max_future_ms=0)
        self._encode = msgspec.json.Encoder().encode
        self._mapped = mapped
        self._max_payment_bytes = max_payment_bytes
        self._given = self._last = 0

    def identity(self) -> dict[str, Any]:
        """The files and their sizes, and what is taken from them."""
        files = [*self._sources, *self._label_sources]
        return {
            "files": [[str(path.absolute()), *_version(path)] for path in (each.path for each in files)],
            "max_payment_bytes": self._max_payment_bytes,
            "range": [self._from_ms, None if math.isinf(self._to_ms) else self._to_ms],
            "map": repr(self._mapped),
        }

    def seek(self, position: Any) -> None:
        """Leave out as many records as were given."""
        self._given = int(position)

    def position(self, taken: int | None = None) -> Any:
        """How many records were given."""
        return self._given if taken is None else self._given - self._last + taken

    def blocks(self) -> Iterator[tuple[list[Record], float]]:
        """See `Feed`."""
        skip = self._given
        for block, share in self._interleaved():
            left_out = min(skip, len(block))
            skip -= left_out
            self._last = len(block) - left_out
            self._given += self._last
            yield block[left_out:], share

    def _interleaved(self) -> Iterator[tuple[list[Record], float]]:
        labels = deque(sorted(self._all(self._label_sources), key=lambda each: each.at_ms))
        latest_ms = 0
        sizes = [max(estimated_rows(each), 1) for each in self._sources]
        done = 0
        for source, size in zip(self._sources, sizes, strict=True):
            for records, share in self._read(source):
                block: list[Record] = []
                for record in records:
                    latest_ms = max(latest_ms, record.at_ms)
                    while labels and labels[0].at_ms <= latest_ms:
                        block.append(labels.popleft())
                    block.append(record)
                yield block, (done + share * size) / sum(sizes)
            done += size
        yield list(labels), 1.0

    def _all(self, of: Sequence[Source]) -> Iterator[Record]:
        for source in of:
            for records, _ in self._read(source):
                yield from records

    def _read(self, source: Source) -> Iterator[tuple[list[Record], float]]:
        """Good records of a file inside the range; others are counted."""
        is_ours = source.path.suffix.lower() == ".jsonl" and not self._mapped
        is_label, check = source.kind is Label, self._decoder.check
        from_ms, to_ms = self._from_ms, self._to_ms
        for contents, share in _raw_lines(source) if is_ours else self._encoded(source):
            found, bad = [], []
            for content in contents:
                record = check(content, is_label=is_label)
                if isinstance(record, str):
                    bad.append(record)
                    continue
                at_ms = record.labelled_at if isinstance(record, Label) else record.event_time
                if from_ms <= at_ms < to_ms:
                    found.append(Record(at_ms, is_label, record.card_id.encode(), content))
            self._refuse(source, bad)
            yield found, share

    def _encoded(self, source: Source) -> Iterator[tuple[list[bytes], float]]:
        """Rows of other files as JSON, as the processor reads it; those with values of wrong types are counted."""
        refusals = Refusals(source.path, _what(source))
        for piece in source.pieces(refusals):
            wrong = np.zeros(len(piece.rows), np.bool_)
            for mask in piece.wrong.values():
                wrong |= mask
            self._refuse(source, ["wrong_type"] * int(wrong.sum()))
            good = pa.array(~wrong)
            held = {name: column.filter(good) for name, column in piece.columns.items()}
            for start in range(0, int(np.count_nonzero(~wrong)), BLOCK):
                rows = _rows(source.kind, {name: column.slice(start, BLOCK) for name, column in held.items()})
                yield list(map(self._encode, rows)), piece.share
        for reason, count in refusals.counts.items():
            self._refuse(source, [reason] * count)

    def _refuse(self, source: Source, reasons: Iterable[str]) -> None:
        self.refused.update(f"{_what(source)}: {reason}" for reason in reasons)


def _rows(kind: Kind, columns: dict[str, pa.Array]) -> Iterable[object]:
    """Rows to be encoded, which leave out what is null: as structs, unless a field is null that none may leave out."""
    fields = fields_of(kind)
    if all(each.name in columns and not columns[each.name].null_count for each in fields if each.is_required):
        values = [_values(columns[each.name]) if each.name in columns else repeat(None) for each in fields]
        return starmap(_record_of(kind), zip(*values, strict=False))
    names, rows = list(columns), zip(*map(_values, columns.values()), strict=True)
    return ({name: value for name, value in zip(names, row, strict=True) if value is not None} for row in rows)


def _values(column: pa.Array) -> list[Any]:
    """A column as Python has it; of a dictionary that would cost twenty times as much, value by value."""
    plain = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
    values: list[Any] = plain.to_pylist()
    return values


@cache
def _record_of(kind: Kind) -> type[msgspec.Struct]:
    """The fields of a record of any types, which are not encoded where they are null."""
    fields = [(each.name, Any) if each.is_required else (each.name, Any, None) for each in fields_of(kind)]
    return msgspec.defstruct("Row", fields, omit_defaults=True, gc=False)


def _what(source: Source) -> str:
    return "label" if source.kind is Label else "payment"


def _version(path: Path) -> tuple[int, int]:
    """Size, and when it was written: a file that was sorted anew is another one."""
    about = path.stat()
    return about.st_size, about.st_mtime_ns


def _raw_lines(source: Source) -> Iterator[tuple[list[bytes], float]]:
    """The lines of a file that are not blank, without their ends."""
    size, taken = max(source.path.stat().st_size, 1), 0
    try:
        with source.path.open("rb") as file:
            while part := list(islice(file, BLOCK)):
                taken += sum(map(len, part))
                yield [line.rstrip(b"\r\n") for line in part if not line.isspace()], taken / size
    except OSError as error:
        raise ConfigError(f"{source.path} can't be read ({error.strerror}).") from None


class Pace:
    """When what happened is due again: as far apart as it was, divided by `speed`."""

    def __init__(self, speed: float) -> None:
        """The clock starts with the first record."""
        self._speed = speed
        self._first_ms: int | None = None
        self._begun_s = 0.0
        self._latest_ms = 0

    def due_s(self, at_ms: int) -> float:
        """When, on the monotonic clock; one that is late in the source is due with what went before it."""
        if self._first_ms is None:
            self._first_ms = self._latest_ms = at_ms
            self._begun_s = time.monotonic()
        self._latest_ms = max(self._latest_ms, at_ms)
        return self._begun_s + (self._latest_ms - self._first_ms) / 1_000 / self._speed


@dataclass(slots=True)
class Replayed:
    """What a replay did.

    Attributes:
        payments, labels: how many were sent.
        refused: rows that are no record, by what and why.
        first_ms, last_ms: when the first and the last of them happened.
        seconds: how long it took.
        per_s: records a second.
        late_p99_ms: by how much later than due the latest but 1 % were sent; None without a pace.
        is_complete: whether nothing is left.
    """

    payments: int = 0
    labels: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    first_ms: int | None = None
    last_ms: int | None = None
    seconds: float = 0.0
    per_s: float = 0.0
    late_p99_ms: float | None = None
    is_complete: bool = False


class Replay:
    """Sends what a feed gives to a sink, paced, until the end or until it is told to stop."""

    def __init__(
        self,
        feed: Feed,
        sink: Sink,
        *,
        speed: float | None = None,
        checkpoint: Path | None = None,
        target: dict[str, Any] | None = None,
        progress: Callable[[int, float], None] = lambda _at_ms, _share: None,
    ) -> None:
        """Go on from the checkpoint, if there is one.

        Args:
            feed: where records come from.
            sink: where they go.
            speed: so many times as fast as it happened; None for as fast as it goes.
            checkpoint: a file that says how far everything was acknowledged.
            target: what the sink is; a checkpoint of another one is refused.
            progress: told the moment in the history, and the share of it that is sent.

        Raises:
            ConfigError: the checkpoint can't be read or written, or is of another replay.
        """
        self._feed, self._sink = feed, sink
        self._pace = None if speed is None else Pace(speed)
        self._checkpoint, self._progress = checkpoint, progress
        self._identity = feed.identity() | (target or {})
        self._late = np.zeros(LATE_BINS, np.int64)
        self._share = self._shown_s = self._saved_s = 0.0
        self._stopping = False
        self.done = Replayed()
        position = None if checkpoint is None else _read_checkpoint(checkpoint, self._identity)
        if position is not None:
            feed.seek(position)

    @property
    def is_stopping(self) -> bool:
        """Whether it was told to."""
        return self._stopping

    def stop(self) -> None:
        """Send no more; `run` then settles what was sent."""
        self._stopping = True

    def run(self) -> Replayed:
        """Send. Raises KafkaUnavailable: what was not acknowledged is sent again when the replay goes on."""
        begun = self._saved_s = time.monotonic()
        for block, share in self._feed.blocks():
            sent = self._send(block)
            if sent < len(block) or self._stopping:
                self._save(sent)
                break
            self._share = share
        else:
            self._save(None)
            self.done.is_complete = True
        done = self.done
        done.refused = dict(self._feed.refused)
        done.seconds = round(time.monotonic() - begun, 3)
        done.per_s = round((done.payments + done.labels) / max(done.seconds, 1e-9), 1)
        if self._late.any():
            at = np.searchsorted(np.cumsum(self._late), 0.99 * self._late.sum())
            done.late_p99_ms = float(at) / 10
        return done

    def _send(self, block: list[Record]) -> int:
        """How many of them were sent before it was told to stop."""
        done, sent = self.done, 0
        step = POLL_EVERY if self._pace is None else 1
        while sent < len(block) and not self._stopping:
            if self._pace is not None and not self._wait(self._pace.due_s(block[sent].at_ms)):
                break
            part = block[sent : sent + step]
            self._sink.send(part)
            sent += len(part)
            if sent % POLL_EVERY < step:
                self._sink.poll()
            now_s = time.monotonic()
            if now_s - self._shown_s > SHOW_S:
                self._progress(part[-1].at_ms, self._share)
                self._shown_s = now_s
            if self._checkpoint is not None and now_s - self._saved_s > CHECKPOINT_S:
                self._save(sent)
        labels = sum(record.is_label for record in block[:sent])
        done.labels += labels
        done.payments += sent - labels
        if sent and done.first_ms is None:
            done.first_ms = block[0].at_ms
        if sent:
            done.last_ms = block[sent - 1].at_ms
        return sent

    def _wait(self, due_s: float) -> bool:
        """Until then, unless it is told to stop."""
        while (left_s := due_s - time.monotonic()) > 0:
            if self._stopping:
                return False
            self._sink.poll()
            time.sleep(min(left_s, NAP_S))
        self._late[min(int(-left_s * 10_000), LATE_BINS - 1)] += 1
        return True

    def _save(self, taken: int | None) -> None:
        self._sink.flush()
        self._saved_s = time.monotonic()
        if self._checkpoint is None:
            return
        known = {"replay": self._identity, "position": self._feed.position(taken)}
        beside = self._checkpoint.with_name(f".{self._checkpoint.name}.new")
        try:
            with beside.open("w") as file:
                json.dump(known, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(self._checkpoint)
        except OSError as error:
            raise ConfigError(
                f"The checkpoint can't be written to {self._checkpoint} ({error.strerror}); give another place."
            ) from None


def _read_checkpoint(path: Path, identity: dict[str, Any]) -> Any:
    """The position that a checkpoint of this replay holds; None where there is no checkpoint yet."""
    try:
        known = json.loads(path.read_bytes())
        position, replayed = known["position"], known["replay"]
    except FileNotFoundError:
        if not path.absolute().parent.is_dir():
            raise ConfigError(f"The directory of the checkpoint {path} does not exist; make it first.") from None
        return None
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigError(f"{path} is no checkpoint that can be read; remove it to begin anew.") from None
    if replayed != identity:
        what = [name for name in identity if replayed.get(name) != identity[name]]
        raise ConfigError(
            f"{path} is the checkpoint of another replay ({', '.join(what)} differ); give that one's options, or "
            "remove it to begin anew."
        )
    return position
