"""What became of the records that were sent, and what of it contradicts the promise."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

At = tuple[int, int]  # the partition and offset of a payment


@dataclass(slots=True)
class Tally:
    """What became of what was sent, by the partition and offset of the payment."""

    good: dict[At, bytes] = field(default_factory=dict)  # of what can be decided, a digest of card and event id
    bad: set[At] = field(default_factory=set)
    decided: Counter[At] = field(default_factory=Counter)
    refused: Counter[At] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    duplicates: int = 0
    told: dict[str, list[str]] = field(default_factory=dict)  # what leaked, and where

    @property
    def sent(self) -> int:
        """Records that the broker has."""
        return len(self.good) + len(self.bad)

    def undecided(self) -> list[At]:
        """Payments without an outcome: duplicates, if all is well."""
        return [at for at in self.good if at not in self.decided and at not in self.refused]

    def wrong(self) -> list[str]:
        """All that contradicts what is promised; empty if all is well."""
        found = [f"{at} has {count} decisions" for at, count in self.decided.items() if count > 1]
        found += [f"{at} has {count} dead letters" for at, count in self.refused.items() if count > 1]
        found += [f"{at} can't be decided and was" for at in self.decided if at in self.bad]
        found += [f"{at} can be decided and is a dead letter" for at in self.refused if at in self.good]
        found += [f"{at} can't be decided and is no dead letter" for at in self.bad if at not in self.refused]
        found += [f"{at} is none that was sent" for at in {*self.decided, *self.refused} - {*self.good, *self.bad}]
        known = {self.good[at] for at in self.decided if at in self.good}
        silent = self.undecided()
        found += [f"{at} has no decision, nor has its event id" for at in silent if self.good[at] not in known]
        if len(silent) != self.duplicates:
            found.append(f"{len(silent)} have no outcome, and {self.duplicates} were counted as duplicates")
        found += [f"{where} tells {', '.join(what)}" for where, what in self.told.items() if what]
        return found

    def summary(self) -> str:
        """Counts, for people."""
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in self.reasons.most_common())
        return (
            f"{self.sent:,} sent: {len(self.decided):,} decided, {len(self.refused):,} dead letters, "
            f"{self.duplicates:,} duplicates. Dead letters by reason: {reasons}."
        )
