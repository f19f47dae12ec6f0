"""What judges say: held, broken or not tested, and what of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from consumer.prove.evidence import At

Status = Literal["held", "broken", "not tested"]
EXAMPLES: Final = 10


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a promise: the evidence in a sentence, its figures, and the first things that are wrong."""

    status: Status
    evidence: str
    figures: Mapping[str, Any] = field(default_factory=dict)
    examples: tuple[str, ...] = ()


def held_if(wrong: Iterable[str], evidence: str, figures: Mapping[str, Any] | None = None) -> Verdict:
    """Held where nothing is wrong."""
    found = list(wrong)
    if found:
        more = f" (and {len(found) - 1:,} more)" if len(found) > 1 else ""
        said = f"{found[0]}{more}; {evidence}"
        return Verdict("broken", said, figures or {}, tuple(found[:EXAMPLES]))
    return Verdict("held", evidence, figures or {})


def not_tested(why: str) -> Verdict:
    """Not tested."""
    return Verdict("not tested", why)


def where_is(at: At) -> str:
    """A place, as people read it."""
    role, partition, offset = at
    return f"{role}/{partition}/{offset}"
