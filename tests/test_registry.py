"""The registry of models: roles that change in one step, and commands that say what is there."""

from __future__ import annotations

import json
import threading
import uuid
from pathlib import Path

import fsspec
import msgspec
import pytest

from consumer.cli import main
from features.catalog import DEFAULT
from features.errors import BundleError, ConfigError, RegistryUnavailable
from models.bundle import Bundle, load
from models.manifest import MODEL
from models.registry import Registry, Standing
from tests.services.process import free_ports
from tests.support.bundles import make_bundle


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("one") / "bundle", version="1")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("two") / "bundle", version="2", seed=2, review=0.4)


@pytest.fixture(params=["directory", "memory"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Registry:
    return Registry(str(tmp_path / "models") if request.param == "directory" else f"memory://{uuid.uuid4().hex}")


def holder(registry: Registry, role: str = "champion") -> str | None:
    current = registry.standing("challenger" if role == "challenger" else "champion").current
    return None if current is None else current.version


def test_a_promoted_bundle_lies_there_whole_and_has_the_role(registry: Registry, one: Bundle) -> None:
    assert registry.standing("champion") == Standing()
    promotion = registry.promote(one.path, "champion", DEFAULT)
    assert promotion == registry.standing("champion").current
    assert (promotion.version, promotion.digest) == ("1", one.digest)
    with registry.bundle(promotion.bundle) as path:
        assert load(path, DEFAULT).digest == one.digest
    (entry,) = registry.entries()
    assert (entry.bundle, entry.digest, entry.roles) == (promotion.bundle, one.digest, ("champion",))


def test_a_rollback_gives_the_role_back_step_by_step(registry: Registry, one: Bundle, two: Bundle) -> None:
    for bundle in (one, two, two, one):
        registry.promote(bundle.path, "champion", DEFAULT)
    assert [each.version for each in registry.standing("champion").earlier] == ["2", "1"]  # the same twice is once
    assert registry.rollback("champion").version == "2"
    assert registry.rollback("champion").version == "1"
    with pytest.raises(ConfigError, match="remembers no earlier champion"):
        registry.rollback("champion")
    assert holder(registry) == "1"


def test_the_roles_are_independent(registry: Registry, one: Bundle, two: Bundle) -> None:
    registry.promote(one.path, "champion", DEFAULT)
    registry.promote(two.path, "challenger", DEFAULT)
    assert (holder(registry), holder(registry, "challenger")) == ("1", "2")
    assert registry.withdraw("challenger").version == "2"
    assert (holder(registry), holder(registry, "challenger")) == ("1", None)
    with pytest.raises(ConfigError, match="has no challenger"):
        registry.withdraw("challenger")


def test_a_bundle_is_found_by_its_folder_version_role_or_digest(registry: Registry, one: Bundle, two: Bundle) -> None:
    folder = registry.promote(one.path, "champion", DEFAULT).bundle
    registry.promote(two.path, "challenger", DEFAULT)
    for text in (folder, "1", "champion", one.digest[:8]):
        assert registry.find(text).digest == one.digest
    with pytest.raises(ConfigError, match="has no bundle 3"):
        registry.find("3")


def test_two_bundles_of_one_version_are_told_apart(registry: Registry, one: Bundle, tmp_path: Path) -> None:
    twin = make_bundle(tmp_path / "twin", version="1", seed=9)
    registry.promote(one.path, "champion", DEFAULT)
    registry.promote(twin.path, "champion", DEFAULT)
    assert len(registry.entries()) == 2
    with pytest.raises(ConfigError, match="names 2 bundles"):
        registry.find("1")


def test_a_refused_promotion_changes_nothing(registry: Registry, one: Bundle, tmp_path: Path) -> None:
    registry.promote(one.path, "champion", DEFAULT)
    bad = make_bundle(tmp_path / "bad", version="3")
    (bad.path / MODEL).write_bytes(b"{L")
    with pytest.raises(BundleError, match=MODEL):
        registry.promote(bad.path, "champion", DEFAULT)
    assert holder(registry) == "1"
    assert len(registry.entries()) == 1


def test_a_canary_is_stopped_once_and_only_for_the_challenger_it_means(
    registry: Registry, one: Bundle, two: Bundle
) -> None:
    registry.promote(two.path, "challenger", DEFAULT)
    assert not registry.stop(one.digest, "of another")
    assert registry.stop(two.digest, "too many alerts")
    assert registry.stop(two.digest, "again")
    stopped = registry.standing("challenger").stopped
    assert stopped is not None
    assert (stopped.digest, stopped.reason) == (two.digest, "too many alerts")
    registry.promote(one.path, "challenger", DEFAULT)
    assert registry.standing("challenger").stopped is None


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"{", "is damaged"),
        (b"\xff", "is damaged"),
        (b'{"schema_version":2}', "schema_version 2"),
        (b'{"current":{"bundle":"../x","version":"1","digest":"' + b"0" * 64 + b'","at_ms":1}}', "is damaged"),
        (b'{"current":{"bundle":"x","version":"1","digest":"?","at_ms":1}}', "is damaged"),
        (b" " * (1 << 21), "larger than"),
    ],
)
def test_a_damaged_role_is_refused_and_mended_by_a_promotion(
    tmp_path: Path, one: Bundle, content: bytes, says: str
) -> None:
    registry = Registry(str(tmp_path))
    (tmp_path / "champion.json").write_bytes(content)
    with pytest.raises(BundleError, match=says):
        registry.standing("champion")
    registry.promote(one.path, "champion", DEFAULT)
    assert holder(registry) == "1"


