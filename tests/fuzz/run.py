"""`python -m tests.fuzz.run [TARGET ...] --seconds 60`: fuzz each target for so long, and keep what breaks it.

Guided by coverage where there is atheris (Linux on x86-64, Python 3.11 to 3.13), elsewhere by mutations alone. Inputs
that reach new code are kept in `.cache/fuzz/corpus` and are where the next run goes on; an input that breaks a target
is kept in `.cache/fuzz/findings`, and so is one that is only slow. Exit status 1 where there is a finding, found before
or not, or a target that ended with an error and no input.

    python -m tests.fuzz.run --repeat FILE      # the target is its folder's name

runs one input again and shows the traceback. Once the cause is mended, the file goes into `tests/fuzz/corpus/TARGET`.
"""

# ruff: noqa: PLC0415  what is fuzzed is imported in its own process, once coverage can see it
from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

from tests.fuzz.mutate import Mutator
from tests.fuzz.target import CORPUS, Target

ROOT: Final = Path(__file__).parents[2]
CACHE: Final = ROOT / ".cache" / "fuzz"
FINDINGS: Final = CACHE / "findings"
SECONDS: Final = 60
INPUT_DEADLINE_S: Final = 120
MEMORY_MB: Final = 4_096
MISUSED: Final = 2
BREAKS: Final = ("crash-", "timeout-", "oom-")  # artifacts that are findings; `slow-unit-` is none
COMPILED: Final = ("features.kernels", "models.edge.walk")  # by numba, which can't read instrumented code


def names() -> list[str]:
    """Of all targets: their folders of seeds."""
    return sorted(path.name for path in CORPUS.iterdir())


class LeftNothing(Exception):
    """A target's process ended with an error and left no input that broke it."""


def fuzz(target: str, seconds: int) -> list[Path]:
    """Fuzz one target in a process of its own; returns the inputs that broke it. Raises LeftNothing."""
    (CACHE / "corpus" / target).mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "tests.fuzz.run", "--one", target, "--seconds", str(seconds), "--made"]
    return findings_of(command, FINDINGS / target, CACHE / f"{target}.log")


def findings_of(command: Sequence[str], findings: Path, log: Path) -> list[Path]:
    """Run a command, with a folder for its artifacts at its end; they are moved into `findings`.

    Returns those that are findings. An artifact is named after its content, so that one that was found before lies
    there already. Raises LeftNothing.
    """
    findings.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="fraudline-fuzz-") as made, log.open("wb") as said:
        try:
            done = subprocess.run([*command, made], cwd=ROOT, stdout=said, stderr=subprocess.STDOUT, check=False)
        finally:
            artifacts = [Path(shutil.move(path, findings / path.name)) for path in sorted(Path(made).iterdir())]
    found = [path for path in artifacts if path.name.startswith(BREAKS)]
    if done.returncode and not found:
        message = f"it ended with status {done.returncode} and left no input; see {log}."
        raise LeftNothing(message)
    return found


def hunt(targets: Iterable[str], fuzzed: Callable[[str], Sequence[Path]], logs: Path = CACHE) -> int:
    """Fuzz target after target, whatever one of them meets, and tell of each; the exit status."""
    status = 0
    for target in targets:
        try:
            found = fuzzed(target)
        except LeftNothing as error:
            status = 1
            print(f"{target}: {error}", file=sys.stderr, flush=True)
            continue
        print(f"{target}: {_runs(logs / f'{target}.log')}, {len(found)} findings", flush=True)
        for path in found:
            status = 1
            print(f"  {path}\n  again: python -m tests.fuzz.run --repeat {path}", flush=True)
    return status


def _guided(target: Target, seconds: int, made: Path) -> None:
    """Coverage-guided, in this process; it ends with the first finding, or when time is up."""
    import atheris

    words = CACHE / f"{target.name}.dict"
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in (*target.words, b"\0")))  # it may not be empty
    options = (
        f"-max_total_time={seconds}", f"-timeout={INPUT_DEADLINE_S}", f"-rss_limit_mb={MEMORY_MB}",
        f"-max_len={target.most_bytes}", f"-dict={words}", f"-artifact_prefix={made}/", "-print_final_stats=1",
    )  # fmt: skip
    atheris.Setup([sys.argv[0], *options, str(CACHE / "corpus" / target.name), str(CORPUS / target.name)], target.check)
    atheris.Fuzz()


def _escaped(word: bytes) -> str:
    return "".join(chr(each) if 32 <= each < 127 and each not in b'"\\' else f"\\x{each:02x}" for each in word)


def _unguided(target: Target, seconds: int, made: Path) -> None:
    mutator = Mutator([data for _, data in target.seeds()], target.words, target.most_bytes)
    deadline, turns = time.monotonic() + seconds, 0
    for data in mutator.inputs(os.urandom(8).hex(), sys.maxsize):
        if time.monotonic() > deadline:
            break
        try:
            target.check(data)
        except Exception:
            (made / f"crash-{hashlib.sha1(data, usedforsecurity=False).hexdigest()}").write_bytes(data)
            raise
        turns += 1
    print(f"Done {turns} runs")


def _one(name: str, seconds: int, made: Path) -> None:
    """The target's own process. Its code is imported here, so that atheris may instrument it."""
    guided = importlib.util.find_spec("atheris") is not None
    if guided:
        import atheris

        with atheris.instrument_imports(include=["consumer", "features", "models"], exclude=list(COMPILED)):
            from tests.fuzz.targets import TARGETS
    else:
        from tests.fuzz.targets import TARGETS
    (_guided if guided else _unguided)(TARGETS[name], seconds, made)


def _repeat(path: Path) -> None:
    from tests.fuzz.targets import TARGETS

    TARGETS[path.resolve().parent.name].check(path.read_bytes())
    print(f"{path} breaks nothing.")


def _runs(log: Path) -> str:
    """How many inputs it was, by a target's log."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line[:5] == "Done "]
    return f"{int(lines[-1].split()[1]):,} inputs" if lines else "ended early"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.run", description="Fuzz what reads untrusted bytes.")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"all of them if left out: {', '.join(names())}")
    parser.add_argument("--seconds", type=int, default=SECONDS, help=f"for each target (default {SECONDS})")
    parser.add_argument("--repeat", type=Path, metavar="FILE", help="run this input once")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--made", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.seconds < 1:  # libFuzzer would never end
        parser.error("--seconds must be at least 1")
    if args.repeat and not (args.repeat.is_file() and args.repeat.resolve().parent.name in names()):
        parser.error(f"--repeat: {args.repeat} is no file in a folder that is called as its target is")
    if unknown := sorted(set(args.targets) - set(names())):
        print(f"error: there is no target {unknown[0]!r}; there are {', '.join(names())}.", file=sys.stderr)
        return MISUSED
    if args.one:
        _one(args.one, args.seconds, args.made)
        return 0
    if args.repeat:
        _repeat(args.repeat)
        return 0
    return hunt(args.targets or names(), lambda target: fuzz(target, args.seconds))


if __name__ == "__main__":
    sys.exit(main())
