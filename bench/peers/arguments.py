"""The command line of every peer, and what all of them have in common."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

SESSION_TIMEOUT_MS: Final = 6_000
"""After a `kill -9` the group waits so long for the dead member; the same for every peer whose framework has it."""


def arguments(description: str, words: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line (`words` in tests).

    Returns:
        `brokers` (HOST:PORT), `redis` (URL), `group`, `namespace` (of keys in Redis, for `bench.peers.ours`),
        `payments_topic`, `decisions_topic`, `alerts_topic`, `model` (the naive model's file), `bundle` (Fraudline's
        folder) and `state` (a folder of the peer's own, there and possibly empty; it outlives a kill).
    """
    parser = argparse.ArgumentParser(description=f"{description} Decides payments until SIGTERM.")
    parser.add_argument("--brokers", required=True, help="HOST:PORT")
    parser.add_argument("--redis", required=True, help="redis://HOST:PORT/DB")
    parser.add_argument("--group", required=True, help="the consumer group")
    parser.add_argument("--namespace", required=True, help="of Fraudline's keys in Redis")
    parser.add_argument("--payments-topic", required=True)
    parser.add_argument("--decisions-topic", required=True)
    parser.add_argument("--alerts-topic", required=True)
    parser.add_argument("--model", required=True, type=Path, help="model.ubj of bench.naive_model")
    parser.add_argument("--bundle", required=True, type=Path, help="Fraudline's model bundle")
    parser.add_argument("--state", required=True, type=Path, help="a folder of the peer's own")
    return parser.parse_args(words)
