"""The edge scorer gives what XGBoost gives, refuses what it can't walk, and needs nothing but numpy and numba."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
import xgboost
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from features.catalog import DEFAULT
from models.bundle import load as load_bundle
from models.edge import EdgeError, load
from models.edge.__main__ import main
from models.edge.forest import DEEPEST, ForestError, read
from models.edge.ubj import UbjError, parse
from models.edge.walk import Walker
from models.manifest import CONTENT, GOLDEN, MANIFEST, MODEL, POLICY
from models.native import CpuPredictor
from models.score import Scorer
from models.shrink import quantized
from tests.support.bundles import make_bundle, rows

COLUMNS = 6
EDGE = Path(__file__).parents[1] / "models" / "edge"
Values = npt.NDArray[np.float32]


def grown(seed: int, trees: int, depth: int, **more: object) -> bytes:
    """A model of random rows with holes."""
    rng = np.random.default_rng(seed)
    values = np.round(rng.normal(0, 3, (600, COLUMNS)), 1).astype(np.float32)
    values[rng.random(values.shape) < 0.15] = np.nan
    fraud = np.nan_to_num(values[:, 0]) + rng.normal(0, 1, len(values)) > 2
    names = [f"f{column}" for column in range(COLUMNS)]
    options = {"objective": "binary:logistic", "max_depth": depth, "eta": 0.3, "nthread": 1, "seed": seed} | more
    booster = xgboost.train(options, xgboost.DMatrix(values, fraud, feature_names=names), trees)
    return bytes(booster.save_raw("ubj"))


def by_xgboost(model: bytes, values: Values) -> Values:
    booster = xgboost.Booster({"nthread": 1})
    booster.load_model(bytearray(model))
    return CpuPredictor(booster)(values)


MODELS = [
    grown(1, 1, 1),
    grown(2, 20, 3),
    grown(3, 40, 6),
    grown(4, 15, DEEPEST, min_child_weight=0.0),
    grown(5, 10, 4, base_score=0.02),
    quantized(grown(6, 30, 5), np.zeros((1, COLUMNS), np.float32)),
]
cells = st.one_of(
    st.floats(-10, 10, width=32).map(lambda value: round(value, 1)),  # close to thresholds, and on them
    st.sampled_from([np.nan, 0.0, -0.0, 1e-45, 3.4e38, -3.4e38]),
)


@settings(max_examples=50)
@given(st.sampled_from(MODELS), hnp.arrays(np.float32, st.tuples(st.integers(1, 40), st.just(COLUMNS)), elements=cells))
def test_a_walk_gives_what_xgboost_gives(model: bytes, values: Values) -> None:
    assert np.abs(Walker(read(model))(values) - by_xgboost(model, values)).max() <= 1e-6


@settings(max_examples=50)
@given(st.sampled_from(MODELS), st.integers(0, COLUMNS - 1), st.data())
def test_a_value_on_a_threshold_goes_right(model: bytes, column: int, data: st.DataObject) -> None:
    forest = read(model)
    known = forest.thresholds[forest.bounds[column] : forest.bounds[column + 1]]
    if not len(known):
        return
    threshold = data.draw(st.sampled_from(known.tolist()))
    around = [threshold, np.nextafter(np.float32(threshold), np.float32(-np.inf)), np.nan]
    values = np.zeros((len(around), COLUMNS), np.float32)
    values[:, column] = around
    assert np.abs(Walker(forest)(values) - by_xgboost(model, values)).max() <= 1e-6


def test_quantized_leaves_take_two_bytes_and_sum_to_the_same_bits() -> None:
    model = MODELS[-1]
    forest = read(model)
    assert forest.leaf.dtype == np.int16
    assert forest.bin.dtype == np.uint8
    values = np.random.default_rng(0).normal(0, 3, (500, COLUMNS)).astype(np.float32)
    backwards = Walker(reversed_trees(model))(values)
    assert np.array_equal(Walker(forest)(values), backwards)


def reversed_trees(model: bytes):  # type: ignore[no-untyped-def]  # a Forest
    forest = read(model)
    return type(forest)(
        **{name: getattr(forest, name) for name in forest.__slots__ if name not in {"starts", "depths"}},
        starts=forest.starts[::-1].copy(),
        depths=forest.depths[::-1].copy(),
    )


def test_more_than_a_byte_of_thresholds_is_walked_too() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(0, 1, (20_000, 1)).astype(np.float32)
    fraud = rng.random(len(values)) < 0.5
    options = {"objective": "binary:logistic", "max_depth": 8, "max_bin": 2_000, "nthread": 1}
    booster = xgboost.train(options, xgboost.DMatrix(values, fraud, feature_names=["x"]), 20)
    model = bytes(booster.save_raw("ubj"))
    assert read(model).bin.dtype == np.uint16
    assert np.array_equal(Walker(read(model))(values), by_xgboost(model, values))


@given(st.data())
def test_damaged_bytes_are_refused_or_walked_but_never_crash(data: st.DataObject) -> None:
    raw = bytearray(MODELS[1])
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(raw) - 1))
        raw[place] = data.draw(st.integers(0, 255))
    damaged = bytes(raw[: data.draw(st.integers(0, len(raw)))] if data.draw(st.booleans()) else raw)
    try:
        forest = read(damaged)
    except ForestError:
        return
    scores = Walker(forest)(np.zeros((3, len(forest.names)), np.float32))
    assert scores.shape == (3,)


def test_what_can_not_be_walked_is_named() -> None:
    options = {"objective": "binary:logistic", "max_depth": 40, "min_child_weight": 0, "lambda": 0, "nthread": 1}
    column = np.arange(64, dtype=np.float32)[:, None]
    known = xgboost.DMatrix(column, np.arange(64) % 2, feature_names=["x"])
    deep = bytes(xgboost.train(options, known, 1).save_raw("ubj"))
    for model, why in (
        (grown(1, 2, 2, objective="reg:squarederror"), "binary:logistic"),
        (grown(1, 2, 2, booster="dart"), "gbtree"),
        (deep, f"deeper than {DEEPEST}"),
        (b"{}", "saved as UBJ"),
    ):
        with pytest.raises(ForestError, match=why):
            read(model)


@given(
    st.recursive(st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=8), st.lists, max_leaves=8)
)
def test_plain_ubj_is_read_back(document: object) -> None:
    assert parse(written(document)) == document


def written(document: object) -> bytes:
    """UBJ of plain values."""
    if document is None or isinstance(document, bool):
        return {None: b"Z", True: b"T", False: b"F"}[document]
    if isinstance(document, int):
        return b"L" + document.to_bytes(8, "big", signed=True)
    if isinstance(document, str):
        return b"SL" + len(document.encode()).to_bytes(8, "big") + document.encode()
    assert isinstance(document, list)
    return b"[" + b"".join(map(written, document)) + b"]"


def test_nested_without_end_is_refused() -> None:
    with pytest.raises(UbjError, match="too deep"):
        parse(b"[" * 100_000)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("edge") / "bundle").path


def test_a_bundle_scores_on_the_edge_as_in_production(bundle: Path) -> None:
    model = load(bundle)
    values = rows(300, 9)
    known = load_bundle(bundle, DEFAULT)
    scorer = Scorer(known, device="cpu", threads=1)
    assert np.abs(model.full.score(values) - scorer.score(values)).max() <= 1e-6
    narrow = np.ascontiguousarray(values[:, list(known.payment_columns)])
    assert np.abs(model.payment_only.score(narrow) - scorer.score_payment_only(values)).max() <= 1e-6
    scores = np.array([0.1, 0.5, 0.9], np.float32)
    assert model.full.decide(scores) == ["approve", "review", "block"]


@pytest.mark.parametrize("name", [MANIFEST, *CONTENT])
def test_a_damaged_bundle_is_refused_in_one_sentence(bundle: Path, tmp_path: Path, name: str) -> None:
    for file in (MANIFEST, *CONTENT):
        data = (bundle / file).read_bytes()
        (tmp_path / file).write_bytes(data[:-20] if file == name else data)
    with pytest.raises(EdgeError) as caught:
        load(tmp_path)
    assert name in str(caught.value) or "no bundle" in str(caught.value)


@pytest.mark.parametrize("name", [POLICY, GOLDEN])
def test_a_file_that_still_reads_but_is_another_is_refused(bundle: Path, tmp_path: Path, name: str) -> None:
    for file in (MANIFEST, *CONTENT):
        (tmp_path / file).write_bytes((bundle / file).read_bytes() + (b"\n" if file == name else b""))
    with pytest.raises(EdgeError, match="vouches for"):
        load(tmp_path)


def test_a_bundle_that_scores_otherwise_than_it_says_is_refused(bundle: Path, tmp_path: Path) -> None:
    files = {name: (bundle / name).read_bytes() for name in (MANIFEST, *CONTENT)}
    other = make_bundle(tmp_path / "other", seed=5).path
    files[MODEL] = (other / MODEL).read_bytes()
    manifest = json.loads(files[MANIFEST])
    manifest["files"][MODEL]["sha256"] = hashlib.sha256(files[MODEL]).hexdigest()
    files[MANIFEST] = json.dumps(manifest).encode()
    (tmp_path / "mixed").mkdir()
    for name, data in files.items():
        (tmp_path / "mixed" / name).write_bytes(data)
    with pytest.raises(EdgeError, match="golden rows"):
        load(tmp_path / "mixed")


def test_the_command_scores_lines(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [{"amount_minor": 100.0}, {"amount_minor": 250_000.0, "card_count_1h": None}]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\n".join(map(json.dumps, lines)).encode())))
    assert main([str(bundle)]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [set(each) for each in told] == [{"score", "decision"}] * 2
    assert told[0]["score"] < told[1]["score"]


@pytest.mark.parametrize(
    ("line", "status", "says"),
    [
        ("not json", 2, "line 1"),
        ("[]", 2, "no object"),
        ('{"nonsense": 1}', 2, "no column"),
        ('{"hour": "12"}', 2, "hour"),
        ('{"hour": true}', 2, "hour"),
        ('{"hour": NaN}', 2, "hour"),
        ('{"hour": 1' + "0" * 400 + "}", 2, "hour"),
        ("[" * 100_000, 2, "not JSON"),
        ('{"hour": "\xff"}', 2, "not JSON"),
    ],
)
def test_a_bad_line_is_named(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str, status: int, says: str
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(line.encode("latin-1"))))
    assert main([str(bundle)]) == status
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert says in told


def test_a_missing_bundle_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none")]) == 1
    assert "give a bundle's directory" in capsys.readouterr().err


@pytest.mark.slow
def test_it_scores_in_a_bare_environment_that_has_no_xgboost(bundle: Path, tmp_path: Path) -> None:
    """The wheel of its own, numpy and numba, and nothing else."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path / "wheel")]
    subprocess.run(command, cwd=EDGE, capture_output=True, check=True, timeout=100)
    [wheel] = (tmp_path / "wheel").glob("*.whl")
    bare = tmp_path / "bare"
    venv.create(bare, with_pip=False)
    [site] = (bare / "lib").glob("python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    for name in ("numpy", "numba", "llvmlite"):
        found = importlib.util.find_spec(name)
        assert found is not None
        assert found.origin is not None
        package = Path(found.origin).parent
        for each in (package, package.with_name(f"{name}.libs")):
            if each.is_dir():
                (site / each.name).symlink_to(each)
    values = rows(200, 4)
    np.save(tmp_path / "rows.npy", values)
    script = (
        "import sys, pathlib, numpy as np, fraudline_edge\n"
        "model = fraudline_edge.load(pathlib.Path(sys.argv[1]))\n"
        "np.save(sys.argv[3], model.full.score(np.load(sys.argv[2])))\n"
        "for name in ('xgboost', 'redis', 'confluent_kafka', 'msgspec', 'consumer', 'models'):\n"
        "    try:\n        __import__(name)\n    except ImportError:\n        continue\n"
        "    sys.exit(name + ' is here')\n"
    )
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    place = [str(bundle), str(tmp_path / "rows.npy"), str(tmp_path / "scores.npy")]
    subprocess.run([bare / "bin" / "python", "-I", "-c", script, *place], check=True, timeout=200, env=environment)
    model = (bundle / MODEL).read_bytes()
    assert np.abs(np.load(tmp_path / "scores.npy") - by_xgboost(model, values)).max() <= 1e-6
    assert msgspec.json.decode((bundle / MANIFEST).read_bytes())["trees"][MODEL] > 0
