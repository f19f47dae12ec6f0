"""`fraudline backtest`: what models and policies would have decided of a history, against what is known now.

Features are computed once, for all variants, as the processor would have computed them: each label counts from its
`labelled_at` on. Then every variant scores and decides, a batch at a time. What depends on time or load alone stands
still: no decline limiter, no moving threshold, no lists.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from consumer.columns import decisions_of, features_of, fields_of, place_of, rules_of
from consumer.decode import looks_like_card_number
from consumer.production import decisions_told
from consumer.streams import Stream
from consumer.threads import PerThread, in_turn
from features.catalog import Catalog
from features.errors import ConfigError
from features.history import local
from features.history.chunks import KEPT
from features.history.files import check_output
from features.history.job import Job
from features.history.mapping import AS_NAMED, Columns
from models import outcomes
from models.bundle import Bundle, load
from models.dataset import DAY_MS, hashed, labels_about
from models.lists import LISTS
from models.outcomes import Jury, Said, Truth
from models.policy import DECISIONS, Policy, parse, read_text
from models.score import Scorer
from models.signature import ANYBODY, Trust

ROWS: Final = 16_384  # decided at once
PRODUCTION: Final = "production"
NONE: Final = "(none)"
Progress = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class Variant:
    """A model and a policy under a name."""

    name: str
    bundle: Bundle
    policy: Policy

    def columns(self, catalog: Catalog) -> npt.NDArray[np.intp]:
        """Where its features are among a catalog's."""
        places = {name: place for place, name in enumerate(catalog.names)}
        return np.array([places[name] for name in self.bundle.manifest.features], np.intp)

    @property
    def actions(self) -> dict[str, str]:
        """What each rule asks for; of shadow rules nothing."""
        return {rule.id: "shadow" if rule.shadow else rule.action for rule in self.policy.rules}