def test_a_bundle_whose_manifest_is_gone_is_shown_with_its_problem(tmp_path: Path, one: Bundle) -> None:
    registry = Registry(str(tmp_path))
    folder = registry.promote(one.path, "champion", DEFAULT).bundle
    (tmp_path / "bundles" / folder / "manifest.json").unlink()
    (entry,) = registry.entries()
    assert entry.manifest is None
    assert "missing" in entry.problem


def test_a_registry_that_can_not_be_reached_says_so(tmp_path: Path, one: Bundle) -> None:
    for url in ("nowhere://models", "s3://models"):
        with pytest.raises(ConfigError, match="can't be reached from here"):
            Registry(url)
    (tmp_path / "file").write_text("")
    with pytest.raises(RegistryUnavailable, match="does not answer"):
        Registry(str(tmp_path / "file" / "models")).promote(one.path, "champion", DEFAULT)


def test_a_reader_never_meets_half_a_role(tmp_path: Path, one: Bundle) -> None:
    """The file of a role is replaced in one step, while somebody reads it all the time."""
    registry, reader = Registry(str(tmp_path)), Registry(str(tmp_path))
    registry.promote(one.path, "challenger", DEFAULT)
    done = threading.Event()

    def write() -> None:
        for number in range(200):
            standing = registry.standing("challenger")
            registry._set("challenger", msgspec.structs.replace(standing, earlier=standing.earlier[: number % 3]))
            assert standing.current is not None
            registry._set("challenger", Standing(current=standing.current, earlier=(standing.current,) * 40))
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not done.is_set():
        current = reader.standing("challenger").current
        assert current is not None
        assert current.digest == one.digest
    writer.join()


def fraudline(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["fraudline", "model", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
    told = capsys.readouterr()
    return int(ended.value.code or 0), told.out, told.err


def test_the_commands_do_what_they_say(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, one: Bundle, two: Bundle
) -> None:
    at = ("--registry", str(tmp_path / "models"))

    def model(*arguments: str) -> tuple[int, str, str]:
        return fraudline(capsys, *arguments, *at)

    assert model("promote", str(one.path))[0] == 0
    assert model("promote", str(two.path), "--role", "challenger")[0] == 0
    assert model("promote", "challenger")[0] == 0  # it is there already
    rows = json.loads(model("list", "--json")[1])
    assert {row["role"]: row["bundle"][0] for row in rows} == {"": "1", "champion, challenger": "2"}
    told = json.loads(model("verify", "champion", "--json")[1])
    assert (told["version"], told["digest"]) == ("2", two.digest)
    changed = {row["what"]: (row["old"], row["new"]) for row in json.loads(model("diff", "1", "2", "--json")[1])}
    assert changed["version"] == ("1", "2")
    assert changed["policy.thresholds.full.review"] == (0.5, 0.4)
    assert "features" not in changed
    assert json.loads(model("rollback", "--json")[1])["current"]["version"] == "1"
    assert json.loads(model("withdraw", "--json")[1]).get("current") is None
    assert model("rollback", "--role", "challenger")[0] == 0
    for arguments, says in (
        (("rollback",), "remembers no earlier champion"),
        (("verify", "9"), "has no bundle 9"),
        (("promote", str(tmp_path)), "manifest.json is missing"),
    ):
        status, out, error = model(*arguments)
        assert status in {1, 2}
        assert out == ""
        assert error.startswith("error: ")
        assert says in error
        assert error.count("\n") == 1


def test_without_a_registry_a_command_says_what_to_set(capsys: pytest.CaptureFixture[str]) -> None:
    assert "set model.registry" in fraudline(capsys, "list")[2]
    assert "no registry is known" in fraudline(capsys, "verify", "champion")[2]


def test_a_file_that_was_cut_short_is_the_bundle_s_problem(registry: Registry, one: Bundle) -> None:
    promotion = registry.promote(one.path, "champion", DEFAULT)
    files, root = registry._files, registry._root
    place = f"{root}/bundles/{promotion.bundle}/{MODEL}"
    files.pipe_file(place, files.cat_file(place)[:-1])
    (entry,) = registry.entries()
    assert entry.problem == f"{MODEL} damaged; promote the bundle again"
    registry.promote(one.path, "champion", DEFAULT)
    assert [each.problem for each in registry.entries()] == [""]


def test_a_password_in_a_registry_s_address_is_never_shown() -> None:
    """It would stand in errors, tables and the audit topic."""
    assert Registry("memory://ada:s3cret@host/models").url == "memory://ada:***@host/models"
    with pytest.raises(ConfigError) as refused:
        Registry("nosuch://ada:s3cret@host/models")
    assert "s3cret" not in str(refused.value)
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/ada:s3cret@host/models/champion.json", b"{")
    with pytest.raises(BundleError) as damaged:
        Registry("memory://ada:s3cret@host/models").standing("champion")
    memory.store.clear()
    assert "s3cret" not in str(damaged.value)


def test_a_registry_that_is_away_from_the_first_is_no_bug_of_ours() -> None:
    """As with protocols that connect at once; a password may have anything in it."""
    [port] = free_ports(1)
    with pytest.raises(RegistryUnavailable, match="does not answer") as silent:
        Registry(f"ftp://ada:s3c@ret@127.0.0.1:{port}/models")
    assert "ret" not in str(silent.value).replace("credentials", "")
