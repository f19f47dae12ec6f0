"""`make services`: the Kafka and the Redis of the tests, for whoever has none, until Ctrl-C or SIGTERM.

What they held is deleted then. Exit status: 0, or 1 where what they need is not installed.
"""

from __future__ import annotations

import signal
import sys
import time

from tests.services import kafka, redis
from tests.services.process import ServiceError

WAKE_S = 0.2  # a signal just before a longer wait would not end it


def main() -> int:
    """Start both, say where they listen, and wait."""
    for lacking in (kafka.missing(), redis.missing()):
        if lacking:
            sys.stderr.write(f"error: {lacking}\n")
            return 1
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(0))  # leave by way of the context managers
    sys.stderr.write("Starting; the first time Maven fetches Kafka, which takes a while.\n")
    try:
        with kafka.KafkaBroker(java_options=kafka.STEADY) as broker, redis.RedisServer() as server:
            print(f"export FRAUDLINE_KAFKA__BROKERS={broker.bootstrap}")
            print(f"export FRAUDLINE_STORE__URL={server.url}")
            print("# for another terminal; Ctrl-C here ends both and deletes what was in them", flush=True)
            while True:
                time.sleep(WAKE_S)
    except ServiceError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
