"""The command line, documented and completed: docs/cli.md is what the commands say, and a shell completes them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
REFERENCE = ROOT / "docs" / "cli.md"


def test_the_reference_is_what_the_commands_say(tmp_path: Path) -> None:
    [recipe] = re.findall(r"(\w+=\d+) \$\(BIN\)/typer (.*) --output docs/cli.md", (ROOT / "Makefile").read_text())
    (name, _, value), words = recipe[0].partition("="), recipe[1].replace('"', "\0").split("\0")
    title = words[1]
    out = tmp_path / "cli.md"
    subprocess.run(
        [str(BIN / "typer"), *words[0].split(), title, "--output", str(out)],
        cwd=ROOT,
        env=os.environ | {name: value},
        check=True,
        capture_output=True,
        timeout=100,
    )
    assert out.read_text() == REFERENCE.read_text(), "run `make docs`"


def test_the_reference_explains_every_option() -> None:
    unexplained = re.findall(r"^\* `([^`]+)`:? *(?:\[|$)", REFERENCE.read_text(), re.MULTILINE)
    assert not unexplained


@pytest.mark.parametrize(
    ("typed", "offered"),
    [("fraudline cert", "certify"), ("fraudline model pro", "promote"), ("fraudline run --con", "--config")],
)
def test_bash_completes_commands_and_options(typed: str, offered: str) -> None:
    bash = shutil.which("bash")
    assert bash is not None
    words = typed.split()
    script = f"""
eval "$(_FRAUDLINE_COMPLETE=source_bash fraudline)"
COMP_WORDS=({typed}) COMP_CWORD={len(words) - 1}
_fraudline_completion fraudline
echo "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(
        [bash, "-c", script],
        env=os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    assert offered in done.stdout.split(), done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_its_script(shell: str) -> None:
    done = subprocess.run(
        [str(BIN / "fraudline")],
        env=os.environ | {"_FRAUDLINE_COMPLETE": f"source_{shell}"},
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    assert "_FRAUDLINE_COMPLETE" in done.stdout
