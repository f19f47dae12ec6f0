"""What a run without a guard says: caught, survived, or broken, when it says nothing about the tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tests.mutants.guard import Guard

CAUGHT, SURVIVED, BROKEN = "caught", "survived", "broken"
_SIGNS = frozenset(("AssertionError", "FraudlineError", "Failed"))  # `Failed` is what pytest.fail and raises raise


class Ending(msgspec.Struct, frozen=True):
    """How a phase of a test ended; `kinds` are the classes of each exception, the nearest first."""

    test: str
    when: str
    outcome: str
    kinds: list[list[str]]
    text: str

    def is_of(self, entry: str) -> bool:
        """Whether the test is, or is a case of, or lies in what a node id names."""
        return self.test == entry or self.test.startswith((f"{entry}[", f"{entry}::"))

    def is_sign(self, errors: Sequence[str]) -> bool:
        """Whether the test itself failed, by an assertion or by an error that the product documents.

        A test that ran out of time is no sign: a busy machine gives the same.
        """
        if self.when != "call" or self.outcome != "failed" or self.text.startswith("Timeout"):
            return False
        wanted = _SIGNS.union(errors)
        return bool(self.kinds) and all(wanted.intersection(kinds) for kinds in self.kinds)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of a guard's absence, and which tests said so, or why nothing can be said."""

    result: str
    by: tuple[str, ...] = ()
    why: str = ""


def counted(results: Sequence[str]) -> str:
    """How many of them are of each kind, in words."""
    return ", ".join(f"{results.count(kind)} {kind}" for kind in (CAUGHT, SURVIVED, BROKEN))


def read(told: Path) -> list[Ending] | None:
    """The endings of a run; None where it wrote none, since it died before."""
    return msgspec.json.decode(told.read_bytes(), type=list[Ending]) if told.exists() else None


def judged(guard: Guard, endings: Sequence[Ending] | None) -> Verdict:
    """Caught, if at least one case of each of the guard's tests failed as a test fails."""
    if endings is None:
        return Verdict(BROKEN, why="pytest died before it told anything")
    if bad := [each.test for each in endings if each.when == "collect"]:
        return Verdict(BROKEN, why=f"{bad[0]} could not be collected")
    by: list[str] = []
    for entry in guard.tests:
        own = [each for each in endings if each.is_of(entry)]
        signs = [each for each in own if each.is_sign(guard.errors)]
        if signs:
            by.append(signs[0].test)
            continue
        failed = [each for each in own if each.outcome == "failed"]
        if failed:
            kind = failed[0].kinds[0][0] if failed[0].kinds else "something"
            why = f"{failed[0].test} failed in {failed[0].when} with {kind}: {failed[0].text}"
            return Verdict(BROKEN, tuple(by), why)
        if not any(each.when == "call" and each.outcome == "passed" for each in own):
            return Verdict(BROKEN, tuple(by), f"{entry} was not run")
        return Verdict(SURVIVED, tuple(by), f"{entry} passes without it")
    return Verdict(CAUGHT, tuple(by))


def green(entry: str, endings: Sequence[Ending] | None) -> str | None:
    """Why what a node id names does not pass as the tree is; None where it does."""
    own = [each for each in endings or () if each.is_of(entry)]
    failed = next((each for each in own if each.outcome == "failed"), None)
    if failed is not None:
        return f"{failed.test} fails as the tree is: {failed.text}"
    ran = any(each.when == "call" and each.outcome == "passed" for each in own)
    return None if ran else f"{entry} was not run"
