"""The wheel with what its lock names, in an environment that has nothing else: it installs, and its main job runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from consumer import __version__

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
INSTALL_LIMIT_S = 280
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")  # the developer's, for an environment without one
NEED_SPARK = ("consumer.score_spark", "features.history.spark")  # the extra


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of a virtual environment that holds the lock and the wheel alone."""
    folder = tmp_path_factory.mktemp("bare")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder / "wheel")]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=INSTALL_LIMIT_S)
    venv.create(folder / "env", with_pip=False)
    scripts = folder / "env" / "bin"
    pip = [*PIP, "--python", str(scripts / "python"), "install", "--quiet", "--no-compile"]
    [wheel] = (folder / "wheel").glob("*.whl")
    locked = ["--require-hashes", "--only-binary", ":all:", "-r", str(ROOT / "requirements.txt")]
    done = subprocess.run([*pip, *locked], capture_output=True, text=True, check=False, timeout=INSTALL_LIMIT_S)
    if done.returncode and "REQUIRE_KAFKA" not in os.environ:
        pytest.skip("the locked packages can't be fetched here")  # a developer without the network
    assert done.returncode == 0, done.stderr
    subprocess.run([*pip, "--no-deps", "--no-index", str(wheel)], check=True, timeout=INSTALL_LIMIT_S)
    return scripts


def run(bare: Path, home: Path, *words: str) -> str:
    """What a command says, somewhere else and with nothing of the developer's in its environment."""
    environ = {"HOME": str(home), "PATH": f"{bare}:/usr/bin:/bin", "LANG": "C.UTF-8"}
    done = subprocess.run(words, cwd=home, env=environ, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr[-3_000:]
    return done.stdout


def test_a_bare_environment_has_the_command_and_all_that_it_needs(bare: Path, tmp_path: Path) -> None:
    assert run(bare, tmp_path, "fraudline", "--version").strip() == f"fraudline {__version__}"
    subprocess.run([*PIP, "--python", str(bare / "python"), "check"], check=True, timeout=INSTALL_LIMIT_S)
    tried = f"""
import importlib, pkgutil
import consumer, features, models
for package in (consumer, features, models):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if module.name not in {NEED_SPARK}:
            importlib.import_module(module.name)
print(consumer.__file__)
"""
    found = run(bare, tmp_path, str(bare / "python"), "-c", tried).strip()
    assert found.startswith(str(bare.parent))


def test_the_main_job_runs_in_a_bare_environment(bare: Path, tmp_path: Path) -> None:
    summary = json.loads(run(bare, tmp_path, "fraudline", "demo", "--payments", "1000", "--rate", "1000", "--json"))
    assert summary["decisions"] == 1_000
    assert summary["alerts"] > 0
