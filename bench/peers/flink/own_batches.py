"""Batches as Flink has them in Python: the Table API with a vectorised function, which is given pandas columns."""

from __future__ import annotations

from pyflink.table.expressions import col
from pyflink.table.udf import udf

from bench.peers.arguments import arguments
from bench.peers.flink.counting import DecideMany
from bench.peers.flink.job import Job, decided_row


def main() -> None:
    args = arguments("PyFlink, in batches.")
    job = Job(args)
    decide = udf(DecideMany(args.redis, str(args.model)), result_type=decided_row(), func_type="pandas")
    job.run(job.payments().map(decide(col("payload"))))


if __name__ == "__main__":
    main()
