from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import xgboost
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from consumer.decode import looks_like_card_number
from consumer.simulator import LABELS_FILE, MONDAY_MS, PAYMENTS_FILE, Simulation, write
from features.catalog import DEFAULT, HANDBOOK, Catalog
from features.errors import BundleError, ConfigError
from features.event import Label, Payment
from models import dataset
from models.bundle import load
from models.evaluate import (
    at_threshold,
    average_precision,
    roc_auc,
    threshold_for_cost,
    threshold_for_precision,
    threshold_for_share,
)
from models.fit import Part
from models.manifest import CONTENT, GOLDEN, MANIFEST, MODEL, NO_FEATURES, POLICY
from models.score import Scorer
from models.train import LEFT_OUT, Trained, TrainOptions, fewest, train
from models.windows import Plan, plan

OPTIONS = TrainOptions(trees=20, depth=4, learning_rate=0.3, label_delay_days=1.0, windows=2, threads=1)
SIMULATION = Simulation(payments=6_000, seed=3, days=12, fraud_rate=0.05)
DAY_MS = 86_400_000


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("history")
    write(SIMULATION, path)
    return path


@pytest.fixture(scope="module")
def trained(history: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    path = tmp_path_factory.mktemp("trained") / "bundle"
    return path, train(history / PAYMENTS_FILE, history / LABELS_FILE, path, options=OPTIONS)


def train_on(history: Path, out: Path, options: TrainOptions = OPTIONS) -> dict[str, Any]:
    return train(history / PAYMENTS_FILE, history / LABELS_FILE, out, options=options)


def test_a_trained_bundle_loads_and_says_how_good_it_is(trained: tuple[Path, dict[str, Any]]) -> None:
    path, metrics = trained
    bundle = load(path, DEFAULT)
    for tier in ("full", "no_features"):
        assert bundle.manifest.metrics[tier] == metrics[tier]
        assert 0.5 < metrics[tier]["roc_auc"] <= 1
        assert metrics[tier]["review"]["flagged"] >= metrics[tier]["review"]["caught"] > 0
    base_rate = metrics["test"]["fraud"] / metrics["test"]["payments"]
    assert metrics["full"]["average_precision"] > 4 * base_rate
    assert metrics["payments"] == SIMULATION.payments
    assert bundle.manifest.training_window.first_ms < bundle.manifest.training_window.last_ms
    assert bundle.manifest.trees == metrics["trees"]
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics


def test_the_alert_budget_holds_on_the_windows_that_it_was_chosen_on(history: Path, tmp_path: Path) -> None:
    seen: list[Trained] = []
    train(*files(history), tmp_path / "bundle", options=OPTIONS, report=seen.append)
    for fitted in seen[0].models.values():
        scores = np.concatenate([each.scores for each in fitted.judged[:-1]])
        assert 0 < np.count_nonzero(scores >= np.float32(fitted.thresholds.review)) <= OPTIONS.alert_share * len(scores)


def test_scores_are_calibrated_and_the_bundle_gives_what_was_calibrated(history: Path, tmp_path: Path) -> None:
    seen: list[Trained] = []
    path = tmp_path / "bundle"
    options = dataclasses.replace(OPTIONS, windows=3)
    train(*files(history), path, options=options, report=lambda each: seen.append(with_copy(each)))
    fitted, scorer = seen[0].models["full"], Scorer(load(path, DEFAULT))
    chosen_on = list(fitted.judged[:-1])
    told = sum(float(each.scores.sum()) for each in chosen_on)
    assert told == pytest.approx(sum(int(each.fraud.sum()) for each in chosen_on), rel=0.2)
    rows = np.ascontiguousarray(seen[0].data.values[fitted.judged[-1].rows])
    booster = xgboost.Booster({"nthread": 1})
    booster.load_model(path / MODEL)
    margin = booster.inplace_predict(rows, predict_type="margin")
    assert np.allclose(scorer.score(rows), 1 / (1 + np.exp(-margin)), atol=1e-6)


def with_copy(trained: Trained) -> Trained:
    """The values lie in a file that is gone afterwards."""
    return dataclasses.replace(trained, data=dataclasses.replace(trained.data, values=np.array(trained.data.values)))


def test_training_twice_gives_the_same_bytes(
    history: Path, trained: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    train_on(history, tmp_path / "again")
    for name in (MANIFEST, *CONTENT):
        assert (tmp_path / "again" / name).read_bytes() == (trained[0] / name).read_bytes()


def files(history: Path) -> tuple[Path, Path]:
    return history / PAYMENTS_FILE, history / LABELS_FILE


def read(history: Path, catalog: Catalog = DEFAULT) -> dataset.Dataset:
    with tempfile.TemporaryDirectory() as folder:
        data = dataset.read(*files(history), catalog, Path(folder), lambda _text, _share: None, looks_like_card_number)
        return dataclasses.replace(data, values=np.array(data.values))


def planned(data: dataset.Dataset, options: TrainOptions = OPTIONS) -> Plan:
    newest = int(max(data.event_time.max(), data.label_at.max())) + 1
    return plan(
        data.event_time,
        start_ms=options.from_ms or 0,
        end_ms=newest if options.to_ms is None else options.to_ms,
        gap_ms=round(options.label_delay_days * DAY_MS),
        windows=options.windows,
    )


def with_labels(history: Path, place: Path, change: Callable[[Label], Label | None]) -> Path:
    """A copy of the history whose labels are changed, or left out where `change` gives None."""
    place.mkdir()
    shutil.copy(history / PAYMENTS_FILE, place)
    labels = [msgspec.json.decode(line, type=Label) for line in (history / LABELS_FILE).read_bytes().splitlines()]
    changed = [label for label in map(change, labels) if label is not None]
    (place / LABELS_FILE).write_bytes(b"\n".join(map(msgspec.json.encode, changed)))
    return place


def flipped(label: Label) -> Label:
    return msgspec.structs.replace(label, label="genuine" if label.label == "fraud" else "fraud")


def trees(path: Path, name: str) -> list[str]:
    booster = xgboost.Booster({"nthread": 1})
    booster.load_model(path / name)
    grown: list[str] = booster.get_dump(with_stats=True)
    return grown


@pytest.mark.parametrize("change", [flipped, lambda _label: None], ids=["flipped", "left out"])
def test_labels_and_payments_from_the_end_on_change_nothing(
    history: Path, tmp_path: Path, change: Callable[[Label], Label | None]
) -> None:
    """A model that is made as at a moment can't know what comes later."""
    start_ms = int(read(history).event_time.min())
    options = dataclasses.replace(OPTIONS, to_ms=start_ms + 10 * DAY_MS, created_ms=1)
    touched = 0

    def late(label: Label) -> Label | None:
        nonlocal touched
        if label.labelled_at < options.to_ms:
            return label
        touched += 1
        return change(label)

    changed = with_labels(history, tmp_path / "late", late)
    lines = (changed / PAYMENTS_FILE).read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["event_time"] < options.to_ms]
    assert touched > 20
    assert len(kept) < len(lines)
    (changed / PAYMENTS_FILE).write_bytes(b"".join(kept))
    train_on(history, tmp_path / "before", options)
    train_on(changed, tmp_path / "after", options)
    for name in (MODEL, NO_FEATURES, POLICY, GOLDEN):
        assert (tmp_path / "before" / name).read_bytes() == (tmp_path / "after" / name).read_bytes()


def test_labels_that_arrive_before_the_end_are_learned_from(
    history: Path, trained: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    middle = int(np.median(read(history).event_time))
    early = with_labels(history, tmp_path / "early", lambda one: flipped(one) if one.labelled_at < middle else one)
    train_on(early, tmp_path / "bundle")
    assert (tmp_path / "bundle" / MODEL).read_bytes() != (trained[0] / MODEL).read_bytes()


def test_only_payments_from_the_start_on_are_learned_from_and_older_ones_still_count(
    history: Path, tmp_path: Path
) -> None:
    data = read(history)
    start_ms = int(data.event_time.min()) + 4 * DAY_MS
    seen: list[Trained] = []
    options = dataclasses.replace(OPTIONS, from_ms=start_ms)
    train(*files(history), tmp_path / "bundle", options=options, report=lambda each: seen.append(with_copy(each)))
    window = load(tmp_path / "bundle", DEFAULT).manifest.training_window
    assert window.first_ms >= start_ms
    assert all((data.event_time[each.learn] >= start_ms).all() for each in seen[0].plan.windows)
    assert np.array_equal(seen[0].data.values, data.values, equal_nan=True), "features of all history"


@given(
    hnp.arrays(np.int64, st.integers(1, 60), elements=st.integers(0, 50)),
    st.integers(0, 30),
    st.integers(1, 80),
    st.integers(0, 40),
    st.integers(2, 5),
)
def test_windows_follow_each_other_and_never_learn_from_what_they_are_judged_on(
    times: np.ndarray[Any, np.dtype[np.int64]], start: int, end: int, gap: int, count: int
) -> None:
    steps = plan(times, start_ms=start, end_ms=end, gap_ms=gap, windows=count)
    assert not (steps.learn & ((times < start) | (times >= end - gap))).any()
    assert len(steps.windows) in (0, count)
    for window in steps.windows:
        assert not (window.learn & window.judge).any()
        assert (times[window.learn] + steps.gap_ms < window.start_ms).all()
        assert (times[window.learn] >= start).all()
        assert ((times[window.judge] >= window.start_ms) & (times[window.judge] < window.end_ms)).all()
        assert window.end_ms <= end - gap
        assert window.known_ms == (window.start_ms if steps.gap_ms == gap else end)
    for before, after in itertools.pairwise(steps.windows):
        assert before.end_ms == after.start_ms
        assert not (before.judge & after.judge).any()


def payment(number: int, event_id: str | None = None) -> bytes:
    return msgspec.json.encode(
        Payment(
            event_id=event_id or f"e{number}",
            event_time=1_767_571_200_000 + number * 60_000,
            card_id=f"card_{number % 7}",
            merchant_id="m1",
            amount_minor=1_000 + number,
            currency="EUR",
        )
    )


def label(event_id: str, verdict: str, labelled_at: int, card: str | None = None) -> bytes:
    return msgspec.json.encode(
        {
            "event_id": event_id,
            "card_id": card or f"card_{event_id[1:]}",
            "merchant_id": "m1",
            "event_time": 1_767_571_200_000,
            "label": verdict,
            "labelled_at": labelled_at,
            "source": "analyst",
        }
    )


def test_bad_lines_repeated_payments_and_reversed_labels_are_told_apart(tmp_path: Path) -> None:
    at = 1_767_600_000_000
    (tmp_path / PAYMENTS_FILE).write_bytes(
        b"\n".join(
            [
                payment(0),
                b"not json",
                payment(1),
                b"",
                b"[" * 5_000,
                payment(2),
                b"\xff\xfe",
                payment(8, "e1"),
                b'{"event_id":"' + b"x" * (1 << 20) + b'"}',
                payment(4),
            ]
        )
    )
    (tmp_path / LABELS_FILE).write_bytes(
        b"\n".join(
            [
                label("e1", "genuine", at + 9),
                label("e1", "fraud", at),
                label("e2", "fraud", at + 5),
                label("nobody", "fraud", at),
                label("e4", "fraud", at, card="another"),
                b"{}",
            ]
        )
    )
    data = read(tmp_path)
    assert data.values.shape == (4, len(DEFAULT.names))
    assert (data.bad_payments, data.bad_labels, data.repeated, data.unmatched_labels) == (4, 1, 1, 2)
    assert data.fraud_known_by(at).tolist() == [False, False, False, False]
    assert data.fraud_known_by(at + 1).tolist() == [False, True, False, False]
    assert data.fraud_known_by(at + 9).tolist() == [False, True, True, False]
    assert data.fraud_known_by(dataset.ALL_LABELS).tolist() == [False, False, True, False]


def test_a_label_counts_from_the_moment_at_which_it_was_given_until_it_is_reversed(tmp_path: Path) -> None:
    start, minute = 1_767_571_200_000, 60_000
    (tmp_path / PAYMENTS_FILE).write_bytes(b"\n".join(payment(number) for number in range(30)))
    (tmp_path / LABELS_FILE).write_bytes(
        b"\n".join([label("e0", "genuine", start + 28 * minute), label("e0", "fraud", start + 14 * minute)])
    )
    data = read(tmp_path)
    of_card = data.values[:, DEFAULT.names.index("card_frauds_30d")]
    of_merchant = data.values[:, DEFAULT.names.index("merchant_frauds_30d")]
    assert of_card[::7].tolist() == [0, 0, 1, 1, 0]
    assert not np.delete(of_card, np.arange(0, 30, 7)).any(), "other cards know nothing of it"
    assert of_merchant.tolist() == [0] * 14 + [1] * 14 + [0] * 2


def test_what_production_would_refuse_is_not_learned_from(tmp_path: Path) -> None:
    odd = json.loads(payment(1))
    (tmp_path / PAYMENTS_FILE).write_text(
        "\n".join(json.dumps(odd | change) for change in ({}, {"currency": "XXQ"}, {"card_id": "4111111111111111"}))
    )
    early = json.loads(label("e1", "fraud", 1_767_600_000_000)) | {"labelled_at": 1_767_571_199_999}
    numbered = json.loads(label("e1", "fraud", 1_767_600_000_000, card="4111111111111111"))
    (tmp_path / LABELS_FILE).write_text("\n".join(map(json.dumps, (early, numbered))))
    data = read(tmp_path)
    assert (len(data.values), data.bad_payments, data.bad_labels, data.unmatched_labels) == (1, 2, 2, 0)


def test_a_bundle_has_the_features_of_the_catalog_that_it_was_trained_with(history: Path, tmp_path: Path) -> None:
    path = tmp_path / "bundle"
    metrics = train(*files(history), path, options=OPTIONS, catalog=HANDBOOK)
    bundle = load(path, HANDBOOK)
    assert bundle.manifest.features == HANDBOOK.names
    assert bundle.manifest.no_features == ("TX_AMOUNT", "TX_DURING_WEEKEND", "TX_DURING_NIGHT")
    assert [rule.when.split()[0] for rule in bundle.policy.rules] == ["TX_AMOUNT"]
    assert metrics["full"]["roc_auc"] > 0.5
    with pytest.raises(BundleError, match="a catalog of the profile handbook"):
        load(path, DEFAULT)


def test_a_catalog_without_a_payments_own_features_is_refused(history: Path, tmp_path: Path) -> None:
    part = Catalog(tuple(feature for feature in DEFAULT.features if feature.entity))
    with pytest.raises(ConfigError, match=r"switch on its group payment\.$"):
        train(*files(history), tmp_path / "bundle", options=OPTIONS, catalog=part)


@pytest.mark.parametrize(
    ("payments", "labels", "says"),
    [
        (None, b"", "is not there"),
        (b"", None, "is not there"),
        (b"", b"", "holds no payment"),
        (b"what\never\n", b"", "holds no payment"),
        (payment(0), b"", "none of the payments fraud"),
        (payment(0), label("e0", "genuine", 1_767_600_000_000), "none of the payments fraud"),
        (payment(0), label("e0", "fraud", 1_767_600_000_000), "too little to learn from"),
    ],
)
def test_what_can_not_be_learned_from_is_refused_in_one_sentence(
    tmp_path: Path, payments: bytes | None, labels: bytes | None, says: str
) -> None:
    for name, data in ((PAYMENTS_FILE, payments), (LABELS_FILE, labels)):
        if data is not None:
            (tmp_path / name).write_bytes(data)
    with pytest.raises(ConfigError, match=says) as caught:
        train_on(tmp_path, tmp_path / "bundle")
    assert str(caught.value).endswith(".")
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"to_ms": MONDAY_MS}, "--to lies before the first payment, which is of 2026-01-05"),
        ({"from_ms": MONDAY_MS + 365 * DAY_MS}, "--from lies behind the last payment, which is of 2026-01-1"),
        ({"leave_out": ("card_count_2h",)}, "--leave-out card_count_2h is no feature"),
    ],
)
def test_options_that_do_not_fit_the_history_are_refused(
    history: Path, tmp_path: Path, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        train_on(history, tmp_path / "bundle", dataclasses.replace(OPTIONS, **options))


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="a GPU is there")
def test_a_gpu_that_is_not_there_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="finds no GPU"):
        train_on(tmp_path / "missing", tmp_path / "bundle", dataclasses.replace(OPTIONS, device="cuda"))


