from __future__ import annotations

import math
import operator

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from features.catalog import DEFAULT, HANDBOOK
from features.errors import ConfigError
from models.policy import DECISIONS, TIERS, Policy, Rule, Thresholds, Tier, parse
from models.starter_rules import starter_rules
from tests.support.bundles import rows

NAMES = ("amount_minor", "card_count_1h", "hour")
OPS = {">=": operator.ge, ">": operator.gt, "<=": operator.le, "<": operator.lt, "==": operator.eq}
BARS = {"full": Thresholds(0.5, 0.9), "no_features": Thresholds(0.2)}

small = st.sampled_from([float("nan"), -1.0, 0.0, 0.1, 1.0, 2.5, 1e12, 3.4e38])
probabilities = st.floats(0, 1, width=32)
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    def bar() -> Thresholds:
        review, block = sorted((draw(probabilities), draw(probabilities)))
        return Thresholds(review, draw(st.sampled_from([block, None])))

    rules = tuple(
        Rule(
            id=f"rule_{number}",
            feature=draw(st.sampled_from(NAMES)),
            op=draw(st.sampled_from(sorted(OPS))),
            value=draw(small.filter(math.isfinite)),
            action=draw(st.sampled_from(["review", "block"])),
            reason=draw(texts),
            tiers=tuple(draw(st.lists(st.sampled_from(TIERS), min_size=1, max_size=3, unique=True))),
        )
        for number in range(draw(st.integers(0, 5)))
    )
    return Policy(NAMES, {"full": bar(), "no_features": bar()}, rules)


def naive_row(policy: Policy, score: float | None, row: list[float], tier: Tier) -> tuple[int, list[str]]:
    """One payment at a time, as the documents say it."""
    severity = 0
    if score is not None and tier != "rules_only":
        bar = policy.thresholds[tier]
        if score >= bar.review:
            severity = 1
        if bar.block is not None and score >= bar.block:
            severity = 2
    fired = []
    for rule in policy.rules:
        value = row[NAMES.index(rule.feature)]
        if tier not in rule.tiers or math.isnan(value):
            continue
        if OPS[rule.op](value, float(np.float32(rule.value))):
            fired.append(rule.id)
            severity = max(severity, DECISIONS.index(rule.action))
    return severity, fired


@given(
    policies(),
    hnp.arrays(np.float32, st.tuples(st.integers(0, 12), st.just(len(NAMES))), elements=small.map(np.float32)),
    st.sampled_from(TIERS),
    st.data(),
)
def test_decisions_equal_the_naive_ones(policy: Policy, values: np.ndarray, tier: Tier, data: st.DataObject) -> None:
    n = len(values)
    scores = None
    if tier != "rules_only":
        edges = [bar for t in policy.thresholds.values() for bar in (t.review, t.block) if bar is not None]
        chosen = data.draw(st.lists(probabilities | st.sampled_from(edges), min_size=n, max_size=n))
        scores = np.array(chosen, np.float32)
    verdicts = policy.decide(scores, values, tier)
    assert verdicts.decision.dtype == np.uint8
    for row in range(n):
        expected = naive_row(policy, None if scores is None else float(scores[row]), values[row].tolist(), tier)
        fired = [rule for rule, mask in verdicts.fired if mask[row]]
        assert (int(verdicts.decision[row]), fired) == expected
    assert all(mask.any() for _, mask in verdicts.fired)


@given(policies())
def test_a_written_policy_is_read_back_as_the_same(policy: Policy) -> None:
    again = parse(policy.to_toml(), NAMES)
    assert again == policy
    assert again.digest == policy.digest
    assert again.to_toml() == policy.to_toml()


def test_the_digest_is_of_the_meaning_not_of_the_layout() -> None:
    policy = Policy(NAMES, dict(reversed(BARS.items())), ())  # type: ignore[arg-type]  # items() loses the literal keys
    text = "# a comment\n" + policy.to_toml().replace("0.5", "0.50")
    assert parse(text, NAMES).digest == policy.digest == Policy(NAMES, BARS, ()).digest  # type: ignore[arg-type]
    assert parse(text.replace("0.50", "0.51"), NAMES).digest != policy.digest


