"""Judges: from the evidence to a verdict on one promise. They are pure, and share no code with the pipeline."""

from __future__ import annotations

import hashlib
import signal
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from consumer.prove.evidence import Alerted, At, Decided, Evidence, Letter, Sent
from consumer.prove.history import Kind

Status = Literal["held", "broken", "not tested"]
EXAMPLES: Final = 10
IN_TIME: Final = 0.999  # of the payments, so that a budget is held
CLOCK_MS: Final = 1.0  # by which a clock may be set, so that latency is worth anything
EXACTLY_ONCE: Final = "exactly_once"
APPROVED: Final = "approve"
FULL: Final = "full"
REASONS: Final[Mapping[Kind, str]] = {
    "empty": "empty",
    "too large": "too_large",
    "future": "future_event_time",
}
"""Why a dead letter is one, where its kind alone says it."""


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


def outcomes(evidence: Evidence) -> Verdict:
    """One outcome for each record: as many as were due, and none of anything that was not sent."""
    wrong = [*_outcomes(evidence), *_counted(evidence)]
    wrong += [f"the record at {place} is not what its topic is for" for place in evidence.garbled]
    due = Counter(each.record.due for each in evidence.sent)
    figures = {
        "records": len(evidence.sent),
        "kinds": dict(Counter(each.record.kind for each in evidence.sent)),
        "decisions": len(evidence.decisions),
        "dead_letters": len(evidence.letters),
        "duplicates": due["duplicate"],
        "tiers": dict(Counter(each.tier for each in evidence.decisions)),
    }
    counted = "" if evidence.counted is None else ", as many as the processor counted"
    return held_if(
        wrong,
        f"{len(evidence.sent):,} records: {len(evidence.decisions):,} decisions and {len(evidence.letters):,} dead "
        f"letters were seen, and {due['duplicate']:,} repeated payments were due neither{counted}",
        figures,
    )


def _outcomes(evidence: Evidence) -> Iterator[str]:
    decided: dict[At, list[Decided]] = defaultdict(list)
    for decision in evidence.decisions:
        decided[decision.at].append(decision)
    letters = Counter(letter.at for letter in evidence.letters)
    held = {letter.at: letter for letter in evidence.letters}
    first_tier: dict[str, str] = {}  # of an event id: how it was decided first
    once = evidence.delivery == EXACTLY_ONCE
    by_event: dict[str, list[Sent]] = defaultdict(list)
    for sent in evidence.sent:
        if sent.record.due in {"decision", "duplicate"}:
            by_event[sent.record.event_id].append(sent)
        copies, refused = decided.get(sent.at, []), letters[sent.at]
        yield from _of_one(sent, copies, refused, once=once)
        if refused and sent.record.due == "dead letter":
            yield from _of_letter(sent, held[sent.at])
        if copies:
            first_tier.setdefault(sent.record.event_id, copies[0].tier)
    for event_id, group in by_event.items():
        again = [each for each in group[1:] if each.at in decided]
        if again and first_tier[event_id] == FULL and any(decided[each.at][0].tier == FULL for each in again):
            yield f"{_where(again[0].at)} repeats a payment that was decided, and was decided again"
    places = {sent.at for sent in evidence.sent}
    yield from (f"{_where(at)} was decided, and nobody sent it" for at in decided if at not in places)
    yield from (f"{_where(at)} is a dead letter, and nobody sent it" for at in letters if at not in places)


def _of_one(sent: Sent, copies: list[Decided], refused: int, *, once: bool) -> Iterator[str]:
    """What is wrong with the outcome of one record."""
    due, where = sent.record.due, f"{_where(sent.at)} ({sent.record.kind})"
    if copies and refused:
        yield f"{where} was decided, and is a dead letter too"
    elif once and len(copies) + refused > 1:
        yield f"{where} has {len(copies)} decisions and {refused} dead letters"
    if due == "decision" and not copies:
        yield f"{where} has no decision"
    if due == "dead letter" and not refused:
        yield f"{where} has no dead letter"
    if due != "dead letter" and refused:
        yield f"{where} is well formed, and is a dead letter"
    if due in {"dead letter", "nothing"} and copies:
        yield f"{where} was decided"
    if copies and due != "nothing" and copies[0].event_id != sent.record.event_id:
        yield f"{where} was decided as another payment"


def _of_letter(sent: Sent, letter: Letter) -> Iterator[str]:
    """What is wrong with a dead letter: its reason, or what it holds of the record."""
    where, record = f"the dead letter of {_where(sent.at)} ({sent.record.kind})", sent.record
    if not letter.reason or letter.reason != REASONS.get(record.kind, letter.reason):
        yield f"{where} gives the reason {letter.reason!r}"
    whole, held = record.value or b"", letter.value or b""
    is_start = record.kind == "too large" and held and whole.startswith(held)  # what no topic could hold is cut
    if letter.key != record.key or not (held == whole or is_start):
        yield f"{where} holds other bytes than were sent"


