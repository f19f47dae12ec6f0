"""What would have cleared an alert: it does, it is the nearest, and only what a customer could have done is changed."""

from __future__ import annotations

import itertools
import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.catalog import DEFAULT, Feature
from models import clearing
from models.bundle import Bundle
from models.clearing import HIGHER, LOWER, MOST, STEPS, Clearing, Lever, direction, split_points
from models.explain import Explainer
from models.score import Scorer
from models.trees import Forest
from tests.support.bundles import looks_like_fraud, make_bundle, rows

EVER = math.inf
AMOUNT, COUNT = DEFAULT.names.index("amount_minor"), DEFAULT.names.index("card_count_1h")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("clearing") / "bundle", rules=())


@pytest.fixture(scope="module")
def explainer(bundle: Bundle) -> Explainer:
    return Explainer(bundle)


@pytest.fixture(scope="module")
def scorer(bundle: Bundle) -> Scorer:
    return Scorer(bundle)


def clear(
    explainer: Explainer, scorer: Scorer, values: np.ndarray, bar: float = 0.5, until: float = EVER
) -> list[Clearing | None]:
    return explainer.clear(values, "full", scorer.score(values), np.full(len(values), bar, np.float32), until)


def test_it_clears_and_changes_only_what_a_customer_could_have_done(explainer: Explainer, scorer: Scorer) -> None:
    values = rows(400, seed=6)
    alerts = values[looks_like_fraud(values) & (scorer.score(values) >= 0.5)][:60]
    found = clear(explainer, scorer, alerts)
    assert len(alerts) > 30
    assert None not in found
    for row, cleared in zip(alerts, found, strict=True):
        assert cleared is not None
        assert 1 <= len(cleared.changes) <= MOST
        assert cleared.score < 0.5
        for change in cleared.changes:
            feature = DEFAULT.features[DEFAULT.names.index(change.feature)]
            way = direction(feature)
            assert way is not None
            assert change.value == row[DEFAULT.names.index(change.feature)]
            assert (change.to < change.value) if way == LOWER else (change.to != change.value)
            if feature.op == "count":
                assert change.to >= 1
        if all(change.feature != "amount_minor" for change in cleared.changes):
            changed = row[None, :].copy()
            for change in cleared.changes:
                changed[0, DEFAULT.names.index(change.feature)] = change.to
            assert scorer.score(changed)[0] == pytest.approx(cleared.score)


def test_of_one_feature_the_nearest_value_is_found(bundle: Bundle, explainer: Explainer, scorer: Scorer) -> None:
    """Against a naive search over every whole number of payments."""
    assert split_points(Forest(bundle.model))[COUNT].size
    values = rows(400, seed=9)
    values[:, AMOUNT] = 1.0
    values[:, COUNT] = 900.0
    alerts = values[scorer.score(values) >= 0.5][:20]
    assert len(alerts)
    for row, cleared in zip(alerts, clear(explainer, scorer, alerts), strict=True):
        if cleared is None or [change.feature for change in cleared.changes] != ["card_count_1h"]:
            continue
        tried = np.repeat(row[None, :], 900, axis=0)
        tried[:, COUNT] = np.arange(899, -1, -1)
        first = int(np.flatnonzero(scorer.score(tried) < 0.5)[0])
        assert cleared.changes[0].to <= tried[first, COUNT]


