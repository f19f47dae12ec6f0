"""From scores and features to decisions: thresholds for each tier, rules and lists. Read from `policy.toml`.

    schema_version = 2

    [thresholds.full]            # a score of at least `review` is reviewed, of at least `block` blocked
    review = 0.21
    block = 0.93                 # leave it out and no score blocks
    [[thresholds.full.segments]] # the first segment that a payment belongs to has its own
    name = "online"
    when = "channel = 'ecom'"
    review = 0.15
    [thresholds.small]           # only where the bundle has a small model
    review = 0.2
    [thresholds.no_features]
    review = 0.05

    [[rules]]
    id = "large_abroad"
    when = "amount_minor >= 250000 and country <> card_country"
    action = "review"            # review | block | approve | tag
    reason = "The amount is at least 2,500.00, abroad."
    priority = 0                 # left out: 0
    shadow = false               # true: it is counted and told, and decides nothing
    from = 2026-01-01T00:00:00Z  # left out: always; judged by the payment's own time
    until = 2027-01-01T00:00:00Z # exclusive
    tiers = ["full"]             # left out: every tier

The severest of the score's decision and the actions of priority 0 wins. Where rules of a higher priority fire, the
highest of them decides, and what is below does not count: so an `approve` needs a priority of at least 1. A `tag` only
leaves the rule's id on the decision. See `models.expressions` for what `when` may say: what is missing fires nothing.

Lists (see `models.lists`) act as rules do: `[lists.deny]`, `[lists.allow]` and `[lists.watch]` each have an `action`
and a `priority`; left out, deny blocks (900), allow approves (800) and watch reviews (0).

    [limiter]                    # what is beyond it is reviewed instead of blocked, and counted
    max_block_share = 0.02       # of the payments of the last minute
    max_blocks_per_minute = 60

    [alert_rate]                 # moves thresholds.full.review so that about so many payments alert
    per_hour = 40
    lowest = 0.05
    highest = 0.6
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
import numpy as np
import numpy.typing as npt
import tomli_w

from features.errors import ConfigError
from models.expressions import Expression, compiled
from models.facts import FIELDS, Facts, Fields
from models.lists import LISTS, Listed, ListName

Tier = Literal["full", "small", "no_features", "rules_only"]
ScoredTier = Literal["full", "small", "no_features"]
Action = Literal["review", "block", "approve", "tag"]
TIERS: Final[tuple[Tier, ...]] = ("full", "small", "no_features", "rules_only")
NEEDED_TIERS: Final[tuple[ScoredTier, ...]] = ("full", "no_features")  # the small model is not in every bundle
APPROVE, REVIEW, BLOCK = 0, 1, 2
DECISIONS: Final = ("approve", "review", "block")

Values = npt.NDArray[np.float32]
Scores = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Times = npt.NDArray[np.int64]

_MAX_RULES: Final = 1_000
HIGHEST_PRIORITY: Final = 1_000

Probability = Annotated[float, msgspec.Meta(ge=0, le=1)]
Id = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
Priority = Annotated[int, msgspec.Meta(ge=0, le=HIGHEST_PRIORITY)]
Moment = Annotated[datetime, msgspec.Meta(tz=True)]


class Segment(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The thresholds of the payments for which `when` is true."""

    name: Id
    when: str
    review: Probability
    block: Probability | None = None


