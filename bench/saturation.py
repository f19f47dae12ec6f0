"""How many payments a second a process decides that is alone with a full topic: the baseline and both deliveries.

A round runs all of them, each on new topics that hold the payments already, an empty Redis with a primed state, and
nothing else at work; the order turns from round to round. What is compared are ratios within a round.
"""

from __future__ import annotations

from typing import Any, Final

from confluent_kafka import Producer

from bench.loadgen import fill, read_payments
from bench.processes import BenchError
from bench.stack import DELIVERIES, NAIVE, Stack

KINDS: Final = (NAIVE, *DELIVERIES)
PAYMENTS: Final = {NAIVE: 6_000, "exactly_once": 120_000, "at_least_once": 120_000}
QUICK_PAYMENTS: Final = {NAIVE: 1_500, "exactly_once": 30_000, "at_least_once": 30_000}
DEADLINE_S: Final = 180.0
IDLE_EXIT_S: Final = 60.0  # a busy machine takes long to start; a run ends when all is decided


def measure(stack: Stack, *, rounds: int, quick: bool) -> dict[str, Any]:
    """Runs and ratios.

    Returns:
        `runs`: by kind, a list of what each round's process said. `ratios`: by delivery, `eps` and `eps_per_cpu_s`
        over the baseline's of the same round, a list each.
    """
    payments = QUICK_PAYMENTS if quick else PAYMENTS
    runs: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    run_once(stack, "exactly_once", "saturation-warm-up", payments["exactly_once"] // 2)  # the broker's JVM compiles
    for at in range(rounds):
        turn = at % len(KINDS)
        for kind in (*KINDS[turn:], *KINDS[:turn]):
            found = run_once(stack, kind, f"saturation-{at}-{kind}", payments[kind])
            print(
                f"  round {at + 1}, {kind}: {found['eps']:,.0f}/s, {found['eps_per_cpu_s']:,.0f} a CPU-second",
                flush=True,
            )
            runs[kind].append(found)
    return {"rounds": rounds, "payments": payments, "runs": runs, "ratios": ratios(runs)}


def ratios(runs: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, list[float]]]:
    """By delivery and measure, that of each round over the baseline's of the same round."""
    return {
        kind: {
            what: [ours[what] / theirs[what] for ours, theirs in zip(runs[kind], runs[NAIVE], strict=True)]
            for what in ("eps", "eps_per_cpu_s")
        }
        for kind in DELIVERIES
    }


def run_once(stack: Stack, kind: str, prefix: str, payments: int) -> dict[str, Any]:
    """What one process said that decided so many payments, all of which were there. Raises BenchError."""
    names = stack.fresh(prefix)
    records = read_payments(stack.prepared.payments, payments, skip=stack.prepared.sizes.primed)
    producer = Producer({"bootstrap.servers": stack.kafka.bootstrap, "acks": "all", "linger.ms": 50})
    delivery = fill(producer, names.topics["payments"], records)
    if (delivery.sent["offset"] < 0).any():
        message = "Kafka did not take every payment of a fill; see whether its disk is full."
        raise BenchError(message)
    with stack.processor(names, kind, max_events=payments, idle_exit_s=IDLE_EXIT_S) as process:
        if not process.wait_end(DEADLINE_S):
            message = f"{kind} did not decide {payments:,} payments in {DEADLINE_S:.0f} s."
            raise BenchError(message)
        found = process.result()
    if found["events"] != payments or found.get("bad", 0) or found.get("undelivered", 0):
        message = f"{kind} decided {found['events']:,} of {payments:,} payments, or not all of them well."
        raise BenchError(message)
    return found
