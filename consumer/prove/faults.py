"""Faults of a proof: what is done to its own processors while payments come. Nobody else's process is touched."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from typing import Final

from consumer.prove.replicas import Replicas
from consumer.prove.worker import until

REPLICAS: Final = ("a", "b", "c")
PAUSES_S: Final = (0.2, 1.5)  # between a fault and the next
TAKE_OVER_S: Final = 60.0  # beyond a session: a transaction of the one that is stopped may have to be aborted first


def inject_faults(
    replicas: Replicas, rng: random.Random, kills: int, session_s: float, tell: Callable[[str], None]
) -> int:
    """Scale to three processors, kill one of them so often, stop one, and drain one. How many lost their partitions.

    Whoever is killed is replaced under its transactional id; every other kill comes before its predecessor's
    replacement reads anything. One that ends by itself or does not get to work is noted, and replaced as well.
    Raises FraudlineError: one of the first three does not get to work.
    """
    tell("three processors instead of one")
    replicas.start(*(name for name in REPLICAS if name not in replicas.workers))
    for number in range(kills):
        victim = rng.choice(REPLICAS)
        time.sleep(rng.uniform(*PAUSES_S))  # the moment is to be a random one, so nothing is waited for
        _replace_the_dead(replicas)
        tell(f"kill -9 of processor {victim} ({number + 1} of {kills})")
        replicas.kill(victim)
        replicas.begin(victim)
        if number % 2:
            replicas.gets_to_work(victim)
    _replace_the_dead(replicas)
    working = [name for name in REPLICAS if replicas.gets_to_work(name)]
    owners = set(replicas.owners().values())
    having = [name for name in working if name in owners]
    if len(working) < 2 or not having:  # nobody could take over, or there is nothing to be taken over
        return 0
    stalled = rng.choice(having)
    tell(f"processor {stalled} is stopped until others have its partitions, and goes on")
    stalls = int(is_replaced_while_stopped(replicas, stalled, session_s + TAKE_OVER_S))
    drained = rng.choice([name for name in working if name != stalled])
    tell(f"SIGTERM to processor {drained}")
    replicas.drain(drained)
    return stalls


def is_replaced_while_stopped(replicas: Replicas, replica: str, limit_s: float) -> bool:
    """Stop a processor until others were given every partition that it had, then let it go on; whether they were."""
    own = {partition for partition, owner in replicas.owners().items() if owner == replica}
    worker = replicas.workers[replica]
    worker.send(signal.SIGSTOP)
    try:
        return bool(own) and until(lambda: not _still_has(replicas, replica, own), limit_s)
    finally:
        worker.send(signal.SIGCONT)


def _still_has(replicas: Replicas, replica: str, partitions: set[str]) -> bool:
    owners = replicas.owners()
    return any(owners[partition] == replica for partition in partitions)


def _replace_the_dead(replicas: Replicas) -> None:
    replicas.reap()
    for name in REPLICAS:
        if name not in replicas.workers:
            replicas.begin(name)
