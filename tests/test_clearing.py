"""What would have cleared an alert: it does, it is the nearest, and only what a customer could have done is changed."""

from __future__ import annotations

import itertools
import math
import time

import numpy as np
import pytest

from features.catalog import DEFAULT
from models.bundle import Bundle
from models.clearing import LOWER, MOST, Clearing, direction, split_points
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
    changed = row.copy()
    changed[AMOUNT] = 5_001.0
    explainer._clearer["full"]._follow_amount(row, changed, 5_001.0)
    told = {name: float(changed[DEFAULT.names.index(name)]) for name in known}
    assert told == pytest.approx(
        {
            "amount_minor": 5_001.0, "is_round_amount": 0.0, "card_sum_1h": 10_001.0, "card_max_24h": 5_001.0,
            "card_max_30d": 12_000.0, "card_amount_to_mean_30d": 2.0004, "card_amount_zscore_30d": 1.0004,
            "merchant_amount_to_mean_30d": 1.0002,
        },
        rel=1e-4,
    )  # fmt: skip


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
