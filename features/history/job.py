"""What `fraudline features build` is asked to do, and what it tells when it is done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from features.catalog import DEFAULT, Catalog
from features.history.chunks import IsCardNumber
from features.history.fields import Refusals, Refused
from features.history.files import check_output
from features.history.mapping import AS_NAMED, Columns
from features.history.quarantine import Quarantine

Progress = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class Job:
    """Features of all payments of a history.

    Attributes:
        payments: a Parquet, CSV or JSON lines file in the order of the log, or a directory of such files.
        labels: likewise, in any order; None for none.
        out: what is written.
        is_card_number: tells a card number from a token; a payment with one is refused.
        memory_mb: how much may be held besides what the program itself takes.
        jobs: threads that fold.
        keep: columns of the payments that the output shall have too.
        skip_bad: leave out rows that are no record instead of failing.
        progress: told what is being done and the share that is.
        mapped: which columns of the files are which fields, where they have other names.
        quarantine: takes rows that are no record, which are then left out.
    """

    payments: Path
    labels: Path | None
    out: Path
    is_card_number: IsCardNumber
    catalog: Catalog = DEFAULT
    memory_mb: int = 1_024
    jobs: int = 1
    keep: tuple[str, ...] = ()
    skip_bad: bool = False
    progress: Progress = lambda _stage, _share: None
    mapped: Columns = AS_NAMED  # frozen
    quarantine: Quarantine | None = None

    def __post_init__(self) -> None:
        """Refuse an `out` that is an input. Raises ConfigError."""
        check_output(self.out, self.payments, self.labels)

    def refusals(self, path: Path, what: str) -> Refusals:
        """A count of what a file refuses."""
        return Refusals(path, what, rows=None if self.quarantine is None else Refused())

    def settle(self, refusals: Refusals, outcome: Outcome) -> None:
        """A file is read: count what was refused. Raises ConfigError where nothing may be."""
        if self.quarantine is not None:
            self.quarantine.take(refusals)
        elif not self.skip_bad:
            refusals.demand_none()
        outcome.refuse(refusals.what, dict(refusals.counts))


@dataclass(slots=True)
class Outcome:
    """How many of what: payments written, of which repeated; labels; refused rows by reason."""

    payments: int = 0
    repeated: int = 0
    labels: int = 0
    features: int = 0
    refused_payments: dict[str, int] = field(default_factory=dict)
    refused_labels: dict[str, int] = field(default_factory=dict)

    def refuse(self, what: str, counts: dict[Any, int]) -> None:
        """Add what a file refused."""
        known = self.refused_payments if what == "payment" else self.refused_labels
        for reason, count in counts.items():
            known[str(reason)] = known.get(str(reason), 0) + count
