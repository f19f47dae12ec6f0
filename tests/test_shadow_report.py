"""The report on a challenger: every number over the same rows, each payment once, unripe payments left out."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import numpy as np
import pytest

from consumer.records import ShadowDecision, Source, Verdict
from consumer.shadow_report import Collector, report
from features.errors import ConfigError
from features.event import Label
from models.evaluate import average_precision, roc_auc

DAY_MS = 86_400_000
START_MS = 1_750_000_000_000


def shadow(
    number: int,
    old: float | None,
    new: float | None,
    *,
    at_ms: int = START_MS,
    digest: str = "d2",
    by: str = "champion",
) -> bytes:
    def verdict(model: str, digest: str, score: float | None) -> Verdict:
        name: Literal["approve", "review"] = "review" if score is not None and score >= 0.5 else "approve"
        return Verdict(model, digest, "rules_only" if score is None else "full", score, name)

    decided_by: Literal["champion", "challenger"] = "challenger" if by == "challenger" else "champion"
    old_verdict, new_verdict = verdict("m@1", "d1", old), verdict("m@2", digest, new)
    record = ShadowDecision(
        f"evt-{number}",
        f"card-{number % 50}",
        at_ms,
        Source("payments", 0, number),
        old_verdict,
        new_verdict,
        decided_by,
    )
    return msgspec.json.encode(record)


def label(number: int, kind: Literal["fraud", "genuine"]) -> bytes:
    told = Label(f"evt-{number}", f"card-{number % 50}", "m", START_MS, kind, START_MS + 1, "chargeback")
    return msgspec.json.encode(told)


def judged(count: int = 1_000, seed: int = 1) -> tuple[Collector, Any, Any, Any]:
    """A collector of payments of ten days, the challenger better than the champion; and what it was given."""
    rng = np.random.default_rng(seed)
    fraud = rng.random(count) < 0.1
    old = np.clip(0.2 * fraud + 0.6 * rng.random(count), 0, 1).astype(np.float32)
    new = np.clip(0.5 * fraud + 0.5 * rng.random(count), 0, 1).astype(np.float32)
    collector = Collector()
    for number in range(count):
        at_ms = START_MS + number * 10 * DAY_MS // count
        collector.shadow(shadow(number, float(old[number]), float(new[number]), at_ms=at_ms))
        if fraud[number]:
            collector.label(label(number, "fraud"))
    return collector, fraud, old, new


def test_both_are_measured_on_the_payments_whose_truth_is_known() -> None:
    collector, fraud, old, new = judged()
    found = report(collector, 4 * DAY_MS)
    known = fraud | (np.arange(1_000) <= 599)
    assert (found["payments"], found["known"], found["fraud"]) == (1_000, known.sum(), fraud.sum())
    for name, scores in (("champion", old), ("challenger", new)):
        quality = found["quality"][name]
        assert quality["ap"] == pytest.approx(average_precision(fraud[known], scores[known]))
        assert quality["auc"] == pytest.approx(roc_auc(fraud[known], scores[known]))
        alert = scores >= 0.5
        assert quality["alerts"] == alert.sum()
        assert quality["precision"] == pytest.approx((alert & fraud).sum() / (alert & known).sum())
        assert quality["recall"] == pytest.approx((alert & fraud).sum() / fraud.sum())
    gain = found["ap_difference"]
    assert gain["low"] <= gain["gain"] <= gain["high"]
    assert gain["low"] > 0
    assert sum(found["decisions"].values()) == 1_000


def test_a_payment_that_was_judged_twice_counts_once_and_its_last_label_counts() -> None:
    collector, fraud, _, _ = judged(200)
    before = report(collector, DAY_MS)
    for number in range(0, 200, 3):
        collector.shadow(shadow(number, 0.1, 0.1, at_ms=START_MS + number * DAY_MS // 20))
    assert report(collector, DAY_MS)["payments"] == before["payments"] == 200
    first = int(np.flatnonzero(fraud)[0])
    collector.label(label(first, "genuine"))
    assert report(collector, DAY_MS)["fraud"] == before["fraud"] - 1


def test_the_newest_pair_is_told_and_what_is_no_record_is_counted() -> None:
    collector, _, _, _ = judged(50)
    collector.shadow(shadow(1, None, 0.9, at_ms=START_MS + 90 * DAY_MS, digest="d3", by="challenger"))
    collector.shadow(b"{}")
    collector.label(b"\xff")
    found = report(collector, DAY_MS)
    assert (found["payments"], found["challenger"], found["decided_by_challenger"]) == (1, "m@2 (d3)", 1)
    assert found["quality"]["champion"]["not_scored"] == 1
    assert found["quality"]["champion"]["ap"] is None
    assert found["ap_difference"] is None
    assert found["unusable_records"] == 2


def test_an_empty_topic_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match="shadow topic is empty"):
        report(Collector(), DAY_MS)
