"""An outage: the processor ends, payments go on coming, it starts again, and they still come while it catches up.

How far behind it is comes from the group's committed offsets. What is usual is read before the outage, under the very
same load. Starting (imports, compiled code, joining the group, catching up with Redis) counts, as it does for a user.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final

from bench.processes import Child
from bench.progress import Progress
from bench.stack import Names, Stack

DELIVERY: Final = "exactly_once"
WARM_UP_S: Final = 5
USUAL_S: Final = 5
DRAIN_S: Final = 60.0
STARTED_S: Final = 1.0  # the generator needs a moment to read its payments
LOOK_EVERY_S: Final = 0.1
KEPT_SAMPLES: Final = 300  # for the plot

Sample = tuple[float, int]


@dataclass(frozen=True, slots=True)
class Case:
    """Payments a second, seconds without a processor, and for how long the load goes on after its restart."""

    rate: int
    outage_s: int
    after_s: int

    @property
    def schedule_s(self) -> int:
        """How long payments come."""
        return WARM_UP_S + USUAL_S + self.outage_s + self.after_s

    @property
    def payments(self) -> int:
        """How many in all."""
        return self.rate * self.schedule_s


def outage(stack: Stack, case: Case) -> dict[str, Any]:
    """One outage.

    Returns:
        `usual_lag` (the largest of the seconds before), `lag_at_restart`, `caught_up_s` from the restart until the lag
        was usual again, or a second of the load where that is less (None: not by the end), `under_load`: whether
        payments still came then; `ready_s`, what the start took; `rate_achieved`; and `samples`: seconds since the
        restart and the lag.
    """
    names = stack.fresh(f"growth-outage-{case.rate}")
    samples: list[tuple[float, int]] = []  # by the monotonic clock
    with ExitStack() as started:
        progress = started.enter_context(Progress(stack.kafka.bootstrap, names.group, names.topics["payments"]))
        with stack.processor(names, DELIVERY) as before:
            before.wait_ready()
            load = started.enter_context(_load(stack, names, case))
            _watch(progress, samples, WARM_UP_S + STARTED_S)
            usual = _watch(progress, samples, USUAL_S)
            before.stop()
        _watch(progress, samples, case.outage_s)
        restarted = time.monotonic()
        usual_lag = max(lag for _, lag in usual)
        bound = min(usual_lag, case.rate)
        with stack.processor(names, DELIVERY) as after:
            after.wait_ready()
            ready_s = time.monotonic() - restarted
            caught_up = None
            for at, lag in _samples(progress, case.after_s + DRAIN_S):
                samples.append((at, lag))
                if caught_up is None and lag <= bound:
                    caught_up, under_load = at - restarted, not load.ended
                if caught_up is not None and load.ended:
                    break
            load.wait_end(DRAIN_S)
            sent = load.result()
            after.stop()
    at_restart = [lag for at, lag in samples if at <= restarted][-1]
    print(
        f"  outage of {case.outage_s} s at {case.rate:,}/s: {at_restart:,} behind, caught up in {caught_up} s",
        flush=True,
    )
    return {
        "rate": case.rate,
        "outage_s": case.outage_s,
        "usual_lag": usual_lag,
        "lag_at_restart": at_restart,
        "caught_up_s": caught_up,
        "under_load": caught_up is not None and under_load,
        "ready_s": ready_s,
        "rate_achieved": sent["rate_achieved"],
        "samples": thinned([(at - restarted, lag) for at, lag in samples], KEPT_SAMPLES),
    }


def thinned(samples: Sequence[Sample], most: int) -> list[Sample]:
    """Evenly chosen ones, the first and the last among them."""
    if len(samples) <= most:
        return list(samples)
    return [samples[round(at * (len(samples) - 1) / (most - 1))] for at in range(most)]


@contextmanager
def _load(stack: Stack, names: Names, case: Case) -> Iterator[Child]:
    arguments = {
        "brokers": stack.kafka.bootstrap,
        "topic": names.topics["payments"],
        "payments": stack.prepared.payments,
        "skip": stack.prepared.sizes.primed,
        "rate": case.rate,
        "duration-s": case.schedule_s,
    }
    with Child("bench.loadgen", arguments) as load:
        yield load


def _samples(progress: Progress, seconds: float) -> Iterator[Sample]:
    """The lag from now on, at the instant of its reading."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield time.monotonic(), progress.lag()
        time.sleep(LOOK_EVERY_S)


def _watch(progress: Progress, samples: list[Sample], seconds: float) -> list[Sample]:
    found = list(_samples(progress, seconds))
    samples += found
    return found
