"""What the variants have in common: the application, tuned as its documentation advises.

From the pages "Configuration" and "Checkpointing" of Quix Streams' documentation:

- at-least-once is the default and the faster of the two guarantees; `exactly_once.py` has the other.
- a checkpoint (`commit_interval`) flushes the producer and commits synchronously: a short one costs throughput, a long
  one repeats more after a crash. 5 s, the default, is kept where nothing waits for a checkpoint.
- RocksDB and `use_changelog_topics` serve state in the application; that of these apps is in Redis, so none is kept.
- `loglevel` WARNING: nothing is logged for a payment at INFO either, but checkpoints and rebalances would be.

Its own defaults already are what librdkafka's documents advise: an idempotent producer, `fetch.queue.backoff.ms` 100,
a linger of 5 ms. Its JSON (de)serializers are orjson.
"""

from __future__ import annotations

import argparse
import logging
from typing import Any

from quixstreams import Application
from quixstreams.models import SerializationError

from bench.peers.arguments import SESSION_TIMEOUT_MS


def application(args: argparse.Namespace, **more: Any) -> Application:
    """The application of these arguments; `more` are settings of a variant."""
    return Application(
        broker_address=args.brokers,
        consumer_group=args.group,
        auto_offset_reset="earliest",
        auto_create_topics=False,
        state_dir=args.state,
        loglevel="WARNING",
        consumer_extra_config={"session.timeout.ms": SESSION_TIMEOUT_MS},
        on_consumer_error=_passed_over,
        on_processing_error=_passed_over,
        **more,
    )


def _passed_over(error: Exception, _row: Any, _logger: logging.Logger) -> bool:
    """Whether the application goes on: yes where a record is no valid payment, no where Kafka or Redis failed."""
    return isinstance(error, (SerializationError, ValueError, KeyError, TypeError))
