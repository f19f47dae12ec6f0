"""The front door: targets explain themselves, the locks fit the project, hooks and CI do as a person does."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from consumer import __version__

ROOT = Path(__file__).parents[1]
LOCKS = ("requirements.txt", "requirements-dev.txt", "requirements-cuda.txt")
TARGETS = {
    *("help", "setup", "demo", "test", "test-fast", "check", "bench", "faults", "lock"),
    *("fuzz", "soak", "services", "warm"),
    *("audit", "sbom", "docs"),
}


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def locked(name: str) -> dict[str, list[Requirement]]:
    """What a lock pins, by package."""
    text = (ROOT / name).read_text().replace("\\\n", " ")
    pins: dict[str, list[Requirement]] = {}
    for line in text.splitlines():
        if line and not line.startswith((" ", "#")):
            requirement = Requirement(re.sub(r"\s+--hash=\S+", "", line).strip())
            pins.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return pins


def recipe(target: str) -> list[str]:
    makefile = (ROOT / "Makefile").read_text()
    match = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    assert match is not None
    return [line.strip().lstrip("@") for line in match.group(1).splitlines()]


def test_every_target_explains_itself() -> None:
    makefile = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony is not None
    explained = set(re.findall(r"^([a-z-]+):.*## \S", makefile, re.MULTILINE))
    assert explained == set(phony.group(1).split()) == TARGETS


@pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
def test_help_is_the_default_and_lists_every_target() -> None:
    done = subprocess.run(["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {line.split()[1] for line in done.stdout.splitlines()} == TARGETS


def made(tmp_path: Path, *words: str, **statuses: int) -> tuple[int, list[str]]:
    """Run make on programs that note how they were called and end with a status: python with that of its module."""
    calls = tmp_path / "calls"
    for name in ("python", "pytest"):
        program = tmp_path / name
        cases = "".join(f"*{what}*) exit {status};; " for what, status in statuses.items())
        program.write_text(f'#!/bin/sh\necho "{name} $*" >>{calls}\ncase "{name} $*" in {cases}esac\n')
        program.chmod(0o755)
    command = ["make", "--no-print-directory", "--old-file=setup", f"BIN={tmp_path}", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode, calls.read_text().splitlines()


WARMED = [["python", "-m", "features.warm"], ["python", "-m", "models.warm"]]
needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="no make here")


@needs_make
@pytest.mark.parametrize("broken", ["run", "pytest", "million"])
def test_a_finding_of_the_fuzzers_does_not_keep_the_others_from_running(tmp_path: Path, broken: str) -> None:
    status, calls = made(tmp_path, "fuzz", **{broken: 1})
    assert [call.split()[:3] for call in calls] == [
        *WARMED, ["python", "-m", "tests.fuzz.run"], ["pytest", "-q", "tests/test_dashboard_api.py"],
        ["python", "-m", "tests.fuzz.million"],
    ]  # fmt: skip
    assert status != 0
    assert made(tmp_path, "fuzz")[0] == 0


@needs_make
def test_what_is_for_pytest_alone_is_not_given_to_who_takes_guards_away(tmp_path: Path) -> None:
    status, calls = made(tmp_path, "faults", "ARGS=-x -n 2", "ONLY=drain or kill")
    assert (status, calls) == (
        0,
        [
            *map(" ".join, WARMED),
            "pytest -m faults -k drain or kill -x -n 2",
            "python -m tests.mutants -k drain or kill",
        ],
    )
    assert made(tmp_path, "faults", pytest=1)[0] != 0
    assert made(tmp_path, "faults", pytest=5)[0] == 0
    assert made(tmp_path, "faults", mutants=1)[0] != 0
    assert made(tmp_path, "faults", pytest=5, mutants=5)[0] != 0


@pytest.mark.parametrize("lock", LOCKS)
def test_the_lock_holds_every_dependency_inside_its_range(lock: str) -> None:
    wanted = [Requirement(text) for text in project()["project"]["dependencies"]]
    if lock == "requirements-dev.txt":
        wanted += [Requirement(text) for text in project()["dependency-groups"]["dev"]]
    if lock == "requirements-cuda.txt":
        wanted += [Requirement(text) for text in project()["project"]["optional-dependencies"]["gpu"]]
    pins = locked(lock)
    for requirement in wanted:
        name = canonicalize_name(requirement.name)
        assert name in pins, f"{name} is not in {lock}: run make lock"
        for pin in pins[name]:
            (version,) = (Version(specifier.version) for specifier in pin.specifier)
            assert version in requirement.specifier, f"{pin} in {lock} is outside {requirement}: run make lock"


@pytest.mark.parametrize("lock", LOCKS[1:])
def test_all_locks_pin_the_same_versions(lock: str) -> None:
    runtime, dev = locked("requirements.txt"), locked(lock)
    assert {name: list(map(str, pins)) for name, pins in runtime.items()}.items() <= {
        name: list(map(str, pins)) for name, pins in dev.items()
    }.items()


@pytest.mark.parametrize("lock", LOCKS)
def test_the_lock_is_pinned_by_hash_and_names_no_place(lock: str) -> None:
    text = (ROOT / lock).read_text()
    assert not re.search(r"https?:|file:|--index|--extra-index|--find-links|--trusted-host|(^|\s)/\w", text)
    entries = [entry for entry in re.split(r"\n(?=[a-z])", text) if not entry.startswith("#")]
    assert len(entries) == sum(map(len, locked(lock).values()))
    assert all("==" in entry and "--hash=sha256:" in entry for entry in entries)


def test_setup_can_build_the_project_without_the_network() -> None:
    pins = locked("requirements-dev.txt")
    for text in project()["build-system"]["requires"]:
        assert canonicalize_name(Requirement(text).name) in pins
    assert "editables" in pins


def test_hooks_run_the_commands_of_make_check() -> None:
    hooks = re.findall(r"^\s+entry: (.*)$", (ROOT / ".pre-commit-config.yaml").read_text(), re.MULTILINE)
    assert hooks == [line.replace("$(BIN)", ".venv/bin") for line in recipe("check")]


def test_ci_runs_what_a_person_runs() -> None:
    script = ROOT / ".ci" / "run"
    text = script.read_text()
    assert script.stat().st_mode & 0o111
    assert text.startswith("#!/usr/bin/env bash\n")
    assert "set -euo pipefail" in text
    commands = [line for line in text.splitlines() if re.match(r"(REQUIRE_\w+=1 )*make ", line)]
    assert commands[:-1] == ["make setup", "make check", "make audit", "make sbom"]
    required = re.findall(r"REQUIRE_(\w+)=1", commands[-1])
    assert {"KAFKA", "HELM", "PROMTOOL", "BROWSER", "FAKETIME"} <= set(required)
    assert commands[-1].endswith(" make test")
    subprocess.run(["bash", "-n", str(script)], check=True)


def test_the_version_is_said_once_and_the_same() -> None:
    assert project()["project"]["version"] == __version__


def test_an_environment_is_not_committed_nor_a_link_to_one() -> None:
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert {".venv", ".cache"} <= set(ignored), "with a slash behind it a link of that name would be taken"


def test_the_license_is_whole() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "TERMS AND CONDITIONS FOR USE, REPRODUCTION, AND DISTRIBUTION" in text
    assert len(text.splitlines()) > 190
