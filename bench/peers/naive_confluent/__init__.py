"""The loop by hand, done well, on confluent-kafka."""
