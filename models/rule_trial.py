"""What a rule would have done: whom it would have met in a history, and what became of these payments."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from features.catalog import Catalog
from features.errors import ConfigError
from features.history.mapping import AS_NAMED, Columns
from models import dataset
from models.bundle import Bundle
from models.dataset import ALL_LABELS, CHUNK_ROWS, DAY_MS, Dataset, Mask, Progress
from models.expressions import Expression, compiled
from models.facts import FIELDS, SCORE, Facts
from models.manifest import MODEL
from models.native import CpuPredictor
from models.policy import Policy
from models.score import open_model

IDENTITY: Final = ("event_id", "card_id")
KEPT_BY_ITSELF: Final = frozenset({"event_time", "amount_minor"})
FRAUD, GENUINE, UNLABELLED = "fraud", "genuine", "unlabelled"


@dataclass(frozen=True, slots=True)
class Tried:
    """One rule on n payments of a history.

    Attributes:
        rule: its text.
        matches: payments that it is true of; (of them) `fraud`, `genuine` and `unlabelled`.
        alone: matches that no other rule of the trial is true of; of these, `alone_fraud`.
        share: of all payments.
        per_day: matches a day.
        precision: the share of fraud among the matches that are old enough to be known; None where none is. Of younger
            ones only the frauds could be known, which would flatter the rule.
        recall: the share of all fraud, likewise old enough, that it meets; None where there is none.
        fraud_minor: the amounts of the fraud that it meets, in minor units, whatever the currency.
        genuine_minor: those of good payments.
        already_stopped: matches that the bundle reviews or blocks anyway; None without a bundle.
        examples: the newest matches of each kind: ids, time, amount, what became of it, and what the rule looks at.
    """

    rule: str
    matches: int
    fraud: int
    genuine: int
    unlabelled: int
    alone: int
    alone_fraud: int
    share: float
    per_day: float
    precision: float | None
    recall: float | None
    fraud_minor: int
    genuine_minor: int
    already_stopped: int | None
    examples: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Trial:
    """Rules on a history of `payments` in `days`, of which `fraud` are known; `refused` rows were no records."""

    payments: int
    refused: int
    days: float
    fraud: int
    rules: list[Tried]


def try_rules(
    texts: Sequence[str],
    payments: Path,
    labels: Path | None,
    catalog: Catalog,
    *,
    bundle: Bundle | None = None,
    mature_ms: int = 7 * DAY_MS,
    examples: int = 3,
    progress: Progress = lambda _text, _share: None,
    is_card_number: Callable[[str], bool] = lambda _text: False,
    mapped: Columns = AS_NAMED,
    memory_mb: int = 1_024,
    threads: int = 1,
) -> Trial:
    """Ask every payment of a history; only the features that the rules name are computed.

    Args:
        texts: the rules' expressions; see `models.expressions`.
        payments: in log order: Parquet, CSV or JSON lines; a file, or a folder of such files.
        labels: likewise, in any order; what was said last of a payment counts.
        catalog: the features that a rule may name.
        bundle: for rules that name the score, and to tell what is stopped anyway.
        mature_ms: a payment so much older than the history's end that nobody called fraud is genuine.
        examples: how many of each kind.
        progress: told what is being done.
        is_card_number: tells a card number from a token.
        mapped: which columns of the files are which fields, where they have other names.
        memory_mb: for computing features.
        threads: that compute them.

    Raises:
        ConfigError: a rule or a file can't be used, or the history is empty.
    """
    rules = [compiled(text, catalog.flags, where=f"rule {text!r}") for text in texts]
    named = frozenset[str]().union(*(rule.names for rule in rules))
    if SCORE in named and bundle is None:
        raise ConfigError("A rule that names the score needs a bundle that scores; give --bundle.")
    used = _used(named, catalog, bundle)
    fields = {name for name in named if name in FIELDS} | (set() if bundle is None else set(bundle.policy.fields))
    columns = tuple(dict.fromkeys([*IDENTITY, *sorted(fields - KEPT_BY_ITSELF - set(IDENTITY))]))
    with tempfile.TemporaryDirectory(prefix="fraudline-rules-") as folder:
        data = dataset.read(
            payments, labels, used, Path(folder), progress, is_card_number,
            columns=columns, memory_mb=memory_mb, threads=threads, mapped=mapped,
        )  # fmt: skip
        if not len(data.values):
            raise ConfigError("The history holds no payment; give payments in log order.")
        masks, stopped = _asked(rules, data, used, bundle)
        return _trial(rules, data, used, masks, stopped, mature_ms, examples)


def _used(named: frozenset[str], catalog: Catalog, bundle: Bundle | None) -> Catalog:
    """The features that have to be computed; one of the payment alone where there are none."""
    names = [name for name in catalog.names if name in named and name not in FIELDS]
    if bundle is not None:
        names = [*bundle.manifest.features, *(name for name in names if name not in bundle.manifest.features)]
    return catalog.only(tuple(names or [catalog.names[catalog.payment_columns[0]]]))


def _asked(
    rules: Sequence[Expression], data: Dataset, used: Catalog, bundle: Bundle | None
) -> tuple[list[Mask], Mask | None]:
    """Of which payments each rule is true, and which ones the bundle stops."""
    n = len(data.values)
    masks = [np.zeros(n, np.bool_) for _ in rules]
    stopped = None if bundle is None else np.zeros(n, np.bool_)
    places = {name: place for place, name in enumerate(used.names)}
    tests = [compiled(rule.text, used.flags, where=f"rule {rule.text!r}").test for rule in rules]
    predict = None
    if bundle is not None:
        predict = CpuPredictor(open_model(bundle.model, bundle.manifest.features, MODEL, threads=1))
    for start in range(0, n, CHUNK_ROWS):
        here = slice(start, start + CHUNK_ROWS)
        values = np.ascontiguousarray(data.values[here])
        fields = _fields(data, here)
        scores = None
        if bundle is not None and predict is not None and stopped is not None:
            own = np.ascontiguousarray(values[:, [places[name] for name in bundle.manifest.features]])
            scores = predict(own)
            policy: Policy = bundle.policy
            told = policy.decide(scores, own, "full", fields=fields, event_time=data.event_time[here])
            stopped[here] = told.decision > 0
        facts = Facts(values, scores, fields)
        for mask, test in zip(masks, tests, strict=True):
            mask[here] = test(facts)
    return masks, stopped


def _fields(data: Dataset, here: slice) -> Callable[[str], Any]:
    def get(name: str) -> Any:
        if name == "event_time":
            return data.event_time[here]
        if name == "amount_minor":
            return data.amount_minor[here]
        column = data.columns[name][here]
        return np.asarray(column) if FIELDS[name] == "number" else column.to_pylist()

    return get


def _trial(
    rules: Sequence[Expression],
    data: Dataset,
    used: Catalog,
    masks: list[Mask],
    stopped: Mask | None,
    mature_ms: int,
    examples: int,
) -> Trial:
    fraud = data.fraud_known_by(ALL_LABELS)
    said = np.zeros(len(fraud), np.bool_)
    said[data.label_row] = True
    first, last = int(data.event_time.min()), int(data.event_time.max())
    old = data.event_time < last - mature_ms
    genuine = ~fraud & (said | old)
    days = max(last - first, 1) / DAY_MS
    times = np.sum(masks, axis=0) if masks else np.zeros(len(fraud), np.int64)
    tried = []
    for rule, mask in zip(rules, masks, strict=True):
        bad, good = mask & fraud, mask & genuine
        alone = mask & (times == 1)
        caught, met = int((bad & old).sum()), int((mask & old).sum())
        tried.append(
            Tried(
                rule=rule.text,
                matches=int(mask.sum()),
                fraud=int(bad.sum()),
                genuine=int(good.sum()),
                unlabelled=int((mask & ~fraud & ~genuine).sum()),
                alone=int(alone.sum()),
                alone_fraud=int((alone & fraud).sum()),
                share=float(mask.mean()),
                per_day=float(mask.sum() / days),
                precision=caught / met if met else None,
                recall=caught / int((fraud & old).sum()) if (fraud & old).any() else None,
                fraud_minor=int(data.amount_minor[bad].sum()),
                genuine_minor=int(data.amount_minor[good].sum()),
                already_stopped=None if stopped is None else int((mask & stopped).sum()),
                examples=_examples(rule, data, used, mask, fraud, genuine, examples),
            )
        )
    return Trial(len(fraud), data.bad_payments + data.bad_labels, days, int(fraud.sum()), tried)


def _examples(
    rule: Expression, data: Dataset, used: Catalog, mask: Mask, fraud: Mask, genuine: Mask, count: int
) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for verdict, some in ((FRAUD, fraud), (GENUINE, genuine), (UNLABELLED, ~fraud & ~genuine)):
        rows: npt.NDArray[np.int64] = np.flatnonzero(mask & some)
        for row in rows[::-1][:count].tolist() if count else []:
            facts: dict[str, Any] = {}
            for name in sorted(rule.names - {SCORE, *IDENTITY, *KEPT_BY_ITSELF}):
                if name in FIELDS:
                    facts[name] = data.columns[name][row].as_py()
                else:
                    value = float(data.values[row, used.names.index(name)])
                    facts[name] = None if np.isnan(value) else value
            found.append(
                {
                    "event_id": data.columns["event_id"][row].as_py(),
                    "card_id": data.columns["card_id"][row].as_py(),
                    "event_time": int(data.event_time[row]),
                    "amount_minor": int(data.amount_minor[row]),
                    "verdict": verdict,
                }
                | facts
            )
    return found
