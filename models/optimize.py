"""Smaller and faster forms of a bundle, each judged beside the original on payments that neither has learned from.

The payments behind the bundle's training window are halved by time. The older half is for choosing: what to prune,
which thresholds lie close together, where to review and block. The newer half judges.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from features.catalog import Catalog
from features.errors import ConfigError
from features.history.mapping import AS_NAMED, Columns
from models import dataset
from models.bundle import Bundle, GoldenRows, load, read_files
from models.bundle_writer import Recipe, check_place, write
from models.dataset import DAY_MS, Dataset, Mask, Progress, Values
from models.drift import histogram
from models.edge.forest import read as read_forest
from models.edge.walk import Walker
from models.fit import Part, TreeOptions, fit
from models.manifest import GOLDEN, MANIFEST, MODEL
from models.measured import Judging, Measured, measured
from models.native import CpuPredictor
from models.policy import AlertRate, Policy, Thresholds
from models.score import open_model
from models.shrink import pruned, quantized
from models.signature import ANYBODY, Trust

Technique = Literal["prune", "quantize", "distill", "compile"]
TECHNIQUES: Final[tuple[Technique, ...]] = ("prune", "quantize", "distill", "compile")
ORIGINAL: Final = "original"
_DONE: Final[dict[Technique, str]] = {"prune": "pruned", "quantize": "quantized"}  # in this order
MIN_FRAUDS: Final = 5  # of either half

Scores = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class OptimizeOptions:
    """How to make a bundle smaller.

    Attributes:
        techniques: what to do. `prune` comes before `quantize`; `distill` learns from the original, and its student is
            quantized too where that is asked for; `compile` measures every form compiled on this machine as well.
        student_trees: of the distilled model; None for a third of the original's, between 10 and 60.
        student_depth: of its trees.
        seed: of its growth.
        threads: CPU threads for that.
        memory_mb: for features, and for quantised rows.

    Raises:
        ConfigError: a value can't be used.
    """

    techniques: tuple[Technique, ...] = TECHNIQUES
    student_trees: int | None = None
    student_depth: int = 4
    seed: int = 7
    threads: int = 1
    memory_mb: int = 2_048

    def __post_init__(self) -> None:
        if not self.techniques or set(self.techniques) - set(TECHNIQUES):
            raise ConfigError(f"--techniques must be some of {', '.join(TECHNIQUES)}.")
        if not 1 <= (self.student_trees or 1) <= 10_000 or not 1 <= self.student_depth <= 12:
            raise ConfigError(
                "A student has 1 to 10,000 trees of a depth of 1 to 12; give numbers inside these ranges."
            )


@dataclass(frozen=True, slots=True)
class _Halves:
    """Payments behind the training window: (m,) those for choosing, (k,) those for judging, and what they were."""

    choose: Values
    chosen_fraud: Mask
    judge: Values
    judged_fraud: Mask


def optimize(
    path: Path,
    payments: Path,
    labels: Path,
    out: Path,
    options: OptimizeOptions,
    progress: Progress,
    catalog: Catalog,
    is_card_number: Callable[[str], bool] = lambda _text: False,
    mapped: Columns = AS_NAMED,
    trust: Trust = ANYBODY,
) -> list[Measured]:
    """Make the forms of the bundle at `path` that are asked for, write each as a bundle into `out`, and measure all.

    Args:
        path: a bundle.
        payments: the history that it was trained on and that goes on after it, in log order.
        labels: its labels.
        out: a directory; the bundles in it are named by what was done.
        options: what to do.
        progress: told what is being done and the share of all work that is done.
        catalog: the features.
        is_card_number: tells a card number from a token.
        mapped: which columns of the files are which fields, where they have other names.
        trust: whose signature counts on the bundle, and whether there has to be one.

    Returns:
        The original and each form, on XGBoost and, if asked for, compiled.

    Raises:
        BundleError: the bundle can't be used.
        ConfigError: the history does not go on after the bundle's training window, with fraud in both halves; or
            something can't be read or written.
    """
    bundle = load(path, catalog, trust)
    forms = _forms(options.techniques)
    if (out / MANIFEST).exists():
        raise ConfigError(f"{out} is a bundle; give a directory for several of them.")
    try:
        if forms:
            out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"The directory {out} can't be made ({error.strerror}); give another place.") from None
    for form in forms:
        check_place(out / form)
    used = catalog.only(bundle.manifest.features)
    try:
        with tempfile.TemporaryDirectory(prefix=".optimize.", dir=out if out.is_dir() else None) as folder:
            data = dataset.read(
                payments,
                labels,
                used,
                Path(folder),
                lambda text, share: progress(text, 0.6 * share),
                is_card_number,
                memory_mb=options.memory_mb,
                threads=options.threads,
                mapped=mapped,
            )
            halves = _halves(bundle, data)
            models = {ORIGINAL: bundle.model} | _made(bundle, data, halves, options, progress)
            return _written(bundle, models, halves, out, options, progress, used)
    except OSError as error:
        raise ConfigError(f"There is no room to work in {out} ({error.strerror}); free some.") from None


def _shrinkings(techniques: Sequence[Technique]) -> list[tuple[Technique, str]]:
    """What is done to the model one after the other, and what each makes of it is called."""
    asked = [each for each in _DONE if each in techniques]
    return [(each, "-".join(_DONE[one] for one in asked[: at + 1])) for at, each in enumerate(asked)]


def _forms(techniques: Sequence[Technique]) -> list[str]:
    """The names of the bundles that these techniques make."""
    return [name for _, name in _shrinkings(techniques)] + ["distilled", "tiered"] * ("distill" in techniques)


def _halves(bundle: Bundle, data: Dataset) -> _Halves:
    last_ms = bundle.manifest.training_window.last_ms
    gap_days = bundle.manifest.metrics.get("validation_gap_days")
    gap_ms = round((gap_days if isinstance(gap_days, int | float) else 0) * DAY_MS)
    known_ms = int(max(data.event_time.max(initial=0), data.label_at.max(initial=0))) + 1
    rows = np.flatnonzero((data.event_time > last_ms) & (data.event_time < known_ms - gap_ms))
    fraud = data.fraud_known_by(known_ms)
    times = data.event_time[rows]
    middle = (int(times.min()) + int(times.max())) // 2 if len(rows) else 0
    older, newer = rows[times <= middle], rows[times > middle]
    if min(int(fraud[older].sum()), int(fraud[newer].sum())) < MIN_FRAUDS:
        raise ConfigError(
            "The history must go on after the payments that the bundle learned from, with at least "
            f"{MIN_FRAUDS} known frauds in either half of that time: train the bundle with an earlier --to, or give "
            "newer payments and labels."
        )
    return _Halves(data.values[older], fraud[older], data.values[newer], fraud[newer])


def _made(
    bundle: Bundle, data: Dataset, halves: _Halves, options: OptimizeOptions, progress: Progress
) -> dict[str, bytes]:
    """The forms, as UBJ."""
    found, model = {}, bundle.model
    for technique, name in _shrinkings(options.techniques):
        progress(f"making it {_DONE[technique]}", 0.6)
        if technique == "prune":
            model = pruned(model, halves.choose, halves.chosen_fraud)
        else:
            model = quantized(model, halves.choose)
        found[name] = model
    if "distill" in options.techniques:
        progress("distilling", 0.72)
        student = distilled(bundle, data, options)
        found["distilled"] = quantized(student, halves.choose) if "quantize" in options.techniques else student
    return found


def distilled(bundle: Bundle, data: Dataset, options: OptimizeOptions) -> bytes:
    """A small student: it learns what the bundle's model says of the payments that the model learned from.

    Source: Hinton, Vinyals and Dean, "Distilling the knowledge in a neural network" (2015), with probabilities as they
    are.
    """
    window, names = bundle.manifest.training_window, bundle.manifest.features
    rows = np.flatnonzero((data.event_time >= window.first_ms) & (data.event_time <= window.last_ms))
    teacher = CpuPredictor(open_model(bundle.model, names, MODEL, threads=options.threads))
    said = [
        teacher(np.ascontiguousarray(data.values[rows[start : start + dataset.CHUNK_ROWS]]))
        for start in range(0, len(rows), dataset.CHUNK_ROWS)
    ]
    if not said:
        raise ConfigError("The history has no payment of the bundle's training window; a student learns from those.")
    count = options.student_trees or min(60, max(10, bundle.manifest.trees[MODEL] // 3))
    trees = TreeOptions(
        trees=count,
        depth=options.student_depth,
        learning_rate=max(0.05, min(0.3, 12 / count)),
        min_child_weight=0.1,  # probabilities that a model told hold no accidents that a leaf must be kept from
        seed=options.seed,
        threads=options.threads,
    )
    soft = np.concatenate(said)
    part = Part(data.values, rows, np.arange(len(names)), soft >= 0.5, soft)
    return fit(part, names, trees, lambda _text, _share: None, options.memory_mb)


def _written(
    bundle: Bundle,
    models: dict[str, bytes],
    halves: _Halves,
    out: Path,
    options: OptimizeOptions,
    progress: Progress,
    catalog: Catalog,
) -> list[Measured]:
    """Write every form but the original, and measure all."""
    names = bundle.manifest.features
    predictors = {form: CpuPredictor(open_model(model, names, MODEL, threads=1)) for form, model in models.items()}
    original = predictors[ORIGINAL]
    chosen = original(halves.choose)
    judging = Judging(halves.judge, halves.judged_fraud, original(halves.judge))
    small = models.get("distilled")
    found = []
    for number, (form, model) in enumerate(models.items()):
        progress("measuring", 0.8 + 0.2 * number / len(models))
        predict = predictors[form]
        row = measured(form, "xgboost", model, predict, judging)
        if form != ORIGINAL:
            place, scores = out / form, predict(halves.choose)
            policy = _policy(bundle.policy, chosen, {"full": scores})
            write(place, _recipe(bundle, form, model, policy, row, scores), catalog)
            row = msgspec.structs.replace(row, bundle=str(place))
        found.append(row)
        if "compile" in options.techniques:
            walk = Walker(forest := read_forest(model))
            compiled = measured(form, "compiled", model, walk, judging, memory_bytes=forest.nbytes)
            found.append(msgspec.structs.replace(compiled, bundle=row.bundle))
    if small is not None:
        policy = _policy(bundle.policy, chosen, {"small": predictors["distilled"](halves.choose)})
        tiered = _recipe(bundle, "tiered", bundle.model, policy, found[0], chosen, small=small)
        write(out / "tiered", tiered, catalog)
    progress("done", 1.0)
    return found


def _policy(policy: Policy, before: Scores, after: dict[str, Scores]) -> Policy:
    """The same policy, its thresholds where the new scores put as many payments above them as the old scores did."""
    thresholds = dict(policy.thresholds)
    rate = policy.alert_rate
    for tier, scores in after.items():
        moved = _mover(before, scores)
        old = policy.thresholds["full"]
        thresholds[tier] = Thresholds(  # type: ignore[index]  # `full` or `small`
            moved(old.review),
            None if old.block is None else max(moved(old.block), moved(old.review)),
            tuple(
                msgspec.structs.replace(
                    each,
                    review=moved(each.review),
                    block=None if each.block is None else max(moved(each.block), moved(each.review)),
                )
                for each in old.segments
            ),
        )
        if rate is not None and tier == "full":
            rate = AlertRate(rate.per_hour, moved(rate.lowest), moved(rate.highest))
    return Policy(policy.features, thresholds, policy.rules, policy.lists, policy.limiter, rate)


def _mover(before: Scores, after: Scores) -> Callable[[float], float]:
    """Where a threshold goes, so that as many payments lie above it; one that no payment reaches stays unreached.

    A higher threshold never goes below a lower one.
    """
    old, new = np.sort(before)[::-1], np.sort(after)[::-1]

    def moved(threshold: float) -> float:
        above = int(np.searchsorted(-old, -np.float32(threshold), side="right"))
        if above:
            return float(new[above - 1])
        return max(threshold, min(1.0, float(np.nextafter(new[0], np.float32(2))))) if len(new) else threshold

    return moved


def _recipe(
    bundle: Bundle,
    form: str,
    model: bytes,
    policy: Policy,
    row: Measured,
    scores: Scores,
    *,
    small: bytes | None = None,
) -> Recipe:
    """What makes the bundle of a form; drift of its scores is measured from its own, of the choosing payments."""
    content = read_files(bundle.path)
    manifest, files = content.manifest, content.files
    measured = {
        "average_precision": row.ap,
        "roc_auc": row.auc,
        "recall_at_precision_90": row.recall_at_precision_90,
    }
    metrics: dict[str, Any] = dict(manifest.metrics) | {
        "full": measured,
        "optimized": {"from": bundle.digest, "form": form},
    }
    window, known = manifest.training_window, manifest.reference
    return Recipe(
        name=manifest.name,
        version=f"{manifest.version[: 63 - len(form)]}-{form}",
        created_ms=manifest.created_ms,
        model=model,
        no_features=bundle.no_features,
        policy=policy,
        golden_rows=msgspec.json.decode(files[GOLDEN], type=GoldenRows).matrix(),
        window=(window.first_ms, window.last_ms),
        metrics=metrics,
        small=bundle.small if small is None else small,
        reference=None if known is None else msgspec.structs.replace(known, score=histogram(scores)),
    )