def _counted(evidence: Evidence) -> Iterator[str]:
    """The processor's own count of duplicates, of the time in which nothing was done to it."""
    if evidence.counted is None:
        return
    calm = {"mark", "warm-up", "measured"}
    repeated = {each.at for each in evidence.sent if each.section in calm and each.record.due == "duplicate"}
    due = len(repeated - {each.at for each in evidence.decisions})
    counted = round(evidence.counted.get("fraudline_duplicates_total", 0.0))
    if counted != due:
        yield f"the processor counted {counted} duplicates, and there were {due}"


def committed(evidence: Evidence) -> Verdict:
    """Everything that belongs to a batch became visible with its offsets."""
    if evidence.delivery != EXACTLY_ONCE:
        return not_tested(f"processing.delivery is {evidence.delivery}: there are no transactions")
    decided = Counter(each.at for each in evidence.decisions)
    wrong = [
        f"{topic}/{partition} is committed up to {evidence.committed.get((topic, partition), -1)} of {end}"
        for (topic, partition), end in sorted(evidence.ends.items())
        if evidence.committed.get((topic, partition), -1) != end
    ]
    wrong += [f"{_where(at)} was decided {count} times" for at, count in decided.items() if count > 1]
    wrong += [
        f"{_where(each.at)} has an alert without its decision" for each in evidence.alerts if not decided[each.at]
    ]
    return held_if(
        wrong,
        f"a read_committed reader saw {len(evidence.decisions):,} decisions, none twice, and the group is committed to "
        f"the end of all {len(evidence.ends)} partitions that hold anything",
    )


def killed(evidence: Evidence) -> Verdict:
    """Nothing is lost or repeated though workers were killed and stalled."""
    if evidence.delivery != EXACTLY_ONCE:
        return not_tested(f"processing.delivery is {evidence.delivery}: a crash may repeat decisions")
    if not evidence.kills:
        return not_tested("no processor was killed: that takes --faults")
    wrong = [*_outcomes(evidence), *_disordered(evidence), *committed(evidence).examples]
    return held_if(
        wrong,
        f"kill -9 {evidence.kills} times, and stopped for longer than a session {_times(evidence.stalls)}, over "
        f"{len({each.replica for each in evidence.workers})} processors: every record has its one outcome, in order",
        {"kills": evidence.kills, "stalls": evidence.stalls},
    )


def ordered(evidence: Evidence) -> Verdict:
    """The decisions of a card lie in the order of its payments."""
    cards = len({each.key for each in evidence.decisions})
    if not cards:
        return not_tested("nothing was decided")
    return held_if(_disordered(evidence), f"{len(evidence.decisions):,} decisions of {cards:,} cards are in order")


def _disordered(evidence: Evidence) -> Iterator[str]:
    newest: dict[bytes | None, int] = {}
    seen: set[At] = set()
    for each in sorted(evidence.decisions, key=lambda decision: decision.place):
        if each.at in seen:
            continue  # a copy, which comes when it comes
        seen.add(each.at)
        if newest.get(each.key, -1) > each.at[2]:
            yield f"the decision of {_where(each.at)} lies behind a later one of its card"
        newest[each.key] = max(each.at[2], newest.get(each.key, -1))


def alerted(evidence: Evidence) -> Verdict:
    """A score for each decision, and an alert with reasons for each that is not an approval."""
    alerts: dict[At, list[Alerted]] = defaultdict(list)
    for alert in evidence.alerts:
        alerts[alert.at].append(alert)
    wrong: list[str] = []
    decided: dict[At, list[Decided]] = defaultdict(list)
    for decision in evidence.decisions:
        decided[decision.at].append(decision)
        if decision.score is None and decision.tier != "rules_only":
            wrong.append(f"{_where(decision.at)} was decided without a score")
    for at, copies in decided.items():
        due = sum(each.decision != APPROVED for each in copies)
        if len(alerts.get(at, ())) != due:
            wrong.append(f"{_where(at)} has {len(alerts.get(at, ()))} alerts, {due} are due")
    for at, own in alerts.items():
        wrong += [problem for each in own for problem in _of_alert(each, decided.get(at, []))]
    bare = sum(each.reasons == 0 for each in evidence.alerts)
    due = sum(each.decision != APPROVED for each in evidence.decisions)
    said = f"{due:,} payments were not approved, and {len(evidence.alerts):,} alerts were seen"
    if bare:
        said += f"; {bare:,} of them have no reasons, as only rules decided or a fault left no time"
    if hasty := round((evidence.counted or {}).get("fraudline_alerts_unexplained_total", 0.0)):
        wrong.append(f"{hasty} alerts of the measured section left without reasons, as there was no time")
    if not due and not wrong:
        return not_tested("the model approved every payment, so no alert was due")
    return held_if(wrong, said, {"due": due, "alerts": len(evidence.alerts), "without_reasons": bare})


