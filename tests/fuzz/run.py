"""`python -m tests.fuzz.run [TARGET ...] --seconds 60`: fuzz each target for so long, and keep what breaks it.

Guided by coverage where there is atheris (Linux on x86-64, Python 3.11 to 3.13), elsewhere by mutations alone. Inputs
that reach new code are kept in `.cache/fuzz/corpus` and are where the next run goes on; an input that breaks a target
is kept in `.cache/fuzz/findings`. Exit status 1 where there is a finding.

    python -m tests.fuzz.run --repeat FILE      # the target is its folder's name

runs one input again and shows the traceback. Once the cause is mended, the file goes into `tests/fuzz/corpus/TARGET`.
"""

# ruff: noqa: PLC0415  what is fuzzed is imported in its own process, once coverage can see it
from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import subprocess
import sys
import time
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
COMPILED: Final = ("features.kernels", "models.edge.walk")  # by numba, which can't read instrumented code


def names() -> list[str]:
    """Of all targets: their folders of seeds."""
    return sorted(path.name for path in CORPUS.iterdir())


def fuzz(target: str, seconds: int, folder: Path = FINDINGS) -> list[Path]:
    """Fuzz one target in a process of its own; returns the inputs that broke it."""
    findings, kept = folder / target, CACHE / "corpus" / target
    for each in (findings, kept):
        each.mkdir(parents=True, exist_ok=True)
    before = set(findings.iterdir())
    command = [
        sys.executable,
        "-m",
        "tests.fuzz.run",
        "--one",
        target,
        "--seconds",
        str(seconds),
        "--keep",
        str(folder),
    ]
    log = CACHE / f"{target}.log"
    with log.open("wb") as said:
        status = subprocess.run(command, cwd=ROOT, stdout=said, stderr=subprocess.STDOUT, check=False).returncode
    found = sorted(set(findings.iterdir()) - before)
    if status and not found:
        message = f"The target {target} ended with status {status} and left no input; see {log}."
        raise SystemExit(message)
    return found


def _guided(target: Target, seconds: int, findings: Path) -> None:
    """Coverage-guided, in this process; it ends with the first finding, or when time is up."""
    import atheris

    words = CACHE / f"{target.name}.dict"
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in (*target.words, b"\0")))  # it may not be empty
    options = (
        f"-max_total_time={seconds}", f"-timeout={INPUT_DEADLINE_S}", f"-rss_limit_mb={MEMORY_MB}",
        f"-max_len={target.most_bytes}", f"-dict={words}", f"-artifact_prefix={findings}/", "-print_final_stats=1",
    )  # fmt: skip
    atheris.Setup([sys.argv[0], *options, str(CACHE / "corpus" / target.name), str(CORPUS / target.name)], target.check)
    atheris.Fuzz()


def _escaped(word: bytes) -> str:
    return "".join(chr(each) if 32 <= each < 127 and each not in b'"\\' else f"\\x{each:02x}" for each in word)


def _unguided(target: Target, seconds: int, findings: Path) -> None:
    mutator = Mutator([data for _, data in target.seeds()], target.words, target.most_bytes)
    deadline, turns = time.monotonic() + seconds, 0
    for data in mutator.inputs(os.urandom(8).hex(), sys.maxsize):
        if time.monotonic() > deadline:
            break
        try:
            target.check(data)
        except Exception:
            (findings / f"crash-{hashlib.sha1(data, usedforsecurity=False).hexdigest()}").write_bytes(data)
            raise
        turns += 1
    print(f"Done {turns} runs")


def _one(name: str, seconds: int, folder: Path) -> None:
    """The target's own process. Its code is imported here, so that atheris may instrument it."""
    guided = importlib.util.find_spec("atheris") is not None
    if guided:
        import atheris

        with atheris.instrument_imports(include=["consumer", "features", "models"], exclude=list(COMPILED)):
            from tests.fuzz.targets import TARGETS
    else:
        from tests.fuzz.targets import TARGETS
    (_guided if guided else _unguided)(TARGETS[name], seconds, folder / name)


def _repeat(path: Path) -> None:
    from tests.fuzz.targets import TARGETS

    TARGETS[path.resolve().parent.name].check(path.read_bytes())
    print(f"{path} breaks nothing.")


def _runs(target: str) -> str:
    """How many inputs it was, by its log."""
    lines = [line for line in (CACHE / f"{target}.log").read_text(errors="replace").splitlines() if line[:5] == "Done "]
    return f"{int(lines[-1].split()[1]):,} inputs" if lines else "ended early"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.run", description="Fuzz what reads untrusted bytes.")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"all of them if left out: {', '.join(names())}")
    parser.add_argument("--seconds", type=int, default=SECONDS, help=f"for each target (default {SECONDS})")
    parser.add_argument("--repeat", type=Path, metavar="FILE", help="run this input once")
    parser.add_argument("--keep", type=Path, default=FINDINGS, help=argparse.SUPPRESS)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.seconds < 1:  # libFuzzer would never end
        parser.error("--seconds must be at least 1")
    if args.repeat and not (args.repeat.is_file() and args.repeat.resolve().parent.name in names()):
        parser.error(f"--repeat: {args.repeat} is no file in a folder that is called as its target is")
    if unknown := sorted(set(args.targets) - set(names())):
        print(f"error: there is no target {unknown[0]!r}; there are {', '.join(names())}.", file=sys.stderr)
        return MISUSED
    if args.one:
        _one(args.one, args.seconds, args.keep)
        return 0
    if args.repeat:
        _repeat(args.repeat)
        return 0
    found: list[Path] = []
    for target in args.targets or names():
        new = fuzz(target, args.seconds, args.keep)
        found += new
        print(f"{target}: {_runs(target)}, {len(new)} findings", flush=True)
        for path in new:
            print(f"  {path}\n  again: python -m tests.fuzz.run --repeat {path}", flush=True)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
