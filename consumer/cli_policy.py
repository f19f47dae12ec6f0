"""`fraudline policy`: look at a policy, and change the lists."""

# ruff: noqa: PLC0415  heavy imports stay inside the commands, so that `fraudline --help` answers at once
from __future__ import annotations

import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from consumer.cli_audit import Actor, is_audited, recorded
from consumer.cli_options import (
    AsJson,
    CatalogName,
    ConfigFile,
    Mapped,
    columns_of,
    cores,
    moment_ms,
    refuse_card_number,
    refuse_no_text,
    refuse_no_token,
)
from consumer.cli_output import duration_ms, iso, print_json, print_mapping, print_table, progress_stages
from features.errors import ConfigError

if TYPE_CHECKING:
    from models.lists import ListEntry
    from models.policy import Policy

PolicyFile = Annotated[Path, typer.Argument(metavar="POLICY", help="A policy.toml, or a bundle that has one.")]

app = typer.Typer(help="Look at a policy, and change the lists.")
lists_app = typer.Typer(help="Allow, deny and watch cards, merchants, devices and addresses.")
app.add_typer(lists_app, name="lists")


class ListArgument(StrEnum):
    """The lists."""

    DENY = "deny"
    ALLOW = "allow"
    WATCH = "watch"


class KindArgument(StrEnum):
    """What a list can name."""

    CARD = "card"
    MERCHANT = "merchant"
    DEVICE = "device"
    IP = "ip"


ListName = Annotated[ListArgument, typer.Argument(metavar="LIST", help="deny, allow or watch.")]
Kind = Annotated[KindArgument, typer.Argument(metavar="KIND", help="card, merchant, device or ip.")]
Value = Annotated[str, typer.Argument(metavar="VALUE", help="An id; an address, or a range as 192.0.2.0/24.")]


@app.command()
def check(policy: PolicyFile, *, catalog: CatalogName = "default", as_json: AsJson = False) -> int:
    """Refuse a policy that can't be used, with the place and the cause; else say what is in it."""
    read = _read(policy, catalog)
    rules = [
        {
            "id": rule.id,
            "priority": rule.priority,
            "action": f"{rule.action}{' (shadow)' if rule.shadow else ''}",
            "when": rule.when,
            "tiers": ", ".join(rule.tiers),
        }
        for rule in read.rules
    ]
    summary = {
        "rules": len(read.rules),
        "segments": sum(len(bar.segments) for bar in read.thresholds.values()),
        "fields": ", ".join(sorted(read.fields)),
        "digest": read.digest,
    }
    if as_json:
        print_mapping("", summary | {"rules": rules}, as_json=True)
    else:
        print_table(f"Rules of {policy}", tuple(rules[0]) if rules else ("id",), [list(r.values()) for r in rules],
                    as_json=False)  # fmt: skip
        print_mapping("It can be used", summary, as_json=False)
    return 0


@app.command()
def explain(
    policy: PolicyFile,
    *,
    facts: Annotated[
        list[str] | None,
        typer.Option("--fact", metavar="NAME=VALUE", help="A field, a feature or the score of a payment; repeatable."),
    ] = None,
    tier: Annotated[str, typer.Option(help="full, small, no_features or rules_only.")] = "full",
    catalog: CatalogName = "default",
    as_json: AsJson = False,
) -> int:
    """Say what a policy decides about a payment of these facts, and why; what is not given is missing."""
    import numpy as np

    from models.facts import FIELDS, SCORE
    from models.policy import DECISIONS, TIERS

    read = _read(policy, catalog)
    if tier not in TIERS:
        raise ConfigError(f"--tier must be one of {', '.join(TIERS)}.")
    given = dict(_fact(text) for text in facts or [])
    for name in given:
        if name not in FIELDS and name not in read.features and name != SCORE:
            raise ConfigError(f"--fact {name} is no field, no feature and not the score.")
    values = np.array([[_number(given, name, np.nan) for name in read.features]], np.float32)
    scores = None if tier == "rules_only" else np.array([_number(given, SCORE, 0.0)], np.float32)

    def field(name: str) -> Any:
        if FIELDS[name] == "number":
            return np.array([int(_number(given, name, 0))], np.int64)
        return [given.get(name)]

    moment = np.array([int(_number(given, "event_time", time.time() * 1_000))], np.int64)
    verdicts = read.decide(scores, values, tier, fields=field, event_time=moment)
    reasons = {rule.id: rule.reason for rule in read.rules}
    found = {
        "decision": DECISIONS[verdicts.decision[0]],
        "review_threshold": None if verdicts.review is None else float(verdicts.review[0]),
        "block_threshold": None if verdicts.block is None or np.isnan(verdicts.block[0]) else float(verdicts.block[0]),
        "fired": {rule: reasons[rule] for rule, _ in verdicts.fired},
        "shadow": {rule: reasons[rule] for rule, _ in verdicts.shadow},
    }
    print_mapping("Decided", found, as_json=as_json)
    return 0


