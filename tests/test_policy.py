from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.catalog import DEFAULT, HANDBOOK
from features.errors import ConfigError
from models.facts import FIELDS, Fields
from models.lists import ListEntry, Lists
from models.policy import (
    DECISIONS,
    LIST_RULES,
    TIERS,
    ListRule,
    Policy,
    Rule,
    Segment,
    Thresholds,
    Tier,
    merged,
    parse,
)
from models.starter_rules import starter_rules
from tests.support.bundles import rows

NAMES = {"amount_minor": False, "card_count_1h": False, "hour": False}
BARS = {"full": Thresholds(0.5, 0.9), "no_features": Thresholds(0.2)}
NOON_MS = 1_767_268_800_000
CARDS = ("c1", "c2", "c3")

probabilities = st.floats(0, 1, width=32)
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)
conditions = st.sampled_from(["hour >= 3", "card_count_1h < 2", "card_id = 'c1'", "score > 0.5", "amount_minor > 1"])
moments = st.integers(-2, 2).map(lambda hours: datetime.fromtimestamp(NOON_MS / 1000 + 3600 * hours, UTC))


@dataclass(frozen=True, slots=True)
class Paid:
    """One payment, as the policy sees it."""

    card_id: str
    amount_minor: int
    event_time: int
    values: tuple[float, ...]


payments = st.builds(
    Paid,
    st.sampled_from(CARDS),
    st.integers(0, 3),
    st.integers(-3, 3).map(lambda hours: NOON_MS + 3_600_000 * hours),
    st.tuples(*[st.sampled_from([float("nan"), 0.0, 1.0, 2.0, 5.0])] * len(NAMES)),
)
entries = st.builds(
    ListEntry,
    list=st.sampled_from(["deny", "allow", "watch"]),
    kind=st.just("card"),
    value=st.sampled_from(CARDS),
    expires_at=st.sampled_from([None, NOON_MS, NOON_MS + 3_600_000]),
)


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    def bar(kind: Any, **more: Any) -> Any:
        review, block = sorted((draw(probabilities), draw(probabilities)))
        return kind(review=review, block=draw(st.sampled_from([block, None])), **more)

    rules = []
    for number in range(draw(st.integers(0, 5))):
        action = draw(st.sampled_from(["review", "block", "approve", "tag"]))
        since, until = sorted([draw(moments), draw(moments)])
        rules.append(
            Rule(
                id=f"rule_{number}",
                when=draw(conditions),
                action=action,
                reason=draw(texts),
                priority=draw(st.sampled_from([1, 2, 900] if action == "approve" else [0, 0, 1, 2])),
                shadow=draw(st.booleans()),
                since=draw(st.sampled_from([None, since])) if since < until else None,
                until=draw(st.sampled_from([None, until])),
                tiers=tuple(draw(st.lists(st.sampled_from(TIERS), min_size=1, max_size=3, unique=True))),
            )
        )
    segments = tuple(
        bar(Segment, name=f"segment_{number}", when=draw(conditions)) for number in range(draw(st.integers(0, 2)))
    )
    bars: Any = {name: bar(Thresholds) for name in ("small", "no_features")} | {
        "full": bar(Thresholds, segments=segments)
    }
    lists: Any = {"watch": ListRule("review", 3)} if draw(st.booleans()) else {}
    return Policy(NAMES, bars, tuple(rules), lists)


def fields(some: list[Paid]) -> Fields:
    def field(name: str) -> Any:
        found = [getattr(each, name, None) for each in some]
        return np.array(found, np.int64) if FIELDS[name] == "number" else found

    return field


def decide(policy: Policy, scores: Any, some: list[Paid], tier: Tier, lists: Lists | None = None, **more: Any) -> Any:
    values = np.array([each.values for each in some], np.float32).reshape(len(some), len(NAMES))
    times = np.array([each.event_time for each in some], np.int64)
    return policy.decide(scores, values, tier, fields=fields(some), event_time=times, lists=lists, **more)


def holds(when: str, score: float | None, paid: Paid) -> bool:
    """A condition of `conditions`; what is missing holds nothing."""
    name, op, text = re.fullmatch(r"(\w+) (\S+) (.+)", when).groups()  # type: ignore[union-attr]
    value = {"score": score, "card_id": paid.card_id, "amount_minor": paid.amount_minor}.get(name)
    if name not in ("score", "card_id", "amount_minor"):
        value = paid.values[list(NAMES).index(name)]
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return False
    if name == "card_id":
        return bool(value == text.strip("'"))
    bar = float(text)
    return {">=": value >= bar, "<": value < bar, ">": value > bar}[op]  # type: ignore[operator]


