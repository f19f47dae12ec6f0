"""What of the peer PyFlink can be told without its environment: where it goes on, and what is locked for it."""

from __future__ import annotations

import os
from pathlib import Path

from packaging.requirements import Requirement

from bench.peers.catalog import ROOT, named
from bench.peers.flink.snapshots import newest_snapshot


def snapshot(folder: Path, *, at_s: int, complete: bool = True) -> Path:
    folder.mkdir(parents=True)
    for name in ("state", "_metadata") if complete else ("state",):
        (folder / name).touch()
        os.utime(folder / name, (at_s, at_s))
    return folder


def test_a_killed_job_goes_on_at_the_youngest_complete_snapshot(tmp_path: Path) -> None:
    assert newest_snapshot(tmp_path) is None
    snapshot(tmp_path / "second-job" / "chk-2", at_s=20)
    youngest = snapshot(tmp_path / "first-job" / "chk-10", at_s=30)
    snapshot(tmp_path / "second-job" / "chk-3", at_s=40, complete=False)
    assert newest_snapshot(tmp_path) == youngest
    stopped = snapshot(tmp_path / "savepoint-1", at_s=50)
    assert newest_snapshot(tmp_path) == stopped


def test_our_batch_function_has_the_versions_that_it_asks_for_beside_flink() -> None:
    lines = (named("flink").home / "requirements.txt").read_text().splitlines()
    locked = dict(line.removesuffix(" \\").split("==") for line in lines if "==" in line and not line.startswith(" "))
    overrides = (named("flink").home / "overrides.txt").read_text().splitlines()
    project = (ROOT / "pyproject.toml").read_text()
    for line in overrides:
        if not line.startswith("#"):
            wanted = Requirement(line)
            assert wanted.specifier.contains(locked[wanted.name])
            ours = next(each for each in project.split('"') if each.startswith(wanted.name) and ">=" in each)
            assert Requirement(ours).specifier.contains(locked[wanted.name])
