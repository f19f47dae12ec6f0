"""The report's part about the soak."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from bench.tables import number, table

Results = dict[str, Any]

NAMES: Final = {
    "worker_rss_mib": "worker, resident",
    "worker_uss_mib": "worker, its own alone",
    "page_rss_mib": "alert page, resident",
    "worker_files": "worker",
    "page_files": "alert page",
}
BEST_TIERS: Final = ("full", "small")
# The share of the decisions that may have less than features and a model: 18 s of half an hour. Partitions that move
# cost none: whoever reads on finds what was applied. But a second worker takes a core while it starts, and an answer of
# Redis that comes after `store.timeout_ms` costs what the state takes to be trusted again: `consumer.state` waits 0.9 s
# before its fifth attempt, then it catches up. Once a visit, five times in half an hour, that is a few seconds. With
# other work beside it (a load of 8 to 14 on 2 cores) a doubt took up to 9 s, and 6 to 10 % had no features: not held.
MOST_DEGRADED: Final = 0.01
_HOW: Final = (
    "A slope is Theil's and Sen's over means of blocks, in the second half of the run; its 95 % interval is widened by "
    "what neighbouring points have in common (`bench/soak_judge.py` says how and after whom). `flat`: even its upper "
    "end is less than the level in a week, or it holds 0 and ends below 5 % of the level an hour; `growing`: it lies "
    "above 0; `undecided`: it holds 0 and more than that."
)


def soak(section: Results) -> list[str]:
    """Lines of the section, without its title and its first lines about the run."""
    load, latency, redis = section["load"], section["latency"], section["redis"]
    undelivered = load["count"] - load["delivered"]
    lines = [section["note"], ""] if section["note"] else []
    lines += [
        "![memory, Redis, descriptors, latency and lag over the run](plots/soak.png)",
        "",
        f"{section['minutes']:g} minutes at {section['rate']:,}/s: {load['count']:,} payments ({undelivered:,} not "
        f"delivered to Kafka), {load['labels']:,} labels, {_count(section, 'promotion')} promotions, "
        f"{_count(section, 'rebalance')} times a second worker that came and went, {section['news_on_page']:,} "
        "pieces of news on the page's stream.",
        "",
        f"- Each payment has one decision: {latency['missing']:,} missing, {latency['duplicates']:,} twice, "
        f"{section['out_of_order']:,} out of their card's order; every offset committed: "
        f"{_yes(section['committed_is_end'])}. {_met(_sound(section))}",
        f"- p99 at most 200 ms in every minute: {_minutes(section)} {_met(not section['minutes_not_held'])}",
        f"- All payments: p50 {number(latency['p50_ms'])} ms, p99 {number(latency['p99_ms'])}, p99.9 "
        f"{number(latency['p99_9_ms'])}, largest {number(latency['max_ms'])}; {latency['within_200ms']:.3%} within 200 "
        "ms.",
        f"- At most {MOST_DEGRADED:.0%} of the decisions have less than features and a model; by tier: "
        f"{_tiers(section['tiers'])}. {_met(not _is_degraded(section['tiers']))}",
        *(f"- Wrong: {each}." for each in section["failures"]),
        "",
        _HOW,
        "",
    ]
    head = ("memory, MiB", "at first", "level", "slope an hour", "95 % from", "to", "largest", "verdict")
    lines += table(head, (_memory_row(name, found) for name, found in section["memory"].items()))
    head = ("descriptors", "largest", "last tenth less first", "flat")
    lines += ["", *table(head, (_files_row(name, found) for name, found in section["files"].items())), ""]
    collections = section["collections"]
    return [
        *lines,
        f"Redis went from {number(redis['first_mib'])} MiB and {redis['first_keys']:,.0f} keys to "
        f"{number(redis['mib'])} MiB and {redis['keys']:,.0f}: {redis['bytes_a_key']:,.0f} bytes a key. "
        f"The longest log of an entity has {_longest(redis)}. The largest lag was {section['lag_largest']:,.0f} "
        f"records. The worker's collector ran {collections.get('count', 0):,.0f} times over all it holds, "
        f"{number(collections.get('spent_s', 0.0))} s in all.",
        "",
        "By the minute:",
        "",
        *table(("minute", "p50 ms", "p99", "p99.9", "largest", "worker MiB", "meanwhile"), _minute_rows(section)),
    ]


def _sound(section: Results) -> bool:
    latency = section["latency"]
    wrong = latency["missing"] + latency["duplicates"] + section["out_of_order"] + len(section["failures"])
    return not wrong and bool(section["committed_is_end"])


def wrong(section: Results) -> list[str]:
    """What of that which a soak judges does not hold, a sentence each. An `undecided` slope is not among it."""
    latency, load, redis = section["latency"], section["load"], section["redis"]
    counts = {
        "payments were not delivered to Kafka": load["count"] - load["delivered"],
        "payments have no decision": latency["missing"],
        "decisions came twice": latency["duplicates"],
        "decisions are out of their card's order": section["out_of_order"],
        "minutes have a p99 above 200 ms": len(section["minutes_not_held"]),
    }
    found = [f"{count:,} {what}" for what, count in counts.items() if count]
    if not section["committed_is_end"]:
        found.append("not every offset is committed")
    if _is_degraded(tiers := section["tiers"]):
        most = f"{MOST_DEGRADED:.0%} at most may"
        found.append(f"{_degraded(tiers):,} of {sum(tiers.values()):,} decisions lack features or a model, {most}")
    growing = [name for name, told in section["memory"].items() if told["verdict"] == "growing"]
    found += [f"{NAMES[name]}: memory grows" for name in growing]
    found += [f"{NAMES[name]}: descriptors grow" for name, told in section["files"].items() if not told["flat"]]
    if redis["longest_log"] is not None and redis["longest_log"] > redis["bound_bytes"]:
        found.append(f"a log in Redis has {redis['longest_log']:,} bytes, {redis['bound_bytes']:,} at most are due")
    return found + section["failures"]


def _longest(redis: Results) -> str:
    longest, most = redis["longest_log"], redis["bound_bytes"]
    known = "an unknown length" if longest is None else f"{longest:,} bytes"
    return f"{known}, {most:,} at most ({_yes(longest is not None and longest <= most)})"


def _met(holds: bool) -> str:
    return f"**{'Held' if holds else 'Not held'}.**"


def _yes(holds: bool) -> str:
    return "yes" if holds else "no"


def _count(section: Results, what: str) -> int:
    return sum(event["what"] == what for event in section["events"])


def _minutes(section: Results) -> str:
    missed = section["minutes_not_held"]
    judged = section["by_minute"]
    known = [each["p99_ms"] for each in judged if each["p99_ms"] is not None and each["p99_ms"] == each["p99_ms"]]
    told = f"the worst of {len(judged)} has {number(max(known))} ms" if known else "nothing was decided"
    return f"{told}; not in minutes {', '.join(str(minute + 1) for minute in missed)}." if missed else f"{told}."


def _degraded(tiers: dict[str, int]) -> int:
    return sum(count for tier, count in tiers.items() if tier not in BEST_TIERS)


def _is_degraded(tiers: dict[str, int]) -> bool:
    return _degraded(tiers) > MOST_DEGRADED * sum(tiers.values())


def _tiers(tiers: dict[str, int]) -> str:
    return ", ".join(f"{tier} {count:,}" for tier, count in tiers.items()) or "-"


def _memory_row(name: str, found: Results) -> list[str]:
    numbers = (found["first"], found["level"], found["per_hour"], found["low"], found["high"], found["largest"])
    return [NAMES[name], *map(number, numbers), found["verdict"]]


def _files_row(name: str, found: Results) -> list[str]:
    return [NAMES[name], f"{found['largest']:.0f}", f"{found['more']:.0f}", _yes(found["flat"])]


def _minute_rows(section: Results) -> Iterable[list[str]]:
    for minute, each in enumerate(section["by_minute"]):
        events = [event["what"] for event in section["events"] if event["at_s"] // 60 == minute]
        numbers = (each["p50_ms"], each["p99_ms"], each["p99_9_ms"], each["max_ms"], each["worker_mib"])
        yield [str(minute + 1), *map(number, numbers), ", ".join(events)]