def test_tiers_left_out_mean_all() -> None:
    text = policy_text('id = "r"\nfeature = "hour"\nop = "<"\nvalue = 6\naction = "block"\nreason = "It is night."')
    policy = parse(text, NAMES)
    values = np.array([[1, 1, 3], [1, 1, 7], [1, 1, np.nan]], np.float32)
    assert policy.decide(None, values, "rules_only").decision.tolist() == [2, 0, 0]
    assert policy.decide(np.zeros(3, np.float32), values, "full").decision.tolist() == [2, 0, 0]
    assert policy.rule("r").reason == "It is night."
    with pytest.raises(KeyError):
        policy.rule("s")


def policy_text(
    rule: str = "", thresholds: str = "[thresholds.full]\nreview = 0.5\n[thresholds.no_features]\nreview = 0.5"
) -> str:
    return f"schema_version = 1\n{thresholds}\n" + (f"[[rules]]\n{rule}\n" if rule else "")


GOOD_RULE = 'id = "r"\nfeature = "hour"\nop = "<"\nvalue = 6\naction = "block"\nreason = "It is night."\n'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("this is = = not toml", "is not TOML"),
        ("", "schema_version"),
        (policy_text().replace("1", "2", 1), "schema_version"),
        (policy_text() + "[surprise]\n", "surprise"),
        (policy_text(thresholds="[thresholds.full]\nreview = 0.5"), "thresholds.no_features"),
        (policy_text(thresholds="[thresholds.fool]\nreview = 0.5"), "thresholds"),
        (policy_text().replace("0.5", "1.5"), "review"),
        (policy_text().replace("0.5", "nan"), "review"),
        (policy_text().replace("0.5", '"high"'), "review"),
        (policy_text().replace("review = 0.5", "review = 0.5\nblock = 0.4", 1), "thresholds.full.block is below"),
        (policy_text(GOOD_RULE + "colour = 1"), "colour"),
        (policy_text(GOOD_RULE.replace('"<"', '"!="')), "rules[0].op"),
        (policy_text(GOOD_RULE.replace('"<"', '"__import__"')), "rules[0].op"),
        (policy_text(GOOD_RULE.replace("hour", "shoe_size")), "rules[0].feature"),
        (policy_text(GOOD_RULE.replace("= 6", "= inf")), "rules[0].value"),
        (policy_text(GOOD_RULE.replace("= 6", "= 1e300")), "rules[0].value"),
        (policy_text(GOOD_RULE.replace('"block"', '"approve"')), "rules[0].action"),
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
        Policy(NAMES, BARS).decide(scores, np.zeros((2, 3), np.float32), tier)  # type: ignore[arg-type]


def test_values_of_another_width_are_a_bug_of_the_caller() -> None:
    with pytest.raises(ValueError, match="3 columns"):
        Policy(NAMES, BARS).decide(None, np.zeros((2, 4), np.float32), "rules_only")  # type: ignore[arg-type]


def test_starting_rules_are_valid_rare_and_for_when_no_model_answers() -> None:
    values = rows(5_000)
    rules = starter_rules(values, DEFAULT.names)
    policy = Policy(DEFAULT.names, {"full": Thresholds(1.0), "no_features": Thresholds(1.0)}, rules)
    assert len(rules) >= 3
    verdicts = policy.decide(None, values, "rules_only")
    assert 0 < np.count_nonzero(verdicts.decision) < 0.02 * len(values)
    assert policy.decide(np.zeros(len(values), np.float32), values, "full").fired == ()
    assert parse(policy.to_toml(), DEFAULT.names) == policy


def test_starting_rules_of_a_catalog_without_their_features_are_left_out() -> None:
    assert starter_rules(np.full((4, 1), np.nan, np.float32), ("shoe_size",)) == ()
    only = starter_rules(np.full((4, 1), np.nan, np.float32), ("amount_minor",))
    assert [rule.id for rule in only] == ["large_amount"]
    assert msgspec.to_builtins(only[0])["value"] == 10_000


def test_a_starting_rule_holds_under_the_name_that_the_profile_gives_its_feature() -> None:
    (rule,) = starter_rules(np.full((4, len(HANDBOOK.names)), 70_000, np.float32), HANDBOOK.names)
    assert (rule.id, rule.feature, rule.value) == ("large_amount", "TX_AMOUNT", 70_000)