def _of_alert(alert: Alerted, copies: list[Decided]) -> Iterator[str]:
    where = f"the alert of {_where(alert.at)}"
    told = (alert.event_id, alert.card_id, alert.decision, alert.score, alert.tier)
    if told not in [(each.event_id, each.card_id, each.decision, each.score, each.tier) for each in copies]:
        yield f"{where} is not its decision's"
    if alert.alert_id != _alert_id(alert):
        yield f"{where} has another id than its payment gives"


def _alert_id(alert: Alerted) -> str:
    card, event = alert.card_id, alert.event_id
    text = f"{len(card)}:{card}{len(event)}:{event}{alert.event_time}"
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def replayed(evidence: Evidence) -> Verdict:
    """Features, scores, decisions and alerts are what a replay of the logs says, to the bit."""
    told = evidence.certificate
    if told is None:
        return not_tested(evidence.why_no_certificate or "no certificate was made")
    if told["verdict"] == "unverifiable":
        why = ", ".join(f"{name} {count}" for name, count in told["why_unverifiable"].items())
        return not_tested(f"nothing differs, and {told['unverifiable']:,} decisions can't be verified: {why}")
    wrong = [f"{count:,} differ in {what}" for what, count in told["differences"].items()]
    wrong += [
        f"{each['topic']}/{each['partition']} has another digest"
        for each in told["partitions"]
        if each["published"] != each["replayed"]
    ]
    if told["verdict"] != "equal" and not wrong:
        wrong = [f"the certificate says {told['verdict']}"]
    later = {each.at for each in evidence.sent if each.section == "flush"}
    distinct = len({each.at for each in evidence.decisions} - later)
    if told["decisions"] != distinct:
        wrong.append(f"the certificate is about {told['decisions']:,} decisions, and {distinct:,} were seen")
    return held_if(
        wrong,
        f"fraudline certify made {told['equal']:,} of {told['decisions']:,} decisions again, from the logs: scores to "
        "the bit, decisions, rules, and alerts with their reasons are equal",
        {"equal": told["equal"], "decisions": told["decisions"]},
    )


def labelled(evidence: Evidence) -> Verdict:
    """Labels, also ones that take an earlier one back, are in the features."""
    counts = Counter(each.record.kind for each in evidence.sent)
    if not counts["label"]:
        return not_tested("no label fell into the history: it was too short")
    verdict = replayed(evidence)
    if verdict.status != "held":
        return Verdict(verdict.status, verdict.evidence, verdict.figures, verdict.examples)
    return Verdict(
        "held",
        f"the replay that equals what was published reads the {counts['label']:,} labels that were sent, and "
        f"{counts['reversal']:,} that took one back",
        {"labels": counts["label"], "reversals": counts["reversal"]},
    )


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


def drained(evidence: Evidence) -> Verdict:
    """A processor that is told to stop under load ends with status 0, and nothing is lost."""
    told = [each for each in evidence.workers if each.told == "drain"]
    if not told:
        return not_tested("no processor was told to stop")
    wrong = [f"processor {each.replica} ended with status {each.status}" for each in told if each.status]
    killed = -signal.SIGKILL
    wrong += [
        f"processor {each.replica} ended by itself, with status {each.status}"
        for each in evidence.workers
        if not each.told or (each.told == "kill" and each.status != killed)
    ]
    wrong += _outcomes(evidence)
    if not (wrong or evidence.left_at_drain):
        return not_tested("no payments came while a processor was told to stop")
    return held_if(
        wrong,
        f"{len(told)} processors were sent SIGTERM, the first while payments came: {evidence.left_at_drain:,} were "
        "left to the next one, and all ended with status 0",
    )


def flushed(evidence: Evidence) -> Verdict:
    """The state is lost under load: payments go on being decided, and features come back."""
    if evidence.flushed_ns is None:
        return not_tested("the state was not lost: that takes --faults")
    after = [each for each in evidence.decisions if each.received_ns >= evidence.flushed_ns]
    wrong = list(_outcomes(evidence))
    if not after:
        wrong.append("nothing was decided afterwards")
    elif after[-1].tier != FULL:
        wrong.append(f"the last payment was decided in the tier {after[-1].tier}: features did not come back")
    if evidence.after_flush is not None and evidence.after_flush["verdict"] == "different":
        wrong.append("a replay of what was decided until the end differs from it")
    tiers = Counter(each.tier for each in after)
    said = ", ".join(f"{count:,} {tier}" for tier, count in tiers.items())
    return held_if(
        wrong, f"the run's own keys were removed: {len(after):,} payments were decided since ({said})", tiers
    )


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


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _where(at: At) -> str:
    role, partition, offset = at
    return f"{role}/{partition}/{offset}"
