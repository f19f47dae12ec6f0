"""PyFlink with Flink's Kafka connector."""
