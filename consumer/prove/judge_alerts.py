"""The judge of scores and alerts. It is pure, and shares no code with the pipeline."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from typing import Final

from consumer.prove.evidence import Alerted, At, Decided, Evidence
from consumer.prove.verdict import Verdict, held_if, not_tested, where_is

APPROVED: Final = "approve"


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
            wrong.append(f"{where_is(decision.at)} was decided without a score")
    for at, copies in decided.items():
        due = sum(each.decision != APPROVED for each in copies)
        if len(alerts.get(at, ())) != due:
            wrong.append(f"{where_is(at)} has {len(alerts.get(at, ()))} alerts, {due} are due")
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
    where = f"the alert of {where_is(alert.at)}"
    told = (alert.event_id, alert.card_id, alert.decision, alert.score, alert.tier)
    if told not in [(each.event_id, each.card_id, each.decision, each.score, each.tier) for each in copies]:
        yield f"{where} is not its decision's"
    if alert.alert_id != _alert_id(alert):
        yield f"{where} has another id than its payment gives"


def _alert_id(alert: Alerted) -> str:
    card, event = alert.card_id, alert.event_id
    text = f"{len(card)}:{card}{len(event)}:{event}{alert.event_time}"
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
