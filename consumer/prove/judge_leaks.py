"""Judges of what must not be seen, and of what must not be left behind."""

from __future__ import annotations

from consumer.prove.evidence import Evidence
from consumer.prove.verdict import Verdict, held_if, not_tested


def no_canaries(evidence: Evidence) -> Verdict:
    """No card number, payload or secret leaves the processor."""
    if not (evidence.looked_at and evidence.laid and all(evidence.laid.values())):
        return not_tested("no card number or no secret lay in what was sent, or nothing was searched for them")
    laid = ", ".join(f"{count:,} {what}" for what, count in evidence.laid.items())
    looked = ", ".join(f"{count:,} {what}" for what, count in evidence.looked_at.items())
    return held_if(
        evidence.leaks,
        f"{laid} lay in payments, and the deployment has {evidence.secrets} secrets of its own: "
        f"none stands in {looked}",
        dict(evidence.looked_at),
    )


def no_secret_shown(evidence: Evidence) -> Verdict:
    """What shows the settings shows no secret."""
    if not evidence.secrets:
        return not_tested("the deployment's settings have no secret")
    return held_if(evidence.shown, f"none of {evidence.secrets} secrets stands in the settings as they are shown")


def left_nothing(evidence: Evidence) -> Verdict:
    """Nothing of the proof is left, and nothing else is gone."""
    told = evidence.removal
    if told is None:
        return not_tested("nothing was removed yet")
    wrong = [f"{what} is still there" for what in told.left] + told.problems
    wrong += [f"the topic {name} was there before, and no longer is" for name in told.lost]
    before, after = told.other_keys
    keys = "" if before is None or after is None else f"; others had {before:,} keys before and {after:,} after"
    return held_if(wrong, f"{told.topics} topics, the group and {told.keys:,} keys were made and removed{keys}")