def naive(
    policy: Policy, score: float | None, paid: Paid, tier: Tier, listed: list[ListEntry]
) -> tuple[int, list[str], list[str]]:
    """One payment at a time, as the documents say it."""
    severity = 0
    if score is not None and tier != "rules_only":
        bar = policy.thresholds[tier]
        matching = [segment for segment in bar.segments if holds(segment.when, score, paid)]
        held = matching[0] if matching else bar
        severity = 1 if score >= np.float32(held.review) else 0
        severity = 2 if held.block is not None and score >= np.float32(held.block) else severity
    asked: dict[int, list[int]] = {0: [severity]}
    fired, shadow = [], []
    for name in ("deny", "allow", "watch"):
        hits = [
            each
            for each in listed
            if (each.list, each.value) == (name, paid.card_id)
            and (each.expires_at is None or paid.event_time < each.expires_at)
        ]
        if hits:
            rule = policy.lists.get(name, LIST_RULES[name])  # type: ignore[call-overload, index]  # its three names
            fired.append(f"list_{name}")
            asked.setdefault(rule.priority, []).append(DECISIONS.index(rule.action))
    for rule in policy.rules:
        now = datetime.fromtimestamp(paid.event_time / 1000, UTC)
        over = (rule.since is not None and now < rule.since) or (rule.until is not None and now >= rule.until)
        if tier not in rule.tiers or over or not holds(rule.when, score, paid):
            continue
        (shadow if rule.shadow else fired).append(rule.id)
        if not rule.shadow and rule.action != "tag":
            asked.setdefault(rule.priority, []).append(DECISIONS.index(rule.action))
    return max(asked[max(asked)]), fired, shadow


@given(policies(), st.lists(payments, max_size=8), st.sampled_from(TIERS), st.lists(entries, max_size=4), st.data())
def test_decisions_equal_the_naive_ones(
    policy: Policy, some: list[Paid], tier: Tier, listed: list[ListEntry], data: st.DataObject
) -> None:
    scores = None
    if tier != "rules_only":
        bars = [bar for each in policy.thresholds.values() for bar in (each, *each.segments)]
        edges = [edge for bar in bars for edge in (bar.review, bar.block) if edge is not None]
        chosen = data.draw(st.lists(probabilities | st.sampled_from(edges), min_size=len(some), max_size=len(some)))
        scores = np.array(chosen, np.float32)
    listed = list({each.key: each for each in listed}.values())
    verdicts = decide(policy, scores, some, tier, Lists(listed, 1))
    assert verdicts.decision.dtype == np.uint8
    for row, paid in enumerate(some):
        score = None if scores is None else float(scores[row])
        told = [[rule for rule, mask in group if mask[row]] for group in (verdicts.fired, verdicts.shadow)]
        assert (int(verdicts.decision[row]), *told) == naive(policy, score, paid, tier, listed)
    assert all(mask.any() for _, mask in (*verdicts.fired, *verdicts.shadow))


@given(policies(), st.lists(payments, max_size=8), st.data())
def test_a_batch_of_two_tiers_is_decided_as_if_each_were_alone(
    policy: Policy, some: list[Paid], data: st.DataObject
) -> None:
    size = {"min_size": len(some), "max_size": len(some)}
    scores = np.array(data.draw(st.lists(probabilities, **size)), np.float32)
    small = np.array(data.draw(st.lists(st.booleans(), **size)), np.bool_)
    parts = []
    for here, tier in ((np.flatnonzero(~small), "full"), (np.flatnonzero(small), "small")):
        parts.append((here, decide(policy, scores[here], [some[row] for row in here], tier)))  # type: ignore[arg-type]
    whole = merged(parts, len(some), policy.order)
    for told in (whole.fired, whole.shadow):
        assert [rule for rule, _ in told] == [rule for rule in policy.order if rule in dict(told)]
    for row, paid in enumerate(some):
        alone = decide(policy, scores[row : row + 1], [paid], "small" if small[row] else "full")
        assert whole.decision[row] == alone.decision[0]
        assert whole.review is not None
        assert whole.review[row] == alone.review[0]
        for told, own in ((whole.fired, alone.fired), (whole.shadow, alone.shadow)):
            assert {rule for rule, mask in told if mask[row]} == {rule for rule, mask in own if mask[0]}


@given(policies())
def test_a_written_policy_is_read_back_as_the_same(policy: Policy) -> None:
    again = parse(policy.to_toml(), NAMES)
    assert again == policy
    assert again.digest == policy.digest
    assert again.to_toml() == policy.to_toml()