@given(hnp.arrays(np.float64, st.integers(1, 60), elements=st.floats(0.01, 1)))
def test_the_fewest_trees_that_are_nearly_as_good_as_the_best_are_taken(curve: np.ndarray) -> None:
    trees = fewest(curve)
    good = [10 * (at + 1) for at, value in enumerate(curve) if value >= 0.999 * max(curve)]
    assert trees == min(good)


def test_what_happens_while_xgboost_reads_is_raised_and_nothing_else(
    history: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_self: Part, _start: int) -> Any:
        raise MemoryError("no room for it")

    monkeypatch.setattr(Part, "chunk", full)
    with pytest.raises(MemoryError, match="no room for it"):
        train_on(history, tmp_path / "bundle")


def test_trees_use_no_feature_that_is_left_out(
    history: Path, trained: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    def used(bundle: Path) -> set[str]:
        model = xgboost.Booster(model_file=bundle / MODEL)
        return set(model.get_score(importance_type="weight"))

    most = used(trained[0])
    assert not most & set(LEFT_OUT)
    left_out = tuple(sorted(most))[:3]
    metrics = train_on(history, tmp_path / "bundle", dataclasses.replace(OPTIONS, leave_out=left_out))
    assert metrics["options"]["leave_out"] == list(left_out)
    assert not used(tmp_path / "bundle") & set(left_out)
    assert load(tmp_path / "bundle", DEFAULT).manifest.features == DEFAULT.names


def test_the_reference_of_a_short_history_is_its_newest_quarter(
    history: Path, trained: tuple[Path, dict[str, Any]]
) -> None:
    reference = load(trained[0], DEFAULT).manifest.reference
    assert reference is not None
    learned = trained[1]["train"]["payments"]
    counted = sum(reference.features["amount_minor"].counts)
    assert counted == pytest.approx(learned / 4, rel=0.01)


def test_the_reference_of_a_long_history_begins_behind_the_longest_window(tmp_path: Path) -> None:
    write(dataclasses.replace(SIMULATION, days=60), tmp_path)
    train_on(tmp_path, tmp_path / "bundle")
    reference = load(tmp_path / "bundle", DEFAULT).manifest.reference
    assert reference is not None
    times = [json.loads(line)["event_time"] for line in (tmp_path / PAYMENTS_FILE).read_text().splitlines()]
    longest = max(each.window_ms + each.delay_ms for each in DEFAULT.features)
    expected = sum(min(times) + longest <= time for time in times)  # labels go on longer: none is too young
    assert sum(reference.features["amount_minor"].counts) == expected


def test_a_place_that_can_not_hold_a_bundle_is_refused_before_any_work(history: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        train(tmp_path / "missing", tmp_path / "missing", tmp_path / "no" / "bundle")
    with pytest.raises(ConfigError, match="other things"):
        train_on(history, history)


def test_progress_rises_to_the_end(history: Path, tmp_path: Path) -> None:
    told: list[tuple[str, float]] = []
    train(
        history / PAYMENTS_FILE,
        history / LABELS_FILE,
        tmp_path / "bundle",
        options=OPTIONS,
        progress=lambda text, share: told.append((text, share)),
    )
    assert all(before <= after for (_, before), (_, after) in itertools.pairwise(told))
    assert told[-1] == ("done", 1.0)


@pytest.mark.parametrize("options", [{"alert_share": 1.5}, {"trees": 0}, {"label_delay_days": float("nan")}])
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        TrainOptions(**options)


samples = st.integers(1, 40).flatmap(
    lambda n: st.tuples(
        hnp.arrays(np.bool_, n), hnp.arrays(np.float32, n, elements=st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]))
    )
)
Sample = tuple[np.ndarray[Any, np.dtype[np.bool_]], np.ndarray[Any, np.dtype[np.float32]]]


