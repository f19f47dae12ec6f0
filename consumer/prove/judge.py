"""Judges of outcomes, order and faults: from the evidence to a verdict on one promise.

They are pure, and share no code with the pipeline. Those of the replay, alerts, the budget and leaks have files of
their own.
"""

from __future__ import annotations

import signal
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from consumer.prove.evidence import CALM, FEATURED, At, Decided, Evidence, Letter, Sent
from consumer.prove.history import Kind
from consumer.prove.judge_replay import unclear
from consumer.prove.verdict import Verdict, held_if, not_tested, where_is
from consumer.prove.worker import Ended

EXACTLY_ONCE: Final = "exactly_once"
OVERDUE: Final = 1  # the exit status past `processing.drain_deadline_ms`
REASONS: Final[Mapping[Kind, str]] = {
    "empty": "empty",
    "too large": "too_large",
    "future": "future_event_time",
}
"""Why a dead letter is one, where its kind alone says it."""


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
        f"letters were seen, and {due['duplicate']:,} repeated payments were due neither{counted}{_plain(evidence)}",
        figures,
    )


def _plain(evidence: Evidence) -> str:
    """What is to be said of payments that were decided without features though nothing was done to Redis."""
    calm = sum((tiers for section, tiers in evidence.tiers.items() if section in CALM), Counter[str]())
    plain = {tier: count for tier, count in calm.items() if tier not in FEATURED}
    if not plain:
        return ""
    tiers = ", ".join(f"{count:,} {tier}" for tier, count in plain.items())
    return (
        f"; {sum(plain.values()):,} of {calm.total():,} decisions were made without features ({tiers}) though nothing "
        "was done to Redis yet: it did not answer within store.timeout_ms"
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
        if again and first_tier[event_id] in FEATURED and any(decided[each.at][0].tier in FEATURED for each in again):
            yield f"{where_is(again[0].at)} repeats a payment that was decided, and was decided again"
    places = {sent.at for sent in evidence.sent}
    yield from (f"{where_is(at)} was decided, and nobody sent it" for at in decided if at not in places)
    yield from (f"{where_is(at)} is a dead letter, and nobody sent it" for at in letters if at not in places)


def _of_one(sent: Sent, copies: list[Decided], refused: int, *, once: bool) -> Iterator[str]:
    """What is wrong with the outcome of one record."""
    due, where = sent.record.due, f"{where_is(sent.at)} ({sent.record.kind})"
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
    where, record = f"the dead letter of {where_is(sent.at)} ({sent.record.kind})", sent.record
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
    repeated = {each.at for each in evidence.sent if each.section in CALM and each.record.due == "duplicate"}
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
    wrong += [f"{where_is(at)} was decided {count} times" for at, count in decided.items() if count > 1]
    wrong += [
        f"{where_is(each.at)} has an alert without its decision" for each in evidence.alerts if not decided[each.at]
    ]
    if decided and not evidence.marks:
        wrong.append("no offset of the decisions topic is the mark of a transaction: it was written without one")
    return held_if(
        wrong,
        f"a read_committed reader saw {len(evidence.decisions):,} decisions, none twice, between the marks of "
        f"transactions, and the group is committed to the end of all {len(evidence.ends)} partitions with records",
    )


def killed(evidence: Evidence) -> Verdict:
    """Nothing is lost or repeated though workers were killed and stalled."""
    if evidence.delivery != EXACTLY_ONCE:
        return not_tested(f"processing.delivery is {evidence.delivery}: a crash may repeat decisions")
    if not evidence.kills:
        return not_tested("no processor was killed: that takes --faults")
    first = next((place for place, each in enumerate(evidence.workers) if each.told == "kill"), 0)
    wrong = [*_by_themselves(evidence.workers[first:]), *_outcomes(evidence), *_disordered(evidence)]
    wrong += committed(evidence).examples
    if not (wrong or evidence.stalls):
        return not_tested("nobody was seen to take over from the processor that was stopped, though some were killed")
    return held_if(
        wrong,
        f"kill -9 {_times(evidence.kills)}, and stopped until others had its partitions {_times(evidence.stalls)}, "
        f"over {len({each.replica for each in evidence.workers})} processors: every record has its one outcome, in "
        "order",
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
            yield f"the decision of {where_is(each.at)} lies behind a later one of its card"
        newest[each.key] = max(each.at[2], newest.get(each.key, -1))


def drained(evidence: Evidence) -> Verdict:
    """A processor that is told to stop under load ends with status 0, and nothing is lost."""
    told = [each for each in evidence.workers if each.told == "drain"]
    if not told:
        return not_tested("no processor was told to stop")
    overdue = [each for each in told if each.is_overdue and each.status == OVERDUE]
    wrong = [
        f"processor {each.replica} ended with status {each.status}"
        for each in told
        if each.status and each not in overdue
    ]
    wrong += [*_by_themselves(evidence.workers), *_outcomes(evidence)]
    if not (wrong or evidence.left_at_drain):
        return not_tested("no payments came while a processor was told to stop")
    return held_if(
        wrong,
        f"{len(told)} processors were sent SIGTERM, the first while payments came: {evidence.left_at_drain:,} were "
        f"left to the next one, and {'all' if not overdue else len(told) - len(overdue)} ended with status 0"
        + (f", {len(overdue)} past processing.drain_deadline_ms with status {OVERDUE}" if overdue else ""),
    )


def _by_themselves(workers: Iterable[Ended]) -> Iterator[str]:
    """Processors that ended though nobody told them to, or before they were killed, or that never got to work."""
    for each in workers:
        if each.is_stuck:
            yield f"processor {each.replica} lived and was given no partition, so that it had to be killed"
        elif not each.told or (each.told == "kill" and each.status != -signal.SIGKILL):
            yield f"processor {each.replica} ended by itself, with status {each.status}"


def flushed(evidence: Evidence) -> Verdict:
    """The state is lost under load: payments go on being decided, and features come back."""
    if evidence.flushed_ns is None:
        return not_tested("the state was not lost: that takes --faults")
    if not evidence.lost_keys:
        return not_tested("there was no state that could have been lost")
    after = [each for each in evidence.decisions if each.received_ns >= evidence.flushed_ns]
    wrong = list(_outcomes(evidence))
    if not after:
        wrong.append("nothing was decided afterwards")
    elif after[-1].tier not in FEATURED:
        wrong.append(f"the last payment was decided in the tier {after[-1].tier}: features did not come back")
    replay = None if evidence.after_flush is None else evidence.after_flush["verdict"]
    if replay == "different":
        wrong.append("a replay of what was decided until the end differs from it")
    if not wrong and replay in {None, "unverifiable"}:
        why = evidence.why_not_after_flush if evidence.after_flush is None else unclear(evidence.after_flush)
        return not_tested(f"features came back, and a replay could not verify that they are right: {why}")
    tiers = Counter(each.tier for each in after)
    said = ", ".join(f"{count:,} {tier}" for tier, count in tiers.items())
    return held_if(
        wrong,
        f"the run's own {evidence.lost_keys:,} keys were removed: {len(after):,} payments were decided since ({said})",
        tiers,
    )


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