def test_with_the_amount_goes_what_is_made_of_it(explainer: Explainer) -> None:
    row = np.full(len(DEFAULT.names), np.nan, np.float32)
    known = {
        "amount_minor": 10_000.0, "is_round_amount": 1.0, "card_sum_1h": 15_000.0, "card_max_24h": 10_000.0,
        "card_max_30d": 12_000.0, "card_amount_to_mean_30d": 4.0, "card_amount_zscore_30d": 3.0,
        "merchant_amount_to_mean_30d": 2.0,
    }  # fmt: skip
    for name, value in known.items():
        row[DEFAULT.names.index(name)] = value
    others = explainer._clearer["full"]._with_amounts(row, np.array([9_000.0, 5_001.0]))
    changed = others[1]
    assert others[0, AMOUNT] == 9_000.0
    told = {name: float(changed[DEFAULT.names.index(name)]) for name in known}
    assert told == pytest.approx(
        {
            "amount_minor": 5_001.0, "is_round_amount": 0.0, "card_sum_1h": 10_001.0, "card_max_24h": 5_001.0,
            "card_max_30d": 12_000.0, "card_amount_to_mean_30d": 2.0004, "card_amount_zscore_30d": 1.0004,
            "merchant_amount_to_mean_30d": 1.0002,
        },
        rel=1e-4,
    )  # fmt: skip


def plain_steps(way: int, splits: np.ndarray, feature: Feature, value: float) -> list[float]:
    """The same without any table: one value beyond each split point on the way, the nearest first."""
    whole = feature.type in {"count", "amount", "seconds"}
    if way == LOWER:
        passed = splits[splits <= value][::-1]
        steps = np.ceil(passed) - 1 if whole else np.nextafter(passed, np.float32(-np.inf))
        steps = steps[steps >= (0.0 if feature.op == "small_count" else 1.0)]
    else:
        passed = splits[splits > value]
        steps = np.ceil(passed) if whole else passed
    rising = [step for step in dict.fromkeys(steps.tolist()) if step != value]
    wanted = STEPS - 1
    if len(rising) <= STEPS:
        return rising
    return [rising[at] for at in sorted({round((len(rising) - 1) * (k / wanted) ** 2) for k in range(STEPS)})]


PASSABLE = [feature for feature in DEFAULT.features if direction(feature) in {LOWER, HIGHER}]
NUMBERS = st.one_of(
    st.integers(0, 40).map(lambda n: n / 2), st.floats(0, 1e9, width=32), st.integers(2**24 - 4, 2**24 + 4).map(float)
)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(PASSABLE), st.lists(NUMBERS, min_size=1, max_size=60), NUMBERS)
def test_the_steps_that_were_worked_out_before_are_those_of_the_formula(
    feature: Feature, splits: list[float], value: float
) -> None:
    way, rising = direction(feature), np.unique(np.array(splits, np.float32))
    assert way is not None
    for each in (float(np.float32(value)), float(rising[0]), float(rising[-1])):
        assert Lever(0, way, rising, feature).steps(each) == plain_steps(way, rising, feature, each)


def test_a_near_step_that_clears_is_found_as_if_all_had_been_tried(
    explainer: Explainer, scorer: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = rows(300, seed=6)
    found = clear(explainer, scorer, values)
    assert sum(each is not None for each in found) > 10
    monkeypatch.setattr(clearing, "NEAR", STEPS)
    assert clear(explainer, scorer, values) == found


def test_what_is_no_alert_and_what_has_no_time_left_is_not_looked_at(explainer: Explainer, scorer: Scorer) -> None:
    values = rows(50, seed=6)
    assert clear(explainer, scorer, values, bar=1.0) == [None] * 50
    assert clear(explainer, scorer, values, bar=0.0, until=time.monotonic() - 1) == [None] * 50


def test_without_state_only_the_payment_may_change(explainer: Explainer, scorer: Scorer) -> None:
    values = rows(300, seed=6)
    scores = scorer.score_payment_only(values)
    alerts = np.flatnonzero(scores >= 0.5)[:20]
    found = explainer.clear(values[alerts], "no_features", scores[alerts], np.full(len(alerts), 0.5, np.float32), EVER)
    names = set(itertools.chain.from_iterable([c.feature for c in each.changes] for each in found if each))
    assert names == {"amount_minor"}
    assert explainer.clear(values[:2], "rules_only", scores[:2], scores[:2], EVER) == [None, None]
