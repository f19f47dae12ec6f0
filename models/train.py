"""Trains a bundle: two models, thresholds for an alert budget, a few rules, and what they achieved on later payments.

Windows of time follow one another (see `models.windows`). On all but the newest, what has to be chosen is chosen: the
number of trees, the line that makes scores probabilities, the thresholds. The newest is the test. Then the models are
fitted once more, to everything that was known at the end.

Equal inputs, options and threads give the same bytes on the CPU.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from features.catalog import DEFAULT, Catalog
from features.errors import ConfigError
from features.history.mapping import AS_NAMED, Columns
from models import dataset, evaluate
from models.bundle_writer import Recipe, check_place, write
from models.calibrate import Line, calibrated, with_line
from models.dataset import DAY_MS, Dataset, Mask, Progress, Values
from models.drift import MIN_PAYMENTS, reference
from models.facts import FIELDS
from models.fit import TREE_STEP, Part, TreeOptions, check_device, fit, margins, precision_by_trees
from models.policy import Policy, Thresholds
from models.starter_rules import starter_rules
from models.thresholds import chosen_thresholds
from models.windows import Plan, Window, plan

Scores = npt.NDArray[np.float32]

ALERT_SHARE: Final = 0.01
LEFT_OUT: Final = ("merchant_mean_30d", "merchant_count_7d")
BLOCK_PRECISION: Final = 0.9
SLACK: Final = 0.001
MIN_LEARN_FRAUDS: Final = 10
MIN_JUDGE_FRAUDS: Final = 3
_GOLDEN_SAMPLE: Final = 32
_SAMPLE: Final = 1_000_000  # payments that starter rules and references are drawn from
_NOT_METRICS: Final = frozenset({"name", "version", "created_ms", "memory_mb"})


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """How to train. Shares are of all payments.

    Attributes:
        alert_share: the alert budget: the share of payments that may be reviewed or blocked.
        alerts_per_day: in place of that share: so many a day.
        review_precision: in place of either: as many as keep this share of the alerts fraud.
        alert_cost_minor: in place of all these: what working an alert costs; review where stopping fraud saves more.
        block_precision: block only where this share of the blocked payments was fraud.
        decline_cost_minor: in place of that: what a good payment that is blocked costs.
        segment_thresholds: a field of the payments: each of its common values gets thresholds of its own, chosen in the
            same way.
        from_ms: older payments are not learned from; their history still counts.
        to_ms: the moment at which the model is made: what happened or was labelled from then on is not known.
        label_delay_days: how long labels take: younger payments are not learned from.
        windows: of validation, the newest of them the test.
        trees: at most so many; the windows say how many are best.
        threads: CPU threads. On a machine that is busy otherwise, two were seen to take 60 s where one takes 10: the
            threads wait for each other, spinning.
        memory_mb: for features, and for quantised rows; what is more waits in files.
        leave_out: features that the trees may not use, though rules may. Those of the default are levels that hardly
            change from payment to payment: trees take them for the merchant's name, and learn who was defrauded.
        created_ms: when the bundle counts as made; None for the time of the newest payment, so that equal inputs give
            equal bytes.

    Raises:
        ConfigError: a value can't be used.
    """

    alert_share: float = ALERT_SHARE
    alerts_per_day: float | None = None
    review_precision: float | None = None
    alert_cost_minor: float | None = None
    block_precision: float = BLOCK_PRECISION
    decline_cost_minor: float | None = None
    segment_thresholds: str | None = None
    from_ms: int | None = None
    to_ms: int | None = None
    label_delay_days: float = 7.0
    windows: int = 3
    trees: int = 600
    depth: int = 4
    learning_rate: float = 0.03
    min_child_weight: float = 1.0
    subsample: float = 0.8
    columns_per_tree: float = 0.5
    l2: float = 1.0
    seed: int = 7
    threads: int = 1
    device: Literal["cpu", "cuda"] = "cpu"
    memory_mb: int = 2_048
    name: str = "fraudline"
    version: str = "1"
    leave_out: tuple[str, ...] = LEFT_OUT
    created_ms: int | None = None

    def __post_init__(self) -> None:
        for name, least, most in (
            ("alert_share", 0.0, 1.0),
            ("block_precision", 0.0, 1.0),
            ("label_delay_days", 0.0, 3_650.0),
            ("windows", 2, 50),
            ("trees", TREE_STEP, 10_000),
            ("depth", 1, 12),
            ("learning_rate", 0.001, 1.0),
            ("min_child_weight", 0.0, 1e6),
            ("subsample", 0.05, 1.0),
            ("columns_per_tree", 0.05, 1.0),
            ("l2", 0.0, 1e6),
            ("seed", 0, 2**31 - 1),
            ("threads", 1, 1_024),
            ("memory_mb", 16, 1 << 24),
            ("alerts_per_day", 0.0, 1e9),
            ("review_precision", 0.0, 1.0),
            ("alert_cost_minor", 0.0, 1e12),
            ("decline_cost_minor", 0.0, 1e12),
        ):
            value = getattr(self, name)
            if value is not None and not least <= value <= most:  # NaN is refused too
                raise ConfigError(
                    f"Training's {name} must lie between {least:,} and {most:,}; give a value inside that range."
                )
        if self.segment_thresholds is not None and FIELDS.get(self.segment_thresholds) != "text":
            raise ConfigError(
                f"Thresholds can't be chosen by {self.segment_thresholds}: give a text field of a payment, as channel."
            )
        if self.from_ms is not None and self.to_ms is not None and self.from_ms >= self.to_ms:
            raise ConfigError("Training's --from must lie before its --to.")

    def tree_options(self, trees: int) -> TreeOptions:
        """How to grow so many trees."""
        return TreeOptions(
            trees=trees,
            depth=self.depth,
            learning_rate=self.learning_rate,
            min_child_weight=self.min_child_weight,
            subsample=self.subsample,
            columns_per_tree=self.columns_per_tree,
            l2=self.l2,
            seed=self.seed,
            threads=self.threads,
            device=self.device,
        )


@dataclass(frozen=True, slots=True)
class Judged:
    """What a model that knew nothing of a window said about its payments.

    Attributes:
        window: which.
        rows: (m,) the payments' places in the dataset.
        fraud: (m,) what they were.
        scores: (m,) calibrated.
    """

    window: Window
    rows: npt.NDArray[np.int64]
    fraud: Mask
    scores: Scores


@dataclass(frozen=True, slots=True)
class Fitted:
    """One model, and how it came about.

    Attributes:
        model: UBJ.
        trees: how many it has.
        thresholds: chosen on all windows but the last.
        judged: the windows, the last of them the test.
        curve: mean average precision over the choosing windows by number of trees, every `TREE_STEP`.
    """

    model: bytes
    trees: int
    line: Line
    thresholds: Thresholds
    judged: tuple[Judged, ...]
    curve: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Trained:
    """What training gives: the metrics that the manifest keeps, and all that a report needs."""

    metrics: dict[str, Any]
    data: Dataset
    plan: Plan
    models: dict[str, Fitted]
    names: dict[str, tuple[str, ...]]


def _silent(_stage: str, _share: float) -> None:
    """Progress that nobody watches."""


def _unused(_trained: Trained) -> None:
    """Nobody looks at the data any more."""


def train(
    payments: Path,
    labels: Path,
    out: Path,
    *,
    options: TrainOptions = TrainOptions(),  # frozen
    progress: Progress = _silent,
    catalog: Catalog = DEFAULT,
    is_card_number: Callable[[str], bool] = lambda _text: False,
    choose: Callable[[Dataset, Plan, TrainOptions], TrainOptions] | None = None,
    report: Callable[[Trained], None] = _unused,
    segments: tuple[str, ...] = (),
    mapped: Columns = AS_NAMED,
) -> dict[str, Any]:
    """Train a bundle from a payments file in log order and a labels file, and write it to `out`.

    Rows that are no records are skipped and counted.

    Args:
        payments: Parquet, CSV or JSON lines; a file in the order of the log, or a folder of such files.
        labels: likewise, in any order.
        out: the bundle's directory; a bundle that is there is replaced.
        options: how to train.
        progress: told what is being done and the share of all work that is done.
        catalog: the features.
        is_card_number: tells a card number from a token; records with one are skipped and counted too.
        choose: looks for better options on the windows that are for choosing; see `models.search`.
        report: given everything, while the data are still there.
        segments: columns of the payments that a report needs.
        mapped: which columns of the files are which fields, where they have other names.

    Returns:
        The metrics that the manifest keeps: counts, and for each model average precision, ROC AUC, and precision and
        recall at its thresholds, on the test part.

    Raises:
        ConfigError: a file can't be read or written, there are too few payments or frauds to learn from, or the
            catalog has no feature of the payment alone.
    """
    check_place(out)
    check_device(options.device)
    if unknown := [name for name in options.leave_out if name not in (*catalog.names, *LEFT_OUT)]:
        raise ConfigError(f"--leave-out {unknown[0]} is no feature of the catalog; see fraudline features list.")
    if not catalog.payment_columns:
        raise ConfigError(
            "The catalog has no feature of the payment alone, which the model for outages needs; "
            "switch on its group payment."
        )
    with _scratch(out) as folder:
        data = dataset.read(
            payments,
            labels,
            catalog,
            folder,
            _part_of(progress, 0.0, 0.4),
            is_card_number,
            columns=tuple(dict.fromkeys([*segments, *filter(None, [options.segment_thresholds])])),
            memory_mb=options.memory_mb,
            threads=options.threads,
            mapped=mapped,
        )
        steps = _plan(data, options)
        if choose is not None:
            options = choose(data, steps, options)
        columns = {
            "full": np.arange(len(catalog.names)),
            "no_features": np.asarray(catalog.payment_columns, np.int64),
        }
        names = {tier: tuple(catalog.names[column] for column in some) for tier, some in columns.items()}
        fitted = {
            tier: _fitted(data, steps, some, names[tier], options, _part_of(progress, start, end))
            for (tier, some), (start, end) in zip(columns.items(), ((0.4, 0.85), (0.85, 0.98)), strict=True)
        }
        metrics = _counts(data, steps, fitted, options) | {tier: _quality(each) for tier, each in fitted.items()}
        learned = np.flatnonzero(steps.learn)
        sample = data.values[_thinned(learned)]
        settled = data.values[_thinned(_settled(data, learned, catalog))]
        recipe = Recipe(
            name=options.name,
            version=options.version,
            created_ms=int(data.event_time.max()) if options.created_ms is None else options.created_ms,
            model=fitted["full"].model,
            no_features=fitted["no_features"].model,
            policy=Policy(
                catalog.flags,
                {tier: each.thresholds for tier, each in fitted.items()},  # type: ignore[misc]  # its tiers
                starter_rules(sample, catalog.names),
            ),
            golden_rows=_golden_rows(data.values[fitted["full"].judged[-1].rows]),
            window=(int(data.event_time[learned].min()), int(data.event_time[learned].max())),
            metrics=metrics,
            reference=reference(catalog.features, settled, _later_scores(data, steps, fitted["full"])),
        )
        written = write(out, recipe, catalog)
        metrics["trees"] = dict(written.manifest.trees)
        report(Trained(metrics, data, steps, fitted, names))
    progress("done", 1.0)
    return metrics


@contextmanager
def _scratch(out: Path) -> Any:
    """A folder beside the bundle: features of a long history are larger than most places for temporary files."""
    try:
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder:
            yield Path(folder)
    except OSError as error:
        raise ConfigError(
            f"There is no room to work beside {out} ({error.strerror}); free some, or give another place."
        ) from None


def _part_of(progress: Progress, start: float, end: float) -> Progress:
    """Progress of one stage as a share of all work."""
    return lambda text, share: progress(text, start + (end - start) * share)


def _plan(data: Dataset, options: TrainOptions) -> Plan:
    """As many windows as were asked for, or as there is fraud for, but at least two."""
    if not len(data.values):
        raise ConfigError("The payments file holds no payment; give payments in log order.")
    if not data.label_fraud.any():
        raise ConfigError("The labels file calls none of the payments fraud; give the labels of these payments.")
    first, last = int(data.event_time.min()), int(data.event_time.max())
    if options.to_ms is not None and options.to_ms <= first:
        raise ConfigError(f"--to lies before the first payment, which is of {_day(first)}; give a later time.")
    if options.from_ms is not None and options.from_ms > last:
        raise ConfigError(f"--from lies behind the last payment, which is of {_day(last)}; give an earlier time.")
    newest = int(max(data.event_time.max(), data.label_at.max(initial=0))) + 1
    end_ms = newest if options.to_ms is None else options.to_ms
    gap_ms = round(options.label_delay_days * DAY_MS)
    for windows in range(options.windows, 1, -1):
        steps = plan(data.event_time, start_ms=options.from_ms or 0, end_ms=end_ms, gap_ms=gap_ms, windows=windows)
        truth = data.fraud_known_by(steps.known_ms)
        counts = [
            (int(data.fraud_known_by(each.known_ms)[each.learn].sum()), int(truth[each.judge].sum()))
            for each in steps.windows
        ]
        if counts and all(a >= MIN_LEARN_FRAUDS and b >= MIN_JUDGE_FRAUDS for a, b in counts):
            return steps
    learned, judged = (min(each) for each in zip(*counts, strict=True)) if counts else (0, 0)
    raise ConfigError(
        f"There is too little to learn from: of two windows one has {learned:,} known frauds to learn from "
        f"({MIN_LEARN_FRAUDS} needed) and {judged:,} to be judged on ({MIN_JUDGE_FRAUDS} needed); give a longer "
        "history, or a smaller --label-delay-days."
    )


def _day(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1_000, UTC).date().isoformat()


def judged_part(data: Dataset, window: Window, columns: npt.NDArray[np.int64], known_ms: int) -> Part:
    """A window's payments, and what is known of them at the end."""
    rows = np.flatnonzero(window.judge)
    return Part(data.values, rows, columns, data.fraud_known_by(known_ms)[rows])