def test_the_digest_is_of_the_meaning_not_of_the_layout() -> None:
    policy = Policy(NAMES, dict(reversed(BARS.items())))  # type: ignore[arg-type]  # items() loses the literal keys
    text = "# a comment\n" + policy.to_toml().replace("0.5", "0.50")
    assert parse(text, NAMES).digest == policy.digest == Policy(NAMES, BARS).digest  # type: ignore[arg-type]
    assert parse(text.replace("0.50", "0.51"), NAMES).digest != policy.digest


def test_tiers_left_out_mean_all() -> None:
    text = policy_text('id = "r"\nwhen = "hour < 6"\naction = "block"\nreason = "It is night."')
    policy = parse(text, NAMES)
    some = [Paid("c1", 1, NOON_MS, (1, 1, hour)) for hour in (3, 7, float("nan"))]
    assert decide(policy, None, some, "rules_only").decision.tolist() == [2, 0, 0]
    assert decide(policy, np.zeros(3, np.float32), some, "full").decision.tolist() == [2, 0, 0]


def test_a_moved_threshold_holds_outside_of_segments_and_is_told() -> None:
    segment = Segment("other_card", "card_id = 'c2'", review=0.3)
    policy = Policy(NAMES, {"full": Thresholds(0.5, 0.9, (segment,)), "no_features": Thresholds(0.2)})
    some = [Paid(card, 1, NOON_MS, (1, 1, 1)) for card in ("c1", "c2", "c1")]
    scores = np.array([0.4, 0.4, 0.95], np.float32)
    before, after = (decide(policy, scores, some, "full", review=moved) for moved in (None, 0.35))
    assert before.decision.tolist() == [0, 1, 2]
    assert after.decision.tolist() == [1, 1, 2]
    assert after.review.tolist() == pytest.approx([0.35, 0.3, 0.35])
    assert np.isnan(after.block).tolist() == [False, True, False]


def test_the_policy_tells_which_fields_it_looks_at() -> None:
    policy = parse(policy_text(GOOD_RULE.replace("hour < 6", "hour < 6 and country <> card_country")), NAMES)
    assert policy.fields == {"country", "card_country"}


def policy_text(
    rule: str = "", thresholds: str = "[thresholds.full]\nreview = 0.5\n[thresholds.no_features]\nreview = 0.5"
) -> str:
    return f"schema_version = 2\n{thresholds}\n" + (f"[[rules]]\n{rule}\n" if rule else "")


