"""THE list of topics: what each role's topic has to be like, and why. Pure: no client is asked here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from consumer.settings import Settings, TopicSettings
from features.catalog import DAY_MS, Catalog
from features.errors import ConfigError

FOREVER: Final = -1  # of retention.ms and retention.bytes
OUTAGE_DAYS: Final = 7.0
PARTITIONS: Final = 8
RECORD_BYTES: Final = 1_048_588  # Kafka's own limit; decisions, alerts and dead letters are kept below it

Rule = Literal["is", "at least"]
RETENTIONS: Final = ("retention.ms", "retention.bytes")
PARTITIONS_WORD: Final = "partitions"
COPIES_WORD: Final = "replication.factor"
IN_STEP: Final = "min.insync.replicas"


@dataclass(frozen=True, slots=True)
class Setting:
    """What one setting of a topic has to be.

    Without a `needed` one state is lost or decisions are wrong; the others are advice. `asked` ones were asked for.
    """

    value: str
    why: str
    rule: Rule = "is"
    needed: bool = True
    asked: bool = False

    def holds(self, found: str) -> bool:
        """Whether a topic's value is good enough. A cleanup policy may list several, in any order."""
        if self.rule == "is":
            return sorted(found.replace(" ", "").split(",")) == sorted(self.value.split(","))
        return amount(found) >= amount(self.value)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A topic as it should be. `grows` tells that more partitions than it has were asked for by name."""

    role: str
    name: str
    partitions: int
    copies: int
    settings: Mapping[str, Setting]
    grows: bool = False


@dataclass(frozen=True, slots=True)
class Options:
    """What the person who makes the topics chooses.

    Attributes:
        partitions: of payments, and so of labels, decisions, alerts and shadow; None: as payments has now, or 8.
        copies: of each partition (the replication factor); None: 3, or as many as there are brokers.
        retention_ms: of what is not kept for ever; None: what the catalog's windows need and `outage_ms`.
        outage_ms: the longest that the state may be away and still be caught up.
        overrides: by role, then by setting (or `partitions`, `replication.factor`).
    """

    partitions: int | None = None
    copies: int | None = None
    retention_ms: int | None = None
    outage_ms: int = round(OUTAGE_DAYS * DAY_MS)
    overrides: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def amount(text: str) -> float:
    """A number that a topic's setting holds; -1 is without limit."""
    try:
        number = int(text)
    except ValueError:
        return float("-inf")
    return float("inf") if number == FOREVER else number


def reach_ms(catalog: Catalog) -> int:
    """How far back what is known about an entity reaches: the logs' horizon, or a window beyond it."""
    return max(catalog.limits.horizon_ms, *(each.window_ms + each.delay_ms for each in catalog.features))


def used_roles(settings: Settings) -> tuple[str, ...]:
    """The roles whose topics a processor with these settings needs."""
    unused = set()
    if not settings.challenger.enabled:
        unused.add("shadow")
    if not settings.audit.enabled:
        unused.add("audit")
    return tuple(role for role in TopicSettings.model_fields if role not in unused)


def declared(
    topics: TopicSettings, catalog: Catalog, options: Options, *, brokers: int, payments_partitions: int | None
) -> list[Wanted]:
    """Every topic as it should be, in the order of the settings.

    Args:
        topics: their names.
        catalog: how long payments count.
        options: what was chosen.
        brokers: how many there are.
        payments_partitions: what the payments topic has now; None where there is none.

    Raises:
        ConfigError: the options can't be had together.
    """
    needed_ms = reach_ms(catalog) + options.outage_ms
    kept_ms = needed_ms if options.retention_ms is None else options.retention_ms
    if kept_ms < reach_ms(catalog):
        raise ConfigError(
            f"A retention of {_days(kept_ms)} is shorter than what features look back on, {_days(reach_ms(catalog))}: "
            "the state could not be built anew; ask for more."
        )
    copies = options.copies or min(3, max(1, brokers))
    if copies > brokers:
        raise ConfigError(f"There are {brokers} brokers, which can't hold {copies} copies of a partition.")
    partitions = options.partitions or payments_partitions or PARTITIONS
    wanted = []
    for role, name in topics:
        count = 1 if role in {"journal", "lists", "audit"} else partitions
        asked = options.partitions is not None and role not in {"journal", "lists", "audit"}
        changes = options.overrides.get(role, {})
        own_copies = int(changes.get(COPIES_WORD, copies))
        made = Wanted(role, name, count, own_copies, _settings(role, kept_ms, needed_ms, own_copies), grows=asked)
        wanted.append(_sound(_overridden(made, changes), reach_ms(catalog)))
    return wanted


