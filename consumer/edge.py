"""`fraudline score`: the same pipeline between two byte streams, with neither Kafka nor Redis."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path
from typing import BinaryIO, Final, cast

import msgspec
import numpy as np

from consumer.app import load_model
from consumer.decode import Decoder
from consumer.kafka.publisher import Outgoing
from consumer.pipeline import Pipeline
from consumer.publish import Decided
from consumer.settings import Settings
from consumer.telemetry import Telemetry
from features.enrich import Enriched, Enricher
from features.errors import ConfigError
from features.event import Label, LabelBatch, PaymentBatch
from features.store import MemoryStore, Span, StateStore

TOPIC: Final = "stdin"
BATCH: Final = 512
READ_BYTES: Final = 1 << 18


@dataclass(frozen=True, slots=True)
class Line:
    """One input line as a source record: its offset is its place, counted from 0."""

    number: int
    content: bytes
    as_of_ms: int | None

    def topic(self) -> str:
        """Always `stdin`."""
        return TOPIC

    def partition(self) -> int:
        """Always 0."""
        return 0

    def offset(self) -> int:
        """The line's place."""
        return self.number

    def key(self) -> bytes | None:
        """A line has none."""
        return None

    def value(self) -> bytes | None:
        """The line without its end."""
        return self.content

    def headers(self) -> list[tuple[str, bytes | None]] | None:
        """A line has none."""
        return None

    def timestamp(self) -> tuple[int, int]:
        """The time that event times are held against, if one was given."""
        return (0, 0) if self.as_of_ms is None else (1, self.as_of_ms)


class TrustedState:
    """State that only this process writes: always in step."""

    def __init__(self, enricher: Enricher, store: StateStore) -> None:
        """Use the epochs that the store gives."""
        self._enricher = enricher
        self._epochs = [position.epoch for position in store.positions()]

    def enrich(
        self,
        batch: PaymentBatch,
        spans: tuple[Span, ...],
        patience_s: float,  # noqa: ARG002
        labels: LabelBatch | None = None,
    ) -> Enriched | None:
        """Features of the batch, at once."""
        return self._enricher.enrich(batch, spans, self._epochs, labels)


class StreamPublisher:
    """Writes decisions as lines; other topics are counted, and dead letters told to `rejects`."""

    def __init__(self, decisions_topic: str, dead_letters_topic: str, out: BinaryIO, rejects: BinaryIO) -> None:
        """Write to two open streams, which stay the caller's."""
        self._decisions, self._dead_letters = decisions_topic, dead_letters_topic
        self._out, self._rejects = out, rejects

    def publish(self, records: Iterable[Outgoing]) -> None:
        """Write what belongs on either stream."""
        lines = []
        for record in records:
            if record.topic == self._decisions and record.value is not None:
                lines.append(record.value)
            elif record.topic == self._dead_letters:
                self._rejects.write(_reject_line(record) + b"\n")
        if lines:
            self._out.write(b"\n".join(lines) + b"\n")

    def commit(self, spans: Sequence[Span]) -> None:  # noqa: ARG002
        """Hand everything to the reader of the stream."""
        self._out.flush()
        self._rejects.flush()

    def renew(self) -> None:
        """Nothing to replace."""

    def close(self) -> None:
        """The streams are the caller's."""


