"""Each judge of `fraudline prove`: sound evidence is held, and each way to tamper with it is seen."""

from __future__ import annotations

import base64
import json
import math
import random
import re
from collections.abc import Callable
from pathlib import Path

import jsonschema
import msgspec
import numpy as np
import pytest
from pydantic import SecretStr

from consumer.cli_prove import EXIT_OF, _show
from consumer.prove import judge, judge_budget, judge_replay
from consumer.prove.canaries import Search, secrets_of
from consumer.prove.evidence import Alerted, Decided, Evidence, Letter, Numbered, Section, Sent, read
from consumer.prove.history import DUE, HOT_CARD, Canaries, Kind, Record, history
from consumer.prove.latency import Latency, measure
from consumer.prove.measured import latency_of
from consumer.prove.names import Run
from consumer.prove.page import render
from consumer.prove.plan import Asked, enough_of, plan
from consumer.prove.processes import Seen
from consumer.prove.promises import PROMISES, judged
from consumer.prove.report import Report, report, schema
from consumer.prove.resources import Removal
from consumer.prove.worker import Ended
from consumer.records import JournalEntry, alert_id
from consumer.settings import Settings, StoreSettings, TopicSettings

MS = 1_000_000
KINDS: tuple[Kind, ...] = ("payment", "hot", "payment", "malformed", "label", "reversal", "future", "payment")
CERTIFICATE = {
    "verdict": "equal", "decisions": 0, "equal": 0, "differences": {}, "unverifiable": 0, "why_unverifiable": {},
    "partitions": [{"topic": "p", "partition": 0, "decisions": 3, "published": "ab", "replayed": "ab"}],
}  # fmt: skip


