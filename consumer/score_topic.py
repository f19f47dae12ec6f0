"""`fraudline score` with topics: what is decided is read from one into files, and decisions are sent to another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec

from consumer.replay import Feed, Record, Sink
from consumer.score_files import Work
from features.errors import ConfigError

BLOCK: Final = 20_000  # decisions that are acknowledged before it is noted that they are sent
Progress = Callable[[str, float], None]


class _Head(msgspec.Struct, frozen=True, gc=False):
    """What a decision is sent by."""

    card_id: str
    event_time: int


class _Time(msgspec.Struct, frozen=True, gc=False):
    event_time: int


_decode_time: Final = msgspec.json.Decoder(_Time).decode


@dataclass(frozen=True, slots=True)
class Limits:
    """What the processor takes: how large a record may be, and by how much later than it came it may have happened."""

    max_payment_bytes: int
    max_future_ms: int


def spooled(
    feed: Feed, work: Work, limits: Limits, *, has_labels: bool, progress: Progress
) -> tuple[Path, Path | None, dict[str, int]]:
    """The records of a feed as files of payments and labels, a record a line, unless they are there already.

    What a file can't tell any more is refused here, as the processor refuses it, and counted by reason.

    Raises:
        ConfigError: they can't be written.
        KafkaUnavailable: they can't be read.
    """
    payments, labels = work.folder / "payments.jsonl", work.folder / "labels.jsonl"
    refused: Counter[str] = Counter()
    if "spooled" not in work.known:
        try:
            with payments.open("wb") as of_payments, labels.open("wb") as of_labels:
                for records, share in feed.blocks():
                    for record in records:
                        if why := _refusal(record, limits):
                            refused[why] += 1
                        else:
                            _put(of_labels if record.is_label else of_payments, record)
                    progress("reading the topic", 0.1 * share)
        except OSError as error:
            raise ConfigError(f"{work.folder} can't be written ({error.strerror}).") from None
        work.note(spooled=dict(refused))
    return payments, labels if has_labels else None, work.known["spooled"]


def sent(parts: list[Path], work: Work, sink: Sink, progress: Progress) -> int:
    """Send the decisions of parts (JSON lines), those that were acknowledged before left out; how many there are.

    Raises KafkaUnavailable: what was not acknowledged is sent again by a run that goes on.
    """
    decode = msgspec.json.Decoder(_Head).decode
    known: dict[str, Any] = work.known
    done, before = 0, int(known.get("sent", 0))
    for number, part in enumerate(parts):
        for lines in _blocks(part):
            left_out = min(max(before - done, 0), len(lines))
            done += len(lines)
            if left_out == len(lines):
                continue
            fresh = [(line.rstrip(b"\n"), decode(line)) for line in lines[left_out:]]
            sink.send([Record(head.event_time, False, head.card_id.encode(), line) for line, head in fresh])
            sink.poll()
            sink.flush()
            work.note(sent=done)
        progress("sending", (number + 1) / len(parts))
    return done


def _refusal(record: Record, limits: Limits) -> str:
    """Why a record is none, for what only Kafka tells; empty for all else, be it right or not."""
    value = record.value or b""
    if len(value) > limits.max_payment_bytes:
        return "too_large"
    if not record.at_ms:
        return ""
    try:
        happened_ms = _decode_time(value).event_time
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""
    return "future_event_time" if happened_ms > record.at_ms + limits.max_future_ms else ""


def _put(file: BinaryIO, record: Record) -> None:
    """A record as one line: a line's end inside JSON can only be space, since texts have it escaped."""
    file.write((record.value or b"null").replace(b"\n", b" ") + b"\n")


def _blocks(part: Path) -> Iterator[list[bytes]]:
    with part.open("rb") as file:
        while lines := list(islice(file, BLOCK)):
            yield lines