def parse_overrides(words: Iterable[str]) -> dict[str, dict[str, str]]:
    """What `--set ROLE.SETTING=VALUE` says, such as alerts.retention.ms=604800000. Raises ConfigError."""
    found: dict[str, dict[str, str]] = {}
    for word in words:
        place, equals, value = word.partition("=")
        role, dot, name = place.strip().partition(".")
        if not (equals and dot and name and value.strip()):
            raise ConfigError(f"--set {word} is not ROLE.SETTING=VALUE, as in alerts.retention.ms=604800000.")
        if role not in TopicSettings.model_fields:
            raise ConfigError(f"--set {word}: there is no topic of the role {role}; {_roles()}.")
        if name == "cleanup.policy":
            raise ConfigError(f"--set {word}: cleanup.policy is what Fraudline needs it to be; leave it out.")
        numeric = name in {PARTITIONS_WORD, COPIES_WORD, *RETENTIONS, "max.message.bytes", IN_STEP}
        if numeric and not _is_number(value.strip(), least=-1 if name in RETENTIONS else 1):
            raise ConfigError(f"--set {word}: {name} has to be a whole number.")
        found.setdefault(role, {})[name] = value.strip()
    return found


def _is_number(text: str, *, least: int) -> bool:
    try:
        return int(text) >= least
    except ValueError:
        return False


def _roles() -> str:
    return "the roles are " + ", ".join(TopicSettings.model_fields)


def _settings(role: str, kept_ms: int, needed_ms: int, copies: int) -> dict[str, Setting]:
    found = {
        IN_STEP: Setting(
            str(max(1, min(2, copies - 1))),
            "an acknowledged record survives the loss of a broker, and one broker may be away",
            "at least",
            needed=False,
        ),
        "max.message.bytes": Setting(
            str(RECORD_BYTES), "a record that the broker refuses for its size stops its partition", "at least"
        ),
    }
    if role == "lists":
        return found | {
            "cleanup.policy": Setting("compact", "the last record of a key says who is on a list, however old it is")
        }
    found["cleanup.policy"] = Setting("delete", "every record counts, not the last one of a key")
    found["retention.ms"] = _retention(role, kept_ms, needed_ms)
    found["retention.bytes"] = Setting(
        str(FOREVER), "time says what is kept: a limit of bytes would delete sooner", "at least", role in _REBUILT
    )
    if role in {"payments", "labels"}:
        found["message.timestamp.type"] = Setting(
            "LogAppendTime", "the budget runs from the broker's time, and what is dated in the future is seen by it"
        )
    if role == "dead_letters":
        found["message.timestamp.type"] = Setting(
            "CreateTime", "a dead letter keeps the time of its record", needed=False
        )
    return found


_REBUILT: Final = frozenset({"payments", "labels", "journal"})


def _retention(role: str, kept_ms: int, needed_ms: int) -> Setting:
    if role == "audit":
        return Setting(str(FOREVER), "who changed what is kept for ever", "at least")
    if role in _REBUILT:
        why = f"the state is built anew from it: all that windows hold, and an outage ({_days(needed_ms)})"
        return Setting(str(kept_ms), why, "at least")
    why = "certify, explain and dlq read it beside the payments, as long as those are kept"
    return Setting(str(kept_ms), why, "at least", needed=False)


def _overridden(wanted: Wanted, changes: Mapping[str, str]) -> Wanted:
    settings = dict(wanted.settings)
    partitions, grows = wanted.partitions, wanted.grows
    for name, value in changes.items():
        if name == PARTITIONS_WORD:
            partitions, grows = int(value), True
        elif name != COPIES_WORD:
            known = settings.get(name)
            settings[name] = replace(known or Setting(value, "asked for by --set"), value=value, asked=True)
    return replace(wanted, partitions=partitions, grows=grows, settings=settings)


def _sound(wanted: Wanted, reach_ms: int) -> Wanted:
    """Raises ConfigError where a topic could not be written, or the state not be built anew from it."""
    if int(wanted.settings[IN_STEP].value) > wanted.copies:
        raise ConfigError(
            f"{IN_STEP} of {wanted.role} is above its {wanted.copies} copies: every write would be refused; ask for "
            "fewer in step, or more copies."
        )
    kept = wanted.settings.get(RETENTIONS[0])
    if wanted.role in _REBUILT and kept is not None and amount(kept.value) < reach_ms:
        raise ConfigError(
            f"{RETENTIONS[0]} of {wanted.role} is shorter than what features look back on, {_days(reach_ms)}: the "
            "state could not be built anew; ask for more."
        )
    return wanted


def _days(ms: int) -> str:
    return f"{ms / DAY_MS:g} days"
