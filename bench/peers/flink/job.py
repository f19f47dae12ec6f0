"""What all variants share: the settings of a Flink job, its tables on Kafka, and how it runs and ends.

It is Flink's local environment: a cluster in one JVM, beside it a process for Python functions. What is set differs
from Flink's defaults for these reasons (pages of the documentation of Flink 2.2):

- Functions run in a process beside the JVM ("Execution Mode"). The thread mode was tried: one payment at a time it
  decided 639 payments a CPU-second where the process mode decided 817; vectorised functions can't run in it at all.
- A bundle goes to Python after 10 ms ("Python > Configuration", `python.fn-execution.bundle.time`); by default it
  would wait for a thousand payments or a second. Under load it is full before; sizes stay what they are.
- A checkpoint a second ("Checkpointing"), to which a killed job goes back. The sink promises at least once, as is its
  default ("Table API Connectors > Kafka", consistency guarantees): with transactions a decision would be seen no sooner
  than the next checkpoint.
- Tables as sinks for the DataStream API too: in Python its own sink knows no key but the whole record.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from typing import Final

from pyflink.common import Configuration, JobClient
from pyflink.datastream import StreamExecutionEnvironment
from pyflink.java_gateway import get_gateway
from pyflink.table import DataTypes, StreamTableEnvironment, Table

from bench.peers.catalog import ROOT
from bench.peers.flink import connector
from bench.peers.flink.snapshots import newest_snapshot

LOOK_EVERY_S: Final = 1.0
DECIDED: Final = ("card_id", "decision", "alert")

_SETTINGS: Final = {
    # One slot: with the JVM's threads and the Python process it keeps two cores busy, and a batch is whole.
    "parallelism.default": "1",
    "python.execution-mode": "process",
    # Flink's default is to wait up to a second for a bundle of 1,000 payments to fill: this is what latency needs.
    "python.fn-execution.bundle.time": "10",
    # Objects are not copied between operators that run in one thread; nothing here keeps or changes what it was given.
    "pipeline.object-reuse": "true",
    # The broker's timestamps are UTC; as columns they are told in the session's zone.
    "table.local-time-zone": "UTC",
    # Records do not wait in a network buffer either, should there be one.
    "execution.buffer-timeout.interval": "5 ms",
    "execution.checkpointing.interval": "1 s",
    "execution.checkpointing.num-retained": "1",
    "execution.checkpointing.externalized-checkpoint-retention": "RETAIN_ON_CANCELLATION",
}


class Job:
    """A Flink job that reads payments and publishes decisions and alerts.

    Args:
        args: those of `bench.peers.arguments`.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self._stopping = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: self._stopping.set())
        os.environ["PYTHONPATH"] = str(ROOT)  # what the JVM starts is to find `bench`
        self.stream = StreamExecutionEnvironment.get_execution_environment(self._configuration())
        self.tables = StreamTableEnvironment.create(self.stream)
        self._create("decisions", args.decisions_topic)
        self._create("alerts", args.alerts_topic)

    def payments(self) -> Table:
        """The payments: `payload` as bytes, and the record's `source_partition`, `source_offset` and `appended`."""
        self.tables.execute_sql(f"""
            CREATE TABLE payments (
              payload BYTES,
              source_partition INT METADATA FROM 'partition' VIRTUAL,
              source_offset BIGINT METADATA FROM 'offset' VIRTUAL,
              appended TIMESTAMP(3) METADATA FROM 'timestamp' VIRTUAL
            ) WITH (
              'connector' = 'kafka', 'topic' = '{self._args.payments_topic}', 'value.format' = 'raw',
              'properties.bootstrap.servers' = '{self._args.brokers}', 'properties.group.id' = '{self._args.group}',
              'scan.startup.mode' = 'group-offsets', 'properties.auto.offset.reset' = 'earliest'
            )""")
        return self.tables.from_path("payments")

    def run(self, decided: Table) -> None:
        """Publish `decided`, whose columns are `DECIDED` (alert NULL where none is due), until SIGTERM."""
        self.tables.create_temporary_view("decided", decided.alias(*DECIDED))
        both = self.tables.create_statement_set()
        both.add_insert_sql("INSERT INTO decisions SELECT card_id, decision FROM decided WHERE card_id IS NOT NULL")
        both.add_insert_sql("INSERT INTO alerts SELECT card_id, alert FROM decided WHERE alert IS NOT NULL")
        both.attach_as_datastream()
        running = self.stream.execute_async("decide payments")
        result = running.get_job_execution_result()
        while not self._stopping.wait(LOOK_EVERY_S):
            if result.done():
                result.result()  # a job without an end has failed; this says why
                return
        self._stop(running)

    def _stop(self, running: JobClient) -> None:
        """End with a savepoint: what was read is decided, published and committed."""
        # PyFlink's own `stop_with_savepoint` calls a method that Flink 2 no longer has.
        formats = get_gateway().jvm.org.apache.flink.core.execution.SavepointFormatType
        running._j_job_client.stopWithSavepoint(False, self._args.state.resolve().as_uri(), formats.CANONICAL).get()

    def _configuration(self) -> Configuration:
        state = self._args.state.resolve()
        settings = _SETTINGS | {
            "pipeline.jars": connector.jar().as_uri(),
            "python.executable": sys.executable,
            "python.client.executable": sys.executable,
            "execution.checkpointing.dir": state.as_uri(),
        }
        if snapshot := newest_snapshot(state):
            settings["execution.state-recovery.path"] = snapshot.as_uri()
        configuration = Configuration()
        for name, value in settings.items():
            configuration.set_string(name, value)
        return configuration

    def _create(self, name: str, topic: str) -> None:
        """A table of keyed records: the connector of the DataStream API can't be told a key from Python."""
        self.tables.execute_sql(f"""
            CREATE TABLE {name} (card_id STRING, record STRING) WITH (
              'connector' = 'kafka', 'topic' = '{topic}', 'properties.bootstrap.servers' = '{self._args.brokers}',
              'key.format' = 'raw', 'key.fields' = 'card_id',
              'value.format' = 'raw', 'value.fields-include' = 'EXCEPT_KEY',
              'properties.linger.ms' = '5', 'sink.delivery-guarantee' = 'at-least-once'
            )""")


def decided_row() -> DataTypes:
    """The type of `DECIDED`."""
    return DataTypes.ROW([DataTypes.FIELD(name, DataTypes.STRING()) for name in DECIDED])