@given(samples)
def test_measures_equal_their_definitions(sample: Sample) -> None:
    fraud, scores = sample
    total = int(fraud.sum())
    area, recall = 0.0, 0.0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        flagged = scores >= threshold
        caught = int((flagged & fraud).sum())
        measured = at_threshold(fraud, scores, threshold)
        assert (measured.flagged, measured.caught) == (int(flagged.sum()), caught)
        assert measured.precision == caught / int(flagged.sum())
        if total:
            assert measured.recall == caught / total
            area += (caught / total - recall) * measured.precision
            recall = caught / total
    assert average_precision(fraud, scores) == (pytest.approx(area) if total else None)
    pairs = [(a > b) + (a == b) / 2 for a in scores[fraud].tolist() for b in scores[~fraud].tolist()]
    assert roc_auc(fraud, scores) == (pytest.approx(sum(pairs) / len(pairs)) if pairs else None)


@given(samples, st.floats(0, 1))
def test_the_budget_s_threshold_is_the_lowest_that_keeps_it(sample: Sample, share: float) -> None:
    _, scores = sample
    threshold = threshold_for_share(scores, share)
    lower = scores[scores < threshold]
    if (scores >= threshold).sum() > share * len(scores):
        assert threshold == scores.max()
    elif len(lower):
        assert (scores >= lower.max()).sum() > share * len(scores)


