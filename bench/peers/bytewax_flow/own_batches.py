"""Bytewax in batches: `flat_map_batch`, by which its page "Performance" advises to call what takes batches.

A batch is what the source read of one partition at once: up to 1,000 when there is that much, few when there is little
to do. (`collect` gathers values of one key: payments of all cards would need one key first.) One call to Redis and
one predict a batch. See `flow.py` for the settings and their pages.
"""

from __future__ import annotations

from contextlib import closing

from bench.peers.arguments import arguments
from bench.peers.bytewax_flow.flow import run_batches
from bench.peers.counters import Counters
from bench.peers.payloads import by_counters


def main() -> None:
    args = arguments("Bytewax, in batches.")
    with closing(Counters(args.redis, args.model)) as counters:
        run_batches(args, lambda messages: by_counters(counters, (each.value for each in messages)))


if __name__ == "__main__":
    main()
