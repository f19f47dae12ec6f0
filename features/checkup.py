"""Checks that all run: each says what it saw and how to mend it, whatever became of the others, and in bounded time."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from features.errors import FraudlineError

Status = Literal["pass", "warn", "fail", "skip"]
_WORST_FIRST: Final[tuple[Status, ...]] = ("fail", "warn", "pass", "skip")
LIMIT_S: Final = 20.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check saw, in a sentence without its full stop; `mend` says what to do where it is not well."""

    status: Status
    seen: str
    mend: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """A check's verdict under its name, which is `<group>.<what>`."""

    check: str
    status: Status
    seen: str
    mend: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """Something to look at.

    Attributes:
        name: `<group>.<what>`.
        look: sees how it is. What it raises becomes a failure, with `mend`.
        mend: what to do when it raises.
        needs: checks that have to be well first; else this one is skipped.
        limit_s: the longest that it may take.
    """

    name: str
    look: Callable[[], Verdict]
    mend: str
    needs: tuple[str, ...] = ()
    limit_s: float = LIMIT_S


def good(seen: str) -> Verdict:
    """It is well."""
    return Verdict("pass", seen)


def doubtful(seen: str, mend: str) -> Verdict:
    """It works, but will hurt some day."""
    return Verdict("warn", seen, mend)


def bad(seen: str, mend: str) -> Verdict:
    """It does not work, or wrongly."""
    return Verdict("fail", seen, mend)


def left_out(seen: str) -> Verdict:
    """There is nothing to look at, and why."""
    return Verdict("skip", seen)


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """One verdict of several of a kind: as bad as the worst; what is well is not repeated beside what is not."""
    status = min((each.status for each in verdicts), key=_WORST_FIRST.index)
    chosen = [each for each in verdicts if each.status == status]
    mends = dict.fromkeys(each.mend for each in chosen if each.mend)
    return Verdict(status, "; ".join(dict.fromkeys(each.seen for each in chosen)), "; ".join(mends))


def examine(checks: Iterable[Check]) -> Iterator[Finding]:
    """Run checks in their order, each on a thread that is given up when its time is over."""
    unwell: dict[str, str] = {}  # what can't be built on, and which check that goes back to
    for check in checks:
        blocked = next((unwell[need] for need in check.needs if need in unwell), None)
        verdict = _within_limit(check) if blocked is None else left_out(f"not looked at, since {blocked} is not well")
        if verdict.status in {"fail", "skip"}:
            unwell[check.name] = blocked or check.name
        yield Finding(check.name, verdict.status, verdict.seen, verdict.mend)


def _within_limit(check: Check) -> Verdict:
    found: list[Verdict] = []

    def look() -> None:
        try:
            found.append(check.look())
        except FraudlineError as error:
            found.append(bad(str(error).rstrip("."), check.mend))
        except Exception as error:  # a check that fails is one more thing seen, not the end of the others
            found.append(bad(f"unexpected {type(error).__name__}", f"{check.mend}; if that does not help, report this"))

    thread = threading.Thread(target=look, daemon=True, name=check.name)
    thread.start()
    thread.join(check.limit_s)
    return found[0] if found else bad(f"no answer within {check.limit_s:g} s", check.mend)


def reached(host: str, port: int, timeout_s: float) -> str | None:
    """Connect to an address and hang up. None when that went well, else why not, in words."""
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return "its name is not known here"
    why = "it has no address"
    for family, kind, protocol, _, address in addresses:
        with socket.socket(family, kind, protocol) as connection:
            connection.settimeout(timeout_s)
            try:
                connection.connect(address)
            except TimeoutError:
                why = f"nothing answers within {timeout_s:g} s: a firewall, or the machine is down"
            except OSError as error:
                why = (error.strerror or "it can't be reached").lower()
            else:
                return None
    return why
