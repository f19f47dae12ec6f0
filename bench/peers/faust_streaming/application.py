"""What the variants have in common: the application and its worker, tuned as Faust's documentation advises.

From its "Configuration Reference" and user guide:

- `FAUST_LOOP=uvloop` (the extra `uvloop`). Its stream loop is compiled (Cython) in the wheel.
- `producer_linger`: its 0 makes nearly every decision a request of its own; 5 ms is what librdkafka has by default.
- `stream_buffer_maxsize` (4,096): higher "gives better throughput", but not for agents that send messages. Kept.
- `broker_commit_interval` (2.8 s) and `broker_commit_every` (10,000) are kept: commits are in the background.
- no web server, tables, leader election or topics to declare: none is used.
- the driver is aiokafka, its default. The newer `confluent://` was tried once; no payment arrived, why is not known.

Values are bytes ("Keys and values can be bytes for manual deserialization") and JSON by orjson: its JSON codec ends the
agent where a value is none. Redis is asked by a blocking client: an agent decides its payments in order, and the
round trip is shorter than a turn of the event loop. The application's name is the consumer group's.
"""

from __future__ import annotations

import argparse
import logging
import os
from typing import Any, Final

os.environ.setdefault("FAUST_LOOP", "uvloop")  # read when faust is imported, as `--loop` of its command line is

import faust

from bench.peers.arguments import SESSION_TIMEOUT_MS

LINGER_S: Final = 0.005


def application(args: argparse.Namespace, **more: Any) -> faust.App:
    """The application of these arguments; `more` are settings of a variant."""
    return faust.App(
        args.group,
        broker=f"kafka://{args.brokers}",
        datadir=str(args.state),
        consumer_auto_offset_reset="earliest",
        broker_session_timeout=SESSION_TIMEOUT_MS / 1_000,
        broker_heartbeat_interval=SESSION_TIMEOUT_MS / 3_000,
        producer_linger=LINGER_S,
        topic_allow_declare=False,
        topic_disable_leader=True,
        web_enabled=False,
        **more,
    )


def bytes_topic(app: faust.App, name: str) -> Any:
    """A topic whose keys and values are bytes."""
    return app.topic(name, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")


def work(app: faust.App) -> None:
    """Run the application's agents until SIGTERM."""
    for name in ("aiokafka", "faust", "mode"):  # `loglevel` is the handler's: without this each send made a record
        logging.getLogger(name).setLevel(logging.WARNING)
    faust.Worker(app, loglevel="WARN", quiet=True).execute_from_commandline()
