"""From scores and features to decisions: thresholds for each tier, and rules. Read from `policy.toml`.

    schema_version = 1

    [thresholds.full]            # a score of at least `review` is reviewed, of at least `block` blocked
    review = 0.21
    block = 0.93                 # leave it out and no score blocks
    [thresholds.no_features]
    review = 0.05

    [[rules]]
    id = "large_amount"
    feature = "amount_minor"     # a column of the catalog
    op = ">="                    # >=  >  <=  <  ==
    value = 250000
    action = "review"            # review | block
    reason = "The amount is at least 2,500.00."
    tiers = ["rules_only"]       # left out: every tier

The severest of the score's decision and the rules' actions wins. A feature that is missing fires no rule.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from features.errors import ConfigError

Tier = Literal["full", "no_features", "rules_only"]
TIERS: Final[tuple[Tier, ...]] = ("full", "no_features", "rules_only")
SCORED_TIERS: Final[tuple[Tier, ...]] = ("full", "no_features")
APPROVE, REVIEW, BLOCK = 0, 1, 2
DECISIONS: Final = ("approve", "review", "block")

Values = npt.NDArray[np.float32]
Scores = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Op = Literal[">=", ">", "<=", "<", "=="]

_COMPARE: Final[dict[Op, Callable[[Values, np.float32], Mask]]] = {
    ">=": np.greater_equal,
    ">": np.greater,
    "<=": np.less_equal,
    "<": np.less,
    "==": np.equal,
}
_MAX_RULES: Final = 1_000

Probability = Annotated[float, msgspec.Meta(ge=0, le=1)]


class Thresholds(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The lowest scores that are reviewed and blocked; without `block` no score blocks."""

    review: Probability
    block: Probability | None = None


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`feature op value` asks for `action` in `tiers`. The comparison is made in float32, as features are."""

    id: Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
    feature: str
    op: Op
    value: float
    action: Literal["review", "block"]
    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    tiers: tuple[Tier, ...] = TIERS


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    schema_version: Literal[1]
    thresholds: dict[Literal["full", "no_features"], Thresholds]
    rules: Annotated[tuple[Rule, ...], msgspec.Meta(max_length=_MAX_RULES)] = ()


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What was decided about n payments.

    Attributes:
        decision: (n,) uint8: 0 approve, 1 review, 2 block; see `DECISIONS`.
        fired: for each rule that fired at least once, in the policy's order: its id and (n,) where it did.
    """

    decision: npt.NDArray[np.uint8]
    fired: tuple[tuple[str, Mask], ...]


@dataclass(frozen=True, slots=True)
class _Step:
    """One rule, ready to run."""

    id: str
    column: int
    compare: Callable[[Values, np.float32], Mask]
    value: np.float32
    severity: int


