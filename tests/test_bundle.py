from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import xgboost

from features.catalog import DEFAULT, HANDBOOK, Catalog, Limits
from features.errors import BundleError, ConfigError
from models.bundle import Bundle, load
from models.bundle_writer import write_with_policy
from models.manifest import CONTENT, GOLDEN, MANIFEST, MODEL, NO_FEATURES, POLICY
from models.score import Scorer
from tests.support.bundles import edit_manifest, make_bundle, replace_file, rows


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sound") / "bundle"
    make_bundle(path)
    return path


@pytest.fixture
def copy(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "bundle"))


def refusal(path: Path, catalog: Catalog = DEFAULT) -> str:
    with pytest.raises(BundleError) as caught:
        load(path, catalog)
    text = str(caught.value)
    assert "\n" not in text
    assert text.endswith(".")
    return text


def test_a_written_bundle_loads_as_it_was_written(sound: Path) -> None:
    loaded = load(sound, DEFAULT)
    again = make_bundle(sound)
    assert loaded == replace(again, policy=loaded.policy)
    assert loaded.policy.digest == again.policy.digest
    assert loaded.manifest.features == DEFAULT.names
    assert set(loaded.manifest.libraries) == {"fraudline", "numpy", "xgboost"}
    assert set(loaded.manifest.trees) == {MODEL, NO_FEATURES}


def test_the_digest_covers_every_file_but_no_layout(sound: Path, copy: Path) -> None:
    digest = load(sound, DEFAULT).digest
    document = msgspec.json.decode((copy / MANIFEST).read_bytes())
    (copy / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=7))
    assert load(copy, DEFAULT).digest == digest
    policy = (copy / POLICY).read_bytes()
    replace_file(copy, POLICY, policy + b"# changed on purpose\n")
    assert load(copy, DEFAULT).digest != digest


def test_a_link_to_a_bundle_is_followed_and_later_fields_are_ignored(copy: Path, tmp_path: Path) -> None:
    edit_manifest(copy, calibration={"a": 1})
    (tmp_path / "current").symlink_to(copy)
    assert load(tmp_path / "current", DEFAULT).manifest.name == "test"


def file_instead(bundle: Path) -> None:
    shutil.rmtree(bundle)
    bundle.write_text("x")


def remove(name: str) -> Callable[[Path], None]:
    return lambda bundle: (bundle / name).unlink()


