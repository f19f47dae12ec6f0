"""Takes guards away, one at a time, in copies of the tree, and runs the tests that must then fail."""

from __future__ import annotations

import itertools
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.mutants.guard import Guard
from tests.mutants.verdict import BROKEN, Ending, Verdict, green, judged, read

ROOT = Path(__file__).parents[2]
LIMIT_S = 900.0
_MADE_S = itertools.count(1)  # when each mutated file was made: compiled modules are known by it and by the length


def tracked(root: Path) -> list[str]:
    """The files of a checkout that belong to it, with what was added and not committed yet."""
    done = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    return [name for name in done.stdout.split("\0") if name and (root / name).is_file()]


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy of the tree, in which guards may be missing."""

    root: Path

    def run(self, tests: Sequence[str], *options: str) -> list[Ending] | None:
        """Run tests of the copy; None where pytest died before it told how they ended."""
        told = self.root / "told.json"
        told.unlink(missing_ok=True)
        command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.mutants.plugin", f"--told={told}"]
        command += ["-p", "no:cacheprovider", "--no-header", "--tb=short", *options, *tests]
        paths = f"{self.root}{os.pathsep}{ROOT}"  # the plugin is ours, all else is the copy's
        with (self.root / "pytest.log").open("w") as log, _ended(command, self.root, log, paths) as child:
            child.wait(LIMIT_S)
        return read(told)

    def without(self, guard: Guard) -> list[Ending] | None:
        """Run a guard's tests while it is missing. Raises Rotten."""
        path = self.root / guard.file
        whole, mutated, before = path.read_text(), guard.without(self.root), path.stat()
        path.write_text(mutated)
        made_s = next(_MADE_S)
        os.utime(path, (made_s, made_s))
        try:
            return self.run(guard.tests, *(("--maxfail=1",) if len(guard.tests) == 1 else ()))
        finally:
            path.write_text(whole)
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    def warm(self) -> None:
        """Compile what a worker then loads, so that no test waits for it."""
        paths = os.environ | {"PYTHONPATH": str(self.root), "PYTHONDONTWRITEBYTECODE": ""}
        for module in ("features.warm", "models.warm"):
            subprocess.run([sys.executable, "-m", module], cwd=self.root, env=paths, check=True)

    def log(self) -> str:
        """What pytest said last."""
        return (self.root / "pytest.log").read_text()


@contextmanager
def _ended(command: list[str], where: Path, log: object, paths: str) -> Iterator[subprocess.Popen[bytes]]:
    """A child that is gone afterwards."""
    told = {"PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "", "REQUIRE_KAFKA": "1", "FAULTS": "all"}
    environment = os.environ | told
    with subprocess.Popen(command, cwd=where, env=environment, stdout=log, stderr=log) as child:  # type: ignore[call-overload]
        try:
            yield child
        except subprocess.TimeoutExpired:
            return
        finally:
            if child.poll() is None:
                child.kill()


@contextmanager
def copied(root: Path, files: Iterable[str]) -> Iterator[Copy]:
    """A copy of these files of a tree, deleted at the end."""
    with tempfile.TemporaryDirectory(prefix="fraudline-mutants-") as folder:
        copy = Path(folder) / "tree"
        for name in files:
            target = copy / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, target)
        yield Copy(copy)


@dataclass(frozen=True, slots=True)
class Found:
    """A guard, what came of its absence, and how long its tests took."""

    guard: Guard
    verdict: Verdict
    seconds: float


def take_away(
    guards: Sequence[Guard],
    *,
    root: Path = ROOT,
    files: Sequence[str] | None = None,
    jobs: int = 1,
    tell: Callable[[Found], None] = lambda _found: None,
) -> list[Found]:
    """Take each guard away in turn, in `jobs` copies at once; `tell` hears of each, on the thread that tried it.

    Before that every test that is named is run on the tree as it is: whose tests are not green is broken. A whole tree
    (no `files`) is compiled first.

    Raises:
        Rotten: a guard's text is not in the tree, or not once; nothing is run then.
    """
    for guard in guards:
        guard.without(root)
    names = tracked(root) if files is None else files
    with _copies(root, names, jobs) as copies:
        if files is None:
            for _ in range(jobs):
                copy = copies.get()
                copy.warm()
                copies.put(copy)
        red = _red(guards, copies, jobs)

        def tried(guard: Guard) -> Found:
            begun = time.monotonic()
            if why := next((red[entry] for entry in guard.tests if entry in red), None):
                verdict = Verdict(BROKEN, why=why)
            else:
                copy = copies.get()
                try:
                    verdict = judged(guard, copy.without(guard))
                finally:
                    copies.put(copy)
            found = Found(guard, verdict, round(time.monotonic() - begun, 1))
            tell(found)
            return found

        with ThreadPoolExecutor(jobs) as pool:
            return list(pool.map(tried, guards))


@contextmanager
def _copies(root: Path, files: Sequence[str], count: int) -> Iterator[queue.SimpleQueue[Copy]]:
    copies: queue.SimpleQueue[Copy] = queue.SimpleQueue()
    if count == 0:
        yield copies
        return
    with copied(root, files) as copy, _copies(root, files, count - 1) as others:
        others.put(copy)
        yield others


def _red(guards: Sequence[Guard], copies: queue.SimpleQueue[Copy], jobs: int) -> dict[str, str]:
    """Of each test that is named and not green as the tree is, why; each is run once, whoever names it.

    Those of one file are run together, since what they share takes long to start.
    """
    entries = sorted({entry for guard in guards for entry in guard.tests})

    def tried(own: list[str]) -> dict[str, str]:
        copy = copies.get()
        try:
            endings = copy.run(own)
        finally:
            copies.put(copy)
        return {entry: why for entry in own if (why := green(entry, endings)) is not None}

    files = [list(own) for _, own in itertools.groupby(entries, key=lambda entry: entry.split("::")[0])]
    with ThreadPoolExecutor(jobs) as pool:
        return {entry: why for found in pool.map(tried, files) for entry, why in found.items()}
