"""Quix Streams, one payment at a time, exactly once: decisions and offsets in one transaction a checkpoint.

From "Processing Guarantees": decisions are read when their checkpoint is committed, so a smaller `commit_interval` is
advised for latency; it is a tenth of a second here. `transaction.timeout.ms` is what readers wait for a killed process.
Redis takes no part in it: payments that are read again are counted again.
"""

from __future__ import annotations

from typing import Final

from bench.peers.arguments import arguments
from bench.peers.quix.per_event import run

COMMIT_INTERVAL_S: Final = 0.1
TRANSACTION_TIMEOUT_MS: Final = 10_000

if __name__ == "__main__":
    run(
        arguments("Quix Streams, one payment at a time, exactly once."),
        processing_guarantee="exactly-once",
        commit_interval=COMMIT_INTERVAL_S,
        consumer_poll_timeout=COMMIT_INTERVAL_S,
        producer_extra_config={"transaction.timeout.ms": TRANSACTION_TIMEOUT_MS},
    )