class Thresholds(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The lowest scores that are reviewed and blocked; without `block` no score blocks."""

    review: Probability
    block: Probability | None = None
    segments: tuple[Segment, ...] = ()


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, rename={"since": "from"}):
    """Where `when` is true, `action` is asked for in `tiers`, from `since` until before `until`, by event time."""

    id: Id
    when: str
    action: Action
    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    priority: Priority = 0
    shadow: bool = False
    since: Moment | None = None
    until: Moment | None = None
    tiers: tuple[Tier, ...] = TIERS


class ListRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is done with a payment that a list names."""

    action: Action
    priority: Priority


class LimiterOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How much may be blocked; see `models.limiter`."""

    max_block_share: Probability | None = None
    max_blocks_per_minute: Annotated[int, msgspec.Meta(ge=0)] | None = None


class AlertRate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many payments shall alert, and between which bounds the threshold may move; see `models.alert_rate`."""

    per_hour: Annotated[float, msgspec.Meta(gt=0)]
    lowest: Probability
    highest: Probability


LIST_RULES: Final[dict[ListName, ListRule]] = {
    "deny": ListRule("block", 900),
    "allow": ListRule("approve", 800),
    "watch": ListRule("review", 0),
}


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    schema_version: int
    thresholds: dict[ScoredTier, Thresholds]
    lists: dict[ListName, ListRule] = {}
    limiter: LimiterOptions | None = None
    alert_rate: AlertRate | None = None
    rules: Annotated[tuple[Rule, ...], msgspec.Meta(max_length=_MAX_RULES)] = ()


SCHEMA_VERSION: Final = 2


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What was decided about n payments.

    Attributes:
        decision: (n,) uint8: 0 approve, 1 review, 2 block; see `DECISIONS`.
        fired: for each rule and list that fired at least once, in the policy's order: its id and (n,) where it did.
        shadow: likewise for rules that decide nothing yet.
        review: (n,) float32, the threshold that held; None without a score.
        block: likewise; NaN where no score blocks.
    """

    decision: npt.NDArray[np.uint8]
    fired: tuple[tuple[str, Mask], ...]
    shadow: tuple[tuple[str, Mask], ...] = ()
    review: Scores | None = None
    block: Scores | None = None


@dataclass(frozen=True, slots=True)
class _Step:
    """One rule or list, ready to run. `severity` is None for a tag; times are ms."""

    place: int
    id: str
    test: Callable[[Facts], Mask] | None
    listed: ListName | None
    priority: int
    severity: int | None
    shadow: bool = False
    since_ms: int | None = None
    until_ms: int | None = None


@dataclass(frozen=True, slots=True)
class _Bar:
    test: Callable[[Facts], Mask] | None
    review: np.float32
    block: np.float32


@dataclass(frozen=True, slots=True)
class Policy:
    """Thresholds, rules and lists over a payment's fields and the columns `features` (by name: whether it is a flag).

    Raises:
        ConfigError: a rule or a threshold can't be used; the sentence names its place.
    """

    features: Mapping[str, bool]
    thresholds: Mapping[ScoredTier, Thresholds]
    rules: tuple[Rule, ...] = ()
    lists: Mapping[ListName, ListRule] = field(default_factory=dict)
    limiter: LimiterOptions | None = None
    alert_rate: AlertRate | None = None
    where: str = field(default="policy.toml", compare=False)
    fields: frozenset[str] = field(init=False, repr=False, compare=False)
    _levels: dict[Tier, tuple[tuple[int, tuple[_Step, ...]], ...]] = field(init=False, repr=False, compare=False)
    _bars: dict[Tier, tuple[_Bar, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        names: set[str] = set()
        for needed in NEEDED_TIERS:
            if needed not in self.thresholds:
                raise ConfigError(f"{self.where} has no [thresholds.{needed}]; add it with a `review` score.")
        bars = {tier: self._bars_of(tier, held, names) for tier, held in self.thresholds.items()}
        steps = [self._list_step(place, name) for place, name in enumerate(LISTS)]
        of_tier: dict[Tier, list[_Step]] = {tier: list(steps) for tier in TIERS}
        for number, rule in enumerate(self.rules):
            step = self._rule_step(number, rule, names)
            for tier in rule.tiers:
                of_tier[tier].append(step)
        self._check_alert_rate()
        object.__setattr__(self, "fields", frozenset(names & FIELDS.keys()))
        object.__setattr__(self, "_bars", bars)
        object.__setattr__(self, "_levels", {tier: _by_priority(some) for tier, some in of_tier.items()})

    def decide(
        self,
        scores: Scores | None,
        values: Values,
        tier: Tier,
        *,
        fields: Fields,
        event_time: Times,
        lists: Listed | None = None,
        review: float | None = None,
        bars: tuple[Scores, Scores] | None = None,
    ) -> Verdicts:
        """Decide about n payments.

        Args:
            scores: (n,) float32, finite; None exactly in the tier `rules_only`.
            values: (n, features) float32, NaN where missing, in the order of `features`.
            tier: which thresholds and rules hold.
            fields: the payments' fields.
            event_time: (n,) ms, by which rules and list entries hold.
            lists: what the lists say.
            review: in place of `thresholds.full.review`, outside of segments.
            bars: (n,) and (n,) in place of all thresholds, the latter NaN where no score blocks.

        Raises:
            ValueError: the arguments don't fit together; a bug of the caller.
        """
        if (scores is None) != (tier == "rules_only"):
            raise ValueError(f"the tier {tier} {'needs' if scores is None else 'has no'} scores")
        if values.ndim != 2 or values.shape[1] != len(self.features):
            raise ValueError(f"values have the shape {values.shape}; {len(self.features)} columns are needed")
        facts = Facts(values, scores, fields)
        decision = np.zeros(len(values), np.uint8)
        reviews: Scores | None = None
        blocks: Scores | None = None
        if scores is not None:
            if scores.shape != decision.shape or not np.isfinite(scores).all():
                raise ValueError("there must be one finite score for each payment")
            reviews, blocks = self._bars_for(facts, tier, review) if bars is None else bars
            decision += (scores >= reviews).view(np.uint8)
            np.copyto(decision, BLOCK, where=scores >= blocks)  # never where it is NaN
        told: list[tuple[_Step, Mask]] = []
        for priority, steps in self._levels[tier]:
            decision = _level(priority, steps, facts, event_time, lists, decision, told)
        told.sort(key=lambda each: each[0].place)
        return Verdicts(
            decision,
            tuple((step.id, mask) for step, mask in told if not step.shadow),
            tuple((step.id, mask) for step, mask in told if step.shadow),
            reviews,
            blocks,
        )

    @property
    def order(self) -> tuple[str, ...]:
        """The ids of lists and rules, in the order in which they are told."""
        return (*(f"list_{name}" for name in LISTS), *(rule.id for rule in self.rules))

    @property
    def digest(self) -> str:
        """SHA-256 over what the policy means: layout and comments of the file don't count."""
        return hashlib.sha256(msgspec.json.encode(self._document(), order="sorted")).hexdigest()

    def to_toml(self) -> str:
        """The text of a `policy.toml` that `parse` reads back as this policy."""
        plain = msgspec.to_builtins(self._document(), builtin_types=(datetime,))
        return tomli_w.dumps(_without_nothing(plain))

    def _document(self) -> _Document:
        return _Document(
            SCHEMA_VERSION,
            dict(sorted(self.thresholds.items())),
            dict(sorted(self.lists.items())),
            self.limiter,
            self.alert_rate,
            self.rules,
        )

    def _bars_for(self, facts: Facts, tier: Tier, review: float | None) -> tuple[Scores, Scores]:
        default, *segments = self._bars[tier]
        n = len(facts.values)
        moved = default.review if review is None or tier != "full" else np.float32(review)
        reviews, blocks = np.full(n, moved, np.float32), np.full(n, default.block, np.float32)
        for segment in reversed(segments):  # so that the first one has the last word
            mask = segment.test(facts) if segment.test else np.ones(n, np.bool_)
            reviews[mask], blocks[mask] = segment.review, segment.block
        return reviews, blocks

    def _bars_of(self, tier: ScoredTier, held: Thresholds, names: set[str]) -> tuple[_Bar, ...]:
        found = [self._bar(f"thresholds.{tier}", None, held.review, held.block)]
        for number, segment in enumerate(held.segments):
            place = f"thresholds.{tier}.segments[{number}]"
            when = self._compiled(f"{place}.when", segment.when, names)
            found.append(self._bar(place, when, segment.review, segment.block))
        return tuple(found)

    def _bar(self, place: str, when: Expression | None, review: float, block: float | None) -> _Bar:
        if block is not None and block < review:
            raise ConfigError(f"In {self.where}, {place}.block is below review; raise it or leave it out.")
        return _Bar(
            None if when is None else when.test, np.float32(review), np.float32(np.nan if block is None else block)
        )

    def _list_step(self, place: int, name: ListName) -> _Step:
        rule = self.lists.get(name, LIST_RULES[name])
        self._check_action(f"lists.{name}", rule.action, rule.priority)
        return _Step(place, f"list_{name}", None, name, rule.priority, _severity(rule.action))

    def _rule_step(self, number: int, rule: Rule, names: set[str]) -> _Step:
        place = f"rules[{number}]"
        if any(rule.id == other.id for other in self.rules[:number]):
            raise ConfigError(f"In {self.where}, {place}.id is used twice; give each rule its own id.")
        if rule.id.startswith("list_"):
            raise ConfigError(f"In {self.where}, {place}.id begins with list_, as those of lists do; rename it.")
        if not rule.tiers:
            raise ConfigError(f"In {self.where}, {place}.tiers is empty; name a tier or leave it out for all of them.")
        if rule.since is not None and rule.until is not None and rule.since >= rule.until:
            raise ConfigError(f"In {self.where}, {place} is over before it begins; make `from` earlier than `until`.")
        self._check_action(place, rule.action, rule.priority)
        return _Step(
            len(LISTS) + number,
            rule.id,
            self._compiled(f"{place}.when", rule.when, names).test,
            None,
            rule.priority,
            _severity(rule.action),
            rule.shadow,
            _ms(rule.since),
            _ms(rule.until),
        )

    def _compiled(self, place: str, text: str, names: set[str]) -> Expression:
        found = compiled(text, self.features, where=f"In {self.where}, {place}")
        names |= found.names
        return found

    def _check_action(self, place: str, action: Action, priority: int) -> None:
        if action == "approve" and priority == 0:
            raise ConfigError(
                f"In {self.where}, {place} approves at priority 0, where the severest action wins; give it a priority "
                "of at least 1."
            )

    def _check_alert_rate(self) -> None:
        rate, block = self.alert_rate, self.thresholds["full"].block
        if rate is None:
            return
        if rate.lowest > rate.highest:
            raise ConfigError(f"In {self.where}, alert_rate.lowest is above highest; exchange them.")
        if block is not None and rate.highest > block:
            raise ConfigError(f"In {self.where}, alert_rate.highest is above thresholds.full.block; lower it.")


def merged(parts: Sequence[tuple[npt.NDArray[np.intp], Verdicts]], n: int, order: Sequence[str]) -> Verdicts:
    """The verdicts on n payments, of which each part was decided by itself: the rows of a part, and its verdicts.

    `order` is that of the policy's rules and lists.
    """
    decision = np.zeros(n, np.uint8)
    review, block = np.full(n, np.nan, np.float32), np.full(n, np.nan, np.float32)
    told: tuple[dict[str, Mask], dict[str, Mask]] = ({}, {})
    for rows, verdicts in parts:
        decision[rows] = verdicts.decision
        if verdicts.review is not None and verdicts.block is not None:
            review[rows], block[rows] = verdicts.review, verdicts.block
        for masks, fired in zip(told, (verdicts.fired, verdicts.shadow), strict=True):
            for rule, mask in fired:
                masks.setdefault(rule, np.zeros(n, np.bool_))[rows] = mask
    fired, shadow = (tuple((rule, masks[rule]) for rule in order if rule in masks) for masks in told)
    return Verdicts(decision, fired, shadow, review, block)


def read_text(path: Path) -> str:
    """The text of a policy's file, as it is. Raises ConfigError."""
    try:
        return path.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8"
        raise ConfigError(f"{path} can't be read ({why}); give a policy.toml or a bundle.") from None


def parse(text: str, features: Mapping[str, bool], *, where: str = "policy.toml") -> Policy:
    """Read a `policy.toml`.

    Args:
        text: its content.
        features: the columns that rules may name, in order; for each whether it is a flag.
        where: what errors call the file.

    Raises:
        ConfigError: it is not TOML, or has an unknown key or an expression that can't be used; the sentence names the
            place.
    """
    try:
        plain = tomllib.loads(text)
        if plain.get("schema_version") != SCHEMA_VERSION:
            raise ConfigError(
                f"{where} has not schema_version = {SCHEMA_VERSION}, which this Fraudline reads; write it anew: rules "
                "have a `when` now."
            )
        document = msgspec.convert(plain, _Document)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where} is not TOML ({error}); mend it there.") from error
    except (msgspec.ValidationError, RecursionError) as error:
        raise ConfigError(f"{where} can't be used: {error}; mend it there.") from error
    return Policy(
        features,
        document.thresholds,
        document.rules,
        document.lists,
        document.limiter,
        document.alert_rate,
        where,
    )


