"""The audit topic: who changed what, when, and what came of it.

A change of something outside Kafka (a registry's role, a bundle, the state) has two records: `intended` before it, and
`done` or `failed` after it, with the same `entry_id`. Where the change itself is records of Kafka (lists, verdicts,
dead letters), one record `done` lies in the same transaction. So there may be an intention without an outcome, where
somebody died between the two, and never a change without a record.
"""

from __future__ import annotations

import socket
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from getpass import getuser
from typing import TYPE_CHECKING, Annotated, Final, Literal, Protocol

import msgspec

from features.errors import FraudlineError

if TYPE_CHECKING:
    from consumer.streams import Stream

ACTIONS: Final = (
    "model.promote",
    "model.rollback",
    "model.withdraw",
    "model.sign",
    "canary.rollback",
    "policy.apply",
    "lists.put",
    "lists.remove",
    "verdict.fraud",
    "verdict.genuine",
    "dlq.redrive",
    "state.rebuild",
    "topics.apply",
)
Outcome = Literal["intended", "done", "failed"]
Detail = dict[str, str | int | float | bool | None]
LONGEST: Final = 400  # characters of a `Line`
Line = Annotated[str, msgspec.Meta(max_length=LONGEST)]
PROCESSOR: Final = "processor"


class AuditEntry(msgspec.Struct, frozen=True, gc=False):
    """That somebody changed something: a record of the audit topic, keyed by `entry_id`.

    `actor` is who did it, as far as that is known to what wrote the record: who was named, or who was logged in.
    `origin` is the user and machine of the process that wrote it. `subject` names what was changed: a bundle as
    `name@version`, an entry of a list as `list:kind:value`, an event, a topic. Cards are named by their tokens.
    """

    entry_id: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{32}$")]
    time: int
    actor: Line
    origin: Line
    action: Annotated[str, msgspec.Meta(pattern=r"^[a-z]+\.[a-z]+$")]
    subject: Line
    outcome: Outcome
    detail: Detail = {}
    schema_version: int = 1


class Trail(Protocol):
    """Where audit records go. `write` returns when the brokers have the record, or raises KafkaUnavailable."""

    def write(self, entry: AuditEntry) -> None: ...  # noqa: D102


def user() -> str:
    """The user of this process."""
    try:
        return getuser()
    except (OSError, KeyError):  # no name for this user id, as in many containers
        return "unknown"


def origin() -> str:
    """The user and machine of this process."""
    return f"{user()}@{socket.gethostname()}"


def new_entry(
    action: str, subject: str, *, actor: str | None, outcome: Outcome, detail: Mapping[str, object] | None = None
) -> AuditEntry:
    """A record of now, under an id of its own. Without an `actor` it is who runs this process."""
    place = origin()
    return AuditEntry(
        entry_id=uuid.uuid4().hex,
        time=_now_ms(),
        actor=(actor or place)[:LONGEST],
        origin=place[:LONGEST],
        action=action,
        subject=subject[:LONGEST],
        outcome=outcome,
        detail={name: _plain(value) for name, value in (detail or {}).items()},
    )


@contextmanager
def audited(
    trail: Trail, action: str, subject: str, *, actor: str | None, detail: Mapping[str, object] | None = None
) -> Iterator[Detail]:
    """Let a change happen inside, recorded before and after; what is put into the yielded mapping joins the `done`.

    Raises KafkaUnavailable before the change when the record of the intention can't be written: then nothing may be
    changed. When the record of the outcome can't be, the change has happened; the error says so.
    """
    entry = new_entry(action, subject, actor=actor, outcome="intended", detail=detail)
    try:
        trail.write(entry)
    except FraudlineError as error:
        raise type(error)(f"Nothing was changed, since it can't be audited: {error}") from error
    found: Detail = {}
    try:
        yield found
    except BaseException as failure:
        why = str(failure)[:LONGEST] if isinstance(failure, FraudlineError) else type(failure).__name__
        try:
            trail.write(_with(entry, "failed", {"error": why}))
        except FraudlineError as error:
            failure.add_note(f"That it failed could not be audited either: {error}")
        raise
    try:
        trail.write(_with(entry, "done", found))
    except FraudlineError as error:
        raise type(error)(f"The change was made, and only its intention is in the audit topic: {error}") from error


def read_entries(stream: Stream) -> Iterator[AuditEntry | str]:
    """What an audit topic holds, partition by partition; of a record that is no entry, its place.

    Raises KafkaUnavailable, ConfigError.
    """
    decode = msgspec.json.Decoder(AuditEntry).decode
    for messages in stream.chunks():
        for message in messages:
            try:
                yield decode(message.value() or b"")
            except (msgspec.DecodeError, UnicodeDecodeError):
                yield f"{message.topic()}-{message.partition()}-{message.offset()}"


def _with(entry: AuditEntry, outcome: Outcome, more: Detail) -> AuditEntry:
    return msgspec.structs.replace(entry, time=_now_ms(), outcome=outcome, detail=entry.detail | more)


def _now_ms() -> int:
    return round(time.time() * 1_000)


def _plain(value: object) -> str | int | float | bool | None:
    return value if value is None or isinstance(value, (bool, int, float)) else str(value)[:LONGEST]