def score_stream(
    *,
    bundle: Path,
    payments: BinaryIO,
    decisions: BinaryIO,
    rejects: BinaryIO | None,
    labels: Path | None,
    as_of_ms: int | None,
) -> int:
    """Decide every line of `payments`, in order, from an empty state; returns the exit code.

    Standard error gets a line at the start, which says that the state is empty, rejects if they have no stream of
    their own, and a summary; with labels, also how many frauds were caught. Raises BundleError, ConfigError.
    """
    settings = Settings()
    model = load_model(bundle, device="cpu", threads=1)
    frauds = None if labels is None else _frauds(labels)
    store = MemoryStore()
    store.adopt({(TOPIC, 0): 0})
    enricher = Enricher(model.catalog, store)
    errors = sys.stderr.buffer
    pipeline = Pipeline(
        decoder=Decoder(
            max_payment_bytes=settings.processing.max_payment_bytes,
            max_future_ms=0,  # `--as-of` is meant as it is given: there is no clock that could differ
        ),
        enricher=enricher,
        state=TrustedState(enricher, store),
        brain=model.brain,
        outbox=model.outbox(settings.topics),
        publisher=StreamPublisher(
            settings.topics.decisions, settings.topics.dead_letters, decisions, errors if rejects is None else rejects
        ),
        telemetry=Telemetry(),
        budget_ms=settings.processing.budget_ms,
        pause_on_outage=False,
    )
    _say(f"scoring with {model.reference.name} {model.reference.version}; the state is empty at the start")
    summary = _run(pipeline, _batches(payments, as_of_ms, settings.processing.max_payment_bytes), frauds)
    _say(summary.text())
    return 0


@dataclass(slots=True)
class _Summary:
    lines: int = 0
    rejected: int = 0
    repeated: int = 0
    decided: int = 0
    not_approved: int = 0
    caught: int = 0
    frauds: int | None = None

    def text(self) -> str:
        text = f"{self.lines} lines: {self.decided} decisions ({self.not_approved} not approved), "
        text += f"{self.rejected} rejected, {self.repeated} repeated"
        if self.frauds is not None:
            text += f"; {self.caught} of {self.frauds} frauds caught"
        return text


def _run(pipeline: Pipeline, batches: Iterator[list[Line]], frauds: frozenset[str] | None) -> _Summary:
    summary = _Summary(frauds=None if frauds is None else 0)
    for batch in batches:
        span = Span(TOPIC, 0, batch[0].number, batch[-1].number + 1, floor=batch[0].number)
        decided = pipeline.process(batch, (span,))
        due = int(np.count_nonzero(decided.due))
        summary.lines += len(batch)
        summary.rejected += len(batch) - len(decided.batch)
        summary.repeated += len(decided.batch) - due
        summary.decided += due
        summary.not_approved += int(np.count_nonzero(decided.due & (decided.verdicts.decision > 0)))
        if frauds is not None:
            _count_frauds(summary, decided, frauds)
    return summary


def _count_frauds(summary: _Summary, decided: Decided, frauds: frozenset[str]) -> None:
    for payment, due, decision in zip(
        decided.batch.payments, decided.due.tolist(), decided.verdicts.decision.tolist(), strict=True
    ):
        if due and payment.event_id in frauds:
            summary.frauds = (summary.frauds or 0) + 1
            summary.caught += decision > 0


def _batches(stream: BinaryIO, as_of_ms: int | None, longest_bytes: int) -> Iterator[list[Line]]:
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


def _frauds(path: Path) -> frozenset[str]:
    decoder = msgspec.json.Decoder(Label)
    frauds: dict[str, bool] = {}
    try:
        with path.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    try:
                        label = decoder.decode(line)
                    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                        raise ConfigError(f"{path} line {number} is no label: mend or remove it") from None
                    frauds[label.event_id] = label.label == "fraud"
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror}") from error
    return frozenset(event_id for event_id, fraud in frauds.items() if fraud)


def _reject_line(record: Outgoing) -> bytes:
    headers = dict(record.headers or ())
    why = {
        "line": int(headers["__connect.errors.offset"] or b"0") + 1,
        "stage": (headers["__connect.errors.stage"] or b"").decode(),
        "reason": (headers["__connect.errors.class.name"] or b"").decode().rpartition(".")[2],
        "detail": (headers["__connect.errors.exception.message"] or b"").decode(),
    }
    return msgspec.json.encode(why)


def _say(text: str) -> None:
    sys.stderr.write(f"fraudline score: {text}\n")
