"""Writes analysts' labels, and looks up the payments that they are about."""

from __future__ import annotations

import time
from typing import Final

import msgspec
import structlog

from consumer.audit import new_entry
from consumer.decode import Decoder
from consumer.kafka.audit import AuditWriter
from consumer.kafka.client import within
from consumer.kafka.compacted import put
from consumer.kafka.logreader import LogReader
from consumer.kafka.publisher import Outgoing
from consumer.records import Alert
from consumer.settings import Settings
from features.errors import KafkaUnavailable
from features.event import Label, Payment

LOOK_UP_S: Final = 3.0
_LOG: Final = structlog.get_logger("dashboard")


class LabelWriter:
    """Writes each label by itself, acknowledged by all in-sync replicas."""

    def __init__(self, settings: Settings) -> None:
        """Connect with each label: people give few."""
        self._kafka, self._topic = settings.kafka, settings.topics.labels

    def write(self, label: Label, actor: str) -> None:  # noqa: ARG002  nobody asked who it was
        """See `consumer.dashboard.verdicts.Writer`. Raises KafkaUnavailable."""
        put(self._kafka, self._topic, {label.card_id.encode(): msgspec.json.encode(label)})


class AuditedLabelWriter:
    """Writes each label in one transaction with the audit record that says who gave it."""

    def __init__(self, settings: Settings) -> None:
        """Connect with each label: people give few."""
        self._kafka, self._labels, self._audit = settings.kafka, settings.topics.labels, settings.topics.audit

    def write(self, label: Label, actor: str) -> None:
        """See `consumer.dashboard.verdicts.Writer`. Raises KafkaUnavailable."""
        record = Outgoing(self._labels, label.card_id.encode(), msgspec.json.encode(label))
        entry = new_entry(f"verdict.{label.label}", label.event_id, actor=actor, outcome="done",
                          detail={"card_id": label.card_id, "by": "dashboard"})  # fmt: skip
        with AuditWriter(self._kafka, self._audit, beside=[self._labels]) as writer:
            writer.publish([record], entry)


class PaymentLookup:
    """Reads single payments from where an alert says that they lie."""

    def __init__(self, settings: Settings) -> None:
        """Connect with each look-up."""
        self._kafka, self._topic = settings.kafka, settings.topics.payments
        self._decoder = Decoder(max_payment_bytes=settings.processing.max_payment_bytes, max_future_ms=0)

    def __call__(self, alert: Alert) -> Payment | None:
        """The payment of an alert; None where it is no longer there, may not be read, or lies elsewhere."""
        source = alert.source
        if source.topic != self._topic:
            return None
        log = LogReader(self._kafka, self._topic)
        try:
            deadline_s = time.monotonic() + LOOK_UP_S
            start, end = source.offset, source.offset + 1
            messages, _ = log.read((source.topic, source.partition), start, end, 1, deadline_s)
        except KafkaUnavailable as error:
            _LOG.warning("payment_not_looked_up", error=str(error))
            return None
        finally:
            within(log.close, LOOK_UP_S)
        found = [self._decoder.check(message.value() or b"", is_label=False) for message in messages]
        match found:
            case [Payment() as payment] if payment.event_id == alert.event_id:
                return payment
            case _:
                return None
