"""What is shipped: the wheel, the image's Dockerfile and compose.yaml agree with the code and with each other."""

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
from typing import Any

import pytest
import yaml

from consumer import __version__
from consumer.settings import Settings, TopicSettings, load

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
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


def final_stage() -> dict[str, str]:
    """The last of each instruction of the final stage."""
    stage: dict[str, str] = {}
    for word, rest in dockerfile():
        stage = {"FROM": rest} if word == "FROM" else stage | {word: rest}
    return stage


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
    assert copied == {*PACKAGES, "pyproject.toml", "requirements.txt", project["readme"], *project["license-files"]}
    assert in_build_context("features/redis_store/apply.lua")
    assert not in_build_context("tests/conftest.py")
    assert not in_build_context("features/__pycache__")


def test_the_image_runs_the_command_as_nobody_in_particular() -> None:
    stage = final_stage()
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", stage["USER"])
    assert stage["ENTRYPOINT"] == '["fraudline"]'
    assert "fraudline" in PROJECT["project"]["scripts"]
    assert stage["CMD"] == '["run"]'
    assert stage["EXPOSE"] == str(Settings().telemetry.port)
    assert "/livez" in stage["HEALTHCHECK"]
    assert f"'FRAUDLINE_TELEMETRY__PORT', '{Settings().telemetry.port}'" in stage["HEALTHCHECK"]
    assert "PYTHONUNBUFFERED=1" in stage["ENV"]
    assert "FRAUDLINE_" not in stage["ENV"]  # it would win over the chart's settings file


def test_the_image_installs_exactly_the_lock() -> None:
    runs = " ".join(rest for word, rest in dockerfile() if word == "RUN")
    assert "--require-hashes" in runs
    assert "-r requirements.txt" in runs
    assert "pip install --no-deps --no-index /wheels/*.whl" in runs


def test_versions_agree() -> None:
    assert PROJECT["project"]["version"] == __version__
    assert f'org.opencontainers.image.version="{__version__}"' in final_stage()["LABEL"]
    assert COMPOSE["services"]["processor"]["image"] == f"fraudline:{__version__}"
    chart = yaml.safe_load((ROOT / "helm/fraudline/Chart.yaml").read_text())
    assert chart["appVersion"] == __version__
    bases = {rest.split()[0] for word, rest in dockerfile() if word == "FROM"}
    assert bases == {"python:3.13-slim"}
    assert "Programming Language :: Python :: 3.13" in PROJECT["project"]["classifiers"]


def test_the_composed_processor_has_settings_that_load(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("FRAUDLINE_")]:
        monkeypatch.delenv(name)
    processor = COMPOSE["services"]["processor"]
    for name, value in processor["environment"].items():
        monkeypatch.setenv(name, value)
    loaded = load()
    assert loaded.kafka.brokers.startswith("kafka:")
    assert processor["volumes"] == [f"./bundle:{loaded.model.bundle}:ro"]
    assert processor["ports"] == [f"127.0.0.1:{loaded.telemetry.port}:{loaded.telemetry.port}"]
    assert int(processor["stop_grace_period"].removesuffix("s")) * 1000 > loaded.processing.drain_deadline_ms
    inside = COMPOSE["services"]["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    assert f"INSIDE://{loaded.kafka.brokers}," in inside


def test_the_composed_topics_are_the_processors() -> None:
    [script] = COMPOSE["services"]["topics"]["command"]
    created = dict(re.findall(r"^create (\S+) (\d+)", script, re.MULTILINE))
    assert set(created) == {topic for _, topic in TopicSettings()}
    assert created[TopicSettings().payments] == "8"
    assert "create payments 8 --config message.timestamp.type=LogAppendTime" in script


def test_what_is_composed_starts_in_order_and_is_reached_from_this_machine_only() -> None:
    services = COMPOSE["services"]
    waits = {
        (name, needed): condition["condition"]
        for name, service in services.items()
        for needed, condition in service.get("depends_on", {}).items()
    }
    assert waits == {
        ("topics", "kafka"): "service_healthy",
        ("processor", "redis"): "service_healthy",
        ("processor", "topics"): "service_completed_successfully",
    }
    assert {needed for (_, needed), until in waits.items() if until == "service_healthy"} == {
        name for name, service in services.items() if "healthcheck" in service
    }
    for service in services.values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
        volumes = {volume.split(":")[0] for volume in service.get("volumes", []) if not volume.startswith(".")}
        assert volumes <= COMPOSE["volumes"].keys()
    redis = shlex.join(services["redis"]["command"])
    assert "--appendonly yes" in redis
    assert "--maxmemory-policy noeviction" in redis
