"""The vectorised function with Fraudline's batch function in it."""

from __future__ import annotations

import argparse
from itertools import chain, repeat

import pandas as pd
from pyflink.table import FunctionContext, ScalarFunction
from pyflink.table.expressions import col
from pyflink.table.udf import udf

from bench.peers.arguments import arguments
from bench.peers.flink.job import DECIDED, Job, decided_row
from bench.peers.ours import Ours, Record


class DecideOurs(ScalarFunction):
    """Rows of `DECIDED` for a batch of records: the answers, and empty rows to make up their number."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args

    def open(self, function_context: FunctionContext) -> None:  # noqa: ARG002
        """Load the bundle where the function runs, once."""
        self._ours = Ours(self._args)

    def eval(self, payloads: pd.Series, partitions: pd.Series, offsets: pd.Series, appended: pd.Series) -> pd.DataFrame:
        """Decide a batch."""
        times_ms = appended.astype("datetime64[ms]").astype("int64")
        topic = self._args.payments_topic
        records = [
            Record(topic, partition, offset, None, payload, at_ms)
            for payload, partition, offset, at_ms in zip(payloads, partitions, offsets, times_ms, strict=True)
        ]
        answers = (
            (each.key.decode(), each.decision.decode(), None if each.alert is None else each.alert.decode())
            for each in self._ours.decide(records)
        )
        rows = zip(range(len(records)), chain(answers, repeat((None, None, None))), strict=False)
        return pd.DataFrame([row for _, row in rows], columns=list(DECIDED))

    def close(self) -> None:
        """Release the connection."""
        self._ours.close()


def main() -> None:
    args = arguments("PyFlink, in batches of Fraudline's.")
    job = Job(args)
    decide = udf(DecideOurs(args), result_type=decided_row(), func_type="pandas")
    columns = map(col, ("payload", "source_partition", "source_offset", "appended"))
    job.run(job.payments().map(decide(*columns)))


if __name__ == "__main__":
    main()
