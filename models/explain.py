"""Why a payment was flagged: the features that raised its score most, for alerts only."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt
import xgboost

from features.catalog import DEFAULT, Catalog
from models.bundle import Bundle
from models.clearing import Clearer, Clearing
from models.gpu import on_gpu
from models.manifest import MODEL, NO_FEATURES, SMALL
from models.policy import Tier
from models.reasons import code_of, sentence
from models.score import on_cpu, open_model
from models.shap import TooLarge, TreeShap
from models.trees import Forest

Values = npt.NDArray[np.float32]
Scores = npt.NDArray[np.float32]
DEFAULT_TOP: Final = 4


class Reason(msgspec.Struct, frozen=True, gc=False):
    """One feature's part in a score: its value (null where missing) and what it added, in log-odds.

    `code` is a stable word for the kind of reason, `text` a sentence for people.
    """

    feature: str
    value: float | None
    contribution: float
    code: str = ""
    text: str = ""


class Explanation(msgspec.Struct, frozen=True, gc=False):
    """Why a payment was flagged, and the smallest change that would have cleared it, if one was found in time."""

    reasons: tuple[Reason, ...]
    cleared_by: Clearing | None = None


NOT_EXPLAINED: Final = Explanation(())
TIER_OF: Final[dict[str, Tier]] = {MODEL: "full", SMALL: "small", NO_FEATURES: "no_features"}
_Shap = Callable[[Values], Values]


def _by_tables(forest: Forest) -> _Shap | None:
    try:
        return TreeShap(forest)
    except TooLarge:
        return None


def _by_xgboost(booster: xgboost.Booster, threads: int) -> _Shap:
    def shap(values: Values) -> Values:
        matrix = xgboost.DMatrix(values, nthread=threads)
        found: Values = booster.predict(matrix, pred_contribs=True, validate_features=False)
        return found

    return shap


class Explainer:
    """Explains scores exactly, by TreeSHAP over each tree's cover (Lundberg et al., Nature Machine Intelligence 2020).

    A row's contributions and a constant add up to the log-odds of its score. They come from tables (see `models.shap`),
    or from XGBoost where those would be too large, and on a GPU. It costs a hundred times as much as a score, so
    explain alerts only, and all of a batch at once. One thread at a time.

    Args:
        bundle: a bundle that `models.bundle.load` has verified.
        catalog: declares the bundle's features.
        device: `cpu` or `cuda`; what would have cleared an alert is always looked for on the CPU.
        threads: CPU threads; one is quickest for the few alerts of a batch.
        compiled: whether that looking uses compiled trees; see `models.score.Scorer`.
    """

    def __init__(
        self,
        bundle: Bundle,
        catalog: Catalog = DEFAULT,
        *,
        device: str = "cpu",
        threads: int = 1,
        compiled: bool = True,
    ) -> None:
        manifest = bundle.manifest
        self._features = catalog.only(manifest.features).features
        self._names = manifest.features
        self._columns = np.asarray(bundle.payment_columns, np.intp)
        everything = np.arange(len(manifest.features), dtype=np.intp)
        self._shap: dict[Tier, tuple[_Shap, npt.NDArray[np.intp]]] = {}
        self._clearer: dict[Tier, Clearer] = {}
        for file, model in bundle.models.items():
            tier, names, forest = TIER_OF[file], manifest.columns[file], Forest(model)
            columns = self._columns if tier == "no_features" else everything
            booster = open_model(model, names, file, threads=threads)
            features = [self._features[column] for column in columns]
            self._clearer[tier] = Clearer(forest, on_cpu(booster, model, file, compiled=compiled), features)
            if device == "cuda":
                shap: _Shap = _by_xgboost(on_gpu(open_model(model, names, file, threads=threads)), threads)
            else:
                shap = _by_tables(forest) or _by_xgboost(booster, threads)
            self._shap[tier] = shap, columns

    def warm_up(self) -> None:
        """Pay the costs of the first call now."""
        blank = np.full((1, len(self._names)), np.nan, np.float32)
        for tier in self._shap:
            self.contributions(blank, tier)

    def explain(
        self, values: Values, tier: Tier, *, top: int = DEFAULT_TOP, currencies: Sequence[str] | None = None
    ) -> list[tuple[Reason, ...]]:
        """The features that raised each row's score most, the strongest first.

        Args:
            values: (n, features) float32 rows of alerts, all columns of the bundle.
            tier: which model scored them; `rules_only` has no reasons, its rules are told by the policy.
            top: at most so many reasons a row; features that lowered the score are none.
            currencies: (n,) of the payments, for the sentences.
        """
        told: Sequence[str | None] = [None] * len(values) if currencies is None else currencies
        contributions = self.contributions(values, tier)[:, :-1]
        strongest = np.argsort(-contributions, axis=1, kind="stable")[:, :top]
        return [
            self._reasons(row, parts, [column for column in ranked if parts[column] > 0], currency)
            for row, parts, ranked, currency in zip(values, contributions, strongest.tolist(), told, strict=True)
        ]

    def clear(self, values: Values, tier: Tier, scores: Scores, bars: Scores, until: float) -> list[Clearing | None]:
        """What would have cleared each of n alerts; see `models.clearing.Clearer.clear`."""
        if tier == "rules_only":
            return [None] * len(values)
        return self._clearer[tier].clear(values[:, self._shap[tier][1]], scores, bars, until)

    def contributions(self, values: Values, tier: Tier) -> npt.NDArray[np.float32]:
        """(n, features + 1) log-odds that each feature added, and the constant in the last column; 0 where unused."""
        result = np.zeros((len(values), len(self._names) + 1), np.float32)
        if not len(values) or tier == "rules_only":
            return result
        shap, columns = self._shap[tier]
        result[:, [*columns, -1]] = shap(values[:, columns])
        return result

    def _reasons(
        self, row: Values, contributions: npt.NDArray[np.float32], columns: Sequence[int], currency: str | None
    ) -> tuple[Reason, ...]:
        known = {name: value for name, value in zip(self._names, row.tolist(), strict=True) if not math.isnan(value)}
        reasons = []
        for column in columns:
            feature, value = self._features[column], known.get(self._names[column])
            text = sentence(feature, value, known, currency)
            reasons.append(Reason(feature.name, value, float(contributions[column]), code_of(feature), text))
        return tuple(reasons)
