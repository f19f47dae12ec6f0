"""Faults of a proof: what is done to its own processors while payments come. Nobody else's process is touched."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable

from consumer.prove.crew import Crew

REPLICAS = ("a", "b", "c")
PAUSES_S = (0.2, 1.5)  # between a fault and the next
STALL_MARGIN_S = 1.5


def torment(crew: Crew, rng: random.Random, kills: int, session_s: float, tell: Callable[[str], None]) -> int:
    """Scale to three processors, kill one of them so often, stop one, and drain one. How many were stopped.

    Whoever is killed is replaced under its transactional id; every other kill comes before its predecessor's
    replacement reads anything. Raises FraudlineError: a replacement does not get to work.
    """
    tell("three processors instead of one")
    crew.start(*(name for name in REPLICAS if name not in crew.replicas))
    for number in range(kills):
        victim = rng.choice(REPLICAS)
        time.sleep(rng.uniform(*PAUSES_S))  # the moment is to be a random one, so nothing is waited for
        tell(f"kill -9 of processor {victim} ({number + 1} of {kills})")
        crew.kill(victim)
        replacement = crew.begin(victim)
        if number % 2:
            replacement.wait_ready()
    for name in REPLICAS:
        crew.replicas[name].wait_ready()
    stalled = rng.choice(REPLICAS)
    tell(f"processor {stalled} is stopped for longer than a session, and goes on")
    worker = crew.replicas[stalled]
    worker.send(signal.SIGSTOP)
    time.sleep(session_s + STALL_MARGIN_S)
    worker.send(signal.SIGCONT)
    drained = rng.choice([name for name in REPLICAS if name != stalled])
    tell(f"SIGTERM to processor {drained}")
    crew.drain(drained)
    return 1
