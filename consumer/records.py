"""What Fraudline publishes, and the JSON Schemas of every topic. Schema version 1; changes are additive.

Times are milliseconds since the epoch, UTC; money is an integer in minor units; durations say their unit.
"""

from __future__ import annotations

from hashlib import blake2b
from inspect import cleandoc
from typing import Annotated, Any, Final, Literal

import msgspec

from consumer.audit import AuditEntry
from features.event import Label, Payment
from models.clearing import Clearing
from models.explain import Reason
from models.lists import ListEntry
from models.policy import Tier

SCHEMA_VERSION: Final = 1

DecisionName = Literal["approve", "review", "block"]
Score = Annotated[float, msgspec.Meta(ge=0, le=1)]


class Source(msgspec.Struct, frozen=True, gc=False):
    """The payment's record in Kafka."""

    topic: str
    partition: int
    offset: int


class State(msgspec.Struct, frozen=True, gc=False):
    """Where the payment stands in its shard's order: the key of a repeatable replay."""

    shard: int
    epoch: int
    sequence: int


class Digests(msgspec.Struct, frozen=True, gc=False):
    """SHA-256 of what decided, in hexadecimal."""

    bundle: str
    catalog: str
    policy: str


class Inputs(msgspec.Struct, frozen=True, gc=False):
    """Every outcome that depended on time or load; a replay takes them as given. Thresholds are null in rules_only.

    `limiter` is `review` where the payment would have been blocked but for the decline limiter. `canary` tells who
    decided while a challenger decides for a share of the cards: `champion` or `challenger`; null while none does.
    """

    tier: Tier
    device: Literal["cpu", "cuda"]
    review_threshold: float | None
    block_threshold: float | None
    limiter: str | None = None
    lists_version: int | None = None
    canary: str | None = None


class Decision(msgspec.Struct, frozen=True, gc=False):
    """One for every payment: a record of the `decisions` topic, keyed by `card_id`.

    `rules` are those that fired, lists included; `shadow_rules` fired too, and decide nothing yet. `kafka_time` is the
    payment's Kafka timestamp, from which its budget runs; that of its event, where it has none.
    """

    event_id: str
    card_id: str
    event_time: int
    source: Source
    decision: DecisionName
    score: Score | None
    tier: Tier
    model: str
    digests: Digests
    state: State | None
    inputs: Inputs
    rules: tuple[str, ...] = ()
    shadow_rules: tuple[str, ...] = ()
    kafka_time: int | None = None  # older decisions have none
    schema_version: int = SCHEMA_VERSION


class ModelRef(msgspec.Struct, frozen=True, gc=False):
    """The model that scored."""

    name: str
    version: str
    digest: str


class StageTimes(msgspec.Struct, frozen=True, gc=False):
    """How long the payment's batch took, in ms: from its Kafka timestamp until read, then stage by stage."""

    queued: float
    decode: float
    enrich: float
    score: float
    decide: float


class Alert(msgspec.Struct, frozen=True, gc=False):
    """One for every payment that is not approved: a record of the `alerts` topic, keyed by `card_id`.

    `reasons` are empty where only rules decided, or where there was no time to explain. `cleared_by`, where it was
    found, is the smallest change of what a customer could have done otherwise that would have kept the score below the
    review threshold. `state` is as in the decision; `state_offsets` tells up to which offset (exclusive) the partitions
    of payments and labels that the deciding processor reads had been taken into the state.
    """

    alert_id: str
    event_id: str
    card_id: str
    merchant_id: str
    event_time: int
    amount_minor: int
    currency: str
    source: Source
    decision: DecisionName
    score: Score | None
    tier: Tier
    reasons: tuple[Reason, ...]
    rules: tuple[str, ...]
    model: ModelRef
    feature_age_ms: int | None
    stage_ms: StageTimes
    device_id: str | None = None
    account_id: str | None = None
    state: State | None = None
    state_offsets: list[Source] = []
    cleared_by: Clearing | None = None
    schema_version: int = SCHEMA_VERSION


class Verdict(msgspec.Struct, frozen=True, gc=False):
    """What one bundle made of a payment; `digest` is the bundle's."""

    model: str
    digest: str
    tier: Tier
    score: Score | None
    decision: DecisionName


class ShadowDecision(msgspec.Struct, frozen=True, gc=False):
    """How champion and challenger judged one payment: a record of the shadow topic, keyed by `card_id`.

    Both saw the same features. `decided_by` is the one whose decision is on the `decisions` topic.
    """

    event_id: str
    card_id: str
    event_time: int
    source: Source
    champion: Verdict
    challenger: Verdict
    decided_by: Literal["champion", "challenger"]
    schema_version: int = SCHEMA_VERSION


class JournalEntry(msgspec.Struct, frozen=True, gc=False):
    """The order of a run of applied payments or labels: a record of the journal topic, keyed by shard.

    The record at `offset + i` of the partition has sequence number `sequence + i` in that epoch of the shard, for i
    below `count`; where there is no payment or label at an offset, its number stands for nothing.

    An entry of count 0 tells where an epoch comes from: its state has what `parent_epoch` had numbered below
    `parent_sequence`, and its own numbers go on from there. Its topic, partition and offset mean nothing.
    """

    shard: int
    epoch: int
    sequence: int
    count: int
    topic: str
    partition: int
    offset: int
    parent_epoch: int | None = None
    parent_sequence: int | None = None
    schema_version: int = SCHEMA_VERSION


def alert_id(card_id: str, event_id: str, event_time: int) -> str:
    """Name an alert: the same payment has the same id in any replay. 128 bits of BLAKE2b (RFC 7693), in hex."""
    return blake2b(alert_text(card_id, event_id, event_time), digest_size=16).hexdigest()


def alert_text(card_id: str, event_id: str, event_time: int) -> bytes:
    """What an alert id is a hash of: no two payments have the same."""
    return f"{len(card_id)}:{card_id}{len(event_id)}:{event_id}{event_time}".encode()


def json_schemas() -> dict[str, dict[str, Any]]:
    """JSON Schema (2020-12) of each topic's records, by the topic's default name."""
    types = {
        "payments": Payment,
        "labels": Label,
        "decisions": Decision,
        "alerts": Alert,
        "journal": JournalEntry,
        "lists": ListEntry,
        "shadow": ShadowDecision,
        "audit": AuditEntry,
    }
    schemas = {}
    for name, kind in types.items():
        (root,), definitions = msgspec.json.schema_components([kind], ref_template="#/$defs/{name}")
        body = definitions.pop(kind.__name__)
        schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": f"fraudline/{name}.v1.json", **body}
        if definitions:
            schema["$defs"] = definitions
        for described in (schema, *definitions.values()):
            described["description"] = cleandoc(described["description"])  # Python 3.13 strips it, earlier ones don't
        assert root  # noqa: S101  the reference to `body`
        schemas[name] = msgspec.json.decode(msgspec.json.encode(schema))  # a default may be a tuple
    return schemas