def truncate(name: str) -> Callable[[Path], None]:
    def damage(bundle: Path) -> None:
        data = (bundle / name).read_bytes()
        (bundle / name).write_bytes(data[: len(data) // 2])

    return damage


def flip(name: str) -> Callable[[Path], None]:
    def damage(bundle: Path) -> None:
        data = bytearray((bundle / name).read_bytes())
        data[len(data) // 2] ^= 0x01
        (bundle / name).write_bytes(data)

    return damage


def link(name: str) -> Callable[[Path], None]:
    def damage(bundle: Path) -> None:
        elsewhere = bundle.parent / "elsewhere"
        (bundle / name).rename(elsewhere)
        (bundle / name).symlink_to(elsewhere)

    return damage


def fifo(bundle: Path) -> None:
    (bundle / GOLDEN).unlink()
    os.mkfifo(bundle / GOLDEN)


def add_file_entry(name: str) -> Callable[[Path], None]:
    def damage(bundle: Path) -> None:
        files = msgspec.json.decode((bundle / MANIFEST).read_bytes())["files"]
        edit_manifest(bundle, files=files | {name: {"bytes": 1, "sha256": "0" * 64}})

    return damage


def forge(name: str, data: bytes) -> Callable[[Path], None]:
    return lambda bundle: replace_file(bundle, name, data)


@dataclass(frozen=True)
class Bad:
    name: str
    damage: Callable[[Path], object]
    says: str


BAD = (
    Bad("no directory", shutil.rmtree, "There is no model bundle at"),
    Bad("a file in its place", file_instead, "is a file"),
    *(Bad(f"{name} missing", remove(name), name) for name in (MANIFEST, *CONTENT)),
    *(Bad(f"{name} truncated", truncate(name), name) for name in (MANIFEST, *CONTENT)),
    *(Bad(f"{name} flipped", flip(name), name) for name in CONTENT),
    *(Bad(f"{name} a link", link(name), "symbolic link") for name in (MANIFEST, *CONTENT)),
    Bad("a pipe", fifo, "not a regular file"),
    Bad("another version", lambda b: edit_manifest(b, schema_version=99), "schema_version 99"),
    Bad("no version", lambda b: (b / MANIFEST).write_text("{}"), MANIFEST),
    Bad("a deep manifest", lambda b: (b / MANIFEST).write_text("[" * 100_000), MANIFEST),
    Bad("an enormous manifest", lambda b: (b / MANIFEST).write_bytes(b" " * (5 << 20)), "larger than"),
    Bad("a manifest in another encoding", lambda b: (b / MANIFEST).write_bytes(b'{"name":"\xff"}'), MANIFEST),
    Bad("a path in the manifest", add_file_entry("../../etc/passwd"), "no bundle has"),
    Bad("a pickle in the manifest", add_file_entry("model.pkl"), "no bundle has"),
    Bad("a pickle beside", lambda b: (b / "model.PKL").write_bytes(pickle.dumps(1)), "pickled model"),
    Bad("a pickle as the model", forge(MODEL, pickle.dumps({"a": 1})), "pickled"),
    Bad("an old pickle as the model", forge(MODEL, pickle.dumps({"a": 1}, protocol=0)), "pickled"),
    Bad("a ZIP as the model", forge(NO_FEATURES, b"PK\x03\x04"), "pickled or packed"),
    Bad("text as the model", forge(MODEL, b"hello"), "not a UBJ model"),
    Bad("edited policy", lambda b: (b / POLICY).write_text((b / POLICY).read_text() + "# x"), POLICY),
    Bad("forged policy", forge(POLICY, b"schema_version = 1\n[oops]\n"), POLICY),
    Bad("policy not in UTF-8", forge(POLICY, b"\xff\xfe"), POLICY),
    Bad("another fingerprint", lambda b: edit_manifest(b, catalog_fingerprint="0" * 64), "computed in another way"),
    Bad("other features", lambda b: edit_manifest(b, features=["amount_minor", "shoe_size"]), "shoe_size"),
    Bad("features reordered", lambda b: edit_manifest(b, features=DEFAULT.names[::-1]), "another order"),
    Bad("golden rows of text", forge(GOLDEN, b'{"inputs":"x"}'), GOLDEN),
    Bad("no golden rows", forge(GOLDEN, b'{"inputs":[],"model":[],"no_features":[]}'), GOLDEN),
    Bad("ragged golden rows", forge(GOLDEN, b'{"inputs":[[1],[1,2]],"model":[],"no_features":[]}'), GOLDEN),
    Bad("another number of trees", lambda b: edit_manifest(b, trees={MODEL: 1, NO_FEATURES: 1}), "number of trees"),
    Bad("garbage as UBJ with its digest", forge(MODEL, b"{L" + b"\xff" * 500), "is damaged"),
)


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.name)
def test_a_bad_bundle_is_refused_in_one_sentence(copy: Path, bad: Bad) -> None:
    bad.damage(copy)
    assert bad.says in refusal(copy)


def test_a_model_that_crashes_its_process_is_refused_even_with_a_right_digest(copy: Path) -> None:
    booster = xgboost.Booster()
    booster.load_model(bytearray((copy / MODEL).read_bytes()))
    document = msgspec.json.decode(bytes(booster.save_raw("json")))
    document["learner"]["gradient_booster"]["model"]["trees"][0]["left_children"][0] = 50_000_000
    booster.load_model(bytearray(msgspec.json.encode(document)))
    replace_file(copy, MODEL, bytes(booster.save_raw("ubj")))
    assert "signal 11" in refusal(copy)


def test_a_model_that_scores_otherwise_than_when_it_was_made_is_refused(copy: Path, tmp_path: Path) -> None:
    other = make_bundle(tmp_path / "other", seed=2)
    replace_file(copy, MODEL, other.model)
    edit_manifest(copy, trees=other.manifest.trees | {NO_FEATURES: load_trees(copy, NO_FEATURES)})
    assert "does not score" in refusal(copy)


def load_trees(bundle: Path, name: str) -> int:
    trees: dict[str, int] = msgspec.json.decode((bundle / MANIFEST).read_bytes())["trees"]
    return trees[name]


def test_models_swapped_for_each_other_are_refused(copy: Path) -> None:
    main, second = ((copy / name).read_bytes() for name in (MODEL, NO_FEATURES))
    replace_file(copy, MODEL, second)
    replace_file(copy, NO_FEATURES, main)
    assert "damaged" in refusal(copy) or "columns" in refusal(copy)


def test_a_feature_that_the_catalog_lacks_is_named_in_the_refusal_with_its_group(sound: Path) -> None:
    fewer = Catalog(DEFAULT.features[:-1])
    told = refusal(sound, fewer)
    assert DEFAULT.names[-1] in told
    assert f"switch on {DEFAULT.features[-1].group} in the catalog file of the profile default" in told


def test_a_bundle_of_another_profile_is_refused_with_its_name(sound: Path) -> None:
    assert refusal(sound, HANDBOOK).endswith("give it a catalog of the profile default.")


def test_a_bundle_of_features_that_no_profile_has_is_to_be_trained_again(tmp_path: Path) -> None:
    odd = Catalog((*DEFAULT.features, msgspec.structs.replace(DEFAULT.features[-1], name="own")))
    make_bundle(tmp_path / "odd", catalog=odd)
    assert refusal(tmp_path / "odd", DEFAULT).endswith("(own); train the bundle again with this catalog.")


def test_features_that_are_computed_in_another_way_are_refused(sound: Path) -> None:
    longer = msgspec.structs.replace(DEFAULT.features[-1], window_ms=1_000)
    assert "computed in another way" in refusal(sound, Catalog((*DEFAULT.features[:-1], longer)))
    assert "computed in another way" in refusal(sound, Catalog(DEFAULT.features, Limits(keep=127)))


def test_a_catalog_may_have_more_features_than_the_bundle_names(tmp_path: Path) -> None:
    part = DEFAULT.only(tuple(f.name for f in DEFAULT.features if f.group in {"payment", "card.volume"}))
    make_bundle(tmp_path / "small", catalog=part)
    loaded = load(tmp_path / "small", DEFAULT)
    assert loaded.manifest.features == part.names
    assert loaded.payment_columns == part.payment_columns


def test_a_model_that_hangs_is_given_up(sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.bundle.GOLDEN_TIMEOUT_S", 0.01)
    assert "within 0.01 s" in refusal(sound)


def test_a_bundle_replaces_a_bundle_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    place = tmp_path / "bundle"
    first = make_bundle(place, version="1")
    second = make_bundle(place, version="2")
    assert first.digest != second.digest
    assert load(place, DEFAULT).manifest.version == "2"
    assert [entry.name for entry in tmp_path.iterdir()] == ["bundle"]


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = make_bundle(tmp_path / "a"), make_bundle(tmp_path / "b")
    assert first.digest == second.digest
    for name in (MANIFEST, *CONTENT):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def occupied(place: Path) -> None:
    place.mkdir()
    (place / "thesis.txt").write_text("years of work")


def mixed(place: Path) -> None:
    make_bundle(place)
    (place / "thesis.txt").write_text("years of work")


@pytest.mark.parametrize(
    ("occupy", "says"),
    [
        (occupied, "other things"),
        (mixed, "other things"),
        (lambda place: place.write_text("x"), "can't be written"),
        (lambda place: place.symlink_to("/tmp"), "symbolic link"),
    ],
)
def test_a_place_that_holds_something_else_is_left_alone(
    tmp_path: Path, occupy: Callable[[Path], object], says: str
) -> None:
    place = tmp_path / "bundle"
    occupy(place)
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match=says):
        make_bundle(place)
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before


def test_a_missing_parent_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        make_bundle(tmp_path / "no" / "bundle")


def test_what_was_verified_is_what_is_used(copy: Path) -> None:
    """A file that is exchanged after the checks changes nothing: the bundle holds what was checked."""
    bundle: Bundle = load(copy, DEFAULT)
    before = Scorer(bundle).score(rows(50))
    shutil.rmtree(copy)
    assert np.array_equal(Scorer(bundle).score(rows(50)), before)


def test_a_changed_policy_is_put_into_a_new_bundle_and_stays_as_it_was_written(copy: Path, tmp_path: Path) -> None:
    before = load(copy, DEFAULT)
    changed = f"# by hand\n{(copy / POLICY).read_text()}".replace("review = 0.5", "review = 0.25")
    (tmp_path / "changed.toml").write_text(changed)
    made, _ = write_with_policy(copy, tmp_path / "changed.toml", tmp_path / "new", DEFAULT, "1.1")
    after = load(tmp_path / "new", DEFAULT)
    assert (tmp_path / "new" / POLICY).read_text() == changed
    assert made == after
    assert (after.models, after.manifest.version) == (before.models, "1.1")
    assert after.policy.thresholds["full"].review == 0.25
    assert after.digest != before.digest
    assert load(copy, DEFAULT).digest == before.digest


def test_a_policy_that_was_changed_in_its_bundle_is_refused_until_it_is_applied(copy: Path) -> None:
    with (copy / POLICY).open("a") as file:
        file.write("# seen\n")
    with pytest.raises(BundleError, match="fraudline policy apply"):
        load(copy, DEFAULT)
    write_with_policy(copy, copy / POLICY, copy, DEFAULT)
    assert (copy / POLICY).read_text().endswith("# seen\n")
    load(copy, DEFAULT)


def test_neither_a_bad_policy_nor_one_for_a_damaged_bundle_is_applied(copy: Path, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.toml", tmp_path / "bad.toml"
    good.write_bytes((copy / POLICY).read_bytes())
    bad.write_text(good.read_text().replace("schema_version = ", "schema_version = 9"))
    for policy in (bad, tmp_path / "missing.toml"):
        with pytest.raises(ConfigError, match=policy.name):
            write_with_policy(copy, policy, tmp_path / "new", DEFAULT)
    (copy / MODEL).write_bytes((copy / MODEL).read_bytes()[:-1])
    with pytest.raises(BundleError, match=MODEL):
        write_with_policy(copy, good, tmp_path / "new", DEFAULT)
    assert not (tmp_path / "new").exists()