def choosing_models(
    data: Dataset,
    steps: Plan,
    columns: npt.NDArray[np.int64],
    names: tuple[str, ...],
    options: TrainOptions,
    progress: Progress,
) -> tuple[list[bytes], npt.NDArray[np.float64]]:
    """A model for each window but the test, and the mean over them of average precision by trees, every `TREE_STEP`."""
    windows = steps.windows[:-1]
    models, curves = [], []
    for number, window in enumerate(windows):
        judge = judged_part(data, window, columns, steps.known_ms)
        part = _part_of(progress, number / len(windows), (number + 1) / len(windows))
        most = options.tree_options(options.trees // TREE_STEP * TREE_STEP)
        learned = _learned_part(data, window.learn, columns, window.known_ms, names, options)
        models.append(fit(learned, names, most, part, options.memory_mb, judge))
        curves.append(precision_by_trees(models[-1], judge, TREE_STEP))
    longest = max(map(len, curves))
    padded = [
        curve + [curve[-1]] * (longest - len(curve)) for curve in curves
    ]  # where growing stopped, none was better
    return models, np.asarray(np.mean(padded, axis=0), np.float64)


def _learned_part(
    data: Dataset,
    learn: Mask,
    columns: npt.NDArray[np.int64],
    known_ms: int,
    names: tuple[str, ...],
    options: TrainOptions,
) -> Part:
    rows = np.flatnonzero(learn)
    hidden = tuple(at for at, name in enumerate(names) if name in options.leave_out)
    return Part(data.values, rows, columns, data.fraud_known_by(known_ms)[rows], hidden=hidden)


def _fitted(
    data: Dataset,
    steps: Plan,
    columns: npt.NDArray[np.int64],
    names: tuple[str, ...],
    options: TrainOptions,
    progress: Progress,
) -> Fitted:
    models, curve = choosing_models(data, steps, columns, names, options, _part_of(progress, 0, 0.6))
    trees = fewest(curve)
    chosen, test = options.tree_options(trees), steps.windows[-1]
    learned = _learned_part(data, test.learn, columns, test.known_ms, names, options)
    models.append(fit(learned, names, chosen, _part_of(progress, 0.6, 0.8), options.memory_mb))
    parts = [judged_part(data, window, columns, steps.known_ms) for window in steps.windows]
    told = [margins(model, part, trees) for model, part in zip(models, parts, strict=True)]
    chosen_on = np.concatenate([part.fraud for part in parts[:-1]])
    line = calibrated(np.concatenate(told[:-1]), chosen_on)
    scores = [_probabilities(each, line) for each in told]
    learned = _learned_part(data, steps.learn, columns, steps.known_ms, names, options)
    model = fit(learned, names, chosen, _part_of(progress, 0.8, 1), options.memory_mb)
    return Fitted(
        model=with_line(model, line),
        trees=trees,
        line=line,
        thresholds=chosen_thresholds(
            data, np.concatenate([part.rows for part in parts[:-1]]), chosen_on, np.concatenate(scores[:-1]), options
        ),
        judged=tuple(
            Judged(window, part.rows, part.fraud, each)
            for window, part, each in zip(steps.windows, parts, scores, strict=True)
        ),
        curve=tuple(curve.tolist()),
    )


def fewest(curve: npt.NDArray[np.float64]) -> int:
    """The fewest trees that are as good as the best number, but for `SLACK` of its average precision.

    Further trees learn the history's accidents: over the earlier weeks of `bench.quality` the area under the ROC curve
    falls while average precision still creeps up. In the spirit of the one-standard-error rule of Breiman, Friedman,
    Olshen and Stone, "Classification and Regression Trees" (1984), chapter 3.

    Args:
        curve: average precision of the first 1, 2, ... times `TREE_STEP` trees.
    """
    return (int(np.argmax(curve >= (1 - SLACK) * curve.max())) + 1) * TREE_STEP


def _probabilities(margin: npt.NDArray[np.float64], line: Line) -> Scores:
    return (1 / (1 + np.exp(-(line.slope * margin + line.offset)))).astype(np.float32)


def _thinned(rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return rows[:: len(rows) // _SAMPLE + 1]


def _settled(data: Dataset, learned: npt.NDArray[np.int64], catalog: Catalog) -> npt.NDArray[np.int64]:
    """Learned payments with the whole of the longest window behind them, or where these are few, the newest quarter.

    Before that the features of a history still grow, as those of a running processor do not.
    """
    longest_ms = max(each.window_ms + each.delay_ms for each in catalog.features)
    time = data.event_time[learned]
    settled = learned[time >= int(data.event_time.min()) + longest_ms]
    if len(settled) >= len(learned) // 4:
        return settled
    return learned[time >= np.quantile(time, 0.75)]


def _later_scores(data: Dataset, steps: Plan, fitted: Fitted) -> Scores:
    """What the final model says of payments that it did not learn from, because their labels are not known yet.

    Those of the test window, where there are none or few: it has learned from them, which is seldom to be seen.
    """
    later = np.flatnonzero((data.event_time > data.event_time[steps.learn].max()) & (data.event_time < steps.known_ms))
    rows = later if len(later) >= MIN_PAYMENTS else fitted.judged[-1].rows
    columns = np.arange(data.values.shape[1])
    told = margins(fitted.model, Part(data.values, rows, columns, np.zeros(len(rows), np.bool_)))
    return _probabilities(told, Line())  # the line is in the final model's trees


def _quality(fitted: Fitted) -> dict[str, Any]:
    test, thresholds = fitted.judged[-1], fitted.thresholds
    blocked = thresholds.block
    return {
        "average_precision": evaluate.average_precision(test.fraud, test.scores),
        "roc_auc": evaluate.roc_auc(test.fraud, test.scores),
        "recall_at_precision_90": evaluate.recall_at_precision(test.fraud, test.scores, 0.9),
        "review": evaluate.at_threshold(test.fraud, test.scores, thresholds.review).to_dict(),
        "block": None if blocked is None else evaluate.at_threshold(test.fraud, test.scores, blocked).to_dict(),
        "average_precision_by_window": [evaluate.average_precision(each.fraud, each.scores) for each in fitted.judged],
        "calibration": asdict(fitted.line),
    }


def _counts(data: Dataset, steps: Plan, fitted: dict[str, Fitted], options: TrainOptions) -> dict[str, Any]:
    known = data.fraud_known_by(steps.known_ms)
    choosing = [each.rows for each in fitted["full"].judged[:-1]]

    def counted(rows: npt.NDArray[Any]) -> dict[str, int]:
        return {"payments": len(rows), "fraud": int(known[rows].sum())}

    return {
        "payments": len(data.values),
        "fraud": int(known.sum()),
        "bad_payment_lines": data.bad_payments,
        "bad_label_lines": data.bad_labels,
        "repeated_payments": data.repeated,
        "validation_gap_days": steps.gap_ms / DAY_MS,
        "unmatched_labels": data.unmatched_labels,
        "train": counted(np.flatnonzero(steps.learn)),
        "valid": counted(np.concatenate(choosing)),
        "test": counted(fitted["full"].judged[-1].rows),
        "options": {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(options).items()
            if name not in _NOT_METRICS
        },
    }


def _golden_rows(values: Values) -> Values:
    """A sample of real rows, the same with every other column missing, and rows of nothing, zero and extremes."""
    sample = np.array(values[np.linspace(0, len(values) - 1, min(_GOLDEN_SAMPLE, len(values))).astype(int)])
    holes = sample.copy()
    holes[::2, ::2] = np.nan
    holes[1::2, 1::2] = np.nan
    corners = np.array([np.nan, 0.0, 1e12, -1e12], np.float32)
    return np.concatenate([sample, holes, np.repeat(corners[:, None], values.shape[1], axis=1)])