def sound(records: int = 80) -> Evidence:
    """A run in which all went well: two cards a partition, every third payment is not approved."""
    evidence = Evidence(delivery="exactly_once", budget_ms=200, secrets=1)
    for number in range(records):
        kind = KINDS[number % len(KINDS)]
        role = "labels" if kind in {"label", "reversal"} else "payments"
        card = f"card-{number % 6}"
        record = Record(role, card.encode(), b"{}", kind, f"e-{number}")
        sent = Sent(record, "measured", number % 3, number, number * 10 * MS, 0)
        evidence.sent.append(sent)
        if record.due == "dead letter":
            reason = "future_event_time" if kind == "future" else "not_json"
            evidence.letters.append(Letter(sent.at, reason, record.key, record.value))
        if record.due == "decision":
            _decide(evidence, sent, card, "approve" if number % 3 else "block")
        if record.due != "dead letter":
            evidence.journal.append(Numbered(role, sent.partition, number, number + 1))
    first = evidence.sent[0]
    again = Record("payments", first.record.key, b"{}", "duplicate", first.record.event_id)
    evidence.sent.append(Sent(again, "measured", first.partition, records, records * 10 * MS, 0))
    count = len(evidence.decisions)
    evidence.certificate = CERTIFICATE | {"decisions": count, "equal": count}
    evidence.committed = {("p", 0): 9, ("p", 1): 4}
    evidence.ends, evidence.marks = dict(evidence.committed), 4
    evidence.counted = {"fraudline_duplicates_total": 1.0}
    evidence.workers = [Ended("a", "drain", 0), Ended("b", "kill", -9), Ended("c", "drain", 0)]
    evidence.left_at_drain = 5
    evidence.laid, evidence.looked_at = {"card numbers": 2, "secrets": 3}, {"log lines": 9}
    evidence.kills, evidence.stalls, evidence.flushed_ns = 3, 1, evidence.decisions[count // 2].received_ns
    evidence.lost_keys, evidence.after_flush, evidence.label_features = 7, CERTIFICATE, 4
    evidence.changed_by_labels = 11
    evidence.latency = latency_of(evidence, 100.0, ())
    evidence.removal = Removal(topics=7, keys=3, other_keys=(5, 5))
    return evidence


def _decide(evidence: Evidence, sent: Sent, card: str, decision: str) -> None:
    place = (sent.partition, len(evidence.decisions))
    event_id, key = sent.record.event_id, card.encode()
    evidence.decisions.append(
        Decided(sent.at, place, key, event_id, card, 5, decision, 0.5, "full", 0, sent.due_ns + 50 * MS, "m@1", "ab")
    )
    if decision != "approve":
        name = alert_id(card, event_id, 5)
        evidence.alerts.append(Alerted(sent.at, name, event_id, card, 5, decision, 0.5, "full", 3, {"score": 1.0}))


def status_of(evidence: Evidence, promise: str) -> str:
    return next(verdict.status for each, verdict in judged(evidence) if each.id == promise)


def test_sound_evidence_is_held() -> None:
    never = {"offline", "idle", "missing"}
    assert {each.id: verdict.status for each, verdict in judged(sound())} == {
        each.id: "not tested" if each.id in never else "held" for each in PROMISES
    }


def lose_a_decision(e: Evidence) -> None:
    del e.decisions[4]


def lose_a_dead_letter(e: Evidence) -> None:
    del e.letters[0]


def decide_twice(e: Evidence) -> None:
    again = e.decisions[3]
    e.decisions.append(again._replace(place=(again.place[0], 999)))


def decide_and_refuse(e: Evidence) -> None:
    e.letters.append(Letter(e.decisions[3].at, "not_json", None, None))


def decide_a_duplicate(e: Evidence) -> None:
    _decide(e, e.sent[-1], "card-0", "approve")
    e.counted = {"fraudline_duplicates_total": 0.0}


def decide_what_is_malformed(e: Evidence) -> None:
    _decide(e, next(each for each in e.sent if each.record.kind == "malformed"), "card-0", "approve")


def decide_a_label(e: Evidence) -> None:
    _decide(e, next(each for each in e.sent if each.record.kind == "label"), "card-0", "approve")


def refuse_a_label(e: Evidence) -> None:
    label = next(each for each in e.sent if each.record.kind == "label")
    e.letters.append(Letter(label.at, "not_json", None, None))


def decide_as_another(e: Evidence) -> None:
    e.decisions[5] = e.decisions[5]._replace(event_id="e-other")


def decide_what_nobody_sent(e: Evidence) -> None:
    e.decisions.append(e.decisions[0]._replace(at=("payments", 0, 99_999), place=(0, 998)))


def refuse_what_nobody_sent(e: Evidence) -> None:
    e.letters.append(Letter(("payments", 0, 99_999), "not_json", None, None))


def miscount_duplicates(e: Evidence) -> None:
    e.counted = {"fraudline_duplicates_total": 0.0}


def garble(e: Evidence) -> None:
    e.garbled.append("decisions/0/3")


def fall_behind(e: Evidence) -> None:
    e.committed["p", 0] = 8


def write_without_a_transaction(e: Evidence) -> None:
    e.marks = 0


def reorder(e: Evidence) -> None:
    own = [n for n, each in enumerate(e.decisions) if each.key == e.decisions[0].key]
    first, last = own[0], own[-1]
    one, other = e.decisions[first], e.decisions[last]
    e.decisions[first], e.decisions[last] = one._replace(place=other.place), other._replace(place=one.place)


def miss_an_alert(e: Evidence) -> None:
    del e.alerts[0]


def alert_twice(e: Evidence) -> None:
    e.alerts.append(e.alerts[0])


def alert_an_approval(e: Evidence) -> None:
    approved = next(each for each in e.decisions if each.decision == "approve")
    e.alerts.append(e.alerts[0]._replace(at=approved.at))


def alert_otherwise(e: Evidence) -> None:
    e.alerts[0] = e.alerts[0]._replace(score=0.4999)


def rename_an_alert(e: Evidence) -> None:
    e.alerts[0] = e.alerts[0]._replace(alert_id="0" * 32)


def decide_without_score(e: Evidence) -> None:
    e.decisions[1] = e.decisions[1]._replace(score=None)


def leave_reasons_out(e: Evidence) -> None:
    e.counted = {"fraudline_duplicates_total": 1.0, "fraudline_alerts_unexplained_total": 2.0}


def alter_a_score(e: Evidence) -> None:
    assert e.certificate is not None
    e.certificate = e.certificate | {"verdict": "different", "differences": {"score": 1}}


def alter_a_digest(e: Evidence) -> None:
    assert e.certificate is not None
    [partition] = e.certificate["partitions"]
    e.certificate = e.certificate | {"partitions": [partition | {"replayed": "cd"}]}


def certify_too_little(e: Evidence) -> None:
    assert e.certificate is not None
    e.certificate = e.certificate | {"decisions": 3, "equal": 3}


def come_too_late(e: Evidence) -> None:
    e.decisions[2] = e.decisions[2]._replace(received_ns=e.decisions[2].received_ns + 500 * MS)
    e.latency = latency_of(e, 100.0, ())


def come_never(e: Evidence) -> None:
    del e.decisions[2]
    e.latency = latency_of(e, 100.0, ())


def leak(e: Evidence) -> None:
    e.leaks.append("a card number stands in line 3 of the log of processor a")


def show_a_secret(e: Evidence) -> None:
    e.shown.append("a secret stands in kafka.sasl_password")


def end_badly(e: Evidence) -> None:
    e.workers[0] = Ended("a", "drain", 1)


def refuse_without_a_reason(e: Evidence) -> None:
    e.letters[0] = e.letters[0]._replace(reason="")


def refuse_for_another_reason(e: Evidence) -> None:
    at = next(number for number, each in enumerate(e.letters) if each.reason == "future_event_time")
    e.letters[at] = e.letters[at]._replace(reason="not_json")


def alter_a_dead_letter(e: Evidence) -> None:
    e.letters[0] = e.letters[0]._replace(value=b"{")


def give_a_dead_letter_another_key(e: Evidence) -> None:
    e.letters[0] = e.letters[0]._replace(key=b"card-x")


def crash_before_it_is_killed(e: Evidence) -> None:
    e.workers[1] = Ended("b", "kill", 1)


def end_by_itself(e: Evidence) -> None:
    e.workers.append(Ended("a", "", 1))


def stay_without_features(e: Evidence) -> None:
    e.decisions[-1] = e.decisions[-1]._replace(tier="no_features")


def differ_after_the_flush(e: Evidence) -> None:
    e.after_flush = CERTIFICATE | {"verdict": "different"}


def decide_nothing_after_the_flush(e: Evidence) -> None:
    e.flushed_ns = 10**18


def call_it_different(e: Evidence) -> None:
    assert e.certificate is not None
    e.certificate = e.certificate | {"verdict": "different"}


def pass_the_deadline_though_nobody_told_it_to_end(e: Evidence) -> None:
    e.workers[0] = Ended("a", "", 1, is_overdue=True)


def die_past_the_deadline(e: Evidence) -> None:
    e.workers[0] = Ended("a", "drain", -9, is_overdue=True)


def hang(e: Evidence) -> None:
    e.workers.append(Ended("b", "", -9, is_stuck=True))


def number_of(e: Evidence, kind: Kind) -> int:
    """Which entry of the journal numbers the first label of a kind."""
    at = next(each.at for each in e.sent if each.record.kind == kind)
    return next(place for place, each in enumerate(e.journal) if (each.role, each.partition, each.start) == at)


def number_no_label(e: Evidence) -> None:
    e.journal = [each for each in e.journal if each.role == "payments"]


def miss_a_label(e: Evidence) -> None:
    del e.journal[number_of(e, "label")]


def miss_a_reversal(e: Evidence) -> None:
    del e.journal[number_of(e, "reversal")]


def number_what_lies_before_a_label(e: Evidence) -> None:
    place = number_of(e, "label")
    run = e.journal[place]
    e.journal[place] = run._replace(start=run.start - 1, end=run.start)


def number_the_payment_beside_a_label(e: Evidence) -> None:
    place = number_of(e, "label")
    e.journal[place] = e.journal[place]._replace(role="payments")


def number_a_label_of_another_partition(e: Evidence) -> None:
    place = number_of(e, "label")
    e.journal[place] = e.journal[place]._replace(partition=7)


def leave_a_topic(e: Evidence) -> None:
    e.removal = Removal(left=["fraudline-prove-x.payments"])


def lose_a_topic_of_others(e: Evidence) -> None:
    e.removal = Removal(lost=["payments"])


def fail_to_remove(e: Evidence) -> None:
    e.removal = Removal(problems=["Kafka does not answer"])


TAMPERED: list[tuple[Callable[[Evidence], None], str]] = [
    (lose_a_decision, "outcome"), (lose_a_decision, "kill"), (lose_a_decision, "drain"), (lose_a_decision, "flush"),
    (lose_a_dead_letter, "outcome"), (decide_twice, "outcome"), (decide_twice, "transaction"), (decide_twice, "kill"),
    (decide_and_refuse, "outcome"), (decide_a_duplicate, "outcome"), (decide_what_is_malformed, "outcome"),
    (decide_a_label, "outcome"), (decide_as_another, "outcome"), (decide_what_nobody_sent, "outcome"),
    (refuse_what_nobody_sent, "outcome"), (miscount_duplicates, "outcome"), (garble, "outcome"),
    (write_without_a_transaction, "transaction"), (write_without_a_transaction, "kill"),
    (fall_behind, "transaction"), (fall_behind, "kill"), (reorder, "order"), (reorder, "kill"),
    (miss_an_alert, "alerts"), (alert_twice, "alerts"), (alert_an_approval, "alerts"), (alert_otherwise, "alerts"),
    (rename_an_alert, "alerts"), (decide_without_score, "alerts"), (leave_reasons_out, "alerts"),
    (alter_a_score, "replay"), (alter_a_score, "labels"), (alter_a_digest, "replay"), (certify_too_little, "replay"),
    (come_too_late, "budget"), (come_never, "budget"), (leak, "token"), (show_a_secret, "settings"),
    (end_badly, "drain"), (end_by_itself, "drain"), (stay_without_features, "flush"),
    (differ_after_the_flush, "flush"), (leave_a_topic, "nothing left"), (lose_a_topic_of_others, "nothing left"),
    (fail_to_remove, "nothing left"),
    (refuse_a_label, "outcome"), (decide_nothing_after_the_flush, "flush"), (call_it_different, "replay"),
    (refuse_without_a_reason, "outcome"), (refuse_for_another_reason, "outcome"), (alter_a_dead_letter, "outcome"),
    (give_a_dead_letter_another_key, "outcome"), (crash_before_it_is_killed, "drain"),
    (crash_before_it_is_killed, "kill"), (end_by_itself, "kill"),
    (pass_the_deadline_though_nobody_told_it_to_end, "drain"), (die_past_the_deadline, "drain"),
    (hang, "kill"), (hang, "drain"), (number_no_label, "labels"), (miss_a_label, "labels"), (miss_a_reversal, "labels"),
    (number_what_lies_before_a_label, "labels"), (number_the_payment_beside_a_label, "labels"),
    (number_a_label_of_another_partition, "labels"), (refuse_a_label, "labels"),
]  # fmt: skip


@pytest.mark.parametrize(("tamper", "promise"), TAMPERED, ids=lambda each: getattr(each, "__name__", each))
def test_what_was_tampered_with_breaks_its_promise(tamper: Callable[[Evidence], None], promise: str) -> None:
    evidence = sound()
    assert status_of(evidence, promise) == "held"
    tamper(evidence)
    assert status_of(evidence, promise) == "broken"


def test_every_promise_that_can_be_judged_can_be_broken() -> None:
    assert {promise for _, promise in TAMPERED} == {each.id for each in PROMISES if each.how != "not here"}


@pytest.mark.parametrize(
    ("promise", "change"),
    [
        ("kill", {"kills": 0}), ("kill", {"stalls": 0}), ("kill", {"delivery": "at_least_once"}),
        ("transaction", {"delivery": "at_least_once"}),
        ("flush", {"flushed_ns": None}), ("flush", {"after_flush": None}), ("flush", {"lost_keys": 0}),
        ("labels", {"label_features": 0}),
        ("flush", {"after_flush": CERTIFICATE | {"verdict": "unverifiable"}}),
        ("replay", {"certificate": None}), ("settings", {"secrets": 0}),
        ("replay", {"certificate": CERTIFICATE | {"verdict": "unverifiable", "unverifiable": 3}}),
        ("budget", {"latency": None}), ("drain", {"workers": []}), ("drain", {"left_at_drain": 0}),
        ("token", {"laid": {"card numbers": 0, "secrets": 3}}), ("token", {"looked_at": {}}),
        ("token", {"laid": {}}), ("order", {"decisions": []}),
        ("budget", {"clock_set_ms": -3_600_000.0}), ("nothing left", {"removal": None}),
        ("labels", {"changed_by_labels": 0}), ("labels", {"changed_by_labels": None}),
        ("labels", {"certificate": None}),
    ],
)  # fmt: skip
def test_what_was_not_tried_is_not_called_held(promise: str, change: dict[str, object]) -> None:
    evidence = sound()
    for name, value in change.items():
        setattr(evidence, name, value)
    assert status_of(evidence, promise) == "not tested"


def test_at_least_once_may_repeat_and_may_not_lose() -> None:
    evidence = sound()
    evidence.delivery = "at_least_once"
    decide_twice(evidence)
    assert judge.outcomes(evidence).status == "held"
    assert judge.ordered(evidence).status == "held"  # a copy comes when it comes
    decide_and_refuse(evidence)
    assert judge.outcomes(evidence).status == "broken"
    del evidence.letters[-1]
    del evidence.decisions[7]
    assert judge.outcomes(evidence).status == "broken"


def test_a_drain_past_its_deadline_ends_with_1_and_breaks_nothing() -> None:
    evidence = sound()
    evidence.workers[0] = Ended("a", "drain", 1, is_overdue=True)
    verdict = judge.drained(evidence)
    assert verdict.status == "held"
    assert "1 ended with status 0, 1 past processing.drain_deadline_ms with status 1" in verdict.evidence


def test_one_that_hung_is_not_said_to_have_ended_by_itself() -> None:
    evidence = sound()
    hang(evidence)
    for verdict in (judge.killed(evidence), judge.drained(evidence)):
        assert verdict.examples == ("processor b lived and was given no partition, so that it had to be killed",)


def without_features(e: Evidence, tier: str = "no_features") -> None:
    e.decisions = [each._replace(tier=tier) for each in e.decisions]
    e.alerts = [each._replace(tier=tier) for each in e.alerts]


def test_decisions_without_features_are_told_and_verify_nothing() -> None:
    evidence = sound()
    evidence.flushed_ns = None
    without_features(evidence)
    count = len(evidence.decisions)
    verdict = judge.outcomes(evidence)
    assert verdict.status == "held"  # README: they go on being decided, and say so
    assert f"; {count} of {count} decisions were made without features ({count} no_features)" in verdict.evidence
    assert status_of(evidence, "replay") == "not tested"
    assert status_of(evidence, "labels") == "not tested"
    assert judge_replay.replayed(evidence).evidence.startswith("every payment was decided without features")
    made = reported(evidence)
    assert (made.verdict, made.tiers) == ("unverified", {"measured": {"no_features": count}})
    assert f'<td>measured</td><td class="broken">{count}</td>' in render(made)
    alter_a_score(evidence)  # but what is different is
    assert status_of(evidence, "replay") == "broken"


def test_a_few_decisions_with_features_are_no_evidence_for_the_rest() -> None:
    """A processor that lost its state in the first seconds of a proof, and did not get it back."""
    evidence = sound()
    evidence.flushed_ns = None
    whole, half = list(evidence.decisions), len(evidence.decisions) // 2
    for featured, status in ((half, "held"), (half - 1, "not tested")):
        evidence.decisions = whole[:featured] + [each._replace(tier="no_features") for each in whole[featured:]]
        assert judge_replay.replayed(evidence).status == status
    assert f"only {half - 1} of {len(whole)} payments were decided with" in judge_replay.replayed(evidence).evidence
    assert status_of(evidence, "labels") == "not tested"


def test_a_machine_that_was_busy_before_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    made = reported(sound())
    cores = int(made.machine["cores"])
    for load, is_told in ((cores, False), (cores + 0.5, True)):
        _show(reported(sound(), load_before=load), [Path("report.json")])
        assert ("The machine was busy before the proof began" in capsys.readouterr().out) is is_told


def test_features_of_payments_after_the_flush_verify_nothing_before() -> None:
    evidence = sound()
    without_features(evidence)
    assert evidence.certificate is not None
    last = next(place for place, each in enumerate(evidence.sent) if each.at == evidence.decisions[-1].at)
    evidence.sent[last] = evidence.sent[last]._replace(section="flush")
    evidence.decisions[-1] = evidence.decisions[-1]._replace(tier="full")
    evidence.certificate = evidence.certificate | {"decisions": len(evidence.decisions) - 1}
    assert status_of(evidence, "replay") == "not tested"


@pytest.mark.parametrize(
    ("tier", "section", "told"),
    [
        ("no_features", "measured", "1 of 40 decisions were made without features (1 no_features)"),
        ("rules_only", "warm-up", "1 of 40 decisions were made without features (1 rules_only)"),
        ("no_features", "flush", ""),
        ("no_features", "faults", ""),
        ("small", "measured", ""),
    ],
)
def test_a_decision_without_features_is_told_unless_something_was_done(tier: str, section: Section, told: str) -> None:
    evidence = sound()
    decided = evidence.decisions[5]
    evidence.decisions[5] = decided._replace(tier=tier)
    place = next(place for place, each in enumerate(evidence.sent) if each.at == decided.at)
    evidence.sent[place] = evidence.sent[place]._replace(section=section)
    said = judge.outcomes(evidence).evidence
    assert told in said
    assert bool(told) == ("without features" in said)
    assert dict(evidence.tiers[section])[tier] == 1


def test_labels_that_the_state_could_not_take_at_the_end_break_nothing() -> None:
    evidence = sound()
    number_no_label(evidence)
    assert status_of(evidence, "labels") == "broken"
    stay_without_features(evidence)
    assert status_of(evidence, "labels") == "not tested"


def test_a_small_model_has_features_too() -> None:
    evidence = sound()
    without_features(evidence, "small")
    assert (status_of(evidence, "replay"), status_of(evidence, "flush")) == ("held", "held")
    decide_a_duplicate(evidence)
    assert status_of(evidence, "outcome") == "broken"


def test_the_journal_is_read_as_runs_of_records() -> None:
    topics = TopicSettings()

    def seen(offset: int, value: bytes | None) -> Seen:
        return Seen(topics.journal, 0, offset, b"0", value, [], 0)

    def entry(count: int, topic: str, parent: int | None = None) -> bytes:
        return msgspec.json.encode(JournalEntry(0, 9, 100, count, topic, 2, 40, parent, parent))

    told = read(
        [
            seen(0, None), seen(1, entry(3, topics.labels)), seen(2, entry(5, topics.payments)),
            seen(3, entry(0, topics.labels, parent=8)), seen(4, b"{}"),
        ],
        topics,
    )  # fmt: skip
    assert told.journal == [Numbered("labels", 2, 40, 43), Numbered("payments", 2, 40, 45)]
    assert told.garbled == [f"{topics.journal}/0/4"]


def test_who_ended_before_anybody_was_killed_did_not_end_through_a_kill() -> None:
    evidence = sound()
    evidence.workers.insert(0, Ended("a", "", 1))
    assert status_of(evidence, "kill") == "held"
    assert status_of(evidence, "drain") == "broken"


def reported(evidence: Evidence, load_before: float = 0.0) -> Report:
    asked = Asked(config=None, rate=100.0, seconds=1.0, faults=False, kills=1, seed=1, out=Path())
    return report(Run("0123456789ab"), Settings(), asked, evidence, began_s=1.8e9, seconds=5.0, load_before=load_before)


def without_a_certificate(e: Evidence) -> None:
    e.certificate = None


def unverifiable_and_broken(e: Evidence) -> None:
    e.certificate = None
    lose_a_decision(e)


@pytest.mark.parametrize(
    ("tamper", "verdict", "title"),
    [
        (lambda _e: None, "held", "Every promise that was tested is held"),
        (without_a_certificate, "unverified", "the decisions could not be verified by a replay"),
        (unverifiable_and_broken, "broken", "A promise is broken"),
    ],
)
def test_the_report_calls_nothing_held_that_no_replay_has_verified(
    tamper: Callable[[Evidence], None], verdict: str, title: str
) -> None:
    evidence = sound()
    tamper(evidence)
    made = reported(evidence)
    assert (made.verdict, EXIT_OF[made.verdict]) == (verdict, {"held": 0, "unverified": 4, "broken": 3}[verdict])
    assert title in render(made)


def test_without_the_processors_own_counts_outcomes_are_judged_all_the_same() -> None:
    evidence = sound()
    evidence.counted = None
    assert judge.outcomes(evidence).status == "held"


def test_a_history_without_labels_or_alerts_says_nothing_of_them() -> None:
    evidence = sound()
    evidence.sent = [each for each in evidence.sent if each.record.role == "payments"]
    evidence.decisions = [each._replace(decision="approve") for each in evidence.decisions]
    evidence.alerts = []
    assert status_of(evidence, "labels") == "not tested"
    assert status_of(evidence, "alerts") == "not tested"


def test_a_payment_that_was_decided_without_the_state_may_be_decided_again() -> None:
    evidence = sound()
    evidence.decisions[0] = evidence.decisions[0]._replace(tier="no_features")
    decide_a_duplicate(evidence)
    assert judge.outcomes(evidence).status == "held"


def test_a_generator_that_fell_short_breaks_no_budget() -> None:
    evidence = sound()
    slow = [each._replace(late_ns=number * 40 * MS) for number, each in enumerate(evidence.sent)]
    evidence.sent = slow
    evidence.decisions = [each._replace(received_ns=each.received_ns + 10**10) for each in evidence.decisions]
    evidence.latency = latency_of(evidence, 100.0, ())
    assert evidence.latency is not None
    assert evidence.latency.fell_short
    assert judge_budget.in_budget(evidence).status == "not tested"


def of(due_ms: list[int], received_ms: list[int], **changes: object) -> Latency:
    """Latencies of payments that were due and received then; 0 is never."""
    due, received = np.array(due_ms, np.int64) * MS, np.array(received_ms, np.int64) * MS
    none = np.zeros(len(due), np.int64)
    given = {"late_ns": none, "kafka_ms": none, "all_late_ns": none} | changes
    return measure(
        due, given["late_ns"], received, given["kafka_ms"], budget_ms=200, rate=1_000.0,  # type: ignore[arg-type]
        all_due_ns=due, all_late_ns=given["all_late_ns"],  # type: ignore[arg-type]
    )  # fmt: skip


def test_latency_counts_from_when_a_payment_was_due() -> None:
    """A stall of a second that only one payment is sent into is felt by all that were due meanwhile."""
    due = list(range(1_000, 3_000))
    received = [max(ms + 10, 2_500) if ms >= 1_500 else ms + 10 for ms in due]
    found = of(due, received)
    assert found.max_ms == 1_000
    assert found.percentiles["p50"] == 10
    assert found.percentiles["p99"] == pytest.approx(980, abs=1)
    assert found.within_budget == pytest.approx(sum(r - d <= 200 for d, r in zip(due, received, strict=True)) / 2_000)
    assert found.slowest is not None
    assert found.slowest.due_s == pytest.approx(0.5)
    assert found.slowest.over_p99_9_beside == sum(
        r - d >= found.percentiles["p99.9"] for d, r in zip(due, received, strict=True)
    )


def test_a_payment_without_a_decision_is_outside_of_any_budget() -> None:
    found = of([1_000, 1_001, 1_002, 1_003], [1_010, 1_011, 0, 1_013])
    assert (found.payments, found.undecided, found.within_budget) == (4, 1, 0.75)


def test_a_payment_without_a_decision_has_waited_longer_than_any_other() -> None:
    found = of(list(range(1_000, 1_100)), [ms + 10 for ms in range(1_000, 1_098)] + [0, 0])
    assert (found.percentiles["p50"], found.percentiles["p95"]) == (10, 10)
    assert found.percentiles["p99"] == math.inf
    assert found.max_ms == 10  # of those that were decided
    assert all(math.isfinite(ms) for _, ms in found.curve)


def test_a_percentile_is_the_smallest_value_that_so_many_do_not_exceed() -> None:
    due = list(range(1_000, 1_100))
    found = of(due, [at + wait for wait, at in enumerate(due, start=1)])
    assert (found.percentiles["p50"], found.percentiles["p99"], found.percentiles["p99.9"]) == (50, 99, 100)


def test_the_slowest_payment_is_taken_apart() -> None:
    late, kafka = np.array([0, 30 * MS]), np.array([1_000, 1_045])
    found = of([1_000, 1_001], [1_010, 1_201], late_ns=late, kafka_ms=kafka, all_late_ns=late)
    assert found.slowest is not None
    assert found.slowest.latency_ms == 200
    assert (found.slowest.sending_ms, found.slowest.appending_ms, found.slowest.deciding_ms) == (30, 14, 156)


def test_percentiles_are_exact_and_over_all() -> None:
    rng = random.Random(5)
    waited = [rng.randrange(1, 400) for _ in range(5_000)]
    due = [10_000 + number for number in range(5_000)]
    found = of(due, [at + ms for at, ms in zip(due, waited, strict=True)])
    ranked = sorted(waited)
    for name, value in found.percentiles.items():
        share = float(name[1:]) / 100
        assert value in ranked
        assert sum(each <= value for each in waited) >= share * 5_000 - 1
        assert sum(each < value for each in waited) <= share * 5_000 + 1
    assert found.max_ms == ranked[-1]
    assert [ms for _, ms in found.curve] == sorted(ms for _, ms in found.curve)


CANARIES = Canaries.of("0123456789ab")
SECRET = 's3cret"+/ü'


@pytest.mark.parametrize(
    "text",
    [
        CANARIES.card_number,
        "4111 1111 1111 1111",
        "-".join(CANARIES.card_number[place : place + 4] for place in (0, 4, 8, 12)),
        CANARIES.secret,
        CANARIES.secret.encode().hex(),
        SECRET,
        's3cret\\"+/\\u00fc',
        "s3cret%22%2B%2F%C3%BC",
        base64.b64encode(SECRET.encode()).decode(),
    ],
)
def test_a_canary_is_found_in_each_guise(text: str) -> None:
    search = Search(CANARIES, [SECRET])
    search.look("log lines", f'{{"event": "x {text} y"}}', "line 1")
    assert len(search.found) == 1
    assert CANARIES.card_number not in search.found[0]
    assert CANARIES.secret not in search.found[0]


def test_a_password_is_looked_for_as_it_is_whatever_the_address_had_to_make_of_it() -> None:
    store = StoreSettings(url=SecretStr("rediss://user:p%40ss%2Fword@redis:6379/0"))
    assert secrets_of(Settings(store=store)) == ["p@ss/word"]


@pytest.mark.parametrize("seed", range(6))
def test_the_shortest_history_has_a_card_number_and_a_secret(seed: int) -> None:
    records = history(
        305, seed=seed, now_ms=1_800_000_000_000, canaries=CANARIES, max_payment_bytes=65_536, max_future_ms=300_000
    )
    for canary in (CANARIES.card_number, CANARIES.secret):
        assert any(canary.encode() in (each.value or b"") for each in records[:105])


def test_what_is_no_canary_is_not_found() -> None:
    search = Search(CANARIES, [SECRET])
    search.look(
        "log lines", f'{{"time": {CANARIES.card_number[:-1]}, "event": "canary s3cret", "id": "411111111111"}}', "1"
    )
    assert not search.found


def test_the_history_has_every_trap_and_is_the_same_again() -> None:
    def drawn() -> list[Record]:
        return history(
            4_000, seed=5, now_ms=1_800_000_000_000, canaries=CANARIES, max_payment_bytes=65_536, max_future_ms=300_000
        )

    records = drawn()
    assert records == drawn()
    assert {each.kind for each in records} == set(DUE)
    values = [each.value or b"" for each in records]
    assert sum(CANARIES.secret.encode() in value for value in values) > 20
    assert any(CANARIES.card_number.encode() in value for value in values)
    assert sum(each.key == HOT_CARD.encode() for each in records) > 100
    seen: set[str] = set()
    for each in records:
        if each.kind in {"payment", "hot"}:
            assert each.event_id not in seen
            seen.add(each.event_id)
        if each.kind == "duplicate":
            assert each.event_id in seen


@pytest.mark.parametrize("seed", range(6))
def test_the_shortest_history_has_labels_that_later_payments_show(seed: int) -> None:
    """The simulator's frauds come later than a short proof lasts."""
    records = history(
        20_000, seed=seed, now_ms=1_800_000_000_000, canaries=CANARIES, max_payment_bytes=65_536, max_future_ms=300_000
    )[:700]
    frauds = [
        place
        for place, each in enumerate(records)
        if each.kind == "label" and each.key == HOT_CARD.encode() and json.loads(each.value or b"")["label"] == "fraud"
    ]
    assert frauds
    assert sum(each.kind == "hot" for each in records[frauds[0] :]) > 10


@pytest.mark.parametrize("kills", [1, 6, 100])
def test_load_is_at_hand_for_each_kill(kills: int) -> None:
    """A kill takes up to a session, ten seconds, and a start."""
    asked = Asked(config=None, rate=100.0, seconds=1.0, faults=True, kills=kills, seed=1, out=Path())
    assert plan(asked).faults.seconds >= 15 * kills


@pytest.mark.parametrize("rate", [1.0, 5.0, 300.0])
def test_features_can_be_seen_to_come_back_at_any_rate(rate: float) -> None:
    """Some records of the section are labels or refused, and the state takes a while to be rebuilt."""
    asked = Asked(config=None, rate=rate, seconds=1.0, faults=True, kills=1, seed=1, out=Path())
    flush = plan(asked).flush
    assert 0 < enough_of(flush) <= flush.count / 4


def test_every_promise_stands_in_readme() -> None:
    readme = re.sub(r"\s+", " ", (Path(__file__).parents[1] / "README.md").read_text("utf-8"))
    for promise in PROMISES:
        assert promise.sentence in readme, promise.id
    assert len({promise.id for promise in PROMISES}) == len(PROMISES)


def test_the_shipped_schema_is_that_of_the_report() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    shipped = json.loads((Path(__file__).parents[1] / "docs" / "prove.schema.json").read_text("utf-8"))
    assert shipped == json.loads(json.dumps(schema())), "stale: write consumer.prove.report.schema() there"
