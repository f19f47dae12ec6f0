"""Every fuzz target over its seeds, past findings and so many mutations of them, the same on every run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz import run
from tests.fuzz.mutate import Mutator
from tests.fuzz.target import CORPUS, Target
from tests.fuzz.targets import TARGETS

ROOT = Path(__file__).parents[1]
SEED = "fraudline"


@pytest.mark.parametrize("name", TARGETS)
def test_a_parser_keeps_its_promise(name: str) -> None:
    target = TARGETS[name]
    seeds = target.seeds()
    assert seeds
    for file, data in seeds:
        _check(name, file, data)
    mutator = Mutator([data for _, data in seeds], target.words, target.most_bytes)
    for number, data in enumerate(mutator.inputs(SEED, target.turns)):
        _check(name, f"input {number}", data)


def _check(name: str, which: str, data: bytes) -> None:
    try:
        TARGETS[name].check(data)
    except Exception as error:
        error.add_note(f"{name}, {which}: {data[:300]!r}")
        raise


def test_every_target_has_seeds_and_every_folder_of_seeds_a_target() -> None:
    assert set(run.names()) == set(TARGETS)
    assert all(name.islower() for target in TARGETS for name in (path.name for path in (CORPUS / target).iterdir()))


def test_an_input_that_breaks_a_target_is_kept_and_breaks_it_again(tmp_path: Path) -> None:
    def check(data: bytes) -> None:
        assert b"null" not in data

    broken = Target("payment", check, 1)
    with pytest.raises(AssertionError):
        run._unguided(broken, 600, tmp_path)
    (kept,) = tmp_path.iterdir()
    with pytest.raises(AssertionError):
        broken.check(kept.read_bytes())


LEAVES = """
import sys
from pathlib import Path
made, names, status = Path(sys.argv[-1]), sys.argv[1].split(), int(sys.argv[2])
assert not list(made.iterdir())
for name in names:
    (made / name).write_bytes(b"input")
sys.exit(status)
"""


def leaving(names: str, status: int, folder: Path) -> list[str]:
    """The findings of a target's process that leaves these artifacts."""
    command = [sys.executable, "-c", LEAVES, names, str(status)]
    return [path.name for path in run.findings_of(command, folder / "findings", folder / "log")]


def test_an_input_that_was_found_before_is_a_finding_again(tmp_path: Path) -> None:
    for _ in range(2):
        assert leaving("crash-1 oom-2 slow-unit-3 timeout-4", 77, tmp_path) == ["crash-1", "oom-2", "timeout-4"]
    assert len(list((tmp_path / "findings").iterdir())) == 4


def test_a_slow_input_is_kept_and_is_no_finding(tmp_path: Path) -> None:
    assert leaving("slow-unit-3", 0, tmp_path) == []
    assert (tmp_path / "findings" / "slow-unit-3").read_bytes() == b"input"
    with pytest.raises(run.LeftNothing, match="ended with status 3 and left no input"):
        leaving("slow-unit-3", 3, tmp_path)


def test_whatever_one_target_meets_the_others_are_fuzzed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fuzzed(target: str) -> list[Path]:
        (tmp_path / f"{target}.log").write_text("Done 1000 runs in 1 second(s)\n")
        if target == "manifest":
            raise run.LeftNothing("it left no input.")
        return [tmp_path / "crash-1"] if target == "bundle" else []

    assert run.hunt(["bundle", "manifest", "label"], fuzzed, tmp_path) == 1
    said = capsys.readouterr()
    assert f"bundle: 1,000 inputs, 1 findings\n  {tmp_path / 'crash-1'}\n" in said.out
    assert "label: 1,000 inputs, 0 findings" in said.out
    assert said.err == "manifest: it left no input.\n"
    assert run.hunt(["manifest"], fuzzed, tmp_path) == 1
    assert run.hunt(["label"], fuzzed, tmp_path) == 0


def test_the_same_seed_gives_the_same_inputs() -> None:
    seeds = [b'{"a":1}', b"x = 2"]
    one, same, other = (list(Mutator(seeds).inputs(seed, 200)) for seed in ("s", "s", "t"))
    assert one == same != other
    assert len(set(one)) > 150
    assert all(len(each) <= 5 for each in Mutator(seeds, most_bytes=5).inputs("s", 200))


@pytest.mark.parametrize(
    "words",
    [
        ("tests.fuzz.run", "payment", "--seconds", "0"),
        ("tests.fuzz.run", "--repeat", "nowhere"),
        ("tests.fuzz.million", "--payments", "0"),
        ("bench.soak", "--minutes", "0"),
        ("bench.soak", "--rate", "0"),
    ],
)
def test_what_can_not_be_asked_is_refused_in_a_line(words: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert f"error: {words[-2]}" in done.stderr
    assert "Traceback" not in done.stderr
