"""What is shipped: the wheel and the image's Dockerfile agree with the code and with each other."""

from __future__ import annotations

import fnmatch
import os
import re
import shlex
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

from consumer import __version__
from consumer.settings import Settings

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = ("consumer", "features", "models")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built by the build backend itself, without the network."""
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    [built] = out.glob("*.whl")
    return built


def test_the_wheel_holds_the_packages_and_nothing_else(wheel: Path) -> None:
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    sources = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.parent.name != "__pycache__"
    }
    assert held == sources
    assert "features/redis_store/apply.lua" in held
    assert wheel.name == f"fraudline-{__version__}-py3-none-any.whl"


def test_the_wheel_has_the_command_the_licence_and_the_dependencies(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        [info] = {name.split("/")[0] for name in archive.namelist() if ".dist-info/" in name}
        assert archive.read(f"{info}/entry_points.txt").decode().split() == [
            "[console_scripts]",
            "fraudline",
            "=",
            PROJECT["project"]["scripts"]["fraudline"],
        ]
        assert f"{info}/licenses/LICENSE" in archive.namelist()
        metadata = archive.read(f"{info}/METADATA").decode()
    assert f"Version: {__version__}\n" in metadata
    extras = sum(map(len, PROJECT["project"]["optional-dependencies"].values()))
    assert metadata.count("Requires-Dist: ") == len(PROJECT["project"]["dependencies"]) + extras


def test_what_the_wheel_installs_runs_without_the_source_tree(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    module, _, function = PROJECT["project"]["scripts"]["fraudline"].partition(":")
    script = f"""
import sys
import consumer, features, features.redis_store, models
for package in (consumer, features, models):
    assert package.__file__.startswith({str(tmp_path)!r}), package.__file__
assert "redis.call" in features.redis_store.APPLY
from {module} import {function} as command
sys.argv = ["fraudline", "--version"]
raise SystemExit(command())
"""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("FRAUDLINE_")}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=environ | {"PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert (done.returncode, done.stdout.strip()) == (0, f"fraudline {__version__}"), done.stderr


def dockerfile() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile, continuation lines joined: ("FROM", "python:3.13-slim AS builder"), ..."""
    text = (ROOT / "Dockerfile").read_text()
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.splitlines())]


def stages() -> dict[str, dict[str, str]]:
    """Each stage's last instruction of each kind, what it is built on included, by the stage's name."""
    found: dict[str, dict[str, str]] = {}
    name = ""
    for word, rest in dockerfile():
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            found[name] = found.get(base, {}) | {"FROM": rest}
        else:
            found[name][word] = f"{found[name].get(word, '')} {rest}" if word in {"ENV", "RUN"} else rest
    return found


TARGETS = ("cpu", "cuda")


def in_build_context(path: str) -> bool:
    """Whether .dockerignore lets `path` through: the last pattern that matches it or a folder above it decides."""
    kept = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.strip()
        if not pattern or pattern.startswith("#"):
            continue
        wanted = pattern.removeprefix("!").removeprefix("**/").rstrip("/")
        above = [path, *(parent.as_posix() for parent in Path(path).parents if parent != Path())]
        names = [part.rpartition("/")[2] for part in above] if "**/" in pattern else above
        if any(fnmatch.fnmatchcase(name, wanted) for name in names):
            kept = pattern.startswith("!")
    return kept


def test_what_the_image_copies_is_there_and_is_what_the_wheel_needs() -> None:
    copied = set()
    for word, rest in dockerfile():
        if word == "COPY" and "--from=" not in rest:
            *sources, _target = shlex.split(rest)
            copied |= set(sources)
    for path in copied:
        assert (ROOT / path).exists(), path
        assert in_build_context(path.removeprefix("./")), f"{path} is excluded by .dockerignore"
    project = PROJECT["project"]
    locks = {"requirements.txt", "requirements-cuda.txt"}
    assert copied == {*PACKAGES, "pyproject.toml", *locks, project["readme"], *project["license-files"]}
    assert in_build_context("features/redis_store/apply.lua")
    assert not in_build_context("tests/conftest.py")
    assert not in_build_context("features/__pycache__")


@pytest.mark.parametrize("target", TARGETS)
def test_the_image_runs_the_command_as_nobody_in_particular(target: str) -> None:
    stage, settings = stages()[target], Settings()
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", stage["USER"])
    assert stage["ENTRYPOINT"] == '["fraudline"]'
    assert "fraudline" in PROJECT["project"]["scripts"]
    assert stage["CMD"] == '["run"]'
    assert stage["EXPOSE"] == f"{settings.telemetry.port} {settings.dashboard.port}"
    assert "/livez" in stage["HEALTHCHECK"]
    assert f"'FRAUDLINE_TELEMETRY__PORT', '{settings.telemetry.port}'" in stage["HEALTHCHECK"]
    assert "PYTHONUNBUFFERED=1" in stage["ENV"]
    assert "FRAUDLINE_" not in stage["ENV"]  # it would win over the chart's settings file


@pytest.mark.parametrize("target", TARGETS)
def test_the_image_installs_exactly_its_lock(target: str) -> None:
    built = stages()[f"built-{target}"]
    assert stages()[target]["COPY"] == f"--from=built-{target} /opt/fraudline /opt/fraudline"
    assert "--require-hashes --only-binary :all: -r requirements.txt" in built["RUN"]
    assert ("--require-hashes --only-binary :all: -r requirements-cuda.txt" in built["RUN"]) == (target == "cuda")
    assert "pip install --no-deps --no-index /wheels/*.whl" in built["RUN"]
    assert built["RUN"].index("pip check") < built["RUN"].index("uninstall")


def test_without_a_target_the_image_is_that_for_cpus() -> None:
    assert list(stages())[-1] == "cpu"
    assert "NVIDIA_VISIBLE_DEVICES" in stages()["cuda"]["ENV"]
    assert "NVIDIA_VISIBLE_DEVICES" not in stages()["cpu"]["ENV"]


def test_versions_agree() -> None:
    assert PROJECT["project"]["version"] == __version__
    assert f'org.opencontainers.image.version="{__version__}"' in stages()["cpu"]["LABEL"]
    chart = yaml.safe_load((ROOT / "helm/fraudline/Chart.yaml").read_text())
    assert chart["appVersion"] == __version__
    bases = {rest.split()[0] for word, rest in dockerfile() if word == "FROM"} - stages().keys()
    assert bases == {"python:3.13-slim"}
    assert "Programming Language :: Python :: 3.13" in PROJECT["project"]["classifiers"]
