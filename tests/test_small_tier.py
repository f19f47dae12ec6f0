"""A payment that the main model would answer too late takes the small one; and a full GPU leaves a batch to the CPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import xgboost
from structlog.testing import capture_logs

from consumer.judge import LineUp
from consumer.settings import ChallengerSettings
from features.catalog import DEFAULT
from features.errors import BundleError, ConfigError
from models import bundle as bundles
from models import score
from models.bundle_writer import Recipe, write
from models.edge import forest
from models.explain import Explainer
from models.gpu import DeviceFailed, DeviceFull
from models.manifest import GOLDEN, MODEL, SMALL
from models.policy import Policy, Rule, Thresholds
from models.score import ConstantScorer, Scorer, Scores, Values
from tests.support.bundles import make_bundle, rows
from tests.test_line_up import challenge
from tests.test_pipeline import BUDGET_MS, Rig, events, model

THRESHOLDS = {"full": Thresholds(0.5, 0.9), "small": Thresholds(0.3), "no_features": Thresholds(0.5)}
POLICY = Policy(
    DEFAULT.flags,
    THRESHOLDS,
    (Rule("only_full", "amount_minor > 0", "tag", "Always.", tiers=("full",)),),
)


def hurried(rig: Rig, *, cost_ms: float) -> None:
    """As if the main model had cost so much a payment so far."""
    for count in (1, 100) * 50:
        rig.pipeline._hurry.scored(count, 0, cost_ms * count)


def test_an_urgent_payment_is_decided_by_the_small_model_and_says_so() -> None:
    rig = Rig(ConstantScorer(full=0.1, small=0.4), POLICY)
    hurried(rig, cost_ms=10.0)
    rig.process(*events(4), age_ms=[BUDGET_MS - 20] * 2 + [BUDGET_MS - 100] * 2)
    tiers = [decision.tier for decision in rig.decisions]
    assert tiers[:2] == ["small", "small"]
    assert tiers.count("full") == 1  # as many as the time is enough for
    by_tier = {"small": (0.4, "review", []), "full": (0.1, "approve", ["only_full"])}
    for decision in rig.decisions:
        score, word, rules = by_tier[decision.tier]
        assert decision.score == pytest.approx(score)
        assert decision.decision == word
        assert list(decision.rules) == rules
        assert decision.inputs.tier == decision.tier
        assert decision.inputs.review_threshold == pytest.approx(THRESHOLDS[decision.tier].review)
    assert {alert.tier for alert in rig.alerts} == {"small"}
    assert all(alert.reasons for alert in rig.alerts)
    assert rig.count("fraudline_decisions_total", decision="review", tier="small") == tiers.count("small")
    assert rig.decided == 4


def test_there_is_no_hurry_where_there_is_time() -> None:
    rig = Rig(ConstantScorer(full=0.1, small=0.4), POLICY)
    hurried(rig, cost_ms=0.01)
    rig.process(*events(4), age_ms=[BUDGET_MS - 100] * 4)
    assert [decision.tier for decision in rig.decisions] == ["full"] * 4


def test_a_bundle_without_a_small_model_knows_no_hurry() -> None:
    rig = Rig(ConstantScorer(full=0.1), POLICY)
    hurried(rig, cost_ms=10.0)
    rig.process(*events(2), age_ms=[BUDGET_MS - 15] * 2)
    assert [decision.tier for decision in rig.decisions] == ["full"] * 2


def test_without_features_there_is_no_small_model_either() -> None:
    rig = Rig(ConstantScorer(full=0.1, payment_only=0.1, small=0.4), POLICY)
    rig.state.up = False
    hurried(rig, cost_ms=10.0)
    rig.process(*events(2), age_ms=[BUDGET_MS - 15] * 2)
    assert [decision.tier for decision in rig.decisions] == ["no_features"] * 2


@dataclass(slots=True)
class Crowded:
    """A `Scoring` on a GPU that has no room for this batch."""

    has_small: bool = False
    device: str = "cuda"

    def score(self, values: Values) -> Scores:
        self.device = "cpu"
        return np.full(len(values), 0.1, np.float32)

    score_small = score_payment_only = score

    def warm_up(self) -> None:
        """Nothing to warm up."""


def test_a_batch_that_the_gpu_had_no_room_for_says_so_and_is_counted() -> None:
    rig = Rig(Crowded())
    whole = rig.line_up.champion
    rig.line_up = LineUp(type(whole)(whole.reference, whole.digests, whole.brain, "cuda", whole.catalog))
    rig.process(*events(3))
    assert [decision.inputs.device for decision in rig.decisions] == ["cpu"] * 3
    assert rig.count("fraudline_device_fallbacks_total") == 3


@dataclass(slots=True)
class Device:
    """A device that scores as it is told: it has no room, or it fails, for batches of more than `room` rows."""

    fails: bool = False
    room: int = 128

    def __call__(self, _booster: xgboost.Booster) -> Callable[[Values], Scores]:
        def predict(values: Values) -> Scores:
            if len(values) > self.room:
                raise DeviceFailed("an illegal memory access") if self.fails else DeviceFull("no room")
            return np.full(len(values), 0.25, np.float32)

        return predict


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> bundles.Bundle:
    return make_bundle(tmp_path_factory.mktemp("small") / "bundle")


def test_a_gpu_without_room_leaves_a_batch_to_the_cpu(bundle: bundles.Bundle) -> None:
    scorer, on_cpu, values = Scorer(bundle, device="cuda", on_gpu=Device()), Scorer(bundle), rows(200)
    with capture_logs() as lines:
        scores = scorer.score(values)
    np.testing.assert_array_equal(scores, on_cpu.score(values))
    assert scorer.device == "cpu"
    assert [line["event"] for line in lines] == ["scored_on_cpu"]
    np.testing.assert_array_equal(scorer.score_payment_only(values), on_cpu.score_payment_only(values))
    assert (scorer.score(values[:5]) == np.float32(0.25)).all()  # there is room again
    assert scorer.device == "cuda"


def test_a_gpu_that_fails_leaves_its_payments_to_the_rules(bundle: bundles.Bundle) -> None:
    rig = Rig(Scorer(bundle, device="cuda", on_gpu=Device(fails=True, room=2)))
    rig.process(*events(3))
    assert [decision.tier for decision in rig.decisions] == ["rules_only"] * 3
    rig.process(*events(2, first=3))
    assert [decision.tier for decision in rig.decisions[3:]] == ["full"] * 2


@dataclass(slots=True)
class Split:
    """A `Scoring` on a GPU that has room for its main model only."""

    has_small: bool = True
    device: str = "cuda"

    def score(self, values: Values) -> Scores:
        self.device = "cuda"
        return np.full(len(values), 0.1, np.float32)

    def score_small(self, values: Values) -> Scores:
        self.device = "cpu"
        return np.full(len(values), 0.1, np.float32)

    score_payment_only = score

    def warm_up(self) -> None:
        """Nothing to warm up."""


def test_a_batch_of_which_the_gpu_scored_a_part_counts_as_scored_on_the_cpu() -> None:
    rig = Rig(Split(), POLICY)
    whole = rig.line_up.champion
    rig.line_up = LineUp(type(whole)(whole.reference, whole.digests, whole.brain, "cuda", whole.catalog))
    hurried(rig, cost_ms=10.0)
    rig.process(*events(4), age_ms=[BUDGET_MS - 20] * 4)
    assert {decision.tier for decision in rig.decisions} == {"small", "full"}
    assert [decision.inputs.device for decision in rig.decisions] == ["cpu"] * 4
    assert rig.count("fraudline_device_fallbacks_total") == 4


@pytest.mark.parametrize(("champion", "challenger"), [(0.4, None), (None, 0.4)])
def test_nobody_hurries_where_one_judge_has_no_small_model(champion: float | None, challenger: float | None) -> None:
    """It would gain no time, and two tiers would be compared."""
    rig = Rig(ConstantScorer(full=0.1, small=champion), POLICY)
    challenge(rig, model("2", ConstantScorer(full=0.1, small=challenger), POLICY), ChallengerSettings(enabled=True))
    hurried(rig, cost_ms=10.0)
    rig.process(*events(2), age_ms=[BUDGET_MS - 15] * 2)
    assert [decision.tier for decision in rig.decisions] == ["full"] * 2


def with_small(path: Path, policy: Policy, seed: int = 1) -> bundles.Bundle:
    """A bundle that also has a small model."""
    big, little = make_bundle(path / "big", seed=seed), make_bundle(path / "little", seed=seed, trees=3)
    recipe = Recipe(
        name="test",
        version="1-tiered",
        created_ms=big.manifest.created_ms,
        model=big.model,
        no_features=big.no_features,
        policy=policy,
        golden_rows=rows(8),
        window=(0, 1),
        metrics={},
        small=little.model,
    )
    return write(path / "bundle", recipe, DEFAULT)


def test_a_small_model_travels_in_its_bundle_and_is_held_to_its_golden_rows(tmp_path: Path) -> None:
    written = with_small(tmp_path, POLICY)
    loaded = bundles.load(written.path, DEFAULT)
    assert loaded.small == written.small is not None
    assert loaded.manifest.trees[SMALL] == 3 < loaded.manifest.trees[MODEL]
    scorer, values = Scorer(loaded), rows(50, 3)
    assert scorer.has_small
    little = Scorer(bundles.load(tmp_path / "little", DEFAULT))
    assert np.array_equal(scorer.score_small(values), little.score(values))
    assert np.array_equal(Scorer(loaded, compiled=True).score_small(values), little.score(values))
    explainer = Explainer(loaded)
    margins = explainer.contributions(values, "small").sum(axis=1)
    assert np.allclose(1 / (1 + np.exp(-margins)), little.score(values), atol=1e-5)
    (written.path / SMALL).write_bytes((tmp_path / "big" / MODEL).read_bytes())
    with pytest.raises(BundleError, match=r"small\.ubj"):
        bundles.load(written.path, DEFAULT)


def test_golden_rows_hold_the_small_model_too(tmp_path: Path) -> None:
    written = with_small(tmp_path, POLICY)
    text = (written.path / GOLDEN).read_text()
    assert '"small"' in text


def test_a_small_model_needs_thresholds_of_its_own(tmp_path: Path) -> None:
    policy = Policy(DEFAULT.flags, {tier: bar for tier, bar in THRESHOLDS.items() if tier != "small"})
    written = with_small(tmp_path, policy)
    with pytest.raises(BundleError, match=r"thresholds\.small"):
        bundles.load(written.path, DEFAULT)


def test_needed_thresholds_are_still_needed() -> None:
    with pytest.raises(ConfigError, match=r"thresholds\.no_features"):
        Policy(DEFAULT.flags, {"full": Thresholds(0.5), "small": Thresholds(0.5)})


def test_a_compiled_scorer_gives_the_same_scores(tmp_path: Path) -> None:
    loaded = make_bundle(tmp_path / "bundle", trees=40)
    values = rows(400, 5)
    plain, compiled = Scorer(loaded), Scorer(loaded, compiled=True)
    assert np.abs(plain.score(values) - compiled.score(values)).max() <= 1e-6
    assert np.abs(plain.score_payment_only(values) - compiled.score_payment_only(values)).max() <= 1e-6


def test_a_model_that_can_not_be_compiled_is_left_to_xgboost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, values = make_bundle(tmp_path / "bundle"), rows(50, 5)
    expected = Scorer(loaded).score(values)
    monkeypatch.setattr(forest, "DEEPEST", 1)
    with capture_logs() as told:
        assert np.array_equal(Scorer(loaded, compiled=True).score(values), expected)
    assert all("deeper than 1" in line["why"] for line in told)
    assert told


def test_compiled_code_that_scores_otherwise_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, values = make_bundle(tmp_path / "bundle"), rows(50, 5)
    expected = Scorer(loaded).score(values)
    monkeypatch.setattr(score.Walker, "__call__", lambda _self, some: np.full(len(some), 0.5, np.float32))
    with capture_logs() as told:
        assert np.array_equal(Scorer(loaded, compiled=True).score(values), expected)
    assert all("differ" in line["why"] for line in told)
    assert told
