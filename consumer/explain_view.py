"""What `fraudline explain` prints: one document, and the same for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from consumer.cli_output import iso, print_json, print_mapping, print_table
from consumer.dossier import Dossier, Published, Standing
from consumer.dossier_check import Check, Checks
from consumer.masking import printable, shown, shown_id, shown_token
from consumer.records import Alert, alert_id

BAR: Final = 24  # characters of the longest
IDS: Final = {"event_id": shown_id, "merchant_id": shown_id, "card_id": shown_token}
FEW: Final = 12  # features that people are shown; --json has all


def document(found: Dossier, standing: Standing | None, checks: Checks | None) -> dict[str, Any]:
    """All that is known, as JSON values."""
    told: dict[str, Any] = {"event_id": shown_id(found.event_id)}
    if standing is not None:
        told |= {"outcome": standing.word, "text": standing.text}
    else:
        told |= {"outcome": "decided", "verdict": "not_checked" if checks is None else checks.verdict}
    told["payments"] = [
        {
            "source": f"{message.topic()}-{message.partition()}-{message.offset()}",
            "kafka_time": message.timestamp()[1] if message.timestamp()[0] else None,
            **{
                name: IDS.get(name, _text)(value) if isinstance(value, str) else value
                for name, value in msgspec.to_builtins(payment).items()
                if value is not None
            },
        }
        for message, payment in found.payments
    ]
    of = {} if checks is None else {id(each.decision): each for each in checks.checks}
    times = {
        (message.partition(), message.offset()): message.timestamp()[1]
        for message, _ in found.payments
        if message.timestamp()[0]
    }
    told["decisions"] = [_decision(each, found.alerts, of.get(id(each.decision)), times) for each in found.decisions]
    if checks is not None:
        told["repeated_at"] = [f"{partition}-{offset}" for partition, offset in checks.repetitions]
    told["dead_letters"] = [
        {
            "place": "{}:{}".format(*letter.place),
            "from": f"{_text(letter.topic)}-{letter.origin[0]}-{letter.origin[1]}",
            "reason": _text(letter.reason),
            "detail": _text(letter.detail),
            "sent_again": is_sent,
        }
        for letter, is_sent in found.letters
    ]
    return told


def _decision(
    published: Published, alerts: Sequence[Alert], check: Check | None, times: Mapping[tuple[int, int], int]
) -> dict[str, Any]:
    decision = published.decision
    told: dict[str, Any] = {"published_at": published.time_ms, **msgspec.to_builtins(decision)}
    told |= {"event_id": shown_id(decision.event_id), "card_id": shown_token(decision.card_id)}
    came_ms = times.get((decision.source.partition, decision.source.offset))
    if came_ms is not None and published.time_ms is not None:
        told["latency_ms"] = published.time_ms - came_ms
    name = alert_id(decision.card_id, decision.event_id, decision.event_time)
    own = [each for each in alerts if each.alert_id == name and each.source == decision.source]
    if own:
        alert = own[-1]
        told["alert"] = {
            "alert_id": name,
            "reasons": msgspec.to_builtins(alert.reasons),
            "cleared_by": msgspec.to_builtins(alert.cleared_by),
            "stage_ms": msgspec.to_builtins(alert.stage_ms),
            "feature_age_ms": alert.feature_age_ms,
        }
    if check is not None:
        told["check"] = {
            "verdict": check.verdict,
            "why": list(check.why),
            "replayed": check.replayed,
            "constant": check.constant,
            "features": [
                {"feature": feature, "value": value, "contribution": part} for feature, value, part in check.features
            ],
        }
    return told


def _text(text: str) -> str:
    return shown(text.encode())


def show(told: dict[str, Any], *, as_json: bool) -> None:
    """Print it."""
    if as_json:
        print_json(told)
        return
    if "text" in told:
        print_mapping(f"{told['event_id']}: {told['outcome']}", {"what": told["text"]}, as_json=False)
    for payment in told["payments"]:
        _facts("The payment", payment | {"event_time": iso(payment["event_time"]), "kafka_time": _moment(payment)})
    for decision in told["decisions"]:
        _show_decision(decision)
    if told.get("repeated_at"):
        _facts("The same event_id came again, and was not decided again", {"at": ", ".join(told["repeated_at"])})
    for letter in told["dead_letters"]:
        _facts("In the dead letters", letter)


def _show_decision(decision: dict[str, Any]) -> None:
    given, digests, state = decision["inputs"], decision["digests"], decision["state"]
    facts = {
        "decision": decision["decision"],
        "score": decision["score"],
        "review from": given["review_threshold"],
        "block from": given["block_threshold"],
        "tier": decision["tier"],
        "model": f"{decision['model']} {digests['bundle'][:12]}",
        "policy": digests["policy"][:12],
        "rules": ", ".join(decision["rules"]) or None,
        "shadow rules": ", ".join(decision["shadow_rules"]) or None,
        "limiter": given["limiter"],
        "lists version": given["lists_version"],
        "canary": given["canary"],
        "device": given["device"],
        "state": None
        if state is None
        else f"shard {state['shard']}, epoch {state['epoch']}, number {state['sequence']}",
        "published at": None if decision["published_at"] is None else iso(decision["published_at"]),
        "latency": f"{decision['latency_ms']:,} ms" if "latency_ms" in decision else None,
    }
    alert = decision.get("alert")
    if alert is not None:
        facts["alert"] = alert["alert_id"]
        facts |= {f"{stage}, ms": f"{value:,.1f}" for stage, value in alert["stage_ms"].items()}
    _facts("The decision", facts)
    if alert is not None and alert["reasons"]:
        _show_bars("Why, as the alert said", [
            (each["feature"], each["value"], each["contribution"], each["text"]) for each in alert["reasons"]
        ])  # fmt: skip
    check = decision.get("check")
    if check is None:
        return
    replayed = check["replayed"]
    facts = {
        "verdict": check["verdict"],
        "because of": ", ".join(check["why"]) or None,
        "decision": replayed.get("decision"),
        "score": replayed.get("score"),
        "rules": ", ".join(replayed.get("rules", ())) or None,
    }
    _facts("Made again from Kafka", facts)
    ranked = sorted(check["features"], key=lambda each: -abs(each["contribution"]))
    some = [(each["feature"], each["value"], each["contribution"], "") for each in ranked if each["contribution"]]
    if some:
        title = (
            f"What counted most, of {len(ranked)} features; all others together {sum(x[2] for x in some[FEW:]):+.3f}"
        )
        _show_bars(title, some[:FEW])


def _show_bars(title: str, parts: Sequence[tuple[str, float | None, float, str]]) -> None:
    longest = max(abs(part) for _, _, part, _ in parts) or 1.0
    rows = [
        (name, "missing" if value is None else f"{value:,.4g}", f"{part:+.3f}", _bar(part / longest), printable(text))
        for name, value, part, text in parts
    ]
    columns = ("feature", "value", "log-odds", "", "")
    print_table(title, columns if any(row[4] for row in rows) else columns[:4],
                [row if any(each[4] for each in rows) else row[:4] for row in rows], as_json=False)  # fmt: skip


def _bar(share: float) -> str:
    """A bar that says more fraud, or less of it."""
    return ("+" if share > 0 else "-") * max(round(abs(share) * BAR), 1)


def _facts(title: str, facts: Mapping[str, Any]) -> None:
    known = {
        name: printable(value) if isinstance(value, str) else f"{value:.6f}" if isinstance(value, float) else value
        for name, value in facts.items()
        if value is not None
    }
    print_mapping(title, known, as_json=False)


def _moment(payment: Mapping[str, Any]) -> str | None:
    return None if payment["kafka_time"] is None else iso(payment["kafka_time"])