@given(samples, st.floats(0.01, 1), st.integers(1, 5))
def test_the_precision_s_threshold_is_the_lowest_that_reaches_it(sample: Sample, precision: float, least: int) -> None:
    fraud, scores = sample
    reaching = [
        value
        for value in set(scores.tolist())
        if (scores >= value).sum() >= least and fraud[scores >= value].mean() >= precision
    ]
    assert threshold_for_precision(fraud, scores, precision, least) == (min(reaching) if reaching else None)


@given(samples, st.integers(0, 3))
def test_the_cost_s_threshold_is_the_best_of_all(sample: Sample, alert_cost: int) -> None:
    fraud, scores = sample
    saved, cost = np.where(fraud, 2.0, 0.0), np.full(len(fraud), float(alert_cost))
    gains = {
        value: float((saved - cost)[scores >= value].sum()) for value in sorted(set(scores.tolist()), reverse=True)
    }
    best = max(gains.values())
    found = threshold_for_cost(scores, saved, cost)
    assert found is None if best <= 0 else gains[found] == best  # type: ignore[index]  # it is one


@pytest.mark.parametrize(
    "asked",
    [
        {"alerts_per_day": 5.0},
        {"review_precision": 0.8},
        {"alert_cost_minor": 2_000.0},
        {"decline_cost_minor": 3_000.0},
    ],
    ids=lambda asked: next(iter(asked)),
)
def test_thresholds_are_chosen_as_asked(history: Path, tmp_path: Path, asked: dict[str, float]) -> None:
    seen: list[Trained] = []
    options = dataclasses.replace(OPTIONS, **asked)
    train(*files(history), tmp_path / "bundle", options=options, report=lambda each: seen.append(with_copy(each)))
    fitted, data = seen[0].models["full"], seen[0].data
    rows, fraud, scores = (
        np.concatenate([getattr(each, name) for each in fitted.judged[:-1]]) for name in ("rows", "fraud", "scores")
    )
    bar = fitted.thresholds
    alarm, saved = scores >= np.float32(bar.review), np.where(fraud, data.amount_minor[rows], 0)
    days = (data.event_time[rows].max() - data.event_time[rows].min()) / DAY_MS
    if "alerts_per_day" in asked:
        assert 0 < alarm.sum() / days <= 5.0
    elif "review_precision" in asked:
        assert fraud[alarm].mean() >= 0.8
    elif "alert_cost_minor" in asked:
        gain = saved[alarm].sum() - 2_000 * alarm.sum()
        assert gain >= max(saved[scores >= s].sum() - 2_000 * (scores >= s).sum() for s in np.unique(scores)[::7])
    else:
        assert bar.block is not None
        blocked = scores >= np.float32(bar.block)
        assert saved[blocked].sum() >= 3_000 * (blocked & ~fraud).sum()
    assert load(tmp_path / "bundle", DEFAULT).policy.thresholds["full"] == bar


def test_values_of_a_field_get_thresholds_of_their_own(history: Path, tmp_path: Path) -> None:
    options = dataclasses.replace(OPTIONS, segment_thresholds="channel", review_precision=0.5)
    train(*files(history), tmp_path / "bundle", options=options)
    segments = load(tmp_path / "bundle", DEFAULT).policy.thresholds["full"].segments
    assert segments
    assert all(segment.when == f"channel = '{segment.name.split('_')[1]}'" for segment in segments)
    with pytest.raises(ConfigError, match="give a text field"):
        dataclasses.replace(options, segment_thresholds="event_time")


def test_measures_of_a_worked_example() -> None:
    fraud = np.array([False, False, True, True])
    scores = np.array([0.1, 0.4, 0.35, 0.8], np.float32)
    assert average_precision(fraud, scores) == pytest.approx(5 / 6)
    assert roc_auc(fraud, scores) == pytest.approx(0.75)
