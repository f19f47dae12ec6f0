"""A transparent model: the score is a checksum of the exact features, so equal scores mean equal features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from zlib import crc32

import numpy as np
import numpy.typing as npt

from consumer.judge import Brain, Model
from consumer.records import Digests, ModelRef
from features.catalog import DEFAULT
from models.policy import Policy, Thresholds
from tests.oracle import ROUNDED

Values = npt.NDArray[np.float32]
Scores = npt.NDArray[np.float32]

REVIEW, BLOCK = 0.95, 0.98
EXACT = tuple(name for name in DEFAULT.names if not any(part in name for part in ROUNDED))
PAYMENT_ONLY = tuple(DEFAULT.names[column] for column in DEFAULT.payment_columns)


def score_of(names: Sequence[str], row: Mapping[str, float | None]) -> float:
    """The score of a payment whose features `names` are as `row` says; None is missing."""
    values = [np.nan if row[name] is None else row[name] for name in names]
    return float(_checksums(np.array([values], np.float32))[0])


def decision_of(score: float) -> str:
    """What the policy says of a score."""
    return "block" if score >= np.float32(BLOCK) else "review" if score >= np.float32(REVIEW) else "approve"


class ChecksumScorer:
    """`models.score.Scoring` by checksums."""

    has_small = False
    device = "cpu"

    def __init__(self) -> None:
        self._exact = [DEFAULT.names.index(name) for name in EXACT]
        self._payment_only = list(DEFAULT.payment_columns)

    def warm_up(self) -> None:
        """Nothing to warm up."""

    def score(self, values: Values) -> Scores:
        return _checksums(values[:, self._exact])

    def score_small(self, values: Values) -> Scores:
        return self.score(values)

    def score_payment_only(self, values: Values) -> Scores:
        return _checksums(values[:, self._payment_only])


def model() -> Model:
    """The model that every worker of a fault test decides with; about one payment in twenty is an alert."""
    policy = Policy(
        DEFAULT.flags, {"full": Thresholds(REVIEW, BLOCK), "no_features": Thresholds(REVIEW, BLOCK)}, where="tests"
    )
    brain = Brain(ChecksumScorer(), policy, lambda values, _tier, **_: [()] * len(values))
    digests = Digests(bundle="checksum", catalog=DEFAULT.fingerprint, policy=policy.digest)
    return Model(ModelRef("checksum", "1", "checksum"), digests, brain, "cpu", DEFAULT)


def _checksums(values: Values) -> Scores:
    rows = np.where(np.isnan(values), np.float32(np.nan), values).astype("<f4")  # one NaN has many bit patterns
    return np.array([crc32(row.tobytes()) / 2**32 for row in rows], np.float32)
