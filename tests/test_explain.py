from __future__ import annotations

import numpy as np
import pytest

from features.catalog import DEFAULT
from models.bundle import Bundle
from models.explain import Explainer, Reason
from models.policy import Tier
from models.score import Scorer
from tests.support.bundles import looks_like_fraud, make_bundle, rows


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("explain") / "bundle")


@pytest.fixture(scope="module")
def explainer(bundle: Bundle) -> Explainer:
    return Explainer(bundle)


@pytest.mark.parametrize("tier", ["full", "no_features"])
def test_contributions_add_up_to_the_score(bundle: Bundle, explainer: Explainer, tier: Tier) -> None:
    values = rows(60, seed=5)
    scorer = Scorer(bundle)
    scores = (scorer.score if tier == "full" else scorer.score_payment_only)(values).astype(np.float64)
    log_odds = np.log(scores / (1 - scores))
    np.testing.assert_allclose(explainer.contributions(values, tier).sum(axis=1), log_odds, atol=1e-4)


def test_reasons_are_the_strongest_that_raised_the_score(explainer: Explainer) -> None:
    values = rows(300, seed=6)
    alerts = values[looks_like_fraud(values)][:40]
    contributions = explainer.contributions(alerts, "full")[:, :-1]
    for row, reasons in enumerate(explainer.explain(alerts, "full", top=3)):
        raised = np.sort(contributions[row][contributions[row] > 0])[::-1][:3]
        assert [reason.contribution for reason in reasons] == raised.tolist()
        for reason in reasons:
            column = DEFAULT.names.index(reason.feature)
            assert reason.contribution == contributions[row, column]
            assert (reason.value is None) == bool(np.isnan(alerts[row, column]))


def test_a_large_amount_is_the_reason_that_is_told(explainer: Explainer) -> None:
    values = rows(1, seed=7)
    values[0, DEFAULT.names.index("amount_minor")] = 250_000
    assert explainer.explain(values, "full")[0][0].feature == "amount_minor"
    assert explainer.explain(values, "full")[0][0].value == 250_000
    assert explainer.explain(values, "no_features")[0][0].feature == "amount_minor"


def test_without_state_only_the_payment_is_a_reason(explainer: Explainer) -> None:
    allowed = {DEFAULT.names[column] for column in DEFAULT.payment_columns}
    for reasons in explainer.explain(rows(50), "no_features", top=100):
        assert {reason.feature for reason in reasons} <= allowed


def test_a_row_is_explained_alike_whatever_is_beside_it(explainer: Explainer) -> None:
    values = rows(20, seed=8)
    assert explainer.explain(values, "full") == [explainer.explain(values[i : i + 1], "full")[0] for i in range(20)]


def test_rules_alone_and_no_rows_have_no_reasons(explainer: Explainer) -> None:
    assert explainer.explain(rows(2), "rules_only") == [(), ()]
    assert explainer.explain(rows(0), "full") == []
    assert explainer.explain(rows(1), "full", top=0) == [()]


def test_a_reason_is_a_plain_record() -> None:
    assert Reason("amount_minor", None, 0.5) == Reason("amount_minor", None, 0.5)
