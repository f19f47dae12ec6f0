"""`fraudline score`: the same pipeline between two byte streams, with neither Kafka nor Redis."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np

from consumer.decode import Decoder
from consumer.judge import LineUp, Surroundings
from consumer.kafka.publisher import Outgoing
from consumer.lines import LABELS_TOPIC, TOPIC, LabelLines, Line, batches
from consumer.model_loader import load_model
from consumer.pipeline import Pipeline
from consumer.publish import Decided
from consumer.settings import Settings, TopicSettings
from consumer.telemetry import Telemetry
from features.catalog import DEFAULT, Catalog
from features.enrich import Enriched, Enricher, Sent
from features.event import LabelBatch, PaymentBatch
from features.store import MemoryStore, Span, StateStore
from models.signature import ANYBODY, Trust

Parts = Iterator[tuple[list[Line], list[Line]]]  # labels that became known, and the payments behind them


class TrustedState:
    """State that only this process writes: always in step."""

    def __init__(self, enricher: Enricher, store: StateStore) -> None:
        """Use the epochs that the store gives."""
        self._enricher = enricher
        self._epochs = [position.epoch for position in store.positions()]

    def send(
        self,
        batch: PaymentBatch,
        spans: tuple[Span, ...],
        labels: LabelBatch | None = None,
    ) -> Sent | None:
        """Nothing is begun ahead: the answer is there at once."""

    def enrich(
        self,
        batch: PaymentBatch,
        spans: tuple[Span, ...],
        patience_s: float,  # noqa: ARG002
        labels: LabelBatch | None = None,
        sent: Sent | None = None,  # noqa: ARG002
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
    catalog: Catalog = DEFAULT,
    trust: Trust = ANYBODY,
) -> int:
    """Decide every line of `payments`, in order, from an empty state; returns the exit code.

    A label of `labels` is known from its `labelled_at` on: it comes before the first payment of that time or later.
    Standard error gets a line at the start, which says that the state is empty, rejects if they have no stream of
    their own, and a summary; with labels, also how many frauds were caught. Raises BundleError, ConfigError.
    """
    settings = Settings(topics=TopicSettings(labels=LABELS_TOPIC))
    model = load_model(bundle, device="cpu", threads=1, catalog=catalog, trust=trust)
    decoder = Decoder(
        max_payment_bytes=settings.processing.max_payment_bytes,
        max_future_ms=0,  # `--as-of` is meant as it is given: there is no clock that could differ
        labels_topic=LABELS_TOPIC,
    )
    known = None if labels is None else LabelLines(labels, decoder)
    store = MemoryStore()
    store.adopt({(TOPIC, 0): 0, (LABELS_TOPIC, 0): 0})
    enricher, line_up = Enricher(model.catalog, store), LineUp(model)
    errors = sys.stderr.buffer
    pipeline = Pipeline(
        decoder=decoder,
        enricher=enricher,
        state=TrustedState(enricher, store),
        line_up=lambda: line_up,
        around=Surroundings(settings.topics, is_live=False),
        publisher=StreamPublisher(
            settings.topics.decisions, settings.topics.dead_letters, decisions, errors if rejects is None else rejects
        ),
        telemetry=Telemetry(),
        budget_ms=settings.processing.budget_ms,
        pause_on_outage=False,
    )
    _say(f"scoring with {model.reference.name} {model.reference.version}; the state is empty at the start")
    arriving = batches(payments, as_of_ms, settings.processing.max_payment_bytes)
    parts = chain.from_iterable(map(known.interleaved, arriving)) if known else (([], batch) for batch in arriving)
    _say(_run(pipeline, parts, known.frauds if known else None).text())
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


def _run(pipeline: Pipeline, parts: Parts, frauds: frozenset[str] | None) -> _Summary:
    summary = _Summary(frauds=None if frauds is None else 0)
    for labels, lines in parts:
        decided = pipeline.process([*labels, *lines], tuple(_span(some) for some in (labels, lines) if some))
        due = int(np.count_nonzero(decided.due))
        summary.lines += len(lines)
        summary.rejected += len(lines) - len(decided.batch)
        summary.repeated += len(decided.batch) - due
        summary.decided += due
        summary.not_approved += int(np.count_nonzero(decided.due & (decided.verdicts.decision > 0)))
        if frauds is not None:
            _count_frauds(summary, decided, frauds)
    return summary


def _span(lines: list[Line]) -> Span:
    """What these lines cover; all before them are done with."""
    start, topic = lines[0].number, lines[0].topic()
    return Span(topic, 0, start, lines[-1].number + 1, floor=start, labels=topic == LABELS_TOPIC)


def _count_frauds(summary: _Summary, decided: Decided, frauds: frozenset[str]) -> None:
    for payment, due, decision in zip(
        decided.batch.payments, decided.due.tolist(), decided.verdicts.decision.tolist(), strict=True
    ):
        if due and payment.event_id in frauds:
            summary.frauds = (summary.frauds or 0) + 1
            summary.caught += decision > 0


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
