"""Kafka, and nothing else: the only package that imports `confluent_kafka`."""
