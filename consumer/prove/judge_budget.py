"""The judge of the budget."""

from __future__ import annotations

from typing import Final

from consumer.prove.evidence import Evidence
from consumer.prove.verdict import Verdict, not_tested

IN_TIME: Final = 0.999  # of the payments, so that a budget is held
CLOCK_MS: Final = 1.0  # by which a clock may be set, so that latency is worth anything


def in_budget(evidence: Evidence) -> Verdict:
    """999 of 1,000 payments are decided inside the budget, from when they were due."""
    told = evidence.latency
    if told is None or not told.payments:
        return not_tested("no payment was measured")
    if abs(evidence.clock_set_ms) > CLOCK_MS:
        return not_tested(f"this machine's clock was set by {evidence.clock_set_ms:,.1f} ms while latency was measured")
    said = (
        f"{told.within_budget:.3%} of {told.payments:,} payments were decided within {told.budget_ms:,} ms of when "
        f"they were due, p50 {told.percentiles['p50']:.1f}, p99 {told.percentiles['p99']:.1f}, p99.9 "
        f"{told.percentiles['p99.9']:.1f}, at most {told.max_ms:.1f} ms; it counts as held from {IN_TIME:.1%} on"
    )
    figures = {"within_budget": told.within_budget, "payments": told.payments, "budget_ms": told.budget_ms}
    if told.within_budget >= IN_TIME:
        return Verdict("held", said, figures)
    if told.fell_short:
        return not_tested(
            f"the generator sent {told.rate_sent:,.0f} records/s of {told.rate_asked:,.0f}, so this machine can't "
            f"drive that rate: ask for less; {said}"
        )
    return Verdict("broken", said, figures)
