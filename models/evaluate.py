"""How well scores rank fraud, and what a threshold does: the numbers that training prints and the manifest keeps."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Times = npt.NDArray[np.int64]
Amounts = npt.NDArray[np.float64]

DAY_MS: Final = 86_400_000
BANDS_MINOR: Final = (0, 1_000, 10_000, 100_000)  # amounts that bands begin at


def average_precision(fraud: Mask, scores: Scores) -> float | None:
    """Sum over distinct thresholds of (recall gained) x (precision there); no interpolation.

    Source: Manning, Raghavan and Schütze, Introduction to Information Retrieval (2008), section 8.4; equal scores are
    one threshold, as in Davis and Goadrich, "The relationship between Precision-Recall and ROC curves" (ICML 2006).

    Args:
        fraud: (n,) what each payment was.
        scores: (n,) higher is more suspicious.

    Returns:
        A number in (0, 1], or None without any fraud.
    """
    caught, flagged = curve(fraud, scores)
    total = int(fraud.sum())
    if not total:
        return None
    gained = np.diff(caught, prepend=0) / total
    return float((gained * (caught / flagged)).sum())


def roc_auc(fraud: Mask, scores: Scores) -> float | None:
    """The chance that a fraud scores above a genuine payment, ties counting half.

    Source: the Mann-Whitney statistic with mid-ranks; Hanley and McNeil, Radiology 143 (1982).

    Args:
        fraud: (n,) what each payment was.
        scores: (n,) higher is more suspicious.

    Returns:
        A number in [0, 1], or None unless both kinds are there.
    """
    positives = int(fraud.sum())
    negatives = len(fraud) - positives
    if not positives or not negatives:
        return None
    _, place, count = np.unique(scores, return_inverse=True, return_counts=True)
    mid_rank = np.cumsum(count) - (count - 1) / 2
    rank_sum = float(mid_rank[place][fraud].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


@dataclass(frozen=True, slots=True)
class AtThreshold:
    """What flagging every score of at least `threshold` does. Precision and recall are None when they are 0 / 0."""

    threshold: float
    flagged: int
    caught: int
    precision: float | None
    recall: float | None

    def to_dict(self) -> dict[str, float | int | None]:
        """The same as plain values, for JSON."""
        return asdict(self)


def at_threshold(fraud: Mask, scores: Scores, threshold: float) -> AtThreshold:
    """Precision (caught / flagged) and recall (caught / all fraud) of flagging scores of at least `threshold`.

    Source: van Rijsbergen, Information Retrieval (1979), chapter 7.
    """
    alarm = scores >= np.float32(threshold)
    flagged, caught, total = int(alarm.sum()), int((alarm & fraud).sum()), int(fraud.sum())
    return AtThreshold(
        threshold=threshold,
        flagged=flagged,
        caught=caught,
        precision=caught / flagged if flagged else None,
        recall=caught / total if total else None,
    )


def threshold_for_share(scores: Scores, share: float) -> float:
    """The lowest score that flags at most `share` of `scores` (n > 0); the highest score where even one is too many.

    Equal scores can't be told apart, so a large tie at the budget's edge is left out whole.
    """
    values, count = np.unique(scores, return_counts=True)
    flagged = np.cumsum(count[::-1])[::-1]
    fits = np.flatnonzero(flagged <= share * len(scores))
    return float(values[fits[0]]) if len(fits) else float(values[-1])


def threshold_for_precision(fraud: Mask, scores: Scores, precision: float, least_flagged: int) -> float | None:
    """The lowest score at and above which `precision` is reached over at least `least_flagged` payments, or None."""
    caught, flagged = curve(fraud, scores)
    fits = np.flatnonzero((caught / flagged >= precision) & (flagged >= least_flagged))
    return float(np.unique(scores)[::-1][fits[-1]]) if len(fits) else None


def threshold_for_cost(scores: Scores, saved: Amounts, cost: Amounts) -> float | None:
    """The score from which to flag so that what is saved, less what flagging costs, is most; None if nothing is gained.

    Source: Elkan, "The foundations of cost-sensitive learning" (IJCAI 2001); the costs are of each payment, so the best
    threshold is found by trying them all.

    Args:
        scores: (n,) higher is more suspicious.
        saved: (n,) what flagging the payment saves.
        cost: (n,) what flagging it costs.
    """
    values, place = np.unique(scores, return_inverse=True)
    gained = np.cumsum(np.bincount(place, saved - cost, minlength=len(values))[::-1])
    if not len(gained) or gained.max() <= 0:
        return None
    return float(values[::-1][int(gained.argmax())])


def recall_at_precision(fraud: Mask, scores: Scores, precision: float) -> float | None:
    """The highest recall of any threshold that reaches `precision`; 0 where none does, None without any fraud."""
    total = int(fraud.sum())
    if not total:
        return None
    caught, flagged = curve(fraud, scores)
    fits = caught[caught / flagged >= precision]
    return float(fits.max() / total) if len(fits) else 0.0


def card_precision_at(fraud: Mask, scores: Scores, card: Times, event_time: Times, k: int) -> float | None:
    """Card Precision@k: of the k cards that score highest each day, the share that is defrauded; mean over days.

    A card's score is its highest of the day. A card that was found is not looked at again on later days.

    Source: Le Borgne, Siblini, Lebichot and Bontempi, Reproducible Machine Learning for Credit Card Fraud Detection -
    Practical Handbook (2022), section 4.4.

    Args:
        fraud: (n,) what each payment was.
        scores: (n,) higher is more suspicious.
        card: (n,) an integer for each card.
        event_time: (n,) ms; days are those of UTC.
        k: cards that can be looked at in a day.

    Returns:
        A number in [0, 1], or None without any payment.
    """
    days, found, shares = event_time // DAY_MS, np.zeros(0, np.int64), []
    for day in np.unique(days):
        today = np.flatnonzero((days == day) & ~np.isin(card, found))
        cards, place = np.unique(card[today], return_inverse=True)
        highest, hit = np.full(len(cards), -np.inf), np.zeros(len(cards), np.bool_)
        np.maximum.at(highest, place, scores[today])
        np.logical_or.at(hit, place, fraud[today])
        top = np.argsort(-highest, kind="stable")[:k]
        found = np.concatenate([found, cards[top][hit[top]]])
        shares.append(np.count_nonzero(hit[top]) / k)
    return float(np.mean(shares)) if shares else None


def curve(fraud: Mask, scores: Scores) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Frauds caught and payments flagged at each distinct score, from the highest down."""
    values, place = np.unique(scores, return_inverse=True)
    flagged = np.bincount(place, minlength=len(values))[::-1]
    caught = np.bincount(place[fraud], minlength=len(values))[::-1]
    return np.cumsum(caught), np.cumsum(flagged)


def amount_bands(amount_minor: Times) -> tuple[npt.NDArray[np.intp], list[str]]:
    """(n,) the band of each amount in minor units, and what the bands are called."""
    return np.searchsorted(BANDS_MINOR, amount_minor, side="right") - 1, [f"from {a / 100:,.2f}" for a in BANDS_MINOR]
