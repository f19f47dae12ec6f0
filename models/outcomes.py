"""What decisions were worth, once it is known what the payments were: measures, segments, rules, differences.

Intervals are 95 % percentile intervals of a bootstrap over cards, whose payments go together (Efron and Tibshirani, "An
Introduction to the Bootstrap", 1993, chapter 13). Each card is drawn a Poisson number of times, which needs no copy of
the payments (Chamandy, Muralidharan, Najmi and Naidu, "Estimating uncertainty for massive data streams", 2012).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from features.kernels import compiled
from models.evaluate import DAY_MS, amount_bands, average_precision, card_precision_at, recall_at_precision, roc_auc
from models.policy import BLOCK, DECISIONS, REVIEW

Scores = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.uint8]

HOUR_MS: Final = 3_600_000
OF_ALL: Final = frozenset({"alerts_per_day", "blocks_per_day"})
RESAMPLES: Final = 200
INTERVAL: Final = (0.025, 0.975)
CARDS_A_DAY: Final = 100
PRECISION: Final = 0.9


@dataclass(frozen=True, slots=True)
class Truth:
    """n payments, and what became of them.

    Attributes:
        event_time: (n,) ms.
        amount_minor: (n,) minor units.
        card: (n,) a number for each card.
        fraud: (n,) what was said last, or else not.
        known: (n,) whether the payment is so old that whoever would have called it fraud has done so. Of younger ones
            only the frauds could be known, so they would flatter whatever is measured.
    """

    event_time: Ints
    amount_minor: Ints
    card: Ints
    fraud: Mask
    known: Mask

    @property
    def days(self) -> float:
        """How long they took."""
        return _days(self.event_time)

    @property
    def known_days(self) -> float:
        """How long those took of which it is known what they were."""
        return _days(self.event_time[self.known])


@dataclass(frozen=True, slots=True)
class Said:
    """What one variant made of n payments.

    Attributes:
        scores: (n,) NaN where there was none.
        decisions: (n,) places in `DECISIONS`.
        decided: (n,) whether there was a decision.
        rules: by id, the rows of which each rule was true; `actions` says what it asks for.
        reviews: (n,) the thresholds that held, NaN where none did.
        actions: by id.
    """

    scores: Scores
    decisions: npt.NDArray[np.uint8]
    decided: Mask
    rules: Mapping[str, Ints]
    reviews: Scores
    actions: Mapping[str, str]


def _days(times: Ints) -> float:
    return max((int(times.max()) - int(times.min())) / DAY_MS, 1 / 24) if len(times) else 0.0


class Jury:
    """Judges any number of variants on the same payments, with the same draws for all, so that they can be compared."""

    def __init__(self, truth: Truth, *, resamples: int = RESAMPLES, seed: int = 0, threads: int = 1) -> None:
        """Draw how often each card is there in each resample."""
        self._truth, self._threads = truth, threads
        _, self._group = np.unique(truth.card, return_inverse=True)
        self._cards = int(self._group.max(initial=-1)) + 1
        rng = np.random.default_rng(seed)
        self._drawn = np.zeros((resamples, self._cards), np.uint8)
        for each in self._drawn:
            each[:] = rng.poisson(1.0, self._cards)
        self._known: list[tuple[Said, Mask, float | None, Floats]] = []

    def measures(self, said: Said) -> dict[str, Any]:
        """How well a variant ranks and decides: by name a value, and `low` and `high` where there is an interval.

        Of ranking: `ap`, `auc`, `recall_at_precision_90`, `card_precision_100`. Of decisions: `alerts_per_day`,
        `blocks_per_day`, of all payments. All else is of payments that are known: of alerts, `precision` and
        `false_positive_ratio` (good payments an alert of fraud costs); `recall`, and `recall_by_amount`, the share of
        the fraud's money; `saved_minor_per_day` (fraud that was stopped) and `declined_good_minor_per_day` (good
        payments that were blocked); and of cards that were defrauded: `cards_alerted`, the share that had an alert at
        their first fraud or later, and `hours_to_alert`, the median of how long that took. Payments without a decision
        count as approved, those without a score are not ranked.
        """
        truth, ranked = self._truth, self._ranked(said)
        fraud, scores = truth.fraud[ranked], said.scores[ranked]
        ap, resampled = self._ranking(said, ranked)
        found: dict[str, Any] = {
            "ap": {"value": ap} | _interval(resampled[0]),
            "auc": {"value": roc_auc(fraud, scores)} | _interval(resampled[1]),
            "recall_at_precision_90": {"value": recall_at_precision(fraud, scores, PRECISION)}
            | _interval(resampled[2]),
            f"card_precision_{CARDS_A_DAY}": {
                "value": card_precision_at(fraud, scores, truth.card[ranked], truth.event_time[ranked], CARDS_A_DAY)
            },
        }
        sums = _sums(truth, said, self._group, self._cards)
        total = {name: float(each.sum()) for name, each in sums.items()}
        table = np.stack(list(sums.values()), axis=1)
        many = dict(zip(sums, np.array([each @ table for each in self._drawn]).reshape(-1, len(sums)).T, strict=True))
        for name, derived in _DERIVED.items():
            days = truth.days if name in OF_ALL else truth.known_days
            found[name] = {"value": _finite(derived(total, days))} | _interval(np.asarray(derived(many, days)))
        return found | _first_alerts(truth, said)

    def difference(self, old: Said, new: Said) -> dict[str, Any]:
        """How a variant differs from another one, payment by payment; and what it gains in average precision.

        `decisions` counts the payments that both decided, by both decisions, and the fraud among them.
        """
        truth, both = self._truth, old.decided & new.decided
        moved: dict[str, dict[str, int]] = {}
        for first, old_name in enumerate(DECISIONS):
            for second, new_name in enumerate(DECISIONS):
                here = both & (old.decisions == first) & (new.decisions == second)
                if first != second and here.any():
                    moved[f"{old_name} to {new_name}"] = {
                        "payments": int(here.sum()),
                        "fraud": int((here & truth.fraud).sum()),
                        "genuine": int((here & truth.known & ~truth.fraud).sum()),
                    }
        scored = both & ~np.isnan(old.scores) & ~np.isnan(new.scores)
        told: dict[str, Any] = {
            "decided_by_both": int(both.sum()),
            "only_old": int((old.decided & ~new.decided).sum()),
            "only_new": int((new.decided & ~old.decided).sum()),
            "decisions": moved,
            "largest_score_difference": float(np.abs(old.scores[scored] - new.scores[scored]).max(initial=0.0)),
            "ap_gain": None,
        }
        ranked = self._ranked(old) & self._ranked(new)
        (before, first_many), (after, second_many) = self._ranking(old, ranked), self._ranking(new, ranked)
        if before is not None and after is not None:
            told["ap_gain"] = {"value": after - before} | _interval(second_many[0] - first_many[0])
        return told

    def _ranked(self, said: Said) -> Mask:
        return self._truth.known & said.decided & ~np.isnan(said.scores)

    def _ranking(self, said: Said, ranked: Mask) -> tuple[float | None, Floats]:
        """Average precision, and what `ranking` gives; once for a variant on the same payments."""
        for known, mask, ap, resampled in self._known:
            if known is said and np.array_equal(mask, ranked):
                return ap, resampled
        fraud, scores = self._truth.fraud[ranked], said.scores[ranked]
        ap = average_precision(fraud, scores)
        resampled = ranking(fraud, scores, self._group[ranked], self._drawn, self._threads)
        self._known.append((said, ranked, ap, resampled))
        return ap, resampled


def ranking(fraud: Mask, scores: Scores, group: npt.NDArray[np.intp], drawn: Counts, threads: int = 1) -> Floats:
    """(3, resamples) average precision, ROC area, and recall at `PRECISION`, of payments that are there so often.

    Equal scores are one threshold, as in `models.evaluate`. NaN where there is no fraud, or for the area nothing else.

    Args:
        fraud: (n,) what each payment was.
        scores: (n,) higher is more suspicious.
        group: (n,) which card's.
        drawn: (resamples, cards) how often each card is there.
        threads: that share the resamples.
    """
    order = np.argsort(-scores, kind="stable")
    told = scores[order]
    ends = np.append(told[1:] != told[:-1], True) if len(told) else np.zeros(0, np.bool_)
    found = np.full((3, len(drawn)), np.nan)
    ranked_group, ranked_fraud = group[order], fraud[order]

    def rank(first: int) -> None:
        part = slice(first, first + step)
        told = np.full((3, len(drawn[part])), np.nan)
        _rank(drawn[part], ranked_group, ranked_fraud, ends, PRECISION, told)
        found[:, part] = told

    step = -(-len(drawn) // threads) or 1
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(rank, range(0, len(drawn), step)))
    return found


@compiled
def _rank(drawn: Counts, group: Ints, fraud: Mask, ends: Mask, least: float, found: Floats) -> None:
    for resample in range(len(drawn)):
        flagged = caught = before_flagged = before_caught = 0.0
        precision_sum = area = best = 0.0
        for place in range(len(group)):
            weight = drawn[resample, group[place]]
            flagged += weight
            if fraud[place]:
                caught += weight
            if ends[place]:
                gained = caught - before_caught
                if flagged > 0:
                    precision = caught / flagged
                    precision_sum += gained * precision
                    if precision >= least:
                        best = caught
                area += (flagged - before_flagged - gained) * (before_caught + gained / 2)
                before_flagged, before_caught = flagged, caught
        if caught > 0:
            found[0, resample] = precision_sum / caught
            found[2, resample] = best / caught
            if flagged > caught:
                found[1, resample] = area / (caught * (flagged - caught))


def _sums(truth: Truth, said: Said, group: npt.NDArray[np.intp], cards: int) -> dict[str, Floats]:
    """(cards,) each: what measures of decisions are made of, by card."""
    alert = said.decided & (said.decisions >= REVIEW)
    block = said.decided & (said.decisions == BLOCK)
    fraud, good = truth.known & truth.fraud, truth.known & ~truth.fraud
    money = truth.amount_minor.astype(np.float64)
    parts: dict[str, npt.NDArray[Any]] = {
        "alerts": alert,
        "blocks": block,
        "caught": alert & fraud,
        "false": alert & good,
        "fraud": fraud,
        "fraud_minor": money * fraud,
        "caught_minor": money * (alert & fraud),
        "declined_minor": money * (block & good),
    }
    return {
        name: np.asarray(np.bincount(group, part.astype(np.float64), cards), np.float64) for name, part in parts.items()
    }


_Sums = Mapping[str, Any]
_DERIVED: Final[dict[str, Callable[[_Sums, float], Any]]] = {
    "alerts_per_day": lambda each, days: _per(each["alerts"], days),
    "blocks_per_day": lambda each, days: _per(each["blocks"], days),
    "precision": lambda each, _days: _ratio(each["caught"], each["caught"] + each["false"]),
    "false_positive_ratio": lambda each, _days: _ratio(each["false"], each["caught"]),
    "recall": lambda each, _days: _ratio(each["caught"], each["fraud"]),
    "recall_by_amount": lambda each, _days: _ratio(each["caught_minor"], each["fraud_minor"]),
    "saved_minor_per_day": lambda each, days: _per(each["caught_minor"], days),
    "declined_good_minor_per_day": lambda each, days: _per(each["declined_minor"], days),
}


def _per(amount: Any, days: float) -> Any:
    return amount / days if days else amount * np.nan


def _ratio(part: Any, whole: Any) -> Any:
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=np.asarray(whole) > 0)


def _finite(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def _interval(values: Floats) -> dict[str, float | None]:
    known = values[np.isfinite(values)]
    if not known.size:
        return {"low": None, "high": None}
    low, high = np.quantile(known, INTERVAL)
    return {"low": float(low), "high": float(high)}


def _first_alerts(truth: Truth, said: Said) -> dict[str, Any]:
    """Of cards that were defrauded: how many were ever alerted from their first fraud on, and how soon."""
    alert = said.decided & (said.decisions >= REVIEW)
    _, group = np.unique(truth.card, return_inverse=True)
    cards = int(group.max(initial=-1)) + 1
    never = np.iinfo(np.int64).max
    begun = np.full(cards, never)
    fraud = truth.fraud & truth.known
    np.minimum.at(begun, group[fraud], truth.event_time[fraud])
    later = alert & (truth.event_time >= begun[group])
    told = np.full(cards, never)
    np.minimum.at(told, group[later], truth.event_time[later])
    defrauded = begun < never
    alerted = defrauded & (told < never)
    hours = (told[alerted] - begun[alerted]) / HOUR_MS
    return {
        "cards_alerted": {"value": float(alerted.sum() / defrauded.sum()) if defrauded.any() else None},
        "hours_to_alert": {"value": float(np.median(hours)) if len(hours) else None},
    }


def segments(
    truth: Truth, said: Sequence[Said], groups: Mapping[str, tuple[npt.NDArray[Any], list[str]]], most: int = 12
) -> dict[str, list[dict[str, Any]]]:
    """The same few measures of each variant by bands of the amount, and by each of `groups`: codes and their names."""
    found = {}
    all_groups = {"amount": amount_bands(truth.amount_minor)} | dict(groups)
    for name, (codes, words) in all_groups.items():
        sizes = np.bincount(codes, minlength=len(words))
        rows = []
        for number in sorted(np.argsort(-sizes, kind="stable")[:most].tolist()):
            here = codes == number
            if here.any():
                rows.append(
                    {"segment": words[number], "payments": int(here.sum()), "fraud": int((here & truth.fraud).sum())}
                    | {"variants": [_short(truth, each, here) for each in said]}
                )
        found[name] = rows
    return found


def _short(truth: Truth, said: Said, here: Mask) -> dict[str, Any]:
    alert = here & said.decided & (said.decisions >= REVIEW)
    ranked = here & truth.known & said.decided & ~np.isnan(said.scores)
    bad, good = truth.fraud & truth.known, ~truth.fraud & truth.known
    caught, false, fraud = int((alert & bad).sum()), int((alert & good).sum()), int((here & bad).sum())
    return {
        "ap": average_precision(truth.fraud[ranked], said.scores[ranked]),
        "alerts_per_day": int(alert.sum()) / truth.days if truth.days else None,
        "precision": caught / (caught + false) if caught + false else None,
        "recall": caught / fraud if fraud else None,
    }


def rules(truth: Truth, said: Said) -> list[dict[str, Any]]:
    """Of each rule of a variant: how often it fired, on what, and what would not have been stopped without it.

    `alone` are payments that are not approved, whose score is below the review threshold, and on which no other rule
    fired that asks for a review or a block; `alone_fraud` of them were fraud. `good_blocked` are good payments that it
    wanted blocked.
    """
    n = len(truth.fraud)
    stops = [rule for rule in said.rules if said.actions.get(rule) in ("review", "block")]
    times = np.zeros(n, np.int64)
    for rule in stops:
        times[said.rules[rule]] += 1
    by_model = said.scores >= said.reviews  # false for NaN
    found = []
    for rule, rows in said.rules.items():
        fraud, known = truth.fraud[rows], truth.known[rows]
        alone = np.zeros(len(rows), np.bool_)
        if rule in stops:
            alone = (said.decisions[rows] >= REVIEW) & ~by_model[rows] & (times[rows] == 1)
        found.append(
            {
                "rule": rule,
                "action": said.actions.get(rule),
                "fired": len(rows),
                "fraud": int(fraud.sum()),
                "genuine": int((known & ~fraud).sum()),
                "unlabelled": int((~known & ~fraud).sum()),
                "alone": int(alone.sum()),
                "alone_fraud": int((alone & fraud).sum()),
                "good_blocked": int((known & ~fraud).sum()) if said.actions.get(rule) == "block" else 0,
            }
        )
    return sorted(found, key=lambda each: -each["fired"])
