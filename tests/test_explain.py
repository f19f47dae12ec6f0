from __future__ import annotations

import re

import numpy as np
import pytest

from features.catalog import DEFAULT, HANDBOOK, Catalog
from models.bundle import Bundle
from models.explain import Explainer, Reason
from models.policy import Tier
from models.reasons import code_of, sentence
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


@pytest.mark.parametrize("catalog", [DEFAULT, HANDBOOK], ids=["default", "handbook"])
def test_every_feature_has_a_sentence_whatever_its_value(catalog: Catalog) -> None:
    for feature in catalog.features:
        for value in (None, 0.0, 1.0, 2.5, 1e12, -3.0):
            text = sentence(feature, value, {"card_count_30d": 60.0}, "JPY")
            assert text[0].isupper() or text[0].isdigit() or text[0] == "-"
            assert not text.endswith(".")
            assert "  " not in text
        assert re.fullmatch(r"[a-z]+\.[a-z_]+", code_of(feature))


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("card_count_5m", 9, "9 payments in 5 minutes with this card; usual is 2 a day"),
        ("card_count_30d", 60, "60 payments in 30 days with this card"),
        ("amount_minor", 125_000, "The amount is 1,250.00 EUR"),
        ("card_amount_to_mean_30d", 12, "The amount is 12 times the usual with this card in 30 days"),
        ("card_on_device_30d", 0, "The first payment on this device with this card in 30 days"),
        ("card_countries_7d", 3, "3 different countries in 7 days with this card"),
        ("merchant_fraud_rate_24h", 0.25,
         "25.0% of the payments at this merchant in the 24 hours that ended 7 days ago were fraud"),
        ("card_since_last_s", 90, "The last payment with this card was 1.5 minutes ago"),
        ("channel", 2, "Its channel is ecom"),
        ("hour", 3.5, "It is 03:30 UTC"),
        ("ip_cards_24h", 7, "7 different cards in 24 hours from this address"),
    ],
)  # fmt: skip
def test_a_sentence_is_one_that_people_read(name: str, value: float, says: str) -> None:
    feature = DEFAULT.features[DEFAULT.names.index(name)]
    assert sentence(feature, value, {"card_count_30d": 60.0}, "EUR") == says


def test_a_reason_has_its_word_and_its_sentence_in_the_payments_currency(explainer: Explainer) -> None:
    values = rows(1, seed=7)
    values[0, DEFAULT.names.index("amount_minor")] = 250_000
    (reason, *_) = explainer.explain(values, "full", currencies=["JPY"])[0]
    assert (reason.code, reason.text) == ("payment.amount", "The amount is 250,000 JPY")


def test_rules_alone_and_no_rows_have_no_reasons(explainer: Explainer) -> None:
    assert explainer.explain(rows(2), "rules_only") == [(), ()]
    assert explainer.explain(rows(0), "full") == []
    assert explainer.explain(rows(1), "full", top=0) == [()]


def test_a_reason_is_a_plain_record() -> None:
    assert Reason("amount_minor", None, 0.5) == Reason("amount_minor", None, 0.5)
