"""What lacks and what differs between the topics as they should be and as they are. Pure: the same in, the same out.

A step is either done by `fraudline topics apply`, or left alone with the reason: nothing is deleted, no retention is
shortened, and no partition is added unless that was asked for, since it changes the order of a card's payments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from consumer.topics import COPIES_WORD, IN_STEP, PARTITIONS_WORD, RETENTIONS, Setting, Wanted, amount

Action = Literal["create", "set", "add partitions", "leave alone"]

_ORDER: Final = (
    "more partitions send the keys elsewhere, and then the order of a card's records is lost: stop the producers until "
    "all is decided, and say --add-partitions"
)


@dataclass(frozen=True, slots=True)
class Found:
    """A topic as it is: partitions, copies of the one that has fewest, how many of those are in step, settings.

    `leaderless` are the partitions that nobody can write or read now.
    """

    partitions: int
    copies: int
    in_step: int
    settings: Mapping[str, str]
    leaderless: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """One difference, and what becomes of it. `settings` are those that a topic is created with.

    Attributes:
        setting: which one; empty for a topic that is missing.
        has: what it is now; None for a topic that is missing.
        wants: what it should be.
        why: why that is so.
        needed: whether Fraudline loses state or decides wrongly without it.
        left: why it is left alone; empty where it is not.
    """

    action: Action
    role: str
    topic: str
    setting: str
    has: str | None
    wants: str
    why: str
    needed: bool = True
    left: str = ""
    partitions: int = 0
    copies: int = 0
    settings: tuple[tuple[str, str], ...] = ()

    @property
    def by_us(self) -> bool:
        """Whether `apply` does it."""
        return self.action != "leave alone"


def plan(wanted: Sequence[Wanted], found: Mapping[str, Found], *, add_partitions: bool = False) -> list[Step]:
    """Every difference, in the order of the topics. `found` is by topic; one that is not in it is missing."""
    steps: list[Step] = []
    for each in wanted:
        there = found.get(each.name)
        if there is None:
            steps.append(_creation(each))
            continue
        steps += _partitions(each, there, add_partitions=add_partitions)
        if there.copies < each.copies:
            steps.append(_copies(each, there))
        for name, setting in each.settings.items():
            has = there.settings.get(name)
            fitting = _fitting(name, setting, there)
            if has is not None and not fitting.holds(has):
                steps.append(_setting(each, name, fitting, there))
        if amount(there.settings.get(IN_STEP, "1")) > there.copies:
            steps.append(_unwritable(each, there))
    return steps


def _fitting(name: str, setting: Setting, there: Found) -> Setting:
    """So many copies have to be in step as the topic has, less one that may be away."""
    if name != IN_STEP or setting.asked:
        return setting
    return replace(setting, value=str(min(int(setting.value), max(1, there.copies - 1))))


def _unwritable(wanted: Wanted, there: Found) -> Step:
    return Step(
        "leave alone",
        wanted.role,
        wanted.name,
        IN_STEP,
        there.settings[IN_STEP],
        str(there.copies),
        f"it has {there.copies} copies, so every write is refused",
        left="give it more copies, or set fewer with kafka-configs if losing records with a broker is acceptable",
    )


def _creation(wanted: Wanted) -> Step:
    settings = tuple((name, setting.value) for name, setting in wanted.settings.items())
    shape = f"{wanted.partitions} partition{'s' * (wanted.partitions > 1)}"
    if wanted.copies > 1:
        shape += f", {wanted.copies} copies"
    return Step(
        "create",
        wanted.role,
        wanted.name,
        "",
        None,
        shape,
        "it is missing",
        partitions=wanted.partitions,
        copies=wanted.copies,
        settings=settings,
    )


def _partitions(wanted: Wanted, there: Found, *, add_partitions: bool) -> list[Step]:
    if not wanted.grows or there.partitions >= wanted.partitions:
        return []
    action: Action = "add partitions" if add_partitions else "leave alone"
    return [
        Step(
            action,
            wanted.role,
            wanted.name,
            PARTITIONS_WORD,
            str(there.partitions),
            str(wanted.partitions),
            "asked for",
            needed=False,
            left="" if add_partitions else _ORDER,
            partitions=wanted.partitions,
        )
    ]


def _copies(wanted: Wanted, there: Found) -> Step:
    return Step(
        "leave alone",
        wanted.role,
        wanted.name,
        COPIES_WORD,
        str(there.copies),
        str(wanted.copies),
        "what is acknowledged survives the loss of a broker",
        needed=False,
        left="copies are moved by kafka-reassign-partitions, which takes a plan of yours",
    )


def _setting(wanted: Wanted, name: str, setting: Setting, there: Found) -> Step:
    has = there.settings[name]
    left = _too_bold(name, setting.value, has, there)
    return Step(
        "leave alone" if left else "set",
        wanted.role,
        wanted.name,
        name,
        has,
        setting.value,
        setting.why,
        needed=setting.needed,
        left=left,
    )


def _too_bold(name: str, wants: str, has: str, there: Found) -> str:
    """Why a change is left to a person; empty where it is safe."""
    if name in RETENTIONS and amount(wants) < amount(has):
        return "retention is never shortened: records would be deleted"
    if name == "cleanup.policy" and "delete" in wants and "delete" not in has:
        return "old records would be deleted by age at once: set it with kafka-configs if that is meant"
    if name == IN_STEP and int(wants) > there.in_step:
        return f"only {there.in_step} copies are in step now, and every write would be refused: bring the others back"
    return ""