def _by_priority(steps: Sequence[_Step]) -> tuple[tuple[int, tuple[_Step, ...]], ...]:
    ordered = sorted(steps, key=lambda step: step.priority)
    return tuple((level, tuple(some)) for level, some in groupby(ordered, key=lambda step: step.priority))


def _level(
    priority: int,
    steps: tuple[_Step, ...],
    facts: Facts,
    event_time: Times,
    lists: Listed | None,
    decision: npt.NDArray[np.uint8],
    told: list[tuple[_Step, Mask]],
) -> npt.NDArray[np.uint8]:
    """The decisions, once the rules of one priority were asked; what fired is added to `told`."""
    severity, any_fired = np.zeros(len(decision), np.uint8), np.zeros(len(decision), np.bool_)
    for step in steps:
        mask = _fires(step, facts, event_time, lists)
        if mask is None:
            continue
        told.append((step, mask))
        if step.shadow or step.severity is None:
            continue
        any_fired |= mask
        np.maximum(severity, step.severity, out=severity, where=mask)
    if priority == 0:
        return np.maximum(decision, severity)
    return np.where(any_fired, severity, decision)


def _fires(step: _Step, facts: Facts, event_time: Times, lists: Listed | None) -> Mask | None:
    """Where a step fires; None for nowhere."""
    if step.listed is not None:
        return None if lists is None else lists.named(step.listed, facts, event_time)
    assert step.test is not None  # noqa: S101  a step without a list has one
    mask = step.test(facts)
    if step.since_ms is not None:
        mask = mask & (event_time >= step.since_ms)
    if step.until_ms is not None:
        mask = mask & (event_time < step.until_ms)
    return mask if np.count_nonzero(mask) else None  # a tenth of what `any` costs for a batch


def _severity(action: Action) -> int | None:
    return None if action == "tag" else DECISIONS.index(action)


def _ms(moment: datetime | None) -> int | None:
    return None if moment is None else round(moment.timestamp() * 1000)


def _without_nothing(plain: Any) -> Any:
    """TOML has no null."""
    if isinstance(plain, dict):
        return {name: _without_nothing(value) for name, value in plain.items() if value is not None}
    return [_without_nothing(each) for each in plain] if isinstance(plain, list | tuple) else plain
