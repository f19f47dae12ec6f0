"""Notes when each payment's first committed decision is received; a process of its own, like `bench.reader`.

It joins on `event_id`, which every peer's decisions have, while few frameworks tell a payment's partition and offset.
It says `ready` on standard error when it reads, and prints one JSON line at the end.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from bench.loadgen import Record, read_payments
from bench.reader import open_consumer, read

ARRIVED: Final = np.dtype([("payment", "<i8"), ("received_ns", "<i8")])
"""One row for each decision as received; `payment` counts from 0 in the order sent, -1 for a decision of no payment."""


class Named(msgspec.Struct, frozen=True, gc=False):
    """As much of a payment or a decision as the join needs."""

    event_id: str


_event_id = msgspec.json.Decoder(Named).decode


def arrived(sent: list[Record], rows: list[tuple[str, int]]) -> npt.NDArray[np.void]:
    """Rows of (event id, received_ns) as `ARRIVED`."""
    places = {_event_id(value).event_id: at for at, (_, value) in enumerate(sent)}
    return np.array([(places.get(event_id, -1), at_ns) for event_id, at_ns in rows], ARRIVED)


def main() -> None:
    parser = argparse.ArgumentParser(description="Note when each committed decision is received.")
    parser.add_argument("--brokers", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--out", required=True, type=Path, help="where the rows go (.npy)")
    parser.add_argument("--payments", required=True, type=Path, help="payments.jsonl")
    parser.add_argument("--skip", type=int, required=True, help="payments before the first that is sent")
    parser.add_argument("--expect", type=int, required=True, help="payments sent, and decisions to wait for")
    parser.add_argument("--idle-exit-s", type=float, default=60.0)
    args = parser.parse_args()
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    sent = read_payments(args.payments, args.expect, skip=args.skip)
    with closing(open_consumer(args.brokers, args.topic, from_end=True)) as consumer:
        print("ready", file=sys.stderr, flush=True)
        rows = read(
            consumer,
            expect=args.expect,
            idle_exit_s=args.idle_exit_s,
            stopping=stopping,
            row=lambda value, now_ns: (_event_id(value).event_id, now_ns),
        )
    np.save(args.out, arrived(sent, rows))
    print(json.dumps({"received": len(rows)}))


if __name__ == "__main__":
    main()