def variant(text: str, catalog: Catalog, trust: Trust = ANYBODY) -> Variant:
    """`NAME=BUNDLE` or `NAME=BUNDLE,POLICY`, loaded and verified. Raises ConfigError, BundleError."""
    name, equals, place = text.partition("=")
    if not equals or not name.strip() or not place:
        raise ConfigError(f"--variant {text} is not NAME=BUNDLE or NAME=BUNDLE,POLICY.")
    if name.strip() == PRODUCTION:
        raise ConfigError(f"--variant {PRODUCTION} is what --decisions are called; give another name.")
    path, comma, policy_path = place.partition(",")
    bundle = load(Path(path), catalog, trust)
    policy = bundle.policy
    if comma:
        policy = parse(read_text(Path(policy_path)), catalog.only(bundle.manifest.features).flags, where=policy_path)
    return Variant(name.strip(), bundle, policy)


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be found out.

    Attributes:
        payments: in log order: Parquet, CSV or JSON lines; a file, or a folder of such files.
        labels: likewise, in any order; None for none.
        variants: one or several; the first is what the others are held to.
        decisions: what production decided, a Parquet file or records of the topic; None where that is not asked.
        from_ms, to_ms: payments of these event times are judged; older ones still make the features.
        mature_ms: payments so much older than the history's end are known to be what they are called, or else genuine.
        segments: fields of the payments by which measures are told apart.
        mapped: which columns of the files are which fields, where they have other names.
        skip_bad: leave out rows that are no record.
        memory_mb: for features.
        threads: that compute and score.
        resamples: of the bootstrap; 0 for no intervals.
    """

    payments: Path
    labels: Path | None
    variants: tuple[Variant, ...]
    decisions: Path | Stream | None = None
    from_ms: int | None = None
    to_ms: int | None = None
    mature_ms: int = 7 * DAY_MS
    segments: tuple[str, ...] = ()
    mapped: Columns = AS_NAMED
    skip_bad: bool = False
    memory_mb: int = 1_024
    threads: int = 1
    resamples: int = outcomes.RESAMPLES


@dataclass(slots=True)
class _Part:
    """What a batch gave: its newest payment, judged or not; rows of the file; and by variant what `_Heard` takes."""

    newest_ms: int
    rows: pa.RecordBatch
    event: npt.NDArray[np.int64]
    card: npt.NDArray[np.int64]
    amount: npt.NDArray[np.int64]
    event_time: npt.NDArray[np.int64]
    groups: dict[str, list[str | None]]
    said: list[tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8], npt.NDArray[np.float32], dict[str, Any]]]


@dataclass(slots=True)
class _Gathered:
    """The same for the whole history, as arrays."""

    event: list[npt.NDArray[np.int64]] = field(default_factory=list)
    card: list[npt.NDArray[np.int64]] = field(default_factory=list)
    event_time: list[npt.NDArray[np.int64]] = field(default_factory=list)
    amount: list[npt.NDArray[np.int64]] = field(default_factory=list)
    codes: dict[str, list[npt.NDArray[np.int64]]] = field(default_factory=dict)
    words: dict[str, dict[str, int]] = field(default_factory=dict)
    n: int = 0
    newest_ms: int = 0


def backtest(
    asked: Asked, catalog: Catalog, out: Path, progress: Progress = lambda _text, _share: None
) -> dict[str, Any]:
    """Decide, judge, and write each payment to `out`, a Parquet file.

    Its columns: event_id, card_id, event_time, amount_minor, `fraud` and `known`; of each variant `NAME.score`,
    `NAME.decision` and `NAME.rules`; with decisions of production, theirs.

    Returns:
        The figures, as JSON values.

    Raises:
        ConfigError: a file can't be read or written, has bad rows, or holds no payment.
    """
    check_output(out, asked.payments, asked.labels, asked.decisions if isinstance(asked.decisions, Path) else None)
    if out.suffix != ".parquet":
        raise ConfigError(f"{out} must end in .parquet.")
    names = [each.name for each in asked.variants]
    if len(set(names)) != len(names):
        raise ConfigError("Two variants have the same name; give each its own.")
    needed = {name for each in asked.variants for name in each.bundle.manifest.features}
    used = catalog.only(tuple(name for name in catalog.names if name in needed))
    fields = {"amount_minor", *asked.segments}.union(*(each.policy.fields for each in asked.variants))
    with local.beside(out) as folder:
        job = Job(
            asked.payments,
            asked.labels,
            folder / "features",
            looks_like_card_number,
            catalog=used,
            memory_mb=asked.memory_mb,
            jobs=asked.threads,
            keep=tuple(sorted(fields)),
            skip_bad=asked.skip_bad,
            progress=lambda stage, share: progress(stage, 0.5 * share),
            mapped=asked.mapped,
        )
        gathered = _Gathered()
        heard = [_Heard(each) for each in asked.variants]
        plain = folder / "decided.parquet"
        with local.streamed(job) as (built, batches), pq.ParquetWriter(plain, _schema(names)) as file:
            for part, share in _decided(batches, built.payments, used, asked):
                _gather(gathered, part)
                for each, told in zip(heard, part.said, strict=True):
                    each.take(*told)
                if part.rows.num_rows:
                    file.write_batch(part.rows)
                progress("deciding", 0.5 + 0.3 * share)
        if not gathered.n:
            raise ConfigError("The history holds no payment that is to be judged; give payments in log order.")
        progress("judging", 0.8)
        truth = _truth(gathered, asked)
        said = {name: each.whole() for name, each in zip(names, heard, strict=True)}
        if asked.decisions is not None:
            said[PRODUCTION] = _production(asked.decisions, gathered)
        with ThreadPoolExecutor(1) as beside:
            finishing = beside.submit(_finish, plain, folder / "complete", truth, said.get(PRODUCTION))
            if asked.threads == 1:
                finishing.result()
            found = _figures(asked, truth, said, gathered, progress)
            finishing.result()
        found["history"] |= {"repeated": built.repeated, "refused_payments": built.refused_payments}
        found["history"] |= {"labels": built.labels, "refused_labels": built.refused_labels}
        (folder / "complete").replace(out)
    progress("done", 1.0)
    return found


def _schema(names: Sequence[str]) -> pa.Schema:
    columns = [
        pa.field("event_id", pa.string(), nullable=False),
        pa.field("card_id", pa.string(), nullable=False),
        pa.field("event_time", pa.int64(), nullable=False),
        pa.field("amount_minor", pa.int64(), nullable=False),
    ]
    for name in names:
        columns += [
            pa.field(f"{name}.score", pa.float32(), nullable=False),
            pa.field(f"{name}.decision", pa.string(), nullable=False),
            pa.field(f"{name}.rules", pa.list_(pa.string()), nullable=False),
        ]
    return pa.schema(columns)


class _Heard:
    """What a variant said so far."""

    def __init__(self, of: Variant) -> None:
        self._of = of
        self._scores: list[npt.NDArray[np.float32]] = []
        self._decisions: list[npt.NDArray[np.uint8]] = []
        self._reviews: list[npt.NDArray[np.float32]] = []
        self._rules: dict[str, list[npt.NDArray[np.int64]]] = {}
        self._n = 0

    def take(
        self,
        scores: npt.NDArray[np.float32],
        decisions: npt.NDArray[np.uint8],
        reviews: npt.NDArray[np.float32],
        fired: Mapping[str, npt.NDArray[np.bool_]],
    ) -> None:
        self._scores.append(scores)
        self._decisions.append(decisions)
        self._reviews.append(reviews)
        for rule, mask in fired.items():
            self._rules.setdefault(rule, []).append(np.flatnonzero(mask) + self._n)
        self._n += len(scores)

    def whole(self) -> Said:
        known = {rule: np.concatenate(parts) for rule, parts in self._rules.items()}
        quiet = {rule: np.zeros(0, np.int64) for rule in self._of.actions if rule not in known}
        return Said(
            np.concatenate(self._scores),
            np.concatenate(self._decisions),
            np.ones(self._n, np.bool_),
            known | quiet,
            np.concatenate(self._reviews),
            self._of.actions | {f"list_{name}": name for name in LISTS},
        )


def _decided(
    ranges: Iterator[pa.RecordBatch], payments: int, used: Catalog, asked: Asked
) -> Iterator[tuple[_Part, float]]:
    """The features of so many payments, decided a batch at a time; several at once, given in their order."""
    placed = [(each, each.columns(used)) for each in asked.variants]
    scorers = PerThread[int, Scorer](lambda number: Scorer(asked.variants[number].bundle, threads=1, compiled=True))
    schema = _schema([each.name for each in asked.variants])
    from_ms = asked.from_ms or 0
    to_ms = math.inf if asked.to_ms is None else asked.to_ms

    def decide(whole: pa.RecordBatch) -> tuple[int, _Part]:
        time = np.asarray(whole.column("event_time"))
        newest_ms = int(time.max(initial=0))
        batch = whole.filter(pa.array(~np.asarray(whole.column("repeated")) & (time >= from_ms) & (time < to_ms)))
        values = features_of(batch, used.names)
        time = np.asarray(batch.column("event_time"))
        said = []
        for number, (each, places) in enumerate(placed):
            own = np.ascontiguousarray(values[:, places])
            scores = scorers[number].score(own)
            told = each.policy.decide(scores, own, "full", fields=fields_of(batch), event_time=time)
            reviews = np.full(len(batch), np.nan, np.float32) if told.review is None else told.review
            said.append((scores, told.decision.astype(np.uint8), reviews, dict((*told.fired, *told.shadow))))
        groups = {name: batch.column(place_of(name)).to_pylist() for name in asked.segments}
        amount = np.asarray(batch.column(KEPT + "amount_minor"))
        columns = [*(batch.column(name) for name in ("event_id", "card_id", "event_time")), pa.array(amount)]
        for scores, decisions, _, fired in said:
            columns += [pa.array(scores), decisions_of(decisions), rules_of(len(scores), fired.items())]
        rows = pa.RecordBatch.from_arrays(columns, schema=schema)
        event, card = hashed(batch.column("event_id")), hashed(batch.column("card_id"))
        return len(whole), _Part(newest_ms, rows, event, card, amount, time, groups, said)

    batches = (each.slice(start, ROWS) for each in ranges for start in range(0, len(each), ROWS))
    done = 0
    for rows, part in in_turn(decide, batches, asked.threads):
        done += rows
        yield part, done / payments


def _gather(to: _Gathered, part: _Part) -> None:
    to.event.append(part.event)
    to.card.append(part.card)
    to.event_time.append(part.event_time)
    to.amount.append(part.amount)
    to.n += len(part.amount)
    to.newest_ms = max(to.newest_ms, part.newest_ms)
    for name, texts in part.groups.items():
        words = to.words.setdefault(name, {})
        codes = [words.setdefault(NONE if text is None else str(text), len(words)) for text in texts]
        to.codes.setdefault(name, []).append(np.array(codes, np.int64))


def _truth(gathered: _Gathered, asked: Asked) -> Truth:
    event, card = np.concatenate(gathered.event), np.concatenate(gathered.card)
    row, _, verdict = labels_about(asked.labels, asked.mapped, event, card, looks_like_card_number)
    event_time = np.concatenate(gathered.event_time)
    fraud = np.zeros(len(event), np.bool_)
    fraud[row] = verdict  # numpy keeps the last of repeated indices
    known = event_time <= gathered.newest_ms - asked.mature_ms
    return Truth(event_time, np.concatenate(gathered.amount), card, fraud, known)


def _production(source: Path | Stream, gathered: _Gathered) -> Said:
    """What production decided of these payments; the first decision of a payment counts."""
    event, card = np.concatenate(gathered.event), np.concatenate(gathered.card)
    n = len(event)
    order = np.lexsort((card, event))
    keys = np.stack([event[order], card[order]], axis=1)
    scores, decisions = np.full(n, np.nan, np.float32), np.zeros(n, np.uint8)
    decided = np.zeros(n, np.bool_)
    rules: dict[str, list[int]] = {}
    codes = {name: place for place, name in enumerate(DECISIONS)}
    for told in decisions_told(source):
        ours = [hashed(pa.array([each[at] for each in told])) for at in (0, 1)]
        at = np.searchsorted(keys[:, 0], ours[0])
        for (_, _, decision, score, fired), place, its_event, its_card in zip(
            told, at.tolist(), ours[0].tolist(), ours[1].tolist(), strict=True
        ):
            here = place
            while here < n and keys[here, 0] == its_event and keys[here, 1] != its_card:
                here += 1
            if here == n or keys[here, 0] != its_event or decided[order[here]]:
                continue
            row = int(order[here])
            decided[row], decisions[row] = True, codes[decision]
            scores[row] = np.nan if score is None else score
            for rule in fired:
                rules.setdefault(rule, []).append(row)
    return Said(
        scores,
        decisions,
        decided,
        {rule: np.array(sorted(rows), np.int64) for rule, rows in rules.items()},
        np.full(n, np.nan, np.float32),
        {},
    )


def _finish(plain: Path, to: Path, truth: Truth, production: Said | None) -> None:
    """The decided payments with what became of them."""
    with pq.ParquetFile(plain) as file:
        fields = [pa.field("fraud", pa.bool_(), nullable=False), pa.field("known", pa.bool_(), nullable=False)]
        if production is not None:
            fields += [pa.field(f"{PRODUCTION}.score", pa.float32()), pa.field(f"{PRODUCTION}.decision", pa.string())]
        schema = pa.schema([*file.schema_arrow, *fields])
        with pq.ParquetWriter(to, schema) as complete:
            at = 0
            for batch in file.iter_batches(ROWS):
                here = slice(at, at + len(batch))
                at += len(batch)
                more = [pa.array(truth.fraud[here]), pa.array(truth.known[here])]
                if production is not None:
                    decided = production.decided[here]
                    scores, names = production.scores[here], np.array(DECISIONS, object)[production.decisions[here]]
                    more += [pa.array(scores, mask=np.isnan(scores)), pa.array(names, pa.string(), mask=~decided)]
                complete.write_batch(pa.RecordBatch.from_arrays([*batch.columns, *more], schema=schema))


def _figures(
    asked: Asked, truth: Truth, said: Mapping[str, Said], gathered: _Gathered, progress: Progress
) -> dict[str, Any]:
    names = list(said)
    groups = {name: (np.concatenate(codes), list(gathered.words[name])) for name, codes in gathered.codes.items()}
    told = {}
    jury = Jury(truth, resamples=asked.resamples, threads=asked.threads)
    for number, (name, each) in enumerate(said.items()):
        told[name] = jury.measures(each)
        progress("judging", 0.8 + 0.15 * (number + 1) / len(said))
    pairs: Iterable[tuple[str, str]] = [(names[0], name) for name in names[1:]]
    return {
        "history": {
            "payments": gathered.n,
            "days": truth.days,
            "fraud": int(truth.fraud.sum()),
            "known": int(truth.known.sum()),
            "fraud_minor": int(truth.amount_minor[truth.fraud].sum()),
            "from_ms": int(truth.event_time.min()),
            "to_ms": int(truth.event_time.max()),
        },
        "variants": {
            each.name: {
                "bundle": each.bundle.digest,
                "model": f"{each.bundle.manifest.name}@{each.bundle.manifest.version}",
                "policy": each.policy.digest,
            }
            for each in asked.variants
        },
        "measures": told,
        "segments": outcomes.segments(truth, list(said.values()), groups),
        "rules": {name: outcomes.rules(truth, each) for name, each in said.items()},
        "differences": [{"old": old, "new": new} | jury.difference(said[old], said[new]) for old, new in pairs],
    }
