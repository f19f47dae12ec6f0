"""Judges of the replay, and of the labels in it. They are pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

from consumer.prove.evidence import FEATURED, Evidence
from consumer.prove.verdict import Verdict, held_if, not_tested, where_is

LEAST_FEATURED: Final = 0.5  # of the payments before the flush: a few of the first ones are no evidence for the rest


def replayed(evidence: Evidence) -> Verdict:
    """Features, scores, decisions and alerts are what a replay of the logs says, to the bit."""
    told = evidence.certificate
    if told is None:
        return not_tested(evidence.why_no_certificate or "no certificate was made")
    if told["verdict"] == "unverifiable":
        return not_tested(f"nothing differs, and {unclear(told)}")
    wrong = [f"{count:,} differ in {what}" for what, count in told["differences"].items()]
    wrong += [
        f"{each['topic']}/{each['partition']} has another digest"
        for each in told["partitions"]
        if each["published"] != each["replayed"]
    ]
    if told["verdict"] != "equal" and not wrong:
        wrong = [f"the certificate says {told['verdict']}"]
    later = {each.at for each in evidence.sent if each.section == "flush"}
    tier_of = {each.at: each.tier for each in evidence.decisions if each.at not in later}
    if told["decisions"] != len(tier_of):
        wrong.append(f"the certificate is about {told['decisions']:,} decisions, and {len(tier_of):,} were seen")
    featured = sum(tier in FEATURED for tier in tier_of.values())
    if not (wrong or featured):
        return not_tested("every payment was decided without features, so that a replay says nothing of them")
    if not wrong and featured < LEAST_FEATURED * len(tier_of):
        return not_tested(
            f"only {featured:,} of {len(tier_of):,} payments were decided with features, and a replay of fewer than "
            f"{LEAST_FEATURED:.0%} says too little of them: Redis did not answer in time, or the machine was busy"
        )
    return held_if(
        wrong,
        f"fraudline certify made {told['equal']:,} of {told['decisions']:,} decisions again, from the logs, "
        f"{featured:,} of them with features: scores to the bit, decisions, rules, and alerts with their reasons are "
        "equal",
        {"equal": told["equal"], "decisions": told["decisions"], "with_features": featured},
    )


def unclear(certificate: dict[str, Any]) -> str:
    """What a certificate could not verify, and why."""
    why = ", ".join(f"{name} {count}" for name, count in certificate["why_unverifiable"].items())
    return f"{certificate['unverifiable']:,} decisions can't be verified: {why}"


def labelled(evidence: Evidence) -> Verdict:
    """Labels, also ones that take an earlier one back, are in the features."""
    counts = Counter(each.record.kind for each in evidence.sent)
    if not counts["label"]:
        return not_tested("no label fell into the history: it was too short")
    if not evidence.label_features:
        return not_tested("the catalog has no feature that labels are in")
    verdict = replayed(evidence)
    if verdict.status != "held":
        return verdict
    wrong, changed = list(_unapplied(evidence)), evidence.changed_by_labels
    if why := _inconclusive(evidence, has_unapplied=bool(wrong)):
        return not_tested(why)
    return held_if(
        wrong,
        f"the journal tells when each of the {counts['label']:,} labels, and of {counts['reversal']:,} that took one "
        f"back, was applied; made again without labels, {changed or 0:,} decisions differ, and with them none does",
        {"labels": counts["label"], "reversals": counts["reversal"], "decisions_changed": changed or 0},
    )


def _inconclusive(evidence: Evidence, *, has_unapplied: bool) -> str:
    """Why nothing can be said of labels; empty if something can."""
    if has_unapplied:
        if evidence.decisions[-1].tier in FEATURED:
            return ""
        return "the last payments were decided without features: the state may lack the last labels too"
    if evidence.changed_by_labels is None:
        return f"a replay without labels could not be made: {evidence.why_no_count}"
    return "" if evidence.changed_by_labels else "every decision would be the same without the labels"


def _unapplied(evidence: Evidence) -> Iterator[str]:
    """Labels that are well formed, and of which nothing tells that they were applied to the state."""
    numbered = {
        ("labels", each.partition, offset)
        for each in evidence.journal
        if each.role == "labels"
        for offset in range(each.start, each.end)
    }
    refused = {letter.at for letter in evidence.letters}
    for each in evidence.sent:
        if each.record.kind in {"label", "reversal"}:
            if each.at not in numbered:
                yield f"{where_is(each.at)} ({each.record.kind}) has no number in the journal: it was not applied"
            elif each.at in refused:
                yield f"{where_is(each.at)} ({each.record.kind}) is a dead letter: it was not applied"
