"""What each alert has to make of which series: those that fire it, and those nearby that do not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.support.promtool import series

Series = dict[str, str]
LATE, ALL = "fraudline_late_total", "fraudline_end_to_end_seconds_count"
START = "process_start_time_seconds"


@dataclass(frozen=True, slots=True)
class Case:
    """What one alert makes of some series: `says` is the end of its description, or None where it must be silent."""

    alert: str
    name: str
    series: Sequence[Series]
    at: str
    says: str | None = None
    interval: str = "1m"


def late(count: str, late: str, **labels: str) -> list[Series]:
    return [series(ALL, count, **labels), series(LATE, late, **labels)]


def decided(tier: str, values: str) -> Series:
    return series("fraudline_decisions_total", values, decision="approve", tier=tier)


def rejected(values: str) -> Series:
    return series("fraudline_rejected_total", values, stage="decode", reason="not_json")


def in_time() -> Iterator[Case]:
    burn, slow, p99 = "FraudlineLatencyBudgetBurn", "FraudlineLatencyBudgetBurnSlow", "FraudlineP99OverBudget"
    two = "answers 2% of its payments after their budget, and 0.1% are allowed."
    yield Case(burn, "2 % late for an hour", late("0+1000x80", "0+20x80"), "70m", two)
    yield Case(burn, "2 % late over a restart", late("0+1000x35 0+1000x44", "0+20x35 0+20x44"), "70m", two)
    yield Case(burn, "0.5 % late", late("0+1000x80", "0+5x80"), "70m")
    yield Case(burn, "10 % late, but no more", late("0+1000x80", "0+100x30 3000x49"), "70m")
    yield Case(burn, "five of sixty", late("0+1x80", "0x60 1+1x4 5x20"), "70m")
    yield Case(burn, "no payments", late("500x80", "400x80"), "70m")
    yield Case(burn, "a restart is no burst", late("0+1000x35 0+1000x44", "40x35 0x44"), "70m")
    long = "has answered 0.14% of its payments after their budget lately, and 0.1% are allowed."
    yield Case(slow, "0.14 % late for three days", late("0+5000x900", "0+7x900"), "73h", long, "5m")
    yield Case(slow, "0.05 % late", late("0+10000x900", "0+5x900"), "73h", None, "5m")
    yield Case(slow, "bad days, but a good morning", late("0+5000x900", "0+7x800 5600x99"), "73h", None, "5m")
    yield Case(slow, "no payments", late("500x900", "400x900"), "73h", None, "5m")
    now = "has answered 2% of its payments after their budget for 5 minutes."
    yield Case(p99, "2 % late", late("0+1000x20", "0+20x20"), "10m", now)
    yield Case(p99, "0.5 % late", late("0+1000x20", "0+5x20"), "10m")
    yield Case(p99, "a stall of two minutes", late("0+1000x20", "0x5 500+500x1 1000x14"), "8m")
    yield Case(p99, "one of ten", late("0+10x20", "0+1x20"), "10m")
    yield Case(p99, "no payments", late("500x20", "400x20"), "10m")
    scaled = late("0+1000x20", "0+2x20") + late("_x8 0+1000x12", "_x8 0+2x12", instance="b")
    yield Case(p99, "scaling is no burst", scaled, "12m")


def progress() -> Iterator[Case]:
    info, up, lag, beat = "fraudline_build_info", "up", "fraudline_lag_records", "fraudline_heartbeat_timestamp_seconds"
    payments, assigned = "fraudline_payments_total", "fraudline_assigned_partitions"
    none = "was there within the last day, and for 3 minutes none of its replicas has answered a scrape."
    yield Case("FraudlineDown", "gone for 5 minutes", [series(info, "1x10 stale")], "15m", none)
    yield Case("FraudlineDown", "gone overnight", [series(info, "1x10 stale")], "12h", none, "1m")
    yield Case(
        "FraudlineDown", "another replica", [series(info, "1x10 stale"), series(info, "1x30", instance="b")], "15m"
    )
    rolled = [series(info, "1x10 stale"), series(info, "_x12 1x20", instance="b")]
    yield Case("FraudlineDown", "replaced within two minutes", rolled, "14m")
    yield Case("FraudlineDown", "never there", [series(up, "0x30", job="node")], "15m")
    silent = "has replicas that have not answered a scrape for 5 minutes: 1 of them."
    gone = [series(up, "1x10 0x20"), series(info, "1x10 stale")]
    yield Case("FraudlineReplicaDown", "does not answer", gone, "17m", silent)
    yield Case("FraudlineReplicaDown", "answers again", [series(up, "1x10 0x3 1x20"), series(info, "1x40")], "17m")
    yield Case("FraudlineReplicaDown", "scaled in", [series(up, "1x10 stale"), series(info, "1x10 stale")], "17m")
    others = [series(up, "0x30", job="node"), series(up, "1x30"), series(info, "1x30")]
    yield Case("FraudlineReplicaDown", "somebody else's target", others, "17m")
    again = "was restarted in place 5 times within an hour."
    five = [series(START, "0x9 600x9 1200x9 1800x9 2400x9 3000x9"), series(info, "1x60")]
    yield Case("FraudlineRestarts", "five times", five, "58m", again)
    two = [series(START, "0x9 600x9 1200x40"), series(info, "1x60")]
    yield Case("FraudlineRestarts", "twice", two, "58m")
    yield Case("FraudlineRestarts", "somebody else", [series(START, five[0]["values"], job="node"), five[1]], "58m")
    stuck = "has replicas whose loop has not turned for a minute, and whose payments stand still: 1 of them."
    running = series(START, "0x40")
    yield Case("FraudlineLoopStuck", "no beat any more", [series(beat, "0+60x10 600x10"), running], "13m", stuck)
    yield Case("FraudlineLoopStuck", "never one", [series(beat, "0x40"), running], "13m", stuck)
    yield Case("FraudlineLoopStuck", "it beats, payments or not", [series(beat, "1+60x40"), running], "13m")
    yield Case("FraudlineLoopStuck", "a slow start", [series(beat, "0x5 300+60x30"), running], "4m")
    yield Case("FraudlineLoopStuck", "a missing beat", [series(beat, "0+60x9 540 660+60x10"), running], "11m")
    wait = "has replicas with payments that wait, which have decided none for some minutes: 1 of them."
    yield Case("FraudlineNoProgress", "waiting", [series(lag, "5x20"), series(payments, "100x20")], "6m", wait)
    one = [series(lag, "5x20"), series(payments, "100x20")]
    other = [series(lag, "5x20", instance="b"), series(payments, "0+9x20", instance="b")]
    yield Case("FraudlineNoProgress", "one of two", [*one, *other], "6m", wait)
    yield Case("FraudlineNoProgress", "working", other, "6m")
    yield Case("FraudlineNoProgress", "idle", [series(lag, "0x20"), series(payments, "100x20")], "6m")
    yield Case("FraudlineNoProgress", "short", [series(lag, "0x3 5 5 0x9"), series(payments, "100x20")], "6m")
    restarted = [series(lag, "5x20"), series(payments, "1000+50x5 0+50x14")]
    yield Case("FraudlineNoProgress", "restarted", restarted, "7m")
    yield Case("FraudlineNoProgress", "it gives up and starts again and again", crash_loop(lag, payments), "12m", wait)
    beside = [*crash_loop(lag, payments), series(payments, "0+9x20", instance="b"), series(lag, "0x20", instance="b")]
    yield Case("FraudlineNoProgress", "another replica has its partitions", beside, "12m")
    once = [
        series(lag, "0 5 5 stale _x2 0x20"),
        series(payments, "100x2 stale _x2 0 5x20"),
        series(START, "0x2 stale _x2 300x20"),
    ]
    yield Case("FraudlineNoProgress", "after a restart all is decided", once, "9m")
    reads = "runs, but for 5 minutes none of its replicas has been given payments to read."
    nobody = [series(assigned, "0x20"), series(assigned, "0x20", instance="b")]
    yield Case("FraudlineNobodyReads", "none", nobody, "6m", reads)
    yield Case("FraudlineNobodyReads", "a stand-by", [nobody[0], series(assigned, "8x20", instance="b")], "6m")
    yield Case("FraudlineNobodyReads", "a fresh start", [series(assigned, "0x2 8x20")], "6m")
    never = [series(assigned, "0 0 stale _x2 " * 5)]
    yield Case("FraudlineNobodyReads", "it starts again and again, and is given none", never, "12m", reads)
    yield Case("FraudlineNobodyReads", "a restart", [series(assigned, "8x9 stale _x2 0 8x20")], "12m")
    old = "decides payments on its slowest replica that are 12s old."
    seconds = "fraudline_lag_seconds"
    slow = [series(seconds, "12x10"), series(seconds, "0x10", instance="b")]
    yield Case("FraudlineLagHigh", "12 s", slow, "6m", old)
    yield Case("FraudlineLagHigh", "9 s", [series(seconds, "9x10")], "6m")
    yield Case("FraudlineLagHigh", "after a restart", [series(seconds, "0 0 300 60 0x9")], "6m")
    failed = "has a replica whose transactions were aborted or lost 30 times in 30 minutes."
    outcome = "fraudline_transactions_total"
    often = [series(outcome, "0+1x40", outcome="aborted"), series(outcome, "0+900x40", outcome="committed")]
    yield Case("FraudlineTransactionsFail", "each minute", often, "35m", failed)
    yield Case("FraudlineTransactionsFail", "three", [series(outcome, "0+1x3 3x40", outcome="lost")], "35m")
    rolling = [series(outcome, "0x5 1x40", outcome="aborted", instance=f"i{number}") for number in range(20)]
    yield Case("FraudlineTransactionsFail", "one each in a roll-out", rolling, "35m")
    yield Case(
        "FraudlineTransactionsFail", "long ago, restarted", [series(outcome, "50x9 0x40", outcome="lost")], "35m"
    )


def crash_loop(lag: str, payments: str) -> list[Series]:
    """A processor that runs for two minutes, gives up, and is back two minutes later."""
    starts = " ".join(f"{60 * at} {60 * at} stale _x2" for at in range(0, 25, 5))
    counts = "100 100 stale _x2 " + "0 0 stale _x2 " * 4
    return [series(lag, "0 5 stale _x2 " * 5), series(payments, counts), series(START, starts)]


NONE = [
    series("fraudline_duplicates_total", "0x40"),
    series("fraudline_labels_total", "0x40", label="genuine", source="customer"),
]


def decisions() -> Iterator[Case]:
    few, many = "FraudlineDeadLetters", "FraudlineDeadLettersMany"
    yield Case(
        few, "2 %", [*NONE, rejected("0+2x40"), decided("full", "0+98x40")], "35m",
        "has sent 2% of the records of the last 30 minutes to the dead-letter topic.",
    )  # fmt: skip
    yield Case(few, "0.5 %", [*NONE, rejected("0+1x40"), decided("full", "0+199x40")], "35m")
    yield Case(few, "five records at night", [*NONE, rejected("0x9 1+1x4 5x20"), decided("full", "0x40")], "35m")
    yield Case(few, "nothing comes", [*NONE, rejected("90x40"), decided("full", "10x40")], "35m")
    labelled = series("fraudline_labels_total", "0+300x40", label="fraud", source="issuer")
    yield Case(few, "many labels are good", [*NONE, rejected("0+2x40"), decided("full", "0+98x40"), labelled], "35m")
    yield Case(few, "a restart is no burst", [*NONE, rejected("90x9 0x30"), decided("full", "0+99x9 0+99x30")], "35m")
    yield Case(
        many, "20 %", [*NONE, rejected("0+20x40"), decided("full", "0+80x40")], "9m",
        "has sent 20% of the records of the last 5 minutes to the dead-letter topic.",
    )  # fmt: skip
    yield Case(many, "5 %", [*NONE, rejected("0+5x40"), decided("full", "0+95x40")], "9m")
    repeated = series("fraudline_duplicates_total", "0+400x40")
    yield Case(many, "most are repetitions", [*NONE, rejected("0+20x40"), decided("full", "0+80x40"), repeated], "9m")
    yield Case(many, "one of two at night", [*NONE, rejected("0x4 1x9"), decided("full", "0x4 1x9")], "9m")
    yield Case(many, "nothing comes", [*NONE, rejected("90x40"), decided("full", "10x40")], "9m")

    degraded, small = "FraudlineTierDegraded", "FraudlineTierSmall"
    tenth = "decides 10% of its payments without features or without a model."
    yield Case(degraded, "no features", [decided("no_features", "0+100x20"), decided("full", "0+900x20")], "8m", tenth)
    yield Case(degraded, "no model", [decided("rules_only", "0+100x20"), decided("full", "0+900x20")], "8m", tenth)
    yield Case(degraded, "1 %", [decided("no_features", "0+10x20"), decided("full", "0+990x20")], "8m")
    failover = [decided("no_features", "0x4 500x20"), decided("full", "0+1000x4 3500+1000x20")]
    yield Case(degraded, "a failover of half a minute", failover, "8m")
    yield Case(degraded, "one of two at night", [decided("no_features", "0+1x20"), decided("full", "0+1x20")], "8m")
    yield Case(degraded, "no payments", [decided("no_features", "900x20"), decided("full", "100x20")], "8m")
    yield Case(degraded, "the small model", [decided("small", "0+900x20"), decided("full", "0+100x20")], "8m")
    hurried = "decides 10% of its payments by the small model."
    yield Case(small, "a tenth", [decided("small", "0+10x40"), decided("full", "0+90x40")], "35m", hurried)
    yield Case(small, "1 %", [decided("small", "0+1x40"), decided("full", "0+99x40")], "35m")
    yield Case(small, "no payments", [decided("small", "900x40"), decided("full", "100x40")], "35m")

    gpu, on_cpu = "FraudlineGpuNotUsed", "fraudline_device_fallbacks_total"
    tells = "scores 10% of its payments on the CPU, though it is told to use the GPU."
    yield Case(gpu, "a tenth", [series(on_cpu, "0+10x40"), decided("full", "0+100x40")], "25m", tells)
    yield Case(gpu, "one batch", [series(on_cpu, "0x5 90x40"), decided("full", "0+100x40")], "25m")
    yield Case(gpu, "on the CPU by choice", [series(on_cpu, "0x40"), decided("full", "0+100x40")], "25m")
    yield Case(gpu, "no payments", [series(on_cpu, "90x40"), decided("full", "100x40")], "25m")

    limiter, held = "FraudlineDeclineLimiter", "fraudline_blocks_limited_total"
    sent = "has sent payments to review that it would have blocked, in 10 minutes: 10 of them."
    yield Case(limiter, "one a minute", [series(held, "0+1x20")], "15m", sent)
    yield Case(limiter, "an hour ago", [series(held, "0x5 7x60")], "40m")
    yield Case(limiter, "a restart", [series(held, "7x5 0x20")], "10m")
    bare, unexplained = "FraudlineAlertsUnexplained", "fraudline_alerts_unexplained_total"
    alerts = series("fraudline_alerts_total", "0+10x40")
    hurry = "had no time to explain 20% of the alerts of the last 30 minutes."
    yield Case(bare, "a fifth", [series(unexplained, "0+2x40"), alerts], "35m", hurry)
    yield Case(bare, "one in twenty", [series(unexplained, "0+0.5x40"), alerts], "35m")
    yield Case(bare, "no alerts", [series(unexplained, "90x40"), series("fraudline_alerts_total", "100x40")], "35m")
    skew, ahead = "FraudlineClockSkew", "fraudline_clock_skew_seconds"
    dated = "gets payments that are dated 2s after they came."
    flow = series("fraudline_payments_total", "0+10x40")
    clocks = [series(ahead, "2x40", partition="3"), series(ahead, "-1x40", partition="4"), flow]
    yield Case(skew, "one source", clocks, "20m", dated)
    yield Case(skew, "half a second", [series(ahead, "0.5x40", partition="3"), flow], "20m")
    quiet = [series(ahead, "2x40", partition="3"), series("fraudline_payments_total", "10x40")]
    yield Case(skew, "no payments since", quiet, "20m")


def counted(alert: str, metric: str, says: str, **labels: str) -> Iterator[Case]:
    """Cases of an alert about what must never happen, also when it happened before the first scrape."""

    def of(values: str, start: str) -> list[Series]:
        return [series(metric, values, **labels), series(START, start)]

    yield Case(alert, "it happens", of("0x5 1x30", "0x40"), "7m", says)
    yield Case(alert, "before the first scrape of a new pod", of("_x30 1x30", "_x30 1790x30"), "32m", says)
    yield Case(alert, "after a restart in place", of("4x30 1x30", "0x30 1790x30"), "32m", says)
    yield Case(alert, "long ago", of("0x5 1x60", "0x70"), "40m")
    yield Case(alert, "long before Prometheus came", of("_x60 3x30", "_x60 0x30"), "65m")
    yield Case(alert, "a fresh start", of("0x30", "0x30"), "5m")
    yield Case(alert, "a restart forgets it", of("3x30 0x30", "0x30 1790x30"), "32m")


def state() -> Iterator[Case]:
    down = "has replicas that have had no state to rely on for 3 minutes: 1 of them."
    up = "fraudline_store_up"
    yield Case("FraudlineStoreDown", "down", [series(up, "0x10"), series(up, "1x10", instance="b")], "4m", down)
    yield Case("FraudlineStoreDown", "a fresh start", [series(up, "0 0 1x10")], "4m")
    yield Case("FraudlineStoreDown", "a failover", [series(up, "1x5 0 1x10")], "7m")
    yield from counted(
        "FraudlineStateRegression", "fraudline_state_regressions_total",
        "found the state behind what was committed, times in 15 minutes: 1.",
    )  # fmt: skip
    yield from counted(
        "FraudlineStateMismatch", "fraudline_state_checks_total",
        "found records missing in Redis, or not as they should be, in 15 minutes: 1 of them.", result="mismatch",
    )  # fmt: skip
    equal = [series("fraudline_state_checks_total", "0+16x30", result=result) for result in ("equal", "unverifiable")]
    yield Case("FraudlineStateMismatch", "all is equal, or can't be told", equal, "20m")


def models() -> Iterator[Case]:
    drift, psi, score = "FraudlineFeatureDrift", "fraudline_feature_psi", "fraudline_score_psi"
    far = "has features that have been far from training for a day: 1 of them."
    other = series(psi, "0.1x320", feature="hour", window="24h")

    def index(values: str, window: str = "24h") -> list[Series]:
        return [series(psi, values, feature="amount_minor", window=window), other]

    yield Case(drift, "for a day", index("0.4x320"), "26h", far, "5m")
    restarted = [
        *index("0.4x100 stale"),
        *[series(psi, "_x120 0.4x200", feature="amount_minor", window="24h", instance="b")],
    ]
    yield Case(drift, "for a day, through a roll-out", restarted, "26h", far, "5m")
    yield Case(drift, "for half a day", index("0.4x320"), "12h", None, "5m")
    yield Case(drift, "not all day", index("0.4x200 0.1x12 0.4x110"), "26h", None, "5m")
    yield Case(drift, "in the short window alone", index("0.4x320", "1h"), "26h", None, "5m")
    yield Case(drift, "no payments, no index", [], "26h", None, "5m")
    moved = "has had scores far from those of training for a day, by an index of at least 0.30."
    scores = [series(score, "0.3x320", window="24h")]
    yield Case("FraudlineScoreDrift", "for a day", scores, "26h", moved, "5m")
    yield Case("FraudlineScoreDrift", "a little", [series(score, "0.2x320", window="24h")], "26h", None, "5m")
    yield Case(
        "FraudlineScoreDrift", "a new model", [series(score, "0.3x200 0.05x119", window="24h")], "26h", None, "5m"
    )
    yield from counted(
        "FraudlineModelRefused", "fraudline_model_swaps_total", "refused a promoted bundle, times in 15 minutes: 1.",
        result="refused",
    )  # fmt: skip
    swapped = [series("fraudline_model_swaps_total", "0x5 1x20", result="swapped")]
    yield Case("FraudlineModelRefused", "taken", swapped, "7m")
    registry, up = "FraudlineModelRegistryDown", "fraudline_model_registry_up"
    away = "has replicas that have not reached the model registry for 10 minutes: 1 of them."
    yield Case(registry, "away", [series(up, "0x20"), series(up, "1x20", instance="b")], "11m", away)
    yield Case(registry, "back", [series(up, "1x3 0x5 1x20")], "11m")
    yield from counted(
        "FraudlineCanaryRolledBack", "fraudline_canary_rollbacks_total",
        "has replicas that ended a canary in the last 15 minutes: 1 of them.",
    )  # fmt: skip
    differ, info = "FraudlineModelsDiffer", "fraudline_model_info"

    def model(digest: str, values: str, instance: str) -> Series:
        return series(info, values, instance=instance, name="m", version="1", digest=digest, device="cpu")

    two = "has had 2 different models at work for 30 minutes."
    yield Case(differ, "half an hour", [model("d1", "1x60", "a"), model("d2", "1x60", "b")], "35m", two)
    rolled = [model("d1", "1x9 stale", "a"), model("d2", "_x12 1x40", "a"), model("d2", "1x60", "b")]
    yield Case(differ, "a roll-out of ten minutes", rolled, "35m")
    others = [model("d1", "1x60", "a"), series(info, "1x60", job="other", digest="d2")]
    yield Case(differ, "another release", others, "35m")
    lists, version = "FraudlineListsDiffer", "fraudline_lists_version"
    deaf = "has replicas that lack changes which others had 10 minutes before: 1 of them."
    newer = series(version, "5x10 9x60", instance="b")
    yield Case(lists, "one is deaf", [series(version, "5x70"), newer], "40m", deaf)
    yield Case(lists, "late by five minutes", [series(version, "5x15 9x60"), newer], "40m")
    busy = [series(version, "0+7x70"), series(version, "3+7x70", instance="b")]
    yield Case(lists, "changes all the time", busy, "40m")
    again = [series(version, "9x10 2x60", instance=instance) for instance in ("a", "b")]
    yield Case(lists, "the topic was made anew", again, "21m")
    yield Case(lists, "a fresh replica", [newer, series(version, "_x30 0 0 9x40", instance="c")], "33m")


CASES = [*in_time(), *progress(), *decisions(), *state(), *models()]
