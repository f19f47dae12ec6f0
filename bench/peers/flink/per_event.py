"""One payment at a time: the DataStream API, a function that opens its connection and model once, tables as sinks.

There is no `key_by`: the state is in Redis, and a card's payments come in order already, as they share a partition.
"""

from __future__ import annotations

from pyflink.common import SimpleStringSchema, Types, WatermarkStrategy
from pyflink.datastream.connectors.kafka import KafkaOffsetResetStrategy, KafkaOffsetsInitializer, KafkaSource

from bench.peers.arguments import arguments
from bench.peers.flink.counting import DecideOne
from bench.peers.flink.job import DECIDED, Job


def main() -> None:
    args = arguments("PyFlink, one payment at a time.")
    job = Job(args)
    source = (
        KafkaSource.builder()
        .set_bootstrap_servers(args.brokers)
        .set_topics(args.payments_topic)
        .set_group_id(args.group)
        .set_starting_offsets(KafkaOffsetsInitializer.committed_offsets(KafkaOffsetResetStrategy.EARLIEST))
        .set_value_only_deserializer(SimpleStringSchema())
        .build()
    )
    payments = job.stream.from_source(source, WatermarkStrategy.no_watermarks(), "payments")
    rows = Types.ROW_NAMED(list(DECIDED), [Types.STRING()] * len(DECIDED))
    decided = payments.flat_map(DecideOne(args.redis, str(args.model)), output_type=rows)
    job.run(job.tables.from_data_stream(decided))


if __name__ == "__main__":
    main()