GOOD_RULE = 'id = "r"\nwhen = "hour < 6"\naction = "block"\nreason = "It is night."\n'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("this is = = not toml", "is not TOML"),
        ("", "schema_version"),
        (policy_text().replace("2", "1", 1), "schema_version"),
        (policy_text() + "[surprise]\n", "surprise"),
        (policy_text(thresholds="[thresholds.full]\nreview = 0.5"), "thresholds.no_features"),
        (policy_text(thresholds="[thresholds.fool]\nreview = 0.5"), "thresholds"),
        (policy_text().replace("0.5", "1.5"), "review"),
        (policy_text().replace("0.5", "nan"), "review"),
        (policy_text().replace("0.5", '"high"'), "review"),
        (policy_text().replace("review = 0.5", "review = 0.5\nblock = 0.4", 1), "thresholds.full.block is below"),
        (policy_text(GOOD_RULE + "colour = 1"), "colour"),
        (policy_text(GOOD_RULE.replace("hour", "shoe_size")), "rules[0].when at line 1, column 1: `shoe_size` is no"),
        (policy_text(GOOD_RULE.replace("< 6", "like 6")), "rules[0].when"),
        (policy_text(GOOD_RULE.replace('"block"', '"stop"')), "rules[0].action"),
        (policy_text(GOOD_RULE.replace('"block"', '"approve"')), "rules[0] approves at priority 0"),
        (policy_text(GOOD_RULE + "priority = -1"), "rules[0].priority"),
        (policy_text(GOOD_RULE + "priority = 1001"), "rules[0].priority"),
        (policy_text(GOOD_RULE + "from = 2026-01-01"), "rules[0].from"),
        (policy_text(GOOD_RULE + "from = 2026-01-01T00:00:00"), "rules[0].from"),
        (policy_text(GOOD_RULE + "from = 2026-01-02T00:00:00Z\nuntil = 2026-01-02T00:00:00Z"), "over before it begins"),
        (policy_text(GOOD_RULE.replace('"r"', '"list_deny"')), "begins with list_"),
        (policy_text() + '[lists.grey]\naction = "block"\npriority = 1\n', "lists"),
        (policy_text() + '[lists.allow]\naction = "approve"\npriority = 0\n', "lists.allow approves at priority 0"),
        (policy_text() + "[limiter]\nmax_block_share = 2\n", "limiter.max_block_share"),
        (policy_text() + "[alert_rate]\nper_hour = 5\nlowest = 0.5\nhighest = 0.4\n", "alert_rate.lowest is above"),
        (
            policy_text().replace("0.5", "0.5\nblock = 0.6", 1)
            + "[alert_rate]\nper_hour = 5\nlowest = 0.1\nhighest = 0.7\n",
            "alert_rate.highest is above thresholds.full.block",
        ),
        (
            policy_text(
                thresholds='[thresholds.full]\nreview = 0.5\n[[thresholds.full.segments]]\nname = "x"\n'
                'when = "size > 1"\nreview = 0.5\n[thresholds.no_features]\nreview = 0.5'
            ),
            "thresholds.full.segments[0].when",
        ),
        (policy_text(GOOD_RULE.replace('"r"', '"R r"')), "rules[0].id"),
        (policy_text(GOOD_RULE.replace('"It is night."', '""')), "rules[0].reason"),
        (policy_text(GOOD_RULE + "tiers = []"), "rules[0].tiers"),
        (policy_text(GOOD_RULE + 'tiers = ["best"]'), "rules[0].tiers"),
        (policy_text(GOOD_RULE + f"[[rules]]\n{GOOD_RULE}"), "rules[1].id is used twice"),
    ],
)
def test_a_bad_policy_is_refused_with_its_place(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, NAMES)
    message = str(caught.value)
    assert says in message
    assert message.endswith(".")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("scores", "tier"),
    [(None, "full"), (np.zeros(2, np.float32), "rules_only"), (np.array([0.5, np.nan]), "full"), (np.zeros(3), "full")],
)
def test_scores_that_do_not_fit_are_a_bug_of_the_caller(scores: np.ndarray | None, tier: Tier) -> None:
    with pytest.raises(ValueError, match="score"):
        decide(Policy(NAMES, BARS), scores, [Paid("c1", 1, NOON_MS, (1, 1, 1))] * 2, tier)  # type: ignore[arg-type]


def test_values_of_another_width_are_a_bug_of_the_caller() -> None:
    with pytest.raises(ValueError, match="3 columns"):
        Policy(NAMES, BARS).decide(  # type: ignore[arg-type]
            None, np.zeros((2, 4), np.float32), "rules_only", fields=fields([]), event_time=np.zeros(2, np.int64)
        )


def decide_rows(policy: Policy, scores: Any, values: Any, tier: Tier) -> Any:
    """Of payments whose fields no rule looks at, but for the amount, which is a feature too."""
    amounts = np.nan_to_num(values[:, list(policy.features).index("amount_minor")], nan=0).astype(np.int64)
    return policy.decide(scores, values, tier, fields=lambda _name: amounts, event_time=np.zeros(len(values), np.int64))


def test_starting_rules_are_valid_rare_and_for_when_no_model_answers() -> None:
    values = rows(5_000)
    rules = starter_rules(values, DEFAULT.names)
    policy = Policy(DEFAULT.flags, {"full": Thresholds(1.0), "no_features": Thresholds(1.0)}, rules)
    assert len(rules) >= 3
    verdicts = decide_rows(policy, None, values, "rules_only")
    assert 0 < np.count_nonzero(verdicts.decision) < 0.02 * len(values)
    assert decide_rows(policy, np.zeros(len(values), np.float32), values, "full").fired == ()
    assert parse(policy.to_toml(), DEFAULT.flags) == policy


def test_starting_rules_of_a_catalog_without_their_features_are_left_out() -> None:
    assert starter_rules(np.full((4, 1), np.nan, np.float32), ("shoe_size",)) == ()
    only = starter_rules(np.full((4, 1), np.nan, np.float32), ("amount_minor",))
    assert [rule.id for rule in only] == ["large_amount"]
    assert msgspec.to_builtins(only[0])["when"] == "amount_minor >= 10000"


def test_a_starting_rule_holds_under_the_name_that_the_profile_gives_its_feature() -> None:
    (rule,) = starter_rules(np.full((4, len(HANDBOOK.names)), 70_000, np.float32), HANDBOOK.names)
    assert (rule.id, rule.when) == ("large_amount", "TX_AMOUNT >= 70000")