@dataclass(frozen=True, slots=True)
class Policy:
    """Thresholds and rules over the columns `features`.

    Raises:
        ConfigError: a rule or a threshold can't be used; the sentence names its place.
    """

    features: tuple[str, ...]
    thresholds: dict[Literal["full", "no_features"], Thresholds]
    rules: tuple[Rule, ...] = ()
    where: str = field(default="policy.toml", compare=False)
    _steps: dict[Tier, tuple[_Step, ...]] = field(init=False, repr=False, compare=False)
    _bars: dict[Tier, tuple[tuple[np.float32, int], ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        bars = {tier: self._bars_of(tier) for tier in ("full", "no_features")}
        steps = [(rule, self._step(number, rule)) for number, rule in enumerate(self.rules)]
        object.__setattr__(self, "_bars", bars)
        object.__setattr__(
            self, "_steps", {tier: tuple(step for rule, step in steps if tier in rule.tiers) for tier in TIERS}
        )

    def decide(self, scores: Scores | None, values: Values, tier: Tier) -> Verdicts:
        """Decide about n payments.

        Args:
            scores: (n,) float32, finite; None exactly in the tier `rules_only`.
            values: (n, features) float32, NaN where missing, in the order of `features`.
            tier: which thresholds and rules hold.

        Raises:
            ValueError: the arguments don't fit together; a bug of the caller.
        """
        if (scores is None) != (tier == "rules_only"):
            raise ValueError(f"the tier {tier} {'needs' if scores is None else 'has no'} scores")
        if values.ndim != 2 or values.shape[1] != len(self.features):
            raise ValueError(f"values have the shape {values.shape}; {len(self.features)} columns are needed")
        decision = np.zeros(len(values), np.uint8)
        if scores is not None:
            if scores.shape != decision.shape or not np.isfinite(scores).all():
                raise ValueError("there must be one finite score for each payment")
            for bar, severity in self._bars[tier]:
                decision[scores >= bar] = severity
        fired = []
        for step in self._steps[tier]:
            mask = step.compare(values[:, step.column], step.value)
            if mask.any():
                fired.append((step.id, mask))
                np.maximum(decision, step.severity, out=decision, where=mask)
        return Verdicts(decision, tuple(fired))

    def rule(self, rule_id: str) -> Rule:
        """The rule of that id; KeyError when there is none."""
        for rule in self.rules:
            if rule.id == rule_id:
                return rule
        raise KeyError(rule_id)

    @property
    def digest(self) -> str:
        """SHA-256 over what the policy means: layout and comments of the file don't count."""
        plain = msgspec.to_builtins([dict(sorted(self.thresholds.items())), self.rules])
        return hashlib.sha256(msgspec.json.encode(plain)).hexdigest()

    def to_toml(self) -> str:
        """The text of a `policy.toml` that `parse` reads back as this policy."""
        lines = ["schema_version = 1"]
        for tier, bar in sorted(self.thresholds.items()):
            lines += ["", f"[thresholds.{tier}]", f"review = {_toml(bar.review)}"]
            if bar.block is not None:
                lines.append(f"block = {_toml(bar.block)}")
        for rule in self.rules:
            lines += ["", "[[rules]]"]
            lines += [f"{name} = {_toml(value)}" for name, value in msgspec.to_builtins(rule).items()]
        return "\n".join(lines) + "\n"

    def _bars_of(self, tier: Literal["full", "no_features"]) -> tuple[tuple[np.float32, int], ...]:
        bar = self.thresholds.get(tier)
        if bar is None:
            raise ConfigError(f"{self.where} has no [thresholds.{tier}]; add it with a `review` score.")
        if bar.block is None:
            return ((np.float32(bar.review), REVIEW),)
        if bar.block < bar.review:
            raise ConfigError(f"In {self.where}, thresholds.{tier}.block is below review; raise it or leave it out.")
        return (np.float32(bar.review), REVIEW), (np.float32(bar.block), BLOCK)

    def _step(self, number: int, rule: Rule) -> _Step:
        place = f"In {self.where}, rules[{number}]"
        if any(rule.id == other.id for other in self.rules[:number]):
            raise ConfigError(f"{place}.id is used twice; give each rule its own id.")
        if rule.feature not in self.features:
            raise ConfigError(f"{place}.feature is no feature of the catalog; features/catalog.py lists them.")
        with np.errstate(over="ignore"):
            value = np.float32(rule.value)
        if not np.isfinite(value):
            raise ConfigError(f"{place}.value is not a finite number of float32's range; give one that is.")
        if not rule.tiers:
            raise ConfigError(f"{place}.tiers is empty; name a tier or leave it out for all of them.")
        severity = DECISIONS.index(rule.action)
        return _Step(rule.id, self.features.index(rule.feature), _COMPARE[rule.op], value, severity)


def parse(text: str, features: Sequence[str], *, where: str = "policy.toml") -> Policy:
    """Read a `policy.toml`.

    Args:
        text: its content.
        features: the columns that rules may name, in order.
        where: what errors call the file.

    Raises:
        ConfigError: it is not TOML, or has an unknown key, operator or feature; the sentence names the place.
    """
    try:
        document = msgspec.convert(tomllib.loads(text), _Document)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where} is not TOML ({error}); mend it there.") from error
    except (msgspec.ValidationError, RecursionError) as error:
        raise ConfigError(f"{where} can't be used: {error}; mend it there.") from error
    return Policy(tuple(features), document.thresholds, document.rules, where)


def _toml(value: Any) -> str:
    """A scalar or a list of strings as TOML; JSON's escapes are TOML's, but for DEL."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
