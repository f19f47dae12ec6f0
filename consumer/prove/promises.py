"""THE list of what README promises, each in its words, with who judges it and how.

A promise that no proof can judge is on the list too, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from consumer.prove import judge, judge_alerts, judge_budget, judge_leaks, judge_replay
from consumer.prove.evidence import Evidence
from consumer.prove.verdict import Verdict, not_tested


@dataclass(frozen=True, slots=True)
class Promise:
    """One promise.

    Attributes:
        id: a word for it, which does not change.
        sentence: as it stands in README, but for line breaks.
        how: how it is judged.
    """

    id: str
    sentence: str
    how: str
    judge: Callable[[Evidence], Verdict]


def _never(why: str) -> Callable[[Evidence], Verdict]:
    return lambda _evidence: not_tested(why)


PROMISES: Final[tuple[Promise, ...]] = (
    Promise(
        "outcome",
        "**Every record has one outcome**: a decision, a dead letter with its reason, or a counted duplicate.",
        "of each record that was sent it is known what it is; what a read_committed reader saw is held against that",
        judge.outcomes,
    ),
    Promise(
        "transaction",
        "One Kafka transaction a batch holds decisions, alerts, dead letters and offsets.",
        "no payment is decided twice, no alert lacks its decision, committed offsets are the ends of the logs, and the "
        "decisions topic has the marks that end transactions",
        judge.committed,
    ),
    Promise(
        "kill",
        "**Exactly once, also through a `kill -9`.**",
        "with --faults: kill -9 at random moments, and one stopped until others have its partitions, over three "
        "processors under load",
        judge.killed,
    ),
    Promise(
        "order",
        "The decisions of a card come in the order of its payments.",
        "offsets of the sources of a card's decisions rise in the order of the decisions topic",
        judge.ordered,
    ),
    Promise(
        "alerts",
        "approve, review or block, each with a score and every alert with its reasons",
        "each decision has a score, each that is no approval has one alert, which says the same and has the right id",
        judge_alerts.alerted,
    ),
    Promise(
        "budget",
        "inside a 200 ms budget",
        "open loop: each payment from when it was due to when a read_committed reader saw its decision; none is left "
        "out; the budget is processing.budget_ms",
        judge_budget.in_budget,
    ),
    Promise(
        "replay",
        "features are computed over the prefix that ends at the payment's own record, so a replay sees what the first "
        "pass saw",
        "`fraudline certify` on the run's own topics: every score to the bit, every decision, rule and alert",
        judge_replay.replayed,
    ),
    Promise(
        "labels",
        "chargebacks feed them as labels",
        "labels, and some that take an earlier one back, lie between the payments: the journal has to number each, and "
        "a replay without them has to differ from what was decided where one with them does not",
        judge_replay.labelled,
    ),
    Promise(
        "flush",
        "Flush Redis under load: payments go on being decided (and say so), the logs are rebuilt from Kafka, and "
        "features come back.",
        "with --faults: the run's own keys, and no others, are removed, and payments go on",
        judge.flushed,
    ),
    Promise(
        "drain",
        "Told to stop (SIGTERM), a processor finishes its batch, loses nothing and ends with status 0, or with 1 where "
        "that takes longer than `processing.drain_deadline_ms`.",
        "SIGTERM while payments come; the status, and the outcome of every record afterwards",
        judge.drained,
    ),
    Promise(
        "token",
        "`card_id` must be a token, never a card number.",
        "card numbers and a secret in payments; logs, metrics, decisions, alerts, the journal and headers are searched "
        "for them, and for the settings' secrets, also as JSON, URL, hexadecimal and base64 have them",
        judge_leaks.no_canaries,
    ),
    Promise(
        "settings",
        "`fraudline config show` prints every setting, where it came from, and no secret.",
        "the settings in the report are what it prints; they are searched for every secret",
        judge_leaks.no_secret_shown,
    ),
    Promise(
        "nothing left",
        "it removes everything that it made",
        "topics, group and keys are looked for afterwards, and the topics of others are compared with those before",
        judge_leaks.left_nothing,
    ),
    Promise(
        "offline",
        "`fraudline features build` computes them offline, bit for bit, with the same code",
        "not here",
        _never("a proof compares what was published; the tests of every release compare the files"),
    ),
    Promise(
        "idle",
        "an idle processor never waits",
        "not here",
        _never("the load of a proof has no idle moments"),
    ),
    Promise(
        "missing",
        "it says in one sentence what is missing",
        "not here",
        _never("nothing is taken away from your Kafka and Redis; `fraudline doctor` says what lacks"),
    ),
)


def judged(evidence: Evidence) -> list[tuple[Promise, Verdict]]:
    """Every promise with its verdict."""
    return [(promise, promise.judge(evidence)) for promise in PROMISES]