@app.command()
def apply(
    policy: Annotated[Path, typer.Argument(metavar="POLICY", help="A policy.toml; it may be the bundle's, changed.")],
    *,
    bundle: Annotated[Path, typer.Option(metavar="BUNDLE", help="The bundle whose models it is for.")],
    out: Annotated[Path, typer.Option(metavar="BUNDLE", help="The bundle to write; it may be the same.")],
    version: Annotated[str | None, typer.Option(help="The new bundle's version (default: the same).")] = None,
    catalog: CatalogName = "default",
    actor: Actor = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> int:
    """Put a changed policy into a bundle: the same models under another digest, to be promoted like any other."""
    from consumer.trust import configured
    from features.profiles import load_catalog
    from models.bundle_writer import write_with_policy
    from models.policy import parse, read_text

    features = load_catalog(catalog)
    detail = {"policy": parse(read_text(policy), features.flags, where=str(policy)).digest, "bundle": str(bundle)}
    with recorded(config, "policy.apply", str(out), actor=actor, detail=detail) as more:
        made, was_signed = write_with_policy(bundle, policy, out, features, version, configured(config))
        more |= {"digest": made.digest, "model": f"{made.manifest.name}@{made.manifest.version}"}
    facts = {"name": made.manifest.name, "version": made.manifest.version, "digest": made.digest,
             "policy": made.policy.digest, "rules": len(made.policy.rules)}  # fmt: skip
    print_mapping(f"Made {out}", facts, as_json=as_json)
    if was_signed:
        sys.stderr.write(f"{bundle} was signed, {out} is not: sign it with `fraudline model sign`\n")
    return 0


@app.command("try")
def try_out(
    *,
    rules: Annotated[
        list[str], typer.Option("--rule", metavar="EXPRESSION", help="As in policy.toml's `when`; repeatable.")
    ],
    history: Annotated[
        Path, typer.Option("--on", metavar="PATH", help="Payments: Parquet, CSV or JSON lines in log order.")
    ],
    labels: Annotated[Path | None, typer.Option(metavar="PATH", help="What became of them, in any order.")] = None,
    mapped: Mapped = None,
    bundle: Annotated[
        Path | None, typer.Option(metavar="BUNDLE", help="Also tell what it stops anyway; a rule may name its score.")
    ] = None,
    mature: Annotated[
        str, typer.Option(metavar="TIME", help="A payment this old that nobody called fraud is genuine: 12h, 7d.")
    ] = "7d",
    examples: Annotated[int, typer.Option(min=0, max=100, help="Show so many of each kind.")] = 3,
    memory_mb: Annotated[int, typer.Option(min=16, help="Memory for features; what is more waits in files.")] = 1_024,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads (default: one a core).")] = None,
    catalog: CatalogName = "default",
    as_json: AsJson = False,
) -> int:
    """Ask a history what rules would have done: whom they meet, and what became of these payments."""
    from dataclasses import asdict

    from consumer.decode import looks_like_card_number
    from consumer.trust import configured
    from features.profiles import load_catalog
    from models.bundle import load
    from models.rule_trial import try_rules

    whole = load_catalog(catalog)
    with progress_stages() as progress:
        found = try_rules(
            rules,
            history,
            labels,
            whole,
            bundle=None if bundle is None else load(bundle, whole, configured()),
            mature_ms=duration_ms(mature, "--mature"),
            examples=examples,
            progress=progress,
            is_card_number=looks_like_card_number,
            mapped=columns_of(mapped),
            memory_mb=memory_mb,
            threads=threads or cores(),
        )
    if found.refused:
        sys.stderr.write(f"{found.refused:,} rows of the files are no records and were left out\n")
    told = asdict(found)
    if as_json:
        print_json(told)
        return 0
    for rule in told["rules"]:
        shown = [each | {"event_time": iso(each["event_time"])} for each in rule.pop("examples")]
        print_mapping(f"{rule.pop('rule')}, on {found.payments:,} payments of {found.days:,.1f} days",
                      {name: value for name, value in rule.items() if value is not None}, as_json=False)  # fmt: skip
        if shown:
            print_table("Of these", tuple(shown[0]), [list(each.values()) for each in shown], as_json=False)
    return 0


@lists_app.command()
def add(
    list_name: ListName,
    kind: Kind,
    value: Value,
    *,
    reason: Annotated[str, typer.Option(help="Why; people read it.")] = "",
    until: Annotated[str | None, typer.Option(metavar="TIME", help="It counts until then (ISO 8601).")] = None,
    lasting: Annotated[
        str | None, typer.Option("--for", metavar="TIME", help="It counts for so long: 12h, 30d.")
    ] = None,
    actor: Actor = None,
    config: ConfigFile = None,
) -> int:
    """Put somebody on a list; every processor knows within a second or two."""
    from consumer.audit import user
    from models.lists import ListEntry, checked

    if until is not None and lasting is not None:
        raise ConfigError("--until and --for say the same in two ways: give one of them.")
    now_ms = round(time.time() * 1_000)
    expires_at = moment_ms(until, "--until")
    if lasting is not None:
        expires_at = now_ms + duration_ms(lasting, "--for")
    _refuse_unfit(kind, value)
    refuse_card_number(reason, "--reason")
    who = actor or user()
    entry = checked(ListEntry(list_name.value, kind.value, value, reason, who, now_ms, expires_at))
    _change(config, "lists.put", entry, actor)
    import msgspec

    print_mapping(f"Added to {list_name.value}", msgspec.to_builtins(entry), as_json=False)
    return 0


@lists_app.command()
def remove(list_name: ListName, kind: Kind, value: Value, *, actor: Actor = None, config: ConfigFile = None) -> int:
    """Take somebody off a list."""
    from models.lists import ListEntry, checked

    _refuse_unfit(kind, value)
    entry = checked(ListEntry(list_name.value, kind.value, value))
    known = {each.key for each in _known(config)}
    if entry.key not in known:
        raise ConfigError(f"VALUE is not on the list {list_name.value}; fraudline policy lists show tells who is.")
    _change(config, "lists.remove", entry, actor)
    print_mapping(f"Removed from {list_name.value}", {"kind": kind.value, "value": entry.value}, as_json=False)
    return 0


@lists_app.command()
def show(*, config: ConfigFile = None, as_json: AsJson = False) -> int:
    """Show who is on the lists."""
    from datetime import UTC, datetime

    def moment(ms: int | None) -> str:
        return "" if ms is None else datetime.fromtimestamp(ms / 1_000, UTC).isoformat(timespec="seconds")

    rows = [
        (each.list, each.kind, each.value, moment(each.expires_at), each.reason, each.added_by, moment(each.added_at))
        for each in sorted(_known(config), key=lambda each: each.key)
    ]
    columns = ("list", "kind", "value", "until", "reason", "added by", "added at")
    print_table("Lists", columns, rows, as_json=as_json)
    return 0


def _read(path: Path, catalog: str) -> Policy:
    from features.profiles import load_catalog
    from models.manifest import POLICY
    from models.policy import parse, read_text

    place = path / POLICY if path.is_dir() else path
    return parse(read_text(place), load_catalog(catalog).flags, where=str(place))


def _fact(text: str) -> tuple[str, str]:
    name, given, value = text.partition("=")
    if not given:
        raise ConfigError(f"--fact {text} is not NAME=VALUE.")
    return name.strip(), value.strip()


def _number(given: dict[str, str], name: str, default: float) -> float:
    try:
        return float(given[name]) if name in given else default
    except ValueError:
        raise ConfigError(f"--fact {name} must be a number.") from None


def _refuse_unfit(kind: KindArgument, value: str) -> None:
    (refuse_no_token if kind is KindArgument.CARD else refuse_no_text)(value, "VALUE")


def _known(config: Path | None) -> list[Any]:
    from consumer import logs, settings
    from consumer.kafka.client import within
    from consumer.kafka.compacted import CompactedReader
    from consumer.lists import LOAD_S, entries_of

    logs.configure_command()
    loaded = settings.load(config)
    reader = CompactedReader(loaded.kafka, loaded.topics.lists)
    try:
        reader.load(LOAD_S)
        return entries_of(reader.table)
    finally:
        within(reader.close, 2.0)


def _change(config: Path | None, action: str, entry: ListEntry, actor: str | None) -> None:
    """Write or take away an entry; if changes are audited, in one transaction with the record of it."""
    import msgspec

    from consumer import logs, settings
    from consumer.audit import new_entry
    from consumer.kafka.audit import AuditWriter
    from consumer.kafka.compacted import put
    from consumer.kafka.publisher import Outgoing

    logs.configure_command()
    loaded = settings.load(config)
    key, value = entry.key.encode(), msgspec.json.encode(entry) if action == "lists.put" else None
    if not is_audited(loaded, actor):
        put(loaded.kafka, loaded.topics.lists, {key: value})
        return
    detail = {"reason": entry.reason, "expires_at": entry.expires_at} if value else None
    told = new_entry(action, entry.key, actor=actor, outcome="done", detail=detail)
    with AuditWriter(loaded.kafka, loaded.topics.audit, beside=(loaded.topics.lists,)) as writer:
        writer.publish([Outgoing(loaded.topics.lists, key, value)], told)
